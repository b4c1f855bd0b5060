"""Chains of trainings: one method with its options, on one task after the other, each starting from the model before.

A chain is an arm, that is a method with its options, and a seed; its folder holds one run folder per task,
`<k>-<task>` with k from 1.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from eval.errors import UserError
from eval.rollout.gguf import local_model_name
from eval.rollout.hf import HFEngine
from eval.rollout.loading import load_architecture
from eval.secrets import without_secrets
from eval.storage import new_folder, read_json
from trainers.arguments import check_at_most, check_choice, read_yaml
from trainers.budget import es_at_budget, grpo_at_budget, sft_at_budget
from trainers.earlier_tasks import replay_option
from trainers.es.train import train_es
from trainers.grpo import train_grpo
from trainers.launch import is_main_process, wait_for_everyone
from trainers.run_folder import RUN_NAMES
from trainers.sft import train_sft
from trainers.task_options import TaskOptions


AT_BUDGET = {"es": es_at_budget, "grpo": grpo_at_budget, "sft": sft_at_budget}
TRAIN = {"es": train_es, "grpo": train_grpo, "sft": train_sft}
# Those whose optimiser has a state that the next training can take over.
WITH_OPTIMIZER = ("grpo", "sft")
# Names in the folder of a study that are its own, beside those of every run.
OF_STUDIES = ("base", "configs", "evaluation", "gallery")
# Options that a study sets by itself, and not an arm.
DECIDED = (
    "model",
    "task",
    *TaskOptions.FOLDED,
    "seed",
    "data_seed",
    "output_dir",
    "steps",
    "max_steps",
    "problems",
    "max_new_tokens",
    "max_completion_length",
    "stop_at_tokens",
    "stop_at_seconds",
    "replay",
    "optimizer_from",
)
MATCHES = ("completions", "tokens", "seconds")
# Where tokens or seconds are matched to a reference, at most so many times its completions.
MOST = 4
# Each stage of a chain has a seed of its own: with one for all, ES would draw the same directions for every task.
SEEDS_BETWEEN_STAGES = 1000


@dataclass(frozen=True)
class Arm:
    """A method with its options: es, grpo or sft; `options` go before those of the YAML file `config`."""

    EXAMPLE: ClassVar[str] = "{name: es, method: es, config: recipes/tiny/es.yaml, options: {sigma: 0.02}}"

    name: str
    method: str
    config: str
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if not re.fullmatch(r"[\w.-]*\w", self.name):
            raise UserError(f"{self.name!r} is the name of a folder; write it with letters, digits, dots, - and _")
        if self.name.lower().partition(".")[0] in {*OF_STUDIES, *RUN_NAMES}:
            raise UserError(
                f"{self.name!r} is a name that the study itself uses in its folder; name the arm otherwise"
            )
        check_choice("method", self.method, TRAIN)
        for key in self.options:
            if key in DECIDED:
                raise UserError(f"{key} of arm {self.name} is decided for all arms of the study; leave it out")

    def settings(self) -> dict[str, Any]:
        """What the arm decides: the options of its file with its own, without secrets."""
        return without_secrets(read_yaml(self.config) | self.options)


@dataclass(frozen=True)
class Budget:
    """What every task of a chain may cost.

    match: completions, tokens or seconds: what all arms are to spend alike.
    amount: so many of them for each task; with a reference, the completions of the reference.
    reference: the arm whose tokens or seconds, task by task and seed by seed, are the others' budget; "" for none.
    """

    match: str
    amount: float
    reference: str = ""
    most_completions: int = 0

    def __post_init__(self):
        check_choice("match", self.match, MATCHES)
        in_seconds = self.match == "seconds" and not self.reference
        check_at_most("budget", self.amount, 1e12, "no study spends as much")
        if not self.amount > 0 or (self.amount != int(self.amount) and not in_seconds):
            raise UserError(f"budget is {self.amount}; give a {'' if in_seconds else 'whole and '}positive number")
        if self.match == "completions" and self.reference:
            raise UserError("reference is for match: tokens or seconds; leave it out, all arms have the completions")
        if self.match != "completions" and not self.reference and not self.most_completions:
            raise UserError(f"match: {self.match} without a reference needs most_completions, to end in any case")

    def follows(self, arm: Arm) -> bool:
        """Whether this arm can only be trained after the reference."""
        return bool(self.reference) and arm.name != self.reference

    def of_stage(self, arm: Arm, spent: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Completions and further options of one training; spent: results.json of the reference's, where it counts."""
        if self.match == "completions" or arm.name == self.reference:
            return int(self.amount), {}
        amount = spent[self.match] if self.reference else self.amount
        most = self.most_completions or MOST * int(self.amount)
        return most, {f"stop_at_{self.match}": int(amount) if self.match == "tokens" else amount}


