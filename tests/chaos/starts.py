"""Starting a recipe, as a command or as a fork of this process, in a process group of its own.

A fork has the imports behind it, which are most of what a tiny run costs. Where several processes or vLLM are
needed, it is the command that people type.
"""

import importlib
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from eval.errors import exit_with_one_line
from tests.chaos import inject
from tests.recipe_files import ROOT, load_script


@dataclass(frozen=True)
class Start:
    """A start of a recipe. config: the file of accelerate_configs that launches it, None for a fork of this process.

    limit: bytes that a file of it may have, None for any.
    """

    script: str
    words: Sequence[str]
    config: str | None = None
    limit: int | None = None

    def on(self, folder: Path) -> "Start":
        """The same in another run folder."""
        return replace(self, words=[*self.words, "--output_dir", str(folder)])


@dataclass(frozen=True)
class Ending:
    """How a start ended. status: its exit status, negative for a signal. text: everything that it wrote on stderr."""

    status: int
    text: str
    seconds: float

    @property
    def lines(self) -> list[str]:
        return [line.strip() for line in self.text.replace("\r", "\n").split("\n") if line.startswith("error:")]

    @property
    def traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.text

    @property
    def one_line(self) -> bool:
        """Whether it ended as a mistake of the user does. A launcher turns exit status 2 into 1."""
        return self.status in (1, 2) and len(self.lines) == 1 and not self.traceback

    def told(self) -> str:
        """Its last words, for a finding."""
        words = self.lines or [line for line in self.text.strip().split("\n") if line]
        return f"status {self.status}: {words[-1][:240] if words else 'nothing on stderr'}"


class Process:
    """A started process group, whose leader's end can be waited for."""

    def __init__(self, start: Start, log: Path, kill_at: int | None = None, count_in: Path | None = None):
        self.log, self.began = log, time.monotonic()
        environment = {inject.KILL_AT: kill_at, inject.COUNT_IN: count_in}
        chosen = {name: str(value) for name, value in environment.items() if value is not None}
        self.status: int | None = None
        if start.config is None:
            self.pid = _fork(start, log, kill_at, count_in)
            return
        accelerate = str(Path(sys.executable).with_name("accelerate"))
        words = [accelerate, "launch", "--quiet", "--config_file", f"accelerate_configs/{start.config}.yaml"]
        # Two launches at the same time need two ports.
        words += ["--main_process_port", str(20000 + os.getpid() % 20000 + int(time.monotonic()) % 1000)]
        command = [*words, "tests/chaos/launched.py", start.script, *start.words]
        with open(log, "wb") as file:
            self.pid = subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                stderr=file,
                start_new_session=True,
                env=os.environ | chosen,
            ).pid

    def wait(self, seconds: float) -> Ending | None:
        """Its ending, or None if it still runs after so many seconds."""
        deadline = time.monotonic() + seconds
        while self.status is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                self.status = os.waitstatus_to_exitcode(status)
            elif time.monotonic() >= deadline:
                return None
            else:
                time.sleep(0.01)
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        return Ending(self.status, text, time.monotonic() - self.began)

    def kill(self) -> None:
        """SIGKILL to the whole group and to all that it started, and wait until they are gone.

        The launcher of several processes puts each into a group of its own.
        """
        try:
            started = psutil.Process(self.pid).children(recursive=True)
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, psutil.NoSuchProcess):
            started = []
        for process in started:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass
        _, alive = psutil.wait_procs(started, timeout=30)
        if self.wait(30) is None or alive:
            raise RuntimeError(f"process {self.pid} or one that it started has outlived SIGKILL")


def run(start: Start, log: Path, seconds: float = 300, **faults: int | Path | None) -> Ending:
    """Start and wait; what still runs after `seconds` is killed, and its status is then -9."""
    process = Process(start, log, **faults)
    ending = process.wait(seconds)
    if ending is None:
        process.kill()
        ending = process.wait(1)
    assert ending is not None
    return ending


def import_for_forks(scripts: Sequence[str]) -> None:
    """Have the imports of these scripts behind this process. It must not compute: threads do not survive a fork."""
    for script in sorted(set(scripts)):
        load_script(script)
    for module in ("trl.trainer.grpo_trainer", "trl.trainer.sft_trainer", "transformers.models.llama.modeling_llama"):
        importlib.import_module(module)


def _fork(start: Start, log: Path, kill_at: int | None, count_in: Path | None) -> int:
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.setsid()
        with open(log, "wb", buffering=0) as file, open(os.devnull, "wb") as nowhere:
            os.dup2(file.fileno(), 2)
            os.dup2(nowhere.fileno(), 1)
        if start.limit is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (start.limit, start.limit))
        os.chdir(ROOT)
        if kill_at is not None or count_in is not None:
            inject.install(kill_at, count_in)
        sys.argv = [start.script, *start.words]
        exit_with_one_line(load_script(start.script).main)
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)
