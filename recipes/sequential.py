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

from analysis.behaviour.held_out import HeldOut
from analysis.behaviour.written import written_section
from analysis.continual.chain import evaluate, measure_chain
from analysis.continual.summary import summarise
from analysis.report import build
from analysis.report.terminal import results_text
from eval.completions import file_name
from eval.digests import data_digests, run_digests
from eval.errors import UserError, exit_with_one_line
from eval.results_file import write_results
from eval.stages import Stages
from eval.storage import new_folder, read_json, write_text
from eval.tasks import own_data, task_name
from trainers.arguments import as_flat_dict, check_between, parse, read_yaml
from trainers.chains import SEEDS_BETWEEN_STAGES, Arm, Budget, Plan, check_arm, local_model, task_folder, train_chain
from trainers.dry_run import announce, finished_line, folder_line, held_out_line, model_line
from trainers.launch import make_accelerator
from trainers.options import NonNegativeInt, PositiveInt, Processes, StartOptions, check_bounds, check_held_out, option
from trainers.run_folder import start_run
from trainers.side_by_side import side_by_side
from trainers.task_options import TaskOptionList, rewarded_task


# What may differ from the study that a folder holds already: how much of it is run, not how.
MAY_CHANGE = ("arms", "seeds", "processes", "only")


@dataclass(kw_only=True)
class SequentialConfig(HeldOut):
    """One model, a sequence of tasks, and the arms that are compared on it."""

    model: str = field(metadata={"help": "checkpoint folder or hub name that all chains start from"})
    output_dir: str = field(metadata={"help": "folder of the study"})
    arms: list[Arm] = field(metadata={"help": f"methods with their options (es, grpo, sft), such as [{Arm.EXAMPLE}]"})
    tasks: TaskOptionList = option(["countdown", "arithmetic", "four_choice", "yes_no"], "trained in this order")
    further_tasks: TaskOptionList = option([], "tasks that are only evaluated")
    seeds: PositiveInt = option(3, "training seeds 0, 1, ... of every arm")
    match: str = option("completions", "what arms spend alike: completions, tokens, seconds")
    budget: float = option(15360, "so many for each task; of a reference, its completions")
    reference: str = option("", "arm whose tokens or seconds on each task are the budget of the others")
    most_completions: NonNegativeInt = option(
        0, "for a task where tokens or seconds are matched; 0: four times the reference's"
    )
    keep_optimizer: bool = option(False, "hand the optimiser's state on from task to task; ES has none")
    processes: Processes = option(
        2, "chains side by side, each with one thread; 1: in this process, as it was launched"
    )
    only: str = option("", "ARM/seed-S: train and measure this chain of a started study")

    def __post_init__(self):
        check_bounds(self)
        check_held_out(self)
        check_between("seeds", self.seeds, 1, SEEDS_BETWEEN_STAGES)
        self.tasks = [rewarded_task(spec) for spec in self.tasks]
        self.further_tasks = [rewarded_task(spec) for spec in self.further_tasks]
        if not self.tasks:
            raise UserError("tasks is empty; give at least one")
        if len({task_folder(name) for name in self.columns()}) < len(self.columns()):
            raise UserError(f"a task stands twice in {', '.join(self.columns())}; give each once")
        self.spending()
        names = [arm.name for arm in self.arms]
        if not names or len(set(names)) < len(names):
            raise UserError(f"the arms are {', '.join(names) or 'none'}; give one at least, each with its own name")
        if self.reference and self.reference not in names:
            raise UserError(f"reference is {self.reference!r}, not one of the arms {', '.join(names)}")
        chains = [f"{arm.name}/seed-{seed}" for arm, seed in self.chains()]
        if self.only and self.only not in chains:
            raise UserError(f"only is {self.only!r}, not one of the chains {', '.join(chains)}")

    def columns(self) -> list[str]:
        """The columns of the accuracy matrix: trained tasks, then further ones."""
        return [*self.tasks, *self.further_tasks]

    def spending(self) -> Budget:
        return Budget(self.match, self.budget, self.reference, self.most_completions)

    def chains(self) -> list[tuple[Arm, int]]:
        return [(arm, seed) for seed in range(self.seeds) for arm in self.arms]


CONFIG_TYPES = (SequentialConfig, StartOptions)


def main() -> None:
    config, start = parse(*CONFIG_TYPES)
    run = Path(config.output_dir)
    plan = Plan(
        run,
        Path(config.model),
        config.tasks,
        config.spending(),
        config.max_new_tokens,
        config.data_seed,
        config.keep_optimizer,
    )
    for arm in config.arms:
        check_arm(plan, arm)
    if start.dry_run:
        announce("sequential", lines_of_plan(config, plan))
        return
    accelerator = make_accelerator()
    device, is_main = accelerator.device, accelerator.is_main_process
    if accelerator.num_processes > 1 and config.processes > 1:
        raise UserError("chains side by side are started from one process; launch one, or set processes: 1")
    plan = replace(plan, model=local_model(config.model, run / "base"))
    if config.only:
        [(arm, seed)] = [(arm, seed) for arm, seed in config.chains() if f"{arm.name}/seed-{seed}" == config.only]
        run_chain(config, plan, arm, seed, device)
        return
    start_run(run, config, may_change=MAY_CHANGE)
    stages = Stages(["evaluation of the base", "chains", "report"], is_main)

    # 1. Every task before the first training: row 0 of all matrices.
    if is_main:
        for arm in config.arms:
            keep_settings(run, arm)
        stages.begin("evaluation of the base")
        with new_folder(run / "completions") as folder:
            evaluate(plan.model, config.columns(), run / "evaluation", config, device, folder)

    # 2. The chains, those that give others their budget first. A finished one is left as it is.
    finished = [(plan.chain(arm.name, seed) / "chain.json").exists() for arm, seed in config.chains()]
    unfinished = [chain for chain, done in zip(config.chains(), finished, strict=True) if not done]
    unfinished.sort(key=lambda chain: plan.budget.follows(chain[0]))
    stages.begin("chains", finished=not unfinished)
    if is_main:
        print(f"{len(finished)} chains, {sum(finished)} of them finished", flush=True)
    began = time.perf_counter()
    train_chains(config, plan, unfinished, device)
    if not is_main:
        return
    measured = {(arm.name, seed): measure(config, plan, arm, seed, device) for arm, seed in config.chains()}
    print(f"{len(unfinished)} chains in {(time.perf_counter() - began) / 60:.1f} minutes", flush=True)

    # 3. All numbers in one file, and the page made from it.
    results = results_of(config, plan, measured)
    write_results(run / "results.json", "sequential", results | {"continual": summarise(results)})
    stages.begin("report")
    page = build(run)
    print(f"\n{results_text(run)}\n", flush=True)
    print(f"report: {page}")


