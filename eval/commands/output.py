"""Writing what `--output` names: refused before the work, and replaced in one step after it."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from eval.errors import UserError
from eval.folders import check_writable
from eval.storage import write_text


def require_writable(folder: Path) -> None:
    """Make `folder`, or raise `UserError` before any work is done for nothing."""
    check_writable(folder, "--output")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--output needs the folder {folder}, which cannot be made ({error}); choose another"
        ) from error


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Replace `path` in one step. ASCII only: a completion may hold half a surrogate pair, which UTF-8 cannot."""
    write_text(path, "".join(json.dumps(row, allow_nan=False, ensure_ascii=True) + "\n" for row in rows))
