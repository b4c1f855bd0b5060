"""One run at a time in a folder: a lock that its main process holds.

The system lets go of the lock when the process ends, however it ends, so that a kill leaves no obstacle. The lock's
file says who holds it. A child of a killed process may still hold it for a while; that is no run, and is passed over.
"""

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from eval.errors import UserError


LOCK = ".posttrain-lab.lock"
# Of this process; a forked child holds none of its parent's.
_held: dict[tuple[int, Path], FileLock] = {}


def lock_run(folder: Path) -> None:
    """Hold the lock of `folder` until `unlock_run` or the end of this process; once more is no more.

    Raises `UserError` with host, process and start of the run that holds it.
    """
    key = (os.getpid(), Path(folder).resolve())
    if key in _held:
        return
    path = key[1] / LOCK
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        holder = _read_holder(path)
        if not _is_gone(holder):
            raise _in_use(folder, holder) from None
        path.unlink(missing_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise _in_use(folder, _read_holder(path)) from None
    process = psutil.Process()
    holder = {"host": socket.gethostname(), "pid": process.pid, "created": process.create_time(), "since": time.time()}
    path.write_text(json.dumps(holder) + "\n", encoding="utf-8")
    _held[key] = lock


def unlock_run(folder: Path) -> None:
    """Let go of the lock of `folder`, if this process holds it."""
    if (lock := _held.pop((os.getpid(), Path(folder).resolve()), None)) is not None:
        lock.release()


def _read_holder(path: Path) -> dict[str, Any]:
    """What the lock's file says; {} if its holder has not written yet."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) and {"host", "pid", "created", "since"} <= holder.keys() else {}


def _is_gone(holder: dict[str, Any]) -> bool:
    """Whether the process ran on this machine and has ended; another may have its number by now."""
    if not holder or holder["host"] != socket.gethostname():
        return False
    try:
        process = psutil.Process(holder["pid"])
        return abs(process.create_time() - holder["created"]) > 1 or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _in_use(folder: Path, holder: dict[str, Any]) -> UserError:
    who = "by a run that has just started"
    if holder:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["since"]))
        who = f"by a run on {holder['host']}, process {holder['pid']}, since {since}"
    return UserError(f"{folder} is in use {who}; wait for it to end, stop it, or choose another output_dir")
