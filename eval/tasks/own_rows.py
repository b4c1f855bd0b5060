"""Rows of one's own: read from a file or the hub, checked with the line each stands on, split by what they ask."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from eval.errors import UserError
from eval.tasks.base import SPLITS
from eval.tasks.generate import BUCKETS, TEST_BUCKETS, VALIDATION_BUCKETS, hash64


Row = dict[str, Any]
SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")
SPLIT_COLUMN = "split"
# What other data sets call our splits.
ALIASES = {"val": "validation", "valid": "validation", "dev": "validation", "eval": "validation"}
# Different prompts that validation and test have at least, where they are taken from the rows.
LEAST_HELD_OUT = 2
# Of the bad rows, as many are named.
MOST_NAMED = 5
ROLES = ("system", "user", "assistant", "tool", "developer")


@dataclass(frozen=True)
class Placed:
    """A row and where it stands, such as `line 7`."""

    row: Row
    place: str


class BadRows:
    """Counts what is wrong with rows, and raises one error for all of them."""

    def __init__(self, source: str):
        self.source, self.found = source, []

    def add(self, place: str, what: str) -> None:
        self.found.append(f"{place}: {what}")

    def raise_if_any(self) -> None:
        if self.found:
            named = "; ".join(self.found[:MOST_NAMED])
            more = f"; and {len(self.found) - MOST_NAMED} more" if len(self.found) > MOST_NAMED else ""
            count = "1 bad row" if len(self.found) == 1 else f"{len(self.found)} bad rows"
            raise UserError(f"{self.source} has {count}: {named}{more}; correct or remove them")


def read_rows(source: str) -> list[Placed]:
    """The rows of a .jsonl, .json, .parquet or .csv file, or of a data set `owner/name[:configuration]` of the hub.

    Raises UserError for a file that is not there or of another kind, and for rows that are no rows.
    """
    path = Path(source).expanduser()
    if path.suffix in SUFFIXES:
        if not path.is_file():
            raise UserError(f"data: there is no file {source}; check the path")
        bad = BadRows(source)
        readers = {".jsonl": _json_lines, ".json": _json, ".parquet": _parquet, ".csv": _csv}
        try:
            placed = list(readers[path.suffix](path, bad))
        except OSError as error:
            raise UserError(f"data: cannot read {source} ({error.strerror or error}); check the file") from error
        bad.raise_if_any()
    elif source.count("/") == 1 and not path.exists() and not source.startswith((".", "/", "~")):
        placed = list(_hub(source))
    else:
        raise UserError(f"data is {source!r}; give a file ending in {', '.join(SUFFIXES)}, or hub/name")
    if not placed:
        raise UserError(f"data: {source} has no rows; give at least {3 * LEAST_HELD_OUT}")
    return placed


def checked_rows(
    source: str,
    placed: Sequence[Placed],
    prompt_column: str,
    answer_column: str,
    problems: Mapping[str, Callable[[str], str | None]],
) -> list[Row]:
    """The rows with all columns and their own prompt as messages in `prompt`.

    answer_column: empty if nothing reads one. problems: per scorer, what is wrong with a row's answer. Raises one
    UserError that counts all bad rows and names the first ones.
    """
    bad = BadRows(source)
    columns = list(dict.fromkeys(name for one in placed for name in one.row))
    for needed, option in ((prompt_column, "prompt_column"), (answer_column, "answer_column")):
        if needed and needed not in columns:
            raise UserError(
                f"{source} has no column {needed!r} (option {option}); it has {', '.join(map(str, columns))}"
            )
    types: dict[str, type] = {}
    rows = []
    for one in placed:
        what = _wrong_prompt(one.row, prompt_column) or _wrong_answer(one.row, answer_column, problems)
        what = what or _wrong_type(one.row, types, prompt_column) or _wrong_split(one.row)
        if what:
            bad.add(one.place, what)
        else:
            rows.append({name: one.row.get(name) for name in columns} | {"prompt": messages(one.row[prompt_column])})
    bad.raise_if_any()
    return rows


def messages(prompt: Any) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def identity(prompt: Any) -> str:
    """What a prompt asks: equal prompts have equal texts, and the text decides the split."""
    return json.dumps(messages(prompt), sort_keys=True, ensure_ascii=False)


def split_rows(source: str, rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows by split, each in the order of the file; equal prompts are in the same split.

    A `split` column says where a row belongs. Where there is none, or where it names no validation or test rows, the
    hash of the prompt decides: 10 % validation, 15 % test; of few rows the prompts with the lowest hashes, so that
    each has at least `LEAST_HELD_OUT`.

    Raises UserError for too few different prompts, and for a prompt that the column places in two splits.
    """
    names = [identity(row["prompt"]) for row in rows]
    placed: dict[str, str] = {}
    for name, row in zip(names, rows, strict=True):
        stated = _stated_split(row) or "train"
        if placed.setdefault(name, stated) != stated:
            prompt = row["prompt"][-1]["content"][:60]
            raise UserError(
                f"{source}: the prompt {prompt!r} stands in {placed[name]} and in {stated}; keep it in one split"
            )
    drawn = [split for split in ("validation", "test") if split not in set(placed.values())]
    buckets = {"validation": VALIDATION_BUCKETS, "test": TEST_BUCKETS}
    for name in [name for name in placed if placed[name] == "train"]:
        for split in drawn:
            if hash64("split", name) % BUCKETS in buckets[split]:
                placed[name] = split
    for split in drawn:
        training = sorted((name for name in placed if placed[name] == "train"), key=lambda name: hash64(split, name))
        missing = LEAST_HELD_OUT - sum(found == split for found in placed.values())
        if missing > 0 and len(training) - missing < LEAST_HELD_OUT:
            raise UserError(
                f"{source} has {len(placed)} different prompts, too few to hold some out for validation and test; "
                f"give at least {3 * LEAST_HELD_OUT}"
            )
        for name in training[: max(0, missing)]:
            placed[name] = split
    if "train" not in placed.values():
        raise UserError(f"{source} has no training rows; leave the column {SPLIT_COLUMN!r} out, or give it some")
    return {split: [row for name, row in zip(names, rows, strict=True) if placed[name] == split] for split in SPLITS}


