"""Circuits of language models: found, judged, carried from a small model to a large one, and after post-training.

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/circuits.py --config recipes/tiny/circuits.yaml

A model is a checkpoint folder, a hub name, or a YAML of recipes/pretrain.py, which is then trained here first. Every
stage writes its own file; started again, an interrupted study goes on with the first stage that has none. The report
is in report/index.html of the run folder.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from analysis.circuits.alignment import PRESETS
from analysis.circuits.attribution import METHODS
from analysis.circuits.study import DTYPES, MAY_CHANGE, Study, StudyOptions, at_once
from analysis.report import build
from analysis.report.terminal import results_text
from eval.circuit_tasks import get_circuit_task
from eval.digests import rows_digest, run_digests
from eval.errors import UserError, exit_with_one_line
from eval.results_file import write_results
from eval.stages import Stages
from eval.storage import read_json
from eval.tasks import get_task
from trainers.arguments import (
    as_flat_dict,
    check_at_least,
    check_at_most,
    check_between,
    check_choice,
    check_count,
    check_seed,
    from_yaml,
    parse,
)
from trainers.budget import es_at_budget, grpo_at_budget
from trainers.dry_run import announce, finished_line, folder_line
from trainers.es.memory import model_shape
from trainers.es.train import train_es
from trainers.grpo import train_grpo
from trainers.launch import make_accelerator
from trainers.options import StartOptions, check_processes, check_rows
from trainers.pretrain import PretrainConfig, pretrain
from trainers.run_folder import start_run


@dataclass(frozen=True)
class Model:
    """A model whose circuits are found; a source that ends in .yaml is trained here."""

    EXAMPLE: ClassVar[str] = "{name: small, source: recipes/tiny/models/llama-small}"
    name: str
    source: str


@dataclass(frozen=True)
class Transfer:
    """Names of two models; circuits of the small one are carried over to the large one."""

    EXAMPLE: ClassVar[str] = "{small: llama-1b, large: llama-3b}"
    small: str
    large: str


@dataclass(frozen=True)
class PostTrained:
    """A checkpoint made from `change_base`: trained here by a method's YAML, or a folder."""

    EXAMPLE: ClassVar[str] = "{name: es, method: es, config: recipes/tiny/es.yaml}"
    name: str
    method: Literal["es", "grpo"] | None = None
    config: str | None = None
    source: str | None = None

    def __post_init__(self):
        if (self.method is None) != (self.config is None) or (self.config is None) == (self.source is None):
            raise UserError(f"{self.name} needs method and config, or a source alone; write {self.EXAMPLE}")


@dataclass(frozen=True, kw_only=True)
class CircuitsConfig(StudyOptions):
    """Models, tasks, and what is asked of them. A stage without its options (no transfers, say) is left out."""

    output_dir: str = field(metadata={"help": "run folder of the study"})
    models: list[Model] = field(
        metadata={"help": f"such as {Model.EXAMPLE}; a checkpoint folder, hub name, or YAML of recipes/pretrain.py"}
    )
    transfers: list[Transfer] = field(default_factory=list, metadata={"help": f"such as {Transfer.EXAMPLE}"})
    post_trained: list[PostTrained] = field(
        default_factory=list, metadata={"help": f"such as {PostTrained.EXAMPLE}; or a folder, as source"}
    )
    change_base: str | None = field(default=None, metadata={"help": "name of the model that post_trained began with"})
    completions: int = field(default=30720, metadata={"help": "training completions of each YAML of post_trained"})

    def __post_init__(self):
        whole = [one.name for one in fields(self) if one.type is int and one.name not in ("seed", "critical_layers")]
        for name in whole:
            check_count(name, getattr(self, name))
        check_seed("seed", self.seed)
        for name in ("examples", "test_examples", "train_examples", "resamples", "rows"):
            check_rows(name, getattr(self, name))
        check_processes("parallel", self.parallel)
        check_at_most("steps", self.steps, 10_000, "integrated gradients have long converged")
        check_at_most("critical_rank", self.critical_rank, 100_000, "no matrix has as many directions")
        if not (self.models and self.tasks):
            raise UserError("models and tasks each need one entry at least")
        check_at_least("critical_layers", self.critical_layers, 0)
        check_between("smallest_share", self.smallest_share, 0.0, 1.0)
        check_between("circuit_share", self.circuit_share, 0.0, 1.0)
        check_choice("method", self.method, METHODS)
        check_choice("dtype", self.dtype, DTYPES)
        for task in self.every_task():
            get_circuit_task(task)
        for task, file in self.task_files.items():
            if f"{task}={file}" not in self.every_task():
                raise UserError(f"task_files names {task}, which is none of the tasks; take it out, or add the task")
        for preset in self.presets:
            check_choice("a preset", preset, PRESETS)
        names = [one.name for one in (*self.models, *self.post_trained)]
        for name in names:
            if names.count(name) > 1 or any(sign in name for sign in "|>,/\n\0") or not name.strip("."):
                raise UserError(f"models and post_trained have {name!r}; give each its own name, without | > , /")
        for name in (name for transfer in self.transfers for name in vars(transfer).values()):
            check_choice("a model of transfers", name, [model.name for model in self.models])
        if bool(self.post_trained) != bool(self.change_base):
            raise UserError("post_trained and change_base belong together; give both or none")
        if self.change_base:
            check_choice("change_base", self.change_base, [model.name for model in self.models])
        if self.reward_task is not None:
            get_task(self.reward_task)
        elif trained := [one.name for one in self.post_trained if one.config]:
            raise UserError(f"post_trained trains {trained[0]} here, so that reward_task is needed")

    def folders(self) -> dict[str, str]:
        """{name: where a model is loaded from}, the post-trained ones last."""
        run = Path(self.output_dir)
        return {
            model.name: str(run / "models" / model.name / "model") if model.source.endswith(".yaml") else model.source
            for model in self.models
        } | {one.name: one.source or str(run / "change" / one.name / "model") for one in self.post_trained}


