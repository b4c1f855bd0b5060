"""Do the claims about evolution strategies and GRPO hold? The page on verdicts over many comparisons."""

from analysis.report.section import Chapter
from analysis.report.studies.claims.conditions import context, headline, section, title


CHAPTER = Chapter(
    sections=lambda results: [section()],
    title=title,
    headline=headline,
    context=context,
    tiles=lambda results: [],
    thumbnails=("claims",),
)
