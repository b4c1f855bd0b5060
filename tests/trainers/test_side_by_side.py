"""Commands side by side: how many at a time, what a failure does, and that none outlives what started it."""

import signal
import subprocess
import sys
import threading
import time
from functools import partial

import pytest

from eval.errors import UserError
from tests.recipe_files import ROOT
from trainers.side_by_side import run_python, side_by_side


def test_so_many_at_a_time_and_each_once():
    together, most, done = 0, 0, []
    lock, met = threading.Lock(), threading.Barrier(2, timeout=20)

    def job(number):
        nonlocal together, most
        with lock:
            together += 1
            most = max(most, together)
        met.wait()  # passes only if two are there
        with lock:
            together -= 1
            done.append(number)

    side_by_side([partial(job, number) for number in range(6)], 2, "job")
    assert most == 2 and sorted(done) == list(range(6))


def test_the_first_failure_is_raised_and_those_that_wait_do_not_start():
    started = []

    def job(number):
        started.append(number)
        if number == 1:
            raise UserError("job 1 is wrong")
        time.sleep(0.02)

    with pytest.raises(UserError, match="job 1 is wrong"):
        side_by_side([partial(job, number) for number in range(50)], 1, "job")
    assert started[:2] == [0, 1] and len(started) < 50


def test_a_command_has_one_thread_and_a_failed_one_is_one_line_with_its_last_words(tmp_path):
    run_python(tmp_path / "good", "the job", ["-c", "import os; print(os.environ['OMP_NUM_THREADS'], 'thread')"])
    assert (tmp_path / "good" / "log.txt").read_text() == "1 thread\n"
    with pytest.raises(UserError) as error:
        run_python(tmp_path / "bad", "the job", ["-c", "import sys; print('first'); sys.exit('no such thing')"])
    assert "\n" not in str(error.value)
    assert "the job in" in str(error.value) and "ended with status 1 (no such thing)" in str(error.value)


@pytest.mark.slow
def test_a_command_ends_with_the_process_that_started_it(tmp_path):
    ticks = tmp_path / "ticks"
    command = (
        "import time; from trainers.side_by_side import end_with_starter; end_with_starter()\n"
        f"while True:\n    open({str(ticks)!r}, 'a').write('.'); time.sleep(0.02)"
    )
    starter = (
        "from pathlib import Path; from trainers.side_by_side import run_python\n"
        f"run_python(Path({str(tmp_path)!r}), 'the job', ['-c', {command!r}])"
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
        assert time.monotonic() < deadline, "the command goes on without its starter"
        size = ticks.stat().st_size
        time.sleep(1.0)
