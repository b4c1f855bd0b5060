"""Claims C1 to C7 of "The two clocks and the innovation window" (arXiv 2605.10019), held against a sweep.

A verdict is one of

    seen           the sweep shows it by the stated criterion
    not seen       the sweep shows something else
    cannot tell    the runs leave both open
    censored       the runs ended before they could show it
    not measured   no two runs of the sweep differ in what the claim is about, and in that alone

Order is judged on pairs of runs that differ in one quantity and in nothing else but the seed. A pair counts if its
order is certain in spite of censoring (Harrell's concordance), and a claim about order is seen if at least
`AGREEMENT` of these pairs have it. The rule clock is tau_rule_novel throughout: copying alone makes samples valid.

What is said of tau_mem is judged within a phase (`analysis.clocks.phases`): where copies come first, and where the
rule does. Rules are compared at equal N and at equally many valid strings, so that N over their entropy is equal too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from analysis.clocks.censored import concordance
from analysis.clocks.measure import QUANTITIES, group_by, varied
from analysis.clocks.phases import PHASES, equally_large, in_phase
from analysis.clocks.resampled import median_crossing
from analysis.clocks.runs import RULE_KEYS, Run
from analysis.clocks.striking import MEMORY, RULE_NOVEL, Bounds, Crossing
from analysis.criteria import AGREEMENT, BASIN_FACTOR, INVARIANT_FACTOR, NEARLY_LINEAR, SLOPE_SIZES


CLAIMS = {
    "C1": "tau_rule increases with the complexity of the rule",
    "C2": "tau_rule decreases with the capacity of the model",
    "C3a": "tau_mem hardly depends on the rule, where copies come first",
    "C3b": "tau_mem hardly depends on the rule, where the rule comes first",
    "C4a": "tau_mem grows nearly linearly with N, where copies come first",
    "C4b": "tau_mem grows nearly linearly with N, where the rule comes first",
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


def claims_section(
    runs: Sequence[Run], lines: Sequence[Entry], pooled: Sequence[Entry], fields: dict[str, Entry]
) -> list[Entry]:
    """One entry for every claim and model (C6: all models together), in the order of CLAIMS.

    {"claim", "model", "verdict", "evidence": the numbers in words, "seeds": of the runs that it rests on,
     "runs": how many, and the numbers themselves under further keys}

    lines, pooled: `phases_section` and `pooled_section`. fields: {run: its score field}, for the runs that have one.
    """
    by_model = group_by(runs, lambda run: run.model)
    judged = {("C6", "all"): _both_clocks(by_model)}
    for model, of_model in by_model.items():
        fits = [entry for entry in [*pooled, *lines] if entry["model"] == model]
        judged |= {
            ("C1", model): _order(of_model, "complexity", rule_time, "later"),
            ("C2", model): _capacity(of_model),
            ("C3a", model): _invariance(of_model, "copies"),
            ("C3b", model): _invariance(of_model, "rule"),
            ("C4a", model): _linearity(of_model, "copies", fits),
            ("C4b", model): _linearity(of_model, "rule", fits),
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


def _capacity(runs: Sequence[Run]) -> Judgement:
    """C2, and the same among the pairs of runs that both learned the rule before they copied."""
    judged = _order(runs, "log10 parameters", rule_time, "earlier")
    within = _order(in_phase(runs, "rule"), "log10 parameters", rule_time, "earlier")
    if not within.runs:
        return judged
    evidence = f"{judged.evidence}; where the rule comes first in both: {within.evidence}"
    numbers = judged.numbers | {f"rule_first_{name}": number for name, number in within.numbers.items()}
    return Judgement(judged.verdict, evidence, judged.runs, numbers)


def _invariance(runs: Sequence[Run], phase: str) -> Judgement:
    """C3, by the spread of the median memory clocks of rules of equally many valid strings, at equal N in one "
    "phase."""
    used: list[Run] = []
    spreads: list[tuple[int, tuple[float, bool] | None]] = []
    apart = RULE_KEYS | {"train_size"}
    for family in group_by(runs, lambda run: run.setting_apart_from(apart)).values():
        for group in equally_large(family):
            for size, members in sorted(group_by(in_phase(group, phase), lambda run: run.train_size).items()):
                rules = group_by(members, lambda run: run.rule.describe()).values()
                if len(rules) > 1:
                    used += members
                    spreads.append((size, _spread([_median([run.memorised for run in each]) for each in rules])))
    if not used:
        return Judgement("not measured", f"no two rules of equally many strings are at equal N in {_named(phase)}", [])
    known = [(size, spread) for size, spread in spreads if spread is not None]
    if not known:
        return Judgement("censored", f"no rule was memorised in {_named(phase)}", used)
    factor, bound = max(spread for _, spread in known)
    if factor > INVARIANT_FACTOR:
        verdict = "not seen"
    else:
        verdict = "censored" if any(spread is None or spread[1] for _, spread in spreads) else "seen"
    told = ", ".join(f"{_factor(*spread)} at N = {size}" for size, spread in known)
    evidence = f"tau_mem of the rules, largest over smallest: {told}"
    return Judgement(verdict, evidence, used, {"factor": factor, "is_bound": bound})


