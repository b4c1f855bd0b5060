import json
import os
import platform
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from eval.errors import UserError
from eval.ownership import MARKER, run_at, write_marker
from eval.storage import write_json
from tests.recipe_files import ROOT
from trainers.arguments import parse
from trainers.run_folder import (
    checkpoint_folder,
    describe_environment,
    end_run,
    last_complete_step,
    save_checkpoint,
    start_run,
)
from trainers.run_lock import LOCK


@dataclass
class Run:
    output_dir: str = "runs/a"
    steps: int = 10
    sigma: float = 1e-6
    model: Path = Path("recipes/tiny")
    baseline: str | None = None


@dataclass
class Task:
    size: int = 64


def save(folder: Path) -> None:
    write_json(folder / "weights.json", 1.0)


def read_environment(folder: Path) -> dict:
    return json.loads((folder / "environment.json").read_text())


def test_config_yaml_is_flat_and_read_back_by_config(tmp_path):
    configs = (Run(sigma=2e-7), Task(size=8))
    start_run(tmp_path / "run", *configs)
    path = tmp_path / "run" / "config.yaml"
    assert yaml.safe_load(path.read_text()) == {
        "output_dir": "runs/a",
        "steps": 10,
        "sigma": 2e-7,
        "model": "recipes/tiny",
        "baseline": None,
        "size": 8,
    }
    assert parse(Run, Task, arguments=["--config", str(path)]) == configs


def test_environment_json(tmp_path):
    start_run(tmp_path, Run())
    environment = read_environment(tmp_path)
    assert environment["packages"]["torch"] == version("torch")
    assert environment["python"] == platform.python_version()
    assert environment["cores"] == os.cpu_count()
    assert environment["cpu"]
    assert environment["torch_threads"] == 1
    assert environment["command"].startswith("python ")
    assert environment == describe_environment()


def test_environment_names_the_commit_and_whether_it_is_changed():
    def git(*arguments):
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)

    head = git("rev-parse", "HEAD")
    environment = describe_environment()
    if head.returncode != 0:
        assert environment["git_commit"] is None and environment["git_uncommitted_changes"] is None
    else:
        assert environment["git_commit"] == head.stdout.strip()
        assert environment["git_uncommitted_changes"] is bool(git("status", "--porcelain").stdout)


def test_a_second_start_with_the_same_options_goes_on_and_keeps_the_first_environment(tmp_path):
    start_run(tmp_path, Run(), Task())
    config = (tmp_path / "config.yaml").read_text()
    first = read_environment(tmp_path)
    for starts in (1, 2):
        start_run(tmp_path, Run(), Task())
        assert (tmp_path / "config.yaml").read_text() == config
        assert read_environment(tmp_path)["earlier_starts"] == [first] * starts


def test_other_options_in_the_same_folder_are_refused_with_both_values(tmp_path):
    start_run(tmp_path, Run(), Task())
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError) as error:
        start_run(tmp_path, Run(sigma=0.5, baseline="prompt"), Task())
    assert "sigma was 1e-06, now 0.5; baseline was None, now 'prompt'" in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="size was 64, now 'absent'"):
        start_run(tmp_path, Run())
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_options_that_may_change(tmp_path):
    start_run(tmp_path, Run())
    longer = replace(Run(), steps=20)
    with pytest.raises(UserError, match="sigma was"):
        start_run(tmp_path, replace(longer, sigma=0.5), may_change=["steps"])
    start_run(tmp_path, longer, may_change=["steps"])
    assert parse(Run, arguments=["--config", str(tmp_path / "config.yaml")]) == (longer,)


def test_checkpoints(tmp_path):
    assert last_complete_step(tmp_path / "none") is None
    for step in (2, 9, 10):
        save_checkpoint(tmp_path, step, save)
    assert last_complete_step(tmp_path) == 10
    assert checkpoint_folder(tmp_path, 9) == tmp_path / "checkpoints" / "step_9"
    assert (checkpoint_folder(tmp_path, 9) / "weights.json").read_text() == "1.0\n"
    # Names that only look like checkpoints.
    for name in ("step_11_old", "step_", ".unfinished-step_12"):
        (tmp_path / "checkpoints" / name).mkdir()
    (tmp_path / "checkpoints" / "step_13").write_text("a file")
    assert last_complete_step(tmp_path) == 10


