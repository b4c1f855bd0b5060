"""The tasks: list them, describe one, or show some of its rows."""

import argparse
import inspect
import json
from typing import Any

from cli.options import listing
from eval.command_line import at_least, seed
from eval.errors import UserError


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action", nargs="?", choices=("list", "describe", "show"), default="list", help="what to do (default: list)"
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="a task of the list, or of your own")
    parser.add_argument("--rows", type=at_least(1), default=3, help="show: how many rows (default: %(default)s)")
    parser.add_argument("--split", default="test", help="train, validation or test (default: %(default)s)")
    parser.add_argument("--seed", type=seed, default=0, help="of the rows (default: %(default)s)")


def run(arguments: argparse.Namespace) -> None:
    if arguments.action == "list":
        if arguments.name is not None:
            raise UserError(f"list takes no name; write `posttrain-lab tasks describe {arguments.name}`")
        for name, words in listing()["tasks"].items():
            print(f"{name:24} {words}")
        return
    if arguments.name is None:
        raise UserError(f"{arguments.action} needs the name of a task; `posttrain-lab tasks` lists them")
    from eval.tasks import get_task

    task = get_task(arguments.name)
    if arguments.action == "describe":
        for heading, words in description(task, arguments.split, arguments.seed).items():
            print(f"{heading:16} {words}")
        return
    for row in task.load(arguments.split, arguments.rows, arguments.seed):
        print(json.dumps(row, indent=2, ensure_ascii=False))


def description(task: Any, split: str, seed: int) -> dict[str, str]:
    """What the task is, its prompt, its columns, and where its score is defined. Its first row is loaded."""
    try:
        row = next(iter(task.load(split, 1, seed)))
        columns, prompt = ", ".join(row), row["prompt"][-1]["content"]
    except UserError as error:  # data of the hub, without a network
        columns = prompt = f"not to be had: {error}"
    source = inspect.getsourcefile(type(task))
    return {
        "task": task.name,
        "what it is": " ".join((type(task).__doc__ or "").split()),
        "system prompt": task.system_prompt or "none",
        "columns": columns,
        "a prompt": prompt.replace("\n", " / "),
        "data and score": f"{type(task).__name__} in {source}",
    }
