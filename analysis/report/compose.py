"""From a chapter and a results.json to the document that becomes HTML and Markdown."""

from analysis.report.document import Document, Part
from analysis.report.provenance import function_of, with_sources
from analysis.report.results import Results, absent, lookup, names_of, printable, reading
from analysis.report.section import Chapter, Section
from analysis.report.style import draw
from analysis.report.tables import digests, settings
from eval.results_file import kind_of


# Kinds whose recipes go on where they stopped when their command is started again.
RESUMABLE = ("comparison", "claims", "sequential", "circuits")


def compose(chapter: Chapter, results: Results) -> Document:
    """The page on `results`. What they lack of the chapter is named in it, never left out in silence.

    Raises UserError if what they hold is damaged, and names the section.
    """
    with reading("the page"), names_of(results):
        return document_of(chapter, printable(results))


def document_of(chapter: Chapter, results: Results) -> Document:
    kind = kind_of(results)
    sections = [section for section in chapter.sections(results) if appears(section, results)]
    parts = [part_of(section, results, kind) for section in sections]
    made = [*chapter.numbers, *(one for section in sections for one in section.numbers)]
    numbers = [with_sources(table(results), kind) for table in made]
    terms = [*chapter.terms(results), *(term for section in sections for term in section.terms(results))]
    lacking = [location for part in parts for location in part.missing]
    budget = chapter.budget(results)
    return Document(
        title=chapter.title(results),
        headline=chapter.headline(results),
        context=chapter.context(results),
        tiles=chapter.tiles(results),
        missing=absent(results, [*chapter.needs(results), *lacking]),
        parts=parts,
        numbers=[table for table in numbers if table.rows],
        budget=with_sources(budget, kind) if budget is not None and budget.rows else None,
        measured=digests(results),
        definitions=list(dict(terms).items()),
        environment=settings(results, "environment", "Environment"),
        config=settings(results, "config", "Configuration"),
        command=lookup(results, "command"),
        resumable=kind in RESUMABLE and bool(results.get("command") and results.get("config")),
    )


def is_measured(section: Section, results: Results) -> bool:
    return any(lookup(results, *location) for location in section.needs)


def appears(section: Section, results: Results) -> bool:
    """Whether the page has this section: also without its numbers, which it then names, unless it is on demand."""
    if is_measured(section, results):
        return section.drawable(results)
    return not section.on_demand


def part_of(section: Section, results: Results, kind: str) -> Part:
    """The section of these results: its figure and its words, or what they lack of it."""
    missing = absent(results, [*section.needs, *section.wanted])
    if not is_measured(section, results):
        return Part(section.name, section.title, None, "", missing)
    with reading(f'the section "{section.title}"'):
        drawing = draw(section.name, lambda: section.figure(results))
        table = with_sources(section.table(results), kind) if section.table else None
        sources = [location for location in section.needs if lookup(results, *location)]
        functions = list(dict.fromkeys(filter(None, (function_of(kind, location) for location in sources))))
        return Part(section.name, section.title, drawing, section.caption(results), missing, table, sources, functions)
