"""What the numbers say, in words. Each function takes plain numbers and claims no more than they carry.

Accuracies are compared by their intervals: "lifts", "lowers" and "further" are written only when two intervals do not
overlap. The limits below are conventions of this report; its definitions state them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.criteria import (
    ALIGNED,
    CHANCE,
    EQUAL_BUDGET,
    EXCLUDED_REWARD,
    LOSS_BARRIER,
    NEARLY_ORTHOGONAL,
    PARTLY_ALIGNED,
    REWARD_BARRIER,
    SAME_LENGTH,
    SIMILAR_ACCURACY,
)
from analysis.report.numbers import count, fixed, percent, points, significant, times


# A gap up to this size on a straight line is called no barrier: share of the reward, nats per token.
# "No barrier" is written only if the interval of the reward, too, stays within this share of the straight line.
# Two accuracies this close, with overlapping intervals, are called similar.
# Two lengths within this factor of each other are called equal.
# Generated completions within this factor of each other are called the same budget.
# Absolute cosines from here on are called so.
# A cosine this many standard deviations of the cosine of random directions, or fewer, is called chance.
# How the outcome of a search for a barrier is written.
OUTCOMES = {
    "none": "no barrier",
    "clear": "a barrier",
    "lag": "a lag",
    "unresolved": "unresolved",
    "unknown": "not known",
}

Row = Mapping[str, Any]


def join(words: Sequence[str]) -> str:
    """["a", "b", "c"] -> "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def known(row: Row | None) -> bool:
    """Whether `row` holds an accuracy with its interval."""
    return row is not None and None not in (row.get("accuracy"), row.get("low"), row.get("high"))


def comparison(before: Row, after: Row) -> str:
    """ "higher", "lower", or "unclear" when the two intervals overlap."""
    if after["low"] > before["high"]:
        return "higher"
    return "lower" if after["high"] < before["low"] else "unclear"


def accuracy_change(task: str, before: Row, after: Mapping[str, Row]) -> str:
    """What each model of `after` does to the accuracy on `task`: "ES and GRPO both lift Countdown from ... to ..."."""
    clauses = []
    start = percent(before["accuracy"], 0)
    for verdict, one, several in (("higher", "lifts", "lift"), ("lower", "lowers", "lower")):
        names = [name for name, row in after.items() if comparison(before, row) == verdict]
        if names:
            verb = {1: one, 2: f"both {several}"}.get(len(names), f"all {several}")
            ends = join([percent(after[name]["accuracy"], 0) for name in names])
            clauses.append(f"{join(names)} {verb} {task} from {start} to {ends}")
    names = [name for name, row in after.items() if comparison(before, row) == "unclear"]
    if names:
        ends = join([percent(after[name]["accuracy"], 0) for name in names])
        verb = "does" if len(names) == 1 else "do"
        clauses.append(f"{join(names)} {verb} not clearly change {task} ({start} to {ends}, the intervals overlap)")
    return ", while ".join(clauses)


def off_task_change(name: str, before: Mapping[str, Row], after: Mapping[str, Row]) -> str:
    """What `name` does to the tasks nobody trained on; both arguments by task label."""
    clauses = []
    for verdict, verb in (("lower", "loses on"), ("higher", "gains on")):
        changed = [task for task in after if comparison(before[task], after[task]) == verdict]
        if changed:
            steps = [
                f"{task} ({percent(before[task]['accuracy'], 0)} to {percent(after[task]['accuracy'], 0)})"
                for task in changed
            ]
            clauses.append(f"{verb} {join(steps)}")
    if not clauses:
        return f"{name} changes none of the other tasks clearly"
    return f"{name} {' and '.join(clauses)}"


