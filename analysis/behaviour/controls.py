"""Models that learned nothing, on whose straight lines a test for barriers has to find one.

A test that calls every line clean shows nothing by calling one clean. Beside the line from a model to another, the
same test is made with the first replaced by

    random      base plus a random update, in every tensor as long as the model's own
    mirrored    base minus the model's update: as long, and against what was learned
    permuted    evolution strategies with the same seeds and the fitness of every step shuffled
                (`trainers.es.update.permuted`): the same noise, nothing learned

and with the base at every point between its ends (untrained).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from analysis.barriers import untrained_line, with_controls
from analysis.behaviour.lines import Landscape, fractions, line
from analysis.behaviour.probes import random_direction
from analysis.geometry.checkpoints import Checkpoint, Source, check_same_parameters, opened


# Of the random update that stands for all: its end is measured at every point of a line.
SEED = 0


class MadeOf(Checkpoint):
    """Weights that no folder holds, made tensor by tensor of those of a base and of a model.

    make: (parameter name, base's, model's) -> its weight.
    """

    def __init__(self, base: Source, model: Source, make: Callable[[str, torch.Tensor, torch.Tensor], torch.Tensor]):
        self._base, self._model, self._make = opened(base), opened(model), make
        check_same_parameters([self._base, self._model])
        self.path = self._model.path
        self.names, self.shapes, self.parameters = self._base.names, self._base.shapes, self._base.parameters

    def _stored(self, name: str) -> torch.Tensor:
        return self._make(name, self._base.read(name), self._model.read(name))

    def blocks(self, name: str, size: int = 2**20):
        yield from self.read(name).reshape(-1).split(size)


def mirrored(base: Source, model: Source) -> Checkpoint:
    """theta_0 - (theta - theta_0)."""
    return MadeOf(base, model, lambda name, start, end: start - (end - start))


def randomised(base: Source, model: Source, seed: int = SEED) -> Checkpoint:
    """theta_0 + r, where r is random and in every tensor as long as theta - theta_0."""

    def move(name: str, start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        length = torch.linalg.vector_norm(end - start, dtype=torch.float64).item()
        return start + random_direction(name, seed, start.shape, length)

    return MadeOf(base, model, move)


def line_controls(
    landscape: Landscape,
    first: str,
    second: str,
    points: int,
    of_line: Mapping[str, Any],
    permuted: Path | None = None,
) -> dict[str, Any]:
    """The verdict on the line from `first` to `second`, beside its controls on the same problems and references.

    Returns {"points", "lines": {name: see `line`}, "base": base's point, "reward", "loss": see `with_controls`}.

    points: on each line of a control. of_line: the line itself, of any number of points. permuted: the model of that
    control, where there is one.
    """
    base, model = landscape.models["base"], landscape.models[first]
    sources: dict[str, Source] = {"random": randomised(base, model), "mirrored": mirrored(base, model)}
    if permuted is not None:
        sources["permuted"] = permuted
    known = {1.0: landscape.at(second)}
    lines = {
        name: line(source, landscape.models[second], fractions(points), landscape.measure, known)
        for name, source in sources.items()
    }
    lines["untrained"] = untrained_line(of_line, landscape.at("base"))
    return {"points": points, "lines": lines, "base": landscape.at("base"), **with_controls(of_line, lines)}
