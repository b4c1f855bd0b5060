"""Post-training with evolution strategies: the run around the search."""

import math
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, broadcast_object_list, gather_object
from safetensors.torch import load_file
from transformers import AutoTokenizer

from eval.adapters import fitness
from eval.errors import UserError
from eval.harness import evaluate_task
from eval.rollout.base import Completion, Member, Messages, RolloutEngine, Sampling
from eval.rollout.chat import prompt_ids
from eval.rollout.hf import HFEngine
from eval.rollout.loading import save_model
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
from trainers.ending import check_budgets, ended_by
from trainers.es.assignment import Assignment, portions
from trainers.es.checksum import require_equal_weights
from trainers.es.memory import (
    PROMPT_TOKENS,
    VLLM_COMPLETIONS,
    VLLM_TOKENS,
    Demand,
    Plan,
    describe,
    device_memory,
    host_memory,
    model_shape,
    plan_memory,
    require_memory,
    size_text,
)
from trainers.es.noise import RESTS, Noise
from trainers.es.precision import PRECISIONS
from trainers.es.search import Evaluation, EvolutionStrategy, SeedProblem
from trainers.es.shaping import BASELINES, SHAPINGS
from trainers.es.subspace import SPACES, Subspace
from trainers.es.update import Weights
from trainers.es.vector_search import (
    ALGORITHMS,
    OPTIMIZERS,
    VectorProblem,
    VectorSearch,
    check_length,
    check_vector_search,
    make_algorithm,
)
from trainers.launch import make_accelerator, refuse_sharded_launch, refuse_sharding
from trainers.replay import Replay, check_replay, replay_names, replayed_prompts
from trainers.run_folder import checkpoint_folder, last_complete_step, save_checkpoint, start_run
from trainers.tracking import Tracking, tracker_names
from trainers.watch import watch_processes


