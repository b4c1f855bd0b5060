"""Continual learning: the same model trained on one task after the other, by several methods at the same budget.

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/sequential.py \\
        --config recipes/tiny/sequential.yaml

Every arm (a method with its options) and seed is a chain: it starts from the base model and is trained on `tasks` in
order, each training starting from the model before. All tasks are evaluated before the first training and after each;
each trained model is compared with the base and with the model before it, in KL on the prompts of its task and in the
length of the update. The optimiser starts anew for each task unless `keep_optimizer`. Started again, a study goes on
where it was, between trainings and within one; more seeds and more arms can be asked for later. The accuracy matrices
are in report/index.html of the folder.
"""

import time
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers.utils.logging import disable_progress_bar

from analysis.behaviour.kl import kl_drift
from analysis.continual.summary import summarise
from analysis.geometry.updates import update_geometry
from analysis.report import build
from eval.errors import UserError, exit_with_one_line
from eval.harness import evaluate_task
from eval.rollout.base import Sampling
from eval.rollout.hf import HFEngine
from eval.storage import read_json, write_json, write_text
from eval.tasks import get_task
from trainers.arguments import as_flat_dict, check_at_least, check_between, check_positive, parse, read_yaml
from trainers.chains import (
    SEEDS_BETWEEN_STAGES,
    Arm,
    Budget,
    Plan,
    check_arm,
    local_model,
    read_arm,
    task_folder,
    train_chain,
)
from trainers.launch import make_accelerator
from trainers.run_folder import start_run
from trainers.side_by_side import end_with_starter, run_python, side_by_side


# What may differ from the study that a folder holds already: how much of it is run, not how.
MAY_CHANGE = ("arms", "seeds", "processes", "only")
SPENT = ("steps", "completions", "tokens", "seconds")


@dataclass
class SequentialConfig:
    """One model, a sequence of tasks, and the arms that are compared on it."""

    model: str = field(metadata={"help": "checkpoint folder or hub name that all chains start from"})
    output_dir: str = field(metadata={"help": "folder of the study"})
    arms: list[str] = field(
        metadata={"help": "lines `NAME METHOD FILE key=value ...`; METHOD is es, grpo or sft, FILE its YAML"}
    )
    tasks: str = field(
        default="countdown,arithmetic,four_choice,yes_no", metadata={"help": "trained in this order, comma-separated"}
    )
    further_tasks: str = field(default="", metadata={"help": "tasks that are only evaluated"})
    seeds: int = field(default=3, metadata={"help": "training seeds 0, 1, ... of every arm"})
    match: str = field(default="completions", metadata={"help": "what arms spend alike: completions, tokens, seconds"})
    budget: float = field(default=15360, metadata={"help": "so many for each task; of a reference, its completions"})
    reference: str = field(
        default="", metadata={"help": "arm whose tokens or seconds on each task are the budget of the others"}
    )
    most_completions: int = field(
        default=0, metadata={"help": "for a task where tokens or seconds are matched; 0: four times the reference's"}
    )
    keep_optimizer: bool = field(
        default=False, metadata={"help": "hand the optimiser's state on from task to task; ES has none"}
    )
    data_seed: int = field(default=0, metadata={"help": "fixes the problems of all chains"})
    test_size: int = field(default=200, metadata={"help": "held-out problems per task"})
    max_new_tokens: int = field(default=56, metadata={"help": "longest completion, in training and evaluation"})
    kl_prompts: int = field(default=60, metadata={"help": "prompts per direction of the KL"})
    batch_size: int = field(default=200, metadata={"help": "prompts generated at a time after training"})
    processes: int = field(
        default=2,
        metadata={"help": "chains side by side, each with one thread; 1: in this process, as it was launched"},
    )
    only: str = field(default="", metadata={"help": "ARM/seed-S: train and measure this chain of a started study"})

    def __post_init__(self):
        for name in ("test_size", "max_new_tokens", "kl_prompts", "batch_size", "processes"):
            check_positive(name, getattr(self, name))
        check_between("seeds", self.seeds, 1, SEEDS_BETWEEN_STAGES)
        check_at_least("most_completions", self.most_completions, 0)
        for name in self.columns():
            get_task(name)
        if not words(self.tasks):
            raise UserError("tasks is empty; give at least one")
        if len({task_folder(name) for name in self.columns()}) < len(self.columns()):
            raise UserError(f"a task stands twice in {', '.join(self.columns())}; give each once")
        self.spending()
        names = [arm.name for arm in self.read_arms()]
        if not names or len(set(names)) < len(names):
            raise UserError(f"the arms are {', '.join(names) or 'none'}; give one at least, each with its own name")
        if self.reference and self.reference not in names:
            raise UserError(f"reference is {self.reference!r}, not one of the arms {', '.join(names)}")
        chains = [f"{name}/seed-{seed}" for name in names for seed in range(self.seeds)]
        if self.only and self.only not in chains:
            raise UserError(f"only is {self.only!r}, not one of the chains {', '.join(chains)}")

    def columns(self) -> list[str]:
        """The columns of the accuracy matrix: trained tasks, then further ones."""
        return [*words(self.tasks), *words(self.further_tasks)]

    def spending(self) -> Budget:
        return Budget(self.match, self.budget, self.reference, self.most_completions)

    def read_arms(self) -> list[Arm]:
        return [read_arm(line) for line in self.arms]


