"""What a training from nothing asks of this machine, before its model is made."""

import psutil

from eval.errors import UserError


# Bytes per parameter: the weight, its gradient and AdamW's two moments, in float32.
TRAINED = 16


def require_training_memory(parameters: int, options: str) -> None:
    """Raise `UserError` if a model of at least so many parameters cannot be trained in this machine's memory.

    options: those to lower, for the message.
    """
    needed, there = TRAINED * parameters, psutil.virtual_memory().total
    if needed > there:
        raise UserError(
            f"training this model takes {needed / 1e9:.1f} GB of memory at least, and this machine has "
            f"{there / 1e9:.1f} GB; lower {options}"
        )
