"""When do small generative models learn a rule, and when do they copy? The page on a sweep of rule runs.

`CHAPTER` composes it from results.json of kind "clocks", which `analysis.clocks.study.measure_sweep` writes.
"""

from analysis.report.section import Chapter
from analysis.report.studies.clocks import (
    ablation,
    attention,
    basins,
    claims,
    curves,
    early,
    headline,
    next_token,
    phases,
    relation,
    samples,
    scaling,
    score_clock,
    windows,
)


SECTIONS = (
    claims.SECTION,
    windows.SECTION,
    phases.SECTION,
    curves.SECTION,
    samples.SECTION,
    scaling.SIZE_SECTION,
    scaling.COMPLEXITY_SECTION,
    windows.MAP_SECTION,
    early.SECTION,
    basins.SECTION,
    basins.RADII_SECTION,
    basins.LOSSES_SECTION,
    score_clock.SECTION,
    basins.CAPTURE_SECTION,
    next_token.SECTION,
    attention.SECTION,
    ablation.SECTION,
    relation.SECTION,
)
CHAPTER = Chapter(
    sections=lambda results: SECTIONS,
    title=headline.title,
    headline=headline.headline,
    context=headline.context,
    tiles=headline.tiles,
    thumbnails=("claims", "phases", "windows", "curves"),
    budget=headline.budget,
    terms=headline.terms,
)
