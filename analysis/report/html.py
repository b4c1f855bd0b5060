"""The report as one HTML file that needs nothing else: no network, no script, no font."""

import re
from collections.abc import Sequence
from html import escape

from analysis.report.document import Document, Part
from analysis.report.results import Location, pointer
from analysis.report.tables import Cell, Table


STYLE = """
:root { color-scheme: light; --ink: #222; --soft: #5c5c5c; --rule: #e2e2e2; --tint: #f6f7f9; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); font: 1.0625rem/1.55 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", Arial, "Liberation Sans", sans-serif; -webkit-text-size-adjust: 100%; }
main { max-width: 54rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: clamp(1.6rem, 5vw, 2.3rem); line-height: 1.2; margin: .3rem 0 1rem; letter-spacing: -.01em; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 3.2rem 0 .8rem; }
h3 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
p { margin: 0 0 .8rem; }
.context { color: var(--soft); margin: 0; }
.headline { font-size: 1.22rem; line-height: 1.5; }
.tiles { display: grid; grid-template-columns: repeat(3, 1fr); gap: .75rem;
  margin: 1.6rem 0 0; }
.tile { background: var(--tint); border-radius: .5rem; padding: .8rem 1rem; }
.tile dt { color: var(--soft); font-size: .9rem; }
.tile .figure { font-size: 1.5rem; font-weight: 650; line-height: 1.35; margin: 0; }
.tile .note { color: var(--soft); font-size: .9rem; margin: 0; }
.missing { background: #fff6e0; border-left: .3rem solid #e0a100; padding: .7rem 1rem; margin: 1.4rem 0; }
figure { margin: 0; }
.plot svg { display: block; width: 100%; max-width: 40rem; height: auto; margin: 0 auto; }
.plot svg text { font-family: inherit !important; }
figcaption { max-width: 40rem; margin: .7rem auto 0; }
/* The shade at an edge shows that a wide table goes on beyond it. */
.scroll { overflow-x: auto; margin-bottom: .6rem; background:
  linear-gradient(to right, #fff 2rem, transparent) left / 4rem 100% no-repeat local,
  linear-gradient(to left, #fff 2rem, transparent) right / 4rem 100% no-repeat local,
  linear-gradient(to right, #d5d5d5, transparent) left / .8rem 100% no-repeat scroll,
  linear-gradient(to left, #d5d5d5, transparent) right / .8rem 100% no-repeat scroll; }
table { border-collapse: collapse; font-size: .86rem; line-height: 1.4; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .55rem .32rem 0; text-align: left; vertical-align: top; }
th { border-bottom: 2px solid var(--ink); font-weight: 600; vertical-align: bottom; }
tr.group td { border-top: 1px solid var(--rule); }
.numbers td { white-space: nowrap; }
.numbers th.number, .numbers td.number { text-align: right; }
.verdicts td { white-space: normal; }
.verdicts td:nth-child(2), .verdicts td:nth-child(7) { min-width: 9rem; }
.settings td { overflow-wrap: anywhere; }
.settings td:first-child { color: var(--soft); white-space: nowrap; padding-right: 1.4rem; }
dt { font-weight: 600; }
dl.definitions dd { margin: 0 0 .9rem; }
.small { color: var(--soft); font-size: .92rem; }
pre { background: var(--tint); border-radius: .5rem; padding: .9rem 1rem; font-size: .88rem; white-space: pre-wrap;
  overflow-wrap: anywhere; }
@media (max-width: 42rem) {
  .tiles { grid-template-columns: repeat(2, 1fr); }
  .tile { padding: .7rem .8rem; }
  .tile .figure { font-size: 1.2rem; }
}
@media print {
  body { font-size: 10.5pt; }
  main { max-width: none; padding: 0; }
  .plot svg { max-width: 10.8cm; }
  .tile, .missing, pre { border: 1px solid var(--rule); }
  .tiles { grid-template-columns: repeat(3, 1fr); }
  h2 { margin-top: 1.4rem; }
  figure, .tile, tr, dl.definitions > div { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  table { font-size: 7.5pt; }
  .scroll { overflow: visible; background: none; }
  .numbers th, .numbers td { padding-right: .4rem; }
  @page { margin: 1.8cm; }
}
"""