SCHEDULES = ("constant", "linear", "cosine")
ENGINES = ("hf", "vllm")
NOISES = ("full", "low_rank")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass
class ESConfig:
    """Evolution strategies on all weights of a language model."""

    model: str = field(metadata={"help": "checkpoint folder or hub name of the model to start from"})
    output_dir: str = field(metadata={"help": "run folder; the finished model is in its folder model/"})
    task: str = field(default="countdown", metadata={"help": "what is rewarded: a task's name or dotted path"})
    steps: int = field(default=100, metadata={"help": "updates; schedules go by this number"})
    stop_at_tokens: int = field(
        default=0, metadata={"help": "end after the first step with so many tokens generated in all; 0: no limit"}
    )
    stop_at_seconds: float = field(
        default=0.0, metadata={"help": "end after the first step with so many seconds of training; 0: no limit"}
    )
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
    replay: str = field(default="", metadata={"help": "earlier tasks whose problems are mixed in, with commas"})
    replay_share: float = field(default=0.0, metadata={"help": "share of every step's prompts that is theirs"})
    report_to: str | list[str] = field(
        default="none", metadata={"help": "tensorboard, trackio, wandb, several of them, or none"}
    )
    eval_every: int = field(default=10, metadata={"help": "steps between greedy evaluations on validation; 0: never"})
    eval_size: int = field(default=200, metadata={"help": "validation problems"})
    save_every: int = field(default=25, metadata={"help": "steps between checkpoints"})
    keep: int = field(default=1, metadata={"help": "checkpoints kept; the seed log rebuilds every step in any case"})
    log_completions_every: int = field(default=25, metadata={"help": "steps between tables of completions; 0: never"})
    log_members: int = field(default=4, metadata={"help": "members whose completions are in such a table"})
    noise: str = field(
        default="full", metadata={"help": "of a member: full, or low_rank for products of two thin factors per matrix"}
    )
    rank: int = field(default=1, metadata={"help": "of low_rank noise"})
    rest: str = field(
        default="dense",
        metadata={"help": "norms, biases, embeddings and head under low_rank noise: dense, or frozen (as vllm needs)"},
    )
    engine: str = field(default="hf", metadata={"help": "what generates: hf (transformers) or vllm"})
    engine_dtype: str = field(default="float32", metadata={"help": "weights in the engine; the master is float32"})
    master_on_cpu: bool = field(
        default=False,
        metadata={"help": "keep master and starting weights in the machine's memory; needs a GPU to matter"},
    )
    precision: str = field(
        default="fp32_master",
        metadata={
            "help": "fp32_master, or with bfloat16 weights released, exact_restore, fp32_sum or "
            "stochastic_rounding; for study only"
        },
    )
    released_engines: int = field(
        default=3, metadata={"help": "engines that share the members under precision released; errors add up in each"}
    )
    population_gb: float = field(
        default=4.0, metadata={"help": "memory for members evaluated in one batch; with vllm for keys and values"}
    )
    prompts_per_batch: int = field(
        default=0, metadata={"help": "prompts given to the engine at once, to save memory; 0: all of a step"}
    )
    check_every: int = field(
        default=10,
        metadata={"help": "steps between comparisons of the weights of all processes; 0: only before saving"},
    )
    dry_run: bool = field(default=False, metadata={"help": "print the memory that each process would take, and stop"})
    memory_gb: float = field(
        default=0.0, metadata={"help": "memory of the device that a plan is made for; 0: the one that is here"}
    )
    algorithm: str = field(
        default="es", metadata={"help": "es, or one of evotorch's on a subspace: pgpe, snes, xnes, cem or cmaes"}
    )
    space: str = field(default="lora", metadata={"help": "what those search: lora, random or singular"})
    space_rank: int = field(default=1, metadata={"help": "rank of the change of each matrix there"})
    optimizer: str = field(default="none", metadata={"help": "of pgpe's or snes's centre: none, adam, clipup or sgd"})
    center_learning_rate: float | None = field(
        default=None, metadata={"help": "step size of the centre in pgpe, snes, xnes; evotorch's own if not given"}
    )
    stdev_learning_rate: float | None = field(
        default=None, metadata={"help": "step size of the standard deviations there; evotorch's own if not given"}
    )
    parenthood_ratio: float = field(default=0.5, metadata={"help": "share of elites in cem"})

    def __post_init__(self):
        for name in (
            "steps",
            "prompts_per_step",
            "samples",
            "train_size",
            "sigma",
            "alpha",
            "max_new_tokens",
            "eval_size",
            "save_every",
            "keep",
            "log_members",
            "population_gb",
            "released_engines",
            "space_rank",
        ):
            check_positive(name, getattr(self, name))
        for name in (
            "anchor",
            "temperature",
            "eval_every",
            "log_completions_every",
            "check_every",
            "memory_gb",
            "prompts_per_batch",
        ):
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
        check_choice("engine", self.engine, ENGINES)
        check_choice("noise", self.noise, NOISES)
        check_choice("rest", self.rest, RESTS)
        check_positive("rank", self.rank)
        check_budgets(self.stop_at_tokens, self.stop_at_seconds)
        if self.engine == "vllm" and self.noise == "low_rank" and self.rest == "dense":
            raise UserError("engine vllm batches members as adapters of matrices; set rest: frozen, or engine: hf")
        check_choice("precision", self.precision, PRECISIONS)
        if self.precision != "fp32_master" and self.anchor:
            raise UserError(f"precision {self.precision} has no anchor; set anchor: 0, or precision: fp32_master")
        if self.precision != "fp32_master" and self.noise != "full":
            raise UserError(f"precision {self.precision} is a study of full noise; set noise: full")
        check_choice("algorithm", self.algorithm, ("es", *ALGORITHMS))
        if self.algorithm != "es":
            self._check_vector_search()
        get_task(self.task)
        check_replay(self.task, self.replay, self.replay_share)
        replayed_prompts(self.prompts_per_step, self.replay_share)
        tracker_names(self.report_to)

    def _check_vector_search(self) -> None:
        check_choice("space", self.space, SPACES)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_between("parenthood_ratio", self.parenthood_ratio, 0.0, 1.0)
        # These belong to the search over all weights.
        for name, default in (
            ("antithetic", False),
            ("anchor", 0.0),
            ("shared_noise", False),
            ("precision", "fp32_master"),
            ("noise", "full"),
            ("sigma_schedule", "constant"),
            ("alpha_schedule", "constant"),
        ):
            if getattr(self, name) != default:
                raise UserError(f"{name} has no meaning for algorithm {self.algorithm}; leave it out")
        check_vector_search(
            self.algorithm, self.optimizer, self.population, self.center_learning_rate, self.parenthood_ratio
        )

    @property
    def member_rank(self) -> int:
        """Of what the engine adds to each matrix for a member; 0 if it is a dense matrix."""
        if self.algorithm != "es":
            return self.space_rank
        return self.rank if self.noise == "low_rank" else 0

    def make_noise(self) -> Noise:
        return Noise(self.shared_noise, self.rank if self.noise == "low_rank" else 0, self.rest)

    @property
    def completions_per_step(self) -> int:
        return self.population * self.prompts_per_step * self.samples


