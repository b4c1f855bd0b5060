"""The claims: what each says, where it stands, and the number of a comparison that it is about, with its range.

Limits are those of `analysis.criteria`. A number is None where a comparison did not measure it. A claim that would
hold whatever is compared has a control: the same number of something on which it must not hold.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import fmean
from typing import Any

from analysis.barriers import relative_loss_gaps
from analysis.criteria import (
    LIKE_RANDOM,
    LINEAR_DRIFT,
    LOSS_BARRIER,
    MUCH_LARGER,
    NEARLY_ORTHOGONAL,
    NON_INFERIOR,
    RETAINED,
    REWARD_BARRIER,
    SAME_LENGTH,
    SIMILAR_ACCURACY,
    SPARSE,
)
from analysis.statistics import exact_share


PAPER = "arXiv 2604.01499"
NO_POWER = "a line from a control that learned nothing, or through the untrained base, shows none either"

Results = Mapping[str, Any]


@dataclass(frozen=True)
class Claim:
    """A statement, and when it is taken to hold.

    key: short name. source: where it stands. quantity: what is measured, in words.
    values: the number of one comparison, or one for each point of a line; None if it was not measured.
    low, high: the range that makes the statement true. logarithmic: whether means are taken of logarithms.
    control: the same number of what must not lie in the range; None for a claim that needs none. powerless: why the
        claim says nothing where the control holds too.
    at_end_only: whether equal accuracy is no stopping point for it, or its control is not measured there.
    known_std: of one value under chance, where theory gives it; the interval then goes by it.
    """

    key: str
    statement: str
    source: str
    quantity: str
    values: Callable[[Results], Sequence[float] | None]
    low: float = -math.inf
    high: float = math.inf
    logarithmic: bool = False
    control: Callable[[Results], Sequence[float] | None] | None = None
    powerless: str = ""
    at_end_only: bool = False
    known_std: float | None = None


def _at(results: Results | None, *keys: str) -> Any:
    """The value at a path of keys; None when a part of it is absent or null."""
    value: Any = results
    for key in keys:
        if value is None:
            return None
        value = value.get(key)
    return value


def _number(value: float | None) -> list[float] | None:
    return None if value is None else [value]


def _ratio(numerator: float | None, denominator: float | None) -> list[float] | None:
    """None unless both are positive: a ratio to 0 is no number."""
    if numerator is None or denominator is None or numerator <= 0 or denominator <= 0:
        return None
    return [numerator / denominator]


def _accuracy(results: Results, model: str, task: str | None = None) -> Fraction | None:
    """Exact, so that a difference of two accuracies that is a limit meets it."""
    scored = _at(results, "evaluation", model, task or results["task"])
    if _at(scored, "accuracy") is None:
        return None
    return exact_share(scored["accuracy"], scored.get("total"))


def _off_tasks(results: Results, section: str, method: str) -> list[str]:
    return [task for task in _at(results, section, method) or {} if task != results["task"]]


def accuracy_difference(results: Results) -> list[float] | None:
    accuracies = _accuracy(results, "es"), _accuracy(results, "grpo")
    return None if None in accuracies else [float(accuracies[0] - accuracies[1])]


def base_difference(results: Results) -> list[float] | None:
    """The untrained base in place of ES."""
    accuracies = _accuracy(results, "base"), _accuracy(results, "grpo")
    return None if None in accuracies else [float(accuracies[0] - accuracies[1])]


def smaller_gain(results: Results) -> list[float] | None:
    accuracies = [_accuracy(results, model) for model in ("base", "es", "grpo")]
    return None if None in accuracies else [float(min(accuracies[1:]) - accuracies[0])]


def retention(method: str) -> Callable[[Results], list[float] | None]:
    """The change of accuracy against the base, mean over the tasks that were not trained."""

    def change(results: Results) -> list[float] | None:
        tasks = _off_tasks(results, "evaluation", method)
        pairs = [(_accuracy(results, method, task), _accuracy(results, "base", task)) for task in tasks]
        if not pairs or any(None in pair for pair in pairs):
            return None
        return [float(sum(after - before for after, before in pairs) / len(pairs))]

    return change


def norm_ratio(results: Results) -> list[float] | None:
    return _ratio(*(_at(results, "geometry", "checkpoints", method, "norm") for method in ("es", "grpo")))


def walk_ratio(results: Results) -> list[float] | None:
    measured = _at(results, "geometry", "checkpoints", "es", "norm")
    predicted = _at(results, "theory", "es", "walk", "predicted")
    return _ratio(measured, predicted[-1] if predicted else _at(results, "random_walk", "es", "predicted_norm"))


def drift_fit(results: Results) -> list[float] | None:
    return _number(_at(results, "theory", "es", "walk", "r_squared"))


def cosine(results: Results) -> list[float] | None:
    return _number(_at(results, "geometry", "cosine", "es|grpo", "total"))


def largest_cosine(results: Results) -> list[float] | None:
    """What the cosine could be at most: if all that ES has learned lay along the other update.

    The useful part of a step is at most alpha long (`analysis.theory.random_walk.expected_step`), that of T steps
    alpha T, beside the length of the whole update.
    """
    walk = _at(results, "random_walk", "es")
    bound = None if walk is None else _ratio(walk["alpha"] * walk["steps"], walk["measured_norm"])
    return None if bound is None else [min(1.0, bound[0])]


def permuted_walk_ratio(results: Results) -> list[float] | None:
    """Of the run's seeds with shuffled fitness."""
    predicted = _at(results, "random_walk", "es", "predicted_norm")
    return _ratio(_at(results, "controls", "update", "norm"), predicted)


