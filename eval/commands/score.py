"""Score completions that exist already.

Each line of a JSON Lines file is scored with a task, or with rewards of your own. The output has, in the same order,
one object a line: "value" (0.0 to 1.0, or the sum of your rewards; null if the completion cannot be scored) and
"parsed" (the answer found in the completion, or null).
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from tqdm import tqdm

from eval.adapters import evaluation_row
from eval.commands.output import require_writable, write_jsonl
from eval.commands.own_options import add_reward_options
from eval.errors import UserError
from eval.tasks import OwnTask, Task, get_task, known_names
from eval.tasks.own import rewards_alone
from eval.tasks.own_rows import messages


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", help=f"name of the task: {known_names()}")
    parser.add_argument(
        "--input",
        required=True,
        type=Path,
        metavar="FILE",
        help='JSON Lines, UTF-8: one object a line with "completion" and the columns of the task (countdown: '
        '"numbers" and "target"; arithmetic, four_choice and yes_no: "answer"); other columns are left alone',
    )
    add_reward_options(parser)
    parser.add_argument(
        "--output", required=True, type=Path, metavar="FILE", help="where to write the scores; replaced if it exists"
    )


def run(arguments: argparse.Namespace) -> None:
    """Nothing is written unless every line can be read and scored."""
    if bool(arguments.task) == bool(arguments.reward):
        raise UserError("give either --task, or a --reward of your own, which reads the columns of the input")
    if arguments.reward:
        task: Task = rewards_alone(arguments.reward, arguments.answer_column or "answer")
    else:
        task = get_task(arguments.task)
    prompt_column = arguments.prompt_column or "prompt"
    if arguments.output.resolve() == arguments.input.resolve():
        raise UserError("--output is the same file as --input and would replace it; choose another --output")
    require_writable(arguments.output.parent)
    if arguments.output.is_dir():
        raise UserError(f"--output {arguments.output} is a folder; give the name of a file")
    rows = list(_read_rows(arguments.input))
    # No bar before a second has passed: an error in a short file is then the only line.
    scores = [
        _score_row(task, row, prompt_column)
        for row in tqdm(rows, desc=f"score {task.name}", unit="row", delay=1, leave=False)
    ]
    write_jsonl(arguments.output, scores)
    right = sum(score["value"] == 1.0 for score in scores)
    unscorable = sum(score["value"] is None for score in scores)
    print(f"{len(scores)} rows: {right} right, {unscorable} unscorable; scores in {arguments.output}")


class _Row(dict):
    """The columns of one line; reading a column that it lacks names the line."""

    def __init__(self, columns: dict[str, Any], where: str):
        super().__init__(columns)
        self.where = where

    def __missing__(self, column: str) -> NoReturn:
        raise UserError(f"{self.where} has no column {column!r}; add it to the line")


def _read_rows(path: Path) -> Iterator[_Row]:
    """The objects of a JSON Lines file. A byte order mark, CR LF and blank lines at the end are tolerated."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read --input {path}: {error.strerror}; check the path") from error
    content = content.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n")
    if not content:
        raise UserError(f"--input {path} is empty; give one JSON object a line")
    for number, line in enumerate(content.split(b"\n"), start=1):
        where = f"{path}, line {number},"
        try:
            columns = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
        # RecursionError: brackets nested too deeply for the decoder.
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where} is not valid JSON in UTF-8; write one object a line") from error
        if not isinstance(columns, dict):
            raise UserError(f"{where} is not a JSON object; write one object a line, with its columns as keys")
        yield _Row(columns, where)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _score_row(task: Task, row: _Row, prompt_column: str) -> dict[str, Any]:
    completion = row["completion"]
    if not isinstance(completion, str):
        raise UserError(f"{row.where} has a completion that is not a text; write it as a JSON string")
    if isinstance(task, OwnTask):
        columns = {name: value for name, value in row.items() if name != "completion"}
        row = _Row({**columns, "prompt": messages(row.get(prompt_column, ""))}, row.where)
    try:
        score = evaluation_row(task, completion, row)
    except (TypeError, ValueError) as error:
        # The task never fails on a completion, so it is a column of the user's that it cannot read.
        raise UserError(f"{row.where} has columns that {task.name} cannot use: {error}; correct them") from error
    return {"value": score["value"], "parsed": score["parsed"]}
