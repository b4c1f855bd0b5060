"""Every claim in every condition: the verdicts, in a figure, two tables and a sentence."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from analysis.report.figure_values import tell
from analysis.report.numbers import count, significant
from analysis.report.results import Results, label, lookup
from analysis.report.section import Section, Terms
from analysis.report.sentences import join, sentence, several
from analysis.report.style import NO_VALUE, WIDTH, canvas, only_cells
from analysis.report.tables import Cell, Table, value


COLOURS = {"holds": "#9fd8c4", "fails": "#f0b48a", "undecided": "#f4e3a1", "cannot tell": "#d9d4e7"}
NAMES = {
    "holds": "holds",
    "fails": "does not hold",
    "undecided": "undecided",
    "cannot tell": "this test cannot tell",
}


def section() -> Section:
    return Section(
        name="claims",
        title="Do the claims hold?",
        needs=[("claims",)],
        figure=figure,
        caption=caption,
        table=table,
        numbers=[conditions_table],
        terms=terms,
    )


def terms(results: Results) -> Terms:
    verdict = (
        "One condition is one task, budget, precision and stopping point: the end of both trainings, or the first "
        "evaluations at which they are equally accurate. A claim holds there if the 95 % interval "
        "(Student's, over training seeds) of its number lies in the range that the claim needs, does not "
        "hold if it lies outside, and is undecided otherwise or with fewer than "
        f"{count(results['claims']['min_seeds'])} seeds. The p-values of all tests in the table "
        f"({count(results['claims'].get('tests'))}) are corrected by Holm's method, and verdicts go by them. A claim "
        "that would hold whatever is compared has a control on which it must not; where it does, this test cannot "
        "tell. Over all conditions it depends on the factors of which two "
        "conditions that differ in nothing else give opposite verdicts. "
        "Intervals cover other training seeds, not other problems, models or sizes."
    )
    return [("Verdict", verdict)]


def title(results: Results) -> str:
    """ "Of 17 claims 9 hold, 2 do not, 3 depend on the setting and 3 are not decided"."""
    verdicts = [claim["verdict"] for claim in results["claims"]["claims"]]
    # What one does, what several do, and how many.
    parts = [
        ("holds", "hold", sum(verdict.startswith("holds") for verdict in verdicts)),
        ("does not", "do not", sum(verdict.startswith("does not") for verdict in verdicts)),
        ("depends on the setting", "depend on the setting", verdicts.count("depends")),
        ("is not decided", "are not decided", verdicts.count("undecided")),
        ("cannot be told by this test", "cannot be told by these tests", verdicts.count("cannot tell")),
        ("was not measured", "were not measured", verdicts.count("not measured")),
    ]
    listed = [f"{number} {one if number == 1 else many}" for one, many, number in parts if number]
    return f"Of {len(verdicts)} claims {join(listed)}"


def headline(results: Results) -> str:
    """How many claims hold."""
    judged = results["claims"]
    by_verdict: dict[str, list[str]] = {}
    for claim in judged["claims"]:
        by_verdict.setdefault(claim["verdict"], []).append(claim["key"])
    listed = [f"{verdict}: {', '.join(keys)}" for verdict, keys in by_verdict.items()]
    return f"Verdicts over {several(judged['comparisons'], 'comparison')}. {sentence(listed)}"


def context(results: Results) -> str:
    judged, model = results["claims"], lookup(results, "base_model")
    factors = "; ".join(f"{factor} {', '.join(map(label, values))}" for factor, values in judged["factors"].items())
    return f"{several(judged['comparisons'], 'comparison')}{f' from {model}' if model else ''}: {factors}"


def caption(results: Results) -> str:
    seeds = several(len(results["claims"]["seeds"]), "seed")
    return (
        f"Each row is a claim of the table below, each column one condition with up to {seeds}; the number is the "
        "mean over the seeds of what the claim is about."
    )


def figure(results: Results) -> Figure:
    """Claims downwards, conditions to the right; each cell has the verdict's colour and the mean over the seeds."""
    shown = [claim for claim in results["claims"]["claims"] if claim["conditions"]]
    factors = list(results["claims"]["factors"])
    cells = {
        (y, tuple(entry[factor] for factor in factors)): entry
        for y, claim in enumerate(shown)
        for entry in claim["conditions"]
    }
    columns = list(dict.fromkeys(condition for _, condition in cells))
    drawing, axes = canvas(1.5 + 0.36 * len(shown), width=max(WIDTH, 2.2 + 0.85 * len(columns)))
    for y in range(len(shown)):
        for x, condition in enumerate(columns):
            entry = cells.get((y, condition))
            draw_cell(axes, x, y, entry)
            if entry is not None:
                numbers = f"{significant(entry['mean'])} ({significant(entry['low'])} to {significant(entry['high'])})"
                told = (
                    f"{shown[y]['key']}, {', '.join(map(label, condition))}: {NAMES[entry['verdict']]}, mean {numbers}"
                )
                tell(axes, shown[y]["key"], (x + 0.5, y + 0.5), told)
    axes.set_xlim(0, len(columns))
    axes.set_yticks([y + 0.5 for y in range(len(shown))], [claim["key"] for claim in shown])
    names = ["\n".join(map(label, condition)) for condition in columns]
    axes.set_xticks([x + 0.5 for x in range(len(columns))], names, fontsize=9)
    axes.xaxis.tick_top()
    only_cells(axes, len(shown))
    patches = [Patch(color=shade) for shade in COLOURS.values()]
    drawing.legend(patches, list(NAMES.values()), loc="outside lower left", ncols=3, handlelength=1)
    return drawing


