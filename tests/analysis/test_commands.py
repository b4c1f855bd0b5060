import argparse
import json
import subprocess
import sys

import pytest

from analysis.__main__ import build_parser, named_folders, run_report, store
from analysis.geometry import update_geometry
from eval.errors import UserError


def analysis(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "analysis", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def run(*arguments) -> None:
    parsed = build_parser().parse_args([str(argument) for argument in arguments])
    parsed.run(parsed)


@pytest.fixture
def folders(tiny_checkpoint):
    return {name: tiny_checkpoint(name, seed=seed) for seed, name in enumerate(("base", "es", "grpo"))}


def test_geometry_as_it_is_typed(folders, tmp_path):
    output = tmp_path / "out"
    finished = analysis(
        "geometry", "--base", folders["base"], "--checkpoints", f"es={folders['es']}", f"grpo={folders['grpo']}",
        "--output", output,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    results = json.loads((output / "results.json").read_text())
    assert results["methods"] == ["es", "grpo"]
    assert results["geometry"] == update_geometry(folders["base"], {name: folders[name] for name in ("es", "grpo")})
    assert [path.name for path in output.iterdir()] == ["results.json"]


def test_a_mistake_is_one_line_and_status_2(folders, tmp_path):
    finished = analysis(
        "geometry", "--base", tmp_path / "absent", "--checkpoints", f"es={folders['es']}", "--output", tmp_path / "out"
    )
    assert finished.returncode == 2
    assert finished.stderr.startswith("error: ") and finished.stderr.count("\n") == 1
    assert str(tmp_path / "absent") in finished.stderr
    assert not (tmp_path / "out").exists()


def test_kl_and_connectivity_share_one_results_file(folders, tmp_path):
    output = tmp_path / "out"
    shared = ["--base", folders["base"], "--checkpoints", f"es={folders['es']}", "--output", output]
    small = ["--max-new-tokens", 3, "--batch-size", 4, "--seed", 1, "--device", "cpu"]
    run("kl", *shared, "--tasks", "yes_no,arithmetic", "countdown", "--prompts", 4, *small)
    run("connectivity", *shared, "--tasks", "yes_no", "--size", 4, "--points", 3, *small)
    run("geometry", *shared)
    results = json.loads((output / "results.json").read_text())
    assert list(results) == ["methods", "kl", "connectivity", "geometry"]
    assert list(results["kl"]["es"]) == ["yes_no", "arithmetic", "countdown"]
    assert results["kl"]["es"]["yes_no"]["forward"]["max_new_tokens"] == 3
    assert results["connectivity"]["task"] == "yes_no"
    assert results["connectivity"]["lines"]["base|es"]["ts"] == [0.0, 0.5, 1.0]
    assert results["connectivity"]["lines"]["base|es"]["reward_total"] == [4, 4, 4]
    run("report", "--run", output)
    assert "</html>" in (output / "report" / "index.html").read_text()


def test_a_section_is_replaced_and_the_others_stay(tmp_path):
    store(tmp_path, "geometry", {"x": 1}, {"es": tmp_path})
    store(tmp_path, "kl", {"y": 2}, {"grpo": tmp_path, "es": tmp_path})
    store(tmp_path, "geometry", {"x": 3}, {"es": tmp_path})
    assert json.loads((tmp_path / "results.json").read_text()) == {
        "methods": ["es", "grpo"],
        "geometry": {"x": 3},
        "kl": {"y": 2},
    }


def test_a_damaged_results_file_is_not_overwritten(tmp_path):
    (tmp_path / "results.json").write_text('{"kl": ')
    with pytest.raises(UserError, match="is not JSON"):
        store(tmp_path, "geometry", {}, {})
    assert (tmp_path / "results.json").read_text() == '{"kl": '


@pytest.mark.parametrize(
    "entries, message",
    [
        (["es"], "is not NAME=DIR"),
        (["=dir"], "is not NAME=DIR"),
        (["es="], "is not NAME=DIR"),
        (["base=dir"], "cannot be called 'base'"),
        (["a|b=dir"], "cannot be called"),
        (["a=x", "a=y"], "two checkpoints are called 'a'"),
    ],
)
def test_checkpoints_that_are_not_name_and_folder(entries, message):
    with pytest.raises(UserError, match=message):
        named_folders(entries)


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
        (["geometry", "--base", "x"], "--checkpoints"),
        (["kl", "--base", "b", "--checkpoints", "a=a", "--output", "o", "--tasks", "t", "--prompts", "0"], "positive"),
        (["geometry", "--base", "b", "--checkpoints", "a=a", "--output", "o", "--sede", "1"], "--sede"),
    ],
)
def test_misspelt_arguments(arguments, message):
    with pytest.raises(UserError, match=message) as error:
        build_parser().parse_args(arguments)
    assert "--help" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("command", ["geometry", "connectivity", "kl", "report"])
def test_every_option_is_explained(command, capsys):
    with pytest.raises(SystemExit) as exit_info:
        build_parser().parse_args([command, "--help"])
    assert exit_info.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m analysis {command}")
    (commands,) = [action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    assert [action.option_strings for action in commands.choices[command]._actions if not action.help] == []


def test_report_of_a_folder_without_results(tmp_path):
    with pytest.raises(UserError, match=str(tmp_path)):
        run_report(build_parser().parse_args(["report", "--run", str(tmp_path)]))
