"""Whether two mathematical answers are the same, by math-verify, with a time limit that holds in any thread.

math-verify's own limit is an alarm signal, which works in the main thread only and interrupts no computation in C.
Here the comparison happens in a child process whose CPU time the kernel limits.
"""

import atexit
import importlib.util
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

from eval.errors import UserError


WORKER = Path(__file__).with_name("math_verify_worker.py")


def require_math_verify() -> None:
    """Raise UserError now, rather than at the first answer that needs it, if math-verify is not installed."""
    if importlib.util.find_spec("math_verify") is None:
        raise UserError("the math task needs math-verify, which is not installed; run: pip install -e '.[math]'")


class Verifier:
    """One worker process, started at the first use and again after it was ended. Threads take turns.

    seconds: CPU time that one comparison may take.
    """

    def __init__(self, seconds: float = 5.0):
        self.seconds = seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen | None = None
        self._owner = 0

    def equal(self, reference: str, answer: str) -> bool | None:
        """True if they are the same, None if the comparison took too long, too much memory, or broke math-verify."""
        with self._lock:
            process = self._running()
            try:
                process.stdin.write(json.dumps([reference, answer]) + "\n")
                process.stdin.flush()
                line = process.stdout.readline()
            except BrokenPipeError:
                line = ""
            if not line:
                self._stop()
                return None
            return json.loads(line)

    def close(self) -> None:
        with self._lock:
            self._stop()

    def _running(self) -> subprocess.Popen:
        # After a fork the pipes are shared with the parent: the child starts a worker of its own.
        if self._process is None or self._owner != os.getpid():
            require_math_verify()
            self._process = subprocess.Popen(
                # -P: the folder of the worker holds modules of the lab, which must not hide others of the same name.
                [sys.executable, "-P", str(WORKER), str(self.seconds)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                # What this process can import, the worker can.
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
            self._owner = os.getpid()
            if self._process.stdout.readline() != "ready\n":
                self._stop()
                raise RuntimeError(f"{WORKER} does not start; run it by hand with the argument 5 to see why")
        return self._process

    def _stop(self) -> None:
        if self._process is not None and self._owner == os.getpid():
            self._process.kill()
            self._process.wait()
            self._process.stdin.close()
            self._process.stdout.close()
        self._process = None


# One for the process: a task is a value that is pickled and compared, and holds no process.
VERIFIER = Verifier()
atexit.register(VERIFIER.close)
