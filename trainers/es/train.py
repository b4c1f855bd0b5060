"""Post-training with evolution strategies: the run around the search."""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors.torch import load_file

from eval.adapters import fitness
from eval.errors import UserError
from eval.harness import evaluate_task
from eval.rollout.base import Sampling
from eval.rollout.hf import HFEngine, save_model
from eval.storage import (
    append_jsonl,
    new_folder,
    read_json,
    read_jsonl,
    require_free_space,
    truncate_jsonl,
    write_json,
)
from eval.tasks import Task, get_task
from trainers.arguments import check_at_least, check_between, check_choice, check_positive
from trainers.es.member import SeededMember
from trainers.es.noise import Noise
from trainers.es.search import Evaluation, EvolutionStrategy, SeedProblem
from trainers.es.shaping import BASELINES, SHAPINGS
from trainers.launch import make_accelerator, refuse_sharding
from trainers.run_folder import checkpoint_folder, last_complete_step, save_checkpoint, start_run


SCHEDULES = ("constant", "linear", "cosine")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass
class ESConfig:
    """Evolution strategies on all weights of a language model."""

    model: str = field(metadata={"help": "checkpoint folder or hub name of the model to start from"})
    output_dir: str = field(metadata={"help": "run folder; the finished model is in its folder model/"})
    task: str = field(default="countdown", metadata={"help": "what is rewarded: a task's name or dotted path"})
    steps: int = field(default=100, metadata={"help": "updates"})
    population: int = field(default=32, metadata={"help": "members per step, N"})
    prompts_per_step: int = field(default=64, metadata={"help": "prompts that every member answers in a step"})
    samples: int = field(default=1, metadata={"help": "completions per prompt and member"})
    train_size: int = field(default=4096, metadata={"help": "training problems; each is used once per epoch"})
    sigma: float = field(default=1e-3, metadata={"help": "standard deviation of a member's perturbation"})
    alpha: float = field(default=5e-4, metadata={"help": "step size: theta += alpha/N sum z_i eps_i, without 1/sigma"})
    sigma_schedule: str = field(default="constant", metadata={"help": "constant, linear or cosine"})
    alpha_schedule: str = field(default="constant", metadata={"help": "constant, linear or cosine"})
    final_share: float = field(
        default=0.1, metadata={"help": "a scheduled sigma or alpha ends at this share of itself"}
    )
    fitness_shaping: str = field(default="zscore", metadata={"help": "zscore, centered_rank (ties share) or raw"})
    prompt_baseline: str = field(default="none", metadata={"help": "none, mean or zscore over members, per prompt"})
    antithetic: bool = field(default=False, metadata={"help": "members in pairs theta +- sigma eps"})
    anchor: float = field(default=0.0, metadata={"help": "weight of the decay towards the starting weights"})
    shared_noise: bool = field(
        default=False,
        metadata={"help": "one noise stream for all tensors, as released ES code has it; for study only"},
    )
    temperature: float = field(default=0.0, metadata={"help": "sampling temperature of the members; 0 is greedy"})
    member_noise: bool = field(
        default=False, metadata={"help": "own sampling noise for each member instead of common random numbers"}
    )
    max_new_tokens: int = field(default=64, metadata={"help": "longest completion"})
    seed: int = field(default=0, metadata={"help": "fixes members, prompt order and sampling"})
    data_seed: int = field(default=0, metadata={"help": "fixes which problems are in the training set"})
    eval_every: int = field(default=10, metadata={"help": "steps between greedy evaluations on validation; 0: never"})
    eval_size: int = field(default=200, metadata={"help": "validation problems"})
    save_every: int = field(default=25, metadata={"help": "steps between checkpoints"})
    keep: int = field(default=1, metadata={"help": "checkpoints kept; the seed log rebuilds every step in any case"})
    log_completions_every: int = field(default=25, metadata={"help": "steps between tables of completions; 0: never"})
    log_members: int = field(default=4, metadata={"help": "members whose completions are in such a table"})
    engine_dtype: str = field(default="float32", metadata={"help": "weights in the engine; the master is float32"})
    population_gb: float = field(default=4.0, metadata={"help": "memory for members evaluated in one batch"})

    def __post_init__(self):
        for name in ("steps", "prompts_per_step", "samples", "train_size", "sigma", "alpha", "max_new_tokens",
                     "eval_size", "save_every", "keep", "log_members", "population_gb"):  # fmt: skip
            check_positive(name, getattr(self, name))
        for name in ("anchor", "temperature", "eval_every", "log_completions_every"):
            check_at_least(name, getattr(self, name), 0)
        check_at_least("population (there is nothing to compare a single member with)", self.population, 2)
        if self.antithetic and self.population % 2:
            raise UserError(f"population is {self.population} with antithetic; give an even number")
        check_between("final_share", self.final_share, 0.0, 1.0)
        check_between("anchor times alpha", self.anchor * self.alpha, 0.0, 1.0)
        check_at_least("train_size (one step's prompts must be different)", self.train_size, self.prompts_per_step)
        check_choice("fitness_shaping", self.fitness_shaping, SHAPINGS)
        check_choice("prompt_baseline", self.prompt_baseline, BASELINES)
        check_choice("sigma_schedule", self.sigma_schedule, SCHEDULES)
        check_choice("alpha_schedule", self.alpha_schedule, SCHEDULES)
        check_choice("engine_dtype", self.engine_dtype, DTYPES)
        get_task(self.task)

    @property
    def completions_per_step(self) -> int:
        return self.population * self.prompts_per_step * self.samples


