"""Whether two mathematical answers are the same, by math-verify, with a time limit that holds in any thread.

math-verify's own limit is an alarm signal, which works in the main thread only and interrupts no computation in C.
Here the comparison happens in child processes whose CPU time the kernel limits. Each pair is judged once.
"""

import atexit
import importlib.util
import json
import math
import os
import queue
import re
import subprocess
import sys
import threading
from pathlib import Path

from eval.errors import UserError


WORKER = Path(__file__).with_name("math_verify_worker.py")
WORKERS = 2
# CPU seconds of one comparison. Of 500 answers to MATH-500 written as models write them none needed a tenth of it.
SECONDS = 0.2
MOST_REMEMBERED = 100_000
# What no computer evaluates: powers of powers, long exponents, factorials of long numbers, of factorials or of whole
# expressions. Found in the text, so that a flood of them costs nothing.
COSTLY = re.compile(
    r"\^\s*\{?[^{}^]{0,40}\^\s*\{?[^{}^]{0,40}\^|\^\s*\{?\s*\(?[+-]?[0-9,]{5,}|[0-9]{3,}\s*\^\s*\{?\s*[0-9]{4,}"
    r"|[0-9]{5,}\s*!|!\s*[)}\]]*\s*!|[)}\]]\s*!|!\s*[)}\]]*\s*\^|\^\s*\{?[^{}]{0,40}!|\\uparrow"
    r"|\\[dt]?binom\s*\{\s*[0-9]{5,}"
)
# A power in an exponent, which is costly when the exponent that it makes is long: 2^{3^2} is not, 2^{99^{55}} is.
POWER_IN_EXPONENT = re.compile(r"\^\s*\{?\s*([0-9]{1,4})\s*\^\s*\{?\s*([0-9]{1,4})")
LONGEST_EXPONENT = 4  # digits
MOST_POWERS = 30
LONGEST = 600


def require_math_verify() -> None:
    """Raise UserError now, rather than at the first answer that needs it, if math-verify is not installed."""
    if importlib.util.find_spec("math_verify") is None:
        raise UserError("the math task needs math-verify, which is not installed; run: pip install -e '.[math]'")


def too_costly(text: str) -> bool:
    """Whether evaluating `text` would take for ever: towers of powers, factorials of factorials, and the like."""
    if len(text) > LONGEST or text.count("^") + text.count("**") > MOST_POWERS or COSTLY.search(text):
        return True
    powers = (map(int, match) for match in POWER_IN_EXPONENT.findall(text))
    return any(base > 1 and exponent * math.log10(base) >= LONGEST_EXPONENT for base, exponent in powers)


class Verifier:
    """`WORKERS` processes, started at the first use. Threads take a free one or wait for it.

    seconds: CPU time that one comparison may take.
    """

    def __init__(self, seconds: float = SECONDS, workers: int = WORKERS):
        self.seconds, self.workers = seconds, workers
        self._judged: dict[tuple[str, str], bool | None] = {}
        self._lock = threading.Lock()
        self._started: list[subprocess.Popen[str]] = []
        self._free: queue.SimpleQueue[subprocess.Popen[str] | None] = queue.SimpleQueue()
        self._owner = 0

    def equal(self, reference: str, answer: str) -> bool | None:
        """True if they are the same, None if the comparison took too long, too much memory, or broke math-verify."""
        pair = (reference, answer)
        if pair not in self._judged:
            judged = self._judge(reference, answer)
            if len(self._judged) >= MOST_REMEMBERED:
                self._judged.clear()
            self._judged[pair] = judged
        return self._judged[pair]

    def close(self) -> None:
        """End the workers; the next comparison starts new ones."""
        with self._lock:
            for process in self._started if self._owner == os.getpid() else []:
                process.kill()
                process.communicate()
            self._started, self._owner = [], 0

    def _judge(self, reference: str, answer: str) -> bool | None:
        self._open()
        process = self._free.get()
        try:
            process = process or self._start()
            line = _exchange(process, json.dumps([reference, answer]) + "\n")
        except BrokenPipeError:
            line = ""
        # A worker survives a comparison that is too long; one that is gone is replaced at the next use.
        self._free.put(process if line else None)
        return json.loads(line) if line else None

    def _open(self) -> None:
        """After a fork the pipes are shared with the parent: the child starts workers of its own."""
        with self._lock:
            if self._owner != os.getpid():
                require_math_verify()
                self._started, self._free, self._owner = [], queue.SimpleQueue(), os.getpid()
                for _ in range(self.workers):
                    self._free.put(None)

    def _start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            # -P: the folder of the worker holds modules of the lab, which must not hide others of the same name.
            [sys.executable, "-P", str(WORKER), str(self.seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            # What this process can import, the worker can.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self._started.append(process)
        if _exchange(process, "") != "ready\n":
            raise RuntimeError(f"{WORKER} does not start; run it by hand with the argument 1 to see why")
        return process


def _exchange(process: subprocess.Popen[str], line: str) -> str:
    """Write `line` to a worker and read the line that it answers, empty if it has ended."""
    assert process.stdin is not None and process.stdout is not None  # both are pipes
    process.stdin.write(line)
    process.stdin.flush()
    return process.stdout.readline()


# One for the process: a task is a value that is pickled and compared, and holds no process.
VERIFIER = Verifier()
atexit.register(VERIFIER.close)
