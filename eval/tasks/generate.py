"""Offline problems: the same for the same (seed, split, index), and never in two splits."""

import hashlib
import random
from collections.abc import Callable, Iterator
from typing import Any

from eval.tasks.base import check_request


# Of 20 hash buckets of problems, test takes 3, validation 2, train the rest: 15 %, 10 % and 75 % of all problems.
BUCKETS = 20
TEST_BUCKETS = range(0, 3)
VALIDATION_BUCKETS = range(3, 5)

Problem = dict[str, Any]


def hash64(*parts: str | int) -> int:
    """An integer in [0, 2^64) from the parts, the same on every machine and in every process."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big")


def split_of(identity: str) -> str:
    """The split a problem belongs to, decided by what it asks and not by how it was drawn.

    Two draws of the same problem, from whatever seeds, fall in the same split, so that no test problem is ever
    trained on.
    """
    bucket = hash64("split", identity) % BUCKETS
    if bucket in TEST_BUCKETS:
        return "test"
    return "validation" if bucket in VALIDATION_BUCKETS else "train"


def problems(
    task: str,
    draw: Callable[[random.Random], Problem],
    identity: Callable[[Problem], str],
    split: str,
    size: int,
    seed: int,
    first: int = 0,
) -> Iterator[Problem]:
    """Problems `first` to `first + size - 1` of an endless sequence for (task, split, seed).

    draw: makes one problem from a random generator of its own.
    identity: what a problem asks, written so that two equivalent problems have the same text.
    """
    check_request(task, split, size)
    for index in range(first, first + size):
        generator = random.Random(hash64(task, seed, split, index))
        problem = draw(generator)
        while split_of(f"{task} {identity(problem)}") != split:
            problem = draw(generator)
        yield problem


def conversation(system_prompt: str, question: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": system_prompt}, {"role": "user", "content": question}]
