"""Clocks as other samples of the same run, and other seeds of its setting, would have them: bootstrap intervals."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from analysis.clocks.striking import CLOCKS, Crossing, Row
from analysis.statistics import interval_of_draws, median_time


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
    crossings: dict[str, list[Crossing]] = {name: [] for name in names}
    for replicate in counts.tolist():
        again = [
            {
                "step": row["step"],
                "samples": total,
                "valid": (copied + matched + other) / total,
                "copies": copied / total,
                "control": matched / total,
                "novel_valid": (matched + other) / (total - copied) if copied < total else None,
            }
            for row, (copied, matched, other, invalid) in zip(rows, replicate, strict=True)
            for total in [copied + matched + other + invalid]
        ]
        for name in names:
            crossings[name].append(CLOCKS[name].crossing(again))
    return crossings


def clock_interval(replicates: Iterable[Crossing]) -> tuple[float | None, float | None]:
    """95 % interval of one clock of one run from its `bootstrap`, over samples; None for an end that is censored."""
    return interval_of_draws([math.inf if crossed.step is None else crossed.step for crossed in replicates])


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
        value = median_crossing(
            [replicates[run][i] for run in generator.integers(len(crossings), size=len(crossings))]
        )
        medians.append(math.inf if value is None else value)
    low, high = interval_of_draws(medians)
    middle = median_crossing(crossings)
    return {
        "median": middle,
        "low": low,
        "high": high,
        "observed": sum(crossed.observed for crossed in crossings),
        "runs": len(crossings),
        "at_least": min(c.time for c in crossings if not c.observed) if middle is None else None,
    }


def median_crossing(crossings: Sequence[Crossing]) -> float | None:
    return median_time([crossed.time for crossed in crossings], [crossed.observed for crossed in crossings])
