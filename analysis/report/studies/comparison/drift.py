"""How far the behaviour drifted: KL divergences to the base on every task, and from stage to stage of a sequence."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from analysis.report.numbers import count, significant
from analysis.report.results import Results, asked, label, lookup, methods, tasks
from analysis.report.section import Section, Terms
from analysis.report.sentences import join, sentence
from analysis.report.studies.comparison.accuracy import task_label, trained_task
from analysis.report.studies.comparison.layer_maps import draw_cells, grid, log_scale
from analysis.report.studies.number_columns import with_suffixed_ends
from analysis.report.style import canvas, colour, colour_bar, dots, logarithmic, name_rows, only_cells, write_beside
from analysis.report.tables import Table, number_table


DIRECTIONS = ("forward", "reverse")
ENDS = ("per_token", "per_token_low", "per_token_high")
PER_TOKEN = with_suffixed_ends("Per token", significant, "per_token")
COLUMNS = [
    *PER_TOKEN,
    *with_suffixed_ends("Per completion", significant, "per_sequence"),
    ("Completions", "sequences", count),
    ("Tokens", "tokens", count),
]
MATRICES = {"incremental": "against the stage before", "cumulative": "against base"}


def section(results: Results) -> Section:
    return Section(
        name="kl",
        title="How far the behaviour drifted",
        needs=[("kl", method, task) for method in methods(results) for task in tasks(results)] or [("kl",)],
        figure=figure,
        caption=caption,
        numbers=[table],
        terms=terms,
    )


def stages_section(results: Results) -> Section:
    return Section(
        name="kl-matrices",
        title="Drift from stage to stage",
        needs=[("kl_matrices",)],
        on_demand=True,
        figure=stages_figure,
        caption=stages_caption,
        numbers=[stages_table],
    )


def terms(results: Results) -> Terms:
    stated: dict[str, None] = {}
    for by_task in (lookup(results, "kl") or {}).values():
        for directions in (by_task or {}).values():
            for name, entry in (directions or {}).items():
                if entry:
                    where = f"completions sampled from {entry.get('sampled_from')}, {entry.get('estimator')}"
                    stated[f"{name.capitalize()}: {entry.get('direction')}, {where}."] = None
    said = [
        "How far the distribution over completions is from the base's, in nats; it depends on the direction.",
        *stated,
        "Per token: the sum over all completions divided by their tokens. Intervals: 95 %, bootstrap over "
        "completions.",
    ]
    return [("KL divergence", " ".join(said))]


def figure(results: Results) -> Figure:
    """KL divergence to the base on every task in both directions, with intervals, on a logarithmic axis.

    A divergence or a limit of 0 stands at the left edge.
    """
    shown = [method for method in methods(results) if lookup(results, "kl", method)]
    measured = [task for task in tasks(results) if any(lookup(results, "kl", name, task) for name in shown)]
    keys = [(direction, method, task) for direction in DIRECTIONS for method in shown for task in measured]
    entries = {
        (direction, method, task): entry
        for direction, method, task in keys
        if (entry := lookup(results, "kl", method, task, direction)) and entry["per_token"] is not None
    }
    positive = [entry[end] for entry in entries.values() for end in ENDS if entry[end] and entry[end] > 0] or [1.0]
    # Room on the right for the numbers.
    left, right = min(positive) / 2, max(positive) * 5

    drawing, panels = canvas(1.55 + 0.6 * len(measured), 1, 2, sharex=True, sharey=True)
    panels[0].set_xscale("log")
    panels[0].set_xlim(left, right)
    for axes, direction in zip(panels, DIRECTIONS, strict=True):
        definitions = {entry["direction"]: None for (shown_in, *_), entry in entries.items() if shown_in == direction}
        axes.set_title("\n".join([direction.capitalize(), *definitions]))
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        logarithmic(axes.xaxis, left, right)
    for (direction, method, task), entry in entries.items():
        axes = panels[DIRECTIONS.index(direction)]
        y = measured.index(task) + (shown.index(method) - (len(shown) - 1) / 2) * 0.62 / len(shown)
        shade = colour(method, shown)
        value, low, high = (None if entry[end] is None else max(left, entry[end]) for end in ENDS)
        if low is not None and high is not None:
            axes.plot([low, high], [y, y], color=shade, linewidth=2)
        axes.plot(value, y, "o", color=shade, markersize=6)
        at = (value if high is None else high, y)
        write_beside(axes, significant(entry["per_token"], 2), at, (7, 0), va="center", fontsize=9.5, color=shade)
    name_rows(panels[0], [task_label(results, task) for task in measured])
    for tick, task in zip(panels[0].get_yticklabels(), measured, strict=True):
        tick.set(weight="bold" if task == lookup(results, "task") else "normal")
    drawing.supxlabel("KL divergence (nats per token, log scale)", fontsize=11)
    handles = dots([colour(method, shown) for method in shown], markersize=6)
    names = [label(method) for method in shown]
    drawing.legend(handles, names, loc="outside upper left", ncols=len(shown), handletextpad=0.2)
    return drawing


def trained_drift(results: Results) -> dict[str, Mapping[str, Any]]:
    """Forward divergence on the trained task by the method's label, where known."""
    task = lookup(results, "task")
    return {} if task is None else forward_drift(results, task)


