"""Is there a barrier on a straight line between two models, and could the test have found one?

A line is what `analysis.behaviour.lines.line` returns. A barrier is a gap between the values on it and the even line
between its ends: of the reward in shares of 1, of the loss as a share of what the references cost on the even line,
because a gap of 0.01 nats says nothing where the references cost 0.03.

"No barrier" is a finding only where the same test finds one on lines that must have one (`with_controls`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.criteria import EXCLUDED_REWARD, LOSS_BARRIER, REWARD_BARRIER


Line = Mapping[str, Any]
QUANTITIES = ("reward", "loss")
# What `reward_barrier` and `loss_barrier` call a gap that the test has found.
FOUND = ("clear", "lag")
CANNOT_TELL = "cannot tell"


def chord_gaps(ts: Sequence[float], values: Sequence[float | None], limits: Sequence[float | None]) -> list[float]:
    """How far `limits` lies under the straight line between the `values` at t = 0 and t = 1, at each t between.

    Positive: under it. Points without a number are left out; so is everything when an end has none.
    """
    at = dict(zip(ts, values, strict=True))
    start, end = at.get(0), at.get(1)
    if start is None or end is None:
        return []
    return [
        (1 - t) * start + t * end - limit
        for t, limit in zip(ts, limits, strict=True)
        if limit is not None and 0 < t < 1
    ]


def relative_loss_gaps(line: Line) -> list[float]:
    """How far the loss lies above the even line between its ends, as a share of that line, at each point between.

    Points where the even line is 0 are left out: nothing is a share of nothing.
    """
    ts, loss = line["ts"], line["loss"]
    if None in (loss[0], loss[-1]):
        return []
    even = [(1 - t) * loss[0] + t * loss[-1] for t in ts]
    return [
        (value - chord) / chord
        for t, value, chord in zip(ts, loss, even, strict=True)
        if value is not None and 0 < t < 1 and chord > 0
    ]


def reward_barrier(line: Line) -> str:
    """Whether the reward has a barrier on this line.

    "none": the gap is negligible, and too large a one is excluded by the interval. "clear": some point lies below the
    straight line between the ends with its whole interval, and one below both ends. "lag": the same, but none below
    both ends. "unresolved": none of these. "unknown": the number is null.
    """
    height, ts, reward = line["reward_barrier"], line["ts"], line["reward"]
    if height is None:
        return "unknown"
    if exceeds(height, REWARD_BARRIER):
        if not any(gap > 0 for gap in chord_gaps(ts, reward, line["reward_high"])):
            return "unresolved"
        return "clear" if min(measured(reward)) < min(reward[0], reward[-1]) else "lag"
    excluded = all(gap <= EXCLUDED_REWARD for gap in chord_gaps(ts, reward, line["reward_low"]))
    return "none" if excluded else "unresolved"


def loss_barrier(line: Line) -> str:
    """The same for the loss, where a barrier is a hill and not a dip.

    Every point is measured on the same tokens, so that the intervals, which are those of the level, overstate the
    uncertainty of the gap; a negligible gap is called none without asking them.
    """
    ts, loss = line["ts"], line["loss"]
    if line["loss_barrier"] is None:
        return "unknown"
    if not exceeds(max(relative_loss_gaps(line), default=0.0), LOSS_BARRIER):
        return "none"
    if not any(gap < 0 for gap in chord_gaps(ts, loss, line["loss_low"])):
        return "unresolved"
    return "clear" if max(measured(loss)) > max(loss[0], loss[-1]) else "lag"


def exceeds(difference: float, limit: float) -> bool:
    """Whether a difference of shares is above `limit`: 100 of 100 less 95 of 100 meets 0.05, their floats do not."""
    return round(difference, 12) > limit


def measured(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


OUTCOME = {"reward": reward_barrier, "loss": loss_barrier}


def largest_gap(line: Line, quantity: str) -> float | None:
    """The gap that decides: of the reward in shares of 1, of the loss relative to the even line; None if unknown."""
    if line[f"{quantity}_barrier"] is None:
        return None
    return line["reward_barrier"] if quantity == "reward" else max([0.0, *relative_loss_gaps(line)])


def untrained_line(line: Line, start: Mapping[str, Any]) -> dict[str, Any]:
    """The line with the base's point `start` at every place between its ends: as if it led through that model."""
    last = len(line["ts"]) - 1
    columns = {key: [values[0], *[start[key]] * (last - 1), values[-1]] for key, values in lists(line).items()}
    ts = line["ts"]
    dips = chord_gaps(ts, columns["reward"], columns["reward"])
    hills = [-gap for gap in chord_gaps(ts, columns["loss"], columns["loss"])]
    return {
        "ts": list(ts),
        **columns,
        "reward_barrier": max([0.0, *dips]),
        "loss_barrier": None if None in columns["loss"] else max([0.0, *hills]),
    }


def lists(line: Line) -> dict[str, list]:
    """The columns of a line, without the places of its points."""
    return {key: list(values) for key, values in line.items() if isinstance(values, list) and key != "ts"}


def with_controls(line: Line, controls: Mapping[str, Line]) -> dict[str, dict[str, Any]]:
    """The verdict on a line beside lines on which the same test has to find a barrier; for reward and loss each

        {"outcome": of the line alone, "gap", "limit", "controls": {name: {"outcome", "gap"}},
         "verdict": "no barrier", "a barrier", "a lag", "unresolved", "not known" or "cannot tell", "passed": [names]}

    "No barrier" needs that all controls are found; otherwise the test cannot tell this line from those in "passed",
    the controls that it would have called clean as well, or left open. A barrier that is found needs no control.
    """
    judged = {}
    for quantity, outcome_of in OUTCOME.items():
        limit = REWARD_BARRIER if quantity == "reward" else LOSS_BARRIER
        found = {
            name: {"outcome": outcome_of(control), "gap": largest_gap(control, quantity)}
            for name, control in controls.items()
        }
        passed = [name for name, control in found.items() if control["outcome"] not in FOUND]
        outcome = outcome_of(line)
        verdict = {"none": "no barrier", "clear": "a barrier", "lag": "a lag", "unknown": "not known"}.get(
            outcome, outcome
        )
        judged[quantity] = {
            "outcome": outcome,
            "gap": largest_gap(line, quantity),
            "limit": limit,
            "controls": found,
            "passed": passed,
            "verdict": CANNOT_TELL if outcome == "none" and (passed or not found) else verdict,
        }
    return judged
