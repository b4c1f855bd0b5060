"""posttrain-lab finds everything from any folder, hands options on as they are, and is quick to explain itself."""

import os
import re
import subprocess
import sys

import pytest

from cli import recipe
from cli.__main__ import ANALYSIS, EVAL, OWN, main, overview
from cli.configs import with_absolute_paths
from cli.doctor import libraries
from cli.places import recipes
from eval.errors import UserError
from eval.tasks import PAPER_TASKS, SMALL_TASKS, TASKS
from tests.recipe_files import ROOT


def typed(*words, cwd=ROOT, **options):
    command = [sys.executable, "-P", "-m", "cli", *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, **options)


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["posttrain-lab", *words])
    main()


@pytest.fixture
def foreign_folder(tmp_path, monkeypatch):
    """A user's folder with packages of the lab's names, in which nothing of them may be imported."""
    for name in ("analysis", "eval", "cli", "recipes", "trainers"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the current folder was imported')\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_bare_command_lists_every_command_with_a_line(foreign_folder):
    bare = typed(cwd=foreign_folder)
    assert bare.returncode == 0 and bare.stdout == overview() + "\n"
    for name in [*recipes(), *ANALYSIS, *EVAL, *OWN]:
        assert re.search(rf"^  {name} +[A-Z]\S* \S+", bare.stdout, flags=re.MULTILINE), name


def test_explaining_imports_no_library():
    """So that it is there in a fraction of a second."""
    code = "import sys, cli.__main__ as c; c.overview(); sys.exit(any(m in sys.modules for m in ('torch', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("name", [*ANALYSIS, *EVAL, *OWN])
def test_every_command_explains_its_options_under_its_own_name(name, monkeypatch, capsys):
    with pytest.raises(SystemExit) as finished:
        run(monkeypatch, name, "--help")
    assert finished.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: posttrain-lab {name}")


def test_a_recipe_gets_all_options_but_the_launcher(monkeypatch):
    monkeypatch.setattr(os, "execv", lambda path, command: started.append(command))
    started = []
    run(monkeypatch, "es", "--config", "mine.yaml", "--steps=3", "--launcher", "zero2", "--no_antithetic")
    run(monkeypatch, "rules", "--help")
    configs = ROOT / "accelerate_configs"
    assert started[0][-6:] == [
        f"{configs / 'zero2.yaml'}",
        f"{ROOT / 'recipes' / 'es.py'}",
        "--config",
        "mine.yaml",
        "--steps=3",
        "--no_antithetic",
    ]
    launcher = configs / f"{recipe.default_launcher()}.yaml"
    assert started[1][-3:] == [str(launcher), str(ROOT / "recipes" / "rules.py"), "--help"]
    with pytest.raises(UserError, match="'gpus' is not one of cpu, "):
        run(monkeypatch, "es", "--launcher", "gpus")


@pytest.mark.slow
def test_a_recipe_runs_from_a_foreign_folder_with_a_copied_config(foreign_folder):
    assert typed("configs", "copy", "rules/parity-mlp", cwd=foreign_folder).returncode == 0
    words = ["rules", "--config", "parity-mlp.yaml", "--steps", "2", "--output_dir", "mine", "--launcher", "cpu"]
    finished = typed(*words, cwd=foreign_folder)
    assert finished.returncode == 0, finished.stderr
    assert (foreign_folder / "mine" / "results.json").exists()
    mistake = typed("rules", "--config", "absent.yaml", "--launcher", "cpu", cwd=foreign_folder)
    assert mistake.returncode != 0 and "absent.yaml" in mistake.stderr and "Traceback" not in mistake.stderr


def test_analysis_and_scores_run_from_a_foreign_folder(foreign_folder):
    (foreign_folder / "rows.jsonl").write_text('{"completion": "Yes", "answer": "yes"}\n')
    scored = typed("score", "--task", "yes_no", "--input", "rows.jsonl", "--output", "s.jsonl", cwd=foreign_folder)
    assert scored.returncode == 0, scored.stderr
    assert (foreign_folder / "s.jsonl").read_text().startswith('{"value"')
    absent = typed("report", "--run", "absent", cwd=foreign_folder)
    assert absent.returncode == 2 and absent.stderr.startswith("error: ") and absent.stderr.count("\n") == 1


def test_misspelt_commands(monkeypatch):
    with pytest.raises(UserError, match="unknown command 'geometri'; did you mean 'geometry'"):
        run(monkeypatch, "geometri")
    with pytest.raises(UserError, match="--sede"):
        run(monkeypatch, "tasks", "--sede", "1")


def test_tasks_are_listed_and_shown(monkeypatch, capsys):
    run(monkeypatch, "tasks")
    listed = capsys.readouterr().out.splitlines()
    assert any(re.match(r"countdown +\S+ \S+", line) for line in listed)
    assert all(len(line.split()) > 2 for line in listed)
    assert {*TASKS, *PAPER_TASKS, *SMALL_TASKS} == {line.split()[0] for line in listed}
    run(monkeypatch, "tasks", "yes_no", "--rows", "2")
    assert capsys.readouterr().out.count('"prompt"') == 2
    with pytest.raises(UserError, match="did you mean 'countdown'"):
        run(monkeypatch, "tasks", "countdwn")


def test_configs_are_listed_and_copied(monkeypatch, capsys, foreign_folder):
    run(monkeypatch, "configs")
    assert re.search(r"^tiny/es +\S+ \S+", capsys.readouterr().out, flags=re.MULTILINE)
    run(monkeypatch, "configs", "copy", "tiny/compare")
    copied = (foreign_folder / "compare.yaml").read_text()
    assert f"es_config: {ROOT}/recipes/tiny/es.yaml\n" in copied and f"model: {ROOT}/recipes/tiny/models" in copied
    with pytest.raises(UserError, match="is here already"):
        run(monkeypatch, "configs", "copy", "tiny/compare")
    with pytest.raises(UserError, match="no configuration 'tiny/esx'"):
        run(monkeypatch, "configs", "copy", "tiny/esx")


def test_only_files_of_the_repository_get_absolute_paths():
    text = "output_dir: runs/tiny/es\nmodel: recipes/mine\nbase: recipes/tiny/es.yaml\nof: my/recipes/tiny/es.yaml\n"
    assert with_absolute_paths(text) == text.replace("base: recipes", f"base: {ROOT}/recipes")


def test_the_doctor_knows_the_libraries_of_the_package():
    rows = {name: (installed, bounds) for name, installed, bounds in libraries()}
    assert {"torch", "transformers", "trl", "evotorch"} <= rows.keys()
    assert "pytest" not in rows, "an extra"
    assert rows["torch"][0].startswith("2.") and rows["torch"][1].startswith("within")
