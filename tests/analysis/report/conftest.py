"""A finished comparison with made-up numbers of the size that the tiny models give."""

import math
from pathlib import Path

import numpy as np
import pytest

from analysis.report import build
from eval.storage import write_json


TASKS = {"countdown": 0.27, "arithmetic": 0.41, "four_choice": 0.46, "yes_no": 0.58}
GAINS = {
    "base": dict.fromkeys(TASKS, 0.0),
    "es": {"countdown": 0.28, "arithmetic": -0.14, "four_choice": -0.02, "yes_no": 0.01},
    "grpo": {"countdown": 0.33, "arithmetic": 0.02, "four_choice": 0.01, "yes_no": 0.0},
}
KINDS = [
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
    "input_layernorm",
    "post_attention_layernorm",
]
# Relative length of the update by kind, before some variation over the layers.
RELATIVE = {"es": 0.1, "grpo": 0.006}


def wilson(share: float, total: int) -> tuple[float, float]:
    """95 % Wilson interval; written out here so that the fixture needs nothing from the lab."""
    z = 1.959963984540054
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    return centre - half, centre + half


def synthetic_results() -> dict:
    """Every section of `results.json`, filled."""
    rng = np.random.default_rng(7)
    return {
        "command": "accelerate launch --config_file accelerate_configs/cpu.yaml recipes/compare.py --config "
        "recipes/tiny/compare.yaml",
        "environment": {
            "python": "3.11.9",
            "torch": "2.13.0+cpu",
            "transformers": "5.17.0",
            "trl": "1.16.0",
            "evotorch": "0.6.1",
            "platform": "Linux-6.1-x86_64",
            "cpu": "Example CPU, 2 cores",
            "device": "cpu",
            "commit": None,
        },
        "config": {"seed": 42, "es_sigma": 0.01, "es_alpha": 0.01, "es_members": 32, "grpo_learning_rate": 0.0003},
        "task": "countdown",
        "base_model": "models/tiny-llama-small",
        "methods": ["es", "grpo"],
        "training": {
            "es": _training(rng, 30, 2048, 0.27, 0.55, noise=0.015),
            "grpo": _training(rng, 120, 512, 0.27, 0.60, noise=0.04),
        },
        "evaluation": {
            model: {
                task: _evaluated(start + gains[task], 500, 11.3 + len(task) / 7, unfinished=2 if model == "es" else 0)
                for task, start in TASKS.items()
            }
            for model, gains in GAINS.items()
        },
        "geometry": _geometry(rng),
        "random_walk": {
            "es": {
                "predicted_norm": 7.1589,
                "measured_norm": 7.3012,
                "alpha": 0.01,
                "steps": 30,
                "members": 32,
                "parameters": 546688,
            }
        },
        "kl": {
            "es": {task: _divergences(0.21 + 0.05 * i) for i, task in enumerate(TASKS)},
            "grpo": {task: _divergences(0.13 if i == 0 else 0.011 * (i + 1)) for i, task in enumerate(TASKS)},
        },
        "connectivity": {
            "task": "countdown",
            "references": {
                "total": 612,
                "tokens": 7344,
                "prompts": 500,
                "per_model": {"base": 135, "es": 275, "grpo": 300},
            },
            "lines": {
                "base|es": _line(0.27, 0.55, 0.61, 0.48, dip=0.006, hill=0.002),
                "base|grpo": _line(0.27, 0.60, 0.61, 0.39, dip=0.0, hill=0.0),
                "es|grpo": _line(0.55, 0.60, 0.48, 0.39, dip=0.15, hill=0.12),
            },
        },
    }