def train_es(config: ESConfig) -> dict[str, Any]:
    """Train, or finish training, with evolution strategies; returns what is written to `results.json`.

    Files in `output_dir`: config.yaml, environment.json, metrics.jsonl (one row a step), evaluations.jsonl (greedy
    accuracy on validation problems), seeds.jsonl (with the starting model a complete checkpoint of every step),
    completions/, checkpoints/step_N/, model/ (the finished checkpoint), results.json (written last).

    An interrupted run continues from its newest checkpoint and ends with the same weights. Several processes share the
    members of a step, exchange only rewards, and each rebuilds the same update; only the first reads and writes the
    run folder, so that machines need not share it. If one of them dies, all end. Not with ZeRO or FSDP.

    With `dry_run` nothing is trained or written: the memory plan is printed, and the result is empty.
    """
    refuse_sharded_launch("evolution strategies")
    with watch_processes():
        return _train(config)


def _train(config: ESConfig) -> dict[str, Any]:
    run = Path(config.output_dir)
    accelerator = make_accelerator()
    refuse_sharding(accelerator, "evolution strategies")
    plan = check_memory(config, accelerator)
    if config.dry_run:
        return {}
    start_run(run, config, may_change=("report_to",))
    finished = read_json(run / "results.json") if (run / "results.json").exists() else None
    if (finished := broadcast_object_list([finished])[0]) is not None:
        return finished

    engine = make_engine(config, accelerator)
    task = get_task(config.task)
    rows = task.load("train", config.train_size, config.data_seed)
    keep_on = "cpu" if config.master_on_cpu else accelerator.device
    base = {
        name: weight.detach().to(keep_on, torch.float32, copy=True) for name, weight in engine.named_weights().items()
    }
    if config.precision != "fp32_master":
        base = {name: weight.to(torch.bfloat16).float() for name, weight in base.items()}
    parameters = sum(weight.numel() for weight in base.values())
    require_free_space(run, 4 * parameters * (config.keep + 2), "the checkpoints and the model of this run")

    progress = {"completions": 0, "tokens": 0, "seconds": 0.0}
    done = 0
    if accelerator.is_main_process and (done := last_complete_step(run) or 0):
        progress = read_json(checkpoint_folder(run, done) / "progress.json")
    done, progress = broadcast_object_list([done, progress])
    if accelerator.is_main_process:
        for log in ("metrics.jsonl", "evaluations.jsonl", "seeds.jsonl", "fitness.jsonl"):
            truncate_jsonl(run / log, done)

    tracking = Tracking(tracker_names(config.report_to) if accelerator.is_main_process else [], run)
    rollout = MemberRollout(config, engine, task, rows, accelerator, run)
    make_search = evolution_strategy if config.algorithm == "es" else vector_search
    search = make_search(config, rollout, base, accelerator, run, done)
    weights = search.weights
    require_equal_weights(accelerator, weights, done)

    def evaluate(step: int) -> None:
        if config.eval_every and accelerator.is_main_process:
            sampling = Sampling(config.max_new_tokens)
            # No more completions at once than the plan reckons with.
            rows = min(1024, plan.rows)
            found = evaluate_task(engine, task, "validation", config.eval_size, config.data_seed, sampling, rows)
            kept = {key: found[key] for key in ("correct", "total", "accuracy", "low", "high")}
            row = {"step": step, "completions": progress["completions"], **kept}
            append_jsonl(run / "evaluations.jsonl", row)
            tracking.log(row)

    if done == 0:
        engine.set_weights(weights.items())
        evaluate(0)
    ended = None
    while ended is None:
        began = time.perf_counter()
        engine.set_weights(search.pristine.items())
        search.step()
        step, evaluation = search.steps_count, search.problem.evaluation
        progress["completions"] += evaluation.completions
        progress["tokens"] += evaluation.tokens
        reached = progress | {"seconds": progress["seconds"] + time.perf_counter() - began}
        ended = ended_by(step, config.steps, reached, config.stop_at_tokens, config.stop_at_seconds)
        ended = broadcast_object_list([ended])[0]  # the clocks of the processes differ
        if ended is not None:
            search.finish()
        engine.set_weights(weights.items())
        progress["seconds"] += time.perf_counter() - began
        if accelerator.is_main_process:
            append_jsonl(run / search.log, search.log_row())
            metrics = step_metrics(search, evaluation)
            append_jsonl(run / "metrics.jsonl", {"step": step, **progress, **metrics})
            tracking.log(progress | metrics)
            reward = metrics["reward"]
            accelerator.print(
                f"es step {step}/{config.steps}  reward {math.nan if reward is None else reward:.3f}  "
                f"{progress['seconds'] / step:.2f} s/step",
                flush=True,
            )
        if (config.eval_every and step % config.eval_every == 0) or ended is not None:
            evaluate(step)
        saving = step % config.save_every == 0 or ended is not None
        if saving or (config.check_every and step % config.check_every == 0):
            require_equal_weights(accelerator, weights, step)
        if saving and ended is None:
            save_checkpoint(run, step, lambda folder: _save(folder, engine, weights, progress), keep=config.keep)
            accelerator.wait_for_everyone()

    tracking.close()
    if accelerator.is_main_process:
        with new_folder(run / "model") as folder:
            save_model(folder, engine.model, engine.tokenizer, weights)
        updates = sum(not row["members_tied"] for row in read_jsonl(run / "metrics.jsonl"))
        finished = {
            "method": "es",
            "task": config.task,
            "parameters": parameters,
            "steps": step,
            "ended_by": ended,
            "updates": updates,
            **progress,
        }
        write_json(run / "results.json", finished)
    return broadcast_object_list([finished])[0]


