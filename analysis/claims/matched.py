"""Where two trainings are equally accurate, and what it cost them to get there; from what they logged alone.

Matched budget compares what the same number of completions buys. Matched accuracy compares solutions: which weights,
how far from the base, how much drift, for the same skill. A method that saturates early goes on walking afterwards, so
that the two questions can have opposite answers ("Matching Accuracy, Different Geometry", arXiv 2604.01499, compares
at equal accuracy).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

from analysis.criteria import MATCHED_ACCURACY
from analysis.statistics import exact_share
from eval.storage import read_json, read_jsonl, read_yaml_mapping


@dataclass(frozen=True)
class Reached:
    """A training at one of its evaluations.

    completions, tokens: generated so far, over all members. seconds: of training. flops: see `flops_per_token`.
    accuracy: greedy, on `total` validation problems; low, high: its 95 % interval.
    """

    step: int
    completions: int
    tokens: int
    seconds: float
    flops: float
    accuracy: float
    low: float
    high: float
    total: int

    @property
    def share(self) -> Fraction:
        """The accuracy, exact where it is a share of counted problems."""
        return exact_share(self.accuracy, self.total)


Curve = Sequence[Reached]
COSTS = ("completions", "tokens", "seconds", "flops")


def flops_per_token(method: str, options: Mapping[str, Any]) -> int:
    """Floating-point operations per parameter and generated token, an estimate.

    A forward pass takes 2, a backward pass 4 (Kaplan et al. 2020, arXiv 2001.08361, section 2.1). Evolution strategies
    generate, 2. GRPO generates and then makes a forward and a backward pass for each of its `num_iterations`, and one
    forward pass of the reference model with `beta`. What the prompts cost is left out of both: it is in the same
    proportion, so that the ratio of the methods is right where their answers are equally long. Attention, the update
    itself, the noise of members and evaluations are left out; with LoRA, GRPO's is an upper bound.
    """
    if method == "es":
        return 2
    return 2 + 6 * int(options.get("num_iterations") or 1) + (2 if options.get("beta") else 0)


def read_curve(run: Path) -> list[Reached]:
    """The evaluations of a finished training, the first before its first step."""
    options, results = read_yaml_mapping(run / "config.yaml"), read_json(run / "results.json")
    each = flops_per_token(results["method"], options) * results["parameters"]
    spent = {row["step"]: row for row in read_jsonl(run / "metrics.jsonl")}
    points = []
    for row in read_jsonl(run / "evaluations.jsonl"):
        at = spent.get(row["step"], {})
        tokens, seconds = at.get("tokens", 0), at.get("seconds", 0.0)
        numbers = {key: row[key] for key in ("step", "completions", "accuracy", "low", "high", "total")}
        points.append(Reached(**numbers, tokens=tokens, seconds=seconds, flops=float(each) * tokens))
    return points


@dataclass(frozen=True)
class Match:
    """A pair of evaluations, one of each training.

    found: whether they are within `MATCHED_ACCURACY` of each other and above the start by more than that. Otherwise
    the pair is the nearest there is. level: the lower of the two accuracies.
    """

    found: bool
    pair: tuple[Reached, Reached]

    @property
    def level(self) -> float:
        return float(min(point.share for point in self.pair))

    @property
    def difference(self) -> float:
        """The first's accuracy minus the second's."""
        return float(self.pair[0].share - self.pair[1].share)


def first_match(curves: tuple[Curve, Curve], steps: tuple[Collection[int], Collection[int]]) -> Match | None:
    """The first two checkpoints that are equally accurate, at the highest accuracy that both reach.

    Of all pairs within `MATCHED_ACCURACY` of each other whose lower accuracy lies above that of the start by more than
    that, the highest lower accuracy is the level that both reach; of the pairs within `MATCHED_ACCURACY` below it, the
    one with the fewest completions is taken. Where there is none, the pair with the smallest difference (of several,
    the most accurate) is the nearest. None if a training has no checkpoint after its start.

    curves: of both trainings, the start first. steps: of which the weights are there.
    """
    within = Fraction(str(MATCHED_ACCURACY))
    trained = [[point for point in curve if point.step in kept] for curve, kept in zip(curves, steps, strict=True)]
    pairs = list(product(*trained))
    if not pairs:
        return None

    def level(pair: tuple[Reached, ...]) -> Fraction:
        return min(point.share for point in pair)

    def gap(pair: tuple[Reached, ...]) -> Fraction:
        return abs(pair[0].share - pair[1].share)

    learned = max(curve[0].share for curve in curves) + within
    equal = [pair for pair in pairs if gap(pair) <= within and level(pair) > learned]
    if equal:
        reached = max(map(level, equal))
        near = [pair for pair in equal if level(pair) >= reached - within]
        a, b = min(near, key=lambda pair: (pair[0].completions + pair[1].completions, pair[0].completions))
        return Match(True, (a, b))
    a, b = min(pairs, key=lambda pair: (gap(pair), -level(pair)))
    return Match(False, (a, b))


def crossing(curve: Curve, level: float) -> tuple[int, float] | None:
    """Where a training first reaches an accuracy, between its evaluations: (i, t), from i - 1 to i by the share t.

    None if it never does; (0, 0.0) if it begins there.
    """
    for i, point in enumerate(curve):
        if point.accuracy >= level:
            if i == 0:
                return 0, 0.0
            before = curve[i - 1].accuracy
            return i, (level - before) / (point.accuracy - before)
    return None


def cost_of(curve: Curve, level: float) -> dict[str, float] | None:
    """What it took to reach an accuracy, interpolated evenly between the evaluations around it; None if never."""
    if (at := crossing(curve, level)) is None:
        return None
    i, t = at
    before = curve[max(i - 1, 0)]
    return {name: (1 - t) * getattr(before, name) + t * getattr(curve[i], name) for name in COSTS}


def value_at(accuracies: Sequence[float], values: Sequence[float], level: float) -> float | None:
    """A quantity of checkpoints, interpolated to an accuracy that two consecutive ones enclose; None if none do."""
    for i, accuracy in enumerate(accuracies):
        if accuracy >= level:
            if accuracy == level or i == 0:
                return values[i] if accuracy == level else None
            t = (level - accuracies[i - 1]) / (accuracy - accuracies[i - 1])
            return (1 - t) * values[i - 1] + t * values[i]
    return None


def chosen_steps(steps: Collection[int], most: int, always: int) -> list[int]:
    """At most `most` of `steps`: `always`, the last, the first, and others that are evenly spaced in their logarithm.

    A training changes most at its beginning.
    """
    ordered = sorted(steps)
    if len(ordered) <= most:
        return ordered
    chosen: set[int] = set()
    for step in (always, ordered[-1], ordered[0]):
        if len(chosen) < most:
            chosen.add(step)
    left = [step for step in ordered if step not in chosen]
    ratio = ordered[-1] / ordered[0]
    targets = [ordered[0] * ratio ** ((i + 1) / (most - 1)) for i in range(max(most - 2, 0))]
    for target in targets:
        if len(chosen) < most and left:
            nearest = min(left, key=lambda step: abs(step - target))
            chosen.add(nearest)
            left.remove(nearest)
    return sorted(chosen)


def columns(curve: Curve) -> dict[str, list[float]]:
    """{name of each number of `Reached`: its values along the curve}."""
    rows = [asdict(point) for point in curve]
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}
