"""Do the claims about evolution strategies and GRPO hold? Judged over the results.json of many comparisons.

The claims are those of "Matching Accuracy, Different Geometry" (arXiv 2604.01499), and one of arXiv 2601.20861 that is
cited beside them. Each is one number of a comparison and the range in which the number has to lie. The rules:

1. Each comparison is judged at two stopping points: at the end of both trainings, and at the first evaluations that
   are equally accurate (`analysis.claims.matched`), where it measured them and the claim is about solutions.
   Comparisons that differ in the training seed alone are one condition. Of its values the mean is taken, with
   Student's 95 % interval over seeds; for ratios of their logarithms. The interval covers what another training seed
   would give, on the same problems and the same base model.
2. In one condition a claim holds if the whole interval lies in the range, fails if none of it does, and is undecided
   otherwise, and with fewer than MIN_SEEDS seeds. That is a test at 5 %; over all claims and conditions its p-values
   are corrected by Holm's method, and the verdict goes by them.
3. A claim with a control holds only where the control does not: where the same rule, uncorrected, calls the control in
   the range as well, or it was not measured, the verdict is "cannot tell".
4. Over the conditions a claim "holds" if it holds in all, and "does not hold" if it fails in all. If it holds in some
   and fails in others it "depends" on every factor of which two conditions that differ in nothing else give opposite
   verdicts; if there is no such pair, on the combination of the factors that differ. If some conditions are undecided
   or cannot tell and all others agree, the verdict is that of the others, "where decided". If no condition decides it
   is "cannot tell" where the test has no power in any, else "undecided".

A number with a value for each point of a line is judged at the point at which its mean over the seeds is largest.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean
from typing import Any

from analysis.claims.statements import CLAIMS, Claim, Results
from analysis.criteria import CONFIDENCE, MIN_SEEDS
from analysis.statistics import chance_of_mean_above, holm, interval_of_known_std, mean_with_interval


FACTORS = ("task", "budget", "precision", "stop")
AT_END, AT_EQUAL_ACCURACY = "end", "equal accuracy"
HOLDS, FAILS, UNDECIDED, CANNOT_TELL = "holds", "fails", "undecided", "cannot tell"
# The level of a test over the whole table.
LEVEL = 1 - CONFIDENCE


@dataclass(frozen=True)
class Comparison:
    """One finished comparison. conditions: value of each of FACTORS but "stop". seed: of training. results: its
    results.json."""

    conditions: Mapping[str, str]
    seed: int
    results: Results


def judge(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """The verdict on every claim. Returns

        {"min_seeds", "confidence", "comparisons": how many, "tests": how many the correction is over, "seeds": [all],
         "factors": {factor: [its values]},
         "claims": [{"key", "statement", "source", "quantity", "range": [low or None, high or None],
                     "verdict": "holds", "does not hold", "depends", "holds where decided",
                                "does not hold where decided", "undecided", "cannot tell" or "not measured",
                     "powerless": why it says nothing where it cannot tell, "" for a claim without a control,
                     "depends_on": [factors], "holds", "fails", "undecided", "cannot tell": numbers of conditions,
                     "conditions": [{each factor, "verdict", and see `judge_condition`}]}]}

    The result depends on the comparisons alone, not on their order. Raises ValueError if a seed stands twice in one
    condition.
    """
    stopped = [stop for one in comparisons for stop in at_each_stop(one)]
    ordered = sorted(stopped, key=lambda one: (*(one.conditions[factor] for factor in FACTORS), one.seed))
    conditions: dict[tuple[str, ...], list[Comparison]] = {}
    for one in ordered:
        conditions.setdefault(tuple(one.conditions[factor] for factor in FACTORS), []).append(one)
    for condition, members in conditions.items():
        seeds = [one.seed for one in members]
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"a seed stands twice in the condition {condition}")
    judged = [judge_claim(claim, conditions) for claim in CLAIMS]
    tests = correct_for_the_table(judged)
    return {
        "min_seeds": MIN_SEEDS,
        "confidence": CONFIDENCE,
        "comparisons": len(comparisons),
        "tests": tests,
        "seeds": sorted({one.seed for one in ordered}),
        "factors": {factor: list(dict.fromkeys(one.conditions[factor] for one in ordered)) for factor in FACTORS},
        "claims": [with_verdict(claim) for claim in judged],
    }


def at_each_stop(one: Comparison) -> list[Comparison]:
    """The comparison at its end, and where it was measured, at equal accuracy."""
    end = replace(one, conditions={**one.conditions, "stop": AT_END})
    matched = one.results.get("matched")
    if not matched or not matched["found"]:
        return [end]
    return [end, replace(one, conditions={**one.conditions, "stop": AT_EQUAL_ACCURACY}, results=matched["at"])]


def judge_claim(claim: Claim, conditions: Mapping[tuple[str, ...], Sequence[Comparison]]) -> dict[str, Any]:
    """The claim in every condition, before the correction."""
    judged = []
    for condition, members in conditions.items():
        factors = dict(zip(FACTORS, condition, strict=True))
        if claim.at_end_only and factors["stop"] != AT_END:
            continue
        values = [measured for one in members if (measured := claim.values(one.results)) is not None]
        if values:
            control = claim.control or (lambda results: None)
            controls = [measured for one in members if (measured := control(one.results)) is not None]
            judged.append(factors | judge_condition(claim, values, controls))
    return {
        "key": claim.key,
        "statement": claim.statement,
        "source": claim.source,
        "quantity": claim.quantity,
        "range": [None if math.isinf(end) else end for end in (claim.low, claim.high)],
        "powerless": claim.powerless,
        "conditions": judged,
    }


def with_verdict(judged: Mapping[str, Any]) -> dict[str, Any]:
    """The claim with its verdict over all conditions, rule 4."""
    verdicts = [entry["verdict"] for entry in judged["conditions"]]
    verdict, depends_on = overall(judged["conditions"])
    counts = {name: verdicts.count(name) for name in (HOLDS, FAILS, UNDECIDED, CANNOT_TELL)}
    return {**judged, "verdict": verdict, "depends_on": depends_on, **counts}


def correct_for_the_table(judged: Sequence[dict[str, Any]]) -> int:
    """Put Holm's p-values and the verdicts that follow into every condition; returns over how many tests."""
    tested = [entry for claim in judged for entry in claim["conditions"] if entry["p"] is not None]
    for entry, p in zip(tested, holm([entry["p"] for entry in tested]), strict=True):
        entry["p_holm"] = p
        # A level of 0.05 is not 1 - 0.95 in binary.
        if entry["verdict"] in (HOLDS, FAILS) and round(p - LEVEL, 12) > 0:
            entry["verdict"] = UNDECIDED
    return len(tested)