def _json_lines(path: Path, bad: BadRows) -> Iterator[Placed]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError:
                bad.add(f"line {number}", "is not UTF-8")
            except (ValueError, RecursionError):
                bad.add(f"line {number}", "is not JSON")
            else:
                if isinstance(row, dict):
                    yield Placed(row, f"line {number}")
                else:
                    bad.add(f"line {number}", "is no JSON object")


def _json(path: Path, bad: BadRows) -> Iterator[Placed]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"data: {path} is not JSON ({' '.join(str(error).split())}); correct it") from error
    if not isinstance(rows, list):
        raise UserError(f"data: {path} holds no list of rows; write [{{...}}, ...], or one row a line as .jsonl")
    for number, row in enumerate(rows, start=1):
        if isinstance(row, dict):
            yield Placed(row, f"row {number}")
        else:
            bad.add(f"row {number}", "is no JSON object")


def _csv(path: Path, bad: BadRows) -> Iterator[Placed]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, restkey="")
        try:
            for row in reader:
                if "" in row or None in row.values():
                    bad.add(f"line {reader.line_num}", "has another number of fields than the first line")
                else:
                    yield Placed(row, f"line {reader.line_num}")
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(f"data: {path}, line {reader.line_num + 1} is not CSV in UTF-8 ({error})") from error


def _parquet(path: Path, bad: BadRows) -> Iterator[Placed]:
    try:
        rows = pq.read_table(path).to_pylist()
    except pa.ArrowException as error:
        raise UserError(f"data: {path} is no parquet file ({' '.join(str(error).split())})") from error
    for number, row in enumerate(rows, start=1):
        yield Placed(row, f"row {number}")


def _hub(source: str) -> Iterator[Placed]:
    name, _, configuration = source.partition(":")
    try:
        sets = cast(datasets.DatasetDict, datasets.load_dataset(name, configuration or None))
    except Exception as error:  # of several libraries: offline, not there, gated, a configuration that has to be named
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"data: {name} cannot be read from the hub here ({type(error).__name__}: {reason}); turn the network on "
            "(unset HF_HUB_OFFLINE), name a configuration as hub/name:configuration, or give a file"
        ) from error
    for split, rows in ((str(split), rows.to_list()) for split, rows in sets.items()):
        if ALIASES.get(split, split) in SPLITS:
            for number, row in enumerate(rows, start=1):
                yield Placed({**row, SPLIT_COLUMN: split} if len(sets) > 1 else dict(row), f"{split} row {number}")


def _stated_split(row: Row) -> str | None:
    stated = row.get(SPLIT_COLUMN)
    return ALIASES.get(stated, stated) if isinstance(stated, str) else None


def _wrong_prompt(row: Row, column: str) -> str | None:
    prompt = row.get(column)
    if prompt is None:
        return f"has no {column!r}" if column not in row else f"{column!r} is null"
    if isinstance(prompt, str):
        return None if prompt.strip() else f"{column!r} is empty"
    if not isinstance(prompt, list):
        return f"{column!r} is {_kind(type(prompt))}, not a text or a list of messages"
    if not prompt:
        return f"{column!r} is empty"
    for message in prompt:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            return f"{column!r} has a message without role and content"
        if message.get("role") not in ROLES:
            return f"{column!r} has a message with the role {message.get('role')!r}"
    if prompt[-1]["role"] == "assistant" or not prompt[-1]["content"].strip():
        return f"{column!r} does not end with a question of the user"
    return None


def _wrong_answer(row: Row, column: str, problems: Mapping[str, Callable[[str], str | None]]) -> str | None:
    if not column:
        return None
    answer = row.get(column)
    if answer is None:
        return f"has no {column!r}" if column not in row else f"{column!r} is null"
    if isinstance(answer, str) and not answer.strip():
        return f"{column!r} is empty"
    for scorer, problem in problems.items():
        if isinstance(answer, list | dict):
            return f"{column!r} is {_kind(type(answer))}, and {scorer} compares texts and numbers"
        if what := problem(str(answer)):
            return f"{column!r} {str(answer)[:40]!r} {what} ({scorer})"
    return None


def _wrong_type(row: Row, types: dict[str, type], prompt_column: str) -> str | None:
    """A column has one type, that of its first value; prompts may be texts and messages side by side."""
    for name, value in row.items():
        if value is None or name == prompt_column:
            continue
        kind = float if type(value) is int else type(value)
        if types.setdefault(name, kind) is not kind:
            return f"{name!r} is {_kind(kind)}, in earlier rows it is {_kind(types[name])}"
    return None


def _wrong_split(row: Row) -> str | None:
    stated = row.get(SPLIT_COLUMN)
    if stated is None or _stated_split(row) in SPLITS:
        return None
    return f"{SPLIT_COLUMN!r} is {stated!r}, not one of {', '.join(SPLITS)}"


def _kind(type_: type) -> str:
    names = {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type_, f"a {type_.__name__}")
