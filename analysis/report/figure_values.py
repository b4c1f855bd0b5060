"""What a drawn figure shows, read back from it: every value with its place, and the whole in words.

The values become what a page tells on hover and on keyboard focus, the words its alternative text. They are read from
the figure after it was drawn, so that no section of a page has to say twice what it draws.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import PolyCollection, QuadMesh
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator

from analysis.report.numbers import count, significant


# SVG counts in points, 72 to the inch.
POINTS_PER_INCH = 72
# A curve tells at most so many of its points, evenly chosen, and always both ends.
POINTS_PER_CURVE = 40
# The alternative text of a figure speaks of so many series.
SERIES_IN_WORDS = 8
# So near to a tick, in distances between ticks, is what belongs to its row or column.
NEAR = 0.48
# Words in these colours name nothing that has the same colour.
WITHOUT_NAME = ("#222222", "#8a8a8a", "#000000", "#ffffff")


@dataclass(frozen=True)
class Value:
    """One value of a figure. x, y: the middle of its place, from the top left, in points. width, height: of a cell, 0
    for a point. words: what it is. amount: the number, where it is one. where: the words without the number."""

    x: float
    y: float
    words: str
    amount: float | None = None
    where: str = ""
    width: float = 0.0
    height: float = 0.0


@dataclass(frozen=True)
class Series:
    """Values that belong together, in the order in which they are read. quantity: what the numbers are."""

    name: str
    quantity: str
    values: Sequence[Value]


# (low, high), and of a band its colour: it belongs to the curve of that colour, a stroke to any point on it.
Interval = tuple[float, float, str | None]


def tell(axes: Axes, name: str, at: tuple[float, float], words: str) -> None:
    """Say in `words` what is drawn at a point of the data where it cannot be read back, in the series `name`."""
    axes.figure.__dict__.setdefault("told_values", []).append((axes, name, at, words))


def values_of(figure: Figure) -> list[Series]:
    """All values of a drawn figure, panel by panel."""
    names = colour_names(figure)
    # Scales of colours are axes too.
    bars = [mesh.colorbar.ax for axes in figure.axes for mesh in meshes(axes) if mesh.colorbar]
    told = [axes for axes, *_ in figure.__dict__.get("told_values", [])]
    panels = [axes for axes in figure.axes if axes.get_visible() and axes not in bars]
    panels = [axes for axes in panels if axes.axison or axes in told]
    panels = [axes for axes in panels if axes.get_label() != "<colorbar>"]
    found = [series for axes in panels for series in panel_series(axes, names, several=len(panels) > 1)]
    return [series for series in found if series.values]


def panel_series(axes: Axes, names: dict[Any, str], several: bool) -> Iterator[Series]:
    panel = plain(axes.get_title(loc="left") or axes.get_title()) if several else ""
    place = placer(axes)
    told: dict[str, list[Value]] = {}
    for where, name, at, words in axes.figure.__dict__.get("told_values", []):
        if where is axes:
            told.setdefault(joined(panel, name), []).append(Value(*place(*at), words))
    if told:
        yield from (Series(name, "", values) for name, values in told.items())
        return
    for mesh in meshes(axes):
        yield cells(axes, mesh, panel)
    across, upwards = intervals(axes)
    for container in axes.containers:
        if isinstance(container, BarContainer) and container.patches:
            yield bars(axes, container, joined(panel, name_of(container.patches[0], names, container)), upwards)
    dots: dict[str, list[Value]] = {}
    caps = {cap for bar in axes.containers if isinstance(bar, ErrorbarContainer) for cap in bar.lines[1]}
    curves: set[tuple[float, float]] = set()
    for line in axes.lines:
        if line.get_transform() != axes.transData or is_stroke(line) or line in caps:
            continue
        points = {(float(x), float(y)) for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)}
        # A larger dot on a point of a curve is no further value.
        if len(points) == 1 and points <= curves:
            continue
        curves |= points if len(points) > 1 else set()
        name = joined(panel, name_of(line, names))
        dots.setdefault(name, []).extend(line_values(axes, line, name, across, upwards))
    for name, values in dots.items():
        yield Series(name, axis_name(axes, "x" if is_named(axes.yaxis) else "y"), values)


def meshes(axes: Axes) -> list[QuadMesh]:
    return [mesh for mesh in axes.collections if isinstance(mesh, QuadMesh)]


def is_stroke(line: Line2D) -> bool:
    """Whether a line is no curve but a stroke: an interval, a mark of a median, a line for the eye."""
    has_marker = line.get_marker() not in (None, "", "None", " ")
    return not has_marker and len(line.get_xdata()) <= 2


def line_values(
    axes: Axes, line: Line2D, name: str, across: dict[float, list[Interval]], upwards: dict[float, list[Interval]]
) -> list[Value]:
    x, y = (np.asarray(data, dtype=np.float64) for data in (line.get_xdata(), line.get_ydata()))
    seen = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    if len(seen) > POINTS_PER_CURVE:
        seen = seen[np.unique(np.linspace(0, len(seen) - 1, POINTS_PER_CURVE).round().astype(int))]
    place, sideways = placer(axes), is_named(axes.yaxis) and not is_named(axes.xaxis)
    values = []
    for i in seen:
        along, other = (x[i], y[i]) if sideways else (y[i], x[i])
        low_high = around(along, (across if sideways else upwards).get(round(float(other), 9), []), colour_of(line))
        quantity, rest = ("x", "y") if sideways else ("y", "x")
        where = said(axes, rest, other)
        number = joined_words(axis_name(axes, quantity), number_words(along), low_high)
        words = ": ".join(part for part in (joined(name, where), number) if part)
        values.append(Value(*place(x[i], y[i]), words, float(along), where))
    return values


def bars(axes: Axes, container: BarContainer, name: str, upwards: dict[float, list[Interval]]) -> Series:
    """Bars from a base line, upwards or sideways."""
    place, sideways = placer(axes), container.orientation == "horizontal"
    quantity, rest, values = ("x", "y", []) if sideways else ("y", "x", [])
    for bar in container.patches:
        middle = (bar.get_y() + bar.get_height() / 2) if sideways else (bar.get_x() + bar.get_width() / 2)
        end = bar.get_x() + bar.get_width() if sideways else bar.get_y() + bar.get_height()
        low_high = None if sideways else around(end, upwards.get(round(float(middle), 9), []), colour_of(bar))
        where = said(axes, rest, middle)
        number = joined_words(axis_name(axes, quantity), number_words(end), low_high)
        words = ": ".join(part for part in (joined(name, where), number) if part)
        values.append(Value(*(place(end, middle) if sideways else place(middle, end)), words, float(end), where))
    return Series(name, axis_name(axes, quantity), values)


def cells(axes: Axes, mesh: QuadMesh, panel: str) -> Series:
    """The cells of a map, row by row from the top."""
    place, corners, shown = placer(axes), mesh.get_coordinates(), np.ma.filled(mesh.get_array(), np.nan)
    shown = shown.reshape(corners.shape[0] - 1, corners.shape[1] - 1)
    # Maps side by side have one scale, which belongs to the last.
    scales = [other.colorbar.ax for axes in axes.figure.axes for other in meshes(axes) if other.colorbar]
    scale = mesh.colorbar.ax if mesh.colorbar else scales[0] if len(scales) == 1 else None
    quantity = plain((scale.get_xlabel() or scale.get_ylabel()) if scale else "")
    values = []
    for row, column in np.argwhere(np.isfinite(shown)):
        (left, top), (right, bottom) = (corners[row, column], corners[row + 1, column + 1])
        (x0, y0), (x1, y1) = place(left, top), place(right, bottom)
        middle = ((left + right) / 2, (top + bottom) / 2)
        where = ", ".join(filter(None, (cell_name(axes, "y", middle[1]), cell_name(axes, "x", middle[0]))))
        amount = float(shown[row, column])
        words = f"{joined(panel, where)}: {joined_words(quantity, number_words(amount), None)}"
        size = (abs(x1 - x0), abs(y1 - y0))
        values.append(Value((x0 + x1) / 2, (y0 + y1) / 2, words, amount, where, *size))
    values.sort(key=lambda value: (round(value.y, 1), value.x))
    return Series(panel, quantity, values)


def intervals(axes: Axes) -> tuple[dict[float, list[Interval]], dict[float, list[Interval]]]:
    """What is drawn around points: ({y: intervals across}, {x: intervals upwards})."""
    across: dict[float, list[Interval]] = {}
    upwards: dict[float, list[Interval]] = {}

    def add(start: Sequence[float], end: Sequence[float]) -> None:
        if start[1] == end[1]:
            across.setdefault(round(float(start[1]), 9), []).append((float(start[0]), float(end[0]), None))
        elif start[0] == end[0]:
            upwards.setdefault(round(float(start[0]), 9), []).append((float(start[1]), float(end[1]), None))

    for line in axes.lines:
        if line.get_transform() == axes.transData and is_stroke(line) and len(line.get_xdata()) == 2:
            add(*np.column_stack([line.get_xdata(), line.get_ydata()]))
    for container in axes.containers:
        if isinstance(container, ErrorbarContainer):
            for strokes in container.lines[2]:
                for segment in strokes.get_segments():
                    add(segment[0], segment[-1])
    for band in axes.collections:
        if isinstance(band, PolyCollection) and not isinstance(band, QuadMesh):
            for x, low, high in band_ends(band):
                upwards.setdefault(x, []).append((low, high, colour_of(band)))
    return across, upwards


def band_ends(band: PolyCollection) -> Iterator[tuple[float, float, float]]:
    """(x, low, high) of each corner of a band that was filled between two curves."""
    ends: dict[float, list[float]] = {}
    for path in band.get_paths():
        for x, y in path.vertices:
            ends.setdefault(round(float(x), 9), []).append(float(y))
    yield from ((x, min(ys), max(ys)) for x, ys in ends.items() if np.isfinite(ys).all())


def around(value: float, drawn: Sequence[Interval], shade: str) -> tuple[float, float] | None:
    """The narrowest interval that holds the value. shade: colour of its curve."""
    slack = 1e-9 * max(1.0, abs(value))
    fitting = [(low, high) for low, high, colour in drawn if colour in (None, shade)]
    holding = [(low, high) for low, high in fitting if low - slack <= value <= high + slack and high > low]
    return min(holding, key=lambda ends: ends[1] - ends[0], default=None)


def placer(axes: Axes) -> Callable[[float, float], tuple[float, float]]:
    """From the data of these axes to points from the top left of the figure."""
    scale = POINTS_PER_INCH / axes.figure.dpi
    top = axes.figure.get_figheight() * POINTS_PER_INCH

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = axes.transData.transform((x, y))
        return float(across * scale), float(top - up * scale)

    return place


def ticks(axis: Axis) -> dict[float, str]:
    """{place: name} of an axis whose ticks have names, as rows of dots have."""
    if not isinstance(axis.get_major_locator(), FixedLocator):
        return {}
    # Of panels that share an axis only the outer ones write its names.
    shared = axis.axes.get_shared_x_axes() if axis.axis_name == "x" else axis.axes.get_shared_y_axes()
    for axes in [axis.axes, *shared.get_siblings(axis.axes)]:
        one = axes.xaxis if axis.axis_name == "x" else axes.yaxis
        labels = [plain(tick.get_text()) for tick in one.get_majorticklabels()]
        if any(labels) and len(labels) == len(axis.get_majorticklocs()):
            return dict(zip(map(float, axis.get_majorticklocs()), labels, strict=True))
    return {}


def is_named(axis: Axis) -> bool:
    """Whether an axis has rows or columns with names."""
    names = ticks(axis)
    return len(names) > 0 and all(gap > 0.99 for gap in np.diff(sorted(names)))


def said(axes: Axes, axis: str, at: float) -> str:
    """Where `at` lies along an axis, in words: the name of its row, or a number with what it counts."""
    names = ticks(axes.xaxis if axis == "x" else axes.yaxis)
    if names:
        nearest = min(names, key=lambda tick: abs(tick - at))
        gap = min(np.diff(sorted(names)), default=1.0)
        if names[nearest] and abs(nearest - at) <= (NEAR if gap > 0.99 else 1e-9):
            what = axis_name(axes, axis) if names[nearest].isdecimal() else ""
            return f"{what} {names[nearest]}".strip()
    return joined_words(axis_name(axes, axis), number_words(at), None)


def cell_name(axes: Axes, axis: str, at: float) -> str:
    """The row or column of a map at `at`. Where not every one is named, they are counted from one that is."""
    names = {tick: name for tick, name in ticks(axes.xaxis if axis == "x" else axes.yaxis).items() if name}
    if not names:
        return said(axes, axis, at)
    nearest = min(names, key=lambda tick: abs(tick - at))
    if abs(nearest - at) <= NEAR:
        return said(axes, axis, at)
    if names[nearest].isdecimal():
        return f"{axis_name(axes, axis)} {int(names[nearest]) + round(at - nearest)}".strip()
    return f"{'column' if axis == 'x' else 'row'} {int(at) + 1}"


def axis_name(axes: Axes, axis: str) -> str:
    """What an axis shows; panels that share an axis say it once."""
    own, shared = (
        (Axes.get_xlabel, axes.get_shared_x_axes()) if axis == "x" else (Axes.get_ylabel, axes.get_shared_y_axes())
    )
    for one in [axes, *shared.get_siblings(axes)]:
        if own(one):
            return plain(own(one))
    figure = axes.figure
    if whole := plain(figure.get_supxlabel() if axis == "x" else figure.get_supylabel()):
        return whole
    if axis == "x":
        return ""
    beside = [other for other in figure.axes if same_row(axes, other) and other.get_ylabel()]
    return plain(beside[0].get_ylabel() if beside else axes.get_title(loc="left") or axes.get_title())


def same_row(one: Axes, other: Axes) -> bool:
    """Whether two panels stand beside each other."""
    specs = one.get_subplotspec(), other.get_subplotspec()
    return None not in specs and specs[0].rowspan == specs[1].rowspan


def colour_names(figure: Figure) -> dict[Any, str]:
    """What is in which colour (and with which marker), as legends and coloured words say."""
    names: dict[Any, str] = {}
    for axes in figure.axes:
        labels = [*axes.texts, *axes.get_yticklabels(), *axes.get_xticklabels(), axes.title, axes._left_title]
        for text in labels:
            shade = to_hex(text.get_color())
            if text.get_text() and not is_number(text.get_text()) and shade not in WITHOUT_NAME:
                names.setdefault(shade, plain(text.get_text()))
    for legend in (*figure.legends, *(axes.get_legend() for axes in figure.axes)):
        if isinstance(legend, Legend):
            for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=False):
                if isinstance(handle, Line2D):
                    names[to_hex(handle.get_color()), str(handle.get_marker())] = plain(text.get_text())
                names[colour_of(handle)] = plain(text.get_text())
    return names


def colour_of(artist: Any) -> str:
    shade = artist.get_color() if isinstance(artist, Line2D) else artist.get_facecolor()
    return to_hex(shade[0] if np.ndim(shade) == 2 and len(shade) else shade)


def name_of(artist: Any, names: dict[Any, str], labelled: Any = None) -> str:
    """What a curve or bar is of: as it was labelled, or as the legend calls its colour."""
    label = str((labelled or artist).get_label())
    if label and not label.startswith("_"):
        return plain(label)
    marker = str(artist.get_marker()) if isinstance(artist, Line2D) else ""
    return names.get((colour_of(artist), marker), names.get(colour_of(artist), ""))


def is_number(text: str) -> bool:
    return re.fullmatch(r"[^A-Za-z]*(e[-+]?\d+)?", text) is not None


def plain(text: str) -> str:
    """On one line, without how the axis is drawn."""
    return re.sub(r",? *\(log scale\)|, log scale|^log scale$", "", " ".join(text.split()))


def joined(*parts: str) -> str:
    return ", ".join(dict.fromkeys(part for part in parts if part))


def joined_words(what: str, number: str, low_high: tuple[float, float] | None) -> str:
    name, unit = re.fullmatch(r"(.*?) ?(?:\(?(%|points|nats per token)\)?)?", what).groups()
    words = " ".join(filter(None, (name, number, unit)))
    return words if low_high is None else f"{words} ({number_words(low_high[0])} to {number_words(low_high[1])})"


def number_words(number: float) -> str:
    """Whole numbers whole, others with three digits."""
    number = float(number)
    return count(number) if number.is_integer() and abs(number) < 1e9 else significant(number)


def in_words(series: Sequence[Series]) -> str:
    """What a figure shows, with its key numbers: short series in full, of long ones the ends and the extremes."""
    told = [series_words(one) for one in series[:SERIES_IN_WORDS]]
    return " ".join(told + [f"{len(series) - len(told)} further series."] * (len(series) > len(told)))


def series_words(series: Series) -> str:
    values = series.values
    if any(value.amount is None for value in values) or len(values) <= 4:
        return "; ".join(value.words for value in values[:12]) + ("; and more." if len(values) > 12 else ".")
    name = joined(series.name, series.quantity) or "Values"
    least, most = (pick(values, key=lambda value: value.amount) for pick in (min, max))
    if values[0].width:
        first = f"{len(values)} cells"
    else:
        first = f"{number_words(values[0].amount)} at first to {number_words(values[-1].amount)} at last"
    return (
        f"{name}: {first}; least {number_words(least.amount)} ({least.where}), "
        f"most {number_words(most.amount)} ({most.where})."
    )