def train_es(config: ESConfig) -> dict[str, Any]:
    """Train, or finish training, with evolution strategies; returns what is written to `results.json`.

    Files in `output_dir`: config.yaml, environment.json, metrics.jsonl (one row a step), evaluations.jsonl (greedy
    accuracy on validation problems), seeds.jsonl (with the starting model a complete checkpoint of every step),
    completions/, checkpoints/step_N/, model/ (the finished checkpoint), results.json (written last).

    An interrupted run continues from its newest checkpoint and ends with the same weights. Several processes share the
    members of a step, exchange only rewards, and each rebuilds the same update. Not with ZeRO or FSDP.
    """
    run = Path(config.output_dir)
    accelerator = make_accelerator()
    refuse_sharding(accelerator, "evolution strategies")
    start_run(run, config)
    if (run / "results.json").exists():
        return read_json(run / "results.json")

    engine = HFEngine.from_pretrained(
        config.model, accelerator.device, DTYPES[config.engine_dtype], population_bytes=int(config.population_gb * 1e9)
    )
    task = get_task(config.task)
    rows = task.load("train", config.train_size, config.data_seed)
    base = {name: weight.detach().float().clone() for name, weight in engine.named_weights().items()}
    weights = {name: weight.clone() for name, weight in base.items()}
    parameters = sum(weight.numel() for weight in weights.values())
    require_free_space(run, 4 * parameters * (config.keep + 2), "the checkpoints and the model of this run")

    progress = {"completions": 0, "tokens": 0, "seconds": 0.0}
    done = last_complete_step(run) or 0
    if done:
        saved = load_file(checkpoint_folder(run, done) / "model.safetensors", device=str(accelerator.device))
        for name, weight in weights.items():
            weight.copy_(saved[name])
        progress = read_json(checkpoint_folder(run, done) / "progress.json")
    if accelerator.is_main_process:
        for log in ("metrics.jsonl", "evaluations.jsonl", "seeds.jsonl"):
            truncate_jsonl(run / log, done)
    engine.set_weights(weights.items())

    rollout = MemberRollout(config, engine, task, rows, accelerator, run)
    noise = Noise(config.shared_noise)
    search = EvolutionStrategy(
        SeedProblem(rollout, noise, config.prompt_baseline), weights, base,
        run_seed=config.seed, members=config.population, shaping=config.fitness_shaping,
        alpha=lambda step: config.alpha * schedule(config.alpha_schedule, step, config.steps, config.final_share),
        sigma=lambda step: config.sigma * schedule(config.sigma_schedule, step, config.steps, config.final_share),
        antithetic=config.antithetic, anchor=config.anchor, steps_done=done,
    )  # fmt: skip

    def evaluate(step: int) -> None:
        if config.eval_every and accelerator.is_main_process:
            sampling = Sampling(config.max_new_tokens)
            found = evaluate_task(engine, task, "validation", config.eval_size, config.data_seed, sampling, 1024)
            kept = {key: found[key] for key in ("correct", "total", "accuracy", "low", "high")}
            append_jsonl(run / "evaluations.jsonl", {"step": step, "completions": progress["completions"], **kept})

    if done == 0:
        evaluate(0)
    while search.steps_count < config.steps:
        began = time.perf_counter()
        search.step()
        engine.set_weights(weights.items())
        step, evaluation = search.steps_count, search.problem.evaluation
        progress["completions"] += evaluation.completions
        progress["tokens"] += evaluation.tokens
        progress["seconds"] += time.perf_counter() - began
        if accelerator.is_main_process:
            append_jsonl(run / "seeds.jsonl", search.update.row())
            append_jsonl(run / "metrics.jsonl", {"step": step, **progress, **step_metrics(search, evaluation)})
            reward = search.status["reward"]
            accelerator.print(f"es step {step}/{config.steps}  reward {math.nan if reward is None else reward:.3f}  "
                              f"{progress['seconds'] / step:.2f} s/step", flush=True)  # fmt: skip
        if (config.eval_every and step % config.eval_every == 0) or step == config.steps:
            evaluate(step)
        if step % config.save_every == 0 and step < config.steps:
            save_checkpoint(run, step, lambda folder: _save(folder, engine, weights, progress), keep=config.keep)
            accelerator.wait_for_everyone()

    if accelerator.is_main_process:
        with new_folder(run / "model") as folder:
            save_model(folder, engine.model, engine.tokenizer, weights)
        updates = sum(any(row["coefficients"]) for row in read_jsonl(run / "seeds.jsonl"))
        results = {"method": "es", "task": config.task, "parameters": parameters, "steps": config.steps,
                   "updates": updates, **progress}  # fmt: skip
        write_json(run / "results.json", results)
    accelerator.wait_for_everyone()
    return read_json(run / "results.json")