def permuted_cosine_over_chance(results: Results) -> list[float] | None:
    total, chance = (_at(results, "controls", "update", "cosine", key) for key in ("total", "null_std"))
    return None if total is None or not chance else [total / chance]


def cosine_over_chance(results: Results) -> list[float] | None:
    total, chance = (_at(results, "geometry", "cosine", "es|grpo", key) for key in ("total", "null_std"))
    return None if total is None or not chance else [total / chance]


def reward_gaps(line: Results | None) -> list[float] | None:
    """How far each inner point of a line lies below the even line between its ends; exact, as in `_accuracy`."""
    if line is None or None in line["reward"]:
        return None
    totals = line.get("reward_total", [None] * len(line["reward"]))
    values = [exact_share(*counted) for counted in zip(line["reward"], totals, strict=True)]
    ts = [Fraction(t).limit_denominator(10**6) for t in line["ts"]]
    even = [(1 - t) * values[0] + t * values[-1] for t in ts]
    return [float(chord - value) for value, chord in zip(values[1:-1], even[1:-1], strict=True)]


def loss_gaps(line: Results | None) -> list[float] | None:
    """How far the loss of each inner point lies above the even line, as a share of what the references cost there."""
    if line is None or None in line["loss"] or line["loss"][0] <= 0 or line["loss"][-1] <= 0:
        return None
    return relative_loss_gaps(line)


def line_gaps(of_line: Callable[[Results | None], list[float] | None]) -> Callable[[Results], list[float] | None]:
    """The gaps of the line from ES to GRPO."""
    return lambda results: of_line(_at(results, "connectivity", "lines", "es|grpo"))


def cleanest_control(
    of_line: Callable[[Results | None], list[float] | None],
) -> Callable[[Results], list[float] | None]:
    """The largest gap on the control of that line on which it is smallest: the one that would pass most easily."""

    def smallest(results: Results) -> list[float] | None:
        lines = _at(results, "controls", "lines", "es|grpo", "lines") or {}
        gaps = [found for line in lines.values() if (found := of_line(line))]
        return [min(max(found) for found in gaps)] if gaps else None

    return smallest


def off_task_kl(results: Results, method: str, direction: str) -> float | None:
    """Mean over the tasks that were not trained, in nats per token."""
    tasks = _off_tasks(results, "kl", method)
    divergences = [_at(results, "kl", method, task, direction, "per_token") for task in tasks]
    return fmean(divergences) if divergences and None not in divergences else None


def kl_ratio(direction: str) -> Callable[[Results], list[float] | None]:
    return lambda results: _ratio(*(off_task_kl(results, method, direction) for method in ("es", "grpo")))


