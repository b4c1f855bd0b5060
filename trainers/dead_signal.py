"""A dead signal: all rewards of a step are equal, step after step, so that no method can learn from them.

A wrong column, a parser that never finds an answer or a model that cannot do the task looks like training otherwise.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.storage import read_jsonl
from eval.tasks.own_reward import shortened
from trainers.launch import is_main_process


# So many steps in a row are no accident, whatever the batch.
LONGEST_ACCIDENT = 2
SHOWN = 3


class DeadSignal:
    """Counts the steps in a row whose rewards are all equal, and warns once per stretch, on the main process."""

    def __init__(self):
        self.equal_steps = 0

    def resume(self, metrics: Path) -> None:
        """Go on from the last row of metrics.jsonl."""
        rows = read_jsonl(metrics)
        self.equal_steps = rows[-1].get("equal_rewards", 0) if rows else 0

    def step(self, rewards: Sequence[float | None], examples: Sequence[tuple[str, float | None]]) -> None:
        """Take the rewards of one step, of all processes; None and NaN are completions without a reward.

        examples: some completions with their rewards, shown with the warning.
        """
        given = [reward for reward in rewards if reward is not None and not math.isnan(reward)]
        self.equal_steps = self.equal_steps + 1 if not given or min(given) == max(given) else 0
        if self.equal_steps == LONGEST_ACCIDENT + 1 and is_main_process():
            print(warning(given[0] if given else None, examples), flush=True)

    def flags(self) -> dict[str, Any]:
        """Of a row of metrics.jsonl: `equal_rewards`, the steps in a row, and `dead_signal`; empty if all is well."""
        if not self.equal_steps:
            return {}
        return {"equal_rewards": self.equal_steps} | (
            {"dead_signal": True} if self.equal_steps > LONGEST_ACCIDENT else {}
        )


def warning(reward: float | None, examples: Sequence[tuple[str, float | None]]) -> str:
    """Several lines: what is wrong, and completions with their rewards."""
    every = "no completion could be scored" if reward is None else f"every completion had the reward {reward:g}"
    shown = [f"  reward {value}: {shortened(repr(text), 120)}" for text, value in examples[:SHOWN]]
    return "\n".join(
        [
            f"warning: in {LONGEST_ACCIDENT + 1} steps in a row {every}, so there is nothing to learn from; check the "
            "reward, the columns it reads and whether the model can do the task at all:",
            *shown,
        ]
    )
