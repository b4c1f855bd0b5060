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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

from analysis.claims.statements import CLAIMS, Claim, Results
from analysis.criteria import CONFIDENCE, MIN_SEEDS
from analysis.statistics import mean_with_interval


FACTORS = ("task", "budget", "precision")
HOLDS, FAILS, UNDECIDED = "holds", "fails", "undecided"


@dataclass(frozen=True)
class Comparison:
    """One finished comparison. conditions: value of each of FACTORS. seed: of training. results: its results.json."""

    conditions: Mapping[str, str]
    seed: int
    results: Results


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
        values = [measured for one in members if (measured := claim.values(one.results)) is not None]
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
    mean, low, high = mean_with_interval([math.log(value) for value in chosen] if claim.logarithmic else chosen)
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