CONFIG_TYPES = (SequentialConfig,)


def main() -> None:
    (config,) = parse(*CONFIG_TYPES)
    disable_progress_bar()  # transformers' bar for each file it reads or writes
    run, arms = Path(config.output_dir), config.read_arms()
    plan = Plan(
        run,
        Path(config.model),
        words(config.tasks),
        config.spending(),
        config.max_new_tokens,
        config.data_seed,
        config.keep_optimizer,
    )
    for arm in arms:
        check_arm(plan, arm)
    accelerator = make_accelerator()
    device, is_main = accelerator.device, accelerator.is_main_process
    if accelerator.num_processes > 1 and config.processes > 1:
        raise UserError("chains side by side are started from one process; launch one, or set processes: 1")
    plan = replace(plan, model=local_model(config.model, run / "base"))
    chains = [(arm, seed) for seed in range(config.seeds) for arm in arms]
    if config.only:
        end_with_starter()
        [(arm, seed)] = [(arm, seed) for arm, seed in chains if f"{arm.name}/seed-{seed}" == config.only]
        train_chain(plan, arm, seed)
        measure_chain(config, plan, arm, seed, device)
        return
    start_run(run, config, may_change=MAY_CHANGE)

    # 1. Every task before the first training: row 0 of all matrices.
    if is_main:
        for arm in arms:
            keep_settings(run, arm)
        evaluate(config, plan.model, run / "evaluation", device)

    # 2. The chains, those that give others their budget first. A finished one is left as it is.
    unfinished = [(arm, seed) for arm, seed in chains if not (plan.chain(arm.name, seed) / "chain.json").exists()]
    unfinished.sort(key=lambda chain: plan.budget.follows(chain[0]))
    print(f"{len(chains)} chains, {len(chains) - len(unfinished)} of them finished", flush=True)
    began = time.perf_counter()
    if config.processes > 1:
        for _, group in groupby(unfinished, key=lambda chain: plan.budget.follows(chain[0])):
            side_by_side([partial(start_chain, plan, arm, seed) for arm, seed in group], config.processes, "chain")
    else:
        for arm, seed in unfinished:
            train_chain(plan, arm, seed)
        for arm, seed in unfinished if is_main else []:
            measure_chain(config, plan, arm, seed, device)
    if not is_main:
        return
    print(f"{len(unfinished)} chains in {(time.perf_counter() - began) / 60:.1f} minutes", flush=True)

    # 3. All numbers in one file, and the page made from it.
    environment = read_json(run / "environment.json")
    results = {
        "study": "sequential",
        "command": environment["command"],
        "environment": environment,
        "config": as_flat_dict(config),
        "base_model": config.model,
        "tasks": words(config.tasks),
        "columns": config.columns(),
        "match": config.match,
        "budget": config.budget,
        "arms": {
            arm.name: {
                "method": arm.method,
                "options": read_yaml(run / "configs" / f"{arm.name}.yaml"),
                "seeds": {
                    str(seed): read_json(plan.chain(arm.name, seed) / "chain.json") for seed in range(config.seeds)
                },
            }
            for arm in arms
        },
    }
    write_json(run / "results.json", results | {"continual": summarise(results)})
    print(f"report: {build(run)}")


