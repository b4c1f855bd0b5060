"""LoRA ranks that follow a circuit's change: more for the layers whose edges changed most, with a random control.

CircuitLoRA, Wang et al. 2025 (arXiv 2502.11812): an edge's change is |score after - score before|, a layer's the sum
over the edges that begin in it; layers of large change get a higher rank. "Navigating by Old Maps" (arXiv 2605.06076)
finds no advantage over layers chosen at random, so that a control with as many other layers always comes along.
"""

import random
from collections.abc import Mapping

from eval.errors import UserError


def critical_layers(change: Mapping[int, float], count: int | None = None) -> list[int]:
    """The `count` layers of largest change; None takes those at or above mean + standard deviation, at least one.

    The standard deviation is that of a population, as in the paper's code.
    """
    ordered = sorted(change, key=lambda layer: (-change[layer], layer))
    if count is None:
        mean = sum(change.values()) / len(change)
        deviation = (sum((value - mean) ** 2 for value in change.values()) / len(change)) ** 0.5
        count = max(1, sum(value >= mean + deviation for value in change.values()))
    return sorted(ordered[:count])


def random_layers(layers: int, chosen: list[int], seed: int) -> list[int]:
    """As many layers as `chosen`, at random, but not the same set. Raises UserError if there is no other set."""
    if not 0 < len(chosen) < layers:
        raise UserError(f"{len(chosen)} of {layers} layers are critical, so no other choice exists; take fewer")
    generator = random.Random(seed)
    while True:
        drawn = sorted(generator.sample(range(layers), len(chosen)))
        if drawn != sorted(chosen):
            return drawn


def lora_patterns(critical: list[int], rank: int, alpha: int) -> dict[str, dict[str, int]]:
    """`rank_pattern` and `alpha_pattern` of peft's `LoraConfig`: all linear layers inside the critical layers."""
    numbers = "|".join(map(str, critical))
    pattern = rf"layers\.({numbers})\..*"
    return {"rank_pattern": {pattern: rank}, "alpha_pattern": {pattern: alpha}}
