"""What the report says, in order, before it becomes HTML or Markdown."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from analysis.report import bars, curves, heatmaps, story, tables
from analysis.report.definitions import definitions
from analysis.report.results import (
    Location,
    Results,
    absent,
    lookup,
    method_pairs,
    methods,
    model_pairs,
    models,
    tasks,
)
from analysis.report.story import Tile
from analysis.report.style import Drawing, draw
from analysis.report.tables import Table


# The only method whose length has a closed form to compare with.
RANDOM_WALKER = "es"


@dataclass(frozen=True)
class Part:
    """One figure. drawing: None when all numbers are missing. sentence: what it shows. missing: what is not there."""

    name: str
    title: str
    drawing: Drawing | None
    sentence: str
    missing: Sequence[Location]


@dataclass(frozen=True)
class Document:
    """The whole report.

    title, headline: the answer, in a few words and in a sentence or two. context: what was trained on what.
    missing: everything that `results.json` lacks.
    """

    title: str
    headline: str
    context: str
    tiles: Sequence[Tile]
    missing: Sequence[Location]
    parts: Sequence[Part]
    numbers: Sequence[Table]
    budget: Table
    definitions: Sequence[tuple[str, str]]
    environment: Table
    config: Table
    command: str | None


def compose(results: Results) -> Document:
    """The report on `results`. What they lack is named in it, never left out in silence."""
    trained, compared = methods(results), tasks(results)
    parts = [
        _part(
            results, "learning", "Learning", curves.learning, story.learning,
            "training", [(method, record) for method in trained for record in ("evaluation", "curve")],
        ),
        _part(
            results, "accuracy", "Accuracy on every task", bars.accuracy, story.accuracy,
            "evaluation", [(model, task) for model in models(results) for task in compared],
        ),
        _part(
            results, "update-size", "How far the weights moved", bars.update_size, story.update_size,
            "geometry", [("checkpoints", method) for method in trained],
            wanted=[("random_walk", method) for method in trained if method == RANDOM_WALKER],
        ),
        _part(
            results, "relative-change", "Where the weights moved", heatmaps.relative_change, story.relative_change,
            "geometry", [("checkpoints", method, "per_layer_kind") for method in trained],
        ),
        _part(
            results, "cosine", "In which direction they moved", heatmaps.cosine, story.cosine,
            "geometry", [("cosine", pair) for pair in method_pairs(results)] or [("cosine",)],
        ),
        _part(
            results, "kl", "How far the behaviour drifted", bars.kl, story.kl,
            "kl", [(method, task) for method in trained for task in compared],
        ),
        _part(
            results, "connectivity", "On the straight lines between the models", curves.connectivity,
            story.connectivity, "connectivity", [("lines", pair) for pair in model_pairs(results)],
            wanted=[("connectivity", "lines", pair, "loss_barrier") for pair in model_pairs(results)],
        ),
    ]  # fmt: skip
    general = [(key,) for key in ("task", "methods", "base_model", "command", "environment", "config")]
    numbers = [
        tables.accuracies(results),
        tables.updates(results),
        tables.updates_by_kind(results),
        tables.cosines(results),
        tables.divergences(results),
        tables.lines(results),
    ]
    return Document(
        title=story.title(results),
        headline=story.headline(results),
        context=story.context(results),
        tiles=story.tiles(results),
        missing=absent(results, [*general, *(location for part in parts for location in part.missing)]),
        parts=parts,
        numbers=[table for table in numbers if table.rows],
        budget=tables.budgets(results),
        definitions=definitions(results),
        environment=tables.settings(results, "environment", "Environment"),
        config=tables.settings(results, "config", "Configuration"),
        command=lookup(results, "command"),
    )


def _part(
    results: Results,
    name: str,
    title: str,
    painter: Callable[[Results], Figure],
    sentence: Callable[[Results], str],
    section: str,
    needed: Sequence[Location],
    wanted: Sequence[Location] = (),
) -> Part:
    """A figure if `section` holds at least one of the `needed` locations.

    wanted: further locations, of any section, that are only named when they are missing.
    """
    locations = [(section, *location) for location in needed] or [(section,)]
    missing = absent(results, [("methods",), *locations, *wanted])
    if not any(lookup(results, *location) for location in locations):
        return Part(name, title, None, "", missing)
    return Part(name, title, draw(name, lambda: painter(results)), sentence(results), missing)
