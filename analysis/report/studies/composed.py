"""Chapters that still compose their page as a whole."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from analysis.report.compose import with_sources
from analysis.report.document import Document
from analysis.report.results import Results
from analysis.report.section import Tile
from analysis.report.studies.circuits import story as circuits
from analysis.report.studies.circuits.document import compose_circuits
from analysis.report.studies.sequential import story as sequential
from analysis.report.studies.sequential.document import compose_continual


@dataclass(frozen=True)
class Composed:
    composer: Callable[[Results], Document]
    title: Callable[[Results], str]
    tiles: Callable[[Results], Sequence[Tile]]
    thumbnails: Sequence[str]

    def page(self, results: Results) -> Document:
        return with_sources(self.composer(results), results)


SEQUENTIAL = Composed(compose_continual, sequential.title, sequential.tiles, ("matrices", "drift"))
CIRCUITS = Composed(compose_circuits, circuits.title, circuits.tiles, ("faithfulness", "overlap"))
