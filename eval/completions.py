"""What a model wrote in a final evaluation, as a parquet file that stays in the run folder.

    prompt      messages, as in TRL's tables of completions
    completion  one message of the assistant, as there
    <task>      the score, null where the completion cannot be scored; TRL has a column for each reward, by its name
    index       of the problem; sample: of its completions
    parsed      the answer that was found, null if there is none
    tokens      how many were generated; finished: whether the model ended by itself
    parts       JSON: the further numbers of the score
    reference   JSON: the columns of the problem that a score may read
    exact       only of a graded task: see `accuracy_of`

Texts are UTF-8, which has no lone surrogates: each stands there as the six characters of its escape, such as \\ud800.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from eval.errors import UserError


Record = dict[str, Any]
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
COLUMNS = {
    "index": pa.int64(),
    "sample": pa.int64(),
    "prompt": MESSAGES,
    "completion": MESSAGES,
    "parsed": pa.string(),
    "tokens": pa.int64(),
    "finished": pa.bool_(),
    "parts": pa.string(),
    "reference": pa.string(),
}
# The column that graded tasks have besides.
EXACT = "exact"


def accuracy_of(record: Record) -> float | None:
    """What a completion counts for in an accuracy: its value, or a graded one's `Score.exact`; None if unscored."""
    return record.get(EXACT, record["value"])


def completions_file(model: str, task: str) -> str:
    """Where the completions of a model on a task lie in their folder."""
    return f"{file_name(model)}/{file_name(task)}.parquet"


def file_name(name: str) -> str:
    """The name as a file can have it; one that had to be changed ends in a part of its hash, so that no two meet."""
    plain = re.sub(r"[^\w.-]", "-", name)
    if plain == name and name.strip("."):
        return name
    return f"{plain.strip('.')}-{hashlib.blake2b(name.encode('utf-8', 'surrogatepass'), digest_size=4).hexdigest()}"


def write_completions(path: Path, task: str, records: Iterable[Record], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the records of `eval.harness.evaluate_task` on `rows`, the task's problems in their order."""
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    scores, exact = [], []
    for record in records:
        row = rows[record["index"]]
        reference = {name: value for name, value in row.items() if name != "prompt"}
        entries = {
            "index": record["index"],
            "sample": record.get("sample", 0),
            "prompt": [{key: in_utf8(str(message[key])) for key in ("role", "content")} for message in row["prompt"]],
            "completion": [{"role": "assistant", "content": in_utf8(record["completion"])}],
            "parsed": None if record["parsed"] is None else in_utf8(str(record["parsed"])),
            "tokens": record["tokens"],
            "finished": record["finished"],
            "parts": json.dumps(record["parts"]),
            "reference": json.dumps(reference, default=str),
        }
        scores.append(record["value"])
        exact.append(record.get(EXACT))
        for name, entry in entries.items():
            columns[name].append(entry)
    table = {name: pa.array(columns[name], type_) for name, type_ in COLUMNS.items()}
    first = {name: table.pop(name) for name in ("prompt", "completion")}
    if any(value is not None for value in exact):
        table[EXACT] = pa.array(exact, pa.float64())
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({**first, score_column(task): pa.array(scores, pa.float64()), **table}), path)


def read_completions(path: Path) -> list[Record]:
    """The completions of a file, in order: its columns with `text` and `value` in place of `completion` and <task>.

    A table that a trainer wrote has one row for each completion, by its place; what it lacks is None.

    Raises UserError if the file is no such table.
    """
    try:
        table = pq.read_table(path)
        if "index" not in table.column_names:
            return _of_a_training(table)
        [score] = [name for name in table.column_names if name not in (*COLUMNS, EXACT)]
        return [
            {
                "index": row["index"],
                "sample": row["sample"],
                "prompt": row["prompt"],
                "text": row["completion"][-1]["content"],
                "value": row[score],
                "parsed": row["parsed"],
                "tokens": row["tokens"],
                "finished": row["finished"],
                "parts": json.loads(row["parts"]),
                "reference": json.loads(row["reference"]),
                **({EXACT: row[EXACT]} if row.get(EXACT) is not None else {}),
            }
            for row in table.to_pylist()
        ]
    except (OSError, ValueError, LookupError, TypeError, pa.ArrowException) as error:
        raise UserError(
            f"{path} holds no completions of an evaluation ({type(error).__name__}); put the file back, or take it "
            "away: the page then says that it is missing"
        ) from error


def _of_a_training(table: pa.Table) -> list[Record]:
    """The rows of a table of TRL's trainer, or of ES: step, prompt, completion, rewards, and `advantage` or `member`.

    The reward as a whole is TRL's first, and the last of ES.
    """
    names = [name for name in table.column_names if name not in ("step", "prompt", "completion")]
    score = names[-2] if names[-1] == "member" else names[0]
    return [
        {
            "index": index,
            "sample": 0,
            "prompt": row["prompt"],
            "text": row["completion"][-1]["content"],
            "value": None if row[score] is None or math.isnan(row[score]) else row[score],
            "parsed": None,
            "tokens": None,
            "finished": None,
            "parts": {},
            "reference": {name: row[name] for name in names if name != score},
        }
        for index, row in enumerate(table.to_pylist())
    ]


def score_column(task: str) -> str:
    """The column of the scores: the task's name, as TRL calls a reward's, unless another column has it."""
    name = in_utf8(task)
    return f"{name} score" if name in (*COLUMNS, EXACT) else name


def in_utf8(text: str) -> str:
    """The text with each lone surrogate, which UTF-8 cannot hold, as its escape."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