CONFIG_TYPES = (CircuitsConfig, StartOptions)


def main() -> None:
    config, start = parse(*CONFIG_TYPES)
    run = Path(config.output_dir)
    # Every training is checked before the first begins.
    pretraining, post_training = pretrainings(config), post_trainings(config)
    for source in [one.source for one in (*config.models, *config.post_trained)]:
        if source is not None and not source.endswith(".yaml"):
            model_shape(source)
    if start.dry_run:
        announce("circuits", lines_of_plan(config, pretraining))
        return
    accelerator = make_accelerator()
    start_run(run, config, may_change=MAY_CHANGE)
    names = [f"training {name}" for name in post_training]
    first = ["pre-training"] if pretraining else []
    stages = Stages([*first, *names, "measurements", "report"], accelerator.is_main_process)
    if accelerator.is_main_process:
        missing = [one for one in pretraining if not (Path(one.output_dir) / "results.json").exists()]
        if pretraining:
            stages.begin("pre-training", finished=not missing)
        at_once([partial(pretrain, one) for one in missing], config.parallel)
    accelerator.wait_for_everyone()
    for name, train in post_training.items():
        stages.begin(f"training {name}", finished=(run / "change" / name / "results.json").exists())
        train()
    if accelerator.is_main_process:
        environment = read_json(run / "environment.json")
        head = {"command": environment["command"], "environment": environment, "config": as_flat_dict(config)}
        head["digests"] = run_digests(run, config.folders(), circuit_data(config))
        stages.begin("measurements")  # each says itself whether it is made
        write_results(run / "results.json", "circuits", head | study(config, str(accelerator.device)).measure(run))
        stages.begin("report")
        page = build(run)
        print(f"\n{results_text(run)}\n", flush=True)
        print(f"report: {page}")


def lines_of_plan(config: CircuitsConfig, pretraining: list[PretrainConfig]) -> dict[str, str]:
    """What a dry run says; the examples that judge are drawn."""
    drawn = {
        task: len(get_circuit_task(task).examples("test", config.test_examples, config.seed))
        for task in config.every_task()
    }
    trained = [one.name for one in config.post_trained if one.config]
    return {
        "models": ", ".join(f"{model.name} ({model.source})" for model in config.models),
        "trainings": finished_line((Path(one.output_dir) for one in pretraining), "models from nothing")
        + f"; {', '.join(trained) or 'none'} after post-training, {config.completions:,} completions of each",
        "transfers": ", ".join(f"{one.small} to {one.large}" for one in config.transfers) or "none",
        "data": ", ".join(f"{task}: {count} test examples" for task, count in drawn.items()),
        "folder": folder_line(config.output_dir, config, may_change=MAY_CHANGE),
    }


def circuit_data(config: CircuitsConfig) -> dict[str, str]:
    """Digests of the examples that judge circuits. Those that find them are drawn likewise, from the train split."""
    size, seed = config.test_examples, config.seed
    return {
        f"{task}, {size} examples of test": rows_digest(map(vars, get_circuit_task(task).examples("test", size, seed)))
        for task in config.every_task()
    }


def study(config: CircuitsConfig, device: str) -> Study:
    return Study(
        config.folders(),
        models=[model.name for model in config.models],
        pairs=[(transfer.small, transfer.large) for transfer in config.transfers],
        base=config.change_base,
        trainings={one.name: Path(config.output_dir, "change", one.name) for one in config.post_trained if one.config},
        options=config,
        device=device,
    )


def pretrainings(config: CircuitsConfig) -> list[PretrainConfig]:
    """Of the models that are trained here."""
    return [
        training
        for model in config.models
        if model.source.endswith(".yaml")
        for training in from_yaml(
            model.source, (PretrainConfig,), {"output_dir": f"{config.output_dir}/models/{model.name}"}
        )
    ]


def post_trainings(config: CircuitsConfig) -> dict[str, Callable[[], Any]]:
    """{name: training} of the checkpoints that are trained here. A finished one returns at once."""
    trainings = {}
    for one in (one for one in config.post_trained if one.config):
        shared = {
            "model": config.folders()[config.change_base],
            "task": config.reward_task,
            "seed": config.seed,
            "data_seed": config.seed,
            "output_dir": f"{config.output_dir}/change/{one.name}",
        }
        if one.method == "es":
            options = es_at_budget(one.config, config.completions, config.max_new_tokens, **shared)
            trainings[one.name] = partial(train_es, options)
        else:
            options = grpo_at_budget(one.config, config.completions, config.max_new_tokens, **shared)
            trainings[one.name] = partial(train_grpo, *options)
    return trainings


if __name__ == "__main__":
    exit_with_one_line(main)
