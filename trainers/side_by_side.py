"""Python commands side by side on one machine, each with one thread: for many small runs on a CPU."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from tqdm import tqdm

from eval.errors import UserError


# Environment variable that tells a command which process started it.
STARTED_BY = "POSTTRAIN_LAB_STARTED_BY"


def side_by_side(jobs: Sequence[Callable[[], None]], processes: int, unit: str) -> None:
    """Call the jobs, `processes` at a time. The first that fails keeps those that wait from starting, and is raised.

    unit: what a job is, for the progress bar.
    """
    with ThreadPoolExecutor(processes) as pool, tqdm(total=len(jobs), unit=unit) as progress:
        futures = [pool.submit(job) for job in jobs]
        for future in futures:
            future.add_done_callback(lambda _: progress.update())
        wait(futures, return_when=FIRST_EXCEPTION)
        pool.shutdown(wait=False, cancel_futures=True)
        for future in futures:
            if not future.cancelled():
                future.result()


def run_python(folder: Path, what: str, arguments: Sequence[Any]) -> None:
    """One Python command with one thread; what it prints goes to log.txt of `folder`.

    Raises `UserError` with the last line of that log if it fails; `what` is the subject of the message.
    """
    folder.mkdir(parents=True, exist_ok=True)
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment = os.environ | one_thread | {STARTED_BY: str(os.getpid())}
    with open(folder / "log.txt", "a", encoding="utf-8") as log:
        command = [sys.executable, *map(str, arguments)]
        status = subprocess.run(command, env=environment, stdout=log, stderr=log, check=False).returncode
    if status != 0:
        last = (folder / "log.txt").read_text(encoding="utf-8").strip().splitlines()[-1:]
        raise UserError(
            f"{what} in {folder} ended with status {status} ({' '.join(last)}); see its log.txt, "
            "then start the same command again"
        )


def end_with_starter() -> None:
    """In a command that `run_python` started: end when the process that started it is gone.

    A kill of that process does not reach its commands, and a second start must not find them still writing.
    """
    starter = os.environ.get(STARTED_BY)
    if starter is None:
        return

    def watch() -> None:
        while os.getppid() == int(starter):
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
