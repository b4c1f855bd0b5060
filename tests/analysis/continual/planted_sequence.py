"""results.json of a sequential run whose accuracies, divergences and costs are planted, for tests of its summary."""

from collections.abc import Mapping, Sequence
from typing import Any


TASKS = ["countdown", "arithmetic", "four_choice", "yes_no"]
ITEMS = 100


def planted_matrix(start: Sequence[float], gain: float, losses: Sequence[float]) -> list[list[float]]:
    """[T + 1][C]: training k lifts its own task by `gain` and lowers every other column by its loss."""
    rows = [list(start)]
    for k, loss in enumerate(losses):
        rows.append([value + gain if j == k else value - loss for j, value in enumerate(rows[-1])])
    return [[round(value, 9) for value in row] for row in rows]


def scored(accuracy: float, items: int = ITEMS) -> list[float]:
    """Items of which the first are right, exactly the given share."""
    right = round(accuracy * items)
    assert abs(right - accuracy * items) < 1e-6, f"{accuracy} of {items} items is no whole number"
    return [1.0] * right + [0.0] * (items - right)


def planted_stage(task: str, k: int, kl: float, norm: float, completions: int = 5120) -> dict[str, Any]:
    """Stage k of a chain whose every stage drifts by `kl` from the model before, and by `norm` at a right angle."""

    def divergence(value: float) -> dict[str, Any]:
        return {
            direction: {"value": size, "low": 0.8 * size, "high": 1.2 * size}
            for direction, size in (("forward", value), ("reverse", 0.7 * value))
        }

    return {
        "task": task,
        "steps": 20 * k,
        "completions": completions,
        "tokens": 1000 * completions // 80,
        "seconds": 12.5 * k,
        "update_norm": norm,
        "drift_norm": norm * k**0.5,
        "kl": divergence(kl * k),
        "kl_step": divergence(kl),
    }


def planted_results(
    arms: Mapping[str, tuple[str, list[list[list[float]]]]],
    tasks: Sequence[str],
    columns: Sequence[str],
    kl: Mapping[str, Sequence[float]],
    norm: Mapping[str, float],
) -> dict[str, Any]:
    """arms: {arm: (method, matrix of each seed)}; kl: {arm: of the stages 1 .. T}; norm: {arm: of a stage}."""
    return {
        "study": "sequential",
        "command": "accelerate launch --config_file accelerate_configs/cpu.yaml recipes/sequential.py --config "
        "recipes/tiny/sequential.yaml",
        "environment": {"python": "3.11.9", "device": "cpu", "commit": None},
        "config": {
            "tasks": ",".join(tasks),
            "seeds": len(next(iter(arms.values()))[1]),
            "match": "completions",
            "budget": 5120,
            "arms": [f"{arm} {method} recipes/tiny/{method}.yaml" for arm, (method, _) in arms.items()],
        },
        "base_model": "recipes/tiny/models/llama-small",
        "tasks": list(tasks),
        "columns": list(columns),
        "match": "completions",
        "budget": 5120,
        "arms": {
            arm: {
                "method": method,
                "options": {},
                "seeds": {
                    str(seed): {
                        "scores": {column: [scored(row[j]) for row in matrix] for j, column in enumerate(columns)},
                        "stages": [
                            planted_stage(task, k, kl[arm][k - 1], norm[arm]) for k, task in enumerate(tasks, start=1)
                        ],
                    }
                    for seed, matrix in enumerate(matrices)
                },
            }
            for arm, (method, matrices) in arms.items()
        },
    }


# Points of accuracy that each training takes from every other column.
LOSSES = {
    "es": [0.04, 0.08, 0.05, 0.07],
    "es-anchored": [0.02, 0.03, 0.02, 0.01],
    "grpo": [0.01, 0.0, 0.02, 0.01],
    "grpo-kl": [0.0, 0.0, 0.0, 0.0],
}
GAINS = {"es": 0.45, "es-anchored": 0.40, "grpo": 0.48, "grpo-kl": 0.44}


def full_run() -> dict[str, Any]:
    """Four tasks and one further column, four arms, three seeds that start 0.01 apart.

    The divergence of a stage is its loss + 0.001 in nats; the norm is that of the arm, and largest where less is lost.
    """
    start = [0.26, 0.32, 0.30, 0.52, 0.60]
    return planted_results(
        {
            arm: (
                arm.partition("-")[0],
                [planted_matrix([s - 0.01 * seed for s in start], GAINS[arm], losses) for seed in range(3)],
            )
            for arm, losses in LOSSES.items()
        },
        TASKS,
        [*TASKS, "gsm8k"],
        {arm: [loss + 0.001 for loss in losses] for arm, losses in LOSSES.items()},
        {"es": 7.3, "es-anchored": 9.1, "grpo": 1.6, "grpo-kl": 2.5},
    )