def test_a_complete_checkpoint_is_not_written_again(tmp_path):
    save_checkpoint(tmp_path, 1, save)
    save_checkpoint(tmp_path, 1, lambda folder: pytest.fail("saved twice"))


def test_older_checkpoints_go_only_when_the_new_one_is_complete(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, save)

    def fail(folder):
        save(folder)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(tmp_path, 4, fail, keep=1)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step_1", "step_2", "step_3"]
    save_checkpoint(tmp_path, 10, save, keep=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step_10", "step_3"]


def test_leftovers_of_a_killed_run_are_removed_at_the_next_start(tmp_path):
    start_run(tmp_path, Run())
    save_checkpoint(tmp_path, 1, save)
    half = tmp_path / "checkpoints" / ".unfinished-step_2"
    (half / ".unfinished-inner").mkdir(parents=True)
    write_marker(half, run_at(tmp_path))
    # Killed before it was marked, and in the middle of it.
    (tmp_path / ".unfinished-checkpoint-3").mkdir()
    (tmp_path / ".unfinished-checkpoint-4").mkdir()
    (tmp_path / ".unfinished-checkpoint-4" / f"{MARKER}.17").write_text("{")
    (tmp_path / "completions").mkdir()
    (tmp_path / "completions" / f".unfinished-1.parquet.{run_at(tmp_path)}").write_text("half")
    start_run(tmp_path, Run())
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        MARKER,
        LOCK,
        "checkpoints",
        "checkpoints/step_1",
        f"checkpoints/step_1/{MARKER}",
        "checkpoints/step_1/weights.json",
        "completions",
        "config.yaml",
        "environment.json",
    ]


def test_other_processes_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    start_run(tmp_path, Run())
    save_checkpoint(tmp_path, 1, lambda folder: pytest.fail("saved by a second process"))
    assert list(tmp_path.iterdir()) == []


def test_files_of_a_user_stay_and_stop_a_run_that_would_replace_them(tmp_path):
    mine = (".unfinished-thesis/chapter.txt", ".unfinished-config.yaml", "notes.txt", "checkpoint-best/weights.json")
    for name in mine:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    for _ in range(2):
        start_run(tmp_path, Run())
    assert [(tmp_path / name).read_text() for name in mine] == ["mine"] * len(mine)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.json").write_text("mine")
    with pytest.raises(UserError, match="model was not made by this command and is not replaced; move it away"):
        start_run(tmp_path, Run())


@pytest.mark.parametrize("name", ["model", "metrics.jsonl", "results.json", "report"])
def test_a_run_does_not_begin_among_files_that_it_would_replace(tmp_path, name):
    (tmp_path / name).mkdir() if "." not in name else (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=rf"holds no run, but files that a run would replace \({name}\)"):
        start_run(tmp_path, Run())
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_checkpoint_with_notes_of_a_user_is_kept(tmp_path):
    start_run(tmp_path, Run())
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, save, keep=1)
        (checkpoint_folder(tmp_path, step) / "notes.txt").write_text("mine") if step == 1 else None
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step_1", "step_3"]


def test_a_file_in_the_place_of_the_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot be made: .*; choose another"):
        start_run(tmp_path / "file" / "run", Run())


# Takes the folder, says so, and waits; or says why not.
HOLDER = """
import sys
from pathlib import Path
from eval.errors import UserError
from trainers.run_folder import start_run
from tests.trainers.test_run_folder import Run

try:
    start_run(Path(sys.argv[1]), Run())
except UserError as error:
    sys.exit(str(error))
print("started", flush=True)
sys.stdin.read()
"""


