"""Bad input ends in one line, before any work: a walk over the table in tests/bad_input.py.

In this process for speed: a recipe's `main`, with everything that would begin to work replaced by a failure. A few of
the rows also run as a user starts them.
"""

import importlib
import shutil
import signal
import sys
from pathlib import Path

import pytest

from eval.errors import UserError
from tests.bad_input import (
    BASES,
    COMMANDS,
    CONFIG_FILES,
    MODELS,
    OPENING,
    OPTIONS,
    OUTPUT_DIRS,
    WEIGHTS,
    WEIGHTS_ALONE,
)
from tests.recipe_files import ROOT, load_script


class Accepted(Exception):
    """A command has begun to work."""


def begin(*_, **__):
    raise Accepted


# What a command does first when it has found nothing wrong, beside reading what it is given.
WORK = (
    "eval.rollout.hf.HFEngine.generate",
    "trainers.es.train.ESRun.train",
    "trainers.grpo._train",
    "trainers.sft.sample",
    "trainers.pretrain._Pretraining.step",
    "trainers.rules._RuleTraining.train",
    "trainers.sweep.side_by_side",
    "recipes.claims.side_by_side",
    "recipes.sequential.side_by_side",
    "recipes.sequential.evaluate",
    "recipes.circuits.at_once",
    "recipes.precision.study_both",
    "analysis.circuits.study.Study.measure",
)


# Far more than any refusal takes.
SECONDS = 5


@pytest.fixture(autouse=True)
def no_work(monkeypatch):
    monkeypatch.chdir(ROOT)
    for name in WORK:
        monkeypatch.setattr(name, begin)
    # A row that is not refused must not hold up the others.
    signal.signal(signal.SIGALRM, begin)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)


def refused(main, words: list[str], monkeypatch) -> str:
    """The message with which a command refuses its arguments."""
    monkeypatch.setattr(sys, "argv", ["command", *words])
    with pytest.raises(UserError) as error:
        main()
    return " ".join(str(error.value).split())


def names(rows) -> list[str]:
    return [f"{row[0]}-{number}-{row[-2]!s:.60}" for number, row in enumerate(rows)]


OPTION_ROWS = [(recipe, lines, words) for recipe, rows in OPTIONS.items() for lines, words in rows]


def options_file(folder: Path, recipe: str, lines: str) -> Path:
    lines = lines.replace("{tmp}", str(folder))
    if "output_dir:" not in lines.split("\n")[0]:
        lines = f"output_dir: {folder / 'run'}\n{lines}"
    file = folder / "config.yaml"
    file.write_text(f"base: {ROOT / BASES[recipe]}\n{lines}\n", encoding="utf-8")
    return file


@pytest.mark.parametrize(("recipe", "lines", "words"), OPTION_ROWS, ids=names(OPTION_ROWS))
def test_options(recipe, lines, words, tmp_path, monkeypatch):
    file = options_file(tmp_path, recipe, lines)
    message = refused(load_script(f"recipes/{recipe}.py").main, ["--config", str(file)], monkeypatch)
    assert words.lower() in message.lower()
    assert len(message) < 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml"]


FILE_ROWS = [
    (list(BASES)[number % len(BASES)], content, words) for number, (content, words) in enumerate(CONFIG_FILES)
]


@pytest.mark.parametrize(("recipe", "content", "words"), FILE_ROWS, ids=names(FILE_ROWS))
def test_config_files(recipe, content, words, tmp_path, monkeypatch):
    (tmp_path / "config.yaml").write_bytes(content)
    message = refused(
        load_script(f"recipes/{recipe}.py").main, ["--config", str(tmp_path / "config.yaml")], monkeypatch
    )
    assert words.lower() in message.lower()
    assert len(message) < 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml"]


FOLDER_ROWS = [(recipe, folder, words) for recipe in BASES for folder, words in OUTPUT_DIRS]


@pytest.mark.parametrize(("recipe", "folder", "words"), FOLDER_ROWS, ids=names(FOLDER_ROWS))
def test_output_dirs(recipe, folder, words, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to("loop")
    file = options_file(tmp_path, recipe, f"output_dir: {folder}")
    message = refused(load_script(f"recipes/{recipe}.py").main, ["--config", str(file)], monkeypatch)
    assert words.lower() in message.lower()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "file", "loop"]


@pytest.fixture
def model(tmp_path):
    return Path(shutil.copytree(ROOT / "recipes/tiny/models/llama-small", tmp_path / "model"))


MODEL_ROWS = [(command, damage, words) for command in OPENING for damage, (_, words) in MODELS.items()]
# Geometry reads weights: what is wrong beside them, and what a model would lack, is none of its business.
MODEL_ROWS = [row for row in MODEL_ROWS if row[0] not in WEIGHTS_ALONE or row[2] in ("model.norm.weight", WEIGHTS)]


@pytest.mark.parametrize(("command", "damage", "words"), MODEL_ROWS, ids=names(MODEL_ROWS))
def test_damaged_models(command, damage, words, model, tmp_path, monkeypatch):
    MODELS[damage][0](model)
    module, *arguments = OPENING[command].format(model=model, tmp=tmp_path).split()
    message = refused(importlib.import_module(module).main, arguments, monkeypatch)
    assert words.lower() in message.lower()
    assert not (tmp_path / "run" / "results.json").exists()


@pytest.mark.parametrize(("command", "words"), COMMANDS, ids=names([("", *row) for row in COMMANDS]))
def test_commands(command, words, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    models = {size: ROOT / f"recipes/tiny/models/llama-{size}" for size in ("small", "medium")}
    module, *arguments = [word.format(tmp=tmp_path, **models) for word in command.split(" ")]
    message = refused(importlib.import_module(module).main, arguments, monkeypatch)
    assert words.format(tmp=tmp_path).lower() in message.lower()
    assert (tmp_path / "file").read_text() == "mine"
    assert not (tmp_path / "o" / "results.json").exists()
