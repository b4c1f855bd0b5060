"""A task for models with random weights: the reward is a checksum of the answer.

Nothing can be learnt from it, but every token counts: two runs with the same rewards have written the same texts.
"""

import zlib
from dataclasses import dataclass
from typing import Any

import datasets

from eval.tasks.base import Score, check_request
from eval.tasks.generate import conversation


@dataclass(frozen=True)
class Checksum:
    name: str = "checksum"
    system_prompt: str = "Answer at length."

    def load(self, split: str, size: int, seed: int) -> datasets.Dataset:
        check_request(self.name, split, size)
        questions = (f"Tell me all that you know of the number {seed + index} of {split}." for index in range(size))
        return datasets.Dataset.from_list(
            [{"prompt": conversation(self.system_prompt, question)} for question in questions]
        )

    def score(self, completion: str, row: dict[str, Any]) -> Score:
        return Score((zlib.crc32(completion.encode()) % 1000) / 999, completion or None)


TASK = Checksum()
TASK_NAME = "tests.gpu_check.reward:TASK"
