"""Pages as HTML files that need nothing else: no network, no font. The words stand in `templates/`.

A page has a small script inside it, for what only a script can do: sorting tables, showing a value where the pointer
or the keyboard is, marking the section that is read. Without it everything can still be read.
"""

import re
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from analysis.report.document import Document, Part, missing_words
from analysis.report.figure_values import Series, Value, in_words
from analysis.report.palette import page_colours, style_sheet
from analysis.report.provenance import patterns, sources_of
from analysis.report.results import pointer


TEMPLATES = Path(__file__).parent / "templates"

# Pixels: as wide as the text of a page on a small phone, and the least size that text in a figure may have there.
SMALLEST_TEXT = 11
# Points: how far from a value the pointer may be.
REACH = 8


def render(document: Document) -> str:
    """The page. Whatever comes from `results.json` is escaped."""
    verb, remedy = missing_words(document)
    styles = ["style.css", *(["samples.css"] if document.written else [])]
    scripts = ["tables.js", "page.js", *(["samples.js"] if document.written else [])]
    return fill("page.html.j2", styles, scripts, document=document, verb=verb, remedy=remedy)


def fill(template: str, styles: list[str], scripts: list[str], **values: Any) -> str:
    """A template of `templates/` with these values, escaped unless marked as safe, these style sheets and scripts."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "text": text,
        "pointer": pointer,
        "patterns": patterns,
        "sources_of": sources_of,
        "inline_drawing": inline_drawing,
    }
    style, script = (
        "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in names) for names in (styles, scripts)
    )
    return environment.get_template(template).render(style=style_sheet() + style, script=script, **values)


def text(words: str) -> Markup:
    """Escaped, with the percent sign kept on the line of its number."""
    return Markup(re.sub(r"(?<=\d) %", "&nbsp;%", escape(words)))


def inline_drawing(part: Part) -> Markup:
    """The figure as an element of a page, in the colours of the page, under the places of its values.

    The XML declaration and document type belong to a file of its own.
    """
    drawing = page_colours(part.drawing.svg[part.drawing.svg.index("<svg") :])
    box = re.search(r'viewBox="([^"]*)"', drawing)[1]
    words = f"{part.title}. {in_words(part.drawing.series) or part.sentence}"
    # The paper of the figure is that of the page.
    drawing = re.sub(r'(id="[^"]*patch_1">\s*<path [^>]*?style="fill: )[^;"]*', r"\1none", drawing, count=1)
    picture = drawing.replace("<svg", f'<svg role="img" aria-label="{escape(words)}"', 1)
    least = f"{smallest_width(drawing):.0f}px"
    layer = value_layer(part, box) if part.drawing.series else ""
    return Markup(f'<div class="drawing" style="min-width: {least}">{picture}{layer}</div>')


def smallest_width(svg: str) -> float:
    """How wide a figure must be shown, in pixels, for its smallest text to be legible."""
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', svg)[1])
    sizes = [float(size) for size in re.findall(r"<text[^>]*?font(?:-size)?: [^;\"]*?([\d.]+)px", svg)]
    return width * SMALLEST_TEXT / min(sizes, default=SMALLEST_TEXT)


def value_layer(part: Part, box: str) -> str:
    """Over the figure, a place for each value that can be pointed at and focused; arrow keys go to the next."""
    groups = "\n".join(series_group(one) for one in part.drawing.series)
    label = escape(f"Values of {part.title}; arrow keys go from one to the next")
    return f'<svg class="values" viewBox="{box}" role="group" aria-label="{label}">\n{groups}\n</svg>'


def series_group(series: Series) -> str:
    # The keyboard stops once at each series, so that a page stays passable.
    places = "\n".join(value_place(value, 0 if i == 0 else -1) for i, value in enumerate(series.values))
    return f"<g>{places}</g>"


def value_place(value: Value, index: int) -> str:
    inside = f'tabindex="{index}" role="img"><title>{escape(value.words)}</title>'
    if value.width:
        left, top = value.x - value.width / 2, value.y - value.height / 2
        size = f'width="{value.width:.1f}" height="{value.height:.1f}"'
        return f'<rect x="{left:.1f}" y="{top:.1f}" {size} {inside}</rect>'
    return f'<circle cx="{value.x:.1f}" cy="{value.y:.1f}" r="{REACH}" {inside}</circle>'
