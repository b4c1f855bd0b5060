"""The report as Markdown, with links to the figures beside it. The words stand in `templates/report.md.j2`."""

import re

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from analysis.report.document import Document, missing_words
from analysis.report.html import TEMPLATES


def render(document: Document) -> str:
    """The page in GitHub's Markdown. What comes from `results.json` is escaped."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"text": text, "fenced": fenced}
    verb, remedy = missing_words(document)
    return environment.get_template("report.md.j2").render(document=document, verb=verb, remedy=remedy).rstrip() + "\n"


def text(words: str) -> str:
    """On one line, with what Markdown or HTML would read as markup made plain."""
    words = " ".join(words.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|])", r"\\\1", words)


def fenced(command: str) -> str:
    """`command` as a code block, whatever backticks it holds."""
    longest = max((len(run) for run in re.findall(r"`+", command)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{command}\n{fence}"
