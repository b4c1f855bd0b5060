"""From a chapter and a results.json to the document that becomes HTML and Markdown."""

from dataclasses import replace

from analysis.report.document import Document, Part
from analysis.report.provenance import functions_of
from analysis.report.results import Results, absent, lookup
from analysis.report.section import Chapter, Section
from analysis.report.style import draw
from analysis.report.tables import Table, settings
from eval.results_file import kind_of


# Kinds whose recipes go on where they stopped when their command is started again.
RESUMABLE = ("comparison", "claims", "sequential", "circuits")


def compose(chapter: Chapter, results: Results) -> Document:
    """The page on `results`. What they lack of the chapter is named in it, never left out in silence."""
    sections = [section for section in chapter.sections(results) if appears(section, results)]
    parts = [part_of(section, results) for section in sections]
    tables = [
        table(results) for table in (*chapter.numbers, *(one for section in sections for one in section.numbers))
    ]
    terms = [*chapter.terms(results), *(term for section in sections for term in section.terms(results))]
    lacking = [location for part in parts for location in part.missing]
    budget = chapter.budget(results)
    document = Document(
        title=chapter.title(results),
        headline=chapter.headline(results),
        context=chapter.context(results),
        tiles=chapter.tiles(results),
        missing=absent(results, [*chapter.needs(results), *lacking]),
        parts=parts,
        numbers=[table for table in tables if table.rows],
        budget=budget if budget is not None and budget.rows else None,
        definitions=list(dict(terms).items()),
        environment=settings(results, "environment", "Environment"),
        config=settings(results, "config", "Configuration"),
        command=lookup(results, "command"),
    )
    return with_sources(document, results)


def with_sources(document: Document, results: Results) -> Document:
    """The page, with each table naming the functions that computed its numbers, and whether its command resumes."""
    kind = kind_of(results)

    def named(table: Table | None) -> Table | None:
        return table and replace(table, computed_by=functions_of(kind, table))

    return replace(
        document,
        numbers=[replace(table, computed_by=functions_of(kind, table)) for table in document.numbers],
        budget=named(document.budget),
        parts=[replace(part, table=named(part.table)) for part in document.parts],
        resumable=kind in RESUMABLE and bool(results.get("command") and results.get("config")),
    )


def is_measured(section: Section, results: Results) -> bool:
    return any(lookup(results, *location) for location in section.needs)


def appears(section: Section, results: Results) -> bool:
    """Whether the page has this section: also without its numbers, which it then names, unless it is on demand."""
    if is_measured(section, results):
        return section.drawable(results)
    return not section.on_demand


def part_of(section: Section, results: Results) -> Part:
    """The section of these results: its figure and its words, or what they lack of it."""
    missing = absent(results, [*section.needs, *section.wanted])
    if not is_measured(section, results):
        return Part(section.name, section.title, None, "", missing)
    drawing = draw(section.name, lambda: section.figure(results))
    table = section.table(results) if section.table else None
    return Part(section.name, section.title, drawing, section.caption(results), missing, table)
