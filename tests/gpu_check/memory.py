"""The most memory that this process has held on its device."""

import re
from pathlib import Path

import psutil
import torch


def peak_bytes(device: str, before: int) -> int:
    """On a GPU what torch has allocated; on a CPU resident memory over `before` (see `resident_bytes`)."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if not status.exists():
        return resident_bytes() - before
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0]) * 1024 - before


def resident_bytes() -> int:
    """What this process holds now: its interpreter and libraries, where it has computed nothing yet."""
    return psutil.Process().memory_info().rss
