"""Do the claims about evolution strategies and GRPO hold? The page on verdicts over many comparisons."""

from analysis.report.section import Chapter
from analysis.report.studies.claims import mean_updates
from analysis.report.studies.claims.conditions import context, headline, section, title


CHAPTER = Chapter(
    sections=lambda results: [section(), mean_updates.section()],
    title=title,
    headline=headline,
    context=context,
    tiles=lambda results: [],
    thumbnails=("claims",),
)