def _training(rng, steps: int, per_step: int, start: float, end: float, noise: float) -> dict:
    completions = [per_step * (step + 1) for step in range(steps)]
    rise = [start + (end - start) * (1 - math.exp(-4 * c / completions[-1])) / (1 - math.exp(-4)) for c in completions]
    points = [0, *completions[steps // 6 - 1 :: steps // 6]]
    accuracy = [round(500 * (start if c == 0 else rise[c // per_step - 1])) / 500 for c in points]
    low, high = zip(*(wilson(share, 500) for share in accuracy), strict=True)
    return {
        "steps": steps,
        "completions": completions[-1],
        "tokens": completions[-1] * 12 + 345,
        "seconds": 55.4 if noise < 0.02 else 214.9,
        "curve": {"completions": completions, "reward": [r * 0.92 + rng.normal(0, noise) for r in rise]},
        "evaluation": {
            "completions": points,
            "accuracy": accuracy,
            "low": list(low),
            "high": list(high),
            "total": 500,
        },
    }


def _evaluated(share: float, total: int, mean_tokens: float, unfinished: int) -> dict:
    correct = round(share * total)
    low, high = wilson(correct / total, total)
    return {
        "correct": correct,
        "total": total,
        "accuracy": correct / total,
        "low": low,
        "high": high,
        "mean_tokens": mean_tokens,
        "unfinished": unfinished,
    }


def _geometry(rng) -> dict:
    cells = {str(layer): KINDS for layer in range(3)} | {"-": ["embed_tokens", "norm"]}
    sizes = {kind: 128 if "norm" in kind else 128 * 128 for kind in [*KINDS, "embed_tokens", "norm"]}

    def lengths(method: str) -> dict:
        relative = RELATIVE[method] * math.exp(rng.normal(0, 0.25 if method == "es" else 0.9))
        return {"norm": relative * 9.7, "relative_norm": relative}

    return {
        "parameters": 546688,
        "base_norm": 71.53,
        "checkpoints": {
            method: {
                "norm": norm,
                "relative_norm": norm / 71.53,
                "changed_share": changed,
                "changed_share_bf16": changed_bf16,
                "per_kind": {kind: lengths(method) for kind in [*KINDS, "embed_tokens", "norm"]},
                "per_layer": {layer: lengths(method) for layer in cells},
                "per_layer_kind": {layer: {kind: lengths(method) for kind in row} for layer, row in cells.items()},
            }
            for method, norm, changed, changed_bf16 in (("es", 7.3012, 1.0, 0.9412), ("grpo", 0.4381, 0.9987, 0.4023))
        },
        "cosine": {
            "es|grpo": {
                "total": 0.0134,
                "null_std": 0.0016,
                "null_std_per_layer_kind": {
                    layer: {kind: None if kind == "norm" else sizes[kind] ** -0.5 for kind in row}
                    for layer, row in cells.items()
                },
                "per_layer_kind": {
                    layer: {kind: None if kind == "norm" else float(rng.normal(0.015, 0.02)) for kind in row}
                    for layer, row in cells.items()
                },
            }
        },
    }


def _divergences(per_token: float) -> dict:
    def direction(scale: float, definition: str, sampled_from: str) -> dict:
        value = per_token * scale
        return {
            "per_token": value,
            "per_token_low": value * 0.9,
            "per_token_high": value * 1.12,
            "per_sequence": value * 12,
            "per_sequence_low": value * 10.7,
            "per_sequence_high": value * 13.5,
            "tokens": 6144,
            "sequences": 512,
            "direction": definition,
            "sampled_from": sampled_from,
            "estimator": "exact full-vocabulary sum at each position of sampled completions",
        }

    return {
        "forward": direction(1.0, "KL(base || model)", "base"),
        "reverse": direction(0.8, "KL(model || base)", "model"),
    }


def _line(start: float, end: float, loss_start: float, loss_end: float, dip: float, hill: float) -> dict:
    ts = [i / 10 for i in range(11)]
    rewards = [round(500 * ((1 - t) * start + t * end - 4 * dip * t * (1 - t))) / 500 for t in ts]
    losses = [(1 - t) * loss_start + t * loss_end + 4 * hill * t * (1 - t) for t in ts]
    low, high = zip(*(wilson(reward, 500) for reward in rewards), strict=True)
    return {
        "ts": ts,
        "reward": rewards,
        "reward_low": list(low),
        "reward_high": list(high),
        "reward_total": [500] * len(ts),
        "reward_barrier": max((1 - t) * rewards[0] + t * rewards[-1] - r for t, r in zip(ts, rewards, strict=True)),
        "loss": losses,
        "loss_low": [loss - 0.02 for loss in losses],
        "loss_high": [loss + 0.02 for loss in losses],
        "loss_barrier": hill,
    }


@pytest.fixture
def results() -> dict:
    return synthetic_results()


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with its report, for tests that only read."""
    run = tmp_path_factory.mktemp("built")
    write_json(run / "results.json", synthetic_results())
    assert build(run) == run / "report" / "index.html"
    return run


@pytest.fixture
def run(tmp_path: Path, results: dict) -> Path:
    """A run folder without a report."""
    write_json(tmp_path / "run" / "results.json", results)
    return tmp_path / "run"
