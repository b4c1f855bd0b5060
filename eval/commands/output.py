"""Writing what `--output` names: refused before the work, and replaced in one step after it."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from eval.errors import UserError
from eval.storage import write_text


def require_writable(folder: Path) -> None:
    """Make `folder`, or raise `UserError` before any work is done for nothing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"--output needs the folder {folder}, but a file is in its way; choose another") from error
    except PermissionError as error:
        raise UserError(f"--output needs the folder {folder}, which you may not make; choose another") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"--output needs the folder {folder}, where you may not write; choose another")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Replace `path` in one step. ASCII only: a completion may hold half a surrogate pair, which UTF-8 cannot."""
    write_text(path, "".join(json.dumps(row, allow_nan=False, ensure_ascii=True) + "\n" for row in rows))
