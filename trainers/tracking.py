"""Curves of a run in a tracker: TensorBoard, trackio or Weights & Biases, through accelerate's classes for them.

Every method logs the same four numbers on the same axis, the completions generated so far, so that the curves of runs
that differ in everything else lie on one plot: `reward` (mean of the step's completions), `accuracy` (greedy, on
validation problems), `tokens` (generated so far) and `seconds` (of training so far).
"""

import importlib.util
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from eval.errors import UserError
from trainers.arguments import check_choice


# Tracker -> the package that it needs.
PACKAGES = {"tensorboard": "tensorboard", "trackio": "trackio", "wandb": "wandb"}
LOGGED = ("reward", "accuracy", "tokens", "seconds")
PROJECT = "posttrain-lab"


def tracker_names(report_to: str | list[str] | None) -> list[str]:
    """The trackers of the option `report_to`, a name or a list of names; none for "none".

    Raises `UserError` for a name that is none of `PACKAGES`, and for one whose package is missing.
    """
    names = [report_to] if isinstance(report_to, str) else report_to or []
    if names == ["none"]:
        return []
    for name in names:
        check_choice("report_to", name, ("none", *PACKAGES))
        if name == "none":
            raise UserError(f"report_to is {', '.join(names)}; give none alone, or the trackers without it")
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise UserError(
                f"report_to: {name} needs the package {PACKAGES[name]}; install it (pip install -e '.[track]' holds "
                "tensorboard and trackio), or write report_to: none"
            )
    return list(dict.fromkeys(names))


class Tracking:
    """The trackers of one run; to be made on the main process only.

    names: as `tracker_names` gives them. folder: the run folder; TensorBoard's files go to its folder tensorboard/,
    and its last two parts name the run in the other trackers.
    """

    def __init__(self, names: list[str], folder: Path):
        run_name = "-".join(Path(folder).absolute().parts[-2:])
        self.trackers: list[GeneralTracker] = []
        for name in names:
            if name == "tensorboard":
                tracker = LOGGER_TYPE_TO_CLASS[name]("tensorboard", logging_dir=folder)
            else:
                tracker = LOGGER_TYPE_TO_CLASS[name](PROJECT, name=run_name)
            tracker.start()
            self.trackers.append(tracker)

    def log(self, row: dict[str, Any]) -> None:
        """What `row`, of metrics.jsonl or evaluations.jsonl, holds of `LOGGED`, at its `completions`."""
        values = {name: row[name] for name in LOGGED if row.get(name) is not None}
        for tracker in self.trackers:
            tracker.log(values, step=row["completions"])

    def close(self) -> None:
        for tracker in self.trackers:
            tracker.finish()
