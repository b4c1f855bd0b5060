"""Hold-outs that nobody trains on, MMLU and IFEval, through lm-evaluation-harness (extra `holdouts`).

The harness runs in a process of its own; here stand the command and the reading of its result file. Backend, chat
template, number of shots and version change its numbers by whole points, so all of them are kept beside the values.
"""

import importlib.util
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

from eval.errors import UserError
from eval.rollout.gguf import local_model_name
from eval.storage import read_json, write_json


# Task of the harness -> the metrics read from it.
HOLDOUTS = {
    "mmlu": ("acc",),
    "ifeval": ("prompt_level_strict_acc", "inst_level_strict_acc"),
}
# The 95 % point of the normal distribution: the harness gives standard errors.
Z = 1.959964


def holdout_command(model: str, tasks: list[str], folder: Path, batch_size: str = "auto") -> list[str]:
    """The command that evaluates `model` (a folder or a hub name) and writes its result file somewhere in `folder`."""
    return [
        sys.executable,
        "-m",
        "lm_eval",
        "--model",
        "hf",
        "--model_args",
        f"pretrained={local_model_name(model)},dtype=bfloat16",
        "--tasks",
        ",".join(tasks),
        "--apply_chat_template",
        "--batch_size",
        batch_size,
        "--log_samples",
        "--output_path",
        str(folder),
    ]


def run_holdouts(model: str, tasks: list[str], folder: Path) -> dict[str, Any]:
    """Run the harness and return `parse_holdouts` of its result, also written to `folder`/holdouts.json.

    Raises UserError for an unknown task, without lm-evaluation-harness, and if it fails.
    """
    unknown = [task for task in tasks if task not in HOLDOUTS]
    if unknown:
        raise UserError(f"unknown hold-out {unknown[0]!r}; choose among {', '.join(HOLDOUTS)}")
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError(
            "hold-outs need lm-evaluation-harness, which is not installed; run: pip install -e '.[holdouts]'"
        )
    before = set(folder.rglob("results_*.json"))
    if subprocess.run(holdout_command(model, tasks, folder), check=False).returncode != 0:
        raise UserError("lm-evaluation-harness failed; its own message stands above")
    [file] = set(folder.rglob("results_*.json")) - before
    result = parse_holdouts(read_json(file, constants=True), tasks)
    write_json(folder / "holdouts.json", result)
    return result


def parse_holdouts(result: dict[str, Any], tasks: list[str]) -> dict[str, Any]:
    """The values of `HOLDOUTS`' metrics in a result file of lm-evaluation-harness 0.4.

    Returns `tasks`: task -> metric -> {value, low, high, rows}, with the 95 % interval of the normal approximation cut
    to [0, 1]; low and high are None where the harness gives no standard error ("N/A"). `rows` is how many prompts were
    answered (for instance-level metrics too: the harness does not write the number of instructions). And `settings`:
    what the numbers depend on. Raises UserError if a task or a metric is not in the file.
    """
    parsed: dict[str, Any] = {}
    for task in tasks:
        if task not in result["results"]:
            raise UserError(f"the result file of lm-evaluation-harness has no task {task!r}; evaluate it")
        values = result["results"][task]
        parsed[task] = {}
        for metric in HOLDOUTS[task]:
            if f"{metric},none" not in values:
                raise UserError(f"the result file of lm-evaluation-harness has no {metric!r} for {task}")
            value, error = values[f"{metric},none"], values.get(f"{metric}_stderr,none")
            known = isinstance(error, int | float) and math.isfinite(error)
            parsed[task][metric] = {
                "value": value,
                "low": max(0.0, value - Z * error) if known else None,
                "high": min(1.0, value + Z * error) if known else None,
                "rows": _rows(result, task),
            }
    config = result["config"]
    settings = {
        "version": result["lm_eval_version"],
        "backend": config["model"],
        "model_args": config["model_args"],
        "chat_template": bool(result.get("chat_template")),
        "shots": {task: _shots(result, task) for task in tasks},
        "limit": config["limit"],
    }
    return {"tasks": parsed, "settings": settings}


def _leaves(result: dict[str, Any], task: str) -> list[str]:
    """The tasks of a group, at any depth; the task itself if it is none."""
    members = result.get("group_subtasks", {}).get(task, [])
    return [leaf for member in members for leaf in _leaves(result, member)] if members else [task]


def _rows(result: dict[str, Any], task: str) -> int:
    return sum(result["n-samples"][leaf]["effective"] for leaf in _leaves(result, task))


def _shots(result: dict[str, Any], task: str) -> list[int]:
    return sorted({result["n-shot"][leaf] for leaf in _leaves(result, task)})
