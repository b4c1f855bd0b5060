"""Writing so that a kill at any moment leaves either the old file or the new one, never half of one."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eval.errors import UserError


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".unfinished-{path.name}")
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
    """Replace `path` by `value` as JSON. NaN and infinity are refused: they are not JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def append_jsonl(path: Path, row: dict[str, Any]) -> None:
    """Append one line. A kill may leave half a line at the end; `read_jsonl` leaves it out."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row, allow_nan=False) + "\n")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All complete lines of `path`, in order; an unfinished last line (a killed writer's) is left out."""
    if not Path(path).exists():
        return []
    lines = Path(path).read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def truncate_jsonl(path: Path, last_step: int) -> None:
    """Drop the rows after `last_step` and an unfinished last line, so that a resumed run writes each step once."""
    if Path(path).exists():
        rows = [row for row in read_jsonl(path) if row["step"] <= last_step]
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `path` only when the block ends without an exception.

    An existing `path` is replaced. Readers see no folder or a complete one: the rename is the last step.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".unfinished-{path.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        yield unfinished
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    for file in unfinished.rglob("*"):
        if file.is_file():
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())
    if path.exists():
        # Renamed before it is removed: a kill in the middle of the removal must not leave half of it under its name.
        replaced = path.with_name(f".unfinished-replaced-{path.name}")
        shutil.rmtree(replaced, ignore_errors=True)
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
