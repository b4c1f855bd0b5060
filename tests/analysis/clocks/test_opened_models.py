"""The report on models that were really trained, if only for a moment."""

import json

import pytest

from analysis.clocks.opened_models import chosen_steps, has_field
from analysis.clocks.runs import read_runs
from analysis.clocks.score_field import SIGMAS
from analysis.clocks.study import measure_sweep
from analysis.report import build
from eval.storage import read_json, write_json
from trainers.rules import RulesConfig, train_rules


pytestmark = pytest.mark.slow

TINY = {
    "width": 16,
    "depth": 1,
    "heads": 2,
    "batch_size": 16,
    "steps": 12,
    "evaluate_from": 4,
    "evaluations_per_decade": 4,
    "evaluate_samples": 16,
    "evaluate_samples_min": 16,
    "sampler_steps": 3,
    "train_size": 16,
    "held_out_size": 16,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    for model, ema in (("mlp", 0.0), ("dit", 0.9), ("gpt2", 0.0), ("masked_dit", 0.0)):
        parity = {"rule": "parity", "length": 12, "group": 3, "model": model, "ema_decay": ema}
        train_rules(RulesConfig(output_dir=str(folder / model), **parity, **TINY), progress=False)
    train_rules(
        RulesConfig(output_dir=str(folder / "relation"), rule="spatial_relation", side=3, model="gpt2", **TINY),
        progress=False,
    )
    return folder


@pytest.fixture(scope="module")
def results(trained, tmp_path_factory):
    output = tmp_path_factory.mktemp("out")
    measure_sweep(trained, output, models=5, replicates=5)
    return build(output), read_json(output / "results.json")


def test_what_needs_checkpoints_is_measured_for_the_models_that_have_it(results):
    _, found = results
    assert set(found["score_field"]) == {"mlp", "dit"}
    assert set(found["position_loss"]) == {"gpt2", "relation"}
    assert set(found["mechanism"]) == {"mlp", "dit", "gpt2", "masked_dit", "relation"}
    assert found["mechanism"]["mlp"]["attention"][0] is None
    assert found["mechanism"]["relation"]["relation"]["none"].keys() == {"objects", "relation", "both"}
    assert found["mechanism"]["gpt2"]["probes"][0].keys() == {"prefix_2"}
    assert found["mechanism"]["dit"]["probes"][0].keys() == {"others"}
    json.dumps(found, allow_nan=False)


def test_a_score_field_has_every_step_sigma_and_class(results, trained):
    _, found = results
    field = found["score_field"]["dit"]
    run = next(run for run in read_runs(trained) if run.name == "dit")
    assert run.ema and has_field(run) and field["steps"] == chosen_steps(run) and field["steps"][-1] == 12
    for part in (field["score_clock"], field["denoising_loss"], field["capture"], field["basins"]["flow"]):
        assert len(part) == len(field["steps"])
    assert all(len(losses) == len(SIGMAS) for losses in field["denoising_loss"][0].values())
    # Hardly trained, held-out basins are those of signs alone, and narrower than the rule's.
    radii = [field["basins"]["one_step"][0], field["no_rule"], field["rule_optimum"]]
    untrained, plain, best = (entry["held_out"]["radius"] for entry in radii)
    assert untrained == pytest.approx(plain, rel=0.1) and best > 1.1 * plain


def test_positions_start_at_chance(results):
    _, found = results
    part = found["position_loss"]["gpt2"]
    assert part["oracle"] == pytest.approx([0.693147, 0.693147, 0.0] * 4, abs=1e-5)
    assert all(0.4 < loss < 1.2 for loss in part["held_out"][0])


def test_the_page_shows_what_models_do_inside(results):
    page, _ = results
    html = page.read_text()
    for title in (
        "Basins of attraction",
        "Between the two optima",
        "Where wrong strings go",
        "Attention to the group",
        "What a head or an MLP does",
        "Relations between two objects",
        "loss by position",
    ):
        assert title in html


def test_what_is_measured_already_is_not_measured_again(results, trained):
    page, found = results
    output = page.parent.parent
    found["score_field"]["mlp"]["vertices"] = 7
    write_json(output / "results.json", found)
    measure_sweep(trained, output, models=5, replicates=5)
    assert read_json(output / "results.json")["score_field"]["mlp"]["vertices"] == 7


def test_the_score_clock_of_every_checkpoint_agrees_with_the_field(results, trained):
    page, found = results
    assert set(found["score_memory"]) == {"mlp", "dit"}
    runs = {run.name: run for run in read_runs(trained)}
    for name, memory in found["score_memory"].items():
        field = found["score_field"][name]
        assert memory["steps"] == runs[name].checkpoints and set(field["steps"]) <= set(memory["steps"])
        at = [memory["steps"].index(step) for step in field["steps"]]
        assert [memory["recovery_gap"][i] for i in at] == field["recovery_gap"]
        sigma = field["sigmas"].index(memory["sigma"])
        # A batch of one noise level may round differently.
        of_field = [clock["index"][sigma] for clock in field["score_clock"]]
        assert [memory["index"][i] for i in at] == pytest.approx(of_field, abs=1e-6)
        assert memory["turn"] == memory["steps"][memory["index"].index(max(memory["index"]))]
    assert "Which clock struck first" in page.read_text()
