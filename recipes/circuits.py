"""Circuits of language models: found, judged, carried from a small model to a large one, and after post-training.

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/circuits.py --config recipes/tiny/circuits.yaml

A model is a checkpoint folder, a hub name, or a YAML of recipes/pretrain.py, which is then trained here first. Every
stage writes its own file; started again, an interrupted study goes on with the first stage that has none. The report
is in report/index.html of the run folder.
"""

import multiprocessing
import os
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from analysis.circuits.alignment import PRESETS
from analysis.circuits.attribution import METHODS, attribute
from analysis.circuits.batch import Batch
from analysis.circuits.change import ChangeOptions, as_json, task_change
from analysis.circuits.data import solved_batch
from analysis.circuits.faithfulness import faithfulness_curve
from analysis.circuits.intensity import edge_weights, greedy_completions, statistics
from analysis.circuits.migration import migrations
from analysis.circuits.nodes import CircuitModel
from analysis.circuits.overlap import profile
from analysis.circuits.ranks import critical_layers, lora_patterns, random_layers
from analysis.circuits.transfer import TransferTask, transfer_table
from analysis.report import build
from eval.circuit_tasks import get_circuit_task
from eval.circuit_tasks.accuracy import pair_accuracy
from eval.errors import UserError, exit_with_one_line
from eval.rollout.loading import load_model
from eval.storage import read_json, read_jsonl, write_json
from eval.tasks import get_task
from trainers.arguments import as_flat_dict, check_at_least, check_between, check_choice, check_positive, parse
from trainers.budget import es_at_budget, grpo_at_budget
from trainers.es.train import train_es
from trainers.grpo import train_grpo
from trainers.launch import make_accelerator
from trainers.pretrain import PretrainConfig, pretrain
from trainers.run_folder import start_run


