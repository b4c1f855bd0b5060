"""`posttrain-lab verify` finds an unchanged run unchanged, and every file that somebody has changed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from eval.digests import run_digests
from eval.errors import UserError
from eval.results_file import write_results
from eval.storage import read_json, read_jsonl, write_text
from tests.recipe_files import ROOT
from tests.tiny import random_checkpoint
from tests.trainers.es.test_train import config
from trainers.es.train import train_es
from trainers.es.verify import sampled_steps, several
from trainers.verify import main, verify


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return random_checkpoint(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    train_es(config(base, run))
    return run


@pytest.fixture
def copied(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def wrong(run: Path, steps: int = 2) -> list[str]:
    return [f"{what}: {reason}" for what, reason in verify(run, steps) if reason is not None]


def with_own_digests(run: Path) -> Path:
    """The run as somebody leaves it who changes a file and its digest in results.json."""
    results = read_json(run / "results.json")
    start = yaml.safe_load((run / "config.yaml").read_text())["model"]
    digests = run_digests(run, {"start": start, "model": run / "model"}, {})
    write_results(run / "results.json", "training", results | {"digests": digests})
    return run


def change_row(path: Path, number: int, **values) -> None:
    rows = read_jsonl(path)
    rows[number] |= values
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def test_sampled_steps():
    assert sampled_steps(30, 3) == [10, 20, 30] and sampled_steps(6, 2) == [3, 6]
    assert sampled_steps(3, 10) == [1, 2, 3] and sampled_steps(7, 1) == [7]
    assert several([]) is None and several(list("abcde")) == "a, b, c and 2 more"


def test_an_unchanged_run_is_verified(whole, capsys):
    before = sorted((path, path.read_bytes()) for path in whole.rglob("*") if path.is_file())
    with pytest.raises(SystemExit) as finished:
        main([str(whole), "--steps", "2"])
    assert finished.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"{whole}: verified"
    checks = [line for line in lines if line.startswith("ok     ")]
    assert [line.split()[2] for line in checks if " made again has its rewards: " in line] == ["3", "6"]
    assert any("the other 4 steps" in line for line in checks)
    assert any("after step 4 are those of its checkpoint" in line for line in checks)
    assert any("after step 6 are those of model/, bit for bit" in line for line in checks)
    assert sorted((path, path.read_bytes()) for path in whole.rglob("*") if path.is_file()) == before


@pytest.mark.parametrize(
    "options",
    [
        {"noise": "low_rank", "rank": 2},
        {"temperature": 1.0, "samples": 2, "antithetic": True, "anchor": 1.0, "alpha_schedule": "cosine"},
        {"precision": "released"},
        {"algorithm": "snes"},
        {"algorithm": "cmaes", "space": "singular"},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
@pytest.mark.slow
def test_runs_with_other_options_are_verified_too(base, tmp_path, options):
    run = tmp_path / "run"
    train_es(config(base, run, **options))
    assert wrong(run, steps=3) == []
    log = "fitness.jsonl" if "algorithm" in options else "seeds.jsonl"
    first = read_jsonl(run / log)[0]
    key = "fitness" if "algorithm" in options else "coefficients"
    change_row(run / log, 0, **{key: [0.1 * index - value for index, value in enumerate(first[key])]})
    found = wrong(with_own_digests(run), steps=3)
    assert any("the weights after step 6 are those of model/" in line for line in found)


def test_a_changed_model_is_found(copied):
    file = copied / "model" / "model.safetensors"
    weights = load_file(file)
    name = sorted(weights)[0]
    weights[name].view(-1)[0] = torch.nextafter(weights[name].view(-1)[0], torch.tensor(9.0))
    save_file(weights, file, metadata={"format": "pt"})
    found = wrong(copied)
    assert [line.split(":")[0] for line in found] == [
        f"the files of {copied / 'model'} are those that were measured",
        f"the weights after step 6 are those of model/, bit for bit ({len(weights)} tensors)",
    ]
    assert found[1].endswith(f": {name} differs")
    assert len(wrong(with_own_digests(copied))) == 1


@pytest.mark.parametrize("step", [2, 3], ids=["replayed", "made again"])
def test_a_changed_seed_log_is_found(copied, step):
    row = read_jsonl(copied / "seeds.jsonl")[step - 1]
    coefficients = [1.001 * row["coefficients"][0], *row["coefficients"][1:]]
    change_row(copied / "seeds.jsonl", step - 1, coefficients=coefficients)
    found = wrong(copied)
    assert found[0].startswith("seeds.jsonl is the file that was measured: SHA-256 is ")
    found = wrong(with_own_digests(copied))
    named = "update_norm of step 2" if step == 2 else "coefficients of seeds.jsonl"
    assert any(named in line for line in found)


def test_seeds_of_another_run_are_found(copied):
    change_row(copied / "seeds.jsonl", 0, seeds=[1, 2, 3, 4])
    assert any("seeds of step 1" in line for line in wrong(with_own_digests(copied)))


@pytest.mark.parametrize(
    ("number", "values", "named"),
    [
        (2, {"reward": 0.99}, "reward of metrics.jsonl"),
        (5, {"tokens": 1}, "tokens of metrics.jsonl"),
        (1, {"distance_from_base": 0.5}, "distance_from_base of step 2"),
        (1, {"alpha": 0.5}, "alpha of step 2"),
    ],
)
def test_changed_metrics_are_found(copied, number, values, named):
    change_row(copied / "metrics.jsonl", number, **values)
    found = wrong(copied)
    assert found[0].startswith("metrics.jsonl is the file that was measured: SHA-256")
    assert any(named in line for line in wrong(with_own_digests(copied)))


def test_a_missing_step_and_missing_files_are_found(copied):
    rows = (copied / "seeds.jsonl").read_text().splitlines(keepends=True)
    write_text(copied / "seeds.jsonl", "".join(rows[:2] + rows[3:]))
    (copied / "evaluations.jsonl").unlink()
    found = wrong(copied)
    assert "evaluations.jsonl is the file that was measured: it is not there" in found
    assert found[-1].startswith("every step is in the logs: steps are missing")


def test_changed_options_and_another_start_are_found(copied, base):
    text = (copied / "config.yaml").read_text()
    write_text(copied / "config.yaml", text.replace("sigma: 0.02", "sigma: 0.03"))
    found = wrong(copied)
    assert found[0].startswith("config.yaml is the file that was measured")
    assert any("step 3 made again" in line for line in found)


def test_what_is_no_training_is_one_line(tmp_path, copied):
    with pytest.raises(UserError, match="has no results.json: it is no finished training"):
        list(verify(tmp_path / "absent", 1))
    write_results(tmp_path / "results.json", "comparison", {})
    with pytest.raises(UserError, match=f"is a study .comparison.* such as {copied}"):
        list(verify(tmp_path, 1))


@pytest.mark.slow
def test_the_command_ends_with_the_status_of_the_checks(copied):
    command = [sys.executable, "-P", "-m", "cli", "verify", str(copied), "--steps", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    change_row(copied / "metrics.jsonl", 0, reward=1.0)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "WRONG  metrics.jsonl" in done.stdout and "Traceback" not in done.stderr
    absent = subprocess.run([*command[:-3], "absent"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert absent.returncode == 2 and absent.stderr.startswith("error: absent has no results.json")
