"""Do the claims about evolution strategies and GRPO hold? Judged over the results.json of many comparisons.

The claims are those of "Matching Accuracy, Different Geometry" (arXiv 2604.01499), and one of arXiv 2601.20861 that is
cited beside them. Each is one number of a comparison and the range in which the number has to lie. The rules:

1. Comparisons that differ in the training seed alone are one condition. Of its values the mean is taken, with
   Student's 95 % interval over seeds; for ratios of their logarithms. The interval covers what another training seed
   would give, on the same problems and the same base model.
2. In one condition a claim holds if the whole interval lies in the range, fails if none of it does, and is undecided
   otherwise, and with fewer than MIN_SEEDS seeds.
3. Over the conditions a claim "holds" if it holds in all, and "does not hold" if it fails in all. If it holds in some
   and fails in others it "depends" on every factor of which two conditions that differ in nothing else give opposite
   verdicts; if there is no such pair, on the combination of the factors that differ. If some conditions are undecided
   and all others agree, the verdict is that of the others, "where decided". It is "undecided" if no condition decides.

A number with a value for each point of a line is judged at the point at which its mean over the seeds is largest.
Intervals are not corrected for the number of claims and conditions.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, stdev
from typing import Any

from analysis.criteria import (
    CHANCE,
    CONFIDENCE,
    LIKE_RANDOM,
    LINEAR_DRIFT,
    LOSS_BARRIER,
    MIN_SEEDS,
    MUCH_LARGER,
    NEARLY_ORTHOGONAL,
    REWARD_BARRIER,
    SAME_LENGTH,
    SIMILAR_ACCURACY,
    SPARSE,
)


FACTORS = ("task", "budget", "precision")
HOLDS, FAILS, UNDECIDED = "holds", "fails", "undecided"
PAPER = "arXiv 2604.01499"
# Limits of what the claims leave in words; see each claim. Accuracies as shares of 1, losses in nats per token.

Results = Mapping[str, Any]


@dataclass(frozen=True)
class Comparison:
    """One finished comparison. conditions: value of each of FACTORS. seed: of training. results: its results.json."""

    conditions: Mapping[str, str]
    seed: int
    results: Results


@dataclass(frozen=True)
class Claim:
    """A statement, and when it is taken to hold.

    key: short name. source: where it stands. quantity: what is measured, in words.
    values: the number of one comparison, or one for each point of a line; None if it was not measured.
    low, high: the range that makes the statement true. logarithmic: whether means are taken of logarithms.
    """

    key: str
    statement: str
    source: str
    quantity: str
    values: Callable[[Results], Sequence[float] | None]
    low: float = -math.inf
    high: float = math.inf
    logarithmic: bool = False


def judge(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """The verdict on every claim. Returns

        {"min_seeds", "confidence", "comparisons": how many, "seeds": [all], "factors": {factor: [its values]},
         "claims": [{"key", "statement", "source", "quantity", "range": [low or None, high or None],
                     "verdict": "holds", "does not hold", "depends", "holds where decided",
                                "does not hold where decided", "undecided" or "not measured",
                     "depends_on": [factors], "holds", "fails", "undecided": numbers of conditions,
                     "conditions": [{each factor, "verdict", "mean", "low", "high" (None with one seed), "seeds",
                                     "point": index on the line, None for a single number, "values"}]}]}

    The result depends on the comparisons alone, not on their order. Raises ValueError if a seed stands twice in one
    condition.
    """
    ordered = sorted(comparisons, key=lambda one: (*(one.conditions[factor] for factor in FACTORS), one.seed))
    conditions: dict[tuple[str, ...], list[Comparison]] = {}
    for one in ordered:
        conditions.setdefault(tuple(one.conditions[factor] for factor in FACTORS), []).append(one)
    for condition, members in conditions.items():
        seeds = [one.seed for one in members]
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"a seed stands twice in the condition {condition}")
    return {
        "min_seeds": MIN_SEEDS,
        "confidence": CONFIDENCE,
        "comparisons": len(ordered),
        "seeds": sorted({one.seed for one in ordered}),
        "factors": {factor: list(dict.fromkeys(one.conditions[factor] for one in ordered)) for factor in FACTORS},
        "claims": [judge_claim(claim, conditions) for claim in CLAIMS],
    }


def judge_claim(claim: Claim, conditions: Mapping[tuple[str, ...], Sequence[Comparison]]) -> dict[str, Any]:
    judged = []
    for condition, members in conditions.items():
        values = [found for one in members if (found := claim.values(one.results)) is not None]
        if values:
            judged.append(dict(zip(FACTORS, condition, strict=True)) | judge_condition(claim, values))
    verdicts = [entry["verdict"] for entry in judged]
    verdict, depends_on = overall(judged)
    return {
        "key": claim.key,
        "statement": claim.statement,
        "source": claim.source,
        "quantity": claim.quantity,
        "range": [None if math.isinf(end) else end for end in (claim.low, claim.high)],
        "verdict": verdict,
        "depends_on": depends_on,
        **{name: verdicts.count(name) for name in (HOLDS, FAILS, UNDECIDED)},
        "conditions": judged,
    }


def judge_condition(claim: Claim, values: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Rules 1 and 2. values: for each seed, the number, or one for each point of the same line."""
    points = list(zip(*values, strict=True))
    point = max(range(len(points)), key=lambda i: fmean(points[i]))
    chosen = list(points[point])
    mean, low, high = over_seeds([math.log(value) for value in chosen] if claim.logarithmic else chosen)
    if claim.logarithmic:
        mean, low, high = (None if end is None else math.exp(end) for end in (mean, low, high))
    if len(chosen) < MIN_SEEDS:
        verdict = UNDECIDED
    elif claim.low <= low and high <= claim.high:
        verdict = HOLDS
    else:
        verdict = FAILS if high < claim.low or low > claim.high else UNDECIDED
    return {
        "verdict": verdict,
        "mean": mean,
        "low": low,
        "high": high,
        "seeds": len(chosen),
        "point": point if len(points) > 1 else None,
        "values": chosen,
    }


