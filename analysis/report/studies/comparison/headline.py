"""The answer of a comparison: title, headline, context, and the numbers that stand at the top."""

from collections.abc import Iterable

from analysis.report.numbers import count, fixed, percent, points, significant, times
from analysis.report.results import Results, asked, label, lookup, method_pairs, methods, pair_label, tasks
from analysis.report.section import Tile
from analysis.report.sentences import capital, join
from analysis.report.studies.comparison.accuracy import accuracy_change, gain_verdict, trained_accuracy
from analysis.report.studies.comparison.directions import cosines, orientation, weights_verdict
from analysis.report.studies.comparison.drift import forward_drift, trained_drift
from analysis.report.studies.comparison.learning import budget
from analysis.report.studies.comparison.lines import (
    OUTCOMES,
    Line,
    barrier_between,
    barrier_verdict,
    has_barrier,
    lines,
    powerless,
    reward_barrier,
)
from analysis.report.studies.comparison.update_size import distance, labelled_norms, norms


# What a comparison of methods consists of. All else is measured on demand, and not missed where it was not.
OF_A_COMPARISON = ("training", "evaluation", "geometry", "kl", "connectivity")
ON_DEMAND = ("spectra", "trajectory", "layer_lines", "kind_lines", "plane", "probes", "kl_matrices", "theory")


def holds_a_comparison(results: Results) -> bool:
    return any(results.get(key) for key in OF_A_COMPARISON)


def is_expected(results: Results) -> bool:
    """Whether a comparison of methods is what these results should hold: unless they were measured on demand alone."""
    return holds_a_comparison(results) or not any(results.get(key) for key in ON_DEMAND)


def title(results: Results) -> str:
    """The answer in a few words: "Both lift Countdown, different weights, no barrier between them"."""
    if lookup(results, "trajectory") and not methods(results) and not holds_a_comparison(results):
        return "How one run drifted"
    task, before, after = trained_accuracy(results)
    lengths = norms(results)
    weights = [
        weights_verdict([lengths[name] for name in pair.split("|")], cosine)
        for pair, cosine in cosines(results).items()
        if set(pair.split("|")) <= set(lengths)
    ]
    verdicts = [
        gain_verdict(task, before, after) if before and after else None,
        common(weights),
        common(
            None if pair in powerless(results) and not has_barrier(line) else barrier_verdict(line)
            for pair, line in method_lines(results).items()
        ),
    ]
    said = ", ".join(verdict for verdict in verdicts if verdict)
    names = [label(method) for method in methods(results)]
    if asked(results) is not None and len(names) == 1:
        # One model has no verdict of its own beside its accuracy.
        return capital(said) or f"What training changed in {names[0]}"
    return capital(said) or f"Comparison of {join(names) or 'models'}"


def headline(results: Results) -> str:
    """The answer in one or two sentences."""
    task, before, after = trained_accuracy(results)
    first = []
    if before and after:
        spent = {label(method): lookup(results, "training", method, "completions") for method in methods(results)}
        spent = {name: number for name, number in spent.items() if number is not None}
        first = [", ".join([accuracy_change(task, before, after), *([budget(spent)] if spent else [])])]
    pairs, lengths = method_pairs(results), labelled_norms(results)
    angles = {pair: cosine for pair, cosine in cosines(results).items() if pair in pairs}
    between = method_lines(results)
    second = [distance(lengths)] if lengths else []
    if len(pairs) == 1:
        second += [
            orientation(cosine, lookup(results, "geometry", "cosine", pair, "null_std"))
            for pair, cosine in angles.items()
        ]
        unpowered = powerless(results)
        second += [
            f"whether a barrier lies between them this test cannot tell (largest gap {points(line['reward_barrier'])})"
            if pair in unpowered and not has_barrier(line)
            else barrier_between(line)
            for pair, line in between.items()
        ]
    else:
        listed = [f"{fixed(cosine)} ({pair_label(pair)})" for pair, cosine in angles.items()]
        second += [f"the cosines between the updates are {join(listed)}"] if listed else []
        listed = [f"{points(line['reward_barrier'])} ({pair_label(pair)})" for pair, line in between.items()]
        second += [f"the largest reward gaps between them are {join(listed)}"] if listed else []
    stated = [capital(text) + "." for text in (*first, join(second)) if text]
    missing = "The numbers that answer the question are not in results.json yet." if is_expected(results) else ""
    return " ".join(stated) or missing


def context(results: Results) -> str:
    """What was trained on what."""
    task, model = lookup(results, "task"), lookup(results, "base_model")
    parameters = lookup(results, "geometry", "parameters")
    size = f"({count(parameters)} parameters)" if parameters else ""
    if asked(results) is not None:
        return f"Trained from {model} {size}".strip() + (f", measured on {label(task)}" if task else "")
    words = [f"Trained on {label(task)}" if task else "", f"from {model}" if model else "", size]
    return " ".join(word for word in words if word)


def tiles(results: Results) -> list[Tile]:
    """The numbers of the headline."""
    task, before, after = trained_accuracy(results)
    lengths = labelled_norms(results)
    shown = []
    if before and after:
        text = " / ".join(percent(row["accuracy"], 0) for row in after.values())
        shown.append(
            Tile(f"Test accuracy on {task}", text, f"{' / '.join(after)}, from {percent(before['accuracy'], 0)}")
        )
    if lengths:
        text, shortest = " / ".join(significant(length) for length in lengths.values()), min(lengths.values())
        ratio = f", ratio {times(max(lengths.values()) / shortest)}" if len(lengths) > 1 and shortest > 0 else ""
        shown.append(Tile("Length of the update", text, " / ".join(lengths) + ratio))
    for pair in method_pairs(results):
        entry = lookup(results, "geometry", "cosine", pair)
        if entry:
            chance = f", chance \N{PLUS-MINUS SIGN}{fixed(entry['null_std'], 4)}" if entry["null_std"] else ""
            shown.append(Tile("Cosine of the updates", fixed(entry["total"]), pair_label(pair) + chance))
    for pair, line in method_lines(results).items():
        outcome = OUTCOMES[reward_barrier(line)]
        if "reward" in powerless(results).get(pair, {}):
            outcome = "this test cannot tell"
        note = f"{pair_label(pair)}, reward: {outcome}"
        shown.append(Tile("Largest gap on the line", points(line["reward_barrier"]), note))
    where, rows = task, trained_drift(results)
    if not rows and asked(results) is not None and (sets := tasks(results)):
        where, rows = sets[0], forward_drift(results, sets[0])
    if rows:
        text = " / ".join(significant(row["per_token"], 2) for row in rows.values())
        direction = next(iter(rows.values()))["direction"]
        shown.append(Tile(direction, text, f"{' / '.join(rows)} on {where}, nats per token"))
    seconds = {label(method): lookup(results, "training", method, "seconds") for method in methods(results)}
    seconds = {name: number for name, number in seconds.items() if number is not None}
    if seconds:
        text = " / ".join(count(number) for number in seconds.values())
        shown.append(Tile("Training time", f"{text} s", " / ".join(seconds)))
    return shown


def method_lines(results: Results) -> dict[str, Line]:
    """The lines between two methods, without those from the base."""
    return {pair: line for pair, line in lines(results).items() if pair in method_pairs(results)}


def common(verdicts: Iterable[str | None]) -> str | None:
    """The verdict that holds for all pairs; None when they differ or there are none."""
    distinct = set(verdicts)
    return distinct.pop() if len(distinct) == 1 else None
