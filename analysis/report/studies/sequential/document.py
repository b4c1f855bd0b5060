"""The report of a sequential run: what recipes/sequential.py measured, in order."""

from collections.abc import Callable, Sequence

from matplotlib.figure import Figure

from analysis.report.document import Document, Part
from analysis.report.results import Location, Results, absent, lookup
from analysis.report.studies.sequential import figures as continual_figures
from analysis.report.studies.sequential import story as continual_story
from analysis.report.studies.sequential import tables as continual_tables
from analysis.report.studies.sequential.definitions import definitions
from analysis.report.style import draw
from analysis.report.tables import Table, settings


def compose_continual(results: Results) -> Document:
    """The report on `results` of a sequential run. What they lack is named in it."""
    arms, main = continual_figures.arms(results), continual_figures.main_arms(results)
    others = continual_figures.controls(results)
    parts = [
        _part(
            results,
            "matrices",
            "Accuracy after each task",
            "matrix",
            lambda: continual_figures.matrices(results, main),
            lambda: continual_story.matrices(results, main),
        ),
    ]
    if others:
        parts.append(
            _part(
                results,
                "control-matrices",
                "The same with control arms",
                "matrix",
                lambda: continual_figures.matrices(results, others),
                lambda: continual_story.matrices(results, others),
            )
        )
    parts.append(
        _part(
            results,
            "metrics",
            "What was learned and what was kept",
            "metrics",
            lambda: continual_figures.metrics(results),
            lambda: continual_story.metrics(results),
            continual_tables.metrics(results),
        )
    )
    if len(arms) > 1:
        parts.append(
            _part(
                results,
                "differences",
                "Arm against arm on the same items",
                "pairs",
                lambda: continual_figures.differences(results),
                lambda: continual_story.differences(results),
            )
        )
    parts.append(
        _part(
            results,
            "retention",
            "Each task from stage to stage",
            "matrix",
            lambda: continual_figures.retention(results),
            lambda: continual_story.retention(results),
        )
    )
    # With a single column there is no other task to lose.
    if len(lookup(results, "columns") or []) != 1:
        parts.append(
            _part(
                results,
                "drift",
                "Drift and forgetting",
                "drift",
                lambda: continual_figures.drift(results),
                lambda: continual_story.drift(results),
            )
        )
    numbers = [
        continual_tables.differences(results),
        continual_tables.forgetting(results),
        continual_tables.matrices(results),
        continual_tables.relations(results),
    ]
    general = [
        (key,) for key in ("tasks", "columns", "arms", "match", "base_model", "command", "environment", "config")
    ]
    budget = continual_tables.budget(results)
    return Document(
        title=continual_story.title(results),
        headline=continual_story.headline(results),
        context=continual_story.context(results),
        tiles=continual_story.tiles(results),
        missing=absent(
            results,
            [
                *general,
                *_chain_locations(results),
                ("continual", "budget"),
                *(at for part in parts for at in part.missing),
            ],
        ),
        parts=parts,
        numbers=[table for table in numbers if table.rows],
        budget=budget if budget.rows else None,
        definitions=definitions(results),
        environment=settings(results, "environment", "Environment"),
        config=settings(results, "config", "Configuration"),
        command=lookup(results, "command"),
    )


def _part(
    results: Results,
    name: str,
    title: str,
    section: str,
    painter: Callable[[], Figure],
    sentence: Callable[[], str],
    table: Table | None = None,
) -> Part:
    """A figure if the summary has `section`."""
    missing = absent(results, [("continual", section)])
    if missing:
        return Part(name, title, None, "", missing)
    return Part(name, title, draw(name, painter), sentence(), [], table)


def _chain_locations(results: Results) -> Sequence[Location]:
    """Where every chain must have its last rows and its last stage, and each arm the divergence of a stage.

    A seed that any arm has is expected of all arms, and so is every arm of the configuration. Divergences are expected
    unless the configuration asks for none; of each arm the first that is not there is named.
    """
    found = lookup(results, "arms") or {}
    # Older studies have an arm as a line of text, its name first.
    arms = lookup(results, "config", "arms") or []
    planned = [arm.split()[0] if isinstance(arm, str) else arm["name"] for arm in arms]
    seeds = list(dict.fromkeys(seed for arm in found.values() for seed in arm["seeds"]))
    stages = len(lookup(results, "tasks") or [])
    locations: list[Location] = [
        ("arms", arm, *location)
        for arm in dict.fromkeys([*found, *planned])
        for seed in seeds
        for location in (
            *(("seeds", seed, "scores", column, str(stages)) for column in lookup(results, "columns") or []),
            ("seeds", seed, "stages", str(stages - 1)),
        )
    ]
    if lookup(results, "config", "kl_prompts") != 0:
        for arm in found:
            lacking = [
                ("arms", arm, "seeds", seed, "stages", str(k), "kl_step")
                for seed, chain in found[arm]["seeds"].items()
                for k, stage in enumerate(chain["stages"])
                if stage["kl_step"] is None
            ]
            locations += lacking[:1]
    return locations
