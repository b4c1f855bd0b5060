"""LoRA ranks that follow a circuit's change: more for the layers whose edges changed most, with a random control.

CircuitLoRA, Wang et al. 2025 (arXiv 2502.11812): an edge's change is |score after - score before|, a layer's the sum
over the edges that begin in it; layers of large change get a higher rank. "Navigating by Old Maps" (arXiv 2605.06076)
finds no advantage over layers chosen at random, so that a control with as many other layers always comes along.
"""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.errors import UserError
from eval.storage import write_json


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


def layer_change(by_task: Sequence[Sequence[float]]) -> dict[int, float]:
    """{layer: its share of the change of the edges, mean over tasks}; {} if no edge of any task changed.

    by_task: for each task the changes of the edges that begin in `input`, then in each layer. Those from `input` count
    for the first layer.
    """
    changed = [changes for changes in by_task if sum(changes) > 0]
    totals: dict[int, float] = {}
    for first, *layers in changed:
        for layer, change in enumerate([first + layers[0], *layers[1:]]):
            totals[layer] = totals.get(layer, 0.0) + change / (first + sum(layers)) / len(changed)
    return totals


def write_lora_patterns(
    folder: Path, name: str, change: Mapping[int, float], count: int | None, seed: int, rank: int, alpha: int
) -> dict[str, Any]:
    """Critical and random layers of one model, with files of both for `lora_patterns` of GRPO."""
    critical = critical_layers(change, count)
    entry = {
        "change": [change[layer] for layer in sorted(change)],
        "critical": critical,
        "random": random_layers(len(change), critical, seed),
    }
    for kind in ("critical", "random"):
        path = folder / f"{name}-{kind}.json"
        write_json(path, lora_patterns(entry[kind], rank, alpha))
        entry[f"{kind}_file"] = str(path)
    return entry
