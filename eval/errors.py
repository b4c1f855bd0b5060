"""The one exception that means "the user can fix this", and how a command reports it."""

import errno
import sys
from collections.abc import Callable


class UserError(Exception):
    """A mistake in the input. The message is one line: what is wrong and what to do about it."""


# A write that fails for lack of room: no space on the device, file larger than allowed, quota used up.
NO_ROOM = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}


def exit_with_one_line(main: Callable[[], None]) -> None:
    """Run `main`; turn a `UserError` or a full disk into one line on stderr and exit status 2.

    Every other exception is a bug and keeps its traceback.
    """
    try:
        main()
    except UserError as error:
        sys.exit(_report(str(error)))
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        where = f" at {error.filename}" if error.filename else ""
        sys.exit(
            _report(
                f"no room left to write{where} ({error.strerror}); the last complete checkpoint is "
                "intact: free some space and start the same command again"
            )
        )


def _report(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2
