"""How the start of copying grows with N on either side of the size at which the order of the two clocks changes.

A run's phase is the clock that struck first: at small N copies come first, at large N the rule. A line through both
phases measures the jump between them, so that slopes are fitted within a phase, and the size at which the order
changes is estimated by itself. Runs whose order is unknown belong to no phase. A memory clock that had not struck by
the end of its run is a lower bound in every fit.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from analysis.clocks.measure import Replicates, fitted_line, group_by, resampled_lines, slope_of, variants
from analysis.clocks.runs import RULE_KEYS, Run
from analysis.clocks.striking import MEMORY, RULE_NOVEL, innovation_window
from analysis.criteria import EQUAL_BITS
from analysis.statistics import interval_of_draws


PHASES = ("copies", "rule")
Entry = dict[str, Any]

# What tau_mem is fitted against, as far as runs differ in it (N over width: Bonnaire et al., arXiv 2505.17638).
SIZES: dict[str, Callable[[Run], float]] = {
    "log10 N": lambda run: math.log10(run.train_size),
    "log10 width": lambda run: math.log10(run.config["width"]),
    "log10 batch": lambda run: math.log10(run.config["batch_size"]),
}
SIZE_KEYS = {"train_size", "width", "batch_size"}


def phases_section(runs: Sequence[Run], replicates: Replicates) -> list[Entry]:
    """Every setting that was run at two sizes N or more.

    {"model", "rule", "variant", "log2_count", "sizes", "unknown": runs of no phase,
     "copies_first", "rule_first": `phase_fit` of the runs of this phase,
     "break": {"N", "low", "high", "bootstrap_low", "bootstrap_high", "misplaced"} or None, see `change_of_order`,
     "jump": {"factor", "low", "high"} or None: tau_mem of the rule's line over the copies' line at the break}
    """
    variant = variants(runs)
    groups = group_by(runs, lambda run: run.setting_apart_from({"train_size"})).values()
    return [
        {
            "model": group[0].model,
            "rule": group[0].rule.describe(),
            "variant": variant[group[0].name],
            "log2_count": group[0].rule.log2_count,
            "sizes": sorted({run.train_size for run in group}),
            "unknown": sum(run.window.first == "unknown" for run in group),
            **{f"{phase}_first": phase_fit(in_phase(group, phase), replicates) for phase in PHASES},
            **_between(group, replicates),
        }
        for group in groups
        if len({run.train_size for run in group}) > 1
    ]


def pooled_section(runs: Sequence[Run], replicates: Replicates) -> list[Entry]:
    """Rules of equally many valid strings, widths and batch sizes together: one slope each, a start for each rule.

    {"model", "rules", "log2_count", "copies_first", "rule_first": `phase_fit`}, where settings differ in more than N.
    """
    entries = []
    for family in group_by(runs, lambda run: run.setting_apart_from(RULE_KEYS | SIZE_KEYS)).values():
        for group in equally_large(family):
            if len({run.setting_apart_from({"train_size"}) for run in group}) > 1:
                entries.append(
                    {
                        "model": group[0].model,
                        "rules": sorted({run.rule.describe() for run in group}),
                        "log2_count": group[0].rule.log2_count,
                        **{f"{phase}_first": phase_fit(in_phase(group, phase), replicates) for phase in PHASES},
                    }
                )
    return entries


def in_phase(runs: Sequence[Run], phase: str) -> list[Run]:
    return [run for run in runs if run.window.first == phase]


def equally_large(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs whose rules have equally many valid strings, to `EQUAL_BITS`, together; the fewest first."""
    groups: list[list[Run]] = []
    for run in sorted(runs, key=lambda run: run.rule.log2_count):
        if groups and run.rule.log2_count - groups[-1][0].rule.log2_count <= EQUAL_BITS:
            groups[-1].append(run)
        else:
            groups.append([run])
    return groups


def phase_fit(runs: Sequence[Run], replicates: Replicates) -> Entry:
    """log10 tau_mem of runs of one phase against what they differ in, with an intercept for each rule.

    {"slopes": {quantity of `SIZES`: {"slope", "low", "high": Wald, "bootstrap_low", "bootstrap_high": over seeds and
     samples}}, "intercepts": {rule: at 0 of the quantities}, "spread", "observed", "censored", "sizes": distinct N,
     "seeds"}; slopes are null and intercepts and spread None where the observed runs do not determine them.
    """
    crossings = [run.memorised for run in runs]
    observed = sum(crossed.observed for crossed in crossings)
    varying = [name for name, size in SIZES.items() if len({size(run) for run in runs}) > 1]
    design, rules = _design(runs, varying)
    line = fitted_line(design, crossings) if varying else None
    drawn = resampled_lines(runs, MEMORY, design, replicates) if line else []
    count = len(replicates[runs[0].name][MEMORY]) if runs else 0
    starts = line.coefficients[: len(rules)] if line else ()
    return {
        "slopes": {
            name: slope_of(line, column, drawn, count) for column, name in enumerate(varying, start=len(rules))
        },
        "intercepts": {rule: starts[0] + (starts[i] if i else 0.0) for i, rule in enumerate(rules)} if line else None,
        "spread": line.spread if line else None,
        "observed": observed,
        "censored": len(runs) - observed,
        "sizes": sorted({run.train_size for run in runs}),
        "seeds": len({run.seed for run in runs}),
    }