def forward_drift(results: Results, task: str) -> dict[str, Mapping[str, Any]]:
    """The same on any set of prompts."""
    rows = {label(method): lookup(results, "kl", method, task, "forward") for method in methods(results)}
    return {name: row for name, row in rows.items() if row and row["per_token"] is not None}


def caption(results: Results) -> str:
    """Drift on the trained task, and the largest drift on the others."""
    rows = trained_drift(results)
    clauses = [drift(trained_task(results), rows)] if rows else []
    furthest = []
    for method in methods(results):
        others = [name for name in tasks(results) if name != lookup(results, "task")]
        off_task = {label(name): lookup(results, "kl", method, name, "forward", "per_token") for name in others}
        off_task = {name: number for name, number in off_task.items() if number is not None}
        furthest += [furthest_drift(label(method), off_task)] if off_task else []
    if furthest and clauses:
        elsewhere = "a task nobody trained on" if asked(results) is None else "other prompts"
        clauses.append(f"the largest on {elsewhere} is {join(furthest)}")
    elif furthest:
        clauses.append(f"the largest KL divergence in nats per token is {join(furthest)}")
    if not clauses:
        return "The forward direction was not measured."
    directions = {row["direction"]: None for row in rows.values()}
    return sentence(["; ".join(clauses) + (f" (all {', '.join(directions)})" if directions else "")])


def drift(task: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Which model is further from the base on `task`; rows hold `per_token` and its interval, in nats."""
    listed = join([f"{significant(row['per_token'], 2)} for {name}" for name, row in rows.items()])
    words = f"on {task} the KL divergence in nats per token is {listed}"
    if len(rows) < 2:
        return words
    first, second = sorted(rows, key=lambda name: -rows[name]["per_token"])[:2]
    low, high = rows[first]["per_token_low"], rows[second]["per_token_high"]
    if low is None or high is None:
        return words
    return words + (f", clearly largest for {first}" if low > high else ", intervals overlapping")


def furthest_drift(name: str, per_token: Mapping[str, float]) -> str:
    """On which of the tasks nobody trained on `name` is furthest from the base; nats per token by task label."""
    task = max(per_token, key=per_token.__getitem__)
    return f"{significant(per_token[task], 2)} for {name} ({task})"


def table(results: Results) -> Table:
    """KL divergence to the base in both directions."""
    rows = [
        ((label(task), label(method), entry["direction"]), ("kl", method, task, direction))
        for task in tasks(results)
        for method in methods(results)
        for direction, entry in (lookup(results, "kl", method, task) or {}).items()
        if entry
    ]
    title = "KL divergence to the base, in nats"
    return number_table(results, title, ["Task", "Model", "Direction"], COLUMNS, rows)


def stages_figure(results: Results) -> Figure:
    """KL divergence of each stage of a sequence on every task: against the stage before, and against base."""
    matrices = results["kl_matrices"]
    stages = list(matrices["cumulative"])
    measured = list(dict.fromkeys(task for stage in stages for task in matrices["cumulative"][stage]))
    grids = {
        part: grid([[lookup(matrices, part, stage, task, "per_token") for task in measured] for stage in stages])
        for part in MATRICES
    }
    scale = log_scale([value for cells in grids.values() for value in cells.flat if value > 0], (1e-3, 1.0))
    drawing, panels = canvas(1.9 + 2 * (0.5 + 0.32 * len(stages)), 2, sharex=True)
    for axes, (part, cells) in zip(panels, grids.items(), strict=True):
        image = draw_cells(axes, cells, scale, "viridis", partial(significant, digits=2))
        axes.set_title(f"{part.capitalize()}: {MATRICES[part]}", weight="bold")
        axes.set_yticks([y + 0.5 for y in range(len(stages))], [label(stage) for stage in stages])
        axes.set_xticks([x + 0.5 for x in range(len(measured))], [label(task) for task in measured])
        only_cells(axes, len(stages))
    panels[0].set_ylabel("After training")
    bar = colour_bar(drawing, image, "KL divergence (nats per token, log scale)", pad=0.03)
    logarithmic(bar.xaxis, scale.vmin, scale.vmax)
    return drawing


def stages_caption(results: Results) -> str:
    """The stage and task of the largest drift."""
    matrix = results["kl_matrices"]["incremental"]
    entries = [(stage, task, entry) for stage, row in matrix.items() for task, entry in row.items()]
    entries = [(stage, task, entry) for stage, task, entry in entries if entry["per_token"] is not None]
    if not entries:
        return "No divergence could be measured."
    stage, task, entry = max(entries, key=lambda one: one[2]["per_token"])
    return (
        f"The largest step is that of {label(stage)} on {label(task)}, {significant(entry['per_token'], 2)} nats per "
        f"token ({entry['direction']}, completions sampled from {label(entry['sampled_from'])})."
    )


def stages_table(results: Results) -> Table:
    rows = [
        ((label(task), entry["direction"], part), ("kl_matrices", part, stage, task))
        for part in MATRICES
        for stage, by_task in (lookup(results, "kl_matrices", part) or {}).items()
        for task, entry in by_task.items()
    ]
    columns = [*PER_TOKEN, ("Completions", "sequences", count)]
    return number_table(
        results, "KL divergence between stages, in nats", ["Task", "Direction", "Matrix"], columns, rows
    )