# Tasks that ask for nearly the same.
NEAR = (
    ("addition", "subtraction"),
    ("addition_short", "subtraction_short"),
    ("arc_easy", "arc_challenge"),
)
# What changes no stage's result: how fast it runs, and what is made of the results at the end.
MAY_CHANGE = ("parallel", "rows", "critical_layers", "critical_rank", "critical_alpha")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass
class CircuitsConfig:
    """Models, tasks, and what is asked of them. A stage without its options (no transfers, say) is left out."""

    output_dir: str = field(metadata={"help": "run folder of the study"})
    models: list[str] = field(
        metadata={
            "help": "NAME=SOURCE of each model; SOURCE is a checkpoint folder, a hub name, or a YAML of "
            "recipes/pretrain.py that is trained here"
        }
    )
    tasks: str = field(metadata={"help": "circuit tasks, comma-separated; arc_easy=FILE takes a local file"})
    transfers: list[str] = field(
        default_factory=list, metadata={"help": "SMALL>LARGE, names of models between which circuits are carried over"}
    )
    presets: str = field(default="corrected,paper", metadata={"help": "presets of DFA, comma-separated"})
    alignment_seeds: int = field(default=3, metadata={"help": "seeds of every trained alignment map"})
    post_trained: list[str] = field(
        default_factory=list,
        metadata={
            "help": "NAME=SOURCE of checkpoints made from change_base; SOURCE is a folder, or for the names es and "
            "grpo "
            "a YAML of recipes/es.py or recipes/grpo.py that is trained here"
        },
    )
    change_base: str | None = field(default=None, metadata={"help": "name of the model that post_trained began with"})
    change_tasks: str | None = field(
        default=None, metadata={"help": "circuit tasks compared before and after, comma-separated; default: tasks"}
    )
    reward_task: str | None = field(
        default=None, metadata={"help": "task that a YAML of post_trained is rewarded for"}
    )
    completions: int = field(default=30720, metadata={"help": "training completions of each YAML of post_trained"})
    max_new_tokens: int = field(default=4, metadata={"help": "longest completion of that training"})
    method: str = field(default="nap-ig-inputs", metadata={"help": f"attribution: {', '.join(METHODS)}"})
    steps: int = field(default=5, metadata={"help": "steps of integrated gradients"})
    examples: int = field(default=100, metadata={"help": "examples of a task behind a circuit"})
    test_examples: int = field(default=100, metadata={"help": "other examples, of the test split, that judge it"})
    train_examples: int = field(
        default=100, metadata={"help": "examples of a task that alignment maps are trained on"}
    )
    smallest_share: float = field(
        default=0.2, metadata={"help": "a task that a model solves less of (clean right, corrupted worse) is left out"}
    )
    circuit_share: float = field(default=0.2, metadata={"help": "share of nodes, or edges, compared as a circuit"})
    resamples: int = field(default=500, metadata={"help": "bootstrap resamples behind every interval"})
    critical_layers: int = field(
        default=0, metadata={"help": "layers that get a higher LoRA rank; 0: those above mean + standard deviation"}
    )
    critical_rank: int = field(default=32, metadata={"help": "LoRA rank of the critical layers"})
    critical_alpha: int = field(default=64, metadata={"help": "LoRA alpha of the critical layers"})
    seed: int = field(default=0, metadata={"help": "of examples, alignment maps, resamples and trainings"})
    dtype: str = field(default="float32", metadata={"help": "of the models: float32 or bfloat16"})
    rows: int = field(default=256, metadata={"help": "prompts that go through a model at once"})
    parallel: int = field(
        default=1, metadata={"help": "trainings and stages that run at the same time, in processes of their own"}
    )

    def __post_init__(self):
        for name in (
            "examples",
            "test_examples",
            "train_examples",
            "steps",
            "resamples",
            "rows",
            "parallel",
            "completions",
            "max_new_tokens",
            "alignment_seeds",
            "critical_rank",
            "critical_alpha",
        ):
            check_positive(name, getattr(self, name))
        check_at_least("critical_layers", self.critical_layers, 0)
        check_between("smallest_share", self.smallest_share, 0.0, 1.0)
        check_between("circuit_share", self.circuit_share, 0.0, 1.0)
        check_choice("method", self.method, METHODS)
        check_choice("dtype", self.dtype, DTYPES)
        for name in {*self.task_names(), *self.change_task_names()}:
            get_circuit_task(name)
        for name in self.preset_names():
            check_choice("a preset", name, PRESETS)
        known = self.sources()
        for small, large in self.transfer_pairs():
            for name in (small, large):
                check_choice("a model of transfers", name, known)
        if bool(self.post_trained) != bool(self.change_base):
            raise UserError("post_trained and change_base belong together; give both or none")
        if self.change_base:
            check_choice("change_base", self.change_base, known)
            for name, source in named(self.post_trained, "post_trained").items():
                if name in known:
                    raise UserError(f"post_trained has a model called {name}, and so has models; choose another name")
                if source.endswith(".yaml"):
                    check_choice("a YAML of post_trained", name, ("es", "grpo"))
                    if self.reward_task is None:
                        raise UserError(f"post_trained trains {name} here, so that reward_task is needed")
        if self.reward_task is not None:
            get_task(self.reward_task)

    def sources(self) -> dict[str, str]:
        return named(self.models, "models")

    def task_names(self) -> list[str]:
        return [name.strip() for name in self.tasks.split(",")]

    def preset_names(self) -> list[str]:
        return [name.strip() for name in self.presets.split(",")]

    def change_task_names(self) -> list[str]:
        return self.task_names() if self.change_tasks is None else [n.strip() for n in self.change_tasks.split(",")]

    def transfer_pairs(self) -> list[tuple[str, str]]:
        pairs = []
        for entry in self.transfers:
            small, _, large = entry.partition(">")
            if not small or not large:
                raise UserError(f"transfers has {entry!r}; write SMALL>LARGE, such as llama-1b>llama-3b")
            pairs.append((small.strip(), large.strip()))
        return pairs


CONFIG_TYPES = (CircuitsConfig,)


