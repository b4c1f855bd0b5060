"""How accuracy and reward rose while training, and what that cost."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis.criteria import EQUAL_BUDGET
from analysis.report.numbers import count, percent
from analysis.report.results import Results, label, lookup, methods
from analysis.report.section import Section
from analysis.report.sentences import join, sentence, several
from analysis.report.studies.comparison.accuracy import TERMS as ACCURACY_TERMS
from analysis.report.studies.comparison.accuracy import trained_task
from analysis.report.style import canvas, colour, label_ends
from analysis.report.tables import Table, number_table


TERMS = (
    *ACCURACY_TERMS,
    (
        "Budget",
        "The number of completions generated for training. Tokens and seconds stand beside it, because equal "
        "completions are neither equal tokens nor equal time.",
    ),
)


def section(results: Results) -> Section:
    records = [("training", method, record) for method in methods(results) for record in ("evaluation", "curve")]
    return Section(
        name="learning",
        title="Learning",
        needs=records or [("training",)],
        figure=figure,
        caption=caption,
        terms=lambda results: TERMS,
    )


def figure(results: Results) -> Figure:
    """Validation accuracy with its interval (top) and training reward (bottom) against generated completions."""
    drawing, (accuracy, reward) = canvas(5.2, 2, sharex=True, height_ratios=(3, 2))
    accuracy_ends, reward_ends = [], []
    for method in methods(results):
        shade = colour(method, methods(results))
        evaluation = lookup(results, "training", method, "evaluation")
        # A training that was never evaluated has empty lists.
        if evaluation and evaluation["completions"]:
            x, y = numbers(evaluation["completions"]), 100 * numbers(evaluation["accuracy"])
            low, high = 100 * numbers(evaluation["low"]), 100 * numbers(evaluation["high"])
            accuracy.fill_between(x, low, high, color=shade, alpha=0.16, linewidth=0)
            accuracy.plot(x, y, color=shade, marker="o", markersize=4)
            accuracy_ends.append((label(method), x[-1], y[-1], shade))
        curve = lookup(results, "training", method, "curve")
        if curve and curve["completions"]:
            x, y = numbers(curve["completions"]), numbers(curve["reward"])
            reward.plot(x, y, color=shade, linewidth=1.6)
            reward_ends.append((label(method), x[-1], y[-1], shade))
    accuracy.set_ylim(bottom=0)
    accuracy.set_ylabel("Validation accuracy (%)")
    accuracy.set_title(f"{label(lookup(results, 'task') or 'task')}, {validation(results)}, 95 % interval")
    reward.set_title("Mean training reward of each step")
    reward.set_ylabel("Reward (0 to 1)")
    reward.set_xlabel("Completions generated for training")
    reward.set_xlim(left=0)
    reward.xaxis.set_major_locator(MaxNLocator(5))
    reward.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    for axes, ends, line_height in ((accuracy, accuracy_ends, 0.065), (reward, reward_ends, 0.1)):
        axes.grid(axis="y")
        label_ends(axes, ends, line_height)
    return drawing


def validation(results: Results) -> str:
    """ "200 validation problems": those on which the accuracy was measured while training."""
    records = [lookup(results, "training", method, "evaluation", "total") for method in methods(results)]
    sizes = list(dict.fromkeys(count(total) for total in records if total))
    return f"{join(sizes)} validation problems" if sizes else "validation problems"


def numbers(values: Sequence[float | None]) -> np.ndarray:
    """A list of `results.json` as an array; null becomes NaN, which is not drawn."""
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def caption(results: Results) -> str:
    """Where each method's held-out accuracy began and ended, and who had no rewards to learn from."""
    return " ".join([learned(results), *dead_signals(results)])


def dead_signals(results: Results) -> list[str]:
    """A sentence for each method whose rewards were all equal for three steps in a row and more."""
    sentences = []
    for method in methods(results):
        dead = lookup(results, "training", method, "dead_signal")
        if dead:
            learns = (
                "learned nothing from its rewards" if dead["steps"] + 2 >= dead["of"] else "had nothing to learn from"
            )
            sentences.append(
                f"{label(method)} {learns}: from step {dead['first'] - 2} on they were all equal within a step, in "
                f"{several(dead['steps'] + 2, 'step')} of {count(dead['of'])} at least."
            )
    return sentences


def learned(results: Results) -> str:
    """Where each method's validation accuracy began and ended."""
    evaluations = {label(m): lookup(results, "training", m, "evaluation") for m in methods(results)}
    evaluations = {name: evaluation for name, evaluation in evaluations.items() if evaluation}
    evaluations = {name: evaluation for name, evaluation in evaluations.items() if evaluation["completions"]}
    if not evaluations:
        return "The reward of each training step; accuracy on validation problems was not recorded."
    return sentence([f"On {validation(results)} of {trained_task(results)} {rises(evaluations)}"])


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
    """That the validation accuracy ended clearly below its highest value; None when it did not."""
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
    spent = list(completions.values())
    if len(spent) == 1:
        return f"with {count(spent[0])} completions"
    if len(set(spent)) == 1:
        return f"at the same budget of {count(spent[0])} completions"
    listed = join([f"{name} {count(number)}" for name, number in completions.items()])
    same = min(spent) > 0 and max(spent) / min(spent) <= EQUAL_BUDGET
    return f"at {'nearly the same budget' if same else 'different budgets'} ({listed} completions)"


def budget_table(results: Results) -> Table:
    """What each method spent."""
    headings = {"steps": "Steps", "completions": "Completions", "tokens": "Tokens generated", "seconds": "Seconds"}
    columns = [(heading, key, count) for key, heading in headings.items()]
    trained = [method for method in methods(results) if lookup(results, "training", method)]
    rows = [((label(method),), ("training", method)) for method in trained]
    return number_table(results, "Budget", ["Method"], columns, rows)
