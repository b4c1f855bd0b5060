"""A dry run of every recipe says what would be run, and writes nothing; what would be refused is refused."""

import importlib
import sys

import pytest

from cli.places import recipes
from eval.errors import UserError
from recipes.compare import CompareConfig, main
from tests.recipe_files import ROOT
from trainers.run_folder import start_run


FILES = {
    "rules": "recipes/rules/parity-mlp.yaml",
    "rules_sweep": "recipes/rules/clocks.yaml",
    "pretrain": "recipes/tiny/pretrain-llama-small.yaml",
}
# With the data that is loaded kept small.
SMALL = {
    "es": ["--train_size", "64", "--eval_size", "8"],
    "grpo": ["--train_size", "64", "--eval_size", "8"],
    "sft": ["--problems", "64", "--eval_size", "8"],
    "compare": ["--test_size", "8"],
    "sequential": ["--test_size", "8", "--seeds", "1"],
    "claims": ["--test_size", "8"],
}


def dry_run(recipe, output, monkeypatch, flag="--dry-run", *more):
    file = FILES.get(recipe, f"recipes/tiny/{recipe}.yaml")
    words = ["--config", file, "--output_dir", str(output), flag, *SMALL.get(recipe, []), *more]
    monkeypatch.setattr(sys, "argv", [f"recipes/{recipe}.py", *words])
    importlib.import_module(f"recipes.{recipe}").main()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", sorted(recipes()))
def test_it_says_what_would_be_run_and_writes_nothing(recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    dry_run(recipe, tmp_path / "run", monkeypatch, "--dry-run" if recipe < "m" else "--dry_run")
    said = capsys.readouterr().out
    assert f"dry run of {recipe}: nothing is trained, nothing is written\n" in said
    assert f"  folder       {tmp_path / 'run'}" in said
    assert list(tmp_path.iterdir()) == []
    if recipe in ("es", "compare"):
        assert "usable on the device" in said and "61,440 completions" in said
    if recipe in ("es", "grpo", "sft"):
        assert "566,912 parameters" in said and "64 rows of train, 8 rows of validation" in said


def test_it_refuses_what_the_run_would_refuse(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match="no checkpoint folder /nowhere/at/all"):
        dry_run("es", tmp_path / "run", monkeypatch, "--dry-run", "--model", "/nowhere/at/all")
    with pytest.raises(UserError, match="--dry_rnu; did you mean --dry_run"):
        dry_run("grpo", tmp_path / "run", monkeypatch, "--dry_rnu")


@pytest.mark.slow
def test_it_knows_a_run_that_was_begun_and_one_with_other_options(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    words = ["--config", "recipes/tiny/compare.yaml", "--output_dir", str(tmp_path), *SMALL["compare"], "--dry-run"]
    monkeypatch.setattr(sys, "argv", ["recipes/compare.py", *words])
    made = []
    monkeypatch.setattr("recipes.compare.compare", made.append)
    sys.argv.remove("--dry-run")
    main()
    [config] = made
    assert isinstance(config, CompareConfig)
    start_run(tmp_path, config)
    before = sorted(path.name for path in tmp_path.iterdir())
    sys.argv.append("--dry-run")
    main()
    assert f"{tmp_path}: begun, without a checkpoint of its own" in capsys.readouterr().out
    sys.argv += ["--test_size", "9"]
    with pytest.raises(UserError, match="test_size was 8, now 9"):
        main()
    assert sorted(path.name for path in tmp_path.iterdir()) == before
