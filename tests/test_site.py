"""The documentation builds to a site without a warning, needs no network, and has the API of every room it names."""

import importlib.util
import os
import re
import subprocess
import sys

import pytest
import yaml

from tests.recipe_files import ROOT


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed: pip install -e '.[docs]'"
)
def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    pages = {path.relative_to(tmp_path).as_posix(): path.read_text() for path in tmp_path.rglob("*.html")}
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
    assert (tmp_path / "files/examples/letter_count.py").read_text() == (ROOT / "examples/letter_count.py").read_text()


def test_every_page_has_its_place_in_the_navigation():
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    chapters = [next(iter(chapter)) for chapter in navigation]
    assert chapters == ["Start", "Manual", "Results", "Papers", "Extension", "API"]
    named = re.findall(r"[\w./-]+\.md", str(navigation))
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert [page for page in pages if page not in named] == []
