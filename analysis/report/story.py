"""The sentences of one report: the words of `sentences.py` filled from `results.json`."""

from collections.abc import Iterable
from typing import Any

from analysis.report import sentences as say
from analysis.report.numbers import count, fixed, percent, points, significant, times
from analysis.report.results import (
    BASE,
    Results,
    label,
    lookup,
    method_pairs,
    methods,
    pair_label,
    tasks,
)
from analysis.report.section import Tile


def title(results: Results) -> str:
    """The answer in a few words: "Both lift Countdown, different weights, no barrier between them"."""
    task, before, after = _trained(results)
    norms = _norms(results)
    lines = _lines(results, method_pairs(results))
    verdicts = [
        say.gain_verdict(task, before, after) if before and after else None,
        _common(
            say.weights_verdict([norms[name] for name in _pair_labels(pair)], cosine)
            for pair, cosine in _cosines(results).items()
            if set(_pair_labels(pair)) <= set(norms)
        ),
        _common(say.barrier_verdict(line) for line in lines.values()),
    ]
    known = [verdict for verdict in verdicts if verdict]
    if not known:
        return f"Comparison of {say.join([label(method) for method in methods(results)]) or 'models'}"
    return _capital(", ".join(known))


def headline(results: Results, expected: bool = True) -> str:
    """The answer in one or two sentences. expected: whether there should be one."""
    task, before, after = _trained(results)
    completions = _completions(results)
    first = []
    if before and after:
        first = [say.accuracy_change(task, before, after)]
        if completions:
            first = [f"{first[0]}, {say.budget(completions)}"]
    norms, pairs = _norms(results), method_pairs(results)
    cosines = {pair: c for pair, c in _cosines(results).items() if pair in pairs}
    lines = _lines(results, pairs)
    second = [say.distance(norms)] if norms else []
    if len(pairs) == 1:
        second += [
            say.orientation(c, lookup(results, "geometry", "cosine", pair, "null_std")) for pair, c in cosines.items()
        ]
        second += [say.barrier_between(line) for line in lines.values()]
    else:
        listed = [f"{fixed(c)} ({pair_label(pair)})" for pair, c in cosines.items()]
        second += [f"the cosines between the updates are {say.join(listed)}"] if listed else []
        listed = [f"{points(line['reward_barrier'])} ({pair_label(pair)})" for pair, line in lines.items()]
        second += [f"the largest reward gaps between them are {say.join(listed)}"] if listed else []
    stated = [_capital(text) + "." for text in (*first, say.join(second)) if text]
    missing = "The numbers that answer the question are not in results.json yet." if expected else ""
    return " ".join(stated) or missing


def context(results: Results) -> str:
    """What was trained on what."""
    task, model = lookup(results, "task"), lookup(results, "base_model")
    parameters = lookup(results, "geometry", "parameters")
    words = [
        f"Trained on {label(task)}" if task else None,
        f"from {model}" if model else None,
        f"({count(parameters)} parameters)" if parameters else None,
    ]
    return " ".join(word for word in words if word)


def tiles(results: Results) -> list[Tile]:
    """The numbers of the headline."""
    task, before, after = _trained(results)
    norms = _norms(results)
    found = []
    if before and after:
        text = " / ".join(percent(row["accuracy"], 0) for row in after.values())
        found.append(Tile(f"Accuracy on {task}", text, f"{' / '.join(after)}, from {percent(before['accuracy'], 0)}"))
    if norms:
        lengths = " / ".join(significant(norm) for norm in norms.values())
        shortest = min(norms.values())
        ratio = f", ratio {times(max(norms.values()) / shortest)}" if len(norms) > 1 and shortest > 0 else ""
        found.append(Tile("Length of the update", lengths, " / ".join(norms) + ratio))
    for pair in method_pairs(results):
        entry = lookup(results, "geometry", "cosine", pair)
        if entry:
            chance = f", chance \N{PLUS-MINUS SIGN}{fixed(entry['null_std'], 4)}" if entry["null_std"] else ""
            found.append(Tile("Cosine of the updates", fixed(entry["total"]), pair_label(pair) + chance))
    for pair, line in _lines(results, method_pairs(results)).items():
        note = f"{pair_label(pair)}, reward: {say.OUTCOMES[say.reward_barrier(line)]}"
        found.append(Tile("Largest gap on the line", points(line["reward_barrier"]), note))
    rows = _drift_rows(results, lookup(results, "task"))
    if rows:
        text = " / ".join(significant(row["per_token"], 2) for row in rows.values())
        direction = next(iter(rows.values()))["direction"]
        found.append(Tile(direction, text, f"{' / '.join(rows)} on {task}, nats per token"))
    seconds = {label(m): lookup(results, "training", m, "seconds") for m in methods(results)}
    seconds = {name: number for name, number in seconds.items() if number is not None}
    if seconds:
        text = " / ".join(count(number) for number in seconds.values())
        found.append(Tile("Training time", f"{text} s", " / ".join(seconds)))
    return found


def learning(results: Results) -> str:
    """Where each method's held-out accuracy began and ended."""
    evaluations = {label(m): lookup(results, "training", m, "evaluation") for m in methods(results)}
    evaluations = {name: found for name, found in evaluations.items() if found and found["completions"]}
    if not evaluations:
        return "The reward of each training step; accuracy on held-out examples was not recorded."
    return _stop(f"On held-out {_task(results)} examples {say.rises(evaluations)}")


