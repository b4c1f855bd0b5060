"""Every option of a run of evolution strategies, and which of them go together."""

import math
from dataclasses import dataclass, field, fields

import torch

from eval.errors import UserError
from eval.tasks import get_task
from trainers.arguments import MOST, check_at_least, check_at_most, check_between, check_choice
from trainers.earlier_tasks import check_replay, replay_option, replayed_prompts
from trainers.ending import check_budgets
from trainers.es.bfloat16 import PRECISIONS
from trainers.es.names import takes_names_of_grpo
from trainers.es.noise import RESTS, Noise
from trainers.es.shaping import BASELINES, SHAPINGS
from trainers.es.subspace import SPACES
from trainers.es.vector_search import ALGORITHMS, OPTIMIZERS, WITH_OPTIMIZER
from trainers.hub import HubOptions
from trainers.options import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Rows,
    Seed,
    Share,
    check_bounds,
    option,
)
from trainers.task_options import TaskOption, TaskOptions, fold_task, prompts_there_are, training_rows
from trainers.tracking import tracker_names


SCHEDULES = ("constant", "linear", "cosine")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
AUTO = "auto"


@takes_names_of_grpo
@dataclass
class ESConfig(TaskOptions, HubOptions):
    """Evolution strategies on all weights of a language model.

    In Python it takes the names of TRL's `GRPOConfig` as well (see `trainers.es.names`).

    The options stand in groups: the run and its end, the population, the update, completions, seeds and data, what is
    written, the noise of a member, the engine with its precision and memory, and, from `algorithm` on, evotorch's own
    algorithms on a subspace, for which some of the others have no meaning (see `refusals`).
    """

    # The run and its end
    model: str = field(metadata={"help": "checkpoint folder or hub name of the model to start from"})
    output_dir: str = field(metadata={"help": "run folder; the finished model is in its folder model/"})
    task: TaskOption = option("countdown", "what is rewarded: a task's name, own.yaml, file.py:TASK or dotted path")
    steps: PositiveInt = option(100, "updates; schedules go by this number")
    stop_at_tokens: int = option(0, "end after the first step with so many tokens generated in all; 0: no limit")
    stop_at_seconds: float = option(0.0, "end after the first step with so many seconds of training; 0: no limit")
    # The population
    population: PositiveInt = option(32, "members per step, N")
    prompts_per_step: PositiveInt = option(64, "prompts that every member answers in a step")
    samples: PositiveInt = option(1, "completions per prompt and member")
    train_size: Rows = option(4096, "training problems; each is used once per epoch")
    num_train_epochs: NonNegativeFloat = option(0.0, "passes over the training problems in place of steps; 0: steps")
    reward_weights: list[float] | None = option(None, "of the reward functions given to ESTrainer; 1 for each if not")
    # The update
    sigma: PositiveFloat = option(1e-3, "standard deviation of a member's perturbation")
    alpha: PositiveFloat = option(5e-4, "step size: theta += alpha/N sum z_i eps_i, without 1/sigma")
    sigma_schedule: str = option("constant", "constant, linear or cosine")
    alpha_schedule: str = option("constant", "constant, linear or cosine")
    final_share: Share = option(0.1, "a scheduled sigma or alpha ends at this share of itself")
    fitness_shaping: str = option("zscore", "zscore, centered_rank (ties share) or raw")
    prompt_baseline: str = option("none", "none, mean or zscore over members, per prompt")
    antithetic: bool = option(False, "members in pairs theta +- sigma eps")
    anchor: NonNegativeFloat = option(0.0, "weight of the decay towards the starting weights")
    shared_noise: bool = option(False, "one noise stream for all tensors, as released ES code has it; for study only")
    # Completions
    temperature: NonNegativeFloat = option(0.0, "sampling temperature of the members; 0 is greedy")
    member_noise: bool = option(False, "own sampling noise for each member instead of common random numbers")
    max_new_tokens: PositiveInt = option(64, "longest completion")
    # Seeds and data
    seed: Seed = option(0, "fixes members, prompt order and sampling")
    data_seed: Seed = option(0, "fixes which problems are in the training set")
    replay: str | list[TaskOption] = option("", "earlier tasks whose problems are mixed in, with commas or as a list")
    replay_share: float = option(0.0, "share of every step's prompts that is theirs")
    # What is written
    report_to: str | list[str] = option("none", "tensorboard, trackio, wandb, several of them, or none")
    run_name: str = option("", "name of the run for callbacks; that of its folder if not given")
    logging_steps: PositiveInt = option(1, "steps between calls of on_log; metrics.jsonl has a row of every step")
    eval_every: NonNegativeInt = option(10, "steps between greedy evaluations on validation; 0: never")
    eval_size: Rows = option(200, "validation problems")
    save_every: PositiveInt = option(25, "steps between checkpoints")
    keep: PositiveInt = option(1, "checkpoints kept; the seed log rebuilds every step in any case")
    log_completions_every: NonNegativeInt = option(25, "steps between tables of completions; 0: never")
    log_members: PositiveInt = option(4, "members whose completions are in such a table")
    log_prob_gap_every: NonNegativeInt = option(
        0, "steps between comparisons of the engine's log-probabilities with float32's, on a few completions; 0: never"
    )
    # The noise of a member
    noise: str = option("full", "of a member: full, or low_rank for products of two thin factors per matrix")
    rank: PositiveInt = option(1, "of low_rank noise")
    rest: str = option(
        "dense", "norms, biases, embeddings and head under low_rank noise: dense, or frozen (as vllm needs)"
    )
    # The engine, its precision and its memory
    engine: str = option("hf", "what generates: hf (transformers) or vllm")
    engine_dtype: str = option(
        AUTO,
        "weights in the engine: float32, bfloat16, or auto for bfloat16 where the processor multiplies it; the master "
        "is float32",
    )
    master_on_cpu: bool = option(
        False, "keep master and starting weights in the machine's memory; needs a GPU to matter"
    )
    precision: str = option(
        "fp32_master",
        "fp32_master, or with bfloat16 weights released, exact_restore, fp32_sum or stochastic_rounding; for study "
        "only",
    )
    released_engines: PositiveInt = option(
        3, "engines that share the members under precision released; errors add up in each"
    )
    population_gb: PositiveFloat = option(
        4.0, "memory for members evaluated in one batch; with vllm for keys and values"
    )
    prompts_per_batch: NonNegativeInt = option(
        0, "prompts given to the engine at once, to save memory; 0: all of a step"
    )
    use_cpu: bool = option(False, "run on the CPU, although there may be a GPU")
    check_every: NonNegativeInt = option(
        10, "steps between comparisons of the weights of all processes; 0: only before saving"
    )
    dry_run: bool = option(False, "print the memory that each process would take, and stop")
    memory_gb: NonNegativeFloat = option(0.0, "memory of the device that a plan is made for; 0: the one that is here")
    # Search on a subspace
    algorithm: str = option("es", "es, or one of evotorch's on a subspace: pgpe, snes, xnes, cem or cmaes")
    space: str = option("lora", "what those search: lora, random or singular")
    space_rank: PositiveInt = option(1, "rank of the change of each matrix there")
    optimizer: str = option("none", "of pgpe's or snes's centre: none, adam, clipup or sgd")
    center_learning_rate: float | None = option(
        None, "step size of the centre in pgpe, snes, xnes; evotorch's own if not given"
    )
    stdev_learning_rate: float | None = option(
        None, "step size of the standard deviations there; evotorch's own if not given"
    )
    parenthood_ratio: Share = option(0.5, "share of elites in cem")

    def __post_init__(self):
        check_bounds(self)
        fold_task(self)
        task = get_task(self.task)
        self.prompts_per_step = prompts_there_are(task, self.prompts_per_step, "prompts_per_step")
        self.train_size = training_rows(task, self.train_size)
        check_at_least("population (there is nothing to compare a single member with)", self.population, 2)
        for name in ("sigma", "alpha"):
            check_between(name, getattr(self, name), 0.0, torch.finfo(torch.float32).max)
        check_between("anchor times alpha", self.anchor * self.alpha, 0.0, 1.0)
        check_at_most("population_gb", self.population_gb, 1e6, "no machine has as much memory")
        what = "completions of a step (population times prompts_per_step times samples)"
        check_at_most(what, self.completions_per_step, MOST, "they lie in memory until it ends")
        check_at_least("train_size (one step's prompts must be different)", self.train_size, self.prompts_per_step)
        for name, choices in CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        for is_refused, message in refusals(self):
            if is_refused:
                raise UserError(message)
        check_budgets(self.stop_at_tokens, self.stop_at_seconds)
        self.replay = replay_option(self.replay)
        check_replay(self.task, self.replay, self.replay_share)
        replayed_prompts(self.prompts_per_step, self.replay_share)
        tracker_names(self.report_to)

    @property
    def on_subspace(self) -> bool:
        """Whether one of evotorch's algorithms searches a subspace, and not evolution strategies all weights."""
        return self.algorithm != "es"

    @property
    def member_rank(self) -> int:
        """Of what the engine adds to each matrix for a member; 0 if it is a dense matrix."""
        return self.space_rank if self.on_subspace else self.noise_rank

    @property
    def noise_rank(self) -> int:
        return self.rank if self.noise == "low_rank" else 0

    def make_noise(self, only: frozenset[str] | None = None) -> Noise:
        """only: names of the parameters that have noise; None for all of them."""
        return Noise(self.shared_noise, self.noise_rank, self.rest, only)

    def alpha_at(self, step: int) -> float:
        """The step size in `step` (0-based)."""
        return self.alpha * schedule(self.alpha_schedule, step, self.steps, self.final_share)

    def sigma_at(self, step: int) -> float:
        """The standard deviation of a perturbation in `step` (0-based)."""
        return self.sigma * schedule(self.sigma_schedule, step, self.steps, self.final_share)

    @property
    def completions_per_step(self) -> int:
        return self.population * self.prompts_per_step * self.samples


