"""The recipes for rules: what the clocks sweep holds, and that each script runs as its header says."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from eval.storage import read_json
from tests.recipe_files import ROOT, recipe_yamls
from trainers.arguments import parse
from trainers.sweep import SweepConfig


def sweep(name: str):
    (config,) = parse(SweepConfig, arguments=["--config", f"recipes/rules/{name}.yaml"])
    return config.configs()


@pytest.fixture(autouse=True)
def from_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_the_clocks_sweep_varies_what_the_claims_are_about():
    runs = sweep("clocks")
    assert {run.threads for run in runs} == {1}
    mlp = [run for run in runs if run.model == "mlp"]
    gpt = [run for run in runs if run.model == "gpt2"]
    dit = [run for run in runs if run.model == "dit"]
    threes = [run for run in mlp if (run.length, run.group) == (24, 3)]
    assert {run.rule for run in runs} == {"parity"}
    # Both phases: copies come first up to 128, the rule from 256 on.
    assert {run.train_size for run in threes} >= {32, 64, 128, 256, 512}
    assert {run.group for run in mlp} >= {2, 3, 4}
    # Rules of equally many valid strings at one N, and each model's task for another model.
    equal = [run for run in mlp if run.make_rule().log2_count == 18 and run.train_size == 64]
    assert {run.group for run in equal} == {2, 3, 4}
    assert {(24, 2)} <= {(run.length, run.group) for run in dit}
    assert {(run.length, run.group) for run in gpt} <= {(run.length, run.group) for run in mlp}
    # One diffusion transformer that copies.
    assert {run.stop for run in dit} == {"rule", "memory"}
    assert len({(run.width, run.depth) for run in mlp}) > 1
    assert {(run.length, run.group) for run in gpt} == {(16, 4)}
    for size in (64, 128, 256):
        assert len({run.seed for run in gpt if run.train_size == size}) >= 5


def test_the_decisive_sweep_compares_rules_of_equally_many_strings_at_equal_sizes():
    runs = sweep("decisive")
    assert len(runs) == 30 and {run.stop for run in runs} == {"memory"} and {run.steps for run in runs} == {25000}
    assert {run.make_rule().log2_count for run in runs} == {18}
    for length, group in ((36, 2), (27, 3), (24, 4)):
        of_rule = [run for run in runs if (run.length, run.group) == (length, group)]
        assert {(run.train_size, run.seed) for run in of_rule} == {
            (size, seed) for size in (32, 64, 128, 256, 512) for seed in (0, 1)
        }
    assert all(run.data_seed == run.seed for run in runs)
    kept = {"width", "p_mean", "learning_rate", "batch_size", "ema_decay"}
    assert len({tuple(getattr(run, name) for name in sorted(kept)) for run in runs}) == 1


@pytest.mark.parametrize(
    "path", [path for path in recipe_yamls("recipes/rules") if Path(path).stem.startswith("sweep")]
)
def test_sweeps_are_of_runs_that_differ_in_more_than_the_seed(path):
    (config,) = parse(SweepConfig, arguments=["--config", path])
    runs = config.configs()
    settings = {
        tuple(sorted((k, str(v)) for k, v in vars(run).items() if k not in ("seed", "output_dir"))) for run in runs
    }
    assert len(settings) > 1 and len({run.seed for run in runs}) >= 3


@pytest.mark.slow
def test_a_recipe_runs_as_a_command(tmp_path):
    command = [Path(sys.executable).with_name("accelerate"), "launch", "--quiet"]
    command += shlex.split("--config_file accelerate_configs/cpu.yaml recipes/rules.py")
    command += shlex.split("--config recipes/rules/latin-square.yaml --steps 2 --output_dir")
    done = subprocess.run([*command, tmp_path / "run"], capture_output=True, text=True, check=True)
    assert "obey latin_square(side=4)" in done.stdout and "2 steps" in done.stdout
    assert read_json(tmp_path / "run" / "results.json")["log2_valid_strings"] == pytest.approx(9.17, abs=0.01)
