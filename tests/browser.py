"""Pages in a real browser: Debian's chromium, driven by the package playwright.

A test marked `browser` takes the fixture `open_page` and opens a file: `open_page(path, width=390, dark=True)`. It is
skipped where the browser or the package is missing; `apt-get install chromium` and
`pip install -c constraints.txt -e '.[browser]'` bring both.
"""

import importlib.util
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# No sandbox: containers often forbid it, and only files of this checkout are opened.
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run"]


@dataclass
class Visit:
    """An open page. page: playwright's. console: errors and warnings. requests: what it asked for besides itself."""

    page: Any
    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def evaluate(self, script: str, argument: Any = None) -> Any:
        """The value of an expression or of a function of `argument` in the page."""
        return self.page.evaluate(script, argument)

    def violations(self, rules: list[str] | None = None) -> list[str]:
        """What axe-core finds against these rules, or all of its rules and best practices: 'rule: first elements'."""
        if not self.page.evaluate("typeof axe === 'object'"):
            self.page.evaluate(axe_source())
        only = {} if rules is None else {"runOnly": {"type": "rule", "values": rules}}
        found = self.page.evaluate("(only) => axe.run(document, {resultTypes: ['violations'], ...only})", only)
        return [
            f"{rule['id']}: {[node['html'][:160] + ' | ' + node['failureSummary'] for node in rule['nodes'][:3]]}"
            for rule in found["violations"]
        ]


def missing() -> str | None:
    """Why no page can be opened here, or None."""
    if importlib.util.find_spec("playwright") is None:
        return "playwright is not installed (pip install -c constraints.txt -e '.[browser]')"
    if CHROMIUM is None:
        return "there is no chromium (apt-get install chromium)"
    return None


@cache
def axe_source() -> str:
    """axe-core, as the package axe-playwright-python ships it; the test is skipped where that is missing."""
    found = importlib.util.find_spec("axe_playwright_python")
    if found is None or not found.submodule_search_locations:
        pytest.skip("axe-playwright-python is not installed (pip install -c constraints.txt -e '.[browser]')")
    return (Path(found.submodule_search_locations[0]) / "axe.min.js").read_text(encoding="utf-8")


# Of a module, not of the session: while playwright runs, no other test of the process could call asyncio.run.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A running browser."""
    if reason := missing():
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture
def open_page(chromium) -> Iterator[Callable[..., Visit]]:
    """A function that opens a file: (path, width=1400, height=900, dark=False, script=True) -> Visit."""
    opened = []

    def open_file(path: Path, width: int = 1400, height: int = 900, dark: bool = False, script: bool = True) -> Visit:
        context = chromium.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            java_script_enabled=script,
            offline=True,
        )
        opened.append(context)
        address = Path(path).resolve().as_uri()
        visit = Visit(context.new_page())
        visit.page.on("console", lambda message: visit.console.append(f"{message.type}: {message.text}"))
        visit.page.on("pageerror", lambda error: visit.console.append(f"error: {error}"))
        visit.page.on(
            "request",
            lambda request: None if request.url.split("#")[0] == address else visit.requests.append(request.url),
        )
        visit.page.goto(address)
        return visit

    yield open_file
    for context in opened:
        context.close()
