"""A rank that is stopped and not dead, and two starts of one run."""

import os
import shutil
import signal
import time
from pathlib import Path

import psutil

from tests.chaos.digests import differences, digests
from tests.chaos.findings import Report
from tests.chaos.scenarios import ES, MODEL, scenarios, words
from tests.chaos.starts import Process, Start, import_for_forks, run


# Seconds in which the others of a stopped rank must have ended.
LIMIT = 60
TWINS = ("es", "grpo", "sft", "rules", "pretrain", "compare", "sequential")


def ranks(report: Report, folder: Path) -> None:
    """Each of two ranks in turn gets SIGSTOP in the middle of a long run."""
    folder.mkdir(parents=True)
    options = {"model": MODEL, "task": "countdown"} | ES | {"steps": 5000, "eval_every": 0, "save_every": 500}
    for rank in (0, 1):
        if report.left < LIMIT:
            report.note(f"rank {rank}", "no time")
            continue
        target = folder / f"rank-{rank}"
        process = Process(
            Start("recipes/es.py", words(options), config="cpu_2proc").on(target), folder / f"{rank}.log"
        )
        try:
            stop_one(report, rank, process, target)
        finally:
            process.kill()


def stop_one(report: Report, rank: int, process: Process, target: Path) -> None:
    deadline = time.monotonic() + 120
    while not (target / "metrics.jsonl").exists():
        if time.monotonic() > deadline or process.wait(0.2) is not None:
            report.case(False, f"rank {rank}: the run did not begin to train")
            return
    stopped, others = one_and_others(process.pid, rank)
    stopped.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    # The launcher waits for the stopped one, so it is the other ranks that must have gone.
    gone, alive = psutil.wait_procs(others, timeout=LIMIT + 30)
    seconds = time.monotonic() - began
    text = process.log.read_text(encoding="utf-8", errors="replace")
    lines = [line for line in text.split("\n") if line.startswith("error:")]
    right = not alive and seconds <= LIMIT and len(lines) == 1 and "Traceback" not in text
    ended = "is still there" if alive else "ended"
    report.case(
        right,
        f"rank {rank} stopped: the other {ended} after {seconds:.0f} s; {len(lines)} lines of error: {lines[:1]}",
    )
    report.note(f"rank {rank}", f"{ended} after {seconds:.0f} s")


def one_and_others(launcher: int, rank: int) -> tuple[psutil.Process, list[psutil.Process]]:
    """The process of this rank, and those of the other ranks."""
    found = {}
    for child in psutil.Process(launcher).children(recursive=True):
        number = child.environ().get("RANK")
        if number is not None and "launched.py" in " ".join(child.cmdline()):
            found[int(number)] = child
    return found.pop(rank), list(found.values())


def twins(report: Report, folder: Path) -> None:
    """The second start of a run must end in one line that names host and process, and leave the first alone."""
    known = {name: start for name, start in scenarios(folder / "methods").items() if name in TWINS}
    import_for_forks([start.script for start in known.values()])
    for name, start in known.items():
        if report.left < 10:
            report.note(name, "no time")
            continue
        alone = run(start.on(folder / name / "alone"), folder / f"{name}-alone.log")
        target = folder / name / "both"
        first = Process(start.on(target), folder / f"{name}-first.log")
        while not (target / "config.yaml").exists() and first.wait(0.05) is None:
            pass
        second = run(start.on(target), folder / f"{name}-second.log")
        ended = first.wait(300)
        if ended is None:
            first.kill()
        named = os.uname().nodename in second.text and str(first.pid) in second.text
        right = second.status == 2 and second.one_line and named
        report.case(right, f"{name}: the second start ended with {second.told()}")
        if ended is not None and ended.status == alone.status == 0:
            different = differences(digests(folder / name / "alone"), digests(target))
            report.case(not different, f"{name}: with a twin {len(different)} files of the first differ")
        else:
            report.case(False, f"{name}: with a twin the first ended with {ended.told() if ended else 'nothing'}")
        shutil.rmtree(folder / name)
