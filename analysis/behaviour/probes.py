"""What lies to both sides of a model along an update, and along random directions of the same length.

Along a direction u from the base theta_0, with f the reward or the loss and l > 0,

    odd(l)  = (f(theta_0 + l u) - f(theta_0 - l u)) / 2,
    even(l) = (f(theta_0 + l u) + f(theta_0 - l u)) / 2 - f(theta_0).

Of the Taylor series of f, odd(l) holds l f'(0) and the other odd orders: what the direction itself gains. even(l)
holds l^2 f''(0) / 2 and the other even orders: what moving so far costs, whichever the sign. Random directions with
the same norm in every tensor show what is no property of the update but of its size.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import inf
from statistics import fmean, stdev
from typing import Any

import torch
from tqdm import tqdm

from analysis.behaviour.lines import Landscape, Point, Weights
from analysis.geometry.checkpoints import Source, check_same_parameters, opened
from eval.errors import UserError


QUANTITIES = ("reward", "loss")
# The low end of a difference is a low end minus a high end.
OPPOSITE = {"": "", "_low": "_high", "_high": "_low"}


def probes(
    landscape: Landscape, names: Sequence[str], scales: Sequence[float], seeds: Sequence[int]
) -> dict[str, Any]:
    """Odd and even parts along the update of each model from base, and along random directions.

    Returns the landscape's setting and

        {"start": base's point, "scales", "seeds",
         "checkpoints": {name: {"update": see `probe`, "random": {seed: see `probe`}, "random_mean": {"odd": {"reward",
                                "loss"}, "even": {...}}, "random_std": the same}}}

    where mean and sample standard deviation (None for a single seed) are over the seeds, for every scale.

    scales: l > 0, in units of the whole update: theta_0 + 1 * u is the model itself.
    seeds: of the random directions; see `random_direction`.
    Raises UserError if there is no scale or one that is not positive, no seed or one that comes twice, or if a name is
    no checkpoint's.
    """
    check_probes(landscape.models, names, scales, seeds)
    base = landscape.models["base"]
    probed: dict[str, Any] = {}
    with tqdm(total=len(names) * (1 + len(seeds)), desc="probes", unit="direction") as progress:
        for name in names:
            source = landscape.models[name]
            known = {1.0: landscape.at(name)}
            update = probe(landscape, scales, lambda scale, source=source: along_update(base, source, scale), known)
            progress.update()
            random = {}
            for seed in seeds:
                random[str(seed)] = probe(
                    landscape,
                    scales,
                    lambda scale, source=source, seed=seed: along_random(base, source, seed, scale),
                    {},
                )
                progress.update()
            probed[name] = {
                "update": update,
                "random": random,
                "random_mean": over_seeds(list(random.values()), fmean),
                "random_std": over_seeds(list(random.values()), lambda v: stdev(v) if len(v) > 1 else None),
            }
    return {
        **landscape.setting,
        "start": landscape.at("base"),
        "scales": list(scales),
        "seeds": list(seeds),
        "checkpoints": probed,
    }


def check_probes(models: Iterable[str], names: Sequence[str], scales: Sequence[float], seeds: Sequence[int]) -> None:
    """Raise UserError for what `probes` cannot measure, as far as it shows before a checkpoint is read."""
    if not scales or not all(0 < scale < inf for scale in scales):
        raise UserError(f"probes at the scales {list(scales)}: give one or more positive numbers")
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"probes with the seeds {list(seeds)}: give one or more different whole numbers")
    checkpoints = [name for name in models if name != "base"]
    for name in names:
        if name not in checkpoints:
            raise UserError(f"there is no update {name!r} to probe; choose among {', '.join(checkpoints)}")


def probe(
    landscape: Landscape, scales: Sequence[float], weights: Callable[[float], Weights], known: dict[float, Point]
) -> dict[str, Any]:
    """{"plus", "minus": {key of a point: list over scales}, "odd", "even": {"reward", "reward_low", "reward_high",
    "loss", "loss_low", "loss_high": list over scales}} of one direction.

    The points share their prompts, and how their errors depend on each other is not known. The intervals of the parts
    add up those of the points at their worst: for normal errors they cover at least as often as those do.

    weights: theta_0 + scale * direction.
    known: points that are not measured again, by scale.
    """
    start = landscape.at("base")
    plus = [known[scale] if scale in known else landscape.measure(weights(scale)) for scale in scales]
    minus = [landscape.measure(weights(-scale)) for scale in scales]
    pairs = list(zip(plus, minus, strict=True))
    return {
        "plus": _columns(plus),
        "minus": _columns(minus),
        "odd": _columns([odd_part(*pair) for pair in pairs]),
        "even": _columns([even_part(start, *pair) for pair in pairs]),
    }


def odd_part(plus: Point, minus: Point) -> Point:
    """(f(+) - f(-)) / 2 of reward and loss with their widest intervals; None where a value is."""
    part: Point = {}
    for key in QUANTITIES:
        for end, other in OPPOSITE.items():
            values = plus[key + end], minus[key + other]
            part[key + end] = None if None in values else (values[0] - values[1]) / 2
    return part


def even_part(start: Point, plus: Point, minus: Point) -> Point:
    """(f(+) + f(-)) / 2 - f(0) of reward and loss with their widest intervals; None where a value is."""
    part: Point = {}
    for key in QUANTITIES:
        for end, other in OPPOSITE.items():
            values = plus[key + end], minus[key + end], start[key + other]
            part[key + end] = None if None in values else (values[0] + values[1]) / 2 - values[2]
    return part


def along_update(base: Source, source: Source, scale: float) -> Iterator[tuple[str, torch.Tensor]]:
    """theta_0 + scale * (theta - theta_0) by parameter name, in float32, one tensor after the other."""
    for name, start, update in _updates(base, source):
        yield name, start + scale * update


def along_random(base: Source, source: Source, seed: int, scale: float) -> Iterator[tuple[str, torch.Tensor]]:
    """theta_0 + scale * r by parameter name, where r is random and in every tensor as long as theta - theta_0."""
    for name, start, update in _updates(base, source):
        length = torch.linalg.vector_norm(update, dtype=torch.float64).item()
        yield name, start + scale * random_direction(name, seed, start.shape, length)


def random_direction(name: str, seed: int, shape: Sequence[int], length: float) -> torch.Tensor:
    """A float32 tensor of this length, uniform over all directions, addressed by seed and parameter name."""
    address = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(address[:8], "big", signed=True))
    noise = torch.randn(tuple(shape), generator=generator)
    return noise * (length / torch.linalg.vector_norm(noise, dtype=torch.float64).item())


def over_seeds(probed: Sequence[dict[str, Any]], summary: Callable[[list[float]], float | None]) -> dict[str, Any]:
    """`summary` over the directions of each part's reward and loss, for every scale; None where there is no loss."""
    return {
        part: {
            key: [
                None if None in values else summary(list(values))
                for values in zip(*(direction[part][key] for direction in probed), strict=True)
            ]
            for key in QUANTITIES
        }
        for part in ("odd", "even")
    }


def _updates(base: Source, source: Source) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """(name, theta_0, theta - theta_0) of every parameter, in float32."""
    origin, model = opened(base), opened(source)
    check_same_parameters([origin, model])
    for name in origin.names:
        start = origin.read(name)
        yield name, start, model.read(name) - start


def _columns(points: Sequence[Point]) -> dict[str, list]:
    return {key: [point[key] for point in points] for key in points[0]}
