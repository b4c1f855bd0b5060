"""Claims C1 to C7 of "The two clocks and the innovation window" (arXiv 2605.10019), held against a sweep.

A verdict is one of

    seen           the sweep shows it by the stated criterion
    not seen       the sweep shows something else
    censored       the runs ended before they could show it
    not measured   no two runs of the sweep differ in what the claim is about

Order is judged on pairs of runs that differ in one quantity and in nothing else but the seed. A pair counts if its
order is certain in spite of censoring (Harrell's concordance), and a claim about order is seen if at least
`AGREEMENT` of these pairs have it. The rule clock is tau_rule_novel throughout: copying alone makes samples valid.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from analysis.clocks.censored import concordance
from analysis.clocks.measure import QUANTITIES, group_by, varied
from analysis.clocks.resampled import median_crossing
from analysis.clocks.runs import RULE_KEYS, Run
from analysis.clocks.striking import MEMORY, RULE_NOVEL, Bounds, Crossing
from analysis.criteria import AGREEMENT, BASIN_FACTOR, INVARIANT_FACTOR, NEARLY_LINEAR


CLAIMS = {
    "C1": "tau_rule increases with the complexity of the rule",
    "C2": "tau_rule decreases with the capacity of the model",
    "C3": "tau_mem hardly depends on the rule",
    "C4": "tau_mem grows nearly linearly with N",
    "C5a": "The window widens with N",
    "C5b": "The window narrows with the complexity of the rule",
    "C5c": "The window can vanish",
    "C6": "Denoisers and next-token models have the same two clocks, with offsets",
    "C7": "Basins of valid strings widen at tau_rule, those of training strings take over at tau_mem",
}

Entry = dict[str, Any]


@dataclass(frozen=True)
class Judgement:
    """evidence: the numbers in words. runs: those that it rests on. numbers: by their key in results.json."""

    verdict: str
    evidence: str
    runs: Sequence[Run]
    numbers: dict[str, Any] = field(default_factory=dict)


def claims_section(runs: Sequence[Run], fits: Sequence[Entry], fields: dict[str, Entry]) -> list[Entry]:
    """One entry for every claim and model (C6: all models together), in the order of CLAIMS.

    {"claim", "model", "verdict", "evidence": the numbers in words, "seeds": of the runs that it rests on,
     "runs": how many, and the numbers themselves under further keys}

    fits: `fits_section`. fields: {run: its score field}, for the runs that have one.
    """
    by_model = group_by(runs, lambda run: run.model)
    judged = {("C6", "all"): _both_clocks(by_model)}
    for model, of_model in by_model.items():
        judged |= {
            ("C1", model): _order(of_model, "complexity", rule_time, "later"),
            ("C2", model): _order(of_model, "log10 parameters", rule_time, "earlier"),
            ("C3", model): _invariance(of_model),
            ("C4", model): _linearity(of_model, [fit for fit in fits if fit["model"] == model]),
            ("C5a", model): _order(of_model, "log10 N", window_width, "wider"),
            ("C5b", model): _order(of_model, "complexity", window_width, "narrower"),
            ("C5c", model): _vanishing(of_model),
            ("C7", model): _basins(of_model, fields),
        }
    return [
        {
            "claim": claim,
            "model": model,
            "verdict": judgement.verdict,
            "evidence": judgement.evidence,
            "seeds": sorted({run.seed for run in judgement.runs}),
            "runs": len(judgement.runs),
            **judgement.numbers,
        }
        for claim in CLAIMS
        for (judged_claim, model), judgement in judged.items()
        if judged_claim == claim
    ]


def rule_time(run: Run) -> Bounds:
    return run.rule_learned.bounds


def window_width(run: Run) -> Bounds:
    return run.window.bounds


def matched_pairs(runs: Sequence[Run], quantity: str) -> list[tuple[list[Run], list[Run]]]:
    """(runs with the smaller value, runs with the larger value) of `quantity`, all else but the seed being equal."""
    pairs = []
    for group in varied(runs, quantity):
        levels = group_by(group, QUANTITIES[quantity].value)
        pairs += [(levels[low], levels[high]) for low, high in combinations(sorted(levels), 2)]
    return pairs


def _order(runs: Sequence[Run], quantity: str, bounds: Callable[[Run], Bounds], word: str) -> Judgement:
    """Whether a time or a width is larger ("later", "wider") or smaller as a quantity grows."""
    pairs = matched_pairs(runs, quantity)
    used = list({run.name: run for pair in pairs for side in pair for run in side}.values())
    ordered = comparable = 0
    for pair in pairs:
        low, high = pair if word in ("later", "wider") else reversed(pair)
        in_order, certain = concordance(list(map(bounds, low)), list(map(bounds, high)))
        ordered, comparable = ordered + in_order, comparable + certain
    numbers = {"pairs": comparable, "ordered": ordered}
    if not used:
        return Judgement("not measured", "no two runs differ in this alone", used, numbers)
    if not comparable:
        return Judgement("censored", "no pair of runs has a certain order", used, numbers)
    verdict = "seen" if ordered >= AGREEMENT * comparable else "not seen"
    return Judgement(verdict, f"{word} in {ordered} of {comparable} pairs of runs", used, numbers)


def _median(crossings: Sequence[Crossing]) -> Crossing:
    """The median; where it is censored, the earliest end of a run beyond which it lies."""
    middle = median_crossing(crossings)
    if middle is not None:
        return Crossing(middle, 0)
    return Crossing(None, int(min(c.time for c in crossings if not c.observed)))


def _spread(crossings: Sequence[Crossing]) -> tuple[float, bool] | None:
    """(largest over smallest, whether that is only a lower bound); None if nothing was observed."""
    seen = [c.time for c in crossings if c.observed]
    if not seen:
        return None
    later = [c.time for c in crossings if not c.observed]
    return max([*seen, *later]) / min(seen), bool(later)


def _invariance(runs: Sequence[Run]) -> Judgement:
    """C3, by the spread of the median memory clocks of the rules at equal N."""
    used, spreads, rule_spreads = [], [], []
    for group in group_by(runs, lambda run: run.setting_apart_from(RULE_KEYS)).values():
        rules = group_by(group, lambda run: run.rule.describe()).values()
        if len(rules) > 1:
            used += group
            spreads.append(_spread([_median([run.memorised for run in members]) for members in rules]))
            rule_spreads.append(_spread([_median([run.rule_learned for run in members]) for members in rules]))
    if not used:
        return Judgement("not measured", "no two runs differ in the rule alone", used)
    known = [spread for spread in spreads if spread is not None]
    if not known:
        return Judgement("censored", "no rule was memorised", used)
    factor, bound = max(known)
    if factor > INVARIANT_FACTOR:
        verdict = "not seen"
    else:
        verdict = "censored" if any(part is None or part[1] for part in spreads) else "seen"
    of_rule = max((part for part in rule_spreads if part is not None), default=None)
    evidence = f"tau_mem of the rules within a factor of {_factor(factor, bound)}"
    if of_rule is not None:
        evidence += f", tau_rule within {_factor(*of_rule)}"
    numbers = {"factor": factor, "is_bound": bound, "rule_factor": of_rule and of_rule[0]}
    return Judgement(verdict, evidence, used, numbers)


def _factor(value: float, bound: bool) -> str:
    return f"{'at least ' if bound else ''}{value:.1f}"


def _linearity(runs: Sequence[Run], fits: Sequence[Entry]) -> Judgement:
    """C4, by the slope of the censored fit over most runs."""
    candidates = [fit for fit in fits if (fit["clock"], fit["against"]) == (MEMORY, "log10 N")]
    if not candidates:
        return Judgement("not measured", "no two runs differ in N alone", [])
    determined = [fit for fit in candidates if fit["slopes"]["log10 N"]["slope"] is not None]
    if not determined:
        return Judgement("censored", "too few runs were memorised for a slope", runs)
    fit = max(determined, key=lambda each: each["observed"])
    used = [run for run in runs if run.rule.describe() == fit["fixed"]]
    slope = fit["slopes"]["log10 N"]
    kind = "" if slope["bootstrap_low"] is None else "bootstrap_"
    low, high = slope[f"{kind}low"], slope[f"{kind}high"]
    interval = "" if low is None else f" ({low:.2f} to {high:.2f})"
    evidence = (
        f"slope of log tau_mem against log N {slope['slope']:.2f}{interval}, {fit['observed']} runs memorised, "
        f"{fit['censored']} censored, {fit['fixed']}"
    )
    verdict = "seen" if NEARLY_LINEAR[0] <= slope["slope"] <= NEARLY_LINEAR[1] else "not seen"
    return Judgement(verdict, evidence, used, {"slope": slope["slope"], "low": low, "high": high})


def _vanishing(runs: Sequence[Run]) -> Judgement:
    states = [run.window.state for run in runs]
    vanished, opened = states.count("vanished"), states.count("open")
    evidence = f"{opened} runs open, {vanished} vanished, {states.count('censored')} censored"
    verdict = "seen" if vanished else "censored" if not opened else "not seen"
    return Judgement(verdict, evidence, runs, {"open": opened, "vanished": vanished})


def _both_clocks(by_model: dict[str, list[Run]]) -> Judgement:
    """C6: which models show both clocks in one run, the rule first, and how far apart they are where tasks agree."""
    parts, complete = [], []
    for model, runs in by_model.items():
        both = sum(run.window.width is not None and run.window.state == "open" for run in runs)
        rule, memory = (sum(run.clocks[name].observed for run in runs) for name in (RULE_NOVEL, MEMORY))
        parts.append(f"{model}: both in one run {both}, rule {rule}, memory {memory} of {len(runs)} runs")
        complete += [model] if both else []
    verdict = "seen" if len(complete) == len(by_model) else "censored"
    evidence = "; ".join([*parts, *_offsets(by_model)])
    used = [run for runs in by_model.values() for run in runs]
    numbers = {"models_with_both": complete}
    return Judgement(verdict if len(by_model) > 1 else "not measured", evidence, used, numbers)


def _offsets(by_model: dict[str, list[Run]]) -> list[str]:
    """Ratios of the median clocks of two models on the same rule and N, in words, where both are observed."""
    by_task = {
        model: group_by(runs, lambda run: (run.rule.describe(), run.train_size)) for model, runs in by_model.items()
    }
    texts = []
    for a, b in combinations(by_model, 2):
        for rule, size in (task for task in by_task[a] if task in by_task[b]):
            ratios = []
            for name in (RULE_NOVEL, MEMORY):
                first, second = (_median([run.clocks[name] for run in by_task[model][rule, size]]) for model in (a, b))
                if first.observed and second.observed:
                    ratios.append(f"{name} times {second.time / first.time:.1f}")
            if ratios:
                texts.append(f"{b} against {a} on {rule}, N = {size}: {', '.join(ratios)}")
    return texts


def _basins(runs: Sequence[Run], fields: dict[str, Entry]) -> Judgement:
    """C7 on the runs whose score field was measured: seen if all that reached both clocks show both expansions."""
    measured = [run for run in runs if run.name in fields]
    if not measured:
        return Judgement("not measured", "the score field of no run was measured", [])
    texts, verdicts = [], []
    complete = [run for run in measured if run.window.width is not None]
    for run in measured:
        changes = basin_changes(fields[run.name], run.rule_learned, run.memorised)
        if run in complete:
            verdicts += [None if value is None else value >= BASIN_FACTOR for value in changes]
        grown, shrunk, dominance = ("unknown" if value is None else f"{value:.2f}" for value in changes)
        texts.append(
            f"{run.name}: at tau_rule valid basins {grown} times as wide as without a rule, violating ones "
            f"narrower by {shrunk}; after tau_mem training to held-out {dominance}"
        )
    if False in verdicts:
        verdict = "not seen"
    else:
        verdict = "censored" if None in verdicts or not complete else "seen"
    return Judgement(verdict, "; ".join(texts), measured)


def basin_changes(
    measured: Entry, rule: Crossing, memory: Crossing
) -> tuple[float | None, float | None, float | None]:
    """How basins changed at the two clocks, as ratios of radii that are above 1 where the claim holds.

    (held-out basins over those without any rule, and those over the basins of violating vertices, both at the first
    measured step after tau_rule; training over held-out basins at the last measured step, if it lies after tau_mem).
    A violating basin narrower than the smallest measured noise level counts as that wide. None where a clock has not
    struck or a radius is not known.
    """
    steps, basins = measured["steps"], measured["basins"]["one_step"]
    plain = measured["no_rule"]["held_out"]["radius"]
    after = [i for i, step in enumerate(steps) if rule.observed and step >= rule.time]
    grown = shrunk = dominance = None
    if after:
        grown = _ratio(basins[after[0]]["held_out"]["radius"], plain)
        violating = basins[after[0]]["violating"]
        narrow = violating["radius"] is None and violating["probability"][0] < 0.5
        shrunk = _ratio(plain, measured["sigmas"][0] if narrow else violating["radius"])
    if memory.observed and steps[-1] >= memory.time:
        dominance = _ratio(basins[-1]["train"]["radius"], basins[-1]["held_out"]["radius"])
    return grown, shrunk, dominance


def _ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a / b
