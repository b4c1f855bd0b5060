"""Processes with a time limit, and what of their words may be sent to others."""

import getpass
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from eval.secrets import hide
from tests.recipe_files import ROOT


# The folder in which each process of a launch leaves what it was and took.
RANKS = "POSTTRAIN_LAB_GPU_CHECK"


@dataclass(frozen=True)
class Ending:
    """status: None for a process that was ended at its limit, negative for one that a signal ended."""

    status: int | None
    text: str
    seconds: float


def run(command: Sequence[str], seconds: float, environment: Mapping[str, str]) -> Ending:
    """Run a command in the repository; at the limit it is ended, and all that it has started."""
    began = time.monotonic()
    with tempfile.TemporaryFile() as log, started(command, environment, log) as process:
        try:
            status: int | None = process.wait(max(seconds, 0.0))
        except subprocess.TimeoutExpired:
            status = None
        log.seek(0)
        text = log.read().decode("utf-8", errors="replace")
    return Ending(status, text, time.monotonic() - began)


@contextmanager
def started(command: Sequence[str], environment: Mapping[str, str], log: Any) -> Iterator[subprocess.Popen]:
    """Inside the block the command runs; after it neither it nor anything that it started does."""
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        end_tree(process)


def end_tree(process: subprocess.Popen) -> None:
    """SIGKILL to the process and to all below it: a launcher puts its processes into groups of their own."""
    try:
        below = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        below = []
    if process.poll() is None:
        process.kill()
    for child in below:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            pass
    process.wait()
    psutil.wait_procs(below, timeout=10)


# How a line begins that says why a process ended, behind the mark of a rank or of vLLM's engine; not torchrun's own.
_REASON = re.compile(r"^(?:\[[^\]]*\]:?\s*|\([^)]*\)\s*)*(?:\w+ \d\d-\d\d [\d:]+ \[[^\]]*\] )?")
_ERROR = re.compile(r"(?:error: |WRONG |[\w.]*(?:Error|Exception|Interrupt)\b: ?)")
_OF_LAUNCHERS = ("ChildFailedError", "CalledProcessError")


def error_line(text: str) -> str:
    """The line that says best why a process with this output failed: the last error of it, else its last line."""
    lines = [_REASON.sub("", line.strip()) for line in text.replace("\r", "\n").split("\n") if line.strip()]
    errors = [line for line in lines if _ERROR.match(line) and not any(name in line for name in _OF_LAUNCHERS)]
    return clean((errors or lines or ["it said nothing"])[-1])[:300]


_PATH = re.compile(r"(?<![\w./:])~?(?:/[^\s/:'\",;()\[\]{}<>|]+)+/?")
_ADDRESS = re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}\b")


def clean(text: str) -> str:
    """The text without secrets, paths (their last name stays), addresses, and the names of host and user."""
    text = _PATH.sub(lambda path: f".../{path[0].rstrip('/').rpartition('/')[2]}", hide(text))
    text = _ADDRESS.sub("ADDRESS", text)
    for name, word in own_names().items():
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", word, text)
    return text


def own_names() -> dict[str, str]:
    """Names of this machine and of who uses it, and what stands in their place."""
    host = socket.gethostname()
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = ""
    names = {host: "HOST", host.partition(".")[0]: "HOST", user: "USER", Path.home().name: "USER"}
    # What is so called everywhere says nothing, and stands in other words.
    return {name: word for name, word in names.items() if len(name) > 2 and name not in ("root", "localhost", "user")}


def cleaned(value: Any) -> Any:
    """A value as JSON holds it, every text of it `clean`."""
    if isinstance(value, Mapping):
        return {key: cleaned(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [cleaned(item) for item in value]
    return clean(value) if isinstance(value, str) else value
