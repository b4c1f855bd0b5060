"""A page from results.json, or a gallery of them; needs no model."""

import argparse
from pathlib import Path


def add_options(parser: argparse.ArgumentParser) -> None:
    one_or_many = parser.add_mutually_exclusive_group(required=True)
    one_or_many.add_argument(
        "--run", dest="folder", type=Path, metavar="DIR", help="a run folder: writes DIR/report from DIR/results.json"
    )
    one_or_many.add_argument(
        "--runs", type=Path, metavar="DIR", help="a folder with runs in it, at any depth: writes DIR/gallery.html"
    )


def run(arguments: argparse.Namespace) -> None:
    from analysis.report import build, build_gallery
    from analysis.training import add_training_sections, is_part_of_a_study

    if arguments.folder:
        add_training_sections(arguments.folder)
    else:
        for file in sorted(arguments.runs.rglob("results.json")):
            if not is_part_of_a_study(file.parent, arguments.runs):
                add_training_sections(file.parent)
    print(build(arguments.folder) if arguments.folder else build_gallery(arguments.runs))