def rises(evaluations: Mapping[str, Mapping[str, Sequence[Any]]]) -> str:
    """From where to where the accuracy went while training, and who ended below an earlier value."""
    spent = [evaluation["completions"][-1] for evaluation in evaluations.values()]
    equal = len(set(spent)) == 1
    clauses = []
    for (name, evaluation), completions in zip(evaluations.items(), spent, strict=True):
        start, end = (percent(evaluation["accuracy"][at], 0) for at in (0, -1))
        cost = "" if equal else f" in {count(completions)} completions"
        clauses.append(f"{name} goes from {start} to {end}{cost}")
    each = " each" if len(spent) > 1 else ""
    text = join(clauses) + (f" in {count(spent[0])} completions{each}" if equal else "")
    falls = [fall_from_peak(name, evaluation) for name, evaluation in evaluations.items()]
    return "; ".join([text, *(fall for fall in falls if fall)])


def fall_from_peak(name: str, evaluation: Mapping[str, Sequence[Any]]) -> str | None:
    """That the held-out accuracy ended clearly below its highest value; None when it did not."""
    accuracy, low, high = evaluation["accuracy"], evaluation["low"], evaluation["high"]
    measured = [i for i in range(len(accuracy)) if None not in (accuracy[i], low[i], high[i])]
    if not measured:
        return None
    peak, last = max(measured, key=lambda i: accuracy[i]), measured[-1]
    if high[last] >= low[peak]:
        return None
    return f"{name} had reached {percent(accuracy[peak], 0)} at {count(evaluation['completions'][peak])} and fell back"


def budget(completions: Mapping[str, float]) -> str:
    """Whether the methods generated equally many completions: "at the same budget of 61,440 completions"."""
    numbers = list(completions.values())
    if len(numbers) == 1:
        return f"with {count(numbers[0])} completions"
    if len(set(numbers)) == 1:
        return f"at the same budget of {count(numbers[0])} completions"
    listed = join([f"{name} {count(number)}" for name, number in completions.items()])
    same = min(numbers) > 0 and max(numbers) / min(numbers) <= EQUAL_BUDGET
    return f"at {'nearly the same budget' if same else 'different budgets'} ({listed} completions)"


def distance(norms: Mapping[str, float]) -> str:
    """Which update is longer, and how many times: "ES moved the weights 9.1 times as far as GRPO"."""
    least, most = min(norms, key=norms.__getitem__), max(norms, key=norms.__getitem__)
    if norms[most] == 0:
        return f"{join(list(norms))} did not move the weights"
    if len(norms) == 1:
        return f"{most} moved the weights by {significant(norms[most])}"
    if norms[least] == 0:
        return f"{most} moved the weights by {significant(norms[most])} and {least} not at all"
    ratio = norms[most] / norms[least]
    if ratio <= SAME_LENGTH:
        lengths = join([significant(norm) for norm in norms.values()])
        return f"{join(list(norms))} moved the weights about equally far (by {lengths})"
    return f"{most} moved the weights {times(ratio)} times as far as {least}"


def orientation(cosine: float | None, null_std: float | None) -> str:
    """How two updates are oriented: "the two updates are nearly orthogonal (cosine 0.012)".

    null_std: standard deviation of the cosine of two random directions with the same length in every tensor.
    """
    if cosine is None:
        return "the cosine between the two updates is undefined"
    size = abs(cosine)
    if null_std is not None and size <= CHANCE * null_std:
        return f"the two updates are no more aligned than two random directions (cosine {fixed(cosine, 4)})"
    if size < NEARLY_ORTHOGONAL:
        how = "are nearly orthogonal"
    elif size < PARTLY_ALIGNED:
        how = "are weakly aligned" if cosine > 0 else "are weakly opposed"
    elif size < ALIGNED:
        how = "are partly aligned" if cosine > 0 else "are partly opposed"
    else:
        how = "point almost the same way" if cosine > 0 else "point almost opposite ways"
    return f"the two updates {how} (cosine {fixed(cosine)})"


