"""The one exception that means "the user can fix this", and how a command reports it."""

import errno
import io
import os
import re
import sys
from collections.abc import Callable

from safetensors import SafetensorError

from eval.interrupts import end_on_interrupt
from eval.quiet import quiet_libraries


class UserError(Exception):
    """A mistake in the input. The message is one line: what is wrong and what to do about it."""


class UserCodeError(UserError):
    """Code of the user has raised. The message says where, and `details` has the user's own traceback."""

    def __init__(self, message: str, details: str):
        super().__init__(message)
        self.details = details


# A write that fails for lack of room: no space on the device, file larger than allowed, quota used up.
NO_ROOM = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}


def exit_with_one_line(main: Callable[[], None]) -> None:
    """Run `main`; turn a `UserError` or a full disk into one line on stderr and exit status 2, Ctrl-C into 130.

    Every other exception is a bug and keeps its traceback. What the output's encoding lacks is written as an escape.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    quiet_libraries()
    end_on_interrupt()
    try:
        main()
    except UserError as error:
        if isinstance(error, UserCodeError):
            print(error.details, file=sys.stderr)
        sys.exit(_report(str(error)))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = _no_room(error)
        if reason is None:
            raise
        advice = "the last complete checkpoint is intact: free some space and start the same command again"
        sys.exit(_report(f"no room left to write ({reason}); {advice}"))


def _no_room(error: Exception) -> str | None:
    """Why there was no room, or None if the error is another one. Each writer reports a full disk in its own way."""
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, SafetensorError) and (code := re.search(r"os error (\d+)", str(error))):
        return os.strerror(int(code[1])) if int(code[1]) in NO_ROOM else None
    # torch.save finds that fewer bytes were written than it handed over, and does not say why.
    if isinstance(error, RuntimeError) and "unexpected pos" in str(error):
        return "torch.save could not write all of its bytes"
    return None


def _report(message: str) -> int:
    # Progress bars end before it: the error is the last line, and stands on a line of its own.
    progress = sys.modules.get("tqdm")
    for bar in list(getattr(getattr(progress, "tqdm", None), "_instances", ())):
        bar.close()
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2