CHOICES = {
    "fitness_shaping": SHAPINGS,
    "prompt_baseline": BASELINES,
    "sigma_schedule": SCHEDULES,
    "alpha_schedule": SCHEDULES,
    "engine": ("hf", "vllm"),
    "engine_dtype": (AUTO, *DTYPES),
    "noise": ("full", "low_rank"),
    "rest": RESTS,
    "precision": PRECISIONS,
    "algorithm": ("es", *ALGORITHMS),
    "space": SPACES,
    "optimizer": OPTIMIZERS,
}
DEFAULTS = {declared.name: declared.default for declared in fields(ESConfig)}
# Options of the search over all weights, which evotorch's algorithms on a subspace do not have.
OF_ALL_WEIGHTS = ("antithetic", "anchor", "shared_noise", "precision", "noise", "sigma_schedule", "alpha_schedule")


def refusals(config: ESConfig) -> list[tuple[bool, str]]:
    """What does not go together: whether it does so in this run, and what to say of it."""
    rounded, vectors = config.precision != "fp32_master", config.on_subspace
    dense_in_vllm = config.engine == "vllm" and config.noise == "low_rank" and config.rest == "dense"
    needs_rate = config.algorithm == "pgpe" or config.optimizer != "none"
    elites = math.floor(config.population * config.parenthood_ratio)
    return [
        (
            config.antithetic and config.population % 2 == 1,
            f"population is {config.population} with antithetic; give an even number",
        ),
        (
            rounded and config.log_prob_gap_every > 0,
            f"precision {config.precision} has no float32 member to compare with; set log_prob_gap_every: 0",
        ),
        (dense_in_vllm, "engine vllm batches members as adapters of matrices; set rest: frozen, or engine: hf"),
        (
            rounded and config.anchor > 0,
            f"precision {config.precision} has no anchor; set anchor: 0, or precision: fp32_master",
        ),
        (
            rounded and config.noise != "full",
            f"precision {config.precision} is a study of full noise; set noise: full",
        ),
        *(
            (
                vectors and getattr(config, name) != DEFAULTS[name],
                f"{name} has no meaning for algorithm {config.algorithm}; leave it out",
            )
            for name in OF_ALL_WEIGHTS
        ),
        (
            vectors and config.optimizer != "none" and config.algorithm not in WITH_OPTIMIZER,
            f"optimizer is {config.optimizer!r}, but {config.algorithm} moves its centre by a rule of its own; leave "
            f"it at none, or take {' or '.join(WITH_OPTIMIZER)}",
        ),
        (
            vectors and needs_rate and config.center_learning_rate is None,
            f"{config.algorithm} with optimizer {config.optimizer} has no default step size; give "
            "center_learning_rate",
        ),
        (
            config.algorithm == "pgpe" and config.population % 2 == 1,
            f"population is {config.population}, but pgpe takes members in pairs; give an even number",
        ),
        (
            config.algorithm == "cem" and elites < 2,
            f"parenthood_ratio {config.parenthood_ratio} of {config.population} members leaves fewer than 2 elites, "
            "whose spread cannot be told; raise either",
        ),
    ]


def schedule(name: str, step: int, steps: int, final_share: float) -> float:
    """1 at step 0, `final_share` at the last step; always 1 for "constant"."""
    progress = step / max(1, steps - 1)
    fall = {"constant": 0.0, "linear": progress, "cosine": (1 - math.cos(math.pi * progress)) / 2}[name]
    return 1 - (1 - final_share) * fall
