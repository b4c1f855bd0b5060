"""What next-token models lose at each position of a string."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.report.results import Results
from analysis.report.section import Section
from analysis.report.studies.clocks.labels import Entry
from analysis.report.studies.clocks.panels import CLASS_COLOURS, class_keys, key, legend, stage_panels
from analysis.report.style import INK


KINDS = ("train", "held_out")
CAPTION = (
    "The last symbol of a group follows from the others: its loss falls to 0 when the rule is learned. "
    "Training strings below the line are memorised."
)


def figure(results: Results) -> Figure:
    """Next-token loss by position at stages of training, against the least loss that knows the rule."""

    def paint(axes: Axes, part: Entry, i: int) -> None:
        positions = np.arange(1, len(part["oracle"]) + 1)
        axes.step(positions, part["oracle"], where="mid", color=INK, linewidth=1)
        for kind in KINDS:
            axes.plot(positions, part[kind][i], color=CLASS_COLOURS[kind], linewidth=1.5, marker="o", markersize=2.5)
        axes.set_ylim(-0.05, max(1.2, 1.6 * max(part["oracle"])))

    drawing = stage_panels(results, results["position_loss"], ": loss (nats)", "Position in the string", paint)
    legend(drawing, [*class_keys(KINDS), key("least loss that knows the rule", linewidth=1)], fontsize=10)
    return drawing


SECTION = Section(
    name="position-loss",
    title="Next-token models: loss by position",
    needs=[("position_loss",)],
    on_demand=True,
    figure=figure,
    caption=lambda results: CAPTION,
)
