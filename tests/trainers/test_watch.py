"""A process that is stopped, not dead, is found by the others of its machine."""

import os
import signal
import subprocess
import sys

from trainers import watch


class Store:
    """The key-value store of a run, with a second process in it."""

    def __init__(self, process: str):
        self.values = {"watch/0/process/1": process}

    def set(self, key, value):
        self.values[key] = value

    def get(self, key):
        return self.values[key].encode()


def looked(monkeypatch, process: str, moments) -> list[str]:
    """What a look from process 0 says; `moments` are called instead of sleeping, then it leaves."""
    said = []
    looker = watch._Watch(0, 2, "watch/0", said.append)
    remaining = iter(moments)

    def sleep(seconds):
        moment = next(remaining, None)
        if moment is None:
            looker.leave()
        else:
            moment()

    monkeypatch.setattr(watch, "process_store", lambda: Store(process))
    monkeypatch.setattr(watch.time, "sleep", sleep)
    looker.look()
    return said


def test_a_stopped_process_is_named_and_one_that_goes_on_is_not(monkeypatch):
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)

    def send(number):
        other.send_signal(number)
        # Until it has arrived.
        os.waitid(os.P_PID, other.pid, os.WSTOPPED | os.WCONTINUED | os.WNOWAIT)

    def nothing():
        pass

    try:
        here = f"{watch._machine()} {other.pid}"
        assert looked(monkeypatch, here, [nothing] * (watch.LOOKS + 2)) == []
        stopped = [lambda: send(signal.SIGSTOP), *[nothing] * watch.LOOKS]
        assert looked(monkeypatch, f"elsewhere {other.pid}", stopped) == []
        assert looked(monkeypatch, here, stopped) == [f"process 1 is stopped (process id {other.pid}, SIGSTOP)"]
        other.send_signal(signal.SIGCONT)
    finally:
        other.kill()
        other.wait()
