"""Ctrl-C (SIGINT) ends a command in one line that says how to go on, with status 130 and without a traceback.

It ends at once, whatever the main thread does: a KeyboardInterrupt would wait in a collective operation for another
process that has ended already, and be swallowed in a callback of a library. Nothing is lost by that, because a run
survives being killed at any moment.
"""

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from collections.abc import Callable


STATUS = 128 + signal.SIGINT
# Seconds. The processes of a run get the signal one after the other, and none may take another's end for a failure.
GRACE = 0.3

# What says how to go on; the last one speaks.
_advisers: list[Callable[[], str]] = []
_interrupted = threading.Event()


def is_interrupted() -> bool:
    """Whether this process is about to end because of Ctrl-C."""
    return _interrupted.is_set()


def advise(adviser: Callable[[], str]) -> None:
    """Let `adviser` say from now on what is printed on Ctrl-C; the newest one does."""
    _advisers.append(adviser)


def end_advice(adviser: Callable[[], str]) -> None:
    """Let `adviser`, and those that came after it, say no more."""
    if adviser in _advisers:
        del _advisers[_advisers.index(adviser) :]


def end_on_interrupt() -> None:
    """From now on Ctrl-C ends this process in one line.

    Does nothing where SIGINT is ignored, as in a job in the background, or is handled by someone else.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    # Python writes the number of each signal into it, also while the main thread is in a library's code.
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, lambda *_: None)
    threading.Thread(target=_wait, args=(reading,), name="interrupts", daemon=True).start()


def follow_starter() -> None:
    """In a job's process: Ctrl-C is left to the process that asked for the job, and the job ends when that is gone.

    A signal or a kill of that process need not reach its jobs, and a second start must not find them still writing.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    starter = multiprocessing.parent_process()
    if starter is None:
        raise RuntimeError("this process was not started as a job")

    def watch() -> None:
        multiprocessing.connection.wait([starter.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _wait(reading: int) -> None:
    while os.read(reading, 1)[0] != signal.SIGINT:
        pass
    _interrupted.set()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        time.sleep(GRACE)
    if int(os.environ.get("RANK", "0")) == 0:
        _say()
    os._exit(STATUS)


def _say() -> None:
    try:
        words = _advisers[-1]() if _advisers else "interrupted"
    except Exception:  # such as a log that is half written: nothing may come in the way of the end
        words = "interrupted"
    sys.stdout.flush()
    # The terminal shows ^C, and perhaps a bar, in the line where the cursor is.
    print(f"{chr(10) if sys.stderr.isatty() else ''}{words}", file=sys.stderr, flush=True)
