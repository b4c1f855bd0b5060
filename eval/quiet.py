"""A terminal that shows the lab's own lines: what libraries say in a healthy run stays unsaid, their warnings do not.

Bars appear on a terminal only: a log file gets lines, without carriage returns.
"""

import logging
import os
import sys
import warnings
from functools import partialmethod


# Read by the libraries when they are imported, here or in a process that this one starts. What is set stays as it is.
SETTINGS = {
    # Bars for each file that is loaded, for each step of preparing a data set.
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    # What type evotorch's numbers have. 0 leaves its warnings.
    "EVOTORCH_VERBOSE_LEVEL": "0",
    # vLLM warns of a dozen things that are meant to be so on a CPU, and of none that a user could change.
    "VLLM_LOGGING_LEVEL": "ERROR",
    # torch's C++ side: that DDP looked for unused parameters and found none, where vLLM binds memory.
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    # "The current process just got forked, after parallelism has already been used".
    "TOKENIZERS_PARALLELISM": "false",
}
# vLLM's loggers speak before it has read its level: "Triton is installed, but could not be imported".
LEVELS = {"evotorch": logging.WARNING, "vllm": logging.ERROR}


def quiet_imports() -> None:
    """Before the libraries are imported, that is when the package `eval` is."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    for name, level in LEVELS.items():
        logging.getLogger(name).setLevel(level)
    warnings.filterwarnings("ignore", category=FutureWarning, module="vllm")


def quiet_libraries() -> None:
    """At the beginning of a command, or of a process that it starts."""
    # Those that are imported already have read the variables.
    if (transformers := sys.modules.get("transformers.utils.logging")) is not None:
        transformers.disable_progress_bar()
    if (datasets := sys.modules.get("datasets")) is not None:
        datasets.disable_progress_bars()
    bars_only_on_a_terminal()


def bars_only_on_a_terminal() -> None:
    """Let every bar of tqdm, of whatever library, be drawn only where its output is a terminal."""
    from tqdm import tqdm  # here, because the package `eval` has to be imported without any library

    if not isinstance(vars(tqdm)["__init__"], _OnlyOnATerminal):
        tqdm.__init__ = _OnlyOnATerminal(tqdm.__init__, disable=None)  # pyright: ignore[reportAttributeAccessIssue]


class _OnlyOnATerminal(partialmethod):
    """tqdm's constructor, with None (only on a terminal) as the default of `disable`."""
