"""The report as Markdown, with links to the figures beside it."""

import re
from collections.abc import Sequence

from analysis.report.document import Document, Part
from analysis.report.results import Location
from analysis.report.tables import Table


def render(document: Document) -> str:
    """The page in GitHub's Markdown. What comes from `results.json` is escaped."""
    blocks = [
        f"# {text(document.title)}",
        text(document.context),
        f"**{text(document.headline)}**" if document.headline else "",
        "\n".join(f"- {text(tile.name)}: {text(tile.text)} ({text(tile.note)})" for tile in document.tiles),
        _missing(document.missing),
        *(block for part in document.parts for block in _part(part)),
        *(["## The numbers", "Intervals (low to high) are at 95 %."] if document.numbers else []),
        *(block for table in document.numbers for block in (f"### {text(table.title)}", *_table(table))),
        *(_budget(document.budget) if document.budget else []),
        "## Definitions" if document.definitions else "",
        "\n".join(f"- **{text(term)}**: {text(meaning)}" for term, meaning in document.definitions),
        *(
            block
            for table in (document.config, document.environment)
            if table.rows
            for block in (f"## {text(table.title)}", *_table(table))
        ),
        *(["## Command", _fenced(document.command)] if document.command else []),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def text(words: str) -> str:
    """On one line, with what Markdown or HTML would read as markup made plain."""
    words = " ".join(words.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|])", r"\\\1", words)


def _part(part: Part) -> list[str]:
    heading = f"## {text(part.title)}"
    if part.drawing is None:
        return [heading, _missing(part.missing)]
    picture = f"![{text(part.title)}](figures/{part.name}.svg)"
    below = _table(part.table) if part.table else []
    return [heading, picture, text(part.sentence), _missing(part.missing), *below]


def _budget(table: Table) -> list[str]:
    return [f"## {text(table.title)}", *(_table(table) if table.rows else [_missing([("training",)])])]


def _missing(locations: Sequence[Location]) -> str:
    if not locations:
        return ""
    listed = ", ".join(text(".".join(location)) for location in locations)
    return f"> Missing from results.json: {listed}. The same command, started again, computes what was not reached."


def _table(table: Table) -> list[str]:
    # Numbers stand on the right, words on the left.
    rules = ["---" if cell.location is None else "---:" for cell in table.rows[0]]
    rows = [
        [text(column) for column in table.columns],
        rules,
        *([text(cell.text) for cell in row] for row in table.rows),
    ]
    return ["\n".join(f"| {' | '.join(row)} |" for row in rows), text(table.note)]


def _fenced(command: str) -> str:
    """`command` as a code block, whatever backticks it holds."""
    longest = max((len(run) for run in re.findall(r"`+", command)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{command}\n{fence}"
