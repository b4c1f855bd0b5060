"""When the models of a sweep over rules learn the rule and when they copy, as a page."""

import argparse
from pathlib import Path

from eval.command_line import at_least
from eval.folders import check_writable


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--runs", type=Path, required=True, metavar="DIR", help="folder with runs of recipes/rules.py, at any depth"
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder for results.json and report/"
    )
    parser.add_argument(
        "--models",
        type=at_least(0),
        default=4,
        help="open the checkpoints of at most so many runs, for their score fields and their parts; 0 needs no "
        "checkpoint and takes seconds (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> None:
    from analysis.clocks.study import measure_sweep
    from analysis.report import build

    check_writable(arguments.output, "--output")
    measure_sweep(arguments.runs, arguments.output, arguments.models)
    print(build(arguments.output))
