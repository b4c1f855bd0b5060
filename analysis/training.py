"""A single training: its budget, learning curves and lengths, and what the model wrote last while training.

From the files of its run folder alone: no model is opened. The page on a training reads them from results.json, where
`add_training_sections` puts them.
"""

from pathlib import Path
from typing import Any

from analysis.behaviour.written import written_section
from eval.results_file import Results, kind_of, read_results_file, write_results
from eval.storage import read_json, read_jsonl, read_yaml_mapping


# Methods whose trainings have a page of their own; that on rules is one over all of a sweep.
METHODS = ("es", "grpo", "sft")


def training_summary(run: Path) -> dict[str, Any]:
    """Budget and learning curves of one training, from its run folder."""
    results, steps = read_json(run / "results.json"), read_jsonl(run / "metrics.jsonl")
    points = read_jsonl(run / "evaluations.jsonl")
    rewarded = [step for step in steps if step.get("reward") is not None]
    dead = [step["step"] for step in steps if step.get("dead_signal")]
    return {
        **{key: results[key] for key in ("steps", "completions", "tokens", "seconds")},
        "curve": {key: [step[key] for step in rewarded] for key in ("completions", "reward")},
        "evaluation": {
            **{key: [point[key] for point in points] for key in ("completions", "accuracy", "low", "high")},
            "total": points[0]["total"] if points else 0,
        },
        # Steps whose rewards were all equal, the third in a row and later; absent where there are none.
        **({"dead_signal": {"steps": len(dead), "first": dead[0], "of": len(steps)}} if dead else {}),
    }


def training_section(run: Path) -> dict[str, Any]:
    """`training_summary`, and by step what else the page draws, as far as the method logs it.

    lengths  {step, mean, longest}: tokens of the step's completions; older runs of ES have no longest
    loss     {step, loss}, of methods that have one
    log_prob_gap  {step, mean, largest}: of the steps where `log_prob_gap_every` had it measured, in nats per token
    """
    steps = read_jsonl(run / "metrics.jsonl")
    lengths = [{"step": step["step"], **lengths_of(step)} for step in steps]
    lengths = [row for row in lengths if row["mean"] is not None]
    known = [key for key in ("step", "mean", "longest") if lengths and lengths[-1][key] is not None]
    losses = [step for step in steps if step.get("loss") is not None]
    gaps = [step for step in steps if step.get("log_prob_gap/mean") is not None]
    gap_keys = {"step": "step", "mean": "log_prob_gap/mean", "largest": "log_prob_gap/max"}
    return {
        **training_summary(run),
        **({"lengths": {key: [row[key] for row in lengths] for key in known}} if lengths else {}),
        **({"loss": {key: [row[key] for row in losses] for key in ("step", "loss")}} if losses else {}),
        **({"log_prob_gap": {key: [row[name] for row in gaps] for key, name in gap_keys.items()}} if gaps else {}),
    }


def lengths_of(step: dict[str, Any]) -> dict[str, float | None]:
    """Mean and longest completion of a step, which ES and TRL call differently; None where it generated none."""
    mean = step.get("mean_tokens", step.get("completions/mean_length"))
    longest = step.get("max_tokens", step.get("completions/max_length"))
    return {"mean": mean, "longest": longest}


def last_completions(run: Path) -> Path | None:
    """The newest table of completions that the trainer wrote; None without any."""
    return max((run / "completions").glob("completions_*.parquet"), default=None)


def is_part_of_a_study(run: Path, folder: Path) -> bool:
    """Whether another results.json, of a study to whose page the training belongs, stands between it and `folder`."""
    above = [parent for parent in run.parents if parent == folder or parent.is_relative_to(folder)]
    return any((parent / "results.json").is_file() for parent in above)


def add_training_sections(run: Path) -> None:
    """Put what the page on a training shows into its results.json; leaves all other results as they are."""
    file = run / "results.json"
    if not file.is_file():
        return
    results = read_results_file(file)
    method = results.get("method")
    if kind_of(results) != "training" or method not in METHODS or not (run / "metrics.jsonl").is_file():
        return
    config, environment = read_yaml_mapping(run / "config.yaml"), read_json(run / "environment.json")
    table = last_completions(run)
    wrote = {} if table is None else written_section(run, {str(results["task"]): {method: table}})
    for section in wrote.values():
        section["step"] = int(table.stem.removeprefix("completions_")) if table else None
    added: Results = {
        "methods": [method],
        "base_model": config["model"],
        "training": {method: training_section(run)},
        **({"written": wrote} if wrote else {}),
        "command": environment["command"],
        "environment": environment,
        "config": config,
    }
    if results | added != results:
        write_results(file, "training", results | added)
