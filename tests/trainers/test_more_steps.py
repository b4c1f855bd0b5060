"""More of a finished run of GRPO and SFT: the bits of a longer run, or a refusal that leaves everything as it was."""

import pytest
import yaml

from eval.errors import UserError
from eval.storage import read_json, read_jsonl
from tests.tiny import random_checkpoint
from tests.trainers import test_grpo as grpo
from tests.trainers import test_sft as sft


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return random_checkpoint(tmp_path_factory.mktemp("model"))


def rows(folder):
    """The rows of metrics.jsonl without times, and without the epoch, which counts shares of the run's own length."""
    left_out = ("seconds", "step_time", "epoch")
    return [{name: row[name] for name in row if name not in left_out} for row in read_jsonl(folder / "metrics.jsonl")]


CONSTANT = {"lr_scheduler_type": "constant"}


@pytest.mark.slow
def test_a_longer_run_of_grpo_ends_with_the_same_bits(model, tmp_path, capsys):
    options = CONSTANT | {"model": model, "train_size": 3, "eval_every": 2}
    grpo.train(tmp_path / "whole", **options, max_steps=4)
    for steps in (1, 3, 4):
        results = grpo.train(tmp_path / "grown", **options, max_steps=steps)
        assert results["steps"] == steps and results["ended_by"] == "steps"
    assert "complete after 3 steps; it goes on" in capsys.readouterr().out
    assert grpo.same_bits(grpo.weights(tmp_path / "grown"), grpo.weights(tmp_path / "whole"))
    assert rows(tmp_path / "grown") == rows(tmp_path / "whole")
    evaluations = [read_jsonl(tmp_path / name / "evaluations.jsonl") for name in ("grown", "whole")]
    assert evaluations[0] == evaluations[1], "those at the ends of the shorter runs are gone"
    assert yaml.safe_load((tmp_path / "grown" / "config.yaml").read_text())["max_steps"] == 4


@pytest.mark.slow
def test_a_run_that_ended_amid_its_completions_goes_on_from_before_them(model, tmp_path):
    options = CONSTANT | {"model": model, "train_size": 4, "num_iterations": 2, "save_steps": 2}
    grpo.train(tmp_path / "whole", **options, max_steps=4)
    for steps in (3, 4):
        grpo.train(tmp_path / "grown", **options, max_steps=steps)
    assert grpo.same_bits(grpo.weights(tmp_path / "grown"), grpo.weights(tmp_path / "whole"))
    assert rows(tmp_path / "grown") == rows(tmp_path / "whole")


@pytest.mark.slow
def test_what_would_change_the_past_of_grpo_is_refused_and_nothing_is_written(model, tmp_path):
    grpo.train(tmp_path / "run", model=model, **CONSTANT, max_steps=2)
    grpo.train(tmp_path / "linear", model=model, lr_scheduler_type="linear", max_steps=1, train_size=2)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}

    def refused(folder, **options):
        with pytest.raises(UserError) as error:
            grpo.train(tmp_path / folder, model=model, **options)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "max_steps was 2, now 1, but a run is made longer" in refused("run", **CONSTANT, max_steps=1)
    assert "give train_size: 4 to go on with the same" in refused("run", **CONSTANT, max_steps=4)
    assert "seed was 0, now 1" in refused("run", **CONSTANT, max_steps=4, train_size=4, seed=1)
    said = refused("linear", lr_scheduler_type="linear", max_steps=2, train_size=2)
    assert "lr_scheduler_type linear goes by the length" in said and f"optimizer_from: {tmp_path / 'linear'}" in said
    assert {file: file.read_bytes() for file in before} == before
    # The remedy that it names.
    assert grpo.train(tmp_path / "run", model=model, **CONSTANT, max_steps=3, train_size=4)["steps"] == 3


@pytest.mark.slow
def test_more_passes_of_sft_end_with_the_same_bits(model, tmp_path):
    # With 4 answers a step the last one of a pass is not full, so that a longer run has others there.
    sft.train(tmp_path / "whole", model=model, num_train_epochs=2)
    kept = read_json(tmp_path / "whole" / "results.json")["kept"]
    assert kept % sft.OPTIONS["per_device_train_batch_size"], "choose options with which the last step is not full"
    for epochs in (1, 2):
        sft.train(tmp_path / "grown", model=model, num_train_epochs=epochs)
    assert sft.same_bits(sft.weights(tmp_path / "grown"), sft.weights(tmp_path / "whole"))
    assert rows(tmp_path / "grown") == rows(tmp_path / "whole")
    config = (tmp_path / "grown" / "config.yaml").read_bytes()
    for options, said in (({"num_train_epochs": 1}, "num_train_epochs was 2"), ({"problems": 12}, "problems was 10")):
        with pytest.raises(UserError, match=said):
            sft.train(tmp_path / "grown", model=model, **options)
    assert (tmp_path / "grown" / "config.yaml").read_bytes() == config
