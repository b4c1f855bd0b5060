"""What the sweep shows of claims C1 to C7."""

import numpy as np
from matplotlib.figure import Figure

from analysis.clocks.claims import CLAIMS
from analysis.criteria import AGREEMENT, BASIN_FACTOR, INVARIANT_FACTOR, NEARLY_LINEAR, SLOPE_SIZES
from analysis.report.figure_values import tell
from analysis.report.numbers import count, percent
from analysis.report.results import Results
from analysis.report.section import Section, Terms
from analysis.report.studies.clocks.labels import model_label
from analysis.report.style import INK, canvas, name_rows, only_cells
from analysis.report.tables import Cell, Table, value


SHORT_CLAIMS = {
    "C1": "tau_rule grows with complexity",
    "C2": "tau_rule falls with capacity",
    "C3a": "copies first: tau_mem ignores the rule",
    "C3b": "rule first: tau_mem ignores the rule",
    "C4a": "copies first: tau_mem nearly linear in N",
    "C4b": "rule first: tau_mem nearly linear in N",
    "C5a": "window widens with N",
    "C5b": "window narrows with complexity",
    "C5c": "window can vanish",
    "C6": "both phases in all models",
    "C7": "basins follow the clocks",
}
VERDICT_COLOURS = {"seen": "#bfe3d7", "not seen": "#f6cfb5", "cannot tell": "#f3e9c2", "censored": "#ececec"}
VERDICT_COLOURS["not measured"] = "#ffffff"
JUDGED = ("seen", "not seen")
CAPTION = (
    'Claims of "The two clocks and the innovation window" (arXiv 2605.10019), by model. Seen and not seen '
    "are judged by criteria fixed beforehand (see Definitions); cannot tell: the interval leaves both open; censored: "
    "the runs ended before they could show it; a dash: no two runs differ in what the claim is about. Numbers and "
    "seeds stand in the first table."
)
VERDICTS = (
    f"Order (C1, C2, C5a, C5b): seen if at least {percent(AGREEMENT, 0)} of the pairs of runs that differ in "
    "one quantity, and whose order is certain in spite of censoring, have it. C3 and C4 within a phase, runs in which "
    "copies come first (a) or the rule does (b). C3: the median memory clocks of rules of equally many valid strings "
    f"lie, at equal N, within a factor of {INVARIANT_FACTOR:g}. C4: the whole interval of the slope, over "
    f"{SLOPE_SIZES} sizes or more, lies from {NEARLY_LINEAR[0]:g} to {NEARLY_LINEAR[1]:g}; not seen if it lies "
    "outside. C5c: some run's window has vanished. C6: in every model copies come first at the smaller N of a setting "
    "and the rule at the larger (in as many pairs as above), with both clocks in one run of the latter. C7: just "
    "after tau_rule held-out basins are wider than the no-rule optimum's, and violating ones narrower; at the end, "
    f"after tau_mem, training basins are wider than held-out ones; each by a factor of {BASIN_FACTOR:g}. Not seen: it "
    "shows something else. Censored: the runs ended before they could show it. Thresholds are this lab's."
)
COMPLEXITY = (
    "The smallest number of positions whose joint distribution over the valid strings is not uniform: the group size "
    "for parity."
)


def figure(results: Results) -> Figure:
    """A row for each claim, a column for each model, and the verdict in the cell."""
    entries = results["claims"]
    names = list(dict.fromkeys(entry["claim"] for entry in entries))
    models = list(dict.fromkeys(entry["model"] for entry in entries if entry["model"] != "all"))
    drawing, axes = canvas(0.5 + 0.44 * len(names))
    for entry in entries:
        y, verdict = names.index(entry["claim"]), entry["verdict"]
        left, width = (0, len(models)) if entry["model"] == "all" else (models.index(entry["model"]), 1)
        axes.barh(y, width, 0.94, left=left, color=VERDICT_COLOURS[verdict], edgecolor="white", linewidth=2)
        word = "\N{EN DASH}" if verdict == "not measured" else verdict
        weight = "bold" if verdict in JUDGED else "normal"
        axes.text(
            left + width / 2,
            y,
            word,
            ha="center",
            va="center",
            fontsize=9.5,
            weight=weight,
            color="black" if verdict in JUDGED else INK,
        )
        words = f"{entry['claim']} {SHORT_CLAIMS[entry['claim']]}, {model_label(entry['model'])}: {verdict}"
        tell(axes, entry["claim"], (left + width / 2, y), words)
    axes.xaxis.tick_top()
    axes.set_xticks(np.arange(len(models)) + 0.5, [model_label(model) for model in models], weight="bold")
    axes.set_xlim(0, len(models))
    only_cells(axes, len(names))
    name_rows(axes, [f"{name}  {SHORT_CLAIMS[name]}" for name in names])
    axes.tick_params(axis="y", labelsize=9.5)
    return drawing


def table(results: Results) -> Table:
    rows = [
        [
            Cell(entry["claim"]),
            Cell("all" if entry["model"] == "all" else model_label(entry["model"])),
            Cell(entry["verdict"]),
            Cell(", ".join(map(str, entry["seeds"])) or "none"),
            value(results, ("claims", str(i), "runs"), count),
            Cell(entry["evidence"]),
        ]
        for i, entry in enumerate(results["claims"])
    ]
    note = " ".join(f"{claim}: {meaning}." for claim, meaning in CLAIMS.items())
    columns = ["Claim", "Model", "Verdict", "Seeds", "Runs", "Evidence"]
    return Table("Claims C1 to C7 (arXiv 2605.10019)", columns, rows, note)


def terms(results: Results) -> Terms:
    return [("Verdicts", VERDICTS), ("Complexity", COMPLEXITY)]


SECTION = Section(
    "claims", "What the sweep shows", [("claims",)], figure, lambda results: CAPTION, numbers=[table], terms=terms
)
