"""Pages as HTML files that need nothing else: no network, no font. The words stand in `templates/`."""

import re
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from analysis.report.document import Document, Part, missing_words
from analysis.report.results import pointer


TEMPLATES = Path(__file__).parent / "templates"


def render(document: Document) -> str:
    """The page. Whatever comes from `results.json` is escaped."""
    verb, remedy = missing_words(document)
    script = (TEMPLATES / "samples.js").read_text(encoding="utf-8")
    styles = ["style.css", *(["samples.css"] if document.written else [])]
    return fill("page.html.j2", styles, document=document, verb=verb, remedy=remedy, script=script)


def fill(template: str, styles: list[str], **values: Any) -> str:
    """A template of `templates/` with these values, escaped unless marked as safe, and with these style sheets."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"text": text, "pointer": pointer, "inline_drawing": inline_drawing}
    style = "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in styles)
    return environment.get_template(template).render(style=style, **values)


def text(words: str) -> Markup:
    """Escaped, with the percent sign kept on the line of its number."""
    return Markup(re.sub(r"(?<=\d) %", "&nbsp;%", escape(words)))


def inline_drawing(part: Part) -> Markup:
    """The figure as an element of a page: the XML declaration and document type belong to a file of its own."""
    drawing = part.drawing.svg[part.drawing.svg.index("<svg") :]
    return Markup(drawing.replace("<svg", f'<svg role="img" aria-label="{escape(part.title)}"', 1))