def random_walk(name: str, measured: float, predicted: float) -> str:
    """How the measured norm of an update compares with that of a random walk of as many steps."""
    ratio = measured / predicted
    if 1 / SAME_LENGTH <= ratio <= SAME_LENGTH:
        how = "what a random walk of the same steps predicts"
    else:
        how = f"{significant(ratio, 2)} times what a random walk of the same steps predicts"
    return f"{name}'s length of {significant(measured)} is {how} ({significant(predicted)})"


def largest_change(name: str, relative: Mapping[str, Mapping[str, float | None]]) -> str | None:
    """Where the relative change is largest and how unevenly it is spread; `relative` by layer and kind of matrix."""
    values = {(layer, kind): value for layer, row in relative.items() for kind, value in row.items() if value}
    if not values:
        return None
    layer, kind = max(values, key=values.__getitem__)
    where = f"{kind} of layer {layer}" if layer.isdecimal() else f"{kind} outside the layers"
    most, least = max(values.values()), min(values.values())
    return (
        f"{name} changes {where} most (by {significant(100 * most)} % of its length), "
        f"{times(most / least)} times as much as what it changes least"
    )


def cosine_range(cosines: Mapping[str, Mapping[str, float | None]]) -> str | None:
    """Between which values the cosines of single matrices lie; `cosines` by layer and kind of matrix."""
    values = {(layer, kind): c for layer, row in cosines.items() for kind, c in row.items() if c is not None}
    if not values:
        return None
    low, high = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
    (low_at, high_at) = (f"{kind}, layer {layer}" if layer.isdecimal() else kind for layer, kind in (low, high))
    return f"matrix by matrix it runs from {fixed(values[low])} ({low_at}) to {fixed(values[high])} ({high_at})"


def drift(task: str, rows: Mapping[str, Row]) -> str:
    """Which model is further from the base on `task`; rows hold `per_token` and its interval, in nats."""
    listed = join([f"{significant(row['per_token'], 2)} for {name}" for name, row in rows.items()])
    sentence = f"on {task} the KL divergence in nats per token is {listed}"
    if len(rows) < 2:
        return sentence
    first, second = sorted(rows, key=lambda name: -rows[name]["per_token"])[:2]
    low, high = rows[first]["per_token_low"], rows[second]["per_token_high"]
    if low is None or high is None:
        return sentence
    return sentence + (f", clearly largest for {first}" if low > high else ", intervals overlapping")


def furthest_drift(name: str, per_token: Mapping[str, float]) -> str:
    """On which of the tasks nobody trained on `name` is furthest from the base; nats per token by task label."""
    task = max(per_token, key=per_token.__getitem__)
    return f"{significant(per_token[task], 2)} for {name} ({task})"


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


def reward_barrier(line: Row) -> str:
    """Whether the reward has a barrier on this line.

    "none": the gap is negligible, and too large a one is excluded by the interval. "clear": some point lies below the
    straight line between the ends with its whole interval, and one below both ends. "lag": the same, but none below
    both ends. "unresolved": none of these. "unknown": the number is null.
    """
    height, ts, reward = line["reward_barrier"], line["ts"], line["reward"]
    if height is None:
        return "unknown"
    if height > REWARD_BARRIER:
        if not any(gap > 0 for gap in chord_gaps(ts, reward, line["reward_high"])):
            return "unresolved"
        return "clear" if min(_measured(reward)) < min(reward[0], reward[-1]) else "lag"
    excluded = all(gap <= EXCLUDED_REWARD for gap in chord_gaps(ts, reward, line["reward_low"]))
    return "none" if excluded else "unresolved"


def loss_barrier(line: Row) -> str:
    """The same for the loss, where a barrier is a hill and not a dip.

    Every point is measured on the same tokens, so that the intervals, which are those of the level, overstate the
    uncertainty of the gap; a negligible gap is called none without asking them.
    """
    height, ts, loss = line["loss_barrier"], line["ts"], line["loss"]
    if height is None:
        return "unknown"
    if height <= LOSS_BARRIER:
        return "none"
    if not any(gap < 0 for gap in chord_gaps(ts, loss, line["loss_low"])):
        return "unresolved"
    return "clear" if max(_measured(loss)) > max(loss[0], loss[-1]) else "lag"


