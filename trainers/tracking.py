"""Curves of a run in a tracker: TensorBoard, trackio or Weights & Biases, through accelerate's classes for them.

Every method that generates logs on the same axis, the completions generated so far, so that the curves of runs that
differ in everything else lie on one plot; trainings that generate nothing log by step. docs/tracking.md has the names.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from eval.completions import in_utf8
from eval.errors import UserError
from eval.storage import read_jsonl, read_yaml_mapping
from trainers.arguments import check_choice


# Tracker -> the package that it needs.
PACKAGES = {"tensorboard": "tensorboard", "trackio": "trackio", "wandb": "wandb"}
# Of rows of metrics.jsonl and evaluations.jsonl, by their own names: those that ES and GRPO share, and further ones.
LOGGED = ("reward", "accuracy", "tokens", "seconds")
FURTHER = ("loss", "grad_norm", "kl", "entropy", "update_norm", "valid", "copies", "loss_train", "loss_held_out")
# What a tracker shows -> what it may be called in a row. The first is ES's name, the second TRL's.
RENAMED = {
    "length/mean": ("mean_tokens", "completions/mean_length"),
    "length/max": ("max_tokens", "completions/max_length"),
    "unfinished": ("unfinished_share", "completions/clipped_ratio"),
}
# Of a finished training, each as `final/NAME`.
FINAL = ("accuracy", "completions", "tokens", "seconds")
# Completions of an evaluation that a table shows.
TABLE_ROWS = 16
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
    and its last two parts name the run in the other trackers, which also get the options in its config.yaml.
    """

    def __init__(self, names: list[str], folder: Path):
        run_name = "-".join(Path(folder).absolute().parts[-2:])
        self.trackers: list[GeneralTracker] = []
        self.folder = Path(folder)
        self.completions: int | None = None
        for name in names:
            if name == "tensorboard":
                tracker = LOGGER_TYPE_TO_CLASS[name]("tensorboard", logging_dir=folder)
            else:
                tracker = LOGGER_TYPE_TO_CLASS[name](PROJECT, name=run_name)
            tracker.start()
            # TensorBoard would make a run of its own of them.
            if name != "tensorboard" and (Path(folder) / "config.yaml").exists():
                tracker.store_init_configuration(read_yaml_mapping(Path(folder) / "config.yaml"))
            self.trackers.append(tracker)

    def log(self, row: dict[str, Any]) -> None:
        """What `row`, of metrics.jsonl, evaluations.jsonl or of a pre-training, holds that `tracked` knows."""
        if not self.trackers:
            return
        row = self._with_share_unfinished(row)
        values = tracked(row)
        for tracker in self.trackers:
            tracker.log(values, step=_place(row))

    def log_completions(self, records: Sequence[dict[str, Any]], step: int) -> None:
        """A table of what the model wrote, where the tracker has tables. records: `evaluate_task`'s."""
        rows = [
            [in_utf8(_asked(record["prompt"])), in_utf8(record["completion"]), record["value"]]
            for record in list(records)[:TABLE_ROWS]
        ]
        columns = ["prompt", "completion", "value"]
        for tracker in self.trackers:
            if getattr(tracker, "name", "") == "wandb":
                tracker.log_table("completions", columns=columns, data=rows, step=step)  # pyright: ignore
            elif getattr(tracker, "name", "") == "trackio":
                import pandas
                import trackio  # pyright: ignore[reportMissingImports]  an extra

                tracker.log(
                    {"completions": trackio.Table(dataframe=pandas.DataFrame(rows, columns=columns))}, step=step
                )

    def summary(self, values: dict[str, float], step: int) -> None:
        """Numbers of a finished study, all at once."""
        for tracker in self.trackers:
            tracker.log(values, step=step)

    def close(self) -> None:
        """The run has come to its end: its last figures as a summary, as far as there are such."""
        if self.trackers and (final := final_figures(self.folder)):
            self.summary({f"final/{name}": final[name] for name in FINAL if name in final}, _place(final))
        for tracker in self.trackers:
            tracker.finish()

    def _with_share_unfinished(self, row: dict[str, Any]) -> dict[str, Any]:
        """ES counts the unfinished completions of a step: with their share, once it is known how many they were."""
        if "unfinished_completions" not in row:
            return row
        before, self.completions = self.completions, row["completions"]
        if before is None and row.get("step", 1) == 1:
            before = 0
        if before is None or before == row["completions"]:
            return row
        return row | {"unfinished_share": row["unfinished_completions"] / (row["completions"] - before)}


def final_figures(folder: Path) -> dict[str, Any]:
    """The last rows of metrics.jsonl and evaluations.jsonl in one; empty for a folder without steps."""
    metrics, evaluations = (read_jsonl(folder / f"{name}.jsonl") for name in ("metrics", "evaluations"))
    evaluated = {"accuracy": evaluations[-1]["accuracy"]} if evaluations else {}
    return {**metrics[-1], **evaluated} if metrics else {}


def _place(row: dict[str, Any]) -> Any:
    """Where a row lies on the axis of its run."""
    return row.get("completions", row.get("step"))


def tracked(row: dict[str, Any]) -> dict[str, Any]:
    """{name in the trackers: value} of what a row holds; the mean accuracy also of several tasks, each by its name."""
    values = {name: row[name] for name in (*LOGGED, *FURTHER) if row.get(name) is not None}
    if isinstance(by_task := values.get("accuracy"), dict):
        values |= {"accuracy": fmean(by_task.values())} | {f"accuracy/{task}": one for task, one in by_task.items()}
    for name, keys in RENAMED.items():
        values |= dict([(name, row[key]) for key in keys if row.get(key) is not None])
    for key, value in row.items():
        # TRL's name for what one of the reward functions gave.
        if key.startswith("rewards/") and key.endswith("/mean") and value is not None:
            values[f"reward/{key.removeprefix('rewards/').removesuffix('/mean')}"] = value
    return values


def comparison_summary(results: dict[str, Any]) -> dict[str, float]:
    """Accuracies, geometry, drift and barriers of a finished comparison, from its results.json."""
    geometry = results["geometry"]
    barriers = results["connectivity"]["lines"]
    return (
        {
            f"accuracy/{task}/{model}": measured["accuracy"]
            for model, tasks in results["evaluation"].items()
            for task, measured in tasks.items()
            if measured["accuracy"] is not None
        }
        | {f"length/{model}": update["norm"] for model, update in geometry["checkpoints"].items()}
        | {f"relative_length/{model}": update["relative_norm"] for model, update in geometry["checkpoints"].items()}
        | {f"cosine/{pair}": cosine["total"] for pair, cosine in geometry["cosine"].items()}
        | {
            f"kl/{task}/{model}/{direction}": measured[direction]["per_token"]
            for model, tasks in results["kl"].items()
            for task, measured in tasks.items()
            for direction in ("forward", "reverse")
        }
        | {f"reward_barrier/{pair}": line["reward_barrier"] for pair, line in barriers.items()}
        | {f"completions/{method}": training["completions"] for method, training in results["training"].items()}
    )


def _asked(prompt: Any) -> str:
    """The last message of a conversation; a text as it is."""
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])
