"""Two trainings where they are equally accurate: what it cost, how far weights and behaviour moved."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.report.numbers import count, fixed, percent, points, significant
from analysis.report.results import Results, label, lookup
from analysis.report.section import Section, Terms
from analysis.report.sentences import join, sentence
from analysis.report.studies.comparison.learning import numbers
from analysis.report.style import GREY, canvas, colour, dots
from analysis.report.tables import Cell, Table, number_table, value


BUDGET, ACCURACY = "matched budget", "matched accuracy"
COSTS = {
    "completions": "Completions",
    "tokens": "Tokens generated",
    "seconds": "Seconds of training",
    "flops": "Operations (FLOP)",
}
QUANTITIES = {
    "accuracy": ("Test accuracy", percent),
    "norm": ("Length of the update", significant),
    "on_forward": ("KL(base || model), trained task", significant),
    "on_reverse": ("KL(model || base), trained task", significant),
    "off_forward": ("KL(base || model), other tasks", significant),
    "off_reverse": ("KL(model || base), other tasks", significant),
}
ALONG = {name: heading for name, (heading, _) in QUANTITIES.items() if name != "accuracy"}


def sections() -> Sequence[Section]:
    return [
        Section(
            name="cost",
            title="What accuracy costs",
            needs=[("matched", "curves")],
            on_demand=True,
            figure=cost_figure,
            caption=cost_caption,
            table=cost_table,
            terms=terms,
        ),
        Section(
            name="equal-accuracy",
            title="At equal accuracy",
            needs=[("matched", "kept")],
            on_demand=True,
            figure=along_figure,
            caption=caption,
            table=table,
            numbers=[along_table, non_inferior_table],
        ),
    ]


def names(results: Results) -> list[str]:
    """The methods that are compared there."""
    return list(lookup(results, "matched", "pair") or {})


def terms(results: Results) -> Terms:
    within = points(lookup(results, "matched", "within"))
    return [
        (
            "Matched budget, matched accuracy",
            "The end of both trainings, which generated as many completions; and the first pair of their evaluations "
            f"within {within} of each other on validation problems, at the highest accuracy that both reach. The "
            "first asks what a budget buys, the second what solutions of the same skill look like; the answers may "
            "differ. At equal accuracy the weights are those of the evaluation, and accuracy is measured again on "
            "test problems.",
        ),
        (
            "Matches or exceeds",
            "Non-inferiority: the whole 95 % interval of the paired difference lies above minus the margin, and that "
            "of the base in place of the first method does not.",
        ),
        (
            "Operations",
            "An estimate: 2 per parameter and token for a forward pass, 4 for a backward pass, over all generated "
            "tokens, those of ES's members included; without the prompts, attention and the update itself.",
        ),
    ]


def cost_figure(results: Results) -> Figure:
    """Validation accuracy against completions, tokens, seconds and operations."""
    drawing, panels = canvas(5.6, 2, 2, sharey=True)
    curves, shown = lookup(results, "matched", "curves"), names(results)
    for axes, (cost, heading) in zip(panels.flat, COSTS.items(), strict=True):
        for method, curve in curves.items():
            x, y = numbers(curve[cost])[1:], 100 * numbers(curve["accuracy"])[1:]
            axes.plot(x, y, color=colour(method, shown), marker="o", markersize=3)
        axes.axhline(100 * lookup(results, "matched", "level"), color=GREY, linewidth=1)
        axes.set_xscale("log")
        axes.set_xlabel(f"{heading} (log scale)")
        axes.grid(axis="y")
    for axes in panels[:, 0]:
        axes.set_ylabel("Validation accuracy (%)")
    legend(drawing, shown)
    return drawing


def legend(drawing: Figure, shown: Sequence[str]) -> None:
    handles = dots([colour(method, shown) for method in shown], markersize=6)
    drawing.legend(handles, [label(method) for method in shown], loc="outside upper left", ncols=len(shown))


def cost_caption(results: Results) -> str:
    """What each training spent to reach the accuracy of the pair."""
    level, cost = lookup(results, "matched", "level"), lookup(results, "matched", "cost")
    clauses = []
    for method, spent in cost.items():
        if spent is None:
            clauses.append(f"{label(method)} does not reach it at any evaluation")
        else:
            operations = f"{significant(spent['flops'], 2)} operations"
            listed = [f"{count(spent['completions'])} completions", f"{count(spent['seconds'])} s", operations]
            clauses.append(f"{label(method)} {join(listed)}")
    return sentence([f"To reach {percent(level)} on validation problems (grey line) it took {'; '.join(clauses)}"])


def cost_table(results: Results) -> Table:
    """Cost of the common accuracy, interpolated between evaluations."""
    reached = [method for method in names(results) if lookup(results, "matched", "cost", method)]
    rows = [((label(method),), ("matched", "cost", method)) for method in reached]
    columns = [(heading, cost, significant if cost == "flops" else count) for cost, heading in COSTS.items()]
    note = f"To {percent(lookup(results, 'matched', 'level'))}, interpolated between the evaluations around it."
    return number_table(results, "Cost of the common accuracy", ["Method"], columns, rows, note)


def along_figure(results: Results) -> Figure:
    """Validation accuracy of the kept checkpoints against the length of the update and against each KL."""
    drawing, panels = canvas(5.8, 2, 3, sharey=True)
    kept, shown = lookup(results, "matched", "kept"), names(results)
    panels.flat[-1].set_visible(False)
    for axes, (name, heading) in zip(panels.flat, ALONG.items(), strict=False):
        for method, rows in kept.items():
            draw_along(axes, numbers(rows[name]), 100 * numbers(rows["accuracy"]), colour(method, shown))
            chosen = rows["step"].index(lookup(results, "matched", "pair", method, "step"))
            if rows[name][chosen] is not None:
                at = (rows[name][chosen], 100 * rows["accuracy"][chosen])
                axes.plot(*at, "o", color=colour(method, shown), markersize=10, fillstyle="none")
        axes.set_xscale("log")
        axes.set_xlabel(heading.replace(", ", "\n"), fontsize=9.5)
        axes.grid(axis="y")
    for axes in panels[:, 0]:
        axes.set_ylabel("Validation accuracy (%)")
    legend(drawing, shown)
    return drawing


def draw_along(axes: Axes, x, y, shade: str) -> None:
    axes.plot(x, y, color=shade, marker="o", markersize=4)


def caption(results: Results) -> str:
    """Which checkpoints are compared, whether they are equally accurate, and what the budget's answer was."""
    matched = lookup(results, "matched")
    pair = [
        f"{label(method)} at step {count(at['step'])} ({percent(at['accuracy'])})"
        for method, at in matched["pair"].items()
    ]
    if matched["found"]:
        first = f"Compared are {join(pair)}, the first within {points(matched['within'])} of each other (rings)"
    else:
        first = (
            f"No two evaluations above the start are within {points(matched['within'])} of each other: the nearest "
            f"are {join(pair)}, and nothing is concluded from them"
        )
    clauses = [first]
    for name in ("norm", "off_forward", "off_reverse"):
        at_budget, at_accuracy = (lookup(matched, "stops", stop, name, "ratio") for stop in (BUDGET, ACCURACY))
        if at_budget is not None and at_accuracy is not None:
            one, other = (label(method) for method in matched["pair"])
            clauses.append(
                f"{QUANTITIES[name][0]}, {one} over {other}: {significant(at_budget)} at the matched budget, "
                f"{significant(at_accuracy)} here"
            )
    return sentence(clauses)


