"""A study of circuits: found and judged, carried to another model, compared after post-training.

Every stage opens the models that it needs and returns plain JSON, so that stages can run in processes of their own.
"""

import multiprocessing
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from analysis.circuits.alignment import PRESETS
from analysis.circuits.attribution import attribute
from analysis.circuits.batch import Batch
from analysis.circuits.change import ChangeOptions, task_change
from analysis.circuits.data import solved_batch, solved_batches
from analysis.circuits.faithfulness import faithfulness_curve
from analysis.circuits.intensity import edge_weights, greedy_completions, statistics
from analysis.circuits.migration import migrations
from analysis.circuits.nodes import CircuitModel
from analysis.circuits.overlap import profile
from analysis.circuits.rankings import TransferTask
from analysis.circuits.ranks import layer_change, write_lora_patterns
from analysis.circuits.transfer import transfer_table
from analysis.resume import stage
from eval.circuit_tasks import get_circuit_task
from eval.circuit_tasks.accuracy import pair_accuracy
from eval.digests import folder_digest
from eval.errors import UserError
from eval.interrupts import follow_starter
from eval.quiet import quiet_libraries
from eval.rollout.gguf import local_model_name
from eval.rollout.loading import load_model
from eval.storage import read_json, read_jsonl


# Tasks that ask for nearly the same.
NEAR = (
    ("addition", "subtraction"),
    ("addition_short", "subtraction_short"),
    ("arc_easy", "arc_challenge"),
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# What changes no stage's result: how fast it runs, and what is made of the results at the end.
MAY_CHANGE = ("parallel", "rows", "critical_layers", "critical_rank", "critical_alpha")
Opened = tuple[dict[str, CircuitModel], PreTrainedTokenizerBase]
# A stage's measurement, of these models, on these tasks.
Stage = tuple[Callable[[Sequence[str], Sequence[str]], Any], Sequence[str], Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class StudyOptions(ChangeOptions):
    """What is asked of the models of a study."""

    tasks: list[str] = field(metadata={"help": "circuit tasks"})
    task_files: dict[str, str] = field(
        default_factory=dict, metadata={"help": "local questions of a task, such as {arc_easy: questions.jsonl}"}
    )
    change_tasks: list[str] | None = field(
        default=None, metadata={"help": "circuit tasks compared before and after; default: tasks"}
    )
    presets: list[str] = field(default_factory=lambda: ["corrected", "paper"], metadata={"help": "presets of DFA"})
    alignment_seeds: int = field(default=3, metadata={"help": "seeds of every trained alignment map"})
    examples: int = field(default=100, metadata={"help": "examples of a task behind a circuit"})
    test_examples: int = field(default=100, metadata={"help": "other examples, of the test split, that judge it"})
    train_examples: int = field(default=100, metadata={"help": "examples of a task that maps are trained on"})
    max_new_tokens: int = field(default=4, metadata={"help": "longest completion, in trainings and for activity"})
    smallest_share: float = field(
        default=0.2, metadata={"help": "a task that a model solves less of (clean right, corrupted worse) is left out"}
    )
    reward_task: str | None = field(default=None, metadata={"help": "task that trainings of post_trained get"})
    critical_layers: int = field(
        default=0, metadata={"help": "layers that get a higher LoRA rank; 0: those above mean + standard deviation"}
    )
    critical_rank: int = field(default=32, metadata={"help": "LoRA rank of the critical layers"})
    critical_alpha: int = field(default=64, metadata={"help": "LoRA alpha of the critical layers"})
    dtype: str = field(default="float32", metadata={"help": "of the models: float32 or bfloat16"})
    parallel: int = field(
        default=1, metadata={"help": "trainings and stages that run at the same time, in processes of their own"}
    )

    def found_tasks(self) -> list[str]:
        """`tasks` as `get_circuit_task` takes them: a name, or name=FILE."""
        return self._with_files(self.tasks)

    def compared_tasks(self) -> list[str]:
        return self._with_files(self.tasks if self.change_tasks is None else self.change_tasks)

    def every_task(self) -> list[str]:
        return list(dict.fromkeys([*self.found_tasks(), *self.compared_tasks()]))

    def _with_files(self, tasks: list[str]) -> list[str]:
        return [f"{task}={self.task_files[task]}" if task in self.task_files else task for task in tasks]


@dataclass(frozen=True)
class Study:
    """folders: {name of a model: checkpoint folder or hub name}, the post-trained ones after `models`.

    models: whose circuits are found. pairs: (small, large) of them. base: which one of them the post-trained ones
    began with, if there are any. trainings: {name: run folder} of those that were trained for the study.
    """

    folders: Mapping[str, str]
    models: Sequence[str]
    pairs: Sequence[tuple[str, str]]
    base: str | None
    trainings: Mapping[str, Path]
    options: StudyOptions
    device: str = "cpu"

    def measure(self, run: Path) -> dict[str, Any]:
        """Every stage, each in its own file of the run folder: the sections of results.json."""
        options = self.options
        accuracy = self.stages(
            run, {f"accuracy-{name}": (self.accuracy, [name], options.every_task()) for name in self.folders}
        )
        accuracy = {name.removeprefix("accuracy-"): measured for name, measured in accuracy.items()}
        left_out = too_rarely_solved(accuracy, options.smallest_share)
        compared = [name for name in self.folders if name == self.base or name not in self.models] if self.base else []
        tasks, changed = options.found_tasks(), options.compared_tasks()
        # The longest first, so that no process is left alone with it.
        jobs: dict[str, Stage] = {
            f"transfer-{small}-{large}": (self.transfer, [small, large], tasks) for small, large in self.pairs
        }
        if compared:
            changed = solved_tasks(compared, changed, left_out)
            jobs["migration"] = (self.migration, compared, changed)
            jobs |= {f"change-{task.partition('=')[0]}": (self.change, compared, [task]) for task in changed}
            jobs["intensity"] = (self.intensity, compared, changed)
        jobs |= {f"circuits-{name}": (self.circuits, [name], tasks) for name in self.models}
        measured = self.stages(
            run, {job: (compute, on, solved_tasks(on, given, left_out)) for job, (compute, on, given) in jobs.items()}
        )
        sections = {
            "models": list(self.models),
            "tasks": tasks,
            "left_out": left_out,
            "accuracy": accuracy,
            "circuits": {name: measured[f"circuits-{name}"] for name in self.models},
            "transfer": {f"{small}>{large}": measured[f"transfer-{small}-{large}"] for small, large in self.pairs},
        }
        if compared:
            by_task = {job.removeprefix("change-"): measured[job] for job in jobs if job.startswith("change-")}
            sections["training"] = {name: training_summary(folder) for name, folder in self.trainings.items()}
            sections["change"] = {
                "models": compared,
                "reward_task": options.reward_task,
                "tasks": by_task,
                "intensity": measured["intensity"],
                "migration": measured["migration"],
                "lora": self.lora(run, compared, by_task),
            }
        return sections

    def stages(self, run: Path, jobs: Mapping[str, Stage]) -> dict[str, Any]:
        """{name: result} of independent stages, those that are not finished at the same time."""
        options = {one.name: getattr(self.options, one.name) for one in fields(StudyOptions)}
        options = {name: value for name, value in options.items() if name not in MAY_CHANGE}

        def call(name: str, compute: Callable, models: Sequence[str], tasks: Sequence[str]) -> Callable[[], Any]:
            checkpoints = {model: checkpoint_digest(self.folders[model]) for model in models}
            inputs = {"checkpoints": checkpoints, "tasks": list(tasks), "options": options}
            return partial(stage, run, name, inputs, partial(compute, models, tasks))

        calls = [call(name, *job) for name, job in jobs.items()]
        return dict(zip(jobs, at_once(calls, self.options.parallel), strict=True))

    def open(self, names: Sequence[str]) -> Opened:
        """The models, and the tokenizer of the first."""
        loaded = {name: load_model(self.folders[name], DTYPES[self.options.dtype]) for name in names}
        models = {name: CircuitModel(model.to(self.device)) for name, (model, _) in loaded.items()}
        return models, loaded[names[0]][1]

    def examples(self, opened: Opened, task: str, split: str, size: int) -> tuple[list[Batch], dict[str, Any]]:
        """Batches of examples that all opened models solve, and how many others there were."""
        return solved_batches(*opened, task, split, size, self.options.seed, self.options.rows)

    def finding_and_judging(self, opened: Opened, task: str) -> tuple[list[Batch], list[Batch], dict[str, Any]]:
        """Examples that find a circuit, examples that judge it, and how many others than the first there were."""
        finding, report = self.examples(opened, task, "train", self.options.examples)
        judging, _ = self.examples(opened, task, "test", self.options.test_examples)
        return finding, judging, report

    def accuracy(self, names: Sequence[str], tasks: Sequence[str]) -> dict[str, Any]:
        """{task: how often the only model prefers the right answer}, on test examples."""
        models, tokenizer = self.open(names)
        size, seed = self.options.test_examples, self.options.seed
        return {
            task: pair_accuracy(models[names[0]].model, tokenizer, get_circuit_task(task), "test", size, seed)
            for task in tasks
        }

    def circuits(self, names: Sequence[str], tasks: Sequence[str]) -> dict[str, Any]:
        """Scores of every node of the only model, and the faithfulness of their ranking on test examples."""
        options, opened = self.options, self.open(names)
        model, by_task = opened[0][names[0]], {}
        for task in tasks:
            finding, judging, report = self.finding_and_judging(opened, task)
            circuit = attribute(model, finding, options.method, steps=options.steps, rows=options.rows)
            curve = faithfulness_curve(
                model, judging, circuit.scores, resamples=options.resamples, seed=options.seed, rows=options.rows
            )
            by_task[task] = {
                "scores": circuit.scores.tolist(),
                "profile": profile(circuit.scores, model.nodes),
                "completeness": None if circuit.completeness is None else vars(circuit.completeness),
                "faithfulness": curve.as_dict(),
                "examples": report,
            }
        return shape(model) | {"parameters": model.model.num_parameters(), "tasks": by_task}

    def transfer(self, names: Sequence[str], tasks: Sequence[str]) -> dict[str, Any]:
        """The transfer table of DFA, from the first model to the second."""
        options, source, target = self.options, self.open(names[:1]), self.open(names[1:])
        sizes = {
            "train": options.train_examples,
            "validation": options.train_examples,
            "test": options.test_examples,
        }
        prompts = {
            task: TransferTask(
                source=solved_batch(*source, task, "train", options.examples, options.seed, options.rows)[0],
                **{
                    split: solved_batch(*target, task, split, size, options.seed, options.rows)[0]
                    for split, size in sizes.items()
                },
            )
            for task in tasks
        }
        return transfer_table(
            source[0][names[0]],
            target[0][names[1]],
            prompts,
            {name: replace(PRESETS[name], method=options.method, steps=options.steps) for name in options.presets},
            range(options.alignment_seeds),
            near_tasks(tasks),
            resamples=options.resamples,
            rows=options.rows,
        )

    def change(self, names: Sequence[str], tasks: Sequence[str]) -> dict[str, Any]:
        """What post-training did to the circuits of the only task; the first of `names` is the model it began with."""
        opened = self.open(names)
        finding, judging, report = self.finding_and_judging(opened, tasks[0])
        change = task_change(opened[0], finding, judging, self.options)
        return shape(opened[0][names[0]]) | {"examples": report} | change

    def intensity(self, names: Sequence[str], tasks: Sequence[str]) -> dict[str, Any]:
        """Activity of each model while it writes its own answers to examples that all of them solve."""
        options, opened = self.options, self.open(names)
        models, tokenizer = opened
        prompts = []
        for task in tasks:
            for batch in self.examples(opened, task, "test", options.test_examples)[0]:
                rows = zip(batch.clean_ids, batch.attention_mask, strict=True)
                prompts += [ids[mask.bool()].tolist() for ids, mask in rows]
        activity = {}
        for name, model in models.items():
            written = greedy_completions(model, prompts, options.max_new_tokens, tokenizer.eos_token_id, options.rows)
            activity[name] = statistics(edge_weights(model, prompts, written, options.rows))
        return activity

    def migration(self, names: Sequence[str], tasks: Sequence[str]) -> dict[str, Any]:
        """Where the circuits moved, by alignments between the models."""
        options, opened = self.options, self.open(names)
        # Split, size, and what is added to the seed: source and train must be different examples of one split.
        uses = {
            "source": ("train", options.examples, 1),
            "train": ("train", options.train_examples, 2),
            "validation": ("validation", options.train_examples, 0),
            "test": ("test", options.test_examples, 0),
        }
        batches = {
            use: {
                task: solved_batch(*opened, task, split, size, options.seed + shift, options.rows)[0] for task in tasks
            }
            for use, (split, size, shift) in uses.items()
        }
        return migrations(opened[0], batches, options.seed, options.resamples, options.rows)

    def lora(self, run: Path, compared: Sequence[str], by_task: Mapping[str, Any]) -> dict[str, Any]:
        """{post-trained model: its critical layers and random ones, with files for lora_patterns of GRPO}."""
        options, entries = self.options, {}
        settings = (options.critical_layers or None, options.seed, options.critical_rank, options.critical_alpha)
        for name in compared[1:]:
            change = layer_change([result["edge_change"][name] for result in by_task.values()])
            if change:
                entries[name] = write_lora_patterns(run / "lora", name, change, *settings)
            else:
                print(f"no LoRA ranks for {name}: no edge of it differs from {compared[0]}")
        return entries


@cache
def checkpoint_digest(folder: str) -> str:
    """Of a folder's files; of a model on the hub its name."""
    return folder_digest(Path(folder)) if Path(local_model_name(folder)).is_dir() else folder


def shape(model: CircuitModel) -> dict[str, Any]:
    return {"layers": len(model.layers), "heads": model.heads, "nodes": list(model.nodes)}


def too_rarely_solved(accuracy: Mapping[str, Mapping[str, Any]], smallest_share: float) -> dict[str, dict[str, str]]:
    """{model: {task: reason}}: where a circuit means nothing, because the model solves less of the examples."""
    reasons: dict[str, dict[str, str]] = {}
    for name, tasks in accuracy.items():
        for task, measured in tasks.items():
            if measured["solved"] < smallest_share:
                reason = f"{name} solves {measured['solved']:.0%} of its examples"
                reasons.setdefault(name, {})[task] = reason
                print(f"left out: {task}, because {reason}")
    return reasons


def solved_tasks(names: Sequence[str], tasks: Sequence[str], left_out: Mapping[str, Collection[str]]) -> list[str]:
    """The tasks that are left out for none of these models. Raises UserError if there are none."""
    kept = [task for task in tasks if not any(task in left_out.get(name, ()) for name in names)]
    if not kept:
        raise UserError(f"{' and '.join(names)} solve none of the tasks often enough; train longer, or take others")
    return kept


def near_tasks(tasks: Collection[str]) -> dict[str, str]:
    """Each task's paired task, where both are among `tasks`."""
    plain = {task.partition("=")[0]: task for task in tasks}
    pairs = [*NEAR, *((other, task) for task, other in NEAR)]
    return {plain[task]: plain[other] for task, other in pairs if task in plain and other in plain}


def training_summary(folder: Path) -> dict[str, Any]:
    """Budget and accuracy of a finished training, from its run folder."""
    results, points = read_json(folder / "results.json"), read_jsonl(folder / "evaluations.jsonl")
    keys = ("completions", "accuracy", "low", "high", "total")
    return {key: results[key] for key in ("steps", "completions", "tokens", "seconds")} | {
        "evaluation": [{key: point[key] for key in keys} for point in points]
    }


def at_once(jobs: Sequence[Callable[[], Any]], parallel: int) -> list[Any]:
    """The results of the jobs, `parallel` at a time in processes of their own; one by one in this process if 1."""
    if parallel == 1 or len(jobs) == 1:
        return [job() for job in jobs]
    threads = max(1, (os.cpu_count() or 1) // parallel)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(parallel, context, _begin, (threads,)) as pool:
        return [future.result() for future in [pool.submit(job) for job in jobs]]


def _begin(threads: int) -> None:
    """In a job's process."""
    torch.set_num_threads(threads)
    quiet_libraries()
    follow_starter()