def words(listed: str) -> list[str]:
    """ "a, b" -> ["a", "b"]."""
    return [word.strip() for word in listed.split(",") if word.strip()]


def keep_settings(run: Path, arm: Arm) -> None:
    """Write the arm's options to configs/<arm>.yaml. Raises UserError if an arm of this name had other ones."""
    path = run / "configs" / f"{arm.name}.yaml"
    settings = read_yaml(Path(arm.path)) | arm.options
    if path.exists() and (before := read_yaml(path)) != settings:
        different = sorted(key for key in before | settings if before.get(key) != settings.get(key))
        raise UserError(
            f"the arm {arm.name} of {run} was another one, with other values of {', '.join(different)}; give this one "
            "another name, or choose another output_dir"
        )
    write_text(path, yaml.safe_dump(settings, sort_keys=False))


def start_chain(plan: Plan, arm: Arm, seed: int) -> None:
    """Train and measure a chain in a process of its own."""
    chain = plan.chain(arm.name, seed)
    options = ["--config", plan.folder / "config.yaml", "--only", f"{arm.name}/{chain.name}"]
    run_python(chain, "the chain", [__file__, *options])


def measure_chain(config: SequentialConfig, plan: Plan, arm: Arm, seed: int, device: torch.device) -> None:
    """Write chain.json of a trained chain: the scores of every model on every task, and what each training did."""
    chain, folders = plan.chain(arm.name, seed), plan.stages(arm.name, seed)
    if (chain / "chain.json").exists():
        return
    began = time.perf_counter()
    models = [plan.model, *(folder / "model" for folder in folders)]
    rows = [evaluate(config, plan.model, plan.folder / "evaluation", device)]
    rows += [evaluate(config, model, chain / "evaluation", device) for model in models[1:]]
    stages = [
        {
            "task": task,
            **{key: read_json(folder / "results.json")[key] for key in (*SPENT, "ended_by")},
            "update_norm": distance(before, folder / "model"),
            "drift_norm": distance(plan.model, folder / "model"),
            "kl": divergence(config, plan.model, "base", folder / "model", task, device),
            "kl_step": divergence(config, before, "the model before", folder / "model", task, device),
        }
        for task, folder, before in zip(plan.tasks, folders, models, strict=False)
    ]
    scores = {column: [row[column] for row in rows] for column in config.columns()}
    write_json(chain / "chain.json", {"scores": scores, "stages": stages})
    print(f"measured in {time.perf_counter() - began:.0f} s", flush=True)


def evaluate(
    config: SequentialConfig, model: Path, cache: Path, device: torch.device
) -> dict[str, list[float | None]]:
    """The value of the model's greedy answer to each held-out problem, by task."""
    engine = HFEngine.from_pretrained(model, device)
    found = {}
    for column in config.columns():
        result = evaluate_task(
            engine,
            get_task(column),
            "test",
            config.test_size,
            config.data_seed,
            Sampling(config.max_new_tokens),
            config.batch_size,
            cache,
        )
        found[column] = [record["value"] for record in result["records"]]
    return found


def distance(one: Path, other: Path) -> float:
    """Length of the difference of two models' weights."""
    return update_geometry(one, {"other": other})["checkpoints"]["other"]["norm"]


def divergence(
    config: SequentialConfig, reference: Path, called: str, model: Path, task: str, device: torch.device
) -> dict[str, dict[str, Any]]:
    """KL between two models on the task's held-out prompts in nats per token: forward is KL(reference || model)."""
    found = kl_drift(
        reference,
        {"model": model},
        [task],
        config.kl_prompts,
        config.data_seed,
        config.max_new_tokens,
        config.batch_size,
        device,
    )
    return {
        direction: {
            "value": kl["per_token"],
            "low": kl["per_token_low"],
            "high": kl["per_token_high"],
            "direction": kl["direction"].replace("base", called),
            "sampled_from": kl["sampled_from"].replace("base", called),
            **{key: kl[key] for key in ("estimator", "temperature", "max_new_tokens", "prompts", "sequences")},
        }
        for direction, kl in found["model"][task].items()
    }


if __name__ == "__main__":
    exit_with_one_line(main)
