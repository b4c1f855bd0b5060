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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from eval.criteria import COPIES, EVALUATIONS_IN_A_ROW, RULE_LEARNED
from eval.generative.measure import copies_beyond_control, novel_validity


Row = dict[str, Any]
# The least and the largest value that agree with what a run shows.
Bounds = tuple[float, float]


@dataclass(frozen=True)
class Clock:
    """threshold: the quantity must reach it, and hold it for `sustained` consecutive evaluations.

    counted: the quantity from counts of samples, to compare with the threshold where `quantity` is a difference or
    a quotient of rounded shares; times between evaluations go by `quantity` in either case.
    """

    meaning: str
    quantity: Callable[[Row], float | None]
    threshold: float
    sustained: int = 1
    counted: Callable[[Row], float | None] | None = None

    def crossing(self, rows: Sequence[Row]) -> "Crossing":
        """When the clock strikes in a run with these evaluations."""
        values = [self.quantity(row) for row in rows]
        compared = [self.counted(row) for row in rows] if self.counted else values
        return crossing([row["step"] for row in rows], values, self.threshold, self.sustained, compared)


def copies_less_control(row: Row) -> float:
    """How much oftener the model repeats a training string than a string of equal standing that it never saw."""
    return row["copies"] - row["control"]


def loss_gap(row: Row) -> float:
    return row["loss_held_out"] - row["loss_train"]


def rule_clock(
    meaning: str, column: str, threshold: float, counted: Callable[[Row], float | None] | None = None
) -> Clock:
    """Rule clocks must hold for two evaluations: "reliably exceeds 0.9" (arXiv 2605.10019 as restated by others)."""
    return Clock(meaning, itemgetter(column), threshold, EVALUATIONS_IN_A_ROW, counted)


def memory_clock(threshold: float) -> Clock:
    """The threshold is this lab's; a factor of 10 in steps lies between defensible ones, so that all are given."""
    meaning = f"copies minus control reach {100 * threshold:.0f} %"
    return Clock(meaning, copies_less_control, threshold, counted=copies_beyond_control)


CLOCKS = {
    "tau_rule": rule_clock("valid samples reach 90 %", "valid", RULE_LEARNED),
    "tau_rule_half": rule_clock("valid samples reach 50 %", "valid", 0.5),
    "tau_rule_group": rule_clock("valid groups reach 90 %", "group_valid", RULE_LEARNED),
    "tau_rule_novel": rule_clock(
        "valid among samples that are no copies reach 90 %", "novel_valid", RULE_LEARNED, novel_validity
    ),
    "tau_rule_novel_half": rule_clock(
        "valid among samples that are no copies reach 50 %", "novel_valid", 0.5, novel_validity
    ),
    "tau_mem": memory_clock(COPIES),
    "tau_mem_05": memory_clock(0.05),
    "tau_mem_20": memory_clock(0.2),
    "tau_mem_50": memory_clock(0.5),
    "tau_mem_gap_ratio": Clock(
        "samples 3 times nearer to one training string than to any other reach 10 %",
        itemgetter("gap_ratio_copies"),
        COPIES,
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

    @property
    def bounds(self) -> Bounds:
        return (self.time, self.time) if self.observed else (math.nextafter(self.time, math.inf), math.inf)


def crossing(
    steps: Sequence[int],
    values: Sequence[float | None],
    threshold: float,
    sustained: int = 1,
    compared: Sequence[float | None] | None = None,
) -> Crossing:
    """When `values` first reach `threshold` and keep it for `sustained` consecutive evaluations.

    compared: what is compared with the threshold in place of the values, which then only place the crossing between
    two evaluations. A value of None is below every threshold. If the last values reach it, but the run ends before
    they have held it long enough, the clock is censored at the evaluation before them. Without an evaluation below the
    threshold before it, the crossing is put at the evaluation itself. Step 0 counts as step 1 on the logarithmic axis.
    Raises ValueError if there are no evaluations.
    """
    if not steps:
        raise ValueError("a run without evaluations has no clocks")
    held = 0
    for i, value in enumerate(values if compared is None else compared):
        held = held + 1 if value is not None and value >= threshold else 0
        if held == sustained:
            return _interpolated(steps, values, i - sustained + 1, threshold)
    first = len(steps) - held
    return Crossing(None, steps[first - 1] if first > 0 else 0)


def _interpolated(steps: Sequence[int], values: Sequence[float | None], at: int, threshold: float) -> Crossing:
    after = steps[at - 1] if at > 0 else 0
    here, before = values[at], values[at - 1] if at > 0 else None
    if before is None:
        return Crossing(float(max(steps[at], 1)), after)
    # A value that reaches the threshold by its counts alone may lie a rounding error below it.
    share = min((threshold - before) / (here - before), 1.0)
    low, high = math.log(max(after, 1)), math.log(max(steps[at], 1))
    return Crossing(math.exp(low + share * (high - low)), after)


def clocks_of(rows: Sequence[Row]) -> dict[str, Crossing | None]:
    """All clocks of one run; None for a clock whose quantity the run does not have (null at every evaluation).

    Validity of what is new is null only where all samples are copies, and never counts as not measured.
    """
    measured = {name for name, clock in CLOCKS.items() if any(clock.quantity(row) is not None for row in rows)} | {
        RULE_NOVEL,
        "tau_rule_novel_half",
    }
    return {name: clock.crossing(rows) if name in measured else None for name, clock in CLOCKS.items()}


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

    @property
    def first(self) -> str:
        """The phase of the run: "rule" or "copies", by the clock that struck first; "unknown" if the run ended before
        their order was known."""
        return {"open": "rule", "vanished": "copies", "censored": "unknown"}[self.state]

    @property
    def bounds(self) -> Bounds:
        """Of the width."""
        if self.width is not None:
            return self.width, self.width
        return (
            -math.inf if self.at_least is None else self.at_least,
            math.inf if self.at_most is None else self.at_most,
        )


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
