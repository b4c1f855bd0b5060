"""More of a run of one of TRL's trainers: whether the steps that are done would have been the same, and from where on.

A run that is given more steps ends with the weights of a run of that length from the start, bit for bit. What would
have made its past another one is refused by name.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import SchedulerType, TrainingArguments

from eval.errors import UserError
from eval.ownership import remove_made
from eval.storage import read_json, read_yaml_mapping, truncate_jsonl, write_json
from trainers.evaluated import drop_evaluated_after
from trainers.launch import is_main_process, wait_for_everyone
from trainers.trl_run import MARKER, complete_checkpoints, step_of


# Learning rates that do not go by how long the run will be.
WITHOUT_LENGTH = ("constant", "constant_with_warmup", "inverse_sqrt")


def options_before(folder: Path, option: str, config: TrainingArguments) -> dict[str, Any] | None:
    """The options of the run in `folder`, if `config` asks for more of it by `option`; None if it does not.

    Raises `UserError` for less of it, and for a learning rate that goes by the length.
    """
    file = Path(folder) / "config.yaml"
    before = read_yaml_mapping(file) if file.exists() else {}
    if before.get(option) in (None, getattr(config, option)):
        return None
    change = f"{option} was {before[option]}, now {getattr(config, option)}"
    if getattr(config, option) < before[option]:
        raise UserError(
            f"{change}, but a run is made longer, never shorter; give at least that, or another output_dir"
        )
    schedule = SchedulerType(config.lr_scheduler_type).value
    if schedule not in WITHOUT_LENGTH or 0 < config.warmup_steps < 1:
        name = "lr_scheduler_type " + schedule if schedule not in WITHOUT_LENGTH else "warmup_steps below 1"
        raise UserError(
            f"{change}, but {name} goes by the length of the run: the steps that are done would have been others; "
            f"begin a new run with model: {folder}/model and optimizer_from: {folder}, in another output_dir"
        )
    return before


def goes_on(folder: Path, steps: int) -> bool:
    """Whether the run in `folder` has ended with its last step, and `steps` are more than it has made."""
    newest = max(complete_checkpoints(folder), key=step_of, default=None)
    return newest is not None and step_of(newest) < steps and read_json(newest / MARKER)["ended_by"] == "steps"


def reopen(folder: Path, steps: int, eval_every: int, usable: Callable[[int], bool]) -> None:
    """Let a complete run go on from its newest checkpoint that a longer run would have had as well.

    usable: whether a checkpoint after so many steps is one. The evaluation at the end goes, unless a longer run makes
    it too. Every process calls this.
    """
    if is_main_process() and goes_on(folder, steps):
        newest = max(complete_checkpoints(folder), key=step_of)
        step = step_of(newest)
        print(f"{folder}: complete after {step} steps; it goes on", flush=True)
        (folder / "results.json").unlink(missing_ok=True)
        for name in ("model", "adapter"):
            if (folder / name).exists():
                remove_made(folder / name)
        if eval_every and step % eval_every:
            truncate_jsonl(folder / "evaluations.jsonl", step - 1)
            drop_evaluated_after(folder, step - 1)
        if usable(step):
            write_json(newest / MARKER, read_json(newest / MARKER) | {"ended_by": None})
        else:
            remove_made(newest)
    wait_for_everyone()
