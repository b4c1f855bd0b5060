"""Accuracy of every model on every task, and what each training did to it.

Accuracies are compared by their intervals: "lifts", "lowers" and "further" are said only where two do not overlap.
"""

from collections.abc import Mapping
from fractions import Fraction
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from analysis.criteria import SIMILAR_ACCURACY
from analysis.report.numbers import count, fixed, percent, points
from analysis.report.results import BASE, Results, asked, label, lookup, methods, models, tasks
from analysis.report.section import Section
from analysis.report.sentences import join, sentence
from analysis.report.style import INK, canvas, colour, write_beside
from analysis.report.tables import Table, number_table


Row = Mapping[str, Any]

TERMS = (
    (
        "Accuracy",
        "Share of examples that greedy decoding answers fully right, on problems that no training saw. Validation "
        "accuracy: on the problems that are asked again and again while training. Test accuracy: on other problems, "
        "asked once, of the finished models. The interval is Wilson's, at 95 %. It covers the choice of examples, not "
        "what another training seed would give.",
    ),
    (
        "Lifts, lowers, clearly",
        "Two 95 % intervals do not overlap. Where they overlap, no difference is claimed. Accuracies are called "
        f"similar when the intervals overlap and the values are at most {points(SIMILAR_ACCURACY)} apart.",
    ),
)
COLUMNS = (
    ("Accuracy", "accuracy", percent),
    ("Low", "low", percent),
    ("High", "high", percent),
    ("Correct", "correct", count),
    ("Examples", "total", count),
    ("Mean tokens", "mean_tokens", partial(fixed, decimals=1)),
    ("Cut off", "unfinished", count),
)


def section(results: Results) -> Section:
    return Section(
        name="accuracy",
        title="Test accuracy on every task",
        needs=[("evaluation", model, task) for model in models(results) for task in tasks(results)]
        or [("evaluation",)],
        figure=figure,
        caption=caption,
        numbers=[table],
        terms=lambda results: TERMS,
    )


def figure(results: Results) -> Figure:
    """Accuracy of every model on every task, with 95 % intervals; the trained task stands first."""
    shown = [name for name in models(results) if lookup(results, "evaluation", name)]
    evaluated = [task for task in tasks(results) if any(lookup(results, "evaluation", name, task) for name in shown)]
    drawing, axes = canvas(3.6)
    width = 0.8 / len(shown)
    top = 5.0
    for i, name in enumerate(shown):
        shade = colour(name, shown)
        rows = [(x, lookup(results, "evaluation", name, task)) for x, task in enumerate(evaluated)]
        rows = [(x + (i - (len(shown) - 1) / 2) * width, row) for x, row in rows if known(row)]
        positions, heights = [x for x, _ in rows], [100 * row["accuracy"] for _, row in rows]
        below = [100 * (row["accuracy"] - row["low"]) for _, row in rows]
        above = [100 * (row["high"] - row["accuracy"]) for _, row in rows]
        top = max([top, *(100 * row["high"] for _, row in rows)])
        axes.bar(positions, heights, 0.9 * width, color=shade, label=label(name))
        axes.errorbar(positions, heights, (below, above), fmt="none", ecolor=INK, elinewidth=1.3, capsize=3)
        for x, height, rise in zip(positions, heights, above, strict=True):
            style = {"ha": "center", "fontsize": 9.5, "color": shade, "weight": "bold"}
            write_beside(axes, f"{height:.0f}", (x, height + rise), (0, 3), **style)
    trained = lookup(results, "task")
    axes.set_xticks(range(len(evaluated)), [task_label(results, task) for task in evaluated])
    for tick, task in zip(axes.get_xticklabels(), evaluated, strict=True):
        tick.set(fontsize=10.5, weight="bold" if task == trained else "normal")
    axes.tick_params(axis="x", length=0)
    axes.set_ylim(0, 105 if top > 90 else 1.15 * top)
    axes.set_ylabel("Test accuracy (%)")
    axes.grid(axis="y")
    handles = {"handlelength": 0.9, "handleheight": 0.9, "borderaxespad": 0.2}
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(shown), **handles)
    return drawing


def task_label(results: Results, task: str) -> str:
    """Of an axis: it says which task was trained."""
    return f"{label(task)}\n(trained)" if is_trained(results, task) else label(task)


def is_trained(results: Results, task: str) -> bool:
    """Whether this is known to be the task that the models were trained on."""
    return task == lookup(results, "task") and asked(results) is None


def caption(results: Results) -> str:
    """What happened to the trained task and to the others."""
    task, before, after = trained_accuracy(results)
    clauses = [accuracy_change(task, before, after)] if before and after else []
    others = [name for name in tasks(results) if name != lookup(results, "task")]
    base = {label(name): lookup(results, "evaluation", BASE, name) for name in others}
    for method in methods(results):
        rows = {label(name): lookup(results, "evaluation", method, name) for name in others}
        both = {name: row for name, row in rows.items() if known(row) and known(base[name])}
        if both:
            clauses.append(off_task_change(label(method), base, both))
    return sentence(clauses, "Accuracies without an interval are shown but not compared")


