"""Which function computed a number: from where it stands in results.json to the function's full name.

A page names below each table the functions that computed it, so that a reader can go from a number to its definition.
"""

from collections.abc import Iterable
from dataclasses import replace

from analysis.report.results import Location, pointer
from analysis.report.tables import Table


# What models wrote, in every kind that keeps it.
WRITTEN = {
    "written/*": "analysis.behaviour.written.written",
    "written/*/pairs/*": "analysis.behaviour.written.agreement",
}
# {kind: {beginning of a location, "*" for any one key: function}}; of several that fit, the longest.
FUNCTIONS: dict[str, dict[str, str]] = {
    "comparison": {
        "training/*": "analysis.training.training_summary",
        "evaluation": "eval.harness.evaluate_task",
        **WRITTEN,
        "geometry": "analysis.geometry.updates.update_geometry",
        "random_walk/*/predicted_norm": "analysis.theory.random_walk.random_walk_norm",
        "spectra": "analysis.geometry.spectra.update_spectra",
        "trajectory": "analysis.geometry.trajectory.drift",
        "theory": "analysis.theory.predictions.predict",
        "connectivity": "analysis.behaviour.lines.straight_lines",
        "controls/lines/*": "analysis.behaviour.controls.line_controls",
        "controls/lines/*/reward": "analysis.barriers.with_controls",
        "controls/lines/*/loss": "analysis.barriers.with_controls",
        "layer_lines": "analysis.behaviour.lines.part_lines",
        "kind_lines": "analysis.behaviour.lines.part_lines",
        "plane": "analysis.behaviour.plane.plane",
        "probes": "analysis.behaviour.probes.probes",
        "kl": "analysis.behaviour.kl.kl_drift",
        "kl_matrices": "analysis.behaviour.kl.kl_matrices",
        "matched": "analysis.claims.equal_accuracy.matched_section",
        "matched/pair": "analysis.claims.matched.first_match",
        "matched/cost": "analysis.claims.matched.cost_of",
        "matched/stops/*": "analysis.claims.equal_accuracy.stopped",
        "matched/non_inferior/*": "analysis.claims.equal_accuracy.non_inferiority",
        "matched/at_level": "analysis.claims.equal_accuracy.at_level",
        "matched/kept": "analysis.claims.equal_accuracy.measured_along",
    },
    "training": {
        "training/*": "analysis.training.training_section",
        **WRITTEN,
    },
    "claims": {
        "claims": "analysis.claims.judge.judge",
        "claims/claims/*/conditions/*": "analysis.claims.judge.judge_condition",
        "alignment": "analysis.claims.mean_update.cosines_of_means",
    },
    "sequential": {
        **WRITTEN,
        "continual": "analysis.continual.summary.summarise",
        "continual/matrix": "analysis.continual.metrics.matrix_estimate",
        "continual/metrics": "analysis.continual.metrics.metric_estimates",
        "continual/forgetting": "analysis.continual.metrics.forgetting_by_task",
        "continual/pairs/*/final": "analysis.continual.metrics.paired_difference",
        "continual/drift": "analysis.continual.drift.drift_and_forgetting",
        "continual/budget": "analysis.continual.summary.budget",
    },
    "circuits": {
        "accuracy": "eval.circuit_tasks.accuracy.pair_accuracy",
        "circuits/*/tasks/*/faithfulness": "analysis.circuits.faithfulness.faithfulness_curve",
        "circuits/*/tasks/*/profile": "analysis.circuits.overlap.profile",
        "circuits/*/tasks/*/completeness": "analysis.circuits.attribution.attribute",
        "transfer": "analysis.circuits.transfer.transfer_table",
        "change/tasks": "analysis.circuits.change.task_change",
        "change/tasks/*/overlap": "analysis.circuits.change.likeness",
        "change/tasks/*/transplant": "analysis.circuits.change.transplanted",
        "change/migration": "analysis.circuits.migration.migrations",
        "change/intensity": "analysis.circuits.intensity.statistics",
    },
    "clocks": {
        "runs": "analysis.clocks.measure.runs_section",
        "settings": "analysis.clocks.measure.settings_section",
        "fits": "analysis.clocks.measure.fits_section",
        "claims": "analysis.clocks.claims.claims_section",
    },
}


# Of the keys that differ between places of one form, so many are named.
SHOWN = 6


def function_of(kind: str, location: Location) -> str | None:
    """Full name of the function that computed the number at `location`; None where none did, as for a setting."""
    fitting = [pattern.split("/") for pattern in FUNCTIONS.get(kind, {}) if fits(pattern.split("/"), location)]
    return FUNCTIONS[kind]["/".join(max(fitting, key=len))] if fitting else None


def fits(pattern: list[str], location: Location) -> bool:
    begins = len(pattern) <= len(location)
    return begins and all(part in ("*", key) for part, key in zip(pattern, location, strict=False))


def patterns(locations: Iterable[Location]) -> list[str]:
    """JSON pointers of many places in a few: what differs between places of one form stands in braces.

    [("kl", "es", "x"), ("kl", "grpo", "x")] -> ["/kl/{es,grpo}/x"].
    """
    forms: dict[tuple[int, str, str], list[Location]] = {}
    for location in locations:
        forms.setdefault((len(location), location[0], location[-1]), []).append(location)
    return ["".join(f"/{alternatives(keys)}" for keys in zip(*alike, strict=True)) for alike in forms.values()]


def alternatives(keys: Iterable[str]) -> str:
    """One key of a pointer, or those that stand there."""
    names = [pointer((key,))[1:] for key in dict.fromkeys(keys)]
    shown = [*names[:SHOWN], *(["\N{HORIZONTAL ELLIPSIS}"] if len(names) > SHOWN else [])]
    return names[0] if len(names) == 1 else f"{{{','.join(shown)}}}"


def sources_of(table: Table) -> list[tuple[str, str]]:
    """(heading of a column, where its numbers stand), of the columns with numbers."""
    found = []
    for column, cells in zip(table.columns, zip(*table.rows, strict=True), strict=True):
        locations = [cell.location for cell in cells if cell.location is not None]
        found += [(column, pattern) for pattern in patterns(locations)]
    return found


def functions_of(kind: str, table: Table) -> list[str]:
    """The functions that computed the numbers of a table, each once, in the order of its cells."""
    locations = [cell.location for row in table.rows for cell in row if cell.location is not None]
    return list(dict.fromkeys(name for location in locations if (name := function_of(kind, location)) is not None))


def with_sources(table: Table, kind: str) -> Table:
    """The table, naming the functions that computed its numbers."""
    return replace(table, computed_by=functions_of(kind, table))
