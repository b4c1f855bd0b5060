"""What differs between models post-trained from one base on one task: every section of a comparison's results.json.

Each section but the summaries of the trainings is a stage of the run folder, measured once for the same files and
options (`analysis.resume.stage`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from analysis.behaviour.controls import line_controls
from analysis.behaviour.held_out import HeldOut
from analysis.behaviour.kl import kl_drift
from analysis.behaviour.lines import connectivity, task_landscape
from analysis.behaviour.probes import probes
from analysis.behaviour.written import written_section
from analysis.geometry.updates import update_geometry
from analysis.resume import digest, folder_digests, measure_sections, stage
from analysis.theory.random_walk import random_walk_norm
from analysis.training import training_summary
from eval.completions import completions_file, write_completions
from eval.digests import data_digests, run_digests
from eval.harness import evaluate_task
from eval.rollout.base import Sampling
from eval.rollout.hf import HFEngine
from eval.stages import Stages
from eval.storage import new_folder, read_jsonl, read_yaml_mapping
from eval.tasks import TaskSpec, get_task, task_name


# The stages of `compare_models`.
MEASURED = ("evaluation", "geometry", "kl", "connectivity", "controls")
# Points on the lines of controls, at most: fewer find a barrier less easily, so that the power is not overstated.
CONTROL_POINTS = 5


@dataclass(kw_only=True)
class ComparedOn(HeldOut):
    """On what the finished models of a comparison are measured."""

    test_tasks: list[str | dict[str, Any]] = field(
        default_factory=lambda: ["countdown", "arithmetic", "four_choice", "yes_no"],
        metadata={"help": "tasks evaluated at the end"},
    )
    line_points: int = field(default=5, metadata={"help": "models along each straight line, the ends included"})
    line_size: int = field(default=200, metadata={"help": "held-out problems for each of them"})


def compare_models(
    run: Path,
    base: Path,
    methods: Sequence[str],
    task: str,
    measured_on: ComparedOn,
    device: Any,
    stages: Stages | None = None,
    permuted: Callable[[], Path | None] = lambda: None,
) -> dict[str, Any]:
    """All sections about `methods`, whose trainings lie in `run`/<method>; "es" is evolution strategies.

    base: the checkpoint that they began with. task: what they were rewarded for, measured along the lines between the
    models. What the models wrote goes to `run`/completions/. stages: where the command is; they have `MEASURED`.
    permuted: makes the model of that control, of the first method (see `analysis.behaviour.controls`).
    """
    models = {method: run / method / "model" for method in methods}
    files = {"checkpoints": folder_digests({"base": base, **models})}
    sampled = files | {"seed": measured_on.data_seed, "max_new_tokens": measured_on.max_new_tokens}
    generation = (measured_on.data_seed, measured_on.max_new_tokens, measured_on.batch_size, device)
    tasks, prompts = cast(list[str], measured_on.test_tasks), measured_on.kl_prompts
    size, points = measured_on.line_size, measured_on.line_points
    completions = run / "completions"
    evaluation = stage(
        run,
        "evaluation",
        sampled | {"tasks": tasks, "size": measured_on.test_size},
        lambda: evaluate(completions, {"base": base, **models}, measured_on, device),
        stages,
    )
    geometry = stage(run, "geometry", files, lambda: update_geometry(base, models), stages)
    kl = stage(
        run,
        "kl",
        sampled | {"tasks": tasks, "prompts": prompts},
        lambda: kl_drift(base, models, tasks, prompts, *generation),
        stages,
    )
    lines = stage(
        run,
        "connectivity",
        sampled | {"task": task, "size": size, "points": points},
        lambda: connectivity(base, models, task, size, points, *generation),
        stages,
    )
    controls = stage(
        run,
        "controls",
        sampled | {"task": task, "size": size, "points": min(points, CONTROL_POINTS), "line": digest(lines)},
        lambda: controls_of(base, models, permuted(), task, measured_on, device, lines),
        stages,
    )
    sizes = [(name, rows) for rows in (measured_on.test_size, prompts) for name in tasks]
    data = data_digests([*sizes, (task, size)], "test", measured_on.data_seed)
    wrote = written_section(run, completions_of(completions, ["base", *methods], tasks))
    walk = random_walk(run / "es", geometry["checkpoints"]["es"]["norm"], geometry["parameters"])
    return {
        "methods": list(methods),
        "training": {method: training_summary(run / method) for method in methods},
        "evaluation": evaluation,
        **({"written": wrote} if wrote else {}),
        "geometry": geometry,
        "random_walk": {"es": walk},
        "kl": kl,
        "connectivity": lines,
        "controls": controls,
        "digests": run_digests(run, {}, data) | {"models": files["checkpoints"]},
    }


def controls_of(
    base: Path,
    models: dict[str, Path],
    permuted: Path | None,
    task: str,
    measured_on: ComparedOn,
    device: Any,
    lines: dict[str, Any],
) -> dict[str, Any]:
    """Controls of the line from the first model to the second, and of the first one's update. Returns

    {"lines": {"a|b": see `line_controls`},
     "update": {"norm": of the permuted control, "cosine": {"total", "null_std"} with b's update} or None}
    """
    first, second = list(models)[:2]
    pair = f"{first}|{second}"
    generation = (measured_on.data_seed, measured_on.max_new_tokens, measured_on.batch_size, device)
    landscape = task_landscape(base, models, task, measured_on.line_size, *generation)
    points = min(measured_on.line_points, CONTROL_POINTS)
    found = line_controls(landscape, first, second, points, lines["lines"][pair], permuted)
    if permuted is None:
        return {"lines": {pair: found}, "update": None}
    geometry = update_geometry(base, {"permuted": permuted, second: models[second]})
    angle = geometry["cosine"][f"permuted|{second}"]
    update = {
        "norm": geometry["checkpoints"]["permuted"]["norm"],
        "cosine": {key: angle[key] for key in ("total", "null_std")},
    }
    return {"lines": {pair: found}, "update": update}


def add_probes(
    run: Path,
    base: Path,
    methods: Sequence[str],
    task: str,
    size: int,
    random_directions: int,
    measured_on: ComparedOn,
    device: Any,
) -> None:
    """Put "probes" into `run`/results.json: odd and even parts along each whole update and along random directions."""
    models = {method: run / method / "model" for method in methods}
    seed, max_new_tokens = measured_on.data_seed, measured_on.max_new_tokens
    scales, random_seeds = [1.0], list(range(random_directions))
    options = {
        "task": task,
        "size": size,
        "seed": seed,
        "max_new_tokens": max_new_tokens,
        "scales": scales,
        "random_seeds": random_seeds,
    }

    def measure() -> dict[str, Any]:
        landscape = task_landscape(base, models, task, size, seed, max_new_tokens, measured_on.batch_size, device)
        return probes(landscape, list(methods), scales, random_seeds)

    measure_sections(run, base, models, {"probes": (options, measure)}, recompute=False)


def evaluate(completions: Path, models: dict[str, Path], measured_on: ComparedOn, device: Any) -> dict[str, Any]:
    """{model: {task: greedy accuracy on held-out problems}}; what they wrote goes to the folder `completions`."""
    accuracy: dict[str, Any] = {}
    rows = (measured_on.test_size, measured_on.data_seed)
    with new_folder(completions) as folder:
        for name, path in models.items():
            accuracy[name], wrote = evaluate_model(path, models["base"], measured_on, device)
            for test_task in measured_on.test_tasks:
                task, called = get_task(test_task), task_name(test_task)
                problems = task.load("test", *rows).to_list()
                write_completions(folder / completions_file(name, called), task.name, wrote[called], problems)
    return accuracy


def evaluate_model(
    path: Path, base: Path, measured_on: ComparedOn, device: Any
) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """({task: greedy accuracy on its held-out problems}, {task: what was written there})."""
    engine = HFEngine.from_pretrained(path, device, base=base)
    sampling, rows = Sampling(measured_on.max_new_tokens), (measured_on.test_size, measured_on.data_seed)
    accuracy, wrote = {}, {}
    for test_task in measured_on.test_tasks:
        result = evaluate_task(engine, get_task(test_task), "test", *rows, sampling, measured_on.batch_size)
        wrote[task_name(test_task)] = result.pop("records")
        accuracy[task_name(test_task)] = result
    return accuracy, wrote


def completions_of(folder: Path, models: Sequence[str], tasks: Sequence[TaskSpec]) -> dict[str, dict[str, Path]]:
    """{task: {model: file}} of what `evaluate` wrote into `folder`."""
    names = [task_name(task) for task in tasks]
    return {name: {model: folder / completions_file(model, name) for model in models} for name in names}


def random_walk(run: Path, norm: float, parameters: int, steps: int | None = None) -> dict[str, Any] | None:
    """The norm of an update of evolution strategies beside that of a walk that learns nothing, alpha sqrt(T d / N).

    run: its run folder. norm: measured. parameters: d. steps: after which it was measured; None at the end. None where
    the formula does not apply.
    """
    es = read_yaml_mapping(run / "config.yaml")
    constant = es["alpha_schedule"] == "constant" and es["fitness_shaping"] == "zscore"
    if not constant or es["anchor"] or es["antithetic"] or es["shared_noise"]:
        return None
    rows = [row for row in read_jsonl(run / "metrics.jsonl") if steps is None or row["step"] <= steps]
    updates = sum(not row["members_tied"] for row in rows)
    return {
        "predicted_norm": random_walk_norm(es["alpha"], updates, es["population"], parameters),
        "measured_norm": norm,
        "alpha": es["alpha"],
        "steps": updates,
        "members": es["population"],
        "parameters": parameters,
    }
