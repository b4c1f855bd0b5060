"""What one training did: the page on a single run of evolution strategies, GRPO or SFT."""

from collections.abc import Sequence
from dataclasses import replace

from analysis.report.numbers import count, fixed, percent
from analysis.report.results import Results, label, lookup, methods
from analysis.report.section import Chapter, Section, Tile
from analysis.report.studies.comparison import learning
from analysis.report.studies.comparison.accuracy import trained_task
from analysis.report.studies.training import curves


def sections(results: Results) -> Sequence[Section]:
    return [replace(learning.section(results), drawable=has_curves), *curves.sections(results)]


def has_curves(results: Results) -> bool:
    [method] = methods(results)
    return any(lookup(results, "training", method, curve, "completions") for curve in ("evaluation", "curve"))


def title(results: Results) -> str:
    """ "ES: Countdown from 26 % to 83 %"; without evaluations "ES on Countdown"."""
    [method] = methods(results)
    accuracy = lookup(results, "training", method, "evaluation", "accuracy")
    if not accuracy:
        return f"{label(method)} on {trained_task(results)}"
    return f"{label(method)}: {trained_task(results)} from {percent(accuracy[0], 0)} to {percent(accuracy[-1], 0)}"


def headline(results: Results) -> str:
    """Where the accuracy went, and whether there was anything to learn from."""
    return learning.caption(results)


def context(results: Results) -> str:
    words = f"Trained on {trained_task(results)} from {lookup(results, 'base_model')}"
    parameters = lookup(results, "parameters")
    return f"{words} ({count(parameters)} parameters)" if parameters else words


def tiles(results: Results) -> list[Tile]:
    [method] = methods(results)
    training = lookup(results, "training", method)
    rewards, accuracy = training["curve"]["reward"], training["evaluation"]["accuracy"]
    shown = []
    if accuracy:
        problems = f"{learning.validation(results)}, from {percent(accuracy[0], 0)}"
        shown.append(Tile(f"Accuracy on {trained_task(results)}", percent(accuracy[-1], 0), problems))
    if rewards:
        shown.append(Tile("Reward of the last step", fixed(rewards[-1]), f"from {fixed(rewards[0])} in the first"))
    shown.append(Tile("Completions", count(training["completions"]), f"{count(training['steps'])} steps"))
    shown.append(Tile("Training time", f"{count(training['seconds'])} s", label(method)))
    return shown


CHAPTER = Chapter(
    sections=sections,
    title=title,
    headline=headline,
    context=context,
    tiles=tiles,
    thumbnails=("learning", "lengths", "loss"),
    budget=learning.budget_table,
)
