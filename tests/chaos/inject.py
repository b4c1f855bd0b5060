"""A kill inside a save: at a chosen write, rename or removal the whole process group is ended with SIGKILL.

Nothing of this is in the lab's code: `install` wraps what every writer calls in the end. In the middle of a write, the
file holds a part of its bytes.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import safetensors.torch
import torch.serialization


KILL_AT, COUNT_IN = "CHAOS_KILL_AT", "CHAOS_COUNT_IN"


class Faults:
    """Counts operations of writers, and kills at one of them."""

    def __init__(self, kill_at: int | None, count_in: Path | None):
        self.kill_at, self.count_in, self.count = kill_at, count_in, 0

    def due(self) -> bool:
        """Whether the operation that begins is the one to be killed in; called once for each."""
        self.count += 1
        if self.count_in is not None:
            self.count_in.write_bytes(b"." * self.count)
        return self.count == self.kill_at

    def before(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, killed before it does anything: what it would have changed is as it was."""

        def wrapped(*arguments: Any, **options: Any) -> Any:
            if self.due():
                kill_group()
            return function(*arguments, **options)

        return wrapped

    def within(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A writer of the file that is its second argument, killed when half of the bytes are there."""

        def wrapped(data: Any, file: Any, *arguments: Any, **options: Any) -> Any:
            due = self.due()
            result = function(data, file, *arguments, **options)
            if due:
                os.truncate(file, os.path.getsize(file) // 2)
                kill_group()
            return result

        return wrapped


def install(kill_at: int | None, count_in: Path | None) -> None:
    """Wrap the writers of this process. kill_at: the operation, from 1. count_in: a file as long as their number."""
    faults = Faults(kill_at, count_in)
    os.replace, os.rename = faults.before(os.replace), faults.before(os.rename)
    os.fsync, os.rmdir = faults.before(os.fsync), faults.before(os.rmdir)
    safetensors.torch.serialize_file = faults.within(safetensors.torch.serialize_file)
    # torch.save writes a zip archive by way of this function; killed before it, an empty archive is left.
    torch.serialization._save = faults.before(torch.serialization._save)


def install_from_environment() -> None:
    """`install` as the environment asks for it; nothing where it does not."""
    at, count_in = os.environ.get(KILL_AT), os.environ.get(COUNT_IN)
    if (at or count_in) and os.environ.get("RANK", "0") == "0":
        install(int(at) if at else None, Path(count_in) if count_in else None)


def kill_group() -> None:
    """End this process's group; of several ranks, also the others and their launcher, whose groups are their own."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        launcher = psutil.Process().parent()
        for process in [launcher, *launcher.children()] if launcher is not None else []:
            if process.pid != os.getpid():
                process.kill()
    os.killpg(os.getpgrp(), signal.SIGKILL)
    signal.pause()
