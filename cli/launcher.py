"""`accelerate launch`, but for Ctrl-C: the recipe has the last word, and its exit status is this command's.

accelerate's own command prints a traceback of its own, and of several processes one of torch's.
"""

import logging
import signal
import sys

import torch.distributed.run  # noqa: F401  it sets the levels of its loggers when it is imported
from accelerate.commands.launch import launch_command, launch_command_parser
from torch.distributed.elastic.multiprocessing.api import SignalException

from eval.interrupts import STATUS


def main() -> None:
    interrupted = []
    # A handler, unlike SIG_IGN, is not handed on to the recipe's process. Where SIGINT is ignored it stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: interrupted.append(True))
    # With several processes torch's agent says that it got the signal and hands it on to each.
    for name in ("elastic.agent.server.api", "elastic.multiprocessing.api", "run"):
        # The last sets a number of threads where none is given, and warns of it.
        logging.getLogger(f"torch.distributed.{name}").setLevel(logging.ERROR)
    try:
        launch_command(launch_command_parser().parse_args())
    except SignalException as stopped:
        sys.exit(128 + stopped.sigval)
    except SystemExit:
        if interrupted:
            sys.exit(STATUS)
        raise


if __name__ == "__main__":
    main()
