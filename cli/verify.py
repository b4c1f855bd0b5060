"""A finished training: files against their digests, and of evolution strategies some steps made again."""

import argparse
import os
import sys

from eval.command_line import at_least


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="RUN", help="folder of a finished training")
    parser.add_argument(
        "--steps",
        type=at_least(1),
        default=3,
        help="steps of evolution strategies that are made again with their completions (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Become `python -m trainers.verify`, so that the exit status is its own. -P: as for a recipe."""
    command = [sys.executable, "-P", "-m", "trainers.verify", arguments.folder, "--steps", str(arguments.steps)]
    os.execv(command[0], command)
