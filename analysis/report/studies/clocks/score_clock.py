"""Where the learned denoiser lies between the optimum of the rule and that of the training set."""

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from analysis.report.results import Results
from analysis.report.section import Section
from analysis.report.studies.clocks.panels import (
    CLOCK_COLOURS,
    MEMORY_COLOUR,
    RULE_COLOUR,
    numbers,
    panel_for_each,
    steps_axis,
)
from analysis.report.style import colour_bar


CAPTION = (
    "Distance of the learned denoiser to the exact optimum of the rule and to that of the training set, as one number "
    "between \N{MINUS SIGN}1 and 1, on held-out strings. Lines: the two clocks. Copying shows here before it shows in "
    "samples."
)


def figure(results: Results) -> Figure:
    """I(sigma) by noise level and step: blue towards the rule's optimum, orange towards the training set's."""
    fields = results["score_field"]
    drawing, panels = panel_for_each(results, fields, 2.3, "Noise level sigma")
    shades = LinearSegmentedColormap.from_list("optimum", [MEMORY_COLOUR, "#f7f7f7", RULE_COLOUR])
    for axes, (name, field) in zip(panels, fields.items(), strict=True):
        values = np.array([numbers(at["index"]) for at in field["score_clock"]]).T
        borders = edges(np.maximum(field["steps"], 1)), edges(np.array(field["sigmas"]))
        image = axes.pcolormesh(*borders, values, cmap=shades, vmin=-1, vmax=1)
        for clock, shade in CLOCK_COLOURS.items():
            step = results["runs"][name]["clocks"][clock]["step"]
            if step is not None:
                axes.axvline(step, color=shade, linewidth=1.8)
        axes.set_yscale("log")
        axes.set_yticks([0.2, 0.5, 1, 2], ["0.2", "0.5", "1", "2"])
        axes.minorticks_off()
        steps_axis(axes)
    for axes in panels[-2:]:
        axes.set_xlabel("Optimiser step (log)")
    label = "\N{MINUS SIGN}1: training set's optimum     +1: rule's optimum"
    colour_bar(drawing, image, label, pad=0.03).set_xticks([-1, -0.5, 0, 0.5, 1])
    return drawing


def edges(centres: np.ndarray) -> np.ndarray:
    """Borders of cells around positive, rising `centres`, half-way in log."""
    logs = np.log(centres)
    if len(logs) == 1:
        return np.exp([logs[0] - 0.1, logs[0] + 0.1])
    middles = (logs[1:] + logs[:-1]) / 2
    return np.exp([2 * logs[0] - middles[0], *middles, 2 * logs[-1] - middles[-1]])


SECTION = Section(
    "score-clock", "Between the two optima", [("score_field",)], figure, lambda results: CAPTION, on_demand=True
)
