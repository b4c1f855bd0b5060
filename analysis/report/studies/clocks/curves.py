"""Validity and copying through training, for one run of each of a few settings."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from analysis.report.results import Results
from analysis.report.section import Section
from analysis.report.studies.clocks.panels import (
    MEMORY_COLOUR,
    RULE_COLOUR,
    STEPS,
    WINDOW_COLOUR,
    along_training,
    key,
    legend,
    numbers,
    panel_for_each,
)
from analysis.report.style import DOTTED, GREY


CAPTION = (
    "One run of each of several settings: validity of what is new (blue), share of copies (orange), matches with "
    "strings that were never shown (grey, chance). The shaded window lies between the two clocks. Where validity "
    "rises only as copies do, the model has memorised and learned no rule."
)
LINES = {
    "novel_valid": key("valid among new", RULE_COLOUR, linewidth=2),
    "valid": key("valid", RULE_COLOUR, linewidth=1.2, linestyle=DOTTED),
    "copies": key("copies", MEMORY_COLOUR, linewidth=2),
    "control": key("control", GREY, linewidth=1.2),
}


def figure(results: Results) -> Figure:
    chosen = results["shown_runs"]
    drawing, panels = panel_for_each(results, chosen, 2.15, "Share of samples (%)", STEPS)
    for axes, name in zip(panels, chosen, strict=True):
        run = results["runs"][name]
        steps = np.maximum(run["curves"]["step"], 1)
        for quantity, line in LINES.items():
            style = {"color": line.get_color(), "linestyle": line.get_linestyle(), "linewidth": line.get_linewidth()}
            axes.plot(steps, 100 * numbers(run["curves"][quantity]), **style)
        axes.set_ylim(-3, 103)
        along_training(axes, run)
    legend(drawing, [*LINES.values(), Patch(color=WINDOW_COLOUR, alpha=0.28, label="window")])
    return drawing


SECTION = Section("curves", "How runs get there", [("shown_runs",)], figure, lambda results: CAPTION)
