"""What a chapter of the report is made of. Adding a section to a page touches its measure and one file of its chapter.

A chapter is one kind of results.json. Its sections are objects of one form, so that `compose.compose` needs to know
nothing of any of them: it draws those that have their numbers, names what others lack, and collects tables and terms.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from analysis.report.results import Location, Results
from analysis.report.tables import Table


Terms = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Section:
    """One section of a page.

    name: of its figure's file and its place on the page, unique in the chapter. title: its heading.
    needs: locations in results.json of which at least one must be there; those that are not are named on the page.
    figure, caption: what is drawn and what it shows, of results that hold a needed location.
    wanted: further locations, of any part of the file, that are only named when they are missing.
    on_demand: whether the section does not appear at all, rather than being named, where it was not measured.
    drawable: whether these results hold anything for it; where not, the section does not appear.
    table: stands under the figure. numbers: tables among the numbers at the end. terms: (term, meaning) it speaks of.
    """

    name: str
    title: str
    needs: Sequence[Location]
    figure: Callable[[Results], Figure]
    caption: Callable[[Results], str]
    wanted: Sequence[Location] = ()
    on_demand: bool = False
    drawable: Callable[[Results], bool] = lambda results: True
    table: Callable[[Results], Table] | None = None
    numbers: Sequence[Callable[[Results], Table]] = ()
    terms: Callable[[Results], Terms] = lambda results: ()


@dataclass(frozen=True)
class Tile:
    """One headline number: its name, the number and a note below it."""

    name: str
    text: str
    note: str


@dataclass(frozen=True)
class Chapter:
    """The page on one kind of results.json.

    sections: those of these results, in order. title, headline: the answer, in a few words and in a sentence or two.
    context: what was trained on what. tiles: headline numbers. needs: locations outside sections that are named when
    missing. budget: what it cost, None where nothing was spent. terms: (term, meaning) before those of the sections.
    numbers: tables before those of the sections.
    thumbnails: names of sections that the gallery shows, those that matter most first.
    """

    sections: Callable[[Results], Sequence[Section]]
    title: Callable[[Results], str]
    headline: Callable[[Results], str]
    context: Callable[[Results], str]
    tiles: Callable[[Results], Sequence[Tile]]
    thumbnails: Sequence[str]
    needs: Callable[[Results], Sequence[Location]] = lambda results: ()
    budget: Callable[[Results], Table | None] = lambda results: None
    terms: Callable[[Results], Terms] = lambda results: ()
    numbers: Sequence[Callable[[Results], Table]] = ()
