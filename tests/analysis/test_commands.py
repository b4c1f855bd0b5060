"""The commands as they are typed: what they take, and what they write."""

import argparse
import json
import shutil
import subprocess
import sys

import pytest

from analysis.__main__ import COMMANDS, build_parser
from analysis.commands import report
from analysis.commands.options import named_folders
from analysis.geometry.updates import update_geometry
from eval.command_line import command_name
from eval.errors import UserError
from tests.analysis.theory.test_predictions import write_run
from tests.tiny import random_checkpoint


# What every results.json begins with.
HEAD = ("kind", "schema_version")


def analysis(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "analysis", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def run(*arguments) -> None:
    parsed = build_parser().parse_args([str(argument) for argument in arguments])
    parsed.run(parsed)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three checkpoints that no test changes."""
    models = tmp_path_factory.mktemp("models")
    return {name: random_checkpoint(models / name, seed=seed) for seed, name in enumerate(("base", "es", "grpo"))}


@pytest.fixture(scope="module")
def commands(folders, tmp_path_factory):
    """Commands of three kinds, without their --output, and a folder with what they wrote; no test changes it."""
    shared = ["--base", folders["base"], "--checkpoints", f"es={folders['es']}", f"grpo={folders['grpo']}"]
    small = ["--max-new-tokens", 3, "--seed", 1, "--device", "cpu"]
    typed = {
        "kl": ["kl", *shared, "--tasks", "yes_no,arithmetic", "countdown", "--prompts", 4, *small],
        "connectivity": ["connectivity", *shared, "--tasks", "yes_no", "--size", 4, "--points", 3, *small],
        "geometry": ["geometry", *shared],
    }
    output = tmp_path_factory.mktemp("run") / "out"
    for command in typed.values():
        run(*command, "--output", output)
    return typed, output


@pytest.mark.slow
def test_geometry_as_it_is_typed(folders, tmp_path):
    output = tmp_path / "out"
    finished = analysis(
        "geometry",
        "--base",
        folders["base"],
        "--checkpoints",
        f"es={folders['es']}",
        f"grpo={folders['grpo']}",
        "--output",
        output,
    )
    assert finished.returncode == 0, finished.stderr
    results = json.loads((output / "results.json").read_text())
    assert results["methods"] == ["es", "grpo"]
    assert results["geometry"] == update_geometry(folders["base"], {name: folders[name] for name in ("es", "grpo")})
    assert [path.name for path in output.iterdir()] == ["results.json"]


@pytest.mark.slow
def test_a_mistake_is_one_line_and_status_2(tmp_path):
    finished = analysis("report", "--run", tmp_path / "absent")
    assert finished.returncode == 2
    assert finished.stderr.startswith("error: ") and finished.stderr.count("\n") == 1
    assert str(tmp_path / "absent") in finished.stderr


def test_an_absent_checkpoint_leaves_no_output(folders, tmp_path):
    with pytest.raises(UserError, match=str(tmp_path / "absent")) as error:
        run(
            "geometry",
            "--base",
            tmp_path / "absent",
            "--checkpoints",
            f"es={folders['es']}",
            "--output",
            tmp_path / "out",
        )
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_mistakes_and_help_do_not_wait_for_torch():
    command = "import sys, analysis.__main__ as commands; commands.build_parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0


def test_one_checkpoint_has_a_report_without_cosine(folders, tmp_path):
    output = tmp_path / "out"
    run("geometry", "--base", folders["base"], "--checkpoints", f"es={folders['es']}", "--output", output)
    run("report", "--run", output)
    page = (output / "report" / "report.md").read_text()
    assert "figures/update-size.svg" in page and "figures/cosine.svg" not in page


@pytest.mark.slow
def test_kl_and_connectivity_share_one_results_file(commands, tmp_path):
    output = shutil.copytree(commands[1], tmp_path / "out")
    results = json.loads((output / "results.json").read_text())
    assert list(results) == [*HEAD, "methods", "inputs", "kl", "connectivity", "geometry"]
    assert list(results["inputs"]) == ["kl", "connectivity", "geometry"]
    assert list(results["kl"]["es"]) == ["yes_no", "arithmetic", "countdown"]
    assert results["kl"]["es"]["yes_no"]["forward"]["max_new_tokens"] == 3
    assert results["connectivity"]["task"] == "yes_no"
    assert results["connectivity"]["lines"]["base|es"]["ts"] == [0.0, 0.5, 1.0]
    assert results["connectivity"]["lines"]["base|es"]["reward_total"] == [4, 4, 4]
    run("report", "--run", output)
    assert "</html>" in (output / "report" / "index.html").read_text()


def test_what_a_section_depends_on(commands):
    """Every option that changes its numbers, and no option that only changes how long they take."""
    inputs = json.loads((commands[1] / "results.json").read_text())["inputs"]
    assert {section: entry["options"] for section, entry in inputs.items()} == {
        "kl": {
            "tasks": ["yes_no", "arithmetic", "countdown"],
            "texts": {},
            "prompts": 4,
            "seed": 1,
            "max_new_tokens": 3,
        },
        "connectivity": {
            "task": "yes_no",
            "size": 4,
            "seed": 1,
            "max_new_tokens": 3,
            "points": 3,
            "pairs": ["base|es", "base|grpo", "es|grpo"],
        },
        "geometry": {},
    }


def test_a_finished_section_is_read_and_not_measured_again(commands, tmp_path):
    typed, output = commands[0], shutil.copytree(commands[1], tmp_path / "out")
    path = output / "results.json"

    def marked() -> list[str]:
        """The sections with a mark that a new measurement wipes out."""
        sections = json.loads(path.read_text()).items()
        return [section for section, value in sections if isinstance(value, dict) and "mark" in value]

    results = json.loads(path.read_text())
    for section in typed:
        results[section]["mark"] = True
    path.write_text(json.dumps(results))
    for command in typed.values():
        run(*command, "--output", output)
    run(*typed["connectivity"], "--output", output, "--batch-size", 1)
    assert marked() == ["kl", "connectivity", "geometry"]
    # A part more: only that part is measured.
    run(*typed["geometry"], "--output", output, "--parts", "updates", "trajectory")
    assert marked() == ["kl", "connectivity", "geometry"]
    assert json.loads(path.read_text())["trajectory"]["checkpoints"] == ["es", "grpo"]
    run(*typed["geometry"], "--output", output, "--recompute")
    assert marked() == ["kl", "connectivity"]


def test_every_part_of_geometry(folders, tmp_path):
    output = tmp_path / "out"
    run(
        "geometry",
        "--base",
        folders["base"],
        "--checkpoints",
        f"es={folders['es']}",
        f"grpo={folders['grpo']}",
        "--output",
        output,
        "--parts",
        "spectra",
        "trajectory",
        "updates",
        "--top",
        4,
    )
    results = json.loads((output / "results.json").read_text())
    assert list(results) == [*HEAD, "methods", "inputs", "spectra", "trajectory", "geometry"]
    assert results["spectra"]["top"] == 4 and list(results["spectra"]["pairs"]) == ["es|grpo"]
    assert results["inputs"]["spectra"]["options"] == {"top": 4}
    norms = [results["geometry"]["checkpoints"][name]["norm"] for name in ("es", "grpo")]
    assert results["trajectory"]["all"]["norm"] == pytest.approx(norms)


def test_the_trajectory_of_a_run(folders, tmp_path):
    checkpoints = tmp_path / "run" / "checkpoints"
    for step, name in ((20, "grpo"), (3, "es")):
        shutil.copytree(folders[name], checkpoints / f"step_{step}")
    run(
        "geometry",
        "--base",
        folders["base"],
        "--run",
        tmp_path / "run",
        "--output",
        tmp_path / "out",
        "--parts",
        "trajectory",
    )
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["trajectory"]["checkpoints"] == ["3", "20"]
    assert results["methods"] == [], "steps of a run are not methods to be compared"
    with pytest.raises(UserError, match="--run: not allowed with argument --checkpoints"):
        run("geometry", "--base", "b", "--checkpoints", "a=b", "--run", "r", "--output", "o")


def test_every_part_of_connectivity(folders, tmp_path):
    output = tmp_path / "out"
    run(
        "connectivity",
        "--base",
        folders["base"],
        "--checkpoints",
        f"es={folders['es']}",
        f"grpo={folders['grpo']}",
        "--output",
        output,
        "--tasks",
        "yes_no",
        "--size",
        2,
        "--max-new-tokens",
        2,
        "--device",
        "cpu",
        "--parts",
        "lines",
        "layers",
        "kinds",
        "plane",
        "probes",
        "--pairs",
        "es,grpo",
        "--points",
        3,
        "--plane-points",
        2,
        "--margin",
        0,
        "--scales",
        1,
        "--random-directions",
        2,
    )
    results = json.loads((output / "results.json").read_text())
    assert list(results) == [
        *HEAD,
        "methods",
        "inputs",
        "connectivity",
        "layer_lines",
        "kind_lines",
        "plane",
        "probes",
    ]
    assert list(results["connectivity"]["lines"]) == ["es|grpo"]
    assert list(results["layer_lines"]["lines"]) == ["es|grpo", "grpo|es"]
    assert sorted(results["layer_lines"]["lines"]["es|grpo"]) == ["-", "0", "1"]
    assert "q_proj" in results["kind_lines"]["lines"]["grpo|es"]
    assert results["plane"]["corners"] == ["base", "es", "grpo"] and len(results["plane"]["reward"]) == 2
    assert list(results["probes"]["checkpoints"]) == ["es", "grpo"]
    assert list(results["probes"]["checkpoints"]["es"]["random"]) == ["0", "1"]
    for section in ("connectivity", "layer_lines", "kind_lines", "plane", "probes"):
        assert results[section]["task"] == "yes_no" and results[section]["references"]["prompts"] == 2


def test_matrices_and_texts(folders, tmp_path):
    output = tmp_path / "out"
    (tmp_path / "chat.txt").write_text("Hello there\nTell me more\n")
    words = [
        "kl",
        "--base",
        folders["base"],
        "--checkpoints",
        f"one={folders['es']}",
        f"two={folders['grpo']}",
        "--output",
        output,
        "--texts",
        tmp_path / "chat.txt",
        "--parts",
        "matrices",
        "drift",
        "--max-new-tokens",
        2,
        "--device",
        "cpu",
    ]
    run(*words)
    results = json.loads((output / "results.json").read_text())
    assert results["kl_matrices"]["order"] == ["base", "one", "two"]
    assert results["kl_matrices"]["incremental"]["two"]["chat"]["direction"] == "KL(two || one)"
    # On the same completions, of the same two models.
    cumulative, reverse = results["kl_matrices"]["cumulative"]["two"]["chat"], results["kl"]["two"]["chat"]["reverse"]
    assert cumulative["per_token"] == reverse["per_token"] and cumulative["sequences"] == 2
    assert cumulative["k3"] == reverse["k3"]


@pytest.mark.parametrize(
    "options, message",
    [
        (["--parts", "plane"], "3 corners, not 2"),
        (["--parts", "plane", "--plane", "base", "es", "gpro"], "no model 'gpro' here; choose among base, es"),
        (["--parts", "probes", "--scales", "0"], "positive numbers"),
        (["--pairs", "es"], "--pairs 'es' is not NAME,NAME"),
        (["--pairs", "base,gpro"], "no model 'gpro' here"),
        (["--points", "2"], "at least 3"),
    ],
)
def test_mistakes_are_found_before_a_checkpoint_is_read(tmp_path, options, message):
    shared = ["--base", tmp_path / "absent", "--checkpoints", f"es={tmp_path}", "--output", tmp_path / "out"]
    with pytest.raises(UserError, match=message):
        run("connectivity", *shared, "--tasks", "yes_no", *options)


@pytest.mark.parametrize(
    "entries, message",
    [
        (["es"], "is not NAME=DIR"),
        (["=dir"], "is not NAME=DIR"),
        (["es="], "is not NAME=DIR"),
        (["base=dir"], "cannot be called 'base'"),
        (["a|b=dir"], "cannot be called"),
        (["a,b=dir"], "cannot be called"),
        (["a=x", "a=y"], "two checkpoints are called 'a'"),
    ],
)
def test_checkpoints_that_are_not_name_and_folder(entries, message):
    with pytest.raises(UserError, match=message):
        named_folders(entries)


def test_the_table_is_written_beside_the_runs_or_elsewhere(commands, tmp_path, capsys):
    run("table", "--runs", commands[1].parent, "--output", tmp_path / "tables")
    shutil.copytree(commands[1], tmp_path / "runs" / "out")
    run("table", "--runs", tmp_path / "runs")
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"wrote 1 runs to {tmp_path / 'runs' / 'table.md'} and {tmp_path / 'runs' / 'table.csv'}"
    )
    for name, start in (
        ("table.csv", "run,status,task,seed,"),
        ("table.md", "| run | status | task | seed |"),
    ):
        written = (tmp_path / "tables" / name).read_text()
        assert written.startswith(start) and "finished: geometry, connectivity, kl" in written
        assert (tmp_path / "runs" / name).read_text() == written


def test_connectivity_takes_one_task(folders, tmp_path):
    shared = ["--base", folders["base"], "--checkpoints", f"es={folders['es']}", "--output", tmp_path / "out"]
    with pytest.raises(UserError, match="one task at a time, not yes_no, countdown"):
        run("connectivity", *shared, "--tasks", "yes_no,countdown")
    with pytest.raises(UserError, match="did you mean 'countdown'"):
        run("kl", *shared, "--tasks", "countdwn")
    with pytest.raises(UserError, match="names no task"):
        run("kl", *shared, "--tasks", ",")


def test_a_folder_name_may_hold_an_equals_sign():
    assert str(named_folders(["a=runs/lr=0.1"])["a"]) == "runs/lr=0.1"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["geometri"], "invalid choice"),
        (["kl", "--base", "x"], "--checkpoints"),
        (["geometry", "--base", "x", "--output", "o"], "one of the arguments --checkpoints --run is required"),
        (
            ["kl", "--base", "b", "--checkpoints", "a=a", "--output", "o", "--tasks", "t", "--prompts", "0"],
            "at least 1",
        ),
        (["geometry", "--base", "b", "--checkpoints", "a=a", "--output", "o", "--sede", "1"], "--sede"),
    ],
)
def test_misspelt_arguments(arguments, message):
    with pytest.raises(UserError, match=message) as error:
        build_parser().parse_args(arguments)
    assert "--help" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("command", [command_name(module) for module in COMMANDS])
def test_every_option_is_explained(command, capsys):
    with pytest.raises(SystemExit) as exit_info:
        build_parser().parse_args([command, "--help"])
    assert exit_info.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m analysis {command}")
    (commands,) = [action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    assert [action.option_strings for action in commands.choices[command]._actions if not action.help] == []


def test_report_of_a_folder_without_results(tmp_path):
    with pytest.raises(UserError, match=str(tmp_path)):
        report.run(build_parser().parse_args(["report", "--run", str(tmp_path)]))


@pytest.mark.slow
def test_theory_and_the_gallery_as_they_are_typed(commands, tmp_path, capsys):
    _, output = commands
    run("theory", "--runs", f"es={write_run(tmp_path / 'run')}", "--output", tmp_path / "out")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["theory"]["es"]["walk"]["ratio"] == pytest.approx(1)
    shutil.copytree(output, tmp_path / "compared")
    run("report", "--runs", tmp_path)
    assert capsys.readouterr().out.endswith(f"{tmp_path / 'gallery.html'}\n")
    page = (tmp_path / "gallery.html").read_text()
    assert 'href="out/report/index.html"' in page and 'href="compared/report/index.html"' in page
    with pytest.raises(UserError, match="not allowed with argument"):
        run("report", "--runs", tmp_path, "--run", tmp_path)


def test_the_steps_of_a_trajectory_are_no_methods(commands, folders, tmp_path):
    _, output = commands
    shutil.copytree(output, tmp_path / "out")
    run(
        "geometry",
        "--base",
        folders["base"],
        "--checkpoints",
        f"5={folders['es']}",
        f"10={folders['grpo']}",
        "--parts",
        "trajectory",
        "--output",
        tmp_path / "out",
    )
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["methods"] == ["es", "grpo"] and results["trajectory"]["checkpoints"] == ["5", "10"]