def start_holder(folder):
    pipe = subprocess.PIPE
    words = [sys.executable, "-c", HOLDER, str(folder)]
    return subprocess.Popen(words, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.slow
def test_one_run_at_a_time_and_a_kill_is_no_obstacle(tmp_path):
    first = start_holder(tmp_path)
    assert first.stdout.readline() == "started\n"
    with pytest.raises(UserError) as refused:
        start_run(tmp_path, Run())
    assert f"is in use by a run on {platform.node()}, process {first.pid}, since 2" in str(refused.value)
    assert len(read_environment(tmp_path).get("earlier_starts", [])) == 0
    kill(first)
    start_run(tmp_path, Run())
    start_run(tmp_path, Run())  # this process has it already
    second = start_holder(tmp_path)
    assert f"process {os.getpid()}" in second.communicate()[1]
    end_run(tmp_path)
    third = start_holder(tmp_path)
    assert third.stdout.readline() == "started\n"
    kill(third)


@pytest.mark.slow
def test_a_lock_that_outlives_its_process_is_taken_over(tmp_path):
    # A child forked by the run keeps the system's lock when the run is killed.
    child = HOLDER.replace(
        'print("started", flush=True)\nsys.stdin.read()',
        "import os, time\npid = os.fork()\nif pid == 0: time.sleep(60)\nprint(pid, flush=True)\nos._exit(0)",
    )
    words = [sys.executable, "-c", child, str(tmp_path)]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    pid = int(process.stdout.readline())
    process.wait()
    try:
        start_run(tmp_path, Run())
    finally:
        os.kill(pid, signal.SIGKILL)


@dataclass
class WithSecrets:
    output_dir: str = "runs/a"
    hub_token: str = "hf_a-secret-of-mine"
    options: dict = field(default_factory=lambda: {"api_key": "another-secret", "sigma": 0.1})


def test_secrets_are_not_written_and_are_no_other_options(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "x.py", "--hub_token", "a-secret", "--password=b-secret"])
    start_run(tmp_path, WithSecrets())
    start_run(tmp_path, WithSecrets(hub_token="", options={"sigma": 0.1}))
    written = "".join(path.read_text() for path in tmp_path.iterdir())
    assert "secret" not in written and "--hub_token '***' '--password=***'" in written


# Endless: a checkpoint of 20 files per step, the two newest kept, each file holding the step.
WRITER = """
import sys
from itertools import count
from pathlib import Path
from eval.ownership import mark_run
from trainers.run_folder import last_complete_step, save_checkpoint

folder = Path(sys.argv[1])
mark_run(folder)
start = (last_complete_step(folder) or 0) + 1
print("started", flush=True)
for step in count(start):
    def save(unfinished):
        for number in range(20):
            (unfinished / f"{number}.txt").write_text(str(step) * 1000)
            if sys.argv[2:] == ["stop in the middle"] and (step, number) == (3, 9):
                print("in the middle", flush=True)
                sys.stdin.read()
    save_checkpoint(folder, step, save, keep=2)
"""


def start_writer(folder: Path, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def kill(process: subprocess.Popen) -> None:
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def assert_complete(checkpoint: Path, step: int) -> None:
    assert {path.name: path.read_text() for path in checkpoint.iterdir() if path.name != MARKER} == {
        f"{number}.txt": str(step) * 1000 for number in range(20)
    }


@pytest.mark.slow
def test_a_checkpoint_half_written_at_a_kill_is_never_picked_up(tmp_path):
    writer = start_writer(tmp_path, "stop in the middle")
    assert [writer.stdout.readline(), writer.stdout.readline()] == ["started\n", "in the middle\n"]
    kill(writer)
    half = tmp_path / "checkpoints" / ".unfinished-step_3"
    assert len(list(half.iterdir())) == 11  # with its marker
    assert last_complete_step(tmp_path) == 2
    assert_complete(checkpoint_folder(tmp_path, 2), 2)
    start_run(tmp_path, Run())
    assert sorted(path.name for path in half.parent.iterdir()) == ["step_1", "step_2"]


@pytest.mark.slow
def test_whatever_has_the_name_of_a_checkpoint_is_complete_after_kills_at_random_moments(tmp_path):
    last = None
    for seed in range(4):
        writer = start_writer(tmp_path)
        assert writer.stdout.readline() == "started\n"
        while last_complete_step(tmp_path) in (None, 1, last):  # from the second on there are two
            time.sleep(0.01)
        time.sleep(random.Random(seed).random() / 10)
        kill(writer)
        last = last_complete_step(tmp_path)
        checkpoints = list((tmp_path / "checkpoints").glob("step_*"))
        assert len(checkpoints) in (2, 3)  # 3 when killed before the oldest was removed
        for checkpoint in checkpoints:
            assert_complete(checkpoint, int(checkpoint.name.removeprefix("step_")))
