"""Writing so that a kill at any moment leaves either the old file or the new one, never half of one."""

import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import yaml

from eval.errors import UserError
from eval.ownership import UNFINISHED, files_in, free_place, require_ours, run_at, unfinished_file, write_marker


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = unfinished_file(path)
    try:
        with open(unfinished, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as JSON. Raises UserError for NaN and infinity, which are not JSON."""
    require_finite_numbers(value, str(path))
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, without the byte order mark that it may begin with.

    Raises UserError if it cannot be read or is no such text.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text in UTF-8 ({error}); save it as such") from error


def read_json(path: Path, constants: bool = False) -> Any:
    """The value in a JSON file. Raises UserError, naming file and line, for what is not JSON.

    constants: let NaN and Infinity pass, which other programs write.
    """
    try:
        return _decode(read_text(path), constants)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not JSON ({type(error).__name__}: {error}); move it away and start the same command again"
        ) from error


def read_yaml_mapping(path: Path) -> dict[str, Any]:
    """The options in a run's config.yaml. Raises UserError if the file cannot be read or holds something else."""
    try:
        values = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid YAML: {error}; correct it, or move the folder away") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no `key: value` lines; correct it, or move the folder away")
    return values


def append_jsonl(path: Path, row: dict[str, Any]) -> None:
    """Append one line. A kill may leave half a line at the end; `read_jsonl` leaves it out.

    Raises UserError for NaN and infinity, which are not JSON.
    """
    require_finite_numbers(row, str(path))
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row, allow_nan=False) + "\n")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All complete lines of `path`, in order; an unfinished last line (a killed writer's) is left out.

    Raises UserError, naming file and line, for a line that is no JSON object.
    """
    if not Path(path).exists():
        return []
    lines = read_text(path).split("\n")
    return [_row(line, f"{path}, line {number},") for number, line in enumerate(lines[:-1], start=1) if line.strip()]


def require_finite_numbers(value: Any, where: str) -> None:
    """Raise UserError, naming the place in it, if a number in `value` (of dicts and lists) is NaN or infinite."""
    for place, number in _not_finite(value):
        raise UserError(
            f"{place or 'the value'} is {number}, not finite, and is not written to {where}; what it was computed "
            "from has diverged or is too large"
        )


def _not_finite(value: Any, place: str = "") -> Iterator[tuple[str, float]]:
    """(place, number) of each number in `value` that is not finite; a place is keys and indices, with dots."""
    if isinstance(value, float) and not math.isfinite(value):
        yield place, value
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from _not_finite(entry, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list | tuple):
        for index, entry in enumerate(value):
            yield from _not_finite(entry, f"{place}.{index}" if place else str(index))


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row = _decode(line)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{where} is not JSON ({type(error).__name__}: {error}); correct or remove that line"
        ) from error
    if not isinstance(row, dict):
        raise UserError(f"{where} is not a JSON object; correct or remove that line")
    return row


def _decode(text: str, constants: bool = False) -> Any:
    return json.loads(text, parse_constant=None if constants else _refuse_constant)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not finite")


def truncate_jsonl(path: Path, last_step: int) -> None:
    """Drop the rows after `last_step` and an unfinished last line, so that a resumed run writes each step once."""
    if Path(path).exists():
        rows = [row for row in read_jsonl(path) if row["step"] <= last_step]
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `path` only when the block ends without an exception.

    Readers see no folder or a complete one: the rename is the last step. The folder is marked (see `eval.ownership`).
    An existing `path` is replaced; raises `UserError`, before the block too, if anything in it was not made so.
    """
    path = Path(path)
    require_ours(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    run = run_at(path.absolute().parent)
    unfinished = free_place(path, UNFINISHED)
    unfinished.mkdir()
    write_marker(unfinished, run)
    try:
        yield unfinished
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    write_marker(unfinished, run, files_in(unfinished))
    for file in unfinished.rglob("*"):
        if file.is_file():
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())
    if os.path.lexists(path):
        require_ours(path)
        # Renamed before it is removed: a kill in the middle of the removal must not leave half of it under its name.
        replaced = free_place(path, f"{UNFINISHED}replaced-")
        os.rename(path, replaced)
        os.rename(unfinished, path)
        shutil.rmtree(replaced)
    else:
        os.rename(unfinished, path)


def require_free_space(folder: Path, needed_bytes: int, what: str) -> None:
    """Raise `UserError` now if `folder`'s disk cannot hold `needed_bytes`, rather than after hours of work."""
    folder = Path(folder).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise UserError(
            f"{what} needs {needed_bytes / 1e6:.0f} MB but only {free / 1e6:.0f} MB are free on the disk of {folder}; "
            "free some space, choose another output_dir, or keep fewer checkpoints"
        )
