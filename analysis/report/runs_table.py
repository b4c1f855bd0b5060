"""One table from the results.json of many runs: a row for each run, a column for each number."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from analysis.report.markdown import text as plain
from analysis.report.results import printable
from eval.errors import UserError
from eval.results_file import Results, kind_of, read_results_file


# Parts of the results.json of a comparison whose presence is told, in this order.
SECTIONS = (
    "evaluation",
    "geometry",
    "spectra",
    "trajectory",
    "connectivity",
    "layer_lines",
    "kind_lines",
    "plane",
    "probes",
    "kl",
    "kl_matrices",
    "theory",
)
TABLE_NOTE = """
Accuracy: of the finished models, greedy decoding on the test problems of the trained task. KL: exact over the
vocabulary, in nats per token, at completions that the model before the bars sampled at temperature 1; on-task over
prompts of the trained task, off-task the plain mean over all other tasks and texts of the run. Norms: Euclidean, of
the whole update. Barriers: on the straight line, reward as a share of 1, loss in nats per token. In brackets: 95 %
intervals within one run.
"""


def runs_table(folder: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns and rows of the table of all runs in a folder, at any depth; a row is {column: value}.

    A run is a folder with a results.json, or with a config.yaml and no results.json yet: such a run is listed as
    unfinished. Columns of one kind (accuracies, norms, ...) stand together, for all models of all runs. A value with
    an interval is followed by its " low" and " high".

    Raises UserError if there is no run.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give a folder with runs in it")
    runs = sorted({path.parent for name in ("results.json", "config.yaml") for path in folder.rglob(name)})
    if not runs:
        raise UserError(f"there is no run in {folder}: no folder below it has a results.json or a config.yaml")
    groups: list[list[dict[str, Any]]] = [run_columns(run, str(run.relative_to(folder))) for run in runs]
    columns = list(dict.fromkeys(column for group in zip(*groups, strict=True) for row in group for column in row))
    return columns, [{column: value for group in row for column, value in group.items()} for row in groups]


def run_columns(run: Path, name: str) -> list[dict[str, Any]]:
    """{column: value} of one run, for each kind of column; {} for what it does not hold."""
    name = printable(name)
    nothing: list[dict[str, Any]] = [{}] * 5
    if not (run / "results.json").exists():
        return [{"run": name, "status": "unfinished: no results.json"}, *nothing]
    try:
        results = printable(read_results_file(run / "results.json"))
    except UserError:
        return [{"run": name, "status": "unreadable: results.json is not JSON"}, *nothing]
    sections = {key: value for key, value in results.items() if isinstance(value, dict)}
    task = results.get("task", sections.get("connectivity", {}).get("task"))
    status = status_of(results)
    told = {"run": name, "status": status, "task": task, "seed": sections.get("config", {}).get("seed")}
    if kind_of(results) != "comparison":
        return [told, *nothing]
    if "kl" in sections and task is None:
        told["status"] = f"{status}; its KL is left out, as the trained task is not stated"
    cosines = sections.get("geometry", {}).get("cosine", {})
    return [
        told,
        accuracy_columns(sections.get("evaluation", {}), task),
        norm_columns(sections.get("geometry", {})),
        {f"cosine {names(pair)}": value["total"] for pair, value in cosines.items()},
        {} if task is None else kl_columns(sections.get("kl", {}), task),
        barrier_columns(sections.get("connectivity", {})),
    ]


def measured_sections(results: Results) -> list[str]:
    """What a comparison holds; nothing for results of another kind."""
    if kind_of(results) != "comparison":
        return []
    return [key for key in SECTIONS if isinstance(results.get(key), dict)]


def status_of(results: Results) -> str:
    kind, measured = kind_of(results), measured_sections(results)
    if kind in ("comparison", "training"):
        return f"finished: {', '.join(measured)}" if measured else "finished: nothing compared"
    return f"finished: {kind}"


def accuracy_columns(evaluation: dict[str, Any], task: str | None) -> dict[str, Any]:
    """Accuracy of every model on the trained task."""
    evaluated = {model: tasks[task] for model, tasks in evaluation.items() if task in tasks}
    return {
        f"accuracy {model}{end}": result[key]
        for model, result in evaluated.items()
        for end, key in (("", "accuracy"), (" low", "low"), (" high", "high"))
    }


def norm_columns(geometry: dict[str, Any]) -> dict[str, Any]:
    """Length of every update, in itself and relative to base."""
    return {
        f"{title} {name}": measured[key]
        for key, title in (("norm", "norm"), ("relative_norm", "relative norm"))
        for name, measured in geometry.get("checkpoints", {}).items()
    }


def kl_columns(drift: dict[str, Any], task: str) -> dict[str, Any]:
    """Exact KL per token to base in both directions: on the trained task, and its mean over all other prompts."""
    columns: dict[str, Any] = {}
    for name, tasks in drift.items():
        for direction, title in (("forward", f"KL(base || {name})"), ("reverse", f"KL({name} || base)")):
            if task in tasks:
                for end in ("", "_low", "_high"):
                    columns[f"{title} on-task{end.replace('_', ' ')}"] = tasks[task][direction][f"per_token{end}"]
            others = [entry[direction]["per_token"] for other, entry in tasks.items() if other != task]
            if others:
                columns[f"{title} off-task"] = fmean(others)
    return columns


def barrier_columns(connectivity: dict[str, Any]) -> dict[str, Any]:
    """Barriers of reward and loss on every line."""
    return {
        f"{title} {names(pair)}": line[key]
        for key, title in (("reward_barrier", "reward barrier"), ("loss_barrier", "loss barrier"))
        for pair, line in connectivity.get("lines", {}).items()
    }


def names(pair: str) -> str:
    return f"({', '.join(pair.split('|'))})"


def as_csv(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    """The table with all digits; what a run does not hold is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_markdown(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    """The table with four digits, each interval beside its value, and what its columns mean."""
    shown = [column for column in columns if not is_interval_end(column, columns)]
    lines = [shown, ["---"] * len(shown), *([cell_text(row, column) for column in shown] for row in rows)]
    return "".join(f"| {' | '.join(map(plain, line))} |\n" for line in lines) + TABLE_NOTE


def is_interval_end(column: str, columns: Sequence[str]) -> bool:
    """Whether a column holds the end of another's interval."""
    name, _, end = column.rpartition(" ")
    return end in ("low", "high") and name in columns


def cell_text(row: dict[str, Any], column: str) -> str:
    """A value with four digits and its interval in brackets; nothing where the run holds none."""
    value = row.get(column)
    if not isinstance(value, float):
        return "" if value is None else str(value)
    low, high = row.get(f"{column} low"), row.get(f"{column} high")
    return f"{value:.4g}" if low is None or high is None else f"{value:.4g} ({low:.4g} to {high:.4g})"
