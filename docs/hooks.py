"""What the site has beside the pages in docs/: pages from elsewhere in the repository, and the API from docstrings."""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File


ROOT = Path(__file__).resolve().parents[1]
# Page of the site -> file of the repository.
PAGES = {
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "examples.md": "examples/README.md",
    "notebooks.md": "examples/notebooks/README.md",
}
# Page -> its packages or modules are under it, each public function with its docstring.
MODULES = (
    "eval.tasks",
    "eval.rollout",
    "trainers.es",
    "trainers.grpo",
    "analysis.geometry",
    "analysis.behaviour",
    "analysis.circuits",
    "analysis.clocks",
    "analysis.statistics",
    "analysis.criteria",
)
LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(?=[)#])")


def on_files(files, config):
    for page, source in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for module in MODULES:
        files.append(File.generated(config, f"api/{module}.md", content=api_page(module)))
    for page in [file for file in files if file.src_uri.endswith(".md")]:
        for target in linked_files(page):
            if f"files/{target}" not in files.src_uris:
                files.append(File.generated(config, f"files/{target}", abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links to files of the repository lead to their pages, or to copies of them."""

    def on_site(match):
        target = in_repository(page.file.src_uri, match[1])
        if target is None:
            return match[0]
        return posixpath.relpath(place_on_site(target), posixpath.dirname(page.file.src_uri) or ".")

    return LINK.sub(on_site, markdown)


def in_repository(page: str, link: str) -> str | None:
    """The file that a link on a page leads to, from the root of the repository; None if it is within docs/ already."""
    source = PAGES.get(page, f"docs/{page}")
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    inside = source.startswith("docs/") and target.startswith("docs/")
    return target if not inside and (ROOT / target).is_file() else None


def place_on_site(target: str) -> str:
    pages = {source: name for name, source in PAGES.items()} | {"README.md": "index.md"}
    return pages.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else f"files/{target}")


def linked_files(page: File) -> list[str]:
    """Those that the site needs copies of."""
    targets = [in_repository(page.src_uri, link) for link in LINK.findall(page.content_string)]
    return [target for target in targets if target and place_on_site(target).startswith("files/")]


def api_page(module: str) -> str:
    """The module, or each public module of the package."""
    place = ROOT / module.replace(".", "/")
    parts = [module]
    if place.is_dir():
        parts += [f"{module}.{path.stem}" for path in sorted(place.glob("[!_]*.py"))]
    return f"# {module}\n\n" + "\n".join(f"::: {part}\n" for part in parts)
