"""posttrain-lab finds everything from any folder, hands options on as they are, and is quick to explain itself."""

import dataclasses
import json
import os
import pty
import re
import resource
import select
import shutil
import subprocess
import sys
import time

import pytest
import trl

import analysis.__main__ as analysis
import eval.__main__ as evaluation
from cli import completion, doctor, options, recipe
from cli.__main__ import ALIASES, ANALYSIS, COMPLETE_ALONE, EVAL, OWN, main, names, overview
from cli.configs import recipe_of, with_absolute_paths
from cli.doctor import libraries
from cli.places import recipes
from eval.command_line import command_name
from eval.errors import UserError
from eval.tasks import BUILT_IN
from recipes.__main__ import as_text, listing
from tests.recipe_files import ROOT


KL_FLAGS = ("--max-new-tokens", "--max_new_tokens")


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
    libraries = "any(name in sys.modules for name in ('torch', 'numpy', 'transformers', 'trl', 'evotorch'))"
    explain = "c.overview(); [recipe_parser(name).format_help() for name in recipes()]; c.completion.flags('grpo')"
    imports = "import sys, cli.__main__ as c; from cli.options import recipe_parser; from cli.places import recipes"
    code = f"{imports}; {explain}; sys.exit({libraries})"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def processor_seconds(*words):
    """Of the command, its own and its children's: the time that passes says more of what else the machine does."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = typed(*words)
    assert done.returncode == 0, done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.slow
def test_help_and_completion_are_quick():
    """Where nothing else runs: 0.1 s, with the commands of `eval` 0.8 s. A library of the recipes alone takes 3 s."""
    assert {name: taken for name in names() if (taken := processor_seconds(name, "--help")) > 1.5} == {}
    assert processor_seconds("--candidates", "grpo", "--num") < 0.3
    assert processor_seconds("--candidates", "tasks", "show", "c") < 0.3


def test_the_list_of_commands_is_that_of_the_rooms():
    assert set(ANALYSIS) == {command_name(module) for module in analysis.COMMANDS} - recipes().keys()
    assert set(EVAL) == {command_name(module) for module in evaluation.COMMANDS}


@pytest.mark.parametrize("name", [*recipes(), *ANALYSIS, *EVAL, *OWN])
def test_every_command_explains_its_options_under_its_own_name(name, monkeypatch, capsys):
    try:
        run(monkeypatch, name, "--help")
    except SystemExit as finished:
        assert finished.code == 0
    assert capsys.readouterr().out.startswith(f"usage: posttrain-lab {name}")


@pytest.mark.parametrize("name", [name for name in names() if name not in COMPLETE_ALONE])
def test_a_command_without_what_it_needs_explains_itself_and_ends_with_2(name, monkeypatch, capsys):
    with pytest.raises(SystemExit) as finished:
        run(monkeypatch, name)
    assert finished.value.code == 2
    assert capsys.readouterr().out.startswith(f"usage: posttrain-lab {ALIASES.get(name, name)}")


def test_the_help_of_a_recipe_has_the_libraries_own_words(monkeypatch, capsys):
    run(monkeypatch, "grpo", "--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.index("options of the lab") < shown.index("options of trl") and "--task VALUE" in shown
    declared = {field.name: field for field in dataclasses.fields(trl.GRPOConfig)}
    for name in ("num_generations", "beta", "learning_rate"):
        assert " ".join(declared[name].metadata["help"].split())[:60] in shown.replace("- ", "-"), name


def test_nearly_every_option_of_a_library_is_explained():
    foreign = [one for one in options.listing()["recipes"]["grpo"] if "source" in one]
    unexplained = [one["name"] for one in foreign if one["name"] not in options.help_texts(one["source"])]
    assert len(foreign) > 100 and len(unexplained) < 10, unexplained


@pytest.mark.slow
def test_the_listing_is_that_of_the_installed_libraries():
    """After a change of options or tasks: python -m recipes listing"""
    made = json.loads(as_text(listing()))
    assert options.listing()["versions"] == made["versions"], "python -m recipes listing"
    for kind in ("recipes", "commands", "tasks"):
        for name, content in made[kind].items():
            assert options.listing()[kind][name] == content, f"{kind}: {name}; python -m recipes listing"
    assert options.listing() == made


def test_other_libraries_than_the_listing_leave_the_help_to_the_recipe(monkeypatch):
    monkeypatch.setitem(options.listing()["versions"], "trl", "1.0.0")
    monkeypatch.setattr(os, "execv", lambda path, command: started.append(command))
    started = []
    run(monkeypatch, "grpo", "--help")
    assert started[0][-2:] == [str(ROOT / "recipes" / "grpo.py"), "--help"]


def test_a_recipe_gets_all_options_but_the_launcher(monkeypatch):
    monkeypatch.setattr(os, "execv", lambda path, command: started.append(command))
    started = []
    run(monkeypatch, "es", "--config", "mine.yaml", "--steps=3", "--launcher", "zero2", "--antithetic")
    run(monkeypatch, "rules", "--dry-run")
    configs = ROOT / "accelerate_configs"
    assert started[0][-6:] == [
        f"{configs / 'zero2.yaml'}",
        f"{ROOT / 'recipes' / 'es.py'}",
        "--config",
        "mine.yaml",
        "--steps=3",
        "--antithetic",
    ]
    launcher = configs / f"{recipe.default_launcher()}.yaml"
    assert started[1][-3:] == [str(launcher), str(ROOT / "recipes" / "rules.py"), "--dry-run"]
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


@pytest.mark.slow
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
    with pytest.raises(UserError, match="--sede 1; did you mean --seed"):
        run(monkeypatch, "tasks", "show", "countdown", "--sede", "1")
    with pytest.raises(UserError, match="unknown argument --popluation=3; did you mean --population"):
        run(monkeypatch, "es", "--popluation=3")
    with pytest.raises(UserError, match="invalid choice: 'shwo'; did you mean 'show'"):
        run(monkeypatch, "tasks", "shwo", "countdown")


def test_dashes_and_underscores_in_options_are_the_same(monkeypatch):
    monkeypatch.setattr(os, "execv", lambda path, command: started.append(command[-2:]))
    started = []
    run(monkeypatch, "es", "--max-new-tokens", "3")
    run(monkeypatch, "grpo", "--no-shuffle-dataset", "--max_steps=3")
    assert len(started) == 2
    shared = ["--base", "b", "--checkpoints", "a=a", "--output", "o", "--tasks", "t"]
    parsed = [analysis.build_parser().parse_args(["kl", *shared, flag, "7"]) for flag in KL_FLAGS]
    assert [arguments.max_new_tokens for arguments in parsed] == [7, 7]


def test_tasks_are_listed_and_shown(monkeypatch, capsys):
    run(monkeypatch, "tasks")
    listed = capsys.readouterr().out.splitlines()
    assert any(re.match(r"countdown +\S+ \S+", line) for line in listed)
    assert all(len(line.split()) > 2 for line in listed)
    assert {*BUILT_IN} == {line.split()[0] for line in listed}
    run(monkeypatch, "tasks", "show", "yes_no", "--rows", "2")
    assert capsys.readouterr().out.count('"prompt"') == 2
    run(monkeypatch, "tasks", "describe", "yes_no")
    assert re.search(r"^columns +prompt, ", capsys.readouterr().out, flags=re.MULTILINE)
    with pytest.raises(UserError, match="did you mean 'countdown'"):
        run(monkeypatch, "tasks", "describe", "countdwn")
    with pytest.raises(UserError, match="show needs the name of a task"):
        run(monkeypatch, "tasks", "show")


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


def test_the_recipe_of_a_config_is_told_by_its_header_or_by_its_keys(tmp_path):
    (tmp_path / "a.yaml").write_text("# recipes/grpo.py --config a.yaml\nmodel: x\n")
    (tmp_path / "b.yaml").write_text("model: x\nes_config: a\ngrpo_config: b\ngrpo_completions: 3\n")
    (tmp_path / "c.yaml").write_text("model: x\nseed: 3\n")
    assert [recipe_of(tmp_path / name) for name in ("a.yaml", "b.yaml")] == ["grpo", "compare"]
    with pytest.raises(UserError, match="cannot be told: .*es.* take its keys; add --recipe NAME"):
        recipe_of(tmp_path / "c.yaml")


@pytest.mark.slow
def test_a_copied_config_is_validated_where_it_lies(foreign_folder):
    assert typed("configs", "copy", "rules/parity-mlp", cwd=foreign_folder).returncode == 0
    fine = typed("configs", "validate", "parity-mlp.yaml", cwd=foreign_folder)
    assert fine.returncode == 0 and "recipes/rules.py takes it" in fine.stdout
    with open(foreign_folder / "parity-mlp.yaml", "a") as file:
        file.write("widht: 3\n")
    wrong = typed("configs", "validate", "parity-mlp.yaml", cwd=foreign_folder)
    assert wrong.returncode == 2 and wrong.stderr.strip().endswith("unknown key 'widht'; did you mean width?")


def test_only_files_of_the_repository_get_absolute_paths():
    text = "output_dir: runs/tiny/es\nmodel: recipes/mine\nbase: recipes/tiny/es.yaml\nof: my/recipes/tiny/es.yaml\n"
    assert with_absolute_paths(text) == text.replace("base: recipes", f"base: {ROOT}/recipes")


def test_the_doctor_knows_the_libraries_of_the_package():
    rows = {name: (installed, bounds) for name, installed, bounds in libraries()}
    assert {"torch", "transformers", "trl", "evotorch"} <= rows.keys()
    assert "pytest" not in rows, "an extra"
    assert rows["torch"][0].startswith("2.") and rows["torch"][1].startswith("within")


def test_the_doctor_survives_a_library_that_ends_its_process():
    assert doctor.problem("import json") is None
    assert doctor.problem("import absent_library") == (
        "not installed: ModuleNotFoundError: No module named 'absent_library'"
    )
    assert doctor.problem("import os; os.abort()") == "does not work: it ends the process with SIGABRT"


def test_what_a_shell_completes():
    def shown(*words):
        *typed, begun = words
        return completion.candidates(typed, begun, names())

    assert "geometry" in shown("geo") and "eval" in shown("e") and "es" in shown("e")
    assert shown("es", "--sigma_") == ["--sigma_schedule"] == shown("es", "--sigma-")
    assert shown("tasks", "") == ["describe", "list", "show"]
    assert shown("tasks", "show", "four") == ["four_choice"] == shown("es", "--task", "four")
    assert "tiny/compare" in shown("configs", "copy", "tiny/c")
    assert shown("grpo", "--logging_strategy", "") == ["epoch", "no", "steps"]
    assert "cpu_2proc" in shown("es", "--launcher", "cpu")
    assert shown("es", "--config", "") == [] == shown("report", "--run", "")
    assert "--max_new_tokens" in shown("eval", "--max") + shown("evaluate", "--max") and "--rows" in shown(
        "tasks", "--r"
    )


@pytest.fixture
def shell_environment(tmp_path):
    """That of a shell in which posttrain-lab is a command, with a home folder of its own."""
    (tmp_path / "posttrain-lab").write_text(f'#!/bin/sh\nexec {sys.executable} -P -m cli "$@"\n')
    (tmp_path / "posttrain-lab").chmod(0o755)
    found = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    return os.environ | found | {"HOME": str(tmp_path), "ZDOTDIR": str(tmp_path), "TERM": "dumb"}


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_with_its_script(shell_environment):
    script = typed("completion", "bash").stdout
    ask = 'COMP_WORDS=(posttrain-lab tasks show four); COMP_CWORD=3; _posttrain_lab; echo "${COMPREPLY[@]}"'
    done = subprocess.run(
        ["bash", "-c", script + ask], capture_output=True, text=True, check=False, env=shell_environment, cwd=ROOT
    )
    assert done.stdout == "four_choice\n", done.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed (apt-get install zsh)")
@pytest.mark.parametrize(
    ("begun", "whole"),
    [
        ("tasks show four", "tasks show four_choice"),
        ("es --sigma_", "es --sigma_schedule"),
        ("report --run CONTRI", "report --run CONTRIBUTING.md"),
    ],
)
def test_zsh_completes_at_a_tab(shell_environment, begun, whole):
    controller, terminal = pty.openpty()
    shell = subprocess.Popen(
        ["zsh", "-f", "-i"], stdin=terminal, stdout=terminal, stderr=terminal, env=shell_environment, cwd=ROOT
    )

    def expect(text):
        seen, deadline = "", time.monotonic() + 60
        while text not in seen:
            ready, _, _ = select.select([controller], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"no {text!r} in {seen!r}"
            seen += os.read(controller, 4096).decode()

    try:
        # As ~/.zshrc has it. The quotes keep what is typed apart from what is printed.
        os.write(controller, b'eval "$(posttrain-lab completion zsh)"; print REA""DY\n')
        expect("READY")
        # The line as it was completed is not run, but printed: Ctrl-A goes to its beginning.
        os.write(controller, f"posttrain-lab {begun}\t\x01print RE''SULT \n".encode())
        expect(f"RESULT posttrain-lab {whole}")
    finally:
        shell.kill()
        shell.wait()
        os.close(controller)
        os.close(terminal)
