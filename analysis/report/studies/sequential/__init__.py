"""The chapter on a sequential run: which method forgets what it was trained on before, and what that goes with."""

from analysis.report.results import Results
from analysis.report.section import Chapter, Section
from analysis.report.studies.sequential import (
    budget,
    differences,
    drift,
    expected_chains,
    learned_and_kept,
    matrices,
    retention,
    summary,
)
from analysis.report.studies.sequential.arms import arms, columns
from analysis.report.studies.terms import explained


def sections(results: Results) -> list[Section]:
    """A difference needs two arms, and with a single column there is no other task to lose."""
    return [
        matrices.MAIN,
        matrices.CONTROLS,
        learned_and_kept.SECTION,
        *([differences.SECTION] if len(arms(results)) > 1 else []),
        retention.SECTION,
        *([drift.SECTION] if len(columns(results)) != 1 else []),
    ]


CHAPTER = Chapter(
    sections=sections,
    title=summary.title,
    headline=summary.headline,
    context=summary.context,
    tiles=summary.tiles,
    thumbnails=("matrices", "drift"),
    needs=expected_chains.needs,
    budget=budget.table,
    terms=explained(summary.TERMS),
)