def _measured(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def barrier_between(line: Row) -> str:
    """What separates two models on the straight line between them, for the headline."""
    verdict, height = reward_barrier(line), points(line["reward_barrier"])
    if verdict == "none":
        loss = loss_barrier(line)
        if loss == "clear":
            nats = significant(line["loss_barrier"], 2)
            return f"no reward barrier ({height}) but a loss barrier of {nats} nats per token lies between them"
        return f"no reward barrier lies on the straight line between them (largest gap {height})"
    if verdict == "lag":
        return (
            f"on the straight line between them the reward lags by up to {height}, without falling below its lower end"
        )
    if verdict == "clear":
        return f"a reward barrier of {height} lies on the straight line between them"
    if verdict == "unresolved":
        return f"a reward barrier between them is neither shown nor excluded (largest gap {height})"
    return "whether a reward barrier lies between them is not known"


def barriers(lines: Mapping[str, Row]) -> str:
    """The barrier of every line, reward and loss, in one sentence; `lines` by the label of the pair."""
    listed = [
        f"{pair} {points(line['reward_barrier'])} and {significant(line['loss_barrier'], 2)} ({_outcome(line)})"
        for pair, line in lines.items()
    ]
    crossed = [pair for pair, line in lines.items() if "clear" in (reward_barrier(line), loss_barrier(line))]
    flat = all(reward_barrier(line) == loss_barrier(line) == "none" for line in lines.values())
    if crossed:
        opening = f"A barrier stands on {join(crossed)}"
    elif flat:
        opening = "No line shows a barrier"
    else:
        opening = "No barrier is established"
    return (
        f"{opening}; the largest gap to the even line between the ends (dotted), in reward and in nats per token of "
        f"loss, is {', '.join(listed)}."
    )


def _outcome(line: Row) -> str:
    reward, loss = OUTCOMES[reward_barrier(line)], OUTCOMES[loss_barrier(line)]
    return reward if reward == loss else f"reward: {reward}, loss: {loss}"


def gain_verdict(task: str, before: Row, after: Mapping[str, Row]) -> str:
    """The accuracies in a few words, for the title."""
    names = list(after)
    lifted = [name for name in names if comparison(before, after[name]) == "higher"]
    if not lifted:
        return f"No clear gain on {task}"
    if len(lifted) < len(names):
        rest = [name for name in names if name not in lifted]
        verb = "does" if len(rest) == 1 else "do"
        return f"{join(lifted)} {'lifts' if len(lifted) == 1 else 'lift'} {task}, {join(rest)} {verb} not"
    if len(names) == 1:
        return f"{names[0]} lifts {task}"
    ranked = sorted(names, key=lambda name: after[name]["accuracy"])
    least, most = after[ranked[0]], after[ranked[-1]]
    if comparison(least, most) == "higher":
        return f"{'Both' if len(names) == 2 else 'All'} lift {task}, {ranked[-1]} furthest"
    if most["accuracy"] - least["accuracy"] <= SIMILAR_ACCURACY:
        return "Similar accuracy"
    return f"{'Both' if len(names) == 2 else 'All'} lift {task}"


def weights_verdict(norms: Sequence[float], cosine: float | None) -> str | None:
    """Two updates in a few words, for the title."""
    if cosine is None or min(norms) == 0:
        return None
    ratio = max(norms) / min(norms)
    if cosine >= ALIGNED and ratio <= SAME_LENGTH:
        return "nearly the same weights"
    if cosine < PARTLY_ALIGNED or ratio > 2:
        return "different weights"
    return "partly the same weights"


def barrier_verdict(line: Row) -> str | None:
    """The barrier between two models in a few words, for the title; None when the numbers do not decide."""
    verdicts = {reward_barrier(line), loss_barrier(line)}
    if "clear" in verdicts:
        return "a barrier between them"
    return "no barrier between them" if verdicts == {"none"} else None
