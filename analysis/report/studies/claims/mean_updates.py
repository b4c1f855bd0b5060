"""Does GRPO's update share a direction with the mean of ES's over seeds? The cosine as more seeds are averaged."""

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.report.numbers import count, fixed, significant
from analysis.report.results import Results, label, lookup
from analysis.report.section import Section
from analysis.report.sentences import sentence
from analysis.report.style import DOTTED, FURTHER_COLOURS, GREY, canvas
from analysis.report.tables import Cell, Table, value


FACTORS = ("task", "budget", "precision")
# Standard deviations beyond which a mean cosine is not chance.
BEYOND_CHANCE = 3.0
TERM = (
    "The cosine of each GRPO update with the mean of K updates of ES, mean over all choices of K seeds. A common "
    "direction makes it grow like the root of K, because averaging shortens the walks and leaves what they share; "
    "without one it stays within chance, the standard deviation of the cosine of two random updates. z: mean cosine "
    "of all pairs of seeds, in standard deviations of such a mean."
)


def section() -> Section:
    return Section(
        name="mean-updates",
        title="Does the mean of ES's updates point where GRPO's does?",
        needs=[("alignment",)],
        on_demand=True,
        figure=figure,
        caption=caption,
        table=table,
        terms=lambda results: [("Mean updates", TERM)],
    )


def condition(entry: dict) -> str:
    return ", ".join(label(entry[factor]) for factor in FACTORS)


def figure(results: Results) -> Figure:
    """The cosine against K in every condition, beside the growth of a common direction and the range of chance."""
    drawing, axes = canvas(4.2)
    for i, entry in enumerate(lookup(results, "alignment")):
        shade = FURTHER_COLOURS[i % len(FURTHER_COLOURS)]
        axes.plot(entry["k"], entry["cosine"], color=shade, marker="o", markersize=4, label=condition(entry))
        axes.plot(entry["k"], entry["sqrt"], color=shade, linestyle=DOTTED, linewidth=1)
    chance = max(entry["chance"] for entry in lookup(results, "alignment"))
    axes.axhspan(-chance, chance, color=GREY, alpha=0.16, linewidth=0)
    axes.set_xlabel("Seeds of ES that are averaged, K (dotted: growth like the root of K; band: chance)")
    axes.set_ylabel("Cosine with GRPO's update")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y")
    drawing.legend(loc="outside upper left", ncols=2, fontsize=9)
    return drawing


def caption(results: Results) -> str:
    """In which conditions the two methods share a direction."""
    entries = lookup(results, "alignment")
    aligned = [entry for entry in entries if entry["z"] > BEYOND_CHANCE]
    first = f"In {count(len(aligned))} of {count(len(entries))} conditions they share a direction beyond chance"
    most = max(entries, key=lambda entry: entry["z"])
    return sentence(
        [
            first,
            f"most in {condition(most)}, where the cosine grows from {fixed(most['cosine'][0], 4)} to "
            f"{fixed(most['cosine'][-1], 4)} over {count(most['k'][-1])} seeds "
            f"({fixed(most['sqrt'][-1], 4)} by the root of K)",
        ]
    )


def table(results: Results) -> Table:
    rows = []
    for i, entry in enumerate(lookup(results, "alignment")):
        at, last = ("alignment", str(i)), str(len(entry["k"]) - 1)
        cells = [Cell(condition(entry))]
        places = [("cosine", "0"), ("cosine", last), ("sqrt", last), ("chance",)]
        cells += [value(results, (*at, *place), lambda number: fixed(number, 4)) for place in places]
        cells += [value(results, (*at, "pairs"), count)]
        cells += [value(results, (*at, name), significant) for name in ("z", "p")]
        rows.append(cells)
    columns = ["Condition", "One seed", "All seeds", "By the root of K", "Chance", "Pairs", "z", "p"]
    return Table("Cosine of GRPO's update with the mean of ES's", columns, rows)
