"""Jobs side by side on one machine, each in a process of its own with one thread: for many small runs on a CPU."""

import io
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, BrokenExecutor, ProcessPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from eval.errors import UserError
from eval.interrupts import follow_starter
from eval.quiet import quiet_libraries


# Read by the libraries when the server that all jobs are forked from loads them.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def side_by_side(
    jobs: dict[Path, partial], processes: int, unit: str, stop_at_failure: bool = True
) -> dict[Path, Any]:
    """Call the jobs, `processes` at a time; returns {folder: what its job returned}.

    jobs: {folder: call of a module's own function}. What a job prints goes to log.txt of its folder. unit: what a job
    is, for the progress bar. stop_at_failure: jobs that wait do not start after the first failure.

    Raises the `UserError` of a job that failed, when those that run have ended.
    """
    context = multiprocessing.get_context("forkserver")
    # A server that has imported torch once and has done nothing else.
    context.set_forkserver_preload(sorted({job.func.__module__ for job in jobs.values()}))
    os.environ |= ONE_THREAD
    with (
        ProcessPoolExecutor(processes, context, initializer=_begin, max_tasks_per_child=1) as pool,
        tqdm(total=len(jobs), unit=unit) as progress,
    ):
        futures = {folder: pool.submit(_logged, Path(folder), job) for folder, job in jobs.items()}
        for future in futures.values():
            future.add_done_callback(lambda _: progress.update())
        if stop_at_failure:
            wait(futures.values(), return_when=FIRST_EXCEPTION)
            pool.shutdown(wait=True, cancel_futures=True)
    failures = [future.exception() for future in futures.values() if not future.cancelled()]
    for failure in filter(None, failures):
        if isinstance(failure, BrokenExecutor):
            raise UserError(f"the process of a {unit} was killed, by lack of memory perhaps; start again to go on")
        raise failure
    return {folder: future.result() for folder, future in futures.items()}


def _begin() -> None:
    """In a job's process: one thread."""
    torch.set_num_threads(1)
    quiet_libraries()
    follow_starter()


def _logged(folder: Path, job: Callable[[], Any]) -> Any:
    """The job's result, and its output in log.txt of `folder`. A failure becomes a `UserError` of one line."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "log.txt", "a", encoding="utf-8") as log:
            os.dup2(log.fileno(), sys.stdout.fileno())
            os.dup2(log.fileno(), sys.stderr.fileno())
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(line_buffering=True)
        return job()
    except Exception as error:
        traceback.print_exc()
        sys.stderr.flush()
        reason = " ".join(str(error).split())
        if not isinstance(error, UserError):
            reason = f"{type(error).__name__}: {reason}; see its log.txt"
        raise UserError(f"{folder} failed: {reason}; then start the same command again to go on") from None
