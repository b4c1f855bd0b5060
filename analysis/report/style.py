"""Colours, sizes and the writing of figures, so that all figures of the report look alike."""

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from analysis.report.results import BASE


# Okabe and Ito's colours, which people with the common colour deficiencies tell apart.
COLOURS = {BASE: "#6e6e6e", "es": "#0072b2", "grpo": "#d55e00"}
FURTHER_COLOURS = ("#009e73", "#cc79a7", "#e69f00", "#56b4e9")
INK = "#222222"
FAINT = "#d9d9d9"
NO_VALUE = "#ececec"

# Inches; with these font sizes the text of a figure is as large as the page's on a screen, and legible on a phone.
WIDTH = 5.6
# Of the PNG files, in dots per inch.
RESOLUTION = 150

SETTINGS = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Helvetica", "Arial", "sans-serif"],
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.labelsize": 11,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#8a8a8a",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "xtick.color": "#8a8a8a",
    "ytick.color": "#8a8a8a",
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "text.color": INK,
    "lines.linewidth": 2.0,
    "legend.frameon": False,
    "legend.fontsize": 11,
    "figure.facecolor": "white",
    # Text stays text: it can be searched, copied and read aloud, and takes the font of the page.
    "svg.fonttype": "none",
}


@dataclass(frozen=True)
class Drawing:
    """One figure as the text of an SVG file and the bytes of a PNG file."""

    svg: str
    png: bytes


def colour(name: str, names: Sequence[str]) -> str:
    """The colour of model `name` among `names`: fixed for the known ones, the next free one for others."""
    if name in COLOURS:
        return COLOURS[name]
    others = [other for other in names if other not in COLOURS]
    return FURTHER_COLOURS[others.index(name) % len(FURTHER_COLOURS)]


def draw(name: str, painter: Callable[[], Figure]) -> Drawing:
    """The figure that `painter` makes, in both formats the same, byte for byte, whenever it is drawn.

    Identifiers inside the SVG begin with `name`, so that several figures can stand in one page.
    """
    with matplotlib.rc_context(SETTINGS | {"svg.hashsalt": name}):
        figure = painter()
        text, image = io.StringIO(), io.BytesIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
        # The PNG keeps the places that the SVG gave to everything.
        figure.set_layout_engine("none")
        figure.savefig(image, format="png", dpi=RESOLUTION, metadata={"Software": None})
    svg = re.sub(r'\bid="', f'id="{name}-', text.getvalue())
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    return Drawing(re.sub(r"url\(#", f"url(#{name}-", svg), image.getvalue())


def logarithmic(axis: Axis, low: float, high: float) -> None:
    """Ticks and plain numbers on a logarithmic axis that shows `low` to `high`, also when that is under a decade."""
    if high / low < 30:
        subdivisions = (1.0, 2.0, 5.0)
    elif high / low < 1000:
        subdivisions = (1.0, 3.0)
    else:
        subdivisions = (1.0,)
    axis.set_major_locator(LogLocator(subs=subdivisions))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def label_ends(axes: Axes, ends: Sequence[tuple[str, float, float, str]], line_height: float) -> None:
    """Write (text, x, y, colour) to the right of each point, moved apart so that no two overlap. Call it last.

    line_height: of a label, as a share of the height of the axes.
    """
    low, high = axes.get_ylim()
    gap = line_height * (high - low)
    height = low
    for text, x, y, shade in sorted((end for end in ends if not math.isnan(end[2])), key=lambda end: end[2]):
        height = max(y, height)
        axes.annotate(
            text,
            (x, height),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=shade,
            weight="bold",
            annotation_clip=False,
        )
        height += gap
