"""When a run has learned the rule, when it begins to copy its training data, and the window between the two.

Everything here is a pure function of the rows of `evaluations.jsonl`, one per evaluation and in the order of training:

    step          optimiser steps done
    samples       strings drawn
    valid         share of them that obey the rule           group_valid   share of groups that do
    copies        share exactly in the training set          control       share exactly in a disjoint set as large
    novel_valid   share of valid ones among those that are no copies; null where all are copies
    unique        share of distinct strings among those drawn
    gap_ratio_copies   share whose nearest training string is 3 times nearer than the second nearest; null for tokens
    loss_train, loss_held_out   on the same noise, or per token in nats

A clock is the first evaluation at which a quantity reaches its threshold. Evaluations lie on a logarithmic grid of
steps, and the time of the clock is interpolated linearly in log step between this evaluation and the one before. A run
that ends first is right-censored: its clock is unknown, and later than its last evaluation.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.clocks.censored import median_time
from eval.criteria import COPIES, EVALUATIONS_IN_A_ROW, RULE_LEARNED


Row = dict[str, Any]


@dataclass(frozen=True)
class Clock:
    """threshold: the quantity must reach it, and hold it for `sustained` consecutive evaluations."""

    meaning: str
    quantity: Callable[[Row], float | None]
    threshold: float
    sustained: int = 1


def copies_beyond_control(row: Row) -> float:
    """How much oftener the model repeats a training string than a string of equal standing that it never saw."""
    return row["copies"] - row["control"]


def loss_gap(row: Row) -> float:
    return row["loss_held_out"] - row["loss_train"]


def _column(name: str) -> Callable[[Row], float | None]:
    return lambda row: row[name]


# Rule clocks must hold for two evaluations: "reliably exceeds 0.9" (arXiv 2605.10019 as restated by others). The
# threshold of the memory clock is this lab's; a factor of 10 in steps lies between defensible ones, so all are given.
TWICE = EVALUATIONS_IN_A_ROW
CLOCKS = {
    "tau_rule": Clock("valid samples reach 90 %", _column("valid"), RULE_LEARNED, TWICE),
    "tau_rule_half": Clock("valid samples reach 50 %", _column("valid"), 0.5, TWICE),
    "tau_rule_group": Clock("valid groups reach 90 %", _column("group_valid"), RULE_LEARNED, TWICE),
    "tau_rule_novel": Clock(
        "valid among samples that are no copies reach 90 %", _column("novel_valid"), RULE_LEARNED, TWICE
    ),
    "tau_rule_novel_half": Clock(
        "valid among samples that are no copies reach 50 %", _column("novel_valid"), 0.5, TWICE
    ),
    "tau_mem": Clock("copies minus control reach 10 %", copies_beyond_control, COPIES),
    "tau_mem_05": Clock("copies minus control reach 5 %", copies_beyond_control, 0.05),
    "tau_mem_20": Clock("copies minus control reach 20 %", copies_beyond_control, 0.2),
    "tau_mem_50": Clock("copies minus control reach 50 %", copies_beyond_control, 0.5),
    "tau_mem_gap_ratio": Clock(
        "samples 3 times nearer to one training string than to any other reach 10 %", _column("gap_ratio_copies"), 0.1
    ),
    "tau_mem_loss_gap": Clock("held-out loss exceeds training loss by 0.05", loss_gap, 0.05),
}
RULE, RULE_NOVEL, MEMORY = "tau_rule", "tau_rule_novel", "tau_mem"


@dataclass(frozen=True)
class Crossing:
    """When a clock struck.

    step: interpolated step; None if it did not (right-censored). after: last evaluated step at which it certainly had
    not struck, 0 if it struck at the first evaluation; for a censored clock its true step lies beyond `after`.
    """

    step: float | None
    after: int

    @property
    def observed(self) -> bool:
        return self.step is not None

    @property
    def time(self) -> float:
        """The step, or the bound beyond which it lies: what statistics of censored times take with `observed`."""
        return max(float(self.after), 1.0) if self.step is None else self.step


def crossing(steps: Sequence[int], values: Sequence[float | None], threshold: float, sustained: int = 1) -> Crossing:
    """When `values` first reach `threshold` and keep it for `sustained` consecutive evaluations.

    A value of None is below every threshold. If the last values reach it, but the run ends before they have held it
    long enough, the clock is censored at the evaluation before them. Without an evaluation below the threshold before
    it, the crossing is put at the evaluation itself. Step 0 counts as step 1 on the logarithmic axis.
    Raises ValueError if there are no evaluations.
    """
    if not steps:
        raise ValueError("a run without evaluations has no clocks")
    reached = [value is not None and value >= threshold for value in values]
    held = 0
    for i, above in enumerate(reached):
        held = held + 1 if above else 0
        if held == sustained:
            return _interpolated(steps, values, i - sustained + 1, threshold)
    first = len(steps) - held
    return Crossing(None, steps[first - 1] if first > 0 else 0)


def _interpolated(steps: Sequence[int], values: Sequence[float | None], at: int, threshold: float) -> Crossing:
    after = steps[at - 1] if at > 0 else 0
    here, before = values[at], values[at - 1] if at > 0 else None
    if before is None:
        return Crossing(float(max(steps[at], 1)), after)
    share = (threshold - before) / (here - before)
    low, high = math.log(max(after, 1)), math.log(max(steps[at], 1))
    return Crossing(math.exp(low + share * (high - low)), after)


def clocks(rows: Sequence[Row]) -> dict[str, Crossing | None]:
    """All clocks of one run; None for a clock whose quantity the run does not have (null at every evaluation)."""
    steps = [row["step"] for row in rows]
    found: dict[str, Crossing | None] = {}
    for name, clock in CLOCKS.items():
        values = [clock.quantity(row) for row in rows]
        measured = name in (RULE_NOVEL, "tau_rule_novel_half") or any(value is not None for value in values)
        found[name] = crossing(steps, values, clock.threshold, clock.sustained) if measured else None
    return found


def clock(rows: Sequence[Row], name: str) -> Crossing:
    """One clock of one run, by its name in CLOCKS."""
    chosen = CLOCKS[name]
    return crossing(
        [row["step"] for row in rows], [chosen.quantity(row) for row in rows], chosen.threshold, chosen.sustained
    )


def tau_rule(rows: Sequence[Row]) -> Crossing:
    """When at least 90 % of the samples obey the rule, twice in a row. A model that only copies reaches it too."""
    return clock(rows, RULE)


def tau_rule_novel(rows: Sequence[Row]) -> Crossing:
    """When at least 90 % of the samples that are no copies obey the rule, twice in a row."""
    return clock(rows, RULE_NOVEL)


def tau_mem(rows: Sequence[Row]) -> Crossing:
    """When the share of exact copies exceeds the share of strings of the control set by 10 %."""
    return clock(rows, MEMORY)


def loss_minimum(rows: Sequence[Row]) -> int:
    """The evaluated step at which the held-out loss is smallest."""
    return min(rows, key=lambda row: row["loss_held_out"])["step"]


@dataclass(frozen=True)
class Window:
    """The innovation window [tau_rule_novel, tau_mem].

    state: "open" if the rule clock strikes before the memory clock, "vanished" if not, "censored" if neither struck,
    or if the run ended before their order was known. width: log10(tau_mem / tau_rule_novel) where both struck.
    at_least: a lower bound where only the rule clock struck. at_most: an upper bound where only the memory clock did.
    """

    state: str
    width: float | None = None
    at_least: float | None = None
    at_most: float | None = None


def innovation_window(rule: Crossing, memory: Crossing) -> Window:
    """The window between the two clocks of one run, as far as the run shows it."""
    if not rule.observed and not memory.observed:
        return Window("censored")
    width = math.log10(memory.time / rule.time)
    if rule.observed and memory.observed:
        return Window("open" if width > 0 else "vanished", width=width)
    if rule.observed:
        return Window("open" if width > 0 else "censored", at_least=width)
    return Window("vanished" if width <= 0 else "censored", at_most=width)


def innovation_yield(rows: Sequence[Row]) -> dict[str, float | int]:
    """How much new and valid the model offers at its best.

    {"value": largest product of novel_valid and unique over the evaluations, "step": where,
     "per_sample": largest (valid - copies) * unique, which counts copies as lost, "per_sample_step": where}
    """

    def best(value: Callable[[Row], float]) -> tuple[float, int]:
        row = max(rows, key=value)
        return value(row), row["step"]

    value, step = best(lambda row: (row["novel_valid"] or 0.0) * row["unique"])
    per_sample, per_sample_step = best(lambda row: (row["valid"] - row["copies"]) * row["unique"])
    return {"value": value, "step": step, "per_sample": per_sample, "per_sample_step": per_sample_step}


def bootstrap(rows: Sequence[Row], names: Sequence[str], replicates: int, seed: int = 0) -> dict[str, list[Crossing]]:
    """The clocks of one run as other draws of as many samples would have them, `replicates` for every clock.

    A sample is a copy, in the control set, valid otherwise, or invalid: `valid`, `copies`, `control` and `novel_valid`
    come from one multinomial draw per evaluation, which is the same as drawing its samples anew with replacement.
    Only for clocks on these four columns. The replicates of all clocks come from the same draws.
    """
    drawn = np.array([row["samples"] for row in rows])
    copies, control, valid = (np.array([row[key] for row in rows]) for key in ("copies", "control", "valid"))
    # Rounding in the shares must not make one of them negative, or their sum larger than 1.
    shares = np.clip(np.stack([copies, control, valid - copies - control], 1), 0, 1)
    shares = np.concatenate([shares, np.clip(1 - shares.sum(1, keepdims=True), 0, 1)], 1)
    shares /= shares.sum(1, keepdims=True)
    counts = np.random.default_rng(seed).multinomial(drawn, shares, size=(replicates, len(rows)))
    found: dict[str, list[Crossing]] = {name: [] for name in names}
    for replicate in counts.tolist():
        again = [
            {
                "step": row["step"],
                "valid": (copied + matched + other) / total,
                "copies": copied / total,
                "control": matched / total,
                "novel_valid": (matched + other) / (total - copied) if copied < total else None,
            }
            for row, (copied, matched, other, invalid) in zip(rows, replicate, strict=True)
            for total in [copied + matched + other + invalid]
        ]
        for name in names:
            found[name].append(clock(again, name))
    return found


def percentile_interval(times: Iterable[float], confidence: float = 0.95) -> tuple[float | None, float | None]:
    """Percentile interval of bootstrap replicates, infinity standing for censored ones; None where it is infinite."""
    ordered = sorted(times)
    tail = (1 - confidence) / 2
    low = ordered[math.floor(tail * (len(ordered) - 1))]
    high = ordered[math.ceil((1 - tail) * (len(ordered) - 1))]
    return (None if math.isinf(low) else low), (None if math.isinf(high) else high)


def clock_interval(replicates: Iterable[Crossing]) -> tuple[float | None, float | None]:
    """95 % interval of one clock of one run from its `bootstrap`, over samples; None for an end that is censored."""
    return percentile_interval(math.inf if crossed.step is None else crossed.step for crossed in replicates)


def median_clock(
    crossings: Sequence[Crossing], replicates: Sequence[Sequence[Crossing]], seed: int = 0
) -> dict[str, Any]:
    """The median of a clock over runs that differ in their seed alone, with a bootstrap over seeds and samples.

    {"median": Kaplan-Meier median in steps, None if censored, "low", "high": 95 % interval, None where it is censored,
     "observed": runs whose clock struck, "runs": number of runs, "at_least": for a censored median, the earliest end}

    crossings: one for each run. replicates: the `bootstrap` of each run, all of one length.
    """
    generator = np.random.default_rng(seed)
    medians = []
    for i in range(len(replicates[0])):
        value = _median([replicates[run][i] for run in generator.integers(len(crossings), size=len(crossings))])
        medians.append(math.inf if value is None else value)
    low, high = percentile_interval(medians)
    middle = _median(crossings)
    return {
        "median": middle,
        "low": low,
        "high": high,
        "observed": sum(crossed.observed for crossed in crossings),
        "runs": len(crossings),
        "at_least": min(c.time for c in crossings if not c.observed) if middle is None else None,
    }


def _median(crossings: Sequence[Crossing]) -> float | None:
    return median_time([crossed.time for crossed in crossings], [crossed.observed for crossed in crossings])