def make_engine(config: ESConfig, accelerator: Accelerator) -> RolloutEngine:
    dtype = DTYPES[config.engine_dtype]
    if config.engine == "hf":
        return HFEngine.from_pretrained(
            config.model, accelerator.device, dtype, population_bytes=int(config.population_gb * 1e9)
        )
    from eval.rollout.vllm import VLLMEngine  # here, because vLLM is an extra

    rank = config.member_rank
    slots = max(map(len, portions(config.population, accelerator.num_processes))) if rank else 0
    # Validation prompts may be longer than those for training.
    longest = 2 * longest_prompt(config) + config.max_new_tokens
    return VLLMEngine(
        config.model,
        dtype,
        slots=slots,
        rank=rank,
        kv_cache_gb=config.population_gb,
        max_model_len=longest,
        max_num_seqs=VLLM_COMPLETIONS,
        max_num_batched_tokens=VLLM_TOKENS,
    )


def longest_prompt(config: ESConfig) -> int:
    """Tokens of the longest training prompt; `PROMPT_TOKENS` for a folder without a tokenizer."""
    folder = Path(config.model)
    if folder.exists() and not (folder / "tokenizer_config.json").exists():
        return PROMPT_TOKENS
    tasks = [get_task(name) for name in (config.task, *replay_names(config.replay))]
    prompts = [
        prompt for task in tasks for prompt in task.load("train", config.train_size, config.data_seed)["prompt"]
    ]
    tokenizer = AutoTokenizer.from_pretrained(config.model)
    return max(map(len, prompt_ids(tokenizer, prompts)))