def table(results: Results) -> Table:
    rows = [
        (
            (f"{label(task)} (trained)" if is_trained(results, task) else label(task), label(model)),
            ("evaluation", model, task),
        )
        for task in tasks(results)
        for model in models(results)
        if lookup(results, "evaluation", model, task)
    ]
    return number_table(results, "Test accuracy of the finished models", ("Task", "Model"), COLUMNS, rows)


def trained_task(results: Results) -> str:
    return label(lookup(results, "task") or "the trained task")


def trained_accuracy(results: Results) -> tuple[str, Row | None, dict[str, Row]]:
    """Label of the trained task, the base's row on it, and each method's by label; where accuracies are known."""
    task = lookup(results, "task")
    if task is None:
        return trained_task(results), None, {}
    before = lookup(results, "evaluation", BASE, task)
    after = {label(method): lookup(results, "evaluation", method, task) for method in methods(results)}
    after = {name: row for name, row in after.items() if known(row)}
    return trained_task(results), before if known(before) else None, after


def known(row: Row | None) -> bool:
    """Whether `row` holds an accuracy with its interval."""
    return row is not None and None not in (row.get("accuracy"), row.get("low"), row.get("high"))


def comparison(before: Row, after: Row) -> str:
    """ "higher", "lower", or "unclear" when the two intervals overlap."""
    if after["low"] > before["high"]:
        return "higher"
    return "lower" if after["high"] < before["low"] else "unclear"


def similar(one: Row, other: Row) -> bool:
    """Whether two accuracies are at most SIMILAR_ACCURACY apart: 15 of 100 and 10 of 100 are."""
    return abs(share(one) - share(other)) <= Fraction(str(SIMILAR_ACCURACY))


def share(row: Row) -> Fraction:
    """An accuracy as a fraction of its counts, because a difference of floats misses a limit that it meets."""
    correct, total = row.get("correct"), row.get("total")
    # With partial values, or several samples of a problem, an accuracy is no share of the completions.
    if correct is not None and total and correct / total == row["accuracy"]:
        return Fraction(correct, total)
    return Fraction(row["accuracy"])


def accuracy_change(task: str, before: Row, after: Mapping[str, Row]) -> str:
    """What each model of `after` does to the accuracy on `task`: "ES and GRPO both lift Countdown from ... to ..."."""
    clauses = []
    start = percent(before["accuracy"], 0)
    for verdict, one, several in (("higher", "lifts", "lift"), ("lower", "lowers", "lower")):
        names = [name for name, row in after.items() if comparison(before, row) == verdict]
        if names:
            verb = {1: one, 2: f"both {several}"}.get(len(names), f"all {several}")
            ends = join([percent(after[name]["accuracy"], 0) for name in names])
            clauses.append(f"{join(names)} {verb} {task} from {start} to {ends}")
    names = [name for name, row in after.items() if comparison(before, row) == "unclear"]
    if names:
        ends = join([percent(after[name]["accuracy"], 0) for name in names])
        verb = "does" if len(names) == 1 else "do"
        clauses.append(f"{join(names)} {verb} not clearly change {task} ({start} to {ends}, the intervals overlap)")
    return ", while ".join(clauses)


def off_task_change(name: str, before: Mapping[str, Row], after: Mapping[str, Row]) -> str:
    """What `name` does to the tasks nobody trained on; both arguments by task label."""
    clauses = []
    for verdict, verb in (("lower", "loses on"), ("higher", "gains on")):
        steps = [
            f"{task} ({percent(before[task]['accuracy'], 0)} to {percent(row['accuracy'], 0)})"
            for task, row in after.items()
            if comparison(before[task], row) == verdict
        ]
        clauses += [f"{verb} {join(steps)}"] if steps else []
    return f"{name} {' and '.join(clauses) or 'changes none of the other tasks clearly'}"


def gain_verdict(task: str, before: Row, after: Mapping[str, Row]) -> str:
    """The accuracies in a few words, for the title."""
    names = list(after)
    lifted = [name for name in names if comparison(before, after[name]) == "higher"]
    if not lifted:
        return f"No clear gain on {task}"
    if len(lifted) < len(names):
        rest = [name for name in names if name not in lifted]
        verb = "does" if len(rest) == 1 else "do"
        return f"{join(lifted)} {'lifts' if len(lifted) == 1 else 'lift'} {task}, {join(rest)} {verb} not"
    if len(names) == 1:
        return f"{names[0]} lifts {task}"
    ranked = sorted(names, key=lambda name: after[name]["accuracy"])
    least, most = after[ranked[0]], after[ranked[-1]]
    everyone = f"{'Both' if len(names) == 2 else 'All'} lift {task}"
    if comparison(least, most) == "higher":
        return f"{everyone}, {ranked[-1]} furthest"
    return "Similar accuracy" if similar(least, most) else everyone