def overall(judged: Sequence[Mapping[str, Any]]) -> tuple[str, list[str]]:
    """Rule 3: the verdict over all conditions, and the factors that it depends on."""
    verdicts = {entry["verdict"] for entry in judged}
    if not judged:
        return "not measured", []
    if {HOLDS, FAILS} <= verdicts:
        opposite = [
            {factor for factor in FACTORS if a[factor] != b[factor]}
            for a, b in combinations(judged, 2)
            if {a["verdict"], b["verdict"]} == {HOLDS, FAILS}
        ]
        alone = set().union(*(differing for differing in opposite if len(differing) == 1))
        return "depends", [factor for factor in FACTORS if factor in (alone or set().union(*opposite))]
    if verdicts == {UNDECIDED}:
        return "undecided", []
    decided = "holds" if HOLDS in verdicts else "does not hold"
    return decided + (" where decided" if UNDECIDED in verdicts else ""), []


def over_seeds(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Mean and Student's 95 % interval; without one for a single value."""
    mean = fmean(values)
    if len(values) < 2:
        return mean, None, None
    half = student_quantile(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def student_quantile(freedom: int) -> float:
    """How far from 0 a variable with Student's t distribution lies in 5 % of cases, by bisection."""
    low, high = 1.0, 64.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if student_share(middle, freedom) < CONFIDENCE else (low, middle)
    return high


def student_share(t: float, freedom: int) -> float:
    """P(|T| <= t) of Student's t with a whole number of degrees of freedom.

    The finite sums of Abramowitz & Stegun 1964, 26.7.3 and 26.7.4.
    """
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine if odd else 1.0), 0.0
    for power in range(2 + odd, freedom + 1, 2):
        total += term
        term *= (power - 1) / power * cosine**2
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def _at(results: Results, *keys: str) -> Any:
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


def _accuracy(results: Results, model: str, task: str | None = None) -> float | None:
    return _at(results, "evaluation", model, task or results["task"], "accuracy")


def _off_tasks(results: Results, section: str, method: str) -> list[str]:
    return [task for task in _at(results, section, method) or {} if task != results["task"]]


def accuracy_difference(results: Results) -> list[float] | None:
    accuracies = _accuracy(results, "es"), _accuracy(results, "grpo")
    return None if None in accuracies else [accuracies[0] - accuracies[1]]


def smaller_gain(results: Results) -> list[float] | None:
    accuracies = [_accuracy(results, model) for model in ("base", "es", "grpo")]
    return None if None in accuracies else [min(accuracies[1:]) - accuracies[0]]


def off_task_accuracy_difference(results: Results) -> list[float] | None:
    tasks = _off_tasks(results, "evaluation", "es")
    pairs = [(_accuracy(results, "es", task), _accuracy(results, "grpo", task)) for task in tasks]
    return [fmean(es - grpo for es, grpo in pairs)] if pairs and not any(None in pair for pair in pairs) else None


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


def cosine_over_chance(results: Results) -> list[float] | None:
    total, chance = (_at(results, "geometry", "cosine", "es|grpo", key) for key in ("total", "null_std"))
    return None if total is None or not chance else [total / chance]


def line_gaps(quantity: str, sign: int) -> Callable[[Results], list[float] | None]:
    """How far each inner point of the line from ES to GRPO lies on the wrong side of the even line between its ends.

    sign: 1 where small values are good.
    """

    def gaps(results: Results) -> list[float] | None:
        line = _at(results, "connectivity", "lines", "es|grpo")
        if line is None or None in line[quantity]:
            return None
        ts, values = line["ts"], line[quantity]
        even = [(1 - t) * values[0] + t * values[-1] for t in ts]
        return [sign * (value - chord) for value, chord in zip(values[1:-1], even[1:-1], strict=True)]

    return gaps


def off_task_kl(results: Results, method: str, direction: str) -> float | None:
    """Mean over the tasks that were not trained, in nats per token."""
    found = [_at(results, "kl", method, task, direction, "per_token") for task in _off_tasks(results, "kl", method)]
    return fmean(found) if found and None not in found else None


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


def bf16_changed_share(results: Results) -> list[float] | None:
    return _number(_at(results, "geometry", "checkpoints", "grpo", "changed_share_bf16"))


CLAIMS = (
    Claim(
        "learns",
        "Both methods raise the accuracy on the trained task.",
        f"{PAPER}, Table 1",
        "smaller of the two gains over base, share of 1",
        smaller_gain,
        low=0.0,
    ),
    Claim(
        "accuracy",
        "ES reaches GRPO's accuracy on the trained task.",
        f"{PAPER}, abstract and Table 1",
        f"accuracy of ES minus that of GRPO; equal within {SIMILAR_ACCURACY:g}",
        accuracy_difference,
        low=-SIMILAR_ACCURACY,
        high=SIMILAR_ACCURACY,
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
    ),
    Claim(
        "chance",
        "The two updates are no more aligned than two random directions of the same lengths.",
        f"{PAPER}, theory (cosine of order sqrt(r / d))",
        f"cosine in standard deviations of random directions; chance: within {CHANCE:g}",
        cosine_over_chance,
        low=-CHANCE,
        high=CHANCE,
    ),
    Claim(
        "reward-line",
        "No barrier in the reward lies on the straight line from ES to GRPO.",
        f"{PAPER}, Fig. 3",
        f"largest gap below the even line between the ends, share of 1; none: up to {REWARD_BARRIER:g}",
        line_gaps("reward", -1),
        high=REWARD_BARRIER,
    ),
    Claim(
        "loss-line",
        "No barrier in the loss lies on that line either.",
        f"{PAPER}, Fig. 3",
        f"largest gap above the even line between the ends, nats per token; none: up to {LOSS_BARRIER:g}",
        line_gaps("loss", 1),
        high=LOSS_BARRIER,
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
        "off-task-accuracy",
        "ES keeps less accuracy than GRPO on tasks that nobody trained.",
        f"{PAPER}, Table 2 (MMLU; IFEval says the opposite)",
        "accuracy of ES minus that of GRPO, mean over the other tasks",
        off_task_accuracy_difference,
        high=0.0,
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
    ),
    Claim(
        "grpo-probe",
        "GRPO's update lies along a sharp direction.",
        f"{PAPER}, Fig. 4 and 5",
        f"even part of the loss along the update over random directions of its norms; sharp: above {LIKE_RANDOM:g}",
        curvature_ratio("grpo"),
        low=LIKE_RANDOM,
        logarithmic=True,
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
