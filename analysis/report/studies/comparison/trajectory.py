"""The path of a run through its checkpoints, beside steps of the same lengths in random directions."""

from statistics import fmean

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.criteria import SAME_LENGTH
from analysis.report.numbers import fixed, percent, significant
from analysis.report.results import Results, lookup
from analysis.report.section import Section
from analysis.report.sentences import sentence
from analysis.report.studies.comparison.learning import numbers
from analysis.report.style import DASHED, DOTTED, GREY, INK, canvas, colour, label_ends
from analysis.report.tables import Cell, Table, value


def section() -> Section:
    return Section(
        name="trajectory",
        title="How the run drifted",
        needs=[("trajectory",)],
        on_demand=True,
        figure=figure,
        caption=caption,
        numbers=[table],
    )


def figure(results: Results) -> Figure:
    """Distance from base and direction along the checkpoints, beside steps of their lengths in random directions."""
    names, path = results["trajectory"]["checkpoints"], results["trajectory"]["all"]
    are_steps = all(name.isdecimal() for name in names)
    # Checkpoints stand at their steps, or one after the other if they are not named by steps.
    x = [float(name) for name in names] if are_steps else list(range(len(names)))
    drawing, (distance, direction) = canvas(4.6, 2, sharex=True)
    shade = colour("es", [])
    measured = {"color": shade, "marker": "o", "markersize": 6, "linewidth": 3.2, "alpha": 0.7}
    random = {"color": INK, "linestyle": DASHED, "linewidth": 1.5}
    walked = np.cumsum(path["step_norm"])
    distance.plot(x, walked, color=GREY, linestyle=DOTTED, linewidth=1.4)
    distance.plot(x, path["norm"], **measured)
    distance.plot(x, path["random_norm"], **random)
    distance.set_ylim(bottom=0)
    distance.set_ylabel("Distance from base")
    direction.plot(x, numbers(path["cosine_with_final"]), **measured)
    direction.plot(x, numbers(path["random_cosine_with_final"]), **random)
    direction.set_ylabel("Cosine with the\nwhole update")
    direction.set_ylim(min(0, *(cosine for cosine in path["cosine_with_final"] if cosine is not None)), 1.05)
    direction.set_xlabel("Step" if are_steps else "Checkpoint")
    direction.set_xticks(x, names)
    if len(names) > 12:
        direction.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    for axes in (distance, direction):
        axes.grid(axis="y")
    ends = [("run", x[-1], path["norm"][-1], shade), ("random", x[-1], path["random_norm"][-1], INK)]
    label_ends(distance, [*ends, ("straight", x[-1], walked[-1], GREY)], 0.1)
    return drawing


def caption(results: Results) -> str:
    """Whether the path looks like independent steps or like one direction."""
    path, names = results["trajectory"]["all"], results["trajectory"]["checkpoints"]
    turns = [cosine for cosine in path["successive_cosine"] if cosine is not None]
    straightness = path["norm"][-1] / path["path_length"] if path["path_length"] else 0.0
    ratio = path["norm"][-1] / path["random_norm"][-1] if path["random_norm"][-1] else 0.0
    clauses = [
        f"after {len(names)} stretches the weights are {significant(path['norm'][-1])} from the base, "
        f"{percent(straightness, 0)} of the length of the way there"
    ]
    if 1 / SAME_LENGTH <= ratio <= SAME_LENGTH:
        clauses.append("which is what stretches in random directions would give")
    elif ratio > SAME_LENGTH:
        clauses.append(f"{significant(ratio, 2)} times what stretches in random directions would give")
    if turns:
        clauses.append(f"the mean cosine of one stretch with the next is {fixed(fmean(turns))}")
    return sentence(clauses)


def table(results: Results) -> Table:
    columns = (
        ("Distance", "norm", significant),
        ("Random", "random_norm", significant),
        ("Stretch", "step_norm", significant),
        ("Cosine with the whole", "cosine_with_final", fixed),
        ("Random", "random_cosine_with_final", fixed),
    )
    rows = [
        [Cell(name), *(value(results, ("trajectory", "all", key, str(i)), write) for _, key, write in columns)]
        for i, name in enumerate(lookup(results, "trajectory", "checkpoints") or [])
    ]
    return Table("The path of the run", ["Checkpoint", *(heading for heading, *_ in columns)], rows)
