"""Jobs side by side: how many at a time, what a failure does, and that none outlives what started it."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from eval.errors import UserError
from tests.recipe_files import ROOT
from trainers.side_by_side import side_by_side


# Its pages or models take seconds to make.
pytestmark = pytest.mark.slow


def meet(folder: Path, number: int) -> int:
    """Wait until two jobs are there, then leave; returns the largest number that were there together."""
    mine = folder / f"{number}.here"
    mine.touch()
    most, deadline = 0, time.monotonic() + 60
    while not (folder / f"{number}.gone").exists():
        most = max(most, len(list(folder.glob("*.here"))))
        if most > 1:
            (folder / f"{number}.gone").touch()
        assert time.monotonic() < deadline, "there is never more than one"
        time.sleep(0.01)
    time.sleep(0.1)
    mine.unlink()
    return most


def speak(word: str) -> dict:
    print(word)
    return {"threads": torch.get_num_threads(), "environment": os.environ["OMP_NUM_THREADS"], "process": os.getpid()}


def fail(error: Exception) -> None:
    raise error


def leave_a_mark(path: Path) -> None:
    path.touch()


def tick(path: Path) -> None:
    while True:
        with open(path, "a") as file:
            file.write(".")
        time.sleep(0.02)


def test_so_many_at_a_time(tmp_path):
    most = side_by_side({tmp_path / str(number): partial(meet, tmp_path, number) for number in range(4)}, 2, "job")
    assert list(most) == [tmp_path / str(number) for number in range(4)]
    assert set(most.values()) == {2}


def test_each_job_has_a_process_one_thread_and_a_log(tmp_path):
    done = side_by_side({tmp_path / word: partial(speak, word) for word in ("one", "two")}, 1, "job")
    for folder, result in done.items():
        assert (folder / "log.txt").read_text() == f"{folder.name}\n"
        assert (result["threads"], result["environment"]) == (1, "1")
    assert len({os.getpid(), *(result["process"] for result in done.values())}) == 3


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UserError("sigma is 0"), "bad failed: sigma is 0; then start the same command again"),
        (ValueError("no\nsuch"), "bad failed: ValueError: no such; see its log.txt"),
    ],
)
def test_a_failure_is_one_line_and_those_that_wait_do_not_start(tmp_path, error, message):
    jobs = {tmp_path / "bad": partial(fail, error)}
    jobs |= {tmp_path / str(k): partial(leave_a_mark, tmp_path / f"{k}.started") for k in range(20)}
    with pytest.raises(UserError) as raised:
        side_by_side(jobs, 1, "job")
    assert "\n" not in str(raised.value) and message in str(raised.value)
    assert type(error).__name__ in (tmp_path / "bad" / "log.txt").read_text()
    assert len(list(tmp_path.glob("*.started"))) < 20


def test_others_end_if_they_are_to(tmp_path):
    jobs = {tmp_path / "bad": partial(fail, UserError("wrong"))}
    jobs |= {tmp_path / str(k): partial(leave_a_mark, tmp_path / f"{k}.started") for k in range(4)}
    with pytest.raises(UserError, match="bad failed: wrong"):
        side_by_side(jobs, 1, "job", stop_at_failure=False)
    assert len(list(tmp_path.glob("*.started"))) == 4


def test_a_killed_job_is_one_line(tmp_path):
    with pytest.raises(UserError, match="the process of a job was killed"):
        side_by_side({tmp_path / "job": partial(os._exit, 9)}, 1, "job")


def test_a_job_ends_with_the_process_that_started_it(tmp_path):
    ticks = tmp_path / "ticks"
    starter = (
        "from functools import partial; from pathlib import Path\n"
        "from tests.trainers.test_side_by_side import tick; from trainers.side_by_side import side_by_side\n"
        f"if __name__ == '__main__':\n"
        f"    side_by_side({{Path({str(tmp_path / 'job')!r}): partial(tick, Path({str(ticks)!r}))}}, 1, 'job')"
    )
    process = subprocess.Popen([sys.executable, "-c", starter], cwd=ROOT)
    deadline = time.monotonic() + 60
    while not ticks.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    size = -1
    while size != ticks.stat().st_size:
        assert time.monotonic() < deadline, "the job goes on without its starter"
        size = ticks.stat().st_size
        time.sleep(1.0)