def render(document: Document) -> str:
    """The page. Whatever comes from `results.json` is escaped."""
    body = [
        "<header>",
        f'<p class="context">{text(document.context)}</p>' if document.context else "",
        f"<h1>{text(document.title)}</h1>",
        f'<p class="headline">{text(document.headline)}</p>' if document.headline else "",
        *_tiles(document),
        _missing(document.missing),
        "</header>",
        *(_part(part) for part in document.parts),
        _numbers(document.numbers),
        f"<section><h2>{text(document.budget.title)}</h2>{_budget(document.budget)}</section>"
        if document.budget
        else "",
        *_definitions(document),
        *(
            f"<section><h2>{text(table.title)}</h2>{_table(table, 'settings')}</section>"
            for table in (document.config, document.environment)
            if table.rows
        ),
        f"<section><h2>Command</h2><pre>{escape(document.command)}</pre></section>" if document.command else "",
    ]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            '<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(document.title)}</title>",
            # An icon that is empty: browsers then ask for none.
            '<link rel="icon" href="data:,">',
            f"<style>{STYLE}</style></head>",
            "<body><main>",
            *(part for part in body if part),
            "</main></body>",
            "</html>",
            "",
        ]
    )


def text(words: str) -> str:
    """Escaped, with the percent sign kept on the line of its number."""
    return re.sub(r"(?<=\d) %", "&nbsp;%", escape(words))


def _tiles(document: Document) -> list[str]:
    tiles = [
        f'<div class="tile"><dt>{text(tile.name)}</dt><dd class="figure">{text(tile.text)}</dd>'
        f'<dd class="note">{text(tile.note)}</dd></div>'
        for tile in document.tiles
    ]
    return ['<dl class="tiles">', *tiles, "</dl>"] if tiles else []


def _definitions(document: Document) -> list[str]:
    terms = [f"<div><dt>{text(term)}</dt><dd>{text(meaning)}</dd></div>" for term, meaning in document.definitions]
    return ['<section><h2>Definitions</h2><dl class="definitions">', *terms, "</dl></section>"] if terms else []


def _missing(locations: Sequence[Location]) -> str:
    if not locations:
        return ""
    listed = ", ".join(f"<code>{escape('.'.join(location))}</code>" for location in locations)
    return (
        f'<p class="missing">Missing from results.json: {listed}. The same command, started again, computes what was '
        "not reached.</p>"
    )


def _part(part: Part) -> str:
    heading = f'<section id="{part.name}"><h2>{text(part.title)}</h2>'
    if part.drawing is None:
        return f"{heading}{_missing(part.missing)}</section>"
    # The XML declaration and document type belong to a file of its own.
    drawing = part.drawing.svg[part.drawing.svg.index("<svg") :].replace(
        "<svg", f'<svg role="img" aria-label="{escape(part.title)}"', 1
    )
    return (
        f'{heading}<figure><div class="plot">{drawing}</div><figcaption>{text(part.sentence)}</figcaption></figure>'
        f"{_missing(part.missing)}{_table(part.table, 'verdicts numbers') if part.table else ''}</section>"
    )


def _numbers(tables: Sequence[Table]) -> str:
    if not tables:
        return ""
    shown = "".join(f"<h3>{text(table.title)}</h3>{_table(table, 'numbers')}" for table in tables)
    return (
        '<section><h2>The numbers</h2><p class="small">Intervals (low to high) are at 95&nbsp;%. Hover over a number '
        f"to see where it stands in results.json.</p>{shown}</section>"
    )


def _budget(table: Table) -> str:
    return _table(table, "numbers") if table.rows else _missing([("training",)])


def _table(table: Table, style: str) -> str:
    numeric = [bool(table.rows) and style.endswith("numbers") and cell.location is not None for cell in table.rows[0]]
    head = "".join(
        f'<th class="number">{text(column)}</th>' if right else f"<th>{text(column)}</th>"
        for column, right in zip(table.columns, numeric, strict=True)
    )
    rows, previous = [], None
    for row in table.rows:
        opening = '<tr class="group">' if row[0].text != previous else "<tr>"
        rows.append(f"{opening}{''.join(_cell(cell, style) for cell in row)}</tr>")
        previous = row[0].text
    note = f'<p class="small">{text(table.note)}</p>' if table.note else ""
    return (
        f'<div class="scroll"><table class="{style}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{note}"
    )


def _cell(cell: Cell, style: str) -> str:
    if cell.location is None:
        return f"<td>{text(cell.text)}</td>"
    at = escape(pointer(cell.location))
    shown = text(cell.text) if style.endswith("numbers") else escape(cell.text)
    return f'<td class="number" data-source="{at}" title="{at}">{shown}</td>'
