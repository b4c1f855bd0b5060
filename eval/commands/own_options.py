"""Options of commands for data and rewards of one's own, as the recipes have them."""

import argparse
from typing import Any

from eval.errors import UserError


OPTIONS = ("data", "prompt_column", "answer_column", "reward", "system_prompt")


def add_own_data_options(parser: argparse.ArgumentParser, dashes: bool = False) -> None:
    """--data, --prompt_column, --answer_column, --reward and --system_prompt.

    dashes: whether --help writes --prompt-column, as the other options of the command; both are taken.
    """
    data = "rows of your own: .jsonl, .json, .parquet, .csv, or hub/name[:configuration]"
    parser.add_argument("--data", metavar="FILE", help=data)
    _add(parser, "system_prompt", dashes, metavar="TEXT", help="system message of every prompt of data")
    add_reward_options(parser, dashes)


def add_reward_options(parser: argparse.ArgumentParser, dashes: bool = False) -> None:
    """--reward, and the columns that it reads."""
    _add(parser, "prompt_column", dashes, metavar="COLUMN", help="column with the prompt (default: prompt)")
    _add(parser, "answer_column", dashes, metavar="COLUMN", help="column with the right answer (default: answer)")
    parser.add_argument(
        "--reward",
        nargs="+",
        action="extend",
        metavar="REWARD",
        help="file.py:function in TRL's signature, or boxed-number, choice, exact, contains, math; several with "
        "weights as reward=0.5",
    )


def _add(parser: argparse.ArgumentParser, name: str, dashes: bool, help: str, **options: Any) -> None:
    """An option of two words, which are written with a dash or an underscore."""
    shown, other = (f"--{name}", f"--{name.replace('_', '-')}")[:: -1 if dashes else 1]
    parser.add_argument(shown, dest=name, help=help, **options)
    parser.add_argument(other, dest=name, help=argparse.SUPPRESS, default=argparse.SUPPRESS, **options)


def own_tasks(arguments: argparse.Namespace, needs_reward: bool = True) -> list[str]:
    """The task that --data and its options describe, in a list; empty without --data.

    Raises UserError for the options without --data, and for data without the reward that is needed.
    """
    from eval.tasks import task_spec

    given: dict[str, Any] = {name: getattr(arguments, name) for name in OPTIONS}
    given = {name: value for name, value in given.items() if value}
    if given and "data" not in given:
        raise UserError(f"--{next(iter(given))} is for data of your own; give --data as well")
    if given and needs_reward and "reward" not in given:
        raise UserError("--data needs a --reward, such as reward.py:score or boxed-number")
    return [task_spec(given)] if given else []
