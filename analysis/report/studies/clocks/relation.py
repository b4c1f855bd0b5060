"""Which part of a prompted model reads the relation between two objects."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from analysis.report.results import Results
from analysis.report.section import Section
from analysis.report.studies.clocks.labels import Entry
from analysis.report.studies.clocks.panels import RULE_COLOUR, WINDOW_COLOUR, key, legend, panel_for_each
from analysis.report.style import DASHED


CAPTION = (
    "The model is given a relation (left of, right of, above, below) and draws two objects on a grid. Bars: "
    "without each part, how often the objects are right, and how often they then stand as asked. A part whose "
    "loss costs the relation but not the objects reads the relation."
)


def relating(results: Results) -> dict[str, Entry]:
    """The runs on spatial relations whose prompted model was taken apart."""
    return {name: part["relation"] for name, part in results["mechanism"].items() if part["relation"]}


def figure(results: Results) -> Figure:
    """Without which part the objects are still drawn, but no longer as the relation asks."""
    shown = relating(results)
    drawing, panels = panel_for_each(results, shown, 2.8, "Right (%)", sharey=False)
    for axes, effects in zip(panels, shown.values(), strict=True):
        units = [unit for unit in effects if unit != "none"]
        for share, shade, shift in (("relation", RULE_COLOUR, -0.18), ("objects", WINDOW_COLOUR, 0.18)):
            heights = [100 * effects[unit][share] for unit in units]
            axes.bar(np.arange(len(units)) + shift, heights, 0.34, color=shade)
            axes.axhline(100 * effects["none"][share], color=shade, linewidth=1, linestyle=DASHED)
        axes.set_xticks(range(len(units)), units, rotation=60, fontsize=9)
        axes.set_ylim(0, 103)
    entries = [
        Patch(color=RULE_COLOUR, label="relation, where the objects are right"),
        Patch(color=WINDOW_COLOUR, label="objects"),
        key("whole model", linewidth=1, linestyle=DASHED),
    ]
    legend(drawing, entries)
    return drawing


SECTION = Section(
    name="relation",
    title="Relations between two objects",
    needs=[("mechanism",)],
    on_demand=True,
    figure=figure,
    caption=lambda results: CAPTION,
    drawable=lambda results: bool(relating(results)),
)