def breadth_ratio(results: Results) -> list[float] | None:
    """(off-task / on-task KL) of ES over that of GRPO."""
    broad = [
        _ratio(
            off_task_kl(results, method, "reverse"),
            _at(results, "kl", method, results["task"], "reverse", "per_token"),
        )
        for method in ("es", "grpo")
    ]
    return None if None in broad else _ratio(broad[0][0], broad[1][0])


def curvature_ratio(method: str) -> Callable[[Results], list[float] | None]:
    """Even part of the loss along the whole update over its mean along random directions of the same norms."""

    def ratio(results: Results) -> list[float] | None:
        scales, probed = _at(results, "probes", "scales"), _at(results, "probes", "checkpoints", method)
        if probed is None or 1.0 not in scales:
            return None
        at = scales.index(1.0)
        return _ratio(*(probed[of]["even"]["loss"][at] for of in ("update", "random_mean")))

    return ratio


def single_random_ratio(results: Results) -> list[float] | None:
    """The same of the first random direction in place of GRPO's update."""
    scales, probed = _at(results, "probes", "scales"), _at(results, "probes", "checkpoints", "grpo")
    if not probed or not probed.get("random") or 1.0 not in scales:
        return None
    at = scales.index(1.0)
    first = next(iter(probed["random"].values()))
    return _ratio(first["even"]["loss"][at], probed["random_mean"]["even"]["loss"][at])


def bf16_changed_share(results: Results) -> list[float] | None:
    return _number(_at(results, "geometry", "checkpoints", "grpo", "changed_share_bf16"))


