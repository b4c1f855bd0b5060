"""Rows of published data sets: from a local file if there is one, else from the Hugging Face hub."""

import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetGenerationError

from eval.errors import UserError
from eval.tasks.base import check_request
from eval.tasks.generate import hash64


# The folder of local files; `data` in the current folder if the variable is not set.
DATA_VARIABLE = "POSTTRAIN_LAB_DATA"
SUFFIXES = (".jsonl", ".parquet")


def data_folder() -> Path:
    return Path(os.environ.get(DATA_VARIABLE, "data"))


@dataclass(frozen=True)
class HubSet:
    """One data set of the hub.

    task: the task that reads it; its local files are `<data folder>/<task>/<split>.jsonl` or `.parquet`.
    path, config: its name on the hub, and which of its configurations.
    columns: those the task reads; a file may have others.
    """

    task: str
    path: str
    config: str | None
    columns: tuple[str, ...]

    def open(self, split: str) -> datasets.Dataset:
        """The rows of one of the set's own splits, in its order.

        Raises UserError if there is no local file and the hub does not answer, and for a file that cannot be read or
        lacks a column.
        """
        for suffix in SUFFIXES:
            file = data_folder() / self.task / f"{split}{suffix}"
            if file.exists():
                return self._with_columns(_read_file(file), str(file))
        try:
            rows = datasets.load_dataset(self.path, self.config, split=split)
        except (OSError, ValueError) as error:
            # ValueError: the set is cached, but not this configuration of it, and the hub cannot be asked.
            wanted = data_folder() / self.task / f"{split}.jsonl"
            raise UserError(
                f"task {self.task}: {self.path} cannot be read from the hub here ({type(error).__name__}); turn the "
                f"network on (unset HF_HUB_OFFLINE), or place its {split} split at {wanted} (or .parquet; another "
                f"folder than {data_folder()}: set {DATA_VARIABLE}) with the columns {', '.join(self.columns)}"
            ) from error
        return self._with_columns(rows, f"{self.path} on the hub")

    def _with_columns(self, rows: datasets.Dataset, where: str) -> datasets.Dataset:
        missing = [column for column in self.columns if column not in rows.column_names]
        if missing:
            raise UserError(
                f"task {self.task}: {where} has no column {missing[0]!r}; it needs {', '.join(self.columns)}"
            )
        return rows


def _read_file(file: Path) -> datasets.Dataset:
    read = datasets.Dataset.from_parquet if file.suffix == ".parquet" else datasets.Dataset.from_json
    try:
        return read(str(file))
    except (DatasetGenerationError, ValueError) as error:
        kind = "a parquet file" if file.suffix == ".parquet" else "one JSON object a line, all with the same columns"
        raise UserError(f"cannot read {file}: it is not {kind}") from error


@dataclass(frozen=True)
class Part:
    """Some rows of a data set, in the order in which they are taken."""

    rows: datasets.Dataset
    indices: Sequence[int]


def parts_of_one_split(rows: datasets.Dataset, order: Sequence[int], test: int, validation: int) -> dict[str, Part]:
    """Our three splits of a set that has only one: in `order`, the papers' 200 for training, then `test` rows, then
    `validation` rows, and what is left goes to training again.
    """
    first, second = PAPER_TRAIN + test, PAPER_TRAIN + test + validation
    return {
        "train": Part(rows, [*order[:PAPER_TRAIN], *order[second:]]),
        "validation": Part(rows, order[first:second]),
        "test": Part(rows, order[PAPER_TRAIN:first]),
    }


# Rows that the paper on ES and GRPO (arXiv 2604.01499) trains on, the first of each set.
PAPER_TRAIN = 200


def parts_of_two_splits(train: datasets.Dataset, test: datasets.Dataset) -> dict[str, Part]:
    """Our three splits of a set with two: the last tenth of its training rows becomes validation."""
    border = len(train) - len(train) // 10
    return {
        "train": Part(train, range(border)),
        "validation": Part(train, range(border, len(train))),
        "test": Part(test, range(len(test))),
    }


def take_rows(
    task: str,
    parts: Mapping[str, Part],
    split: str,
    size: int,
    seed: int,
    identity: Callable[[dict[str, Any]], str],
    stratum: Callable[[dict[str, Any]], int] | None = None,
) -> list[dict[str, Any]]:
    """`size` rows of `split`.

    seed: 0 takes the first rows in the order of the part, which are the papers'; any other draws rows at random.
    identity: what a row asks. A problem stands in the part of one split only: a training row whose problem is also a
        validation or test row is passed over, and so is a validation row that is a test row, or a second copy.
    stratum: rows are taken in turn from each stratum, lowest first, so that each has as many as it can.

    A smaller `size` gives the beginning of a larger one. Raises UserError for an unknown split or too few rows.
    """
    check_request(task, split, size)
    seen = set()
    for later in {"train": ("validation", "test"), "validation": ("test",), "test": ()}[split]:
        seen |= {identity(parts[later].rows[index]) for index in parts[later].indices}
    order = list(parts[split].indices)
    if seed != 0:
        random.Random(hash64(task, split, seed)).shuffle(order)
    rows = parts[split].rows
    if stratum is not None:
        order = _in_turn(order, [stratum(rows[index]) for index in order])
    taken: list[dict[str, Any]] = []
    for index in order:
        row = rows[index]
        name = identity(row)
        if name not in seen:
            seen.add(name)
            taken.append(row)
            if len(taken) == size:
                return taken
    raise UserError(
        f"task {task} has {len(taken)} rows in its {split} split, not {size}; ask for at most {len(taken)}"
    )


def _in_turn(order: list[int], strata: list[int]) -> list[int]:
    """One of each stratum, then a second one of each, and so on."""
    counts: dict[int, int] = {}
    keys = []
    for stratum in strata:
        counts[stratum] = counts.get(stratum, 0) + 1
        keys.append((counts[stratum], stratum))
    return [index for _, index in sorted(zip(keys, order, strict=True), key=lambda pair: pair[0])]