def draw_cell(axes: Axes, x: int, y: int, entry: dict[str, Any] | None) -> None:
    shade = NO_VALUE if entry is None else COLOURS[entry["verdict"]]
    axes.add_patch(Rectangle((x + 0.03, y + 0.04), 0.94, 0.92, color=shade, linewidth=0))
    if entry is not None:
        number = significant(entry["mean"], 2)
        axes.text(x + 0.5, y + 0.5, number, ha="center", va="center", fontsize=9.5, color="black")


def table(results: Results) -> Table:
    """The verdicts."""
    rows = []
    for i, claim in enumerate(results["claims"]["claims"]):
        verdict = claim["verdict"] + (f" on {', '.join(claim['depends_on'])}" if claim["depends_on"] else "")
        rows.append(
            [
                *map(Cell, (claim["key"], claim["statement"], verdict)),
                *(value(results, ("claims", "claims", str(i), name), count) for name in NAMES),
                *map(Cell, (claim["quantity"], claim["source"], reason(claim))),
            ]
        )
    counts = ["Holds in", "Fails in", "Undecided", "Cannot tell"]
    columns = ["Claim", "Statement", "Verdict", *counts, "Measured as", "Source", "Why it cannot tell"]
    return Table("The claims", columns, rows, "Holds in to cannot tell: numbers of conditions.")


def reason(claim: dict[str, Any]) -> str:
    """Why the test of a claim says nothing where it cannot tell; nothing where it can."""
    return claim["powerless"] if claim.get("cannot tell") else ""


def conditions_table(results: Results) -> Table:
    """Mean and interval of every claim in every condition."""
    factors = list(results["claims"]["factors"])
    rows = []
    for i, claim in enumerate(results["claims"]["claims"]):
        for j, entry in enumerate(claim["conditions"]):
            at = ("claims", "claims", str(i), "conditions", str(j))
            rows.append(
                [
                    *map(Cell, (claim["key"], *(label(entry[factor]) for factor in factors))),
                    *(value(results, (*at, key), significant) for key in ("mean", "low", "high", "control")),
                    value(results, (*at, "seeds"), count),
                    *(value(results, (*at, key), significant) for key in ("p", "p_holm")),
                    Cell(NAMES[entry["verdict"]]),
                ]
            )
    numbers = ["Mean", "Low", "High", "Control", "Seeds", "p", "p (Holm)"]
    columns = ["Claim", *(factor.capitalize() for factor in factors), *numbers, "Verdict"]
    return Table("The claims in every condition, over seeds", columns, rows)
