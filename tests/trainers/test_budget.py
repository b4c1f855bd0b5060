"""Budgets: so many steps as hold the completions, exactly or at most."""

from pathlib import Path

import pytest
import yaml

from eval.errors import UserError
from tests.recipe_files import ROOT
from trainers.budget import es_at_budget, grpo_at_budget, sft_at_budget


TINY = ROOT / "recipes" / "tiny"
SHARED = {"model": "anywhere", "task": "yes_no", "seed": 3, "data_seed": 4, "output_dir": "runs/here"}


def es(completions, **options):
    return es_at_budget(str(TINY / "es.yaml"), completions, 40, **SHARED | options)


def grpo(completions, **options):
    return grpo_at_budget(str(TINY / "grpo.yaml"), completions, 40, **SHARED | options)


def sft(completions, **options):
    return sft_at_budget(str(TINY / "sft.yaml"), completions, 40, **SHARED | options)


def test_the_steps_of_each_method_hold_the_completions():
    config = es(6144)
    assert (config.steps, config.completions_per_step) == (3, 2048)
    _, config = grpo(6144)
    assert (config.max_steps, config.per_device_train_batch_size) == (12, 512)
    arguments, _ = sft(6144)
    assert (arguments.problems, arguments.samples) == (768, 8)


def test_a_step_of_grpo_may_make_or_share_generations():
    _, config = grpo(2048, gradient_accumulation_steps=2, steps_per_generation=2)
    assert config.max_steps == 2, "1,024 completions for each step"
    _, config = grpo(2048, steps_per_generation=4)
    assert config.max_steps == 4, "2,048 completions for four steps"
    _, config = grpo(2048, num_iterations=2, save_steps=2)
    assert config.max_steps == 8, "each of 512 completions is used twice"


def test_shared_options_go_before_those_of_the_file():
    file = yaml.safe_load(Path(TINY / "es.yaml").read_text())
    config = es(2048, alpha=0.5)
    assert config.alpha == 0.5 != file["alpha"] and config.sigma == file["sigma"]
    for found in (config, grpo(512)[0], sft(512)[0]):
        assert (found.model, found.task) == ("anywhere", "yes_no")
    assert (config.max_new_tokens, grpo(512)[0].task, sft(512)[0].max_completion_length) == (40, "yes_no", 40)
    assert (grpo(512)[1].max_completion_length, grpo(512)[1].seed, sft(512)[1].seed) == (40, 3, 3)


@pytest.mark.parametrize(("method", "per_step"), [(es, 2048), (grpo, 512), (sft, 8)])
def test_completions_are_whole_steps_unless_they_are_an_upper_bound(method, per_step):
    with pytest.raises(UserError, match=f"of {per_step + 1} completions is not a whole number of steps of {per_step}"):
        method(per_step + 1)
    with pytest.raises(UserError, match=f"of {per_step - 1} completions is not a whole number"):
        method(per_step - 1, stop_at_tokens=5)
    for limit in ({"stop_at_tokens": 5}, {"stop_at_seconds": 0.5}):
        found = method(3 * per_step - 1, **limit)
        first, last = (found, found) if method is es else found
        assert (first.problems if method is sft else last.max_steps if method is grpo else last.steps) == 2
        stops = {"stop_at_tokens": first.stop_at_tokens, "stop_at_seconds": first.stop_at_seconds}
        assert stops == {"stop_at_tokens": 0, "stop_at_seconds": 0} | limit
