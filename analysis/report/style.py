"""Colours, sizes and the writing of figures, so that all figures of the report look alike."""

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from analysis.report.figure_values import Series, values_of
from analysis.report.results import BASE
from eval.errors import UserError


# Okabe and Ito's colours, which people with the common colour deficiencies tell apart.
COLOURS = {BASE: "#6e6e6e", "es": "#0072b2", "grpo": "#d55e00"}
FURTHER_COLOURS = ("#009e73", "#cc79a7", "#e69f00", "#56b4e9")
INK = "#222222"
FAINT = "#d9d9d9"
NO_VALUE = "#ececec"

GREY = "#8a8a8a"
DOTTED = (0, (2, 2))
DASHED = (0, (5, 2))

# Inches; with these font sizes the text of a figure is as large as the page's on a screen, and legible on a phone.
WIDTH = 5.6
# Of the PNG files, in dots per inch.
RESOLUTION = 150
# Of one figure.
MOST_PANELS = 1_000

SETTINGS = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Helvetica", "Arial", "sans-serif"],
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.labelsize": 11,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "xtick.color": GREY,
    "ytick.color": GREY,
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
    # Names are what the user called things: $x_2$ is no formula.
    "text.parse_math": False,
}


@dataclass(frozen=True)
class Drawing:
    """One figure as the text of an SVG file and the bytes of a PNG file. series: the values that it shows."""

    svg: str
    png: bytes
    series: Sequence[Series] = ()


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
        series = values_of(figure)
        # The PNG keeps the places that the SVG gave to everything.
        figure.set_layout_engine("none")
        figure.savefig(image, format="png", dpi=RESOLUTION, metadata={"Software": None})
    svg = re.sub(r'\bid="', f'id="{name}-', text.getvalue())
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    return Drawing(re.sub(r"url\(#", f"url(#{name}-", svg), image.getvalue(), series)


def canvas(
    height: float, rows: int = 1, columns: int = 1, width: float = WIDTH, **subplots: Any
) -> tuple[Figure, Any]:
    """A figure of the page's width, and its axes as `Figure.subplots` gives them. height, width: in inches.

    Raises `UserError` for more panels than `MOST_PANELS`, which matplotlib would draw for hours.
    """
    if rows * columns > MOST_PANELS:
        raise UserError(
            f"results.json asks for {rows:,} by {columns:,} panels in one figure, of which at most {MOST_PANELS:,} "
            "are drawn; it is damaged, or has more runs than a page can show: take some out"
        )
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **subplots)


def write_beside(axes: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], **style: Any) -> None:
    """Write `text` at a point of the data, moved by `offset` points."""
    axes.annotate(text, at, xytext=offset, textcoords="offset points", **style)


def name_rows(axes: Axes, names: Sequence[str], grid: str | None = None) -> None:
    """One row for each name, the first at the top. grid: along which axis lines are drawn, if any."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    if grid:
        axes.grid(axis=grid)


def row_offset(index: int, count: int) -> float:
    """How far the mark of one of `count` things stands from the middle of its row."""
    return (index - (count - 1) / 2) * 0.5 / max(count, 1)


def only_cells(axes: Axes, rows: int) -> None:
    """Axes of a map whose cells have height 1, the first row at the top: no ticks and no frame."""
    axes.set_ylim(rows, 0)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def colour_bar(figure: Figure, image: ScalarMappable, label: str, pad: float = 0.02) -> Axes:
    """A scale of colours below all axes of the figure."""
    return figure.colorbar(image, ax=figure.axes, location="bottom", shrink=0.7, aspect=34, pad=pad, label=label).ax


def dots(colours: Sequence[str], **style: Any) -> list[Line2D]:
    """Marks of a legend."""
    return [Line2D([], [], color=shade, linestyle="", **({"marker": "o"} | style)) for shade in colours]


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
        style = {"va": "center", "color": shade, "weight": "bold", "annotation_clip": False}
        write_beside(axes, text, (x, height), (8, 0), **style)
        height += gap
