"""Chapters that still compose their page as a whole."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from analysis.report.compose import with_sources
from analysis.report.document import Document
from analysis.report.results import Results
from analysis.report.section import Tile
from analysis.report.studies.clocks import document as clocks


@dataclass(frozen=True)
class Composed:
    composer: Callable[[Results], Document]
    title: Callable[[Results], str]
    tiles: Callable[[Results], Sequence[Tile]]
    thumbnails: Sequence[str]

    def page(self, results: Results) -> Document:
        return with_sources(self.composer(results), results)


CLOCKS = Composed(clocks.compose, clocks._title, clocks._tiles, ("claims", "windows"))