def accuracy(results: Results) -> str:
    """What happened to the trained task and to the others."""
    task, before, after = _trained(results)
    clauses = [say.accuracy_change(task, before, after)] if before and after else []
    others = [name for name in tasks(results) if name != lookup(results, "task")]
    for method in methods(results):
        rows = {name: lookup(results, "evaluation", method, name) for name in others}
        base = {label(name): lookup(results, "evaluation", BASE, name) for name in others}
        both = {label(name): row for name, row in rows.items() if say.known(row) and say.known(base[label(name)])}
        if both:
            clauses.append(say.off_task_change(label(method), base, both))
    return _stop("; ".join(clauses) or "Accuracies without an interval are shown but not compared")


def update_size(results: Results) -> str:
    """Which update is longer, and whether a random walk explains the length of an update."""
    norms = _norms(results)
    clauses = [say.distance(norms)] if norms else []
    for method in methods(results):
        predicted = lookup(results, "random_walk", method, "predicted_norm")
        if predicted and norms.get(label(method)):
            clauses.append(say.random_walk(label(method), norms[label(method)], predicted))
    return _stop("; ".join(clauses) or "The length of the updates is not known")


def relative_change(results: Results) -> str:
    """Where each update is largest relative to the weights."""
    clauses = []
    for method in methods(results):
        cells = lookup(results, "geometry", "checkpoints", method, "per_layer_kind") or {}
        relative = {
            layer: {kind: entry["relative_norm"] for kind, entry in row.items()} for layer, row in cells.items()
        }
        clauses.append(say.largest_change(label(method), relative) or f"{label(method)} changes nothing")
    return _stop("; ".join(clauses))


def cosine(results: Results) -> str:
    """How the updates are oriented, over all parameters and matrix by matrix."""
    clauses = []
    for pair, total in _cosines(results).items():
        null_std = lookup(results, "geometry", "cosine", pair, "null_std")
        clause = say.orientation(total, null_std)
        if len(_cosines(results)) > 1:
            clause = f"{pair_label(pair)}: {clause}"
        if null_std:
            clause += (
                f"; random directions would have 0 \N{PLUS-MINUS SIGN} {fixed(null_std, 4)} (one standard deviation)"
            )
        spread = say.cosine_range(lookup(results, "geometry", "cosine", pair, "per_layer_kind") or {})
        clauses += [clause, spread] if spread else [clause]
    return _stop("; ".join(clauses))


def kl(results: Results) -> str:
    """Drift on the trained task, and the largest drift on the others."""
    trained = lookup(results, "task")
    rows = _drift_rows(results, trained)
    clauses = [say.drift(_task(results), rows)] if rows else []
    furthest = []
    for method in methods(results):
        off_task = {
            label(name): lookup(results, "kl", method, name, "forward", "per_token")
            for name in tasks(results)
            if name != trained
        }
        off_task = {name: number for name, number in off_task.items() if number is not None}
        furthest += [say.furthest_drift(label(method), off_task)] if off_task else []
    if furthest:
        clauses.append(f"the largest on a task nobody trained on is {say.join(furthest)}")
    if not clauses:
        return "The forward direction was not measured."
    directions = {row["direction"]: None for row in rows.values()}
    return _stop(f"{'; '.join(clauses)}" + (f" (all {', '.join(directions)})" if directions else ""))


def connectivity(results: Results) -> str:
    """The barrier of every line."""
    lines = lookup(results, "connectivity", "lines") or {}
    return say.barriers({pair_label(pair): line for pair, line in lines.items() if line})


def _task(results: Results) -> str:
    return label(lookup(results, "task") or "the trained task")


def _trained(results: Results) -> tuple[str, dict[str, Any] | None, dict[str, dict[str, Any]]]:
    """Label of the trained task, accuracy of the base on it, and of each method by label, where known."""
    task = lookup(results, "task")
    if task is None:
        return _task(results), None, {}
    before = lookup(results, "evaluation", BASE, task)
    after = {label(method): lookup(results, "evaluation", method, task) for method in methods(results)}
    known = {name: row for name, row in after.items() if say.known(row)}
    return _task(results), before if say.known(before) else None, known


def _norms(results: Results) -> dict[str, float]:
    """Length of each update by the method's label, where known."""
    norms = {label(m): lookup(results, "geometry", "checkpoints", m, "norm") for m in methods(results)}
    return {name: norm for name, norm in norms.items() if norm is not None}


def _completions(results: Results) -> dict[str, float]:
    spent = {label(m): lookup(results, "training", m, "completions") for m in methods(results)}
    return {name: number for name, number in spent.items() if number is not None}


def _cosines(results: Results) -> dict[str, float | None]:
    """Cosine over all parameters by pair, for the pairs that were compared."""
    pairs = lookup(results, "geometry", "cosine") or {}
    return {pair: entry["total"] for pair, entry in pairs.items() if entry}


def _lines(results: Results, pairs: Iterable[str]) -> dict[str, dict[str, Any]]:
    lines = {pair: lookup(results, "connectivity", "lines", pair) for pair in pairs}
    return {pair: line for pair, line in lines.items() if line}


def _drift_rows(results: Results, task: str | None) -> dict[str, dict[str, Any]]:
    """Forward divergence on `task` by the method's label, where known."""
    if task is None:
        return {}
    rows = {label(m): lookup(results, "kl", m, task, "forward") for m in methods(results)}
    return {name: row for name, row in rows.items() if row and row["per_token"] is not None}


def _pair_labels(pair: str) -> list[str]:
    return [label(name) for name in pair.split("|")]


def _common(verdicts: Iterable[str | None]) -> str | None:
    """The verdict that holds for all pairs; None when they differ or there are none."""
    found = set(verdicts)
    return found.pop() if len(found) == 1 else None


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _stop(text: str) -> str:
    return _capital(text) + "."
