"""Whether a folder can be made and written to, asked before the work whose results it is to take."""

import os
from pathlib import Path

from eval.errors import UserError


def check_writable(folder: str | Path, option: str) -> None:
    """Raise `UserError` if nothing can be written to `folder`, which need not exist; nothing is made.

    option: what named the folder, for the message.
    """
    try:
        if b"\0" in os.fsencode(folder):
            raise ValueError("a null byte is in it")
        nearest = path = Path(folder).absolute()
        while not os.path.lexists(nearest):
            nearest = nearest.parent
        if not nearest.is_dir():
            raise UserError(f"{option} needs the folder {path}, but a file is in its way; choose another")
        # /proc and its like take no folders, whoever asks.
        if not os.access(nearest, os.W_OK | os.X_OK) or nearest.resolve().parts[:2] in (("/", "proc"), ("/", "sys")):
            raise UserError(f"{option} needs the folder {path}, but you may not write to {nearest}; choose another")
        if path != nearest:
            longest = os.pathconf(nearest, "PC_NAME_MAX")
            if too_long := [name for name in path.parts if len(os.fsencode(name)) > longest]:
                raise UserError(f"{option} has a name of more than {longest} bytes: {too_long[0][:40]}...; shorten it")
    # ValueError: a null byte or half a surrogate pair, which no file name holds.
    except (OSError, ValueError) as error:
        raise UserError(f"{option} is {str(folder)!r}, where no folder can be ({error}); choose another") from error
