"""The chapter on a study of circuits: which nodes do the work, what carries over to a large model, what post-training
changed."""

from analysis.report.results import Location, Results, lookup
from analysis.report.section import Chapter, Section
from analysis.report.studies.circuits import (
    cross_faithfulness,
    drawings,
    edges,
    faithfulness,
    intensity,
    migration,
    models,
    overlap,
    scores,
    summary,
    transfer,
    transplants,
)
from analysis.report.studies.terms import explained


GENERAL = ("models", "tasks", "accuracy", "circuits", "command", "environment", "config")


def sections(results: Results) -> list[Section]:
    """One section for each model, each transfer and, where post-training was looked at, what it changed."""
    shown = [scores.section(model) for model in lookup(results, "models") or []]
    shown.append(faithfulness.section(results))
    shown += [transfer.section(results, pair) for pair in lookup(results, "transfer") or {}]
    if lookup(results, "change"):
        shown += [overlap.section(results), cross_faithfulness.section(results), transplants.section(results)]
        shown += [drawings.section(task) for task in lookup(results, "change", "tasks") or {}]
        shown += [edges.SECTION, migration.SECTION, intensity.SECTION]
    return shown


def needs(results: Results) -> list[Location]:
    return [(key,) for key in GENERAL]


CHAPTER = Chapter(
    sections=sections,
    title=summary.title,
    headline=summary.headline,
    context=summary.context,
    tiles=summary.tiles,
    thumbnails=("faithfulness", "overlap"),
    needs=needs,
    budget=models.sizes,
    terms=explained(summary.TERMS),
    numbers=[models.accuracies],
)
