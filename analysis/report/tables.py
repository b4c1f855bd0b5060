"""The tables of the report. Every number in them is one value of `results.json`, and says which."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from analysis.report.numbers import count, fixed, percent, points, significant
from analysis.report.results import (
    Location,
    Results,
    label,
    lookup,
    methods,
    models,
    pair_label,
    tasks,
)


@dataclass(frozen=True)
class Cell:
    """text: as shown. location: where the number stands in `results.json`; None for words."""

    text: str
    location: Location | None = None


@dataclass(frozen=True)
class Table:
    """title: what it holds. columns: headings. rows: as many cells each as there are columns. note: a line below."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


def value(results: Results, location: Location, write: Callable[..., str]) -> Cell:
    """The number at `location` as `write` writes it."""
    return Cell(write(lookup(results, *location)), location)


def accuracies(results: Results) -> Table:
    """Every model on every task."""
    trained = lookup(results, "task")
    rows = []
    for task in tasks(results):
        for model in models(results):
            at = ("evaluation", model, task)
            if lookup(results, *at):
                rows.append(
                    [
                        Cell(f"{label(task)} (trained)" if task == trained else label(task)),
                        Cell(label(model)),
                        value(results, (*at, "accuracy"), percent),
                        value(results, (*at, "low"), percent),
                        value(results, (*at, "high"), percent),
                        value(results, (*at, "correct"), count),
                        value(results, (*at, "total"), count),
                        value(results, (*at, "mean_tokens"), fixed_one),
                        value(results, (*at, "unfinished"), count),
                    ]
                )
    columns = ["Task", "Model", "Accuracy", "Low", "High", "Correct", "Examples", "Mean tokens", "Cut off"]
    return Table("Accuracy on held-out examples", columns, rows)


def updates(results: Results) -> Table:
    """How long each update is and how many parameters it touches."""
    rows = []
    for method in methods(results):
        at = ("geometry", "checkpoints", method)
        if lookup(results, *at):
            rows.append(
                [
                    Cell(label(method)),
                    value(results, (*at, "norm"), significant),
                    value(results, (*at, "relative_norm"), percent_two),
                    value(results, ("random_walk", method, "predicted_norm"), significant),
                    value(results, (*at, "changed_share"), percent),
                    value(results, (*at, "changed_share_bf16"), percent),
                ]
            )
    parameters = count(lookup(results, "geometry", "parameters"))
    base_norm = significant(lookup(results, "geometry", "base_norm"))
    columns = ["Method", "Length", "Relative to base", "Random walk", "Parameters changed", "Changed in bf16"]
    note = f"The model has {parameters} parameters; the base weights have length {base_norm}."
    return Table("Size of the updates", columns, rows, note)


def updates_by_kind(results: Results) -> Table:
    """Relative length of each update by kind of matrix, over all layers."""
    shown = [method for method in methods(results) if lookup(results, "geometry", "checkpoints", method, "per_kind")]
    at = {method: ("geometry", "checkpoints", method, "per_kind") for method in shown}
    kinds = list(dict.fromkeys(kind for method in shown for kind in lookup(results, *at[method])))
    rows = [
        [Cell(kind)]
        + [value(results, (*at[method], kind, "norm"), significant) for method in shown]
        + [value(results, (*at[method], kind, "relative_norm"), percent_two) for method in shown]
        for kind in kinds
    ]
    columns = ["Kind of matrix", *[f"{label(m)} length" for m in shown], *[f"{label(m)} relative" for m in shown]]
    return Table("Updates by kind of matrix, all layers together", columns, rows)


def cosines(results: Results) -> Table:
    """Orientation of the updates, over all parameters."""
    rows = [
        [
            Cell(pair_label(pair)),
            value(results, ("geometry", "cosine", pair, "total"), four_decimals),
            value(results, ("geometry", "cosine", pair, "null_std"), four_decimals),
        ]
        for pair in lookup(results, "geometry", "cosine") or {}
    ]
    return Table("Orientation of the updates", ["Pair", "Cosine", "Chance (standard deviation)"], rows)


def divergences(results: Results) -> Table:
    """KL divergence to the base in both directions."""
    rows = []
    for task in tasks(results):
        for method in methods(results):
            for direction, entry in (lookup(results, "kl", method, task) or {}).items():
                at = ("kl", method, task, direction)
                if entry:
                    rows.append(
                        [
                            Cell(label(task)),
                            Cell(label(method)),
                            Cell(entry["direction"]),
                            *(value(results, (*at, f"per_token{end}"), significant) for end in ("", "_low", "_high")),
                            *(
                                value(results, (*at, f"per_sequence{end}"), significant)
                                for end in ("", "_low", "_high")
                            ),
                            value(results, (*at, "sequences"), count),
                            value(results, (*at, "tokens"), count),
                        ]
                    )
    columns = [
        "Task",
        "Model",
        "Direction",
        "Per token",
        "Low",
        "High",
        "Per completion",
        "Low",
        "High",
        "Completions",
        "Tokens",
    ]
    return Table("KL divergence to the base, in nats", columns, rows)


def lines(results: Results) -> Table:
    """The ends and the barriers of every straight line."""
    rows = []
    for pair, line in (lookup(results, "connectivity", "lines") or {}).items():
        if line:
            at, last = ("connectivity", "lines", pair), str(len(line["ts"]) - 1)
            total = (*at, "reward_total")
            rows.append(
                [
                    Cell(pair_label(pair)),
                    value(results, (*at, "reward", "0"), percent),
                    value(results, (*at, "reward", last), percent),
                    value(results, (*at, "reward_barrier"), points),
                    value(results, (*at, "loss", "0"), significant),
                    value(results, (*at, "loss", last), significant),
                    value(results, (*at, "loss_barrier"), significant),
                    value(results, (*total, "0") if isinstance(line["reward_total"], list) else total, count),
                ]
            )
    columns = [
        "Line",
        "Reward at start",
        "Reward at end",
        "Reward barrier",
        "Loss at start",
        "Loss at end",
        "Loss barrier",
        "Examples",
    ]
    return Table("Straight lines between the models", columns, rows)


def budgets(results: Results) -> Table:
    """What each method spent."""
    rows = [
        [
            Cell(label(method)),
            *(
                value(results, ("training", method, key), count)
                for key in ("steps", "completions", "tokens", "seconds")
            ),
        ]
        for method in methods(results)
        if lookup(results, "training", method)
    ]
    return Table("Budget", ["Method", "Steps", "Completions", "Tokens generated", "Seconds"], rows)


def settings(results: Results, section: str, title: str) -> Table:
    """A flat section of words and numbers, as it stands."""
    rows = [
        [Cell(key), Cell("n/a" if entry is None else str(entry), (section, key))]
        for key, entry in (lookup(results, section) or {}).items()
    ]
    return Table(title, ["Name", "Value"], rows)


def fixed_one(number: float | None) -> str:
    return fixed(number, 1)


def four_decimals(number: float | None) -> str:
    return fixed(number, 4)


def percent_two(number: float | None) -> str:
    return percent(number, 2)
