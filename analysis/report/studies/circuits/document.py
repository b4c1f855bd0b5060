"""The report of a study of circuits: what recipes/circuits.py found, in order."""

from collections.abc import Callable, Sequence
from functools import partial

from matplotlib.figure import Figure

from analysis.report.document import Document, Part
from analysis.report.results import Location, Results, absent, lookup
from analysis.report.studies.circuits import drawings as circuit_drawings
from analysis.report.studies.circuits import figures as circuit_figures
from analysis.report.studies.circuits import story as circuit_story
from analysis.report.studies.circuits import tables as circuit_tables
from analysis.report.studies.circuits.definitions import definitions
from analysis.report.style import draw
from analysis.report.tables import settings


def compose_circuits(results: Results) -> Document:
    """The report on `results` of a study of circuits. What they lack is named in it."""
    models, transfers = lookup(results, "models") or [], list(lookup(results, "transfer") or {})
    compared = list(lookup(results, "change", "tasks") or {})
    parts = [
        _part(
            results,
            f"scores-{model}",
            f"Which nodes matter in {model}",
            circuit_figures.scores,
            circuit_story.scores,
            model,
            [("circuits", model, "tasks")],
        )
        for model in models
    ]
    parts.append(
        _part(
            results,
            "faithfulness",
            "How much of a model its circuits keep",
            circuit_figures.curves,
            circuit_story.curves,
            None,
            [("circuits", model, "tasks") for model in models],
        )
    )
    parts += [
        _part(
            results,
            f"transfer-{pair.replace('>', '-')}",
            f"From {pair.replace('>', ' to ')}",
            circuit_figures.transfer,
            circuit_story.transfer,
            pair,
            [("transfer", pair, "presets")],
        )
        for pair in transfers
    ]
    if lookup(results, "change"):
        parts += [
            _part(
                results,
                "overlap",
                "Is it the same circuit after post-training",
                circuit_figures.overlap,
                circuit_story.overlap,
                None,
                [("change", "tasks", task, "overlap") for task in compared],
            ),
            _part(
                results,
                "cross-faithfulness",
                "Does one model's circuit work in another",
                circuit_figures.cross_faithfulness,
                circuit_story.cross_faithfulness,
                None,
                [("change", "tasks", task, "cross_faithfulness") for task in compared],
            ),
            _part(
                results,
                "transplant",
                "Which components carry the difference",
                circuit_figures.transplants,
                circuit_story.transplants,
                None,
                [("change", "tasks", task, "transplant") for task in compared],
            ),
            *(
                _part(
                    results,
                    f"drawing-{task}",
                    f"{circuit_figures.task_label(task)}: the circuit before and after",
                    circuit_drawings.before_and_after,
                    circuit_story.drawing,
                    task,
                    [("change", "tasks", task, "circuits")],
                )
                for task in compared
            ),
            _part(
                results,
                "edge-change",
                "Where the edges changed",
                circuit_figures.edge_change,
                circuit_story.edge_change,
                None,
                [("change", "lora")],
            ),
            _part(
                results,
                "migration",
                "Where the circuits moved",
                circuit_figures.migrations,
                circuit_story.migrations,
                None,
                [("change", "migration")],
            ),
            _part(
                results,
                "intensity",
                "How active the models are",
                circuit_figures.intensity,
                circuit_story.intensity,
                None,
                [("change", "intensity")],
            ),
        ]
    numbers = [
        circuit_tables.accuracies(results),
        circuit_tables.faithfulness(results),
        *(
            table
            for pair in transfers
            for preset in lookup(results, "transfer", pair, "presets") or {}
            for table in (
                circuit_tables.transfer(results, pair, preset),
                circuit_tables.transfer_summary(results, pair, preset),
            )
        ),
        circuit_tables.overlaps(results),
        circuit_tables.cross_faithfulness(results),
        circuit_tables.transplants(results),
        circuit_tables.migrations(results),
        circuit_tables.intensities(results),
        circuit_tables.lora(results),
    ]
    general = [(key,) for key in ("models", "tasks", "accuracy", "circuits", "command", "environment", "config")]
    return Document(
        title=circuit_story.title(results),
        headline=circuit_story.headline(results),
        context=circuit_story.context(results),
        tiles=circuit_story.tiles(results),
        missing=absent(results, [*general, *(location for part in parts for location in part.missing)]),
        parts=parts,
        numbers=[table for table in numbers if table.rows],
        budget=circuit_tables.models(results),
        definitions=definitions(results),
        environment=settings(results, "environment", "Environment"),
        config=settings(results, "config", "Configuration"),
        command=lookup(results, "command"),
    )


def _part(
    results: Results,
    name: str,
    title: str,
    painter: Callable[..., Figure],
    sentence: Callable[..., str],
    of: str | None,
    needed: Sequence[Location],
) -> Part:
    """A figure if `results` hold at least one of the `needed` locations. of: what painter and sentence are about."""
    about = () if of is None else (of,)
    missing = absent(results, needed)
    if not any(lookup(results, *location) for location in needed):
        return Part(name, title, None, "", missing)
    return Part(name, title, draw(name, partial(painter, results, *about)), sentence(results, *about), missing)