def memory_demand(config: ESConfig, processes: int) -> Demand:
    """What decides the memory of this run besides its model."""
    return Demand(
        members=max(map(len, portions(config.population, processes))),
        prompts=min(config.prompts_per_batch or config.prompts_per_step, config.prompts_per_step),
        samples=config.samples,
        prompt_tokens=longest_prompt(config),
        max_new_tokens=config.max_new_tokens,
        engine_bytes=DTYPES[config.engine_dtype].itemsize,
        population_bytes=int(config.population_gb * 1e9),
        rank=config.member_rank,
        rest=config.rest,
        vectors=config.algorithm != "es",
        master_on_cpu=config.master_on_cpu,
        sampled=config.temperature > 0,
        engine=config.engine,
    )


def check_memory(config: ESConfig, accelerator: Accelerator) -> Plan:
    """The run's plan, printed for a dry run. Raises `UserError` if it cannot fit on its device."""
    model, demand = model_shape(config.model), memory_demand(config, accelerator.num_processes)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # processes on this machine
    if config.memory_gb:
        available = int(config.memory_gb * 1e9)
    else:
        available = device_memory(accelerator.device, local)
        demand = replace(demand, host_apart=accelerator.device.type != "cpu")
    plan = plan_memory(model, demand)
    if config.dry_run:
        accelerator.print(describe(plan, demand, available), flush=True)
    require_memory(model, demand, available)
    if not config.dry_run and plan.host_bytes > host_memory(local):
        raise UserError(
            f"the master takes {size_text(plan.host_bytes)} of the machine's memory for each process, but "
            f"{size_text(host_memory(local))} are free for each; set master_on_cpu: false, or start fewer "
            "processes"
        )
    return plan


def evolution_strategy(
    config: ESConfig, rollout: "MemberRollout", base: Weights, accelerator: Accelerator, run: Path, done: int
) -> EvolutionStrategy:
    """The search over all weights, from the checkpoint after `done` steps if there is one."""
    weights = {name: weight.clone() for name, weight in base.items()}
    if done:
        saved = {}
        if accelerator.is_main_process:
            saved = load_file(checkpoint_folder(run, done) / "model.safetensors")
        for name, weight in weights.items():
            # The others get them over the network: their machines may lack the run folder.
            here = (saved[name] if saved else weight).to(accelerator.device, copy=True)
            weight.copy_(broadcast(here))
    return EvolutionStrategy(
        SeedProblem(rollout, config.make_noise(), config.prompt_baseline, config.precision, config.released_engines),
        weights,
        base,
        run_seed=config.seed,
        members=config.population,
        shaping=config.fitness_shaping,
        alpha=lambda step: config.alpha * schedule(config.alpha_schedule, step, config.steps, config.final_share),
        sigma=lambda step: config.sigma * schedule(config.sigma_schedule, step, config.steps, config.final_share),
        antithetic=config.antithetic,
        anchor=config.anchor,
        steps_done=done,
        device=accelerator.device,
    )


def vector_search(
    config: ESConfig, rollout: "MemberRollout", base: Weights, accelerator: Accelerator, run: Path, done: int
) -> VectorSearch:
    """One of evotorch's algorithms on a subspace, brought to where it was after `done` steps."""
    recorded = read_jsonl(run / VectorSearch.log) if accelerator.is_main_process else []
    recorded = broadcast_object_list([[row["fitness"] for row in recorded]])[0]
    space = Subspace(base, config.space, config.space_rank, config.seed)
    check_length(config.algorithm, space)
    problem = VectorProblem(rollout, space, config.prompt_baseline, config.fitness_shaping, config.seed, recorded)
    algorithm = make_algorithm(
        config.algorithm,
        problem,
        members=config.population,
        stdev=config.sigma,
        optimizer=config.optimizer,
        center_learning_rate=config.center_learning_rate,
        stdev_learning_rate=config.stdev_learning_rate,
        parenthood_ratio=config.parenthood_ratio,
    )
    return VectorSearch(problem, base, algorithm)


