"""results.json of a study of circuits with made-up numbers, in the form that recipes/circuits.py writes."""

from itertools import product
from typing import Any


MODELS = {"small": (2, 2), "medium": (3, 2)}
CHANGED = ["small", "es", "grpo"]
TASKS = ["ioi_short", "docstring_short"]
SHARES = [0.01, 0.1, 0.2, 0.5, 1.0]
RANKINGS = {
    "gold": 0.9,
    "in_distribution": 0.7,
    "zero_shot": 0.6,
    "random_w": 0.25,
    "depth_mean": 0.4,
    "mask_learning": 0.8,
    "mean_of_gold": 0.5,
    "mean_of_masks": 0.45,
    "random_ranking": 0.3,
}


def node_names(layers: int, heads: int) -> list[str]:
    return ["input", *(name for i in range(layers) for name in (*(f"a{i}.h{h}" for h in range(heads)), f"m{i}"))]


def node_scores(layers: int, heads: int, shift: float) -> list[float]:
    return [round((-1) ** i * (0.1 + 0.05 * i) + shift, 4) for i in range(len(node_names(layers, heads)))]


def with_ends(name: str, value: float, margin: float = 0.1) -> dict[str, float]:
    return {name: value, f"{name}_low": value - margin, f"{name}_high": value + margin}


def curve(cpr: float) -> dict[str, Any]:
    """Faithfulness of growing circuits with the given area."""
    f = [0.0, 0.2, 0.5, 0.9, 1.0]
    ends = {"f_low": [value - 0.1 for value in f], "f_high": [value + 0.1 for value in f]}
    return {"shares": SHARES, "f": f, **ends, **with_ends("cpr", cpr), "log_cpr": 0.3, "cmd": 0.2, "smallest": 4}


def circuits_of(layers: int, heads: int) -> dict[str, Any]:
    tasks = {
        task: {
            "scores": node_scores(layers, heads, 0.01 * number),
            "profile": {"attention": 0.25 + 0.5 * number, "depth": 0.4},
            "completeness": {"error": 0.031 + number / 100},
            "faithfulness": curve(0.71 + number / 10),
        }
        for number, task in enumerate(TASKS)
    }
    return {
        "layers": layers,
        "heads": heads,
        "nodes": node_names(layers, heads),
        "parameters": 1000 * layers,
        "tasks": tasks,
    }


def accuracy() -> dict[str, float]:
    return {
        "accuracy": 0.9,
        "low": 0.8,
        "high": 0.95,
        "solved": 0.85,
        "fitting": 1.0,
        "clean": 2.5,
        "corrupted": -1.5,
        "total": 100,
    }


def preset(policy: str, lower: float) -> dict[str, Any]:
    def by_policy(**entry: Any) -> dict[str, Any]:
        return {"always": entry, "ranked": entry}

    rows = {row: {**by_policy(cpr={"mean": cpr - lower}), "compute_ratio": 2.5} for row, cpr in RANKINGS.items()}
    return {
        "input_policy": policy,
        "tasks": {task: {"floor": {"always": 0.25, "ranked": 0.2}, "rows": rows} for task in TASKS},
        "averages": {row: by_policy(cpr=cpr - lower, recovery_mean=0.5) for row, cpr in RANKINGS.items()},
    }


def likeness(value: float, null: float, clear: bool) -> dict[str, float]:
    difference = value - null
    low, high = (difference - 0.05, difference + (0.05 if not clear else 0.01))
    return {
        "value": value,
        "null": null,
        "null_low": null - 0.05,
        "null_high": null + 0.05,
        "difference": difference,
        "low": low,
        "high": high,
    }


def change_on_task(number: int) -> dict[str, Any]:
    """GRPO changes the circuit of the first task; ES changes none."""
    layers, heads = MODELS["small"]
    nodes = node_names(layers, heads)

    def levels(pair: str) -> dict[str, Any]:
        clear = pair == "small|grpo" and number == 0
        measures = {name: likeness(0.6 if clear else 0.9, 0.9, clear) for name in ("jaccard", "spearman", "weighted")}
        return {"nodes": measures, "edges": measures}

    edges = [["input", "m0", 0.5], ["a0.h0", "a1.h1.q", -0.4], ["m0", "a1.kv0.v", 0.3], ["m1", "logits", 0.2]]
    return {
        "nodes": nodes,
        "layers": layers,
        "heads": heads,
        "circuits": {
            model: {
                "scores": node_scores(layers, heads, 0.02 * i),
                "top_edges": edges,
                "key_value_heads": 1,
            }
            for i, model in enumerate(CHANGED)
        },
        "overlap": {pair: levels(pair) for pair in ("small|es", "small|grpo", "es|grpo")},
        "cross_faithfulness": {
            one: {other: curve(0.8 if one == other else 0.5) for other in CHANGED} for one in CHANGED
        },
        "transplant": {
            f"{donor}>{receiver}": {
                "receiver": 1.0,
                "donor": 2.0,
                "nodes": [1.0, *(1.0 + i / 20 for i in range(1, len(nodes)))],
                "sizes": [1, 2, 3, 4, 6],
                "circuits": [1.1, 1.2, 1.4, 1.7, 2.0],
            }
            for donor, receiver in product(CHANGED, CHANGED)
            if donor != receiver
        },
    }


def change() -> dict[str, Any]:
    statistics = ("intensity", "entropy", "kurtosis")
    return {
        "models": CHANGED,
        "tasks": {task: change_on_task(number) for number, task in enumerate(TASKS)},
        "lora": {
            model: {
                "change": [0.2, 0.5, 0.3],
                "critical": [1],
                "critical_file": f"lora/{model}-critical.json",
                "random": [2],
                "random_file": f"lora/{model}-random.json",
            }
            for model in CHANGED[1:]
        },
        "migration": {
            direction: {
                "delta": 0.5 + gain,
                "tasks": {
                    task: {
                        "identity": 0.6,
                        "mapped": 0.6 + gain,
                        "gain": gain,
                        "low": gain - 0.05,
                        "high": gain + 0.05,
                    }
                    for task in TASKS
                },
            }
            for direction, gain in {"small>small": 0.01, "small>es": 0.02, "small>grpo": 0.1}.items()
        },
        "intensity": {
            model: {"answers": 40}
            | {key: value for name in statistics for key, value in with_ends(name, size).items()}
            for model, size in zip(CHANGED, (2.0, 2.1, 3.0), strict=True)
        },
    }


def planted_study() -> dict[str, Any]:
    return {
        "kind": "circuits",
        "schema_version": 1,
        "study": "circuits",
        "command": "accelerate launch recipes/circuits.py --config recipes/tiny/circuits.yaml",
        "environment": {"python": "3.11.9", "device": "cpu", "commit": None},
        "config": {"method": "nap-ig-inputs", "steps": 5, "circuit_share": 0.25},
        "models": list(MODELS),
        "tasks": TASKS,
        "left_out": {"medium": {"addition": "addition with medium: too few are solved"}},
        "accuracy": {model: {task: accuracy() for task in TASKS} for model in (*MODELS, "es", "grpo")},
        "circuits": {model: circuits_of(*shape) for model, shape in MODELS.items()},
        "transfer": {
            "small>medium": {
                "seeds": [0, 1],
                "presets": {"corrected": preset("always", 0.0), "paper": preset("ranked", 0.05)},
            }
        },
        "change": change(),
    }
