"""Options of commands for data and rewards of one's own, as the recipes have them."""

import argparse
from typing import Any

from eval.errors import UserError


OPTIONS = ("data", "prompt_column", "answer_column", "reward", "system_prompt")


def add_own_data_options(parser: argparse.ArgumentParser) -> None:
    """--data, --prompt_column, --answer_column, --reward and --system_prompt; dashes do as well."""
    parser.add_argument(
        "--data", metavar="FILE", help="rows of your own: .jsonl, .json, .parquet, .csv, or hub/name[:configuration]"
    )
    parser.add_argument(
        "--prompt_column", "--prompt-column", metavar="COLUMN", help="column of data with the prompt (default: prompt)"
    )
    parser.add_argument(
        "--answer_column", "--answer-column", metavar="COLUMN", help="column with the right answer (default: answer)"
    )
    parser.add_argument(
        "--reward",
        nargs="+",
        action="extend",
        metavar="REWARD",
        help="file.py:function in TRL's signature, or boxed-number, choice, exact, contains, math; several with "
        "weights as reward=0.5",
    )
    parser.add_argument("--system_prompt", "--system-prompt", metavar="TEXT", help="system message of every prompt")


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
