"""Evolution strategies and GRPO on the same task: is it the same solution? The page on a comparison of methods.

What `python -m analysis` measures on demand appears where it was measured, also without any comparison. Of models
trained elsewhere (`posttrain-lab analyse`) the page has what was asked for, and says nothing of a training.
"""

from collections.abc import Sequence
from dataclasses import replace

from analysis.report.results import Location, Results, asked, methods
from analysis.report.section import Chapter, Section
from analysis.report.studies.comparison import (
    accuracy,
    directions,
    drift,
    headline,
    learning,
    lines,
    matched,
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
        lines.controls_section(),
        *matched.sections(),
        *spectra.sections(),
        trajectory.section(),
        *random_walk.sections(),
        lines.parts_section("layer-lines", "layer", "layer_lines"),
        lines.parts_section("kind-lines", "kind of matrix", "kind_lines"),
        plane.section(),
        probes.section(),
        drift.stages_section(results),
    ]
    if asked(results) is not None:
        return [asked_for for section in [*compared, *on_demand] for asked_for in as_asked(section, results)]
    return [*(compared if headline.is_expected(results) else []), *on_demand]


def as_asked(section: Section, results: Results) -> Sequence[Section]:
    """The section, if `posttrain-lab analyse` was asked for it; its numbers are missed only as a whole.

    One model has no directions to compare.
    """
    key = section.needs[0][0]
    if key not in asked(results) or (section.name == "cosine" and len(methods(results)) < 2):
        return []
    return [replace(section, needs=[(key,)], wanted=(), on_demand=False)]


def needs(results: Results) -> Sequence[Location]:
    if asked(results) is not None:
        return []
    general = ("task", "methods", "base_model", "command", "environment", "config")
    return [(key,) for key in general] if headline.is_expected(results) else []


def budget(results: Results) -> Table | None:
    trained = headline.is_expected(results) and asked(results) is None
    return learning.budget_table(results) if trained else None


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
