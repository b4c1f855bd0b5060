"""Evolution strategies and GRPO on the same task: is it the same solution? The page on a comparison of methods.

What `python -m analysis` measures on demand appears where it was measured, also without any comparison.
"""

from collections.abc import Sequence

from analysis.report.results import Location, Results
from analysis.report.section import Chapter, Section
from analysis.report.studies.comparison import (
    accuracy,
    directions,
    drift,
    headline,
    learning,
    lines,
    plane,
    probes,
    random_walk,
    spectra,
    trajectory,
    update_size,
)
from analysis.report.tables import Table


def sections(results: Results) -> Sequence[Section]:
    compared = [
        learning.section(results),
        accuracy.section(results),
        update_size.section(results),
        update_size.places_section(results),
        directions.section(results),
        drift.section(results),
        lines.section(results),
    ]
    on_demand = [
        *spectra.sections(),
        trajectory.section(),
        *random_walk.sections(),
        lines.parts_section("layer-lines", "layer", "layer_lines"),
        lines.parts_section("kind-lines", "kind of matrix", "kind_lines"),
        plane.section(),
        probes.section(),
        drift.stages_section(results),
    ]
    return [*(compared if headline.is_expected(results) else []), *on_demand]


def needs(results: Results) -> Sequence[Location]:
    general = ("task", "methods", "base_model", "command", "environment", "config")
    return [(key,) for key in general] if headline.is_expected(results) else []


def budget(results: Results) -> Table | None:
    return learning.budget_table(results) if headline.is_expected(results) else None


CHAPTER = Chapter(
    sections=sections,
    title=headline.title,
    headline=headline.headline,
    context=headline.context,
    tiles=headline.tiles,
    thumbnails=("learning", "update-size", "connectivity", "trajectory", "theory-walk", "spectra", "kl"),
    needs=needs,
    budget=budget,
)
