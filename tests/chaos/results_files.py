"""Damaged results.json of every kind through the report: a page or one line, never another exception."""

import copy
import importlib
import json
import random
import traceback
import warnings
from pathlib import Path
from typing import Any
from unittest.mock import patch

from analysis.report import CHAPTERS, compose, html, markdown
from analysis.report import style as drawings
from analysis.report.results import reading
from eval.errors import UserError
from eval.results_file import kind_of
from tests.chaos.findings import Report
from tests.chaos.sources import results_of


VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1,
    3,
    10**400,
    1e300,
    1e-300,
    -0.5,
    "",
    "text",
    "$x_2$",
    r"\frac{",
    "a\nb",
    "\ud800",
    "<b>",
    "{{ 1 }}",
    "9" * 5000,
    [],
    [None],
    [[]],
    {},
    {"a": 1},
    [1, 2, 3],
    ["a"],
    2**63,
    "-",
    "0",
)
compose_module = importlib.import_module("analysis.report.compose")
# Drawing a figure into its file takes most of the time: only so many of the pages are drawn to the end.
DRAWN = 25


def results(report: Report, folder: Path, count: int, seed: int) -> None:
    """`count` mutations of each kind, in turns, so that all kinds get the same where the time ends."""
    folder.mkdir(parents=True)
    kinds = {kind: results_of(kind, folder / kind) for kind in CHAPTERS}
    warnings.simplefilter("ignore")
    generator = random.Random(seed)
    pages = dict.fromkeys(kinds, 0)
    tried = dict.fromkeys(kinds, 0)
    for number in range(count):
        for kind, original in kinds.items():
            if report.left < 1:
                break
            mutated = copy.deepcopy(original)
            said = [mutate(mutated, generator) for _ in range(generator.choice([1, 1, 1, 2, 5]))]
            pages[kind] += page(report, kind, mutated, said, draw=number % DRAWN == 0)
            tried[kind] += 1
    for kind in kinds:
        report.note(kind, f"{pages[kind]} pages of {tried[kind]}")


def page(report: Report, kind: str, mutated: Any, said: list[str], draw: bool) -> bool:
    """Whether there is a page of it."""

    def only_made(name: str, painter: Any) -> drawings.Drawing:
        painter()
        return drawings.Drawing('<svg viewBox="0 0 1 1"></svg>', b"")

    try:
        # As a file holds it.
        read = json.loads(json.dumps(mutated, allow_nan=False))
        chapter = CHAPTERS.get(kind_of(read))
        if chapter is None:
            return False
        with patch.object(compose_module, "draw", drawings.draw if draw else only_made):
            document = compose(chapter, read)
            with reading("the page"):
                (html.render(document) + markdown.render(document)).encode("utf-8")
    except UserError:
        report.case(True)
        return False
    except Exception as error:  # whatever it is, it is a finding
        where = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in where if "/analysis/" in frame.filename or "/eval/" in frame.filename]
        last = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"
        report.case(False, f"{kind}: {type(error).__name__} in {last}, first seen with {said[0][:120]}")
        return False
    report.case(True)
    return True


def mutate(value: Any, generator: random.Random, where: str = "") -> str:
    """Change one thing, at any depth, and say what."""
    entries = list(value) if isinstance(value, dict) else range(len(value))
    if not entries:
        return f"{where} is empty"
    key = generator.choice(list(entries))
    inner = value[key]
    if isinstance(inner, (dict, list)) and inner and generator.random() < 0.75:
        return mutate(inner, generator, f"{where}/{key}")
    kind = generator.random()
    if kind < 0.2:
        del value[key]
        return f"without {where}/{key}"
    if kind < 0.25 and isinstance(value, dict):
        new = generator.choice(["$x_2$", "a|b", "", "\ud800", "<b>", "0", "base"])
        value[new] = value.pop(key)
        return f"{where}/{key} called {new!r}"
    if kind < 0.35 and isinstance(inner, list):
        value[key] = inner[: len(inner) // 2] if generator.random() < 0.5 else inner * 2
        return f"{where}/{key} of another length"
    value[key] = copy.deepcopy(generator.choice(VALUES))
    return f"{where}/{key} = {value[key]!r:.40}"