def table(results: Results) -> Table:
    """Every quantity at both stopping points, and its ratio."""
    shown = names(results)
    rows = []
    for name, (heading, write) in QUANTITIES.items():
        cells = [Cell(heading)]
        for stop in (BUDGET, ACCURACY):
            at = ("matched", "stops", stop, name)
            cells += [value(results, (*at, method), write) for method in shown]
            cells.append(value(results, (*at, "ratio"), significant))
        rows.append(cells)
    angles = [("cosine", "Cosine of the updates"), ("null_std", "Of two random ones, standard deviation")]
    for name, heading in angles:
        cells = [Cell(heading)]
        for stop in (BUDGET, ACCURACY):
            cells += [value(results, ("matched", "stops", stop, name), four), *[Cell("")] * len(shown)]
        rows.append(cells)
    columns = ["Quantity"]
    for stop in (BUDGET, ACCURACY):
        columns += [*(f"{label(method)}, {stop}" for method in shown), f"Ratio, {stop}"]
    return Table("At the matched budget and at matched accuracy", columns, rows)


def four(number: float | None) -> str:
    return fixed(number, 4)


def along_table(results: Results) -> Table:
    """What was measured of every kept checkpoint."""
    rows = []
    for method in names(results):
        at = ("matched", "kept", method)
        for i, step in enumerate(lookup(results, *at, "step")):
            cells = [Cell(label(method)), Cell(count(step), (*at, "step", str(i)))]
            cells += [value(results, (*at, name, str(i)), write) for name, (_, write) in QUANTITIES.items()]
            rows.append(cells)
    headings = [heading.replace("Test", "Validation") for heading, _ in QUANTITIES.values()]
    return Table("Checkpoints along the trainings", ["Method", "Step", *headings], rows)


def non_inferior_table(results: Results) -> Table:
    """Does the first method match or exceed the second?"""
    stops = [stop for stop in (BUDGET, ACCURACY) if lookup(results, "matched", "non_inferior", stop)]
    columns = [
        ("Difference", "difference", points),
        ("Low", "low", points),
        ("High", "high", points),
        ("Margin", "margin", points),
        ("Problems", "problems", count),
        ("Base instead", "control.difference", points),
        ("Base, high", "control.high", points),
    ]
    rows = [
        ((stop, lookup(results, "matched", "non_inferior", stop, "verdict")), ("matched", "non_inferior", stop))
        for stop in stops
    ]
    one, other = (label(method) for method in names(results))
    title = f"Does {one} match or exceed {other}?"
    return number_table(results, title, ["Stopped at", "Verdict"], columns, rows)