@dataclass(frozen=True)
class Plan:
    """What all chains of a study share. `folder` holds `<arm>/seed-<s>/<k>-<task>`; `model` is where they start."""

    folder: Path
    model: Path
    tasks: Sequence[str]
    budget: Budget
    max_new_tokens: int
    data_seed: int
    keep_optimizer: bool

    def chain(self, arm: str, seed: int) -> Path:
        return self.folder / arm / f"seed-{seed}"

    def stages(self, arm: str, seed: int) -> list[Path]:
        """The run folders of a chain, in order."""
        return [self.chain(arm, seed) / f"{k}-{task_folder(task)}" for k, task in enumerate(self.tasks, start=1)]


def task_folder(task: str) -> str:
    """A task's name as the name of a folder."""
    return re.sub(r"[^\w.-]", "-", task)


def stage_config(plan: Plan, arm: Arm, seed: int, k: int, spent: dict[str, Any]) -> tuple[Any, ...]:
    """The options of the k-th training of a chain (k from 1), as its trainer takes them.

    spent: results.json of the reference's k-th training with the same seed; empty where there is no reference.
    """
    folders = plan.stages(arm.name, seed)
    completions, limits = plan.budget.of_stage(arm, spent)
    shared = (
        arm.options
        | limits
        | {
            "model": str(plan.model if k == 1 else folders[k - 2] / "model"),
            "task": plan.tasks[k - 1],
            "seed": SEEDS_BETWEEN_STAGES * k + seed,
            "data_seed": plan.data_seed,
            "output_dir": str(folders[k - 1]),
        }
    )
    if arm.settings().get("replay_share"):
        # Before the first task there is nothing to replay.
        shared |= {"replay": replay_option(plan.tasks[: k - 1])} if k > 1 else {"replay_share": 0.0}
    if plan.keep_optimizer and k > 1 and arm.method in WITH_OPTIMIZER:
        shared |= {"optimizer_from": str(folders[k - 2])}
    configs = AT_BUDGET[arm.method](arm.config, completions, plan.max_new_tokens, **shared)
    return configs if isinstance(configs, tuple) else (configs,)


def check_arm(plan: Plan, arm: Arm) -> None:
    """Raise `UserError` for anything that would stop a chain of this arm later because of its options."""
    for k in range(1, len(plan.tasks) + 1):
        stage_config(plan, arm, 0, k, {"tokens": 1, "seconds": 1.0})


def train_chain(plan: Plan, arm: Arm, seed: int) -> list[Path]:
    """Train, or finish training, a chain; returns its run folders. Finished trainings are left as they are."""
    folders = plan.stages(arm.name, seed)
    for k, folder in enumerate(folders, start=1):
        spent = {}
        if plan.budget.follows(arm):
            results = plan.stages(plan.budget.reference, seed)[k - 1] / "results.json"
            if not results.exists():
                raise UserError(f"{folder} needs what {results.parent} has spent; train that chain first")
            spent = read_json(results)
        print(f"chain {arm.name} seed {seed}: task {k} of {len(folders)}, {plan.tasks[k - 1]}", flush=True)
        results = TRAIN[arm.method](*stage_config(plan, arm, seed, k, spent))
        match = plan.budget.match
        if match != "completions" and arm.name != plan.budget.reference and results["ended_by"] != match:
            print(
                f"{folder} ended after {results['completions']} completions, before its budget of {match}; "
                "most_completions allows no more",
                flush=True,
            )
    return folders


def local_model(model: str, folder: Path) -> Path:
    """A model as a folder: one from the hub is written to `folder` once, so that the analysis reads files.

    Every process calls this. Raises `UserError` for a model that is not there.
    """
    load_architecture(model)
    if Path(model := str(local_model_name(model))).is_dir():
        return Path(model)
    if is_main_process() and not folder.exists():
        engine = HFEngine.from_pretrained(model, "cpu")
        with new_folder(folder) as unfinished:
            engine.model.save_pretrained(unfinished)
            engine.tokenizer.save_pretrained(unfinished)
    wait_for_everyone()
    return folder
