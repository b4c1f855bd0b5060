"""The same model post-trained twice, by evolution strategies and by GRPO, at the same budget; then what differs.

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/compare.py --config recipes/tiny/compare.yaml

Both methods start from one checkpoint, see the same task under the same evaluator and generate the same number of
completions. The finished models are compared on held-out problems, in weight space, in KL to the base and along the
straight lines between them. Every stage writes its own file; started again, an interrupted comparison goes on with
the first stage that has none. The report is in report/index.html of the run folder.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers.utils.logging import disable_progress_bar

from analysis.behaviour.kl import kl_drift
from analysis.behaviour.lines import connectivity
from analysis.geometry.updates import update_geometry
from analysis.report import build
from analysis.theory.random_walk import random_walk_norm
from eval.errors import exit_with_one_line
from eval.harness import evaluate_task
from eval.rollout.base import Sampling
from eval.rollout.hf import HFEngine
from eval.storage import append_jsonl, new_folder, read_json, read_jsonl, write_json
from eval.tasks import TASKS, get_task
from trainers.arguments import as_flat_dict, check_at_least, check_positive, parse
from trainers.budget import es_at_budget, grpo_at_budget
from trainers.chains import local_model
from trainers.es.config import ESConfig
from trainers.es.train import train_es
from trainers.grpo import train_grpo
from trainers.launch import make_accelerator
from trainers.run_folder import start_run


@dataclass
class CompareConfig:
    """One model, one task, one budget, two methods.

    The two YAML files give what belongs to a method alone; model, task, seed, budget and folders come from here.
    """

    model: str = field(metadata={"help": "checkpoint folder or hub name that both methods start from"})
    output_dir: str = field(metadata={"help": "run folder of the comparison"})
    es_config: str = field(metadata={"help": "YAML file of recipes/es.py"})
    grpo_config: str = field(metadata={"help": "YAML file of recipes/grpo.py"})
    task: str = field(default="countdown", metadata={"help": "what both methods are rewarded for"})
    completions: int = field(default=61440, metadata={"help": "training completions that each method generates"})
    grpo_completions: int = field(
        default=0, metadata={"help": "completions of GRPO where its budget is another one; 0: the same"}
    )
    seed: int = field(default=0, metadata={"help": "seed of both trainings"})
    data_seed: int = field(default=0, metadata={"help": "fixes the training, validation and test problems"})
    test_tasks: str = field(default=",".join(TASKS), metadata={"help": "tasks evaluated at the end, comma-separated"})
    test_size: int = field(default=500, metadata={"help": "held-out problems per task"})
    max_new_tokens: int = field(default=64, metadata={"help": "longest completion, in every stage"})
    kl_prompts: int = field(default=200, metadata={"help": "prompts per task and direction of the KL"})
    line_points: int = field(default=11, metadata={"help": "models along each straight line, the ends included"})
    line_size: int = field(default=200, metadata={"help": "held-out problems for each of them"})
    batch_size: int = field(default=500, metadata={"help": "prompts generated at a time after training"})

    def __post_init__(self):
        for name in ("completions", "test_size", "max_new_tokens", "kl_prompts", "line_size", "batch_size"):
            check_positive(name, getattr(self, name))
        check_at_least("grpo_completions", self.grpo_completions, 0)
        check_at_least("line_points", self.line_points, 3)
        for name in {self.task, *self.test_task_names()}:
            get_task(name)

    def test_task_names(self) -> list[str]:
        return [name.strip() for name in self.test_tasks.split(",")]


CONFIG_TYPES = (CompareConfig,)


def main() -> None:
    (config,) = parse(*CONFIG_TYPES)
    disable_progress_bar()  # transformers' bar for each file it reads or writes
    run = Path(config.output_dir)

    # Both trainings are checked before either begins.
    shared = {"model": config.model, "task": config.task, "seed": config.seed, "data_seed": config.data_seed}
    es = es_at_budget(
        config.es_config, config.completions, config.max_new_tokens, output_dir=f"{config.output_dir}/es", **shared
    )
    grpo_arguments, grpo = grpo_at_budget(
        config.grpo_config,
        config.grpo_completions or config.completions,
        config.max_new_tokens,
        output_dir=f"{config.output_dir}/grpo",
        **shared,
    )
    accelerator = make_accelerator()
    start_run(run, config)

    # 1. Two trainings. A finished one returns at once.
    train_es(es)
    train_grpo(grpo_arguments, grpo)
    base = local_model(config.model, run / "base")
    if not accelerator.is_main_process:
        return

    # 2. What the finished models can do, and how they differ.
    models = {"es": run / "es" / "model", "grpo": run / "grpo" / "model"}
    device = accelerator.device
    evaluation = stage(run, "evaluation", lambda: evaluate(config, run, {"base": base, **models}, device))
    geometry = stage(run, "geometry", lambda: update_geometry(base, models))
    kl = stage(
        run,
        "kl",
        lambda: kl_drift(
            base,
            models,
            config.test_task_names(),
            config.kl_prompts,
            config.data_seed,
            config.max_new_tokens,
            config.batch_size,
            device,
        ),
    )
    lines = stage(
        run,
        "connectivity",
        lambda: connectivity(
            base,
            models,
            config.task,
            config.line_size,
            config.line_points,
            config.data_seed,
            config.max_new_tokens,
            config.batch_size,
            device,
        ),
    )

    # 3. All numbers in one file, and the page made from it.
    environment = read_json(run / "environment.json")
    # What `python -m analysis` has added to the file stays.
    earlier = read_json(run / "results.json") if (run / "results.json").exists() else {}
    write_json(
        run / "results.json",
        earlier
        | {
            "command": environment["command"],
            "environment": environment,
            "config": as_flat_dict(config),
            "task": config.task,
            "base_model": config.model,
            "methods": list(models),
            "training": {method: training(run / method) for method in models},
            "evaluation": evaluation,
            "geometry": geometry,
            "random_walk": {"es": random_walk(es, run, geometry)},
            "kl": kl,
            "connectivity": lines,
        },
    )
    print(f"report: {build(run)}")


def stage(run: Path, name: str, compute: Callable[[], Any]) -> Any:
    """The result of a stage, from its file if an earlier start has finished it."""
    path = run / f"{name}.json"
    if not path.exists():
        print(f"stage {name}", flush=True)
        write_json(path, compute())
    return read_json(path)


def evaluate(config: CompareConfig, run: Path, models: dict[str, Path], device: Any) -> dict[str, Any]:
    """Greedy accuracy of every model on held-out problems of every task; the answers go to evaluation/."""
    found: dict[str, Any] = {}
    with new_folder(run / "evaluation") as folder:
        for name, path in models.items():
            engine = HFEngine.from_pretrained(path, device)
            found[name] = {}
            for task in config.test_task_names():
                sampling = Sampling(config.max_new_tokens)
                result = evaluate_task(
                    engine, get_task(task), "test", config.test_size, config.data_seed, sampling, config.batch_size
                )
                for record in result.pop("records"):
                    append_jsonl(folder / f"{name}-{task}.jsonl", record)
                found[name][task] = result
    return found


def training(run: Path) -> dict[str, Any]:
    """Budget and learning curves of one training, from its run folder."""
    results, steps = read_json(run / "results.json"), read_jsonl(run / "metrics.jsonl")
    points = read_jsonl(run / "evaluations.jsonl")
    rewarded = [step for step in steps if step.get("reward") is not None]
    return {
        **{key: results[key] for key in ("steps", "completions", "tokens", "seconds")},
        "curve": {key: [step[key] for step in rewarded] for key in ("completions", "reward")},
        "evaluation": {
            **{key: [point[key] for point in points] for key in ("completions", "accuracy", "low", "high")},
            "total": points[0]["total"] if points else 0,
        },
    }


def random_walk(es: ESConfig, run: Path, geometry: dict[str, Any]) -> dict[str, Any] | None:
    """ES's measured norm beside that of a walk that learns nothing; None where alpha sqrt(T d / N) does not apply."""
    constant = es.alpha_schedule == "constant" and es.fitness_shaping == "zscore"
    if not constant or es.anchor or es.antithetic or es.shared_noise:
        return None
    updates = read_json(run / "es" / "results.json")["updates"]
    return {
        "predicted_norm": random_walk_norm(es.alpha, updates, es.population, geometry["parameters"]),
        "measured_norm": geometry["checkpoints"]["es"]["norm"],
        "alpha": es.alpha,
        "steps": updates,
        "members": es.population,
        "parameters": geometry["parameters"],
    }


if __name__ == "__main__":
    exit_with_one_line(main)
