"""`python -m eval score`, `python -m eval evaluate` and `python -m eval holdouts`."""

import argparse
import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from tqdm import tqdm

from eval.adapters import evaluation_row
from eval.errors import UserError, exit_with_one_line
from eval.external import HOLDOUTS, run_holdouts
from eval.storage import write_json, write_text
from eval.tasks import PAPER_TASKS, TASKS, Task, get_task
from eval.tasks.base import SPLITS


def main() -> None:
    arguments = _parser().parse_args()
    arguments.run(arguments)


class _Parser(argparse.ArgumentParser):
    """argparse answers a mistake with the usage and then the error; here one line is enough."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; `{self.prog} --help` explains every option")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m eval", description="Score completions, or evaluate a model.", allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="score|evaluate|holdouts")
    known = f"{', '.join([*TASKS, *PAPER_TASKS])}, reasoning_gym/NAME, or package.module:attribute"

    score = commands.add_parser(
        "score",
        help="score completions that exist already",
        description="Score each line of a JSON Lines file with a task. The output has, in the same order, one object "
        'a line: "value" (0.0 to 1.0, or null if the completion cannot be scored) and "parsed" (the answer found in '
        "the completion, or null).",
        allow_abbrev=False,
    )
    score.add_argument("--task", required=True, help=f"name of the task: {known}")
    score.add_argument(
        "--input",
        required=True,
        type=Path,
        metavar="FILE",
        help='JSON Lines, UTF-8: one object a line with "completion" and the columns of the task (countdown: '
        '"numbers" and "target"; arithmetic, four_choice and yes_no: "answer"); other columns are left alone',
    )
    score.add_argument(
        "--output", required=True, type=Path, metavar="FILE", help="where to write the scores; replaced if it exists"
    )
    score.set_defaults(run=score_file)

    evaluate = commands.add_parser(
        "evaluate",
        help="let a model answer the rows of tasks",
        description="Let a model answer rows of one or more tasks, greedily unless a temperature is given. Writes "
        "results.json, with the accuracy of each task and its 95 % interval, and TASK.jsonl for each task, with every "
        "prompt, completion and score.",
        allow_abbrev=False,
    )
    evaluate.add_argument(
        "--model", required=True, metavar="DIR", help="Hugging Face checkpoint folder, or the name of a hub model"
    )
    evaluate.add_argument(
        "--tasks", required=True, metavar="NAME,NAME", help=f"names of tasks, separated by commas: {known}"
    )
    evaluate.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="folder to write to; made if it does not exist"
    )
    evaluate.add_argument("--size", type=_at_least_1, default=500, help="rows of each task (default: %(default)s)")
    evaluate.add_argument(
        "--seed", type=int, default=0, help="seed of the rows and of the sampling (default: %(default)s)"
    )
    evaluate.add_argument(
        "--split", choices=SPLITS, default="test", help="split that the rows come from (default: %(default)s)"
    )
    evaluate.add_argument(
        "--temperature",
        type=_temperature,
        default=0.0,
        help="sampling temperature; 0 is greedy (default: %(default)s)",
    )
    evaluate.add_argument(
        "--max_new_tokens",
        type=_at_least_1,
        default=128,
        help="tokens after which a completion is cut (default: %(default)s)",
    )
    evaluate.add_argument(
        "--batch_size",
        type=_at_least_1,
        default=512,
        help="prompts answered at once; lower it if memory runs out (default: %(default)s)",
    )
    evaluate.add_argument(
        "--samples",
        type=_at_least_1,
        default=1,
        help="completions of each prompt; several need a temperature and give pass@k (default: %(default)s)",
    )
    evaluate.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="folder of earlier results; the same weights, task, rows and sampling are then not evaluated again",
    )
    evaluate.set_defaults(run=evaluate_model)

    holdouts = commands.add_parser(
        "holdouts",
        help="MMLU and IFEval through lm-evaluation-harness",
        description="Evaluate a model on hold-outs with lm-evaluation-harness (pip install -e '.[holdouts]'; it "
        "downloads their data). Writes the harness's own files, and holdouts.json with each metric, its 95 % interval "
        "and the settings that it depends on.",
        allow_abbrev=False,
    )
    holdouts.add_argument(
        "--model", required=True, metavar="DIR", help="Hugging Face checkpoint folder, or the name of a hub model"
    )
    holdouts.add_argument(
        "--tasks",
        default=",".join(HOLDOUTS),
        metavar="NAME,NAME",
        help="hold-outs, separated by commas (default: %(default)s)",
    )
    holdouts.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="folder to write to; made if it does not exist"
    )
    holdouts.set_defaults(run=evaluate_holdouts)
    return parser


def _at_least_1(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _temperature(text: str) -> float:
    try:
        temperature = float(text)
    except ValueError:
        temperature = math.nan
    if not 0 <= temperature < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is neither 0 nor a positive number")
    return temperature


def score_file(arguments: argparse.Namespace) -> None:
    """`score`: nothing is written unless every line can be read and scored."""
    task = get_task(arguments.task)
    if arguments.output.resolve() == arguments.input.resolve():
        raise UserError("--output is the same file as --input and would replace it; choose another --output")
    _require_writable(arguments.output.parent)
    if arguments.output.is_dir():
        raise UserError(f"--output {arguments.output} is a folder; give the name of a file")
    rows = list(_read_rows(arguments.input))
    # No bar before a second has passed: an error in a short file is then the only line.
    scores = [_score_row(task, row) for row in tqdm(rows, desc=f"score {task.name}", unit="row", delay=1, leave=False)]
    _write_jsonl(arguments.output, scores)
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


def _score_row(task: Task, row: _Row) -> dict[str, Any]:
    completion = row["completion"]
    if not isinstance(completion, str):
        raise UserError(f"{row.where} has a completion that is not a text; write it as a JSON string")
    try:
        score = evaluation_row(task, completion, row)
    except (TypeError, ValueError) as error:
        # The task never fails on a completion, so it is a column of the user's that it cannot read.
        raise UserError(f"{row.where} has columns that {task.name} cannot use: {error}; correct them") from error
    return {"value": score["value"], "parsed": score["parsed"]}


def evaluate_model(arguments: argparse.Namespace) -> None:
    """`evaluate`: results.json is removed first and written last, so that the records beside it are its own."""
    tasks = [get_task(name.strip()) for name in arguments.tasks.split(",")]
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise UserError(f"--tasks {arguments.tasks} names a task twice; name each once")
    if arguments.samples > 1 and arguments.temperature == 0:
        raise UserError(f"--samples {arguments.samples} without --temperature would all be the same; give both")
    _require_writable(arguments.output)
    # Imported here, because PyTorch takes seconds that `score`, `--help` and a typing mistake need not wait for.
    from eval.harness import evaluate_task
    from eval.rollout.base import Sampling
    from eval.rollout.hf import HFEngine

    engine = HFEngine.from_pretrained(arguments.model)
    sampling = Sampling(arguments.max_new_tokens, arguments.temperature, arguments.samples, arguments.seed)
    results_file = arguments.output / "results.json"
    results_file.unlink(missing_ok=True)
    results = {
        "model": arguments.model,
        "split": arguments.split,
        "size": arguments.size,
        "seed": arguments.seed,
        "temperature": arguments.temperature,
        "max_new_tokens": arguments.max_new_tokens,
        **({"samples": arguments.samples} if arguments.samples > 1 else {}),
        "tasks": {},
    }
    for task in tasks:
        result = evaluate_task(
            engine,
            task,
            arguments.split,
            arguments.size,
            arguments.seed,
            sampling,
            arguments.batch_size,
            arguments.cache,
        )
        # A reasoning-gym task has a slash in its name.
        _write_jsonl(arguments.output / f"{task.name.replace('/', '-')}.jsonl", result.pop("records"))
        results["tasks"][task.name] = result
    write_json(results_file, results)
    for name, result in results["tasks"].items():
        print(f"{name:16} {_describe(result)}")
    print(f"results in {results_file}")


def _describe(result: dict[str, Any]) -> str:
    """`accuracy 0.412, 95 % interval 0.370 to 0.456, 500 rows`"""
    if result["low"] is None:
        return f"no interval, {result['total']} rows scored, {result['unscorable']} unscorable"
    return (
        f"accuracy {result['accuracy']:.3f}, 95 % interval {result['low']:.3f} to {result['high']:.3f}, "
        f"{result['total']} rows scored, {result['unscorable']} unscorable"
    )


def evaluate_holdouts(arguments: argparse.Namespace) -> None:
    """`holdouts`: see `eval.external`."""
    _require_writable(arguments.output)
    result = run_holdouts(arguments.model, arguments.tasks.split(","), arguments.output)
    for task, metrics in result["tasks"].items():
        for metric, found in metrics.items():
            print(f"{task:8} {metric:24} {found['value']:.3f}, {found['rows']} rows")
    print(f"results in {arguments.output / 'holdouts.json'}")


def _require_writable(folder: Path) -> None:
    """Make `folder`, or raise `UserError` before any work is done for nothing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"--output needs the folder {folder}, but a file is in its way; choose another") from error
    except PermissionError as error:
        raise UserError(f"--output needs the folder {folder}, which you may not make; choose another") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"--output needs the folder {folder}, where you may not write; choose another")


def _write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Replace `path` in one step. ASCII only: a completion may hold half a surrogate pair, which UTF-8 cannot."""
    write_text(path, "".join(json.dumps(row, allow_nan=False, ensure_ascii=True) + "\n" for row in rows))


if __name__ == "__main__":
    exit_with_one_line(main)