def judge_condition(
    claim: Claim, values: Sequence[Sequence[float]], controls: Sequence[Sequence[float]] = ()
) -> dict[str, Any]:
    """Rules 1 to 3, before the correction over the table. Returns

        {"verdict", "uncorrected": what the interval alone says, "mean", "low", "high" (None with one seed), "seeds",
         "p": of the test that decides (None with fewer than MIN_SEEDS seeds), "p_holm": None until it is corrected,
         "point": index on the line, None for a single number, "values", "control": mean of the control, None without}

    values: for each seed, the number, or one for each point of the same line. controls: the same of the control.
    """
    found = tested(claim, values)
    control = tested(claim, controls) if controls else None
    verdict = found["uncorrected"]
    if claim.control is not None and verdict == HOLDS and (control is None or control["uncorrected"] == HOLDS):
        verdict = CANNOT_TELL
    return {"verdict": verdict, **found, "p_holm": None, "control": None if control is None else control["mean"]}


def tested(claim: Claim, values: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Mean, interval and test of a number over seeds; see `judge_condition`."""
    points = list(zip(*values, strict=True))
    point = max(range(len(points)), key=lambda i: fmean(points[i]))
    chosen = list(points[point])
    compared = [math.log(value) for value in chosen] if claim.logarithmic else chosen
    if claim.known_std is None:
        mean, low, high = mean_with_interval(compared)
    else:
        mean, low, high = interval_of_known_std(compared, claim.known_std)
    if claim.logarithmic:
        mean, low, high = (None if end is None else math.exp(end) for end in (mean, low, high))
    if len(chosen) < MIN_SEEDS:
        verdict, p = UNDECIDED, None
    else:
        p = p_value(claim, compared)
        if claim.low <= low and high <= claim.high:
            verdict = HOLDS
        else:
            verdict = FAILS if high < claim.low or low > claim.high else UNDECIDED
    return {
        "uncorrected": verdict,
        "mean": mean,
        "low": low,
        "high": high,
        "seeds": len(chosen),
        "p": p,
        "point": point if len(points) > 1 else None,
        "values": chosen,
    }


def p_value(claim: Claim, values: Sequence[float]) -> float:
    """Two-sided p-value of the verdict that lies nearer: that the mean is inside the range, or that it is outside.

    At most 0.05 exactly where the 95 % interval of the mean lies wholly on one side. Inside needs both ends of the
    range to be excluded, so that the larger of their p-values counts. values: logarithms for a logarithmic claim.
    """
    inside, outside = 0.0, 1.0
    for limit, sign in ((claim.low, 1), (claim.high, -1)):
        if claim.logarithmic:
            limit = math.log(limit) if limit > 0 else -math.inf
        if not math.isinf(limit):
            turned, at = [sign * value for value in values], sign * limit
            beyond = chance_of_mean_above(turned, at, claim.known_std)
            below = chance_of_mean_above([-value for value in turned], -at, claim.known_std)
            # A mean that meets its limit without any spread meets the range.
            inside = max(inside, 0.0 if beyond == below == 1.0 else beyond)
            outside = min(outside, below)
    return min(1.0, 2 * min(inside, outside))


def overall(judged: Sequence[Mapping[str, Any]]) -> tuple[str, list[str]]:
    """Rule 4: the verdict over all conditions, and the factors that it depends on."""
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
    if not verdicts & {HOLDS, FAILS}:
        return (UNDECIDED if UNDECIDED in verdicts else CANNOT_TELL), []
    decided = "holds" if HOLDS in verdicts else "does not hold"
    return decided + (" where decided" if len(verdicts) > 1 else ""), []
