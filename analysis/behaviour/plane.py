"""Reward and loss on the plane through three models, such as base, ES and GRPO."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import hypot, inf, sqrt
from typing import Any

import torch
from tqdm import tqdm

from analysis.behaviour.lines import Landscape, check_names
from analysis.geometry.checkpoints import Source, check_same_parameters, opened
from eval.errors import UserError


# Sine of the angle under which two updates count as parallel: what is left then is mostly the rounding of the weights.
FLAT = 1e-3


@dataclass(frozen=True)
class Frame:
    """Orthonormal coordinates on the plane through an origin o and two models a and b, by Gram and Schmidt.

    x runs along a - o; y along the part of b - o that is orthogonal to it. Lengths are Euclidean distances of weights.

    a_x: ||a - o||, so that a lies at (a_x, 0).
    b_x, b_y: where b lies; b_y > 0.
    """

    a_x: float
    b_x: float
    b_y: float

    def shares(self, x: float, y: float) -> tuple[float, float]:
        """(s, t) such that o + s (a - o) + t (b - o) lies at (x, y)."""
        t = y / self.b_y
        return (x - t * self.b_x) / self.a_x, t


def plane_frame(origin: Source, source_a: Source, source_b: Source) -> Frame:
    """The coordinates of the plane through three checkpoints, from one pass over them; sums in float64.

    Raises UserError if the checkpoints are of different models, or lie on one straight line.
    """
    checkpoints = [opened(source) for source in (origin, source_a, source_b)]
    check_same_parameters(checkpoints)
    products = torch.zeros(2, 2, dtype=torch.float64)
    for name in tqdm(checkpoints[0].names, desc="plane, coordinates", unit="tensor"):
        for o, a, b in zip(*(checkpoint.blocks(name) for checkpoint in checkpoints), strict=True):
            updates = torch.stack([a, b]).double() - o.double()
            products += updates @ updates.T
    (aa, ab), (_, bb) = products.tolist()
    a_x = sqrt(aa)
    b_x = ab / a_x if a_x else 0.0
    b_y = sqrt(max(bb - b_x**2, 0.0))
    if a_x == 0 or b_y <= FLAT * hypot(b_x, b_y):
        raise UserError(
            f"{origin}, {source_a} and {source_b} lie on one straight line, and a plane needs three corners"
        )
    return Frame(a_x, b_x, b_y)


def plane_weights(
    origin: Source, source_a: Source, source_b: Source, s: float, t: float
) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights o + s (a - o) + t (b - o) by parameter name, in float32, one tensor after the other."""
    o, a, b = (opened(source) for source in (origin, source_a, source_b))
    for name in o.names:
        start = o.read(name)
        yield name, start + s * (a.read(name) - start) + t * (b.read(name) - start)


def plane(landscape: Landscape, corners: Sequence[str], points: int, margin: float) -> dict[str, Any]:
    """Reward and loss on a grid over the plane through three models.

    Returns the landscape's setting and

        {"corners": their names, the origin first,
         "models": {name: {"x", "y", and every key of its point}},
         "margin", "xs", "ys": coordinates of the grid,
         and every key of a point: [row of ys][column of xs]}

    See `Frame` for the coordinates. The grid has a scale of its own along each axis, because two updates may differ a
    hundredfold in length: it spans the three corners and `margin` of that span on every side.

    points: along each axis; `points`^2 sets of weights are measured.
    Raises UserError for fewer than 2 points, a negative margin, or corners that are not three models off one line.
    """
    check_plane(landscape.models, corners, points, margin)
    sources = [landscape.models[name] for name in corners]
    frame = plane_frame(*sources)
    positions = [(0.0, 0.0), (frame.a_x, 0.0), (frame.b_x, frame.b_y)]
    xs, ys = (ticks(values, points, margin) for values in zip(*positions, strict=True))
    measured = [
        landscape.measure(plane_weights(*sources, *frame.shares(x, y)))
        for y, x in tqdm(list(product(ys, xs)), desc="plane", unit="point")
    ]
    rows = [measured[start : start + points] for start in range(0, len(measured), points)]
    return {
        **landscape.setting,
        "corners": list(corners),
        "models": {
            name: {"x": x, "y": y, **landscape.at(name)} for name, (x, y) in zip(corners, positions, strict=True)
        },
        "margin": margin,
        "xs": xs,
        "ys": ys,
        **{key: [[point[key] for point in row] for row in rows] for key in measured[0]},
    }


def check_plane(models: Iterable[str], corners: Sequence[str], points: int, margin: float) -> None:
    """Raise UserError for what `plane` cannot measure, as far as it shows before a checkpoint is read."""
    if len(corners) != 3:
        raise UserError(f"a plane has 3 corners, not {len(corners)}; give the names of three models")
    if points < 2:
        raise UserError(f"a plane of {points} points along each axis has no extent; give at least 2")
    if not 0 <= margin < inf:
        raise UserError(f"the margin around the plane is {margin}; give 0 or more")
    check_names(models, corners)


def ticks(values: Sequence[float], points: int, margin: float) -> list[float]:
    """`points` evenly spaced numbers over the range of `values`, widened by `margin` of it on both sides."""
    low, high = min(values), max(values)
    first, last = low - margin * (high - low), high + margin * (high - low)
    return [first + (last - first) * index / (points - 1) for index in range(points)]