def named(entries: list[str], option: str) -> dict[str, str]:
    """["a=runs/a", ...] -> {"a": "runs/a", ...}. Raises UserError for what is not NAME=SOURCE."""
    found: dict[str, str] = {}
    for entry in entries:
        name, _, source = entry.partition("=")
        if not name or not source or any(sign in name for sign in "|>,/"):
            raise UserError(f"{option} has {entry!r}; write NAME=SOURCE, the name without | > , /")
        if name in found:
            raise UserError(f"{option} has two models called {name}; give each its own name")
        found[name] = source
    return found


def main() -> None:
    (config,) = parse(*CONFIG_TYPES)
    disable_progress_bar()  # transformers' bar for each file it reads or writes
    run = Path(config.output_dir)
    study = Study(config, run)

    # Every training is checked before the first begins.
    trainings = study.post_trainings()
    accelerator = make_accelerator()
    start_run(run, config, may_change=MAY_CHANGE)
    study.device = accelerator.device
    if accelerator.is_main_process:
        missing = [one for one in study.pretrainings() if not (Path(one.output_dir) / "results.json").exists()]
        at_once([partial(pretrain, one) for one in missing], config.parallel)
    accelerator.wait_for_everyone()
    for name, train in trainings.items():
        print(f"training {name}", flush=True)
        train()
    if not accelerator.is_main_process:
        return

    names = list(config.sources())
    accuracy = study.stages(
        {f"accuracy-{name}": partial(study.accuracy, name) for name in [*names, *study.checkpoints()]}
    )
    study.note_left_out({name: accuracy[f"accuracy-{name}"] for name in [*names, *study.checkpoints()]})
    # The longest first, so that no process is left alone with it.
    jobs = {
        f"transfer-{small}-{large}": partial(study.transfer, small, large) for small, large in config.transfer_pairs()
    }
    jobs |= study.change_jobs() | {f"circuits-{name}": partial(study.circuits, name) for name in names}
    found = study.stages(jobs)
    results = {
        "accuracy": {name.removeprefix("accuracy-"): tasks for name, tasks in accuracy.items()},
        "circuits": {name: found[f"circuits-{name}"] for name in names},
        "transfer": {
            f"{small}>{large}": found[f"transfer-{small}-{large}"] for small, large in config.transfer_pairs()
        },
    }
    if config.post_trained:
        results["training"] = study.training()
        results["change"] = study.change(found)
    environment = read_json(run / "environment.json")
    write_json(
        run / "results.json",
        {
            "study": "circuits",
            "command": environment["command"],
            "environment": environment,
            "config": as_flat_dict(config),
            "models": names,
            "tasks": config.task_names(),
            "left_out": study.left_out,
            **results,
        },
    )
    print(f"report: {build(run)}")


def near_tasks(tasks: Collection[str]) -> dict[str, str]:
    """Each task's paired task, where both are among `tasks`."""
    plain = {task.partition("=")[0]: task for task in tasks}
    pairs = [*NEAR, *((other, task) for task, other in NEAR)]
    return {plain[task]: plain[other] for task, other in pairs if task in plain and other in plain}


def stage(run: Path, name: str, compute: Callable[[], Any]) -> None:
    """Write the result of a stage to its file."""
    print(f"stage {name}", flush=True)
    write_json(run / f"{name}.json", compute())