CLAIMS = (
    Claim(
        "learns",
        "Both methods raise the accuracy on the trained task.",
        f"{PAPER}, Table 1",
        "smaller of the two gains over base, share of 1",
        smaller_gain,
        low=SIMILAR_ACCURACY,
    ),
    Claim(
        "accuracy",
        "ES matches or exceeds GRPO's accuracy on the trained task.",
        f"{PAPER}, abstract and Table 1",
        f"accuracy of ES minus that of GRPO; non-inferior: at least -{NON_INFERIOR:g}",
        accuracy_difference,
        low=-NON_INFERIOR,
        control=base_difference,
        powerless="the untrained base matches GRPO too",
        at_end_only=True,
    ),
    Claim(
        "norm",
        "ES moves the weights much further than GRPO.",
        f"{PAPER}, Table 3 (87 to 107 times)",
        f"length of ES's update over GRPO's; much: {MUCH_LARGER:g} times",
        norm_ratio,
        low=MUCH_LARGER,
        logarithmic=True,
    ),
    Claim(
        "walk",
        "The length of ES's update is that of a random walk.",
        f"{PAPER}, theory and Table 3",
        f"length over alpha sqrt(T d / N); the same within a factor of {SAME_LENGTH:g}",
        walk_ratio,
        low=1 / SAME_LENGTH,
        high=SAME_LENGTH,
        logarithmic=True,
        control=permuted_walk_ratio,
        powerless="the same seeds with shuffled fitness go as far: for z-scored independent noise it is an identity",
        at_end_only=True,
    ),
    Claim(
        "drift",
        "ES drifts steadily: its squared distance from base grows evenly with the steps.",
        f"{PAPER}, theory (R^2 above {LINEAR_DRIFT:g})",
        "R^2 of a straight line through 0, squared distance against steps",
        drift_fit,
        low=LINEAR_DRIFT,
    ),
    Claim(
        "orthogonal",
        "The two updates are nearly orthogonal.",
        f"{PAPER}, section on geometry",
        f"cosine of the updates; nearly: within {NEARLY_ORTHOGONAL:g}",
        cosine,
        low=-NEARLY_ORTHOGONAL,
        high=NEARLY_ORTHOGONAL,
        control=largest_cosine,
        powerless="even with all of ES's signal along GRPO's update, alpha T of its length, they would be",
    ),
    Claim(
        "aligned",
        "The two updates are more aligned than two random directions of the same lengths.",
        f"against {PAPER}, theory (cosine of order sqrt(r / d))",
        "cosine in standard deviations of random directions, mean over seeds; aligned: above 0",
        cosine_over_chance,
        low=0.0,
        control=permuted_cosine_over_chance,
        powerless="the same seeds with shuffled fitness are aligned too",
        at_end_only=True,
        known_std=1.0,
    ),
    Claim(
        "reward-line",
        "No barrier in the reward lies on the straight line from ES to GRPO.",
        f"{PAPER}, Fig. 3",
        f"largest gap below the even line between the ends, share of 1; none: up to {REWARD_BARRIER:g}",
        line_gaps(reward_gaps),
        high=REWARD_BARRIER,
        control=cleanest_control(reward_gaps),
        powerless=NO_POWER,
    ),
    Claim(
        "loss-line",
        "No barrier in the loss lies on that line either.",
        f"{PAPER}, Fig. 3",
        f"largest gap above the even line, as a share of what the references cost there; none: up to {LOSS_BARRIER:g}",
        line_gaps(loss_gaps),
        high=LOSS_BARRIER,
        control=cleanest_control(loss_gaps),
        powerless=NO_POWER,
    ),
    Claim(
        "off-task-kl",
        "ES drifts further than GRPO on tasks that nobody trained.",
        f"{PAPER}, Fig. 2",
        "KL(model || base) of ES over that of GRPO, mean over the other tasks",
        kl_ratio("reverse"),
        low=1.0,
        logarithmic=True,
    ),
    Claim(
        "off-task-kl-forward",
        "The same, with the divergence taken in the other direction.",
        "the same claim; the direction used in arXiv 2605.30148",
        "KL(base || model) of ES over that of GRPO, mean over the other tasks",
        kl_ratio("forward"),
        low=1.0,
        logarithmic=True,
    ),
    Claim(
        "breadth",
        "ES's drift is broader: less of it lies on the trained task.",
        f"{PAPER}, Fig. 2",
        "off-task over on-task KL(model || base), of ES over that of GRPO",
        breadth_ratio,
        low=1.0,
        logarithmic=True,
    ),
    Claim(
        "es-retention",
        "ES loses accuracy on tasks that nobody trained.",
        f"{PAPER}, Table 2 (MMLU; IFEval says the opposite)",
        f"accuracy of ES minus that of the base, mean over the other tasks; a loss: below -{RETAINED:g}",
        retention("es"),
        high=-RETAINED,
    ),
    Claim(
        "grpo-retention",
        "GRPO keeps its accuracy on tasks that nobody trained.",
        f"{PAPER}, Table 2",
        f"accuracy of GRPO minus that of the base, mean over the other tasks; kept: at least -{RETAINED:g}",
        retention("grpo"),
        low=-RETAINED,
    ),
    Claim(
        "es-probe",
        "Moving along ES's update costs what moving along a random direction does.",
        f"{PAPER}, Fig. 4 and 5",
        f"even part of the loss along the update over random directions of its norms; within a factor of "
        f"{LIKE_RANDOM:g}",
        curvature_ratio("es"),
        low=1 / LIKE_RANDOM,
        high=LIKE_RANDOM,
        logarithmic=True,
        control=curvature_ratio("grpo"),
        powerless="so does moving along GRPO's update",
    ),
    Claim(
        "grpo-probe",
        "GRPO's update lies along a sharp direction.",
        f"{PAPER}, Fig. 4 and 5",
        f"even part of the loss along the update over random directions of its norms; sharp: above {LIKE_RANDOM:g}",
        curvature_ratio("grpo"),
        low=LIKE_RANDOM,
        logarithmic=True,
        control=single_random_ratio,
        powerless="so does a random direction beside the others",
    ),
    Claim(
        "sparse",
        "GRPO's update is sparse, as seen in bfloat16.",
        "arXiv 2601.20861 (some 95 % unchanged)",
        f"share of parameters that change in bfloat16; sparse: up to {SPARSE:g}",
        bf16_changed_share,
        high=SPARSE,
    ),
    Claim(
        "forgetting",
        "In a sequence of tasks ES forgets earlier ones, GRPO does not.",
        f"{PAPER}, Fig. 1",
        "needs a sequence of trainings; comparisons of single tasks do not show it",
        lambda results: None,
    ),
)
