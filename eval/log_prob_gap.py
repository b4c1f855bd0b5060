"""How far the log-probabilities with which completions are generated are from those that training goes by.

The same weights and tokens, computed twice: token by token with a cache of keys and values, in the engine's type and
its kernels, and in one pass over the whole text. What differs is rounding, and with it the policy that an estimate of
a gradient takes for the one that acted (docs/training.md).

    log_prob_gap/mean   mean over tokens of |engine - reference|, in nats
    log_prob_gap/max    the largest
"""

import math
from collections.abc import Sequence


# Completions that are compared at a time, the first of a step.
COMPARED = 8
NAMES = ("log_prob_gap/mean", "log_prob_gap/max")


def gap(engine: Sequence[Sequence[float | None]], reference: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Mean and maximum of the absolute differences, over all tokens of all completions.

    None is a token that the engine could not score, and is left out; both are NaN if nothing is left.
    """
    pairs = zip(engine, reference, strict=True)
    differences = [abs(one - other) for both in pairs for one, other in zip(*both, strict=True) if one is not None]
    if not differences:
        return math.nan, math.nan
    return sum(differences) / len(differences), max(differences)