class MemberRollout:
    """Rewards of members: this process's share through the engine, the others' gathered."""

    def __init__(self, config: ESConfig, engine: HFEngine, task: Task, rows: datasets.Dataset,
                 accelerator: Accelerator, run: Path):  # fmt: skip
        self.config, self.engine, self.task, self.rows = config, engine, task, rows
        self.accelerator, self.run = accelerator, run

    def __call__(self, step: int, members: list[SeededMember]) -> Evaluation:
        config, process, processes = self.config, self.accelerator.process_index, self.accelerator.num_processes
        rows = self.rows.select(prompt_indices(len(self.rows), config.prompts_per_step, config.seed, step)).to_list()
        sampling = Sampling(config.max_new_tokens, config.temperature, config.samples, config.seed, step,
                            config.member_noise)  # fmt: skip
        mine = members[process::processes]
        generated = self.engine.generate([row["prompt"] for row in rows], sampling, mine) if mine else []
        results, tables = [], []
        for member, answers in zip(mine, generated, strict=True):
            # One reward per (prompt, sample); the samples of a prompt are averaged by the mean over columns.
            texts = [completion.text for prompt in answers for completion in prompt]
            repeated = [row for row in rows for _ in range(config.samples)]
            scored = fitness(self.task, texts, repeated)
            results.append({
                "member": member.index,
                "rewards": [math.nan if score is None else score for score in scored.scores],
                "tokens": sum(len(completion.token_ids) for prompt in answers for completion in prompt),
                "empty": scored.empty,
                "unfinished": sum(not completion.finished for prompt in answers for completion in prompt),
            })  # fmt: skip
            if member.index < config.log_members:
                tables += completion_rows(step + 1, member.index, repeated, texts, scored.scores, self.task.name)
        if processes > 1:
            results, tables = gather_object(results), gather_object(tables)
        results.sort(key=lambda result: result["member"])
        if config.log_completions_every and step % config.log_completions_every == 0:
            self._log(step + 1, tables)
        return Evaluation(
            rewards=np.array([result["rewards"] for result in results]),
            completions=len(members) * len(rows) * config.samples,
            tokens=sum(result["tokens"] for result in results),
            empty=sum(result["empty"] for result in results),
            unfinished=sum(result["unfinished"] for result in results),
        )

    def _log(self, step: int, table: list[dict[str, Any]]) -> None:
        if self.accelerator.is_main_process:
            folder = self.run / "completions"
            folder.mkdir(exist_ok=True)
            pq.write_table(pa.Table.from_pylist(table), folder / f"completions_{step:05d}.parquet")


def completion_rows(
    step: int, member: int, rows: list[dict[str, Any]], texts: list[str], scores: list[float | None], reward: str
) -> list[dict[str, Any]]:
    """Completions in the columns of TRL's GRPO tables (step, prompt, completion, one per reward), and the member."""
    return [
        {"step": step, "prompt": row["prompt"], "completion": [{"role": "assistant", "content": text}], reward: score,
         "member": member}
        for row, text, score in zip(rows, texts, scores, strict=True)
    ]  # fmt: skip


def prompt_indices(rows: int, per_step: int, seed: int, step: int) -> list[int]:
    """Which training rows a step uses: consecutive pieces of one shuffled epoch after another, the rest left out."""
    steps_per_epoch = rows // per_step
    epoch, place = divmod(step, steps_per_epoch)
    order = np.random.default_rng([seed, epoch]).permutation(rows)
    return order[place * per_step : (place + 1) * per_step].tolist()


def schedule(name: str, step: int, steps: int, final_share: float) -> float:
    """1 at step 0, `final_share` at the last step; always 1 for "constant"."""
    progress = step / max(1, steps - 1)
    fall = {"constant": 0.0, "linear": progress, "cosine": (1 - math.cos(math.pi * progress)) / 2}[name]
    return 1 - (1 - final_share) * fall


def step_metrics(search: EvolutionStrategy, evaluation: Evaluation) -> dict[str, Any]:
    """A row of metrics.jsonl, from evotorch's status and the step's rollouts."""
    keys = ("reward", "reward_std", "reward_best", "members_tied", "members_unscored", "alpha", "sigma", "update_norm",
            "distance_from_base")  # fmt: skip
    return {key: search.status[key] for key in keys} | {
        "empty_completions": evaluation.empty,
        "unfinished_completions": evaluation.unfinished,
        "mean_tokens": evaluation.tokens / evaluation.completions,
    }


def _save(folder: Path, engine: HFEngine, weights: dict[str, torch.Tensor], progress: dict[str, Any]) -> None:
    save_model(folder, engine.model, engine.tokenizer, weights)
    write_json(folder / "progress.json", progress)