class MemberRollout:
    """Rewards of members: those that this process gets to through the engine, the others' gathered."""

    def __init__(
        self,
        config: ESConfig,
        engine: RolloutEngine,
        task: Task,
        rows: datasets.Dataset,
        accelerator: Accelerator,
        run: Path,
    ):
        self.config, self.engine, self.task, self.rows = config, engine, task, rows
        self.accelerator, self.run = accelerator, run
        self.assignment = Assignment(accelerator)
        self.replayed = replayed_prompts(config.prompts_per_step, config.replay_share)
        if self.replayed:
            self.replay = Replay.load(
                config.task, config.replay, self.replayed, config.train_size, config.data_seed, config.seed
            )
            self.task = self.replay.task

    def prompts_of_step(self, step: int) -> list[dict[str, Any]]:
        """The rows that every member answers in `step` (0-based)."""
        config = self.config
        indices = prompt_indices(len(self.rows), config.prompts_per_step - self.replayed, config.seed, step)
        rows = self.rows.select(indices).to_list()
        if self.replayed:
            rows = [self.replay.task.row(config.task, row) for row in rows] + self.replay.of_step(step)
        return rows

    def __call__(self, step: int, members: list[Member]) -> Evaluation:
        config = self.config
        rows = self.prompts_of_step(step)
        sampling = Sampling(
            config.max_new_tokens, config.temperature, config.samples, config.seed, step, config.member_noise
        )
        prompts = [row["prompt"] for row in rows]
        repeated = [row for row in rows for _ in range(config.samples)]
        mine = (
            (member, answers)
            for portion in self.assignment.take(step, len(members))
            for taken in [members[portion.start : portion.stop]]
            for member, answers in zip(taken, self._generate(prompts, sampling, taken), strict=True)
        )
        results, tables = [], []
        for member, answers in mine:
            # One reward per (prompt, sample); the samples of a prompt are averaged by the mean over columns.
            texts = [completion.text for prompt in answers for completion in prompt]
            scored = fitness(self.task, texts, repeated)
            results.append(
                {
                    "member": member.index,
                    "rewards": [math.nan if score is None else score for score in scored.scores],
                    "tokens": sum(len(completion.token_ids) for prompt in answers for completion in prompt),
                    "empty": scored.empty,
                    "unfinished": sum(not completion.finished for prompt in answers for completion in prompt),
                }
            )
            if member.index < config.log_members:
                tables += completion_rows(step + 1, member.index, repeated, texts, scored.scores, self.task.name)
        if self.accelerator.num_processes > 1:
            results, tables = gather_object(results), gather_object(tables)
        results.sort(key=lambda result: result["member"])
        tables.sort(key=lambda row: row["member"])
        if config.log_completions_every and step % config.log_completions_every == 0:
            self._log(step + 1, tables)
        return Evaluation(
            rewards=np.array([result["rewards"] for result in results]),
            completions=len(members) * len(rows) * config.samples,
            tokens=sum(result["tokens"] for result in results),
            empty=sum(result["empty"] for result in results),
            unfinished=sum(result["unfinished"] for result in results),
        )

    def _generate(
        self, prompts: list[Messages], sampling: Sampling, members: list[Member]
    ) -> list[list[list[Completion]]]:
        """Completions indexed [member][prompt][sample], a limited number of prompts at a time."""
        size = self.config.prompts_per_batch or len(prompts)
        parts = [
            self.engine.generate(prompts[start : start + size], sampling, members)
            for start in range(0, len(prompts), size)
        ]
        return [[answer for part in parts for answer in part[member]] for member in range(len(members))]

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
        {
            "step": step,
            "prompt": row["prompt"],
            "completion": [{"role": "assistant", "content": text}],
            reward: score,
            "member": member,
        }
        for row, text, score in zip(rows, texts, scores, strict=True)
    ]


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


def step_metrics(search: EvolutionStrategy | VectorSearch, evaluation: Evaluation) -> dict[str, Any]:
    """A row of metrics.jsonl, from the search and the step's rollouts."""
    return search.metrics() | {
        "empty_completions": evaluation.empty,
        "unfinished_completions": evaluation.unfinished,
        "mean_tokens": evaluation.tokens / evaluation.completions,
    }


def _save(folder: Path, engine: RolloutEngine, weights: dict[str, torch.Tensor], progress: dict[str, Any]) -> None:
    save_model(folder, engine.model, engine.tokenizer, weights)
    write_json(folder / "progress.json", progress)