def at_once(jobs: list[Callable[[], Any]], parallel: int) -> None:
    """Run the jobs, `parallel` at a time, each in a process of its own; one at a time in this process."""
    if parallel == 1 or len(jobs) == 1:
        for job in jobs:
            job()
        return
    threads = max(1, (os.cpu_count() or 1) // parallel)
    with ProcessPoolExecutor(
        parallel, multiprocessing.get_context("spawn"), torch.set_num_threads, (threads,)
    ) as pool:
        for future in [pool.submit(job) for job in jobs]:
            future.result()


class Study:
    """The models and examples of a run.

    left_out: {model: {task: reason}}.
    """

    def __init__(self, config: CircuitsConfig, run: Path):
        self.config, self.run = config, run
        self.device: torch.device | str = "cpu"
        self.left_out: dict[str, dict[str, str]] = {}

    def stages(self, jobs: dict[str, Callable[[], Any]]) -> dict[str, Any]:
        """{name: result} of independent stages; those that have none are computed, some at the same time."""
        missing = [name for name in jobs if not (self.run / f"{name}.json").exists()]
        at_once([partial(stage, self.run, name, jobs[name]) for name in missing], self.config.parallel)
        return {name: read_json(self.run / f"{name}.json") for name in jobs}

    def pretrainings(self) -> list[PretrainConfig]:
        """Of the models that are trained here."""
        found = []
        for name, source in self.config.sources().items():
            if source.endswith(".yaml"):
                folder = str(self.run / "models" / name)
                found += parse(PretrainConfig, arguments=["--config", source, "--output_dir", folder])
        return found

    def post_trainings(self) -> dict[str, Callable[[], Any]]:
        """{name: training} of the checkpoints that are trained here. A finished one returns at once."""
        config, found = self.config, {}
        for name, source in named(config.post_trained, "post_trained").items():
            if source.endswith(".yaml"):
                shared = {
                    "model": self.folder(config.change_base),
                    "task": config.reward_task,
                    "seed": config.seed,
                    "data_seed": config.seed,
                    "output_dir": self.run / "change" / name,
                }
                at_budget = es_at_budget if name == "es" else grpo_at_budget
                options = at_budget(source, config.completions, config.max_new_tokens, **shared)
                found[name] = (
                    (lambda options=options: train_es(options))
                    if name == "es"
                    else (lambda options=options: train_grpo(*options))
                )
        return found

    def folder(self, name: str) -> str:
        """Where a model of `models` is loaded from."""
        source = self.config.sources()[name]
        return str(self.run / "models" / name / "model") if source.endswith(".yaml") else source

    def checkpoints(self) -> dict[str, str]:
        """{name: folder} of the post-trained models."""
        return {
            name: str(self.run / "change" / name / "model") if source.endswith(".yaml") else source
            for name, source in named(self.config.post_trained, "post_trained").items()
        }

    @contextmanager
    def opened(self, *names: str) -> Iterator[tuple[dict[str, CircuitModel], PreTrainedTokenizerBase]]:
        """The models and the tokenizer of the first, in memory while the block lasts."""
        models, tokenizer = {}, None
        for name in names:
            folder = self.checkpoints()[name] if name in self.checkpoints() else self.folder(name)
            model, own = load_model(folder, DTYPES[self.config.dtype])
            models[name] = CircuitModel(model.to(self.device))
            tokenizer = own if tokenizer is None else tokenizer
        yield models, tokenizer

    def accuracy(self, name: str) -> dict[str, Any]:
        """How often the model prefers the right answer, on test examples of every task."""
        with self.opened(name) as (models, tokenizer):
            return {
                task: pair_accuracy(
                    models[name].model,
                    tokenizer,
                    get_circuit_task(task),
                    "test",
                    self.config.test_examples,
                    self.config.seed,
                )
                for task in dict.fromkeys([*self.config.task_names(), *self.config.change_task_names()])
            }

    def note_left_out(self, accuracy: dict[str, dict[str, Any]]) -> None:
        """Which tasks a model solves too rarely for a circuit of it to mean anything."""
        for name, tasks in accuracy.items():
            for task, found in tasks.items():
                if found["solved"] < self.config.smallest_share:
                    reason = f"{name} solves {found['solved']:.0%} of its examples"
                    self.left_out.setdefault(name, {})[task] = reason
                    print(f"left out: {task}, because {reason}")

    def tasks_of(self, names: list[str], tasks: list[str]) -> list[str]:
        """The tasks that all of these models solve often enough. Raises UserError if there are none."""
        kept = [task for task in tasks if not any(task in self.left_out.get(name, {}) for name in names)]
        if not kept:
            raise UserError(
                f"{' and '.join(names)} solve none of the tasks often enough; train longer, or take others"
            )
        return kept

    def batches(
        self,
        models: dict[str, CircuitModel],
        tokenizer: PreTrainedTokenizerBase,
        task: str,
        split: str,
        size: int,
        seed: int = 0,
    ) -> tuple[list[Batch], dict[str, Any]]:
        """`size` examples that all of the models solve, in batches on their device, and how many others there were."""
        batch, report = solved_batch(models, tokenizer, task, split, size, self.config.seed + seed, self.config.rows)
        return [part.to(self.device) for part in batch.split(self.config.rows)], report

    def circuits(self, name: str) -> dict[str, Any]:
        """Scores of every node on every task, and the faithfulness of their ranking on test examples."""
        config = self.config
        with self.opened(name) as (models, tokenizer):
            model, found = models[name], {}
            for task in self.tasks_of([name], config.task_names()):
                finding, report = self.batches(models, tokenizer, task, "train", config.examples)
                judging, _ = self.batches(models, tokenizer, task, "test", config.test_examples)
                circuit = attribute(model, finding, config.method, steps=config.steps, rows=config.rows)
                curve = faithfulness_curve(
                    model, judging, circuit.scores, resamples=config.resamples, seed=config.seed, rows=config.rows
                )
                found[task] = {
                    "scores": circuit.scores.tolist(),
                    "profile": profile(circuit.scores, model.nodes),
                    "completeness": None if circuit.completeness is None else vars(circuit.completeness),
                    "faithfulness": as_json(curve),
                    "examples": report,
                }
            return {
                "layers": len(model.layers),
                "heads": model.heads,
                "nodes": list(model.nodes),
                "parameters": model.model.num_parameters(),
                "tasks": found,
            }

    def transfer(self, small: str, large: str) -> dict[str, Any]:
        """The transfer table of DFA, with the tasks that both models solve."""
        config, tasks = self.config, {}
        with self.opened(small) as (source, source_tokenizer), self.opened(large) as (target, tokenizer):
            for task in self.tasks_of([small, large], config.task_names()):
                sizes = {
                    "train": config.train_examples,
                    "validation": config.train_examples,
                    "test": config.test_examples,
                }
                splits = {
                    split: solved_batch(target, tokenizer, task, split, size, config.seed, config.rows)[0]
                    for split, size in sizes.items()
                }
                given, _ = solved_batch(
                    source, source_tokenizer, task, "train", config.examples, config.seed, config.rows
                )
                tasks[task] = TransferTask(source=given, **splits)
            presets = {
                name: replace(PRESETS[name], method=config.method, steps=config.steps)
                for name in config.preset_names()
            }
            return transfer_table(
                source[small],
                target[large],
                tasks,
                presets,
                range(config.alignment_seeds),
                near_tasks(tasks),
                resamples=config.resamples,
                rows=config.rows,
            )

    def training(self) -> dict[str, Any]:
        """Budget and accuracy of the trainings made here."""
        found = {}
        for name, source in named(self.config.post_trained, "post_trained").items():
            if source.endswith(".yaml"):
                folder = self.run / "change" / name
                results, points = read_json(folder / "results.json"), read_jsonl(folder / "evaluations.jsonl")
                found[name] = {
                    **{key: results[key] for key in ("steps", "completions", "tokens", "seconds")},
                    "evaluation": [
                        {key: point[key] for key in ("completions", "accuracy", "low", "high", "total")}
                        for point in points
                    ],
                }
        return found

    def change_jobs(self) -> dict[str, Callable[[], Any]]:
        """What post-training did to the circuits, task by task, and to the model as a whole."""
        if not self.config.post_trained:
            return {}
        names = [self.config.change_base, *self.checkpoints()]
        tasks = self.tasks_of(names, self.config.change_task_names())
        return {
            "migration": partial(self.migration, names, tasks),
            **{f"change-{task.partition('=')[0]}": partial(self.task_change, names, task) for task in tasks},
            "intensity": partial(self.intensity, names, tasks),
        }

    def change(self, found: dict[str, Any]) -> dict[str, Any]:
        """The same in one section, with the LoRA ranks that follow from it."""
        by_task = {
            name.removeprefix("change-"): result for name, result in found.items() if name.startswith("change-")
        }
        return {
            "models": [self.config.change_base, *self.checkpoints()],
            "reward_task": self.config.reward_task,
            "tasks": by_task,
            "intensity": found["intensity"],
            "migration": found["migration"],
            "lora": self.lora(by_task),
        }

    def task_change(self, names: list[str], task: str) -> dict[str, Any]:
        config = self.config
        with self.opened(*names) as (models, tokenizer):
            finding, report = self.batches(models, tokenizer, task, "train", config.examples)
            judging, _ = self.batches(models, tokenizer, task, "test", config.test_examples)
            options = ChangeOptions(
                config.method, config.steps, config.circuit_share, config.resamples, config.seed, config.rows
            )
            result, _ = task_change(models, finding, judging, options)
            first = next(iter(models.values()))
            return {
                "nodes": list(first.nodes),
                "layers": len(first.layers),
                "heads": first.heads,
                "examples": report,
                **result,
            }

    def intensity(self, names: list[str], tasks: list[str]) -> dict[str, Any]:
        """Activity of each model while it writes its own answers to examples that all of them solve."""
        config, found = self.config, {}
        with self.opened(*names) as (models, tokenizer):
            prompts = []
            for task in tasks:
                judging, _ = self.batches(models, tokenizer, task, "test", config.test_examples)
                for batch in judging:
                    prompts += [
                        ids[mask.bool()].tolist()
                        for ids, mask in zip(batch.clean_ids, batch.attention_mask, strict=True)
                    ]
            for name, model in models.items():
                completions = greedy_completions(
                    model, prompts, config.max_new_tokens, tokenizer.eos_token_id, config.rows
                )
                found[name] = statistics(edge_weights(model, prompts, completions, config.rows))
        return found

    def migration(self, names: list[str], tasks: list[str]) -> dict[str, Any]:
        config = self.config
        wanted = {
            "source": ("train", config.examples, 1),
            "train": ("train", config.train_examples, 2),
            "validation": ("validation", config.train_examples, 0),
            "test": ("test", config.test_examples, 0),
        }
        with self.opened(*names) as (models, tokenizer):
            batches = {
                use: {
                    task: solved_batch(models, tokenizer, task, split, size, config.seed + shift, config.rows)[0]
                    for task in tasks
                }
                for use, (split, size, shift) in wanted.items()
            }
            return migrations(models, batches, config.seed, config.resamples, config.rows)

    def lora(self, by_task: dict[str, Any]) -> dict[str, Any]:
        """Critical layers of each post-trained model and as many random ones, with files for lora_patterns of GRPO."""
        config, found = self.config, {}
        for name in self.checkpoints():
            # Each task counts alike; the edges from `input` count for the first layer.
            changes = [result["edge_change"][name] for result in by_task.values()]
            changes = [change for change in changes if sum(change) > 0]
            if not changes:
                print(f"no LoRA ranks for {name}: no edge of it differs from {config.change_base}")
                continue
            totals: dict[int, float] = {}
            for first, *layers in changes:
                for layer, change in enumerate([first + layers[0], *layers[1:]]):
                    totals[layer] = totals.get(layer, 0.0) + change / (first + sum(layers)) / len(changes)
            critical = critical_layers(totals, config.critical_layers or None)
            control = random_layers(len(totals), critical, config.seed)
            found[name] = {
                "change": [totals[layer] for layer in sorted(totals)],
                "critical": critical,
                "random": control,
            }
            for kind, layers in (("critical", critical), ("random", control)):
                path = self.run / "lora" / f"{name}-{kind}.json"
                write_json(path, lora_patterns(layers, config.critical_rank, config.critical_alpha))
                found[name][f"{kind}_file"] = str(path)
        return found


if __name__ == "__main__":
    exit_with_one_line(main)