def train_chains(
    config: SequentialConfig, plan: Plan, unfinished: list[tuple[Arm, int]], device: torch.device
) -> None:
    """Train them one after the other, or measure them as well and do several at a time."""
    if config.processes > 1:
        for _, group in groupby(unfinished, key=lambda chain: plan.budget.follows(chain[0])):
            jobs = {
                plan.chain(arm.name, seed): partial(run_chain, config, plan, arm, seed, device) for arm, seed in group
            }
            side_by_side(jobs, config.processes, "chain")
    else:
        for arm, seed in unfinished:
            train_chain(plan, arm, seed)


def results_of(config: SequentialConfig, plan: Plan, measured: dict[tuple[str, int], Any]) -> dict[str, Any]:
    """What results.json says before it is summed up. measured: {(arm, seed): what `measure` returned}."""
    run = plan.folder
    environment = read_json(run / "environment.json")
    models = {
        f"{arm.name}/seed-{seed}/{number} {task}": folder / "model"
        for arm, seed in config.chains()
        for number, (task, folder) in enumerate(zip(config.tasks, plan.stages(arm.name, seed), strict=True), start=1)
    }
    sizes = [(task, config.test_size) for task in config.columns()] + [
        (task, config.kl_prompts) for task in config.tasks
    ]
    wrote = written_section(run, completions(config, plan))
    return {
        "study": "sequential",
        "command": environment["command"],
        "environment": environment,
        "config": as_flat_dict(config),
        "base_model": config.model,
        "tasks": config.tasks,
        "columns": config.columns(),
        **own_data(config.columns()),
        "match": config.match,
        "budget": config.budget,
        "arms": {
            arm.name: {
                "method": arm.method,
                "options": read_yaml(run / "configs" / f"{arm.name}.yaml"),
                "seeds": {str(seed): measured[arm.name, seed] for seed in range(config.seeds)},
            }
            for arm in config.arms
        },
        "digests": run_digests(run, {"base": plan.model, **models}, data_digests(sizes, "test", config.data_seed)),
        **({"written": wrote} if wrote else {}),
    }


def completions(config: SequentialConfig, plan: Plan) -> dict[str, dict[str, Path]]:
    """{task: {model: file}} of what the base and the last model of each arm's first chain wrote."""
    folders = {"base": plan.folder} | {arm.name: plan.chain(arm.name, 0) for arm in config.arms}
    return {
        name: {model: folder / "completions" / f"{file_name(name)}.parquet" for model, folder in folders.items()}
        for name in map(task_name, config.columns())
    }


def lines_of_plan(config: SequentialConfig, plan: Plan) -> dict[str, str]:
    """What a dry run says."""
    stages = [folder for arm, seed in config.chains() for folder in plan.stages(arm.name, seed)]
    budget = (
        f"{config.budget:,g} {config.match}" if not config.reference else f"the {config.match} of {config.reference}"
    )
    return {
        "model": model_line(config.model),
        "arms": ", ".join(f"{arm.name} ({arm.method})" for arm in config.arms) + f"; {config.seeds} seeds of each",
        "trainings": f"{finished_line(stages, 'trainings')}; each has {budget}",
        "test": held_out_line(config.columns(), config.test_size, config.data_seed),
        "folder": folder_line(config.output_dir, config, may_change=MAY_CHANGE),
    }


def keep_settings(run: Path, arm: Arm) -> None:
    """Write the arm's options to configs/<arm>.yaml. Raises UserError if an arm of this name had other ones."""
    path = run / "configs" / f"{arm.name}.yaml"
    settings = arm.settings()
    if path.exists() and (before := read_yaml(path)) != settings:
        different = sorted(key for key in before | settings if before.get(key) != settings.get(key))
        raise UserError(
            f"the arm {arm.name} of {run} was another one, with other values of {', '.join(different)}; give this one "
            "another name, or choose another output_dir"
        )
    write_text(path, yaml.safe_dump(settings, sort_keys=False))


def run_chain(config: SequentialConfig, plan: Plan, arm: Arm, seed: int, device: torch.device) -> None:
    """Train and measure one chain."""
    train_chain(plan, arm, seed)
    measure(config, plan, arm, seed, device)


def measure(config: SequentialConfig, plan: Plan, arm: Arm, seed: int, device: torch.device) -> dict[str, Any]:
    """The scores of every model of a chain on every task, and what each training did."""
    chain, trainings = plan.chain(arm.name, seed), plan.stages(arm.name, seed)
    base_evaluation = plan.folder / "evaluation"
    return measure_chain(chain, plan.model, base_evaluation, trainings, config.tasks, config.columns(), config, device)


if __name__ == "__main__":
    exit_with_one_line(main)
