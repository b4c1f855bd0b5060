"""To both sides of the base along each update: what the direction gains, and what moving so far costs."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.report.numbers import points, significant, times
from analysis.report.results import Results, label, lookup
from analysis.report.section import Section
from analysis.report.sentences import sentence
from analysis.report.studies.comparison.learning import numbers
from analysis.report.style import DASHED, GREY, INK, canvas, colour
from analysis.report.tables import Cell, Table, value


ODD_AND_EVEN = (
    "Along a direction, (f(+) - f(-)) / 2 and (f(+) + f(-)) / 2 - f(0): what the direction itself gains, "
    "and what moving so far costs whichever the sign."
)


def section() -> Section:
    return Section(
        name="probes",
        title="To both sides of the base",
        needs=[("probes",)],
        on_demand=True,
        figure=figure,
        caption=caption,
        numbers=[table],
        terms=lambda results: [("Odd and even part", ODD_AND_EVEN)],
    )


def figure(results: Results) -> Figure:
    """Odd and even parts of reward and loss along each update, beside the mean of random directions of its norms."""
    probed = results["probes"]
    shown = list(probed["checkpoints"])
    quantities = [("reward", 100, "points")]
    if probed["start"]["loss"] is not None:
        quantities.append(("loss", 1, "nats per token"))
    rows = [(part, *quantity) for quantity in quantities for part in ("odd", "even")]
    drawing, grid = canvas(0.7 + 1.6 * len(rows), len(rows), len(shown), sharex=True, sharey="row", squeeze=False)
    scales = [0.0, *probed["scales"]]
    for column, (method, along) in enumerate(probed["checkpoints"].items()):
        shade = colour(method, shown)
        for row, (part, quantity, scale, unit) in enumerate(rows):
            axes = grid[row, column]
            update, mean, spread = (
                scale * numbers([0.0, *along[of][part][quantity]]) for of in ("update", "random_mean", "random_std")
            )
            spread = np.nan_to_num(spread)
            axes.fill_between(scales, mean - spread, mean + spread, color=GREY, alpha=0.25, linewidth=0)
            axes.plot(scales, mean, color=INK, linestyle=DASHED, linewidth=1.5)
            axes.plot(scales, update, color=shade, marker="o", markersize=4)
            axes.axhline(0, color=GREY, linewidth=0.8)
            axes.grid(axis="y")
            if column == 0:
                axes.set_ylabel(f"{part} part of\nthe {quantity}\n({unit})", fontsize=9.5)
        grid[0, column].set_title(label(method), weight="bold", color=shade)
    handles = [Line2D([], [], color=INK, linestyle=DASHED), Line2D([], [], color=GREY, marker="o")]
    drawing.legend(handles, ["random directions", "the update"], loc="outside upper left", ncols=2)
    drawing.supxlabel("Distance along the direction (1: the whole update)", fontsize=11)
    return drawing


def caption(results: Results) -> str:
    """What each direction gains, and what moving so far costs, beside random directions."""
    probed = results["probes"]
    scales = probed["scales"]
    at = scales.index(1.0 if 1.0 in scales else max(scales))
    quantity, unit = ("reward", "of reward") if probed["start"]["loss"] is None else ("loss", "nats per token")
    clauses = []
    for method, along in probed["checkpoints"].items():
        update, random = (along[of]["even"][quantity][at] for of in ("update", "random_mean"))
        gain = along["update"]["odd"]["reward"][at]
        ratio = f", {times(update / random)} times" if random > 0 and update > random else ""
        clauses.append(
            f"{label(method)}'s direction gains {points(gain)} of reward and costs {significant(update, 2)} {unit} "
            f"whichever way it is gone{ratio} ({significant(random, 2)} for random directions of its length)"
        )
    return sentence([f"at {significant(scales[at])} times the update, " + "; ".join(clauses)])


def table(results: Results) -> Table:
    columns = [
        (of, part, quantity)
        for quantity in ("reward", "loss")
        for part in ("odd", "even")
        for of in ("update", "random_mean")
    ]
    rows = [
        [Cell(label(method)), Cell(significant(scale))]
        + [
            value(
                results,
                ("probes", "checkpoints", method, of, part, quantity, str(i)),
                points if quantity == "reward" else significant,
            )
            for of, part, quantity in columns
        ]
        for method in lookup(results, "probes", "checkpoints") or {}
        for i, scale in enumerate(results["probes"]["scales"])
    ]
    headings = [f"{part.capitalize()}, {quantity}" if of == "update" else "Random" for of, part, quantity in columns]
    return Table("Probes along the updates and along random directions", ["Update", "Scale", *headings], rows)
