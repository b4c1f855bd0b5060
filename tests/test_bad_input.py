"""Bad input ends in one line, before any work: a walk over the table in tests/bad_input.py.

In this process for speed: a recipe's `main`, with everything that would begin to work replaced by a failure. A few of
the rows also run as a user starts them.
"""

import importlib
import os
import shutil
import signal
import subprocess
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
    RUN_FILES,
    TYPED,
    WEIGHTS,
    WEIGHTS_ALONE,
    WORKING,
)
from tests.recipe_files import ROOT, load_script


class Accepted(Exception):
    """A command has begun to work."""


def begin(*_, **__):
    raise Accepted


# What a command does first when it has found nothing wrong, beside reading what it is given.
WORK = (
    "eval.rollout.hf.HFEngine.generate",
    "trainers.es.trainer.ESTrainer._train",
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
SECONDS = 20


@pytest.fixture(autouse=True)
def no_work(request, monkeypatch):
    monkeypatch.chdir(ROOT)
    for name in WORK:
        monkeypatch.setattr(name, begin)
    # A row that is not refused must not hold up the others.
    signal.signal(signal.SIGALRM, begin)
    signal.alarm(0 if request.node.get_closest_marker("slow") else SECONDS)
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


@pytest.mark.slow
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


DAMAGED_RUNS = [
    (recipe, file, content, words)
    for recipe in ("es", "grpo", "rules", "pretrain")
    for file, contents in RUN_FILES.items()
    # A pretraining that has ended is not looked at again: its results.json is replaced.
    for content, words in contents
    if (recipe, file) != ("pretrain", "results.json")
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "file", "content", "words"),
    DAMAGED_RUNS,
    ids=[f"{recipe}-{file}-{content[:12]!r}" for recipe, file, content, _ in DAMAGED_RUNS],
)
def test_damaged_run_folders(recipe, file, content, words, tmp_path, monkeypatch):
    script = load_script(f"recipes/{recipe}.py")
    arguments = ["--config", str(options_file(tmp_path, recipe, "max_steps: 20" if recipe == "grpo" else ""))]
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    with pytest.raises(Accepted):
        script.main()
    (tmp_path / "run" / file).write_bytes(content)
    message = refused(script.main, arguments, monkeypatch)
    assert words.lower() in message.lower()
    assert str(tmp_path / "run") in message
    assert (tmp_path / "run" / file).read_bytes() == content


# Neither a locale nor UTF-8, as in a bare container or under cron.
BARE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}


def typed(command: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    surroundings = {name: value for name, value in os.environ.items() if name != "LANG"} | BARE
    words = [sys.executable, *(word.format(tmp=folder).encode("utf-8", "surrogatepass") for word in command.split())]
    return subprocess.run(words, cwd=ROOT, env=surroundings, capture_output=True, check=False, timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize(("command", "words"), TYPED)
def test_a_process_ends_with_status_2_and_one_line(command, words, tmp_path):
    (tmp_path / "file").write_text("mine")
    done = typed(command, tmp_path)
    lines = done.stderr.decode("ascii").strip().split("\n")
    assert done.returncode == 2
    # A library may say something of its own before.
    assert [line[:7] for line in lines if "error" in line.lower() or "Traceback" in line] == ["error: "]
    assert words.format(tmp=tmp_path) in lines[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
@pytest.mark.parametrize("command", WORKING)
def test_commands_work_without_a_locale(command, tmp_path):
    done = typed(command, tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode("ascii")
