"""A disk that is full: the run ends in one line, and goes on once there is room."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tests.chaos.digests import differences, digests
from tests.chaos.findings import Report
from tests.chaos.scenarios import scenarios
from tests.chaos.starts import Start, import_for_forks, run


FILLED = ("es", "grpo", "sft", "rules", "pretrain", "compare")
MEGABYTE = 1 << 20


def disk(report: Report, folder: Path) -> None:
    """Fill the disk at several moments of each run; on a small tmpfs where one may be mounted, else by file size."""
    known = {name: start for name, start in scenarios(folder / "methods").items() if name in FILLED}
    import_for_forks([start.script for start in known.values()])
    with small_disk(folder / "small") as small:
        report.note("on", "a tmpfs" if small else f"files of limited size ({why_no_tmpfs()})")
        for name, start in known.items():
            if report.left < 20:
                report.note(name, "no time")
                continue
            fill(report, name, start, folder / name, small)


def fill(report: Report, name: str, start: Start, folder: Path, small: Path | None) -> None:
    """Two moments: room for a third and for two thirds of what the finished run holds; of file sizes likewise."""
    folder.mkdir(parents=True)
    reference = run(start.on(folder / "reference"), folder / "reference.log")
    if reference.status != 0:
        report.case(False, f"{name}: the reference did not finish, {reference.told()}")
        return
    expected = digests(folder / "reference")
    sizes = [path.stat().st_size for path in (folder / "reference").rglob("*") if path.is_file()]
    for third in (1, 2):
        target = (small or folder) / f"run-{third}"
        log = folder / f"run-{third}.log"
        if small:
            with ballast(small, room=sum(sizes) * third // 3):
                ending = run(start.on(target), log)
        else:
            ending = run(replace(start.on(target), limit=max(sizes) * third // 3), log)
        stopped = ending.status == 2 and ending.one_line
        report.case(stopped, f"{name}: with no room left it ended with {ending.told()}")
        ending = run(start.on(target), log)
        report.case(ending.status == 0, f"{name}: with room again it did not finish, {ending.told()}")
        if ending.status == 0:
            different = differences(expected, digests(target))
            report.case(not different, f"{name}: after a full disk these differ: {different[:4]}")
        shutil.rmtree(target, ignore_errors=True)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """A tmpfs of 96 MB, or None where none can be mounted."""
    folder.mkdir(parents=True)
    if os.geteuid() != 0 or shutil.which("mount") is None:
        yield None
        return
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=False)


def why_no_tmpfs() -> str:
    return "not root" if os.geteuid() != 0 else "mounting is not allowed here"


@contextmanager
def ballast(disk: Path, room: int) -> Iterator[None]:
    """Fill the disk up to `room` bytes inside the block."""
    free = shutil.disk_usage(disk).free
    file = disk / "ballast"
    with open(file, "wb") as opened:
        os.posix_fallocate(opened.fileno(), 0, max(free - room, 1))
    try:
        yield
    finally:
        file.unlink()