def _design(runs: Sequence[Run], varying: Sequence[str]) -> tuple[list[list[float]], list[str]]:
    """(1, one column for each further rule, the varying quantities) of each run, and the rules."""
    rules = sorted({run.rule.describe() for run in runs})
    rows = [
        [1.0, *(float(run.rule.describe() == rule) for rule in rules[1:]), *(SIZES[name](run) for name in varying)]
        for run in runs
    ]
    return rows, rules


def change_of_order(sizes: Sequence[int], phases: Sequence[str]) -> tuple[float, float, int] | None:
    """Between which sizes copies cease to come first: (low, high, misplaced runs); None if there is but one phase.

    A border between two neighbouring sizes misplaces runs that copy first above it and runs that learn the rule first
    below it. low and high enclose all borders that misplace the fewest. Runs of unknown order do not count.
    """
    known = [(size, phase) for size, phase in zip(sizes, phases, strict=True) if phase in PHASES]
    levels = sorted({size for size, _ in known})
    if {phase for _, phase in known} != set(PHASES) or len(levels) < 2:
        return None
    borders = [
        (sum((phase == "copies") == (size >= above) for size, phase in known), below, above)
        for below, above in zip(levels, levels[1:], strict=False)
    ]
    fewest = min(misplaced for misplaced, _, _ in borders)
    best = [(below, above) for misplaced, below, above in borders if misplaced == fewest]
    return float(best[0][0]), float(best[-1][1]), fewest


def _between(runs: Sequence[Run], replicates: Replicates) -> Entry:
    """The entries "break" and "jump" of one setting at several sizes."""
    sizes = [run.train_size for run in runs]
    found = change_of_order(sizes, [run.window.first for run in runs])
    if found is None:
        return {"break": None, "jump": None}
    low, high, misplaced = found
    middle = math.sqrt(low * high)
    bootstrap_low, bootstrap_high = _break_interval(runs, replicates)
    return {
        "break": {
            "N": middle,
            "low": low,
            "high": high,
            "bootstrap_low": bootstrap_low,
            "bootstrap_high": bootstrap_high,
            "misplaced": misplaced,
        },
        "jump": _jump(runs, middle, replicates),
    }


def _break_interval(runs: Sequence[Run], replicates: Replicates) -> tuple[float | None, float | None]:
    """95 % interval over seeds and samples, no narrower than the gap between sizes; None for an end without a "
    "limit."""
    generator = np.random.default_rng(0)
    positions = list(group_by(range(len(runs)), lambda i: runs[i].setting).values())
    lows, highs = [], []
    for replicate in range(len(replicates[runs[0].name][MEMORY])):
        chosen = [int(i) for members in positions for i in generator.choice(members, size=len(members))]
        phases = [
            innovation_window(*(replicates[runs[i].name][clock][replicate] for clock in (RULE_NOVEL, MEMORY))).first
            for i in chosen
        ]
        sizes = [runs[i].train_size for i in chosen]
        found = change_of_order(sizes, phases)
        if found:
            lows.append(found[0])
            highs.append(found[1])
        else:
            # One phase: the border lies below the smallest of its sizes, or above the largest; unknown tells nothing.
            of_copies = [size for size, phase in zip(sizes, phases, strict=True) if phase == "copies"]
            of_rule = [size for size, phase in zip(sizes, phases, strict=True) if phase == "rule"]
            lows.append(max(of_copies, default=-math.inf))
            highs.append(min(of_rule, default=math.inf))
    return interval_of_draws(lows)[0], interval_of_draws(highs)[1]


def _jump(runs: Sequence[Run], size: float, replicates: Replicates) -> Entry | None:
    """The factor between the lines of the two phases of one setting at a size N, with its interval over resamples."""
    at, draws = [], []
    for phase in PHASES:
        members = in_phase(runs, phase)
        design, _ = _design(members, ["log10 N"])
        line = fitted_line(design, [run.memorised for run in members])
        if line is None:
            return None
        lines = resampled_lines(members, MEMORY, design, replicates)
        at.append(line.coefficients[0] + line.coefficients[1] * math.log10(size))
        draws.append([start + slope * math.log10(size) for start, slope in lines])
    pairs = [rule - copies for copies, rule in zip(*draws, strict=False)]
    low, high = interval_of_draws(pairs) if len(pairs) >= 0.9 * len(replicates[runs[0].name][MEMORY]) else (None, None)
    return {
        "factor": 10 ** (at[1] - at[0]),
        "low": None if low is None else 10**low,
        "high": None if high is None else 10**high,
    }
