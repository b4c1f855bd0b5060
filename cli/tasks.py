"""The tasks by name, or some rows of one."""

import argparse
import json

from eval.command_line import at_least, seed


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="TASK", help="task whose rows are shown (default: list all tasks)")
    parser.add_argument("--rows", type=at_least(1), default=3, help="how many rows (default: %(default)s)")
    parser.add_argument("--split", default="test", help="train, validation or test (default: %(default)s)")
    parser.add_argument("--seed", type=seed, default=0, help="of the rows (default: %(default)s)")


def run(arguments: argparse.Namespace) -> None:
    from eval.tasks import PAPER_TASKS, SMALL_TASKS, TASKS, get_task

    if arguments.name is None:
        for name, task in {**TASKS, **PAPER_TASKS, **SMALL_TASKS}.items():
            print(f"{name:24} {(type(task).__doc__ or '').partition(chr(10))[0]}")
        return
    for row in get_task(arguments.name).load(arguments.split, arguments.rows, arguments.seed):
        print(json.dumps(row, indent=2, ensure_ascii=False))
