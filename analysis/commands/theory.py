"""A run of evolution strategies beside what theory predicts, from its logs alone."""

import argparse
from pathlib import Path

from analysis.commands.options import named_folders
from analysis.resume import add_section, read_results
from eval.folders import check_writable


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--runs",
        nargs="+",
        required=True,
        metavar="NAME=DIR",
        help="finished runs of evolution strategies, with names: es=runs/tiny/compare/es",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder whose results.json takes the results"
    )


def run(arguments: argparse.Namespace) -> None:
    from analysis.theory.predictions import predict

    check_writable(arguments.output, "--output")
    measured = {name: predict(folder) for name, folder in named_folders(arguments.runs).items()}
    path = arguments.output / "results.json"
    # Quickly computed from small files, so that it needs no cache.
    add_section(path, read_results(path), "theory", measured)
