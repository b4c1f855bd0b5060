"""What the report says, in order, before it becomes HTML or Markdown."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from analysis.report import (
    bars,
    curves,
    further,
    further_tables,
    heatmaps,
    landscape,
    paths,
    shape,
    story,
    tables,
    verdicts,
)
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
from analysis.report.section import Tile
from analysis.report.style import Drawing, draw
from analysis.report.tables import Table


# The only method whose length has a closed form to compare with.
RANDOM_WALKER = "es"
# What a comparison of methods consists of. All else is measured on demand, and not missed where it was not.
OF_A_COMPARISON = ("training", "evaluation", "geometry", "kl", "connectivity")
ON_DEMAND = (
    "spectra",
    "trajectory",
    "layer_lines",
    "kind_lines",
    "plane",
    "probes",
    "kl_matrices",
    "theory",
    "claims",
)


@dataclass(frozen=True)
class Part:
    """One figure.

    drawing: None when all numbers are missing. sentence: what it shows. missing: what is not there. table: stands
    under the figure instead of among the numbers at the end.
    """

    name: str
    title: str
    drawing: Drawing | None
    sentence: str
    missing: Sequence[Location]
    table: Table | None = None


@dataclass(frozen=True)
class Document:
    """The whole report.

    title, headline: the answer, in a few words and in a sentence or two. context: what was trained on what.
    missing: everything that `results.json` lacks. budget: None where there is no comparison.
    """

    title: str
    headline: str
    context: str
    tiles: Sequence[Tile]
    missing: Sequence[Location]
    parts: Sequence[Part]
    numbers: Sequence[Table]
    budget: Table | None
    definitions: Sequence[tuple[str, str]]
    environment: Table
    config: Table
    command: str | None


def compose(results: Results) -> Document:
    """The report on `results`.

    What they lack of a comparison is named in it, never left out in silence, unless they are no comparison at all.
    """
    is_comparison = holds_a_comparison(results)
    expected = is_comparison or not any(results.get(key) for key in ON_DEMAND)
    parts = [*(_comparison(results) if expected else []), *_on_demand(results)]
    general = [(key,) for key in ("task", "methods", "base_model", "command", "environment", "config")]
    numbers = [
        tables.accuracies(results),
        tables.updates(results),
        tables.updates_by_kind(results),
        tables.cosines(results),
        tables.divergences(results),
        tables.lines(results),
        further_tables.spectra(results),
        further_tables.subspaces(results),
        further_tables.trajectory(results),
        further_tables.part_lines(results, "layer_lines", "Lines on which one layer moves"),
        further_tables.part_lines(results, "kind_lines", "Lines on which one kind of matrix moves"),
        further_tables.probes(results),
        further_tables.kl_matrices(results),
        further_tables.theory(results),
        further_tables.claim_conditions(results),
    ]
    has_claims = bool(results.get("claims"))
    return Document(
        title=title(results),
        headline=further.claims(results) if has_claims and not is_comparison else story.headline(results, expected),
        context=further.claims_context(results) if has_claims and not is_comparison else story.context(results),
        tiles=story.tiles(results),
        missing=absent(results, [*general, *(location for part in parts for location in part.missing)])
        if expected
        else [],
        parts=parts,
        numbers=[table for table in numbers if table.rows],
        budget=tables.budgets(results) if expected else None,
        definitions=[*(definitions(results) if expected else []), *further.definitions(results)],
        environment=tables.settings(results, "environment", "Environment"),
        config=tables.settings(results, "config", "Configuration"),
        command=lookup(results, "command"),
    )


def holds_a_comparison(results: Results) -> bool:
    return any(results.get(key) for key in OF_A_COMPARISON)


def title(results: Results) -> str:
    """The answer in a few words."""
    return (None if holds_a_comparison(results) else further.title(results)) or story.title(results)


def _on_demand(results: Results) -> list[Part]:
    """What is measured on demand, as far as it was."""
    theory = (lookup(results, "theory") or {}).values()
    listed = [
        ("claims", "claims", "Do the claims hold?", verdicts.claims, further.claims_figure, True),
        ("spectra", "spectra", "How far the updates stand out of noise", shape.spectra, further.spectra, True),
        ("spectra", "ranks", "How many directions the updates use", shape.ranks, further.ranks, True),
        ("spectra", "subspaces", "Which directions they share", shape.subspaces, further.subspaces, True),
        ("trajectory", "trajectory", "How the run drifted", paths.trajectory, further.trajectory, True),
        ("theory", "theory-walk", "The drift beside a random walk", paths.theory_walk, further.theory_walk, True),
        (
            "theory",
            "theory-useful",
            "Which share of a step is useful",
            paths.useful,
            further.useful,
            any(run["useful"] for run in theory),
        ),
        (
            "theory",
            "theory-reward",
            "Where the reward settles",
            paths.theory_reward,
            further.theory_reward,
            any(run["modes"] for run in theory),
        ),
        ("layer_lines", "layer-lines", "One layer at a time", landscape.layer_lines, further.layer_lines, True),
        ("kind_lines", "kind-lines", "One kind of matrix at a time", landscape.kind_lines, further.kind_lines, True),
        ("plane", "plane", "On the plane through the models", landscape.plane, further.plane, True),
        ("probes", "probes", "To both sides of the base", landscape.probes, further.probes, True),
        ("kl_matrices", "kl-matrices", "Drift from stage to stage", heatmaps.kl_matrices, further.kl_matrices, True),
    ]
    return [
        Part(
            name,
            title,
            draw(name, lambda painter=painter: painter(results)),
            sentence(results),
            [],
            further_tables.claims(results) if section == "claims" else None,
        )
        for section, name, title, painter, sentence, drawable in listed
        if lookup(results, section) and drawable
    ]


def _comparison(results: Results) -> list[Part]:
    """The figures of a comparison of methods."""
    trained, compared = methods(results), tasks(results)
    return [
        _part(
            results,
            "learning",
            "Learning",
            curves.learning,
            story.learning,
            "training",
            [(method, record) for method in trained for record in ("evaluation", "curve")],
        ),
        _part(
            results,
            "accuracy",
            "Accuracy on every task",
            bars.accuracy,
            story.accuracy,
            "evaluation",
            [(model, task) for model in models(results) for task in compared],
        ),
        _part(
            results,
            "update-size",
            "How far the weights moved",
            bars.update_size,
            story.update_size,
            "geometry",
            [("checkpoints", method) for method in trained],
            wanted=[("random_walk", method) for method in trained if method == RANDOM_WALKER],
        ),
        _part(
            results,
            "relative-change",
            "Where the weights moved",
            heatmaps.relative_change,
            story.relative_change,
            "geometry",
            [("checkpoints", method, "per_layer_kind") for method in trained],
        ),
        _part(
            results,
            "cosine",
            "In which direction they moved",
            heatmaps.cosine,
            story.cosine,
            "geometry",
            [("cosine", pair) for pair in method_pairs(results)] or [("cosine",)],
        ),
        _part(
            results,
            "kl",
            "How far the behaviour drifted",
            bars.kl,
            story.kl,
            "kl",
            [(method, task) for method in trained for task in compared],
        ),
        _part(
            results,
            "connectivity",
            "On the straight lines between the models",
            curves.connectivity,
            story.connectivity,
            "connectivity",
            [("lines", pair) for pair in model_pairs(results)],
            wanted=[("connectivity", "lines", pair, "loss_barrier") for pair in model_pairs(results)],
        ),
    ]


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