def _named(phase: str) -> str:
    return "runs in which copies come first" if phase == "copies" else "runs in which the rule comes first"


def _factor(value: float, bound: bool) -> str:
    return f"{'at least ' if bound else ''}{value:.1f}"


def _linearity(runs: Sequence[Run], phase: str, entries: Sequence[Entry]) -> Judgement:
    """C4, by the slope within the phase over most memorised runs, and by its whole interval."""
    members = in_phase(runs, phase)
    if not members:
        return Judgement("not measured", f"there are no {_named(phase)}", [])
    at = f"{phase}_first"
    fits = [(entry, entry[at]) for entry in entries if "log10 N" in entry[at]["slopes"]]
    if not fits:
        return Judgement("not measured", f"no two {_named(phase)} differ in N alone", members)
    entry, fit = max(fits, key=lambda each: (each[1]["observed"], each[1]["censored"]))
    slope = fit["slopes"]["log10 N"]
    if slope["slope"] is None:
        return Judgement("censored", "too few runs were memorised for a slope", members)
    kind = "" if slope["bootstrap_low"] is None else "bootstrap_"
    low, high = slope[f"{kind}low"], slope[f"{kind}high"]
    interval = "" if low is None else f" ({low:.2f} to {high:.2f})"
    rules = entry.get("rules", [entry.get("rule")])
    evidence = (
        f"slope of log tau_mem against log N {slope['slope']:.2f}{interval}, N from {fit['sizes'][0]} to "
        f"{fit['sizes'][-1]}, {fit['observed']} runs memorised, {fit['censored']} censored, {' and '.join(rules)}"
    )
    verdict = "cannot tell"
    if len(fit["sizes"]) >= SLOPE_SIZES and low is not None and high is not None:
        if NEARLY_LINEAR[0] <= low and high <= NEARLY_LINEAR[1]:
            verdict = "seen"
        elif high < NEARLY_LINEAR[0] or low > NEARLY_LINEAR[1]:
            verdict = "not seen"
    used = [run for run in members if run.rule.describe() in rules]
    return Judgement(verdict, evidence, used, {"slope": slope["slope"], "low": low, "high": high})


def _vanishing(runs: Sequence[Run]) -> Judgement:
    states = [run.window.state for run in runs]
    vanished, opened = states.count("vanished"), states.count("open")
    evidence = f"{opened} runs open, {vanished} vanished, {states.count('censored')} censored"
    verdict = "seen" if vanished else "censored" if not opened else "not seen"
    return Judgement(verdict, evidence, runs, {"open": opened, "vanished": vanished})


def _both_clocks(by_model: dict[str, list[Run]]) -> Judgement:
    """C6: whether in every model copies come first at small N and the rule at large N, with both clocks in one run.

    Seen if every model has runs of both phases, in this order of N in `AGREEMENT` of the pairs of one setting, and a
    run with the rule first and both clocks struck; censored if a model lacks one of these; not seen if in some
    model the order is another.
    """
    parts, complete, reversed_order = [], [], []
    for model, runs in by_model.items():
        of_rule, of_copies = in_phase(runs, "rule"), in_phase(runs, "copies")
        both = sum(run.window.width is not None for run in of_rule)
        ordered = pairs = 0
        for group in group_by(runs, lambda run: run.setting_apart_from({"train_size"})).values():
            sizes = [[(run.train_size, run.train_size) for run in in_phase(group, phase)] for phase in PHASES]
            in_order, certain = concordance(*sizes)
            ordered, pairs = ordered + in_order, pairs + certain
        unknown = len(runs) - len(of_rule) - len(of_copies)
        parts.append(
            f"{model}: copies first in {len(of_copies)} runs, the rule in {len(of_rule)} (both clocks struck in "
            f"{both}), unknown in {unknown}; copies first at the smaller N in {ordered} of {pairs} pairs"
        )
        if pairs and ordered < AGREEMENT * pairs:
            reversed_order.append(model)
        elif pairs and both:
            complete.append(model)
    verdict = "not seen" if reversed_order else "seen" if len(complete) == len(by_model) else "censored"
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
