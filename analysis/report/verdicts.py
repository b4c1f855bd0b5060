"""The figure of the claims table: every claim in every condition."""

from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from analysis.report.numbers import significant
from analysis.report.results import Results, label, lookup
from analysis.report.style import NO_VALUE, WIDTH


COLOURS = {"holds": "#9fd8c4", "fails": "#f0b48a", "undecided": "#f4e3a1"}
NAMES = {"holds": "holds", "fails": "does not hold", "undecided": "undecided"}


def claims(results: Results) -> Figure:
    """Claims downwards, conditions to the right; each cell has the verdict's colour and the mean over the seeds."""
    found = [claim for claim in lookup(results, "claims", "claims") if claim["conditions"]]
    factors = list(lookup(results, "claims", "factors"))
    columns = list(
        dict.fromkeys(tuple(entry[factor] for factor in factors) for claim in found for entry in claim["conditions"])
    )
    figure = Figure(figsize=(max(WIDTH, 2.2 + 0.85 * len(columns)), 1.5 + 0.36 * len(found)), layout="constrained")
    axes = figure.subplots()
    for y, claim in enumerate(found):
        for x, column in enumerate(columns):
            entry = next(
                (one for one in claim["conditions"] if tuple(one[factor] for factor in factors) == column), None
            )
            _cell(axes, x, y, entry)
    axes.set_xlim(0, len(columns))
    axes.set_ylim(len(found), 0)
    axes.set_yticks([y + 0.5 for y in range(len(found))], [claim["key"] for claim in found])
    axes.set_xticks(
        [x + 0.5 for x in range(len(columns))], ["\n".join(map(label, column)) for column in columns], fontsize=9
    )
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure.legend(
        [Patch(color=shade) for shade in COLOURS.values()],
        [NAMES[name] for name in COLOURS],
        loc="outside lower left",
        ncols=3,
        handlelength=1,
    )
    return figure


def _cell(axes: Any, x: int, y: int, entry: dict[str, Any] | None) -> None:
    shade = NO_VALUE if entry is None else COLOURS[entry["verdict"]]
    axes.add_patch(Rectangle((x + 0.03, y + 0.04), 0.94, 0.92, color=shade, linewidth=0))
    if entry is not None:
        axes.text(x + 0.5, y + 0.5, significant(entry["mean"], 2), ha="center", va="center", fontsize=9)
