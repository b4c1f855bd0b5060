"""The documentation builds to a site without a warning, needs no network, and has the API of every room it names."""

import importlib.util
import os
import re
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml

from tests.recipe_files import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, built without a warning."""
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed: pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.mark.slow
def test_the_site_has_the_api_and_asks_the_network_for_nothing(site):
    pages = {path.relative_to(site).as_posix(): path.read_text() for path in site.rglob("*.html")}
    from_network = re.compile(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=[\"']?https?://", re.IGNORECASE)
    assert [name for name, page in pages.items() if from_network.search(page)] == []
    for name, member in {
        "api/eval.tasks.html": "get_task",
        "api/trainers.es.html": "train_es",
        "api/trainers.grpo.html": "train_grpo",
        "api/analysis.geometry.html": "update_geometry",
        "api/analysis.statistics.html": "spearman",
    }.items():
        assert re.search(rf'id="[\w.]*\.{member}"', pages[name]), (name, member)
    assert "_make_model" not in pages["api/trainers.es.html"]
    assert 'href="files/examples/letter_count.py"' in pages["contributing.html"]
    assert (site / "files/examples/letter_count.py").read_text() == (ROOT / "examples/letter_count.py").read_text()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.mark.slow
@pytest.mark.browser
def test_the_search_finds_and_all_requests_stay_on_the_site(site, chromium):
    """Opened as a file the pages have no search: browsers start no worker there. They ask for nothing else either."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        for address in (f"http://127.0.0.1:{server.server_port}", site.resolve().as_uri()):
            context = chromium.new_context()
            page, asked = context.new_page(), []
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.goto(f"{address}/index.html")
            if address.startswith("http"):
                page.keyboard.press("/")
                page.locator("input:visible").press_sequentially("hub")
                page.locator(".md-search-result__link[href*='tracking.html']").first.wait_for(timeout=20_000)
            assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == [] != asked
            context.close()
    finally:
        server.shutdown()
        server.server_close()


def test_every_page_has_its_place_in_the_navigation():
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    chapters = [next(iter(chapter)) for chapter in navigation]
    assert chapters == ["Start", "Manual", "Results", "Papers", "Extension", "API"]
    named = re.findall(r"[\w./-]+\.md", str(navigation))
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert [page for page in pages if page not in named] == []
