"""What the shown runs generate at a few steps: each string a small grid, framed by what it is."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from analysis.clocks.sample_grids import SAMPLES
from analysis.report.figure_values import tell
from analysis.report.results import Results
from analysis.report.section import Section
from analysis.report.sentences import join
from analysis.report.studies.clocks.labels import Entry, run_title
from analysis.report.studies.clocks.panels import MEMORY_COLOUR, WINDOW_COLOUR, legend, thousands
from analysis.report.style import WIDTH, canvas


CAPTION = (
    "A few samples at a few steps, each a small grid (lines hold whole groups). Green frames are new and valid, "
    "orange ones are copies of training strings, grey ones break the rule."
)
KIND_COLOURS = {"novel": WINDOW_COLOUR, "copy": MEMORY_COLOUR, "invalid": "#b8b8b8"}
KIND_NAMES = {"novel": "new and valid", "copy": "copies", "invalid": "that break the rule"}
# Distance of one sample from the next, relative to its size; room for the steps, in samples.
PITCH = 1.35
MARGIN = 2.6


def figure(results: Results) -> Figure:
    shown = results["samples"]
    # Inches: rows of samples that fill the width, which differ in height with the shape of the strings.
    sample = 0.93 * WIDTH / (PITCH * SAMPLES + MARGIN)
    heights = [
        0.3 + len(entry["steps"]) * PITCH * sample * entry["shape"][0] / entry["shape"][1] for entry in shown.values()
    ]
    drawing, grid = canvas(0.5 + sum(heights), len(shown), squeeze=False, height_ratios=heights)
    for axes, (name, entry) in zip(grid[:, 0], shown.items(), strict=True):
        draw_samples(axes, entry)
        axes.set_title(run_title(results["runs"][name]).replace("\n", " "), fontsize=10, loc="left")
        axes.set_anchor("W")
    labels = ("new and valid", "copy", "breaks the rule")
    frames = zip(KIND_COLOURS.values(), labels, strict=True)
    entries = [Patch(facecolor="white", edgecolor=shade, linewidth=2, label=label) for shade, label in frames]
    legend(drawing, entries, handlelength=1, handleheight=1, fontsize=10)
    return drawing


def draw_samples(axes: Axes, entry: Entry) -> None:
    """A row for each step, with its samples side by side."""
    height, width = entry["shape"]
    gap = (PITCH - 1) * width
    style = {"cmap": "Greys", "vmin": -0.25, "vmax": max(entry["vocabulary"] - 1, 1), "interpolation": "nearest"}
    for y, step in enumerate(entry["steps"]):
        top = y * PITCH * height
        for x, (string, kind) in enumerate(zip(entry["strings"][y], entry["kinds"][y], strict=True)):
            left = x * (width + gap)
            cells = np.array(string, dtype=float).reshape(height, width)
            box = (left, left + width, top + height, top)
            axes.imshow(cells, extent=box, alpha=0.35 if kind == "invalid" else 1, **style)
            frame = [left, left + width, left + width, left, left], [top, top, top + height, top + height, top]
            axes.plot(*frame, color=KIND_COLOURS[kind], linewidth=1.8)
        words = f"step {thousands(step)}"
        drawn = [f"{entry['kinds'][y].count(kind)} {name}" for kind, name in KIND_NAMES.items()]
        tell(axes, "Samples", (-0.6 * gap, top + height / 2), f"{words}: {join(drawn)}")
        axes.text(-0.6 * gap, top + height / 2, words, ha="right", va="center", fontsize=9.5)
    count = max(len(row) for row in entry["strings"])
    axes.set_xlim(-MARGIN * width, count * (width + gap))
    axes.set_ylim(len(entry["steps"]) * PITCH * height, -0.2 * height)
    axes.set_aspect("equal")
    axes.axis("off")


SECTION = Section("samples", "What the models draw", [("samples",)], figure, lambda results: CAPTION, on_demand=True)
