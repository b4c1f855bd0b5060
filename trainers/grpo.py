"""GRPO through TRL's own `GRPOTrainer`: tasks as rewards, a run folder that survives a kill, resume bit for bit.

GRPO: Shao et al. 2024, "DeepSeekMath" (arXiv 2402.03300), equations 3 and 4. The trainer is TRL's, unchanged; the run
folder is that of `trainers.trl_run`, and besides

    completions/*.parquet           with `log_completions: true`
    adapter/                        with LoRA: the adapter, which the final model in model/ is merged with
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import datasets
import numpy as np
import requests
import torch
import trl
from accelerate import PartialState
from accelerate.utils import gather, reduce
from peft import LoraConfig, PeftModel
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from trl import GRPOTrainer
from trl.generation.vllm_generation import VLLMGeneration
from trl.import_utils import is_vllm_available

from eval.adapters import TaskReward, completion_text
from eval.errors import UserError
from eval.rollout.base import Messages
from eval.rollout.chat import accepted_messages, answer_text, end_token_ids
from eval.rollout.loading import load_model
from eval.storage import new_folder, read_json
from eval.tasks import Task, get_task
from eval.tasks.own import say
from trainers.arguments import check_at_least, check_at_most, check_choice, did_you_mean
from trainers.dead_signal import SHOWN, DeadSignal
from trainers.earlier_tasks import EarlierTasks, MixedTask, check_replay, replay_names, replay_option, replayed_prompts
from trainers.ending import check_budgets
from trainers.grpo_gap import report_gap
from trainers.launch import is_main_process
from trainers.lora import check_lora_patterns, check_lora_targets, read_lora_patterns
from trainers.more_steps import goes_on, options_before, reopen
from trainers.options import NonNegativeInt, Share, check_rows, option
from trainers.run_folder import end_run, start_run
from trainers.task_options import TaskOption, prompts_there_are, training_rows
from trainers.tracking import tracker_names
from trainers.trl_run import (
    FIXED,
    MAY_CHANGE,
    RunRecorder,
    TRLArguments,
    check_numbers,
    check_options,
    check_run,
    end_tokens_only,
    greedy_evaluation,
    last_checkpoint_of_run,
    load_chat_model,
    load_trained_model,
    results_of_finished_run,
    run_folder,
    run_trainer,
    seed_of_problems,
    trainer_config,
    watch_logits,
    write_finished_run,
)


@dataclass
class GRPOArguments(TRLArguments):
    """What the lab adds to TRL's `GRPOConfig`; both are read from the same flat YAML.

    TRL's own options keep their names and meanings. `data_seed` chooses the problems (unset: `seed` does), `seed`
    their order and the sampling, `max_steps` the length of the run, `output_dir` the run folder, and
    `per_device_eval_batch_size` the problems that a greedy evaluation generates for at a time.
    """

    train_size: int | None = option(
        None, "Training problems. Default: as many as the run asks for, so that none comes twice."
    )
    stop_at_tokens: int = option(
        0,
        "End after the first step that reaches so many generated tokens and has used all completions generated. "
        "max_steps stays the upper bound, and what the learning rate's schedule goes by. 0: no limit.",
    )
    stop_at_seconds: float = option(0.0, "The same for seconds of training, without evaluation and saving.")
    replay: str | list[TaskOption] = option(
        "", "Earlier tasks whose training problems are mixed in, with commas or as a list."
    )
    replay_share: float = option(0.0, "Share of the problems of every generation of completions that is theirs.")
    log_prob_gap_every: NonNegativeInt = option(
        0,
        "Steps between comparisons of the generating engine's log-probabilities with those of the training's forward "
        "pass, on a few completions: log_prob_gap/mean and /max in metrics.jsonl. 0: never.",
    )
    lora_rank: NonNegativeInt = option(0, "Rank of the LoRA adapter; 0 trains all parameters.")
    lora_alpha: int = option(32, "LoRA scales its update by lora_alpha / lora_rank.")
    lora_dropout: Share = option(0.0, "Dropout on the input of the LoRA matrices.")
    lora_target_modules: list[str] | None = option(
        None, "Names of the modules that get LoRA. Default: all linear layers but the head."
    )
    lora_patterns: str | None = option(
        None,
        "JSON file with peft's rank_pattern and alpha_pattern: modules whose rank and alpha are others than lora_rank "
        "and lora_alpha. recipes/circuits.py writes such files.",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.train_size is not None:
            check_rows("train_size", self.train_size)
        check_at_most("lora_rank", self.lora_rank, 100_000, "no matrix has as many directions")
        if self.lora_dropout == 1:
            raise UserError("lora_dropout is 1, which leaves nothing to train on; give less")
        if self.lora_target_modules == []:
            raise UserError("lora_target_modules is empty; name a module, or leave it out for all linear layers")
        check_budgets(self.stop_at_tokens, self.stop_at_seconds)
        self.replay = replay_option(self.replay)
        check_replay(self.task, self.replay, self.replay_share)
        check_at_least("lora_alpha", self.lora_alpha, 1)
        if self.lora_patterns is not None:
            if not self.lora_rank:
                raise UserError("lora_patterns changes the ranks of LoRA, but lora_rank is 0; give lora_rank")
            read_lora_patterns(self.lora_patterns)


# Options that only make sense with one value here, and why.
FIXED_IN_GRPO = FIXED | {
    "sync_ref_model": (False, "checkpoints do not hold the moving reference, so a resumed run would have another one"),
    "remove_unused_columns": (False, "the reward reads the columns of the task"),
}
# TRL 1.16 takes any string for these, and finds out late or never.
CHOICES = {
    "loss_type": ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"),
    "importance_sampling_level": ("token", "sequence"),
    "scale_rewards": ("group", "batch", "none"),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
    "vllm_mode": ("colocate", "server"),
    "vllm_model_impl": ("vllm", "transformers"),
    "vllm_importance_sampling_mode": ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"),
}


# Of generation_kwargs: what TRL's trainer cannot do without.
OF_THE_TRAINER = {
    "num_return_sequences": "num_generations says how many completions a prompt gets",
    "return_dict_in_generate": "the trainer reads the tokens alone",
    "max_new_tokens": "max_completion_length says so",
    "eos_token_id": "an answer ends in training as it does in evaluation",
    "n": "num_generations says how many completions a prompt gets",
    "max_tokens": "max_completion_length says so",
}


@dataclass
class GRPOConfig(trl.GRPOConfig):
    """TRL's `GRPOConfig`, which refuses with a `UserError` what TRL lets pass and what would go wrong later.

    TRL's `__post_init__` fills in the batch sizes that are not given.
    """

    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Has to be false: a loss is logged as it is."}
    )

    def __post_init__(self):
        for name in ("num_generations", "max_completion_length"):
            if getattr(self, name) is None:
                raise UserError(f"{name} is null; give a number")
        check_numbers(self)
        check_at_least("num_generations (answers are compared with one another)", cast(int, self.num_generations), 2)
        super().__post_init__()
        check_options(self, FIXED_IN_GRPO, "runs/tiny/grpo")
        check_at_least("max_steps", self.max_steps, 1)
        for name, choices in CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        self._check_generation_kwargs()
        self._check_generation_boundary()

    @property
    def problems_per_generation(self) -> int:
        return cast(int, self.generation_batch_size) // cast(int, self.num_generations)

    @property
    def generate_every(self) -> int:
        """Micro-steps (forward and backward passes) from one generation to the next.

        A generation lasts for `steps_per_generation` micro-steps, and is gone through `num_iterations` times.
        """
        return cast(int, self.steps_per_generation) * self.num_iterations

    @property
    def completions_per_step(self) -> float:
        """Of an optimiser step: a generation of `generation_batch_size` lasts for `generate_every` micro-steps."""
        return cast(int, self.generation_batch_size) * self.gradient_accumulation_steps / self.generate_every

    def _check_generation_kwargs(self) -> None:
        """Only what the engine that generates knows; TRL finds out with the first completions."""
        given = self.generation_kwargs or {}
        if not isinstance(given, dict):
            raise UserError(f"generation_kwargs is {given!r}; give a mapping of the engine's options")
        known = set(GenerationConfig().to_dict())
        if self.use_vllm and is_vllm_available():
            from vllm import SamplingParams  # an extra  # pyright: ignore[reportMissingImports]

            known = set(SamplingParams.__struct_fields__)
        for name in given:
            if name in OF_THE_TRAINER:
                raise UserError(f"generation_kwargs has {name}; leave it out: {OF_THE_TRAINER[name]}")
            if name not in known:
                raise UserError(f"generation_kwargs has {name!r}, unknown{did_you_mean(str(name), known)}")

    def _check_generation_boundary(self) -> None:
        """Checkpoints must fall where new completions are generated: TRL does not save the ones in use."""
        micro_steps = self.save_steps * self.gradient_accumulation_steps
        if micro_steps % self.generate_every:
            suitable = self.generate_every // math.gcd(self.generate_every, self.gradient_accumulation_steps)
            raise UserError(
                f"save_steps is {self.save_steps:.0f}, where completions are still in use (save_steps * "
                f"gradient_accumulation_steps = {micro_steps:.0f} is not a multiple of steps_per_generation * "
                f"num_iterations = {self.generate_every}), so that a resumed run would diverge; "
                f"give a multiple of {suitable}"
            )


def check_grpo_run(arguments: GRPOArguments, config: GRPOConfig) -> None:
    """Raise `UserError` for options that do not fit each other or this machine, before a model loads."""
    check_run(arguments, config)
    if config.use_vllm and not is_vllm_available():
        raise UserError("use_vllm: true needs vLLM; install the vllm extra, or write use_vllm: false")
    if config.chat_template_kwargs and arguments.eval_every:
        raise UserError("greedy evaluation cannot pass chat_template_kwargs on to the prompts; set eval_every: 0")
    replayed_prompts(config.problems_per_generation, arguments.replay_share)


def fit_generation(arguments: GRPOArguments, config: GRPOConfig) -> None:
    """Generate for no more prompts at a time than data of one's own has: the batch of each process becomes smaller.

    Where it cannot be divided so, prompts come several times in a generation, which is said in one line.
    """
    asked = config.problems_per_generation
    prompts = prompts_there_are(get_task(arguments.task), asked, "the generation batch")
    if prompts == asked:
        return
    passes = config.world_size * cast(int, config.steps_per_generation)
    while prompts > 1 and prompts * cast(int, config.num_generations) % passes:
        prompts -= 1
    if prompts * cast(int, config.num_generations) % passes:
        say("the generation batch cannot be made smaller for so many processes, so prompts come several times in it")
        return
    config.generation_batch_size = prompts * cast(int, config.num_generations)
    config.per_device_train_batch_size = cast(int, config.generation_batch_size) // passes


def problems_of_run(task: Task, arguments: GRPOArguments, config: GRPOConfig) -> datasets.Dataset:
    """The problems in the order in which the whole run takes them, shuffled anew for each pass over `train_size`.

    TRL sees a single epoch: it would go through later epochs in another order after a resume, because no checkpoint
    holds the state of its sampler. With `replay`, those of earlier tasks end each generation, and the columns are
    those of `trainers.earlier_tasks.MixedTask`.
    """
    generations = math.ceil(config.max_steps * config.gradient_accumulation_steps / config.generate_every)
    replayed = replayed_prompts(config.problems_per_generation, arguments.replay_share)
    new = config.problems_per_generation - replayed
    needed = generations * new
    size = training_rows(task, arguments.train_size or needed)
    problems = task.load("train", size, seed_of_problems(config))
    order = np.random.default_rng(config.seed)
    passes = [
        order.permutation(len(problems)) if config.shuffle_dataset else np.arange(len(problems))
        for _ in range(math.ceil(needed / len(problems)))
    ]
    problems = problems.select(np.concatenate(passes)[:needed])
    if not replayed:
        return problems
    earlier = EarlierTasks.load(
        arguments.task,
        arguments.replay,
        replayed,
        arguments.train_size or math.ceil(generations * replayed / len(replay_names(arguments.replay))),
        seed_of_problems(config),
        config.seed,
    )
    rows = [earlier.task.row(arguments.task, row) for row in problems.to_list()]
    return datasets.Dataset.from_list(
        [
            row
            for generation in range(generations)
            for row in rows[generation * new : (generation + 1) * new] + earlier.of_step(generation)
        ]
    )


def check_more_steps(task: Task, arguments: GRPOArguments, config: GRPOConfig) -> tuple[str, ...]:
    """The options that may differ from those of the run in the folder, because it is given more steps.

    Raises `UserError` if the steps that are done would have been others in a run of that length.
    """
    before = options_before(run_folder(config), "max_steps", config)
    if before is None:
        return ()
    shorter, earlier = copy.copy(config), copy.copy(arguments)
    shorter.max_steps, earlier.train_size = before["max_steps"], before.get("train_size")
    done, longer = (problems_of_run(task, *one) for one in ((earlier, shorter), (arguments, config)))
    if done.to_list() != longer.select(range(min(len(done), len(longer)))).to_list():
        hint = ""
        if earlier.train_size is None and not arguments.replay:
            hint = f" (without train_size they go by max_steps: give train_size: {len(done)} to go on with the same)"
        raise UserError(
            f"max_steps was {before['max_steps']}, now {config.max_steps}, but the run would have had other problems "
            f"from its first step on{hint}; or choose another output_dir"
        )
    return "max_steps", "train_size"


def with_prompts(problems: datasets.Dataset, prompts: list[Messages]) -> datasets.Dataset:
    """The problems with these prompts in place of their own; themselves where they are the same."""
    if prompts == list(problems["prompt"]):
        return problems
    return datasets.Dataset.from_list(
        [row | {"prompt": prompt} for row, prompt in zip(problems.to_list(), prompts, strict=True)]
    )


class CountedReward:
    """A task as TRL's reward function, which also counts what was generated, over all processes."""

    def __init__(self, task: Task, decode: Callable[[list[int]], str]):
        """decode: makes the text that is scored of a completion's tokens."""
        self.reward = TaskReward(task, decode)
        self.__name__ = self.reward.__name__
        self.completions = 0
        self.tokens = 0
        self.signal = DeadSignal()

    def __call__(self, completions: list, completion_ids: list[list[int]], **columns: Any) -> list[float | None]:
        counts = torch.tensor([len(completions), sum(map(len, completion_ids))], device=PartialState().device)
        completions_everywhere, tokens_everywhere = torch.as_tensor(reduce(counts, "sum")).tolist()
        self.completions += completions_everywhere
        self.tokens += tokens_everywhere
        rewards = self.reward(completions=completions, completion_ids=completion_ids, **columns)
        texts = [completion_text(completion) for completion in completions[:SHOWN]]
        self.signal.step(_extremes(rewards), list(zip(texts, rewards, strict=False)))
        return rewards


def _extremes(rewards: list[float | None]) -> list[float]:
    """The lowest and the highest reward of each process; NaN where one has none."""
    given = [reward for reward in rewards if reward is not None]
    extremes = [min(given), max(given)] if given else [math.nan, math.nan]
    return torch.as_tensor(gather(torch.tensor(extremes, device=PartialState().device))).tolist()


def train_grpo(arguments: GRPOArguments, config: GRPOConfig) -> dict[str, Any]:
    """Train by GRPO in `config.output_dir`, or go on where a killed run was; returns what stands in results.json.

    A run that is complete returns at once, unless `max_steps` asks for more of it (see `check_more_steps`). A run that
    was killed continues from its last complete checkpoint. Both end with the weights of an undisturbed run, bit for
    bit, when transformers generates the completions (vLLM's sampling depends on a state of its own).

    Raises `UserError` for mistakes in the options and for a full disk.
    """
    fit_generation(arguments, config)
    check_grpo_run(arguments, config)
    task = get_task(arguments.task)
    folder = run_folder(config)
    growing = check_more_steps(task, arguments, config)
    if (
        finished := results_of_finished_run(arguments, config, lambda _: goes_on(folder, config.max_steps))
    ) is not None:
        return finished
    # Loaded before the folder is touched: a wrong name leaves nothing behind.
    model, tokenizer = load_chat_model(arguments.model)
    check_lora_targets(model, arguments.lora_target_modules or [])
    if arguments.lora_patterns is not None:
        check_lora_patterns(model, arguments.lora_patterns)
    problems = problems_of_run(task, arguments, config)
    # TRL applies the template itself, to prompts that it takes.
    problems = with_prompts(problems, accepted_messages(tokenizer, problems["prompt"]))
    start_run(folder, arguments, config, may_change=(*MAY_CHANGE, *growing))
    # In the middle of a generation, its completions would be lost.
    accumulate = config.gradient_accumulation_steps
    reopen(folder, config.max_steps, arguments.eval_every, lambda step: step * accumulate % config.generate_every == 0)
    checkpoint = last_checkpoint_of_run(
        folder,
        config.save_total_limit,
        lambda newest: _train(arguments, config, task, model, tokenizer, problems, newest),
    )
    if is_main_process():
        _finish(folder, arguments, config, problems, checkpoint)
    PartialState().wait_for_everyone()
    end_run(folder)
    return read_json(folder / "results.json")


def _train(
    arguments: GRPOArguments,
    config: GRPOConfig,
    task: Task,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: datasets.Dataset,
    checkpoint: Path | None,
) -> None:
    """Run TRL's trainer from `checkpoint` (None: from the beginning) to its end, where it leaves a checkpoint."""
    generation = end_tokens_only(model, tokenizer)
    watch_logits(model)
    reward = CountedReward(
        MixedTask.of(arguments.task, arguments.replay) if arguments.replay else task,
        partial(answer_text, tokenizer, ends=end_token_ids(tokenizer, generation)),
    )
    # `problems_of_run` has shuffled.
    options = trainer_config(config, checkpoint, shuffle_dataset=False)
    with _generation_engine(options):
        trainer = GRPOTrainer(
            model,
            reward,
            args=options,
            train_dataset=problems,
            processing_class=tokenizer,
            peft_config=_lora_config(arguments) if arguments.lora_rank else None,
        )
    if options.use_vllm and options.vllm_mode == "colocate" and options.device.type == "cpu":
        _repack_after_sync(trainer.vllm_generation)
    if arguments.log_prob_gap_every:
        report_gap(trainer, arguments.log_prob_gap_every)
    recorder = RunRecorder(
        run_folder(config),
        reward,
        greedy_evaluation(trainer, tokenizer, task, arguments, config, cast(int, config.max_completion_length)),
        arguments.eval_every,
        (arguments.stop_at_tokens, arguments.stop_at_seconds),
        checkpoint,
        tracker_names(config.report_to),
        generation=generation,
        generate_every=config.generate_every,
        keep=config.save_total_limit,
        evaluated_dtype=arguments.evaluated_dtype if arguments.keep_evaluated else None,
    )
    run_trainer(trainer, recorder, arguments, checkpoint)


def _lora_config(arguments: GRPOArguments) -> LoraConfig:
    patterns = {} if arguments.lora_patterns is None else read_lora_patterns(arguments.lora_patterns)
    return LoraConfig(
        r=arguments.lora_rank,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        target_modules=arguments.lora_target_modules or "all-linear",
        task_type="CAUSAL_LM",
        rank_pattern=patterns.get("rank_pattern", {}),
        alpha_pattern=patterns.get("alpha_pattern", {}),
    )


@contextmanager
def _generation_engine(config: GRPOConfig) -> Iterator[None]:
    """Where TRL builds vLLM's engine, or looks for its server: what goes wrong there becomes one line."""
    if not config.use_vllm:
        yield
    elif config.vllm_mode == "server":
        try:
            yield
        except (ConnectionError, requests.ConnectionError) as error:
            where = config.vllm_server_base_url or f"{config.vllm_server_host}:{config.vllm_server_port}"
            raise UserError(
                f"vllm_mode: server, but no vLLM server answers at {where} within {config.vllm_server_timeout:g} s; "
                "start one as the header of recipes/qwen2.5-3b/grpo.yaml says, or write vllm_mode: colocate"
            ) from error
    elif config.device.type == "cpu":
        from eval.rollout.vllm_cpu import editable_cpu_engine  # here, because vLLM is an extra

        with editable_cpu_engine():
            yield
    else:
        yield


def _repack_after_sync(generation: VLLMGeneration) -> None:
    """Let vLLM's CPU backend see the weights that TRL writes into it before each generation.

    It computes with packed copies of the linear weights, which loading does not touch.
    """
    from eval.rollout.vllm_cpu import repack

    sync = generation.sync_weights
    engine_model = generation.llm.llm_engine.model_executor.driver_worker.model_runner.model

    def sync_and_repack() -> None:
        sync()
        repack(engine_model)

    generation.sync_weights = sync_and_repack


def _finish(
    folder: Path, arguments: GRPOArguments, config: GRPOConfig, problems: datasets.Dataset, checkpoint: Path
) -> None:
    """Write model/, adapter/ and results.json from the last checkpoint."""
    if arguments.lora_rank:
        base, tokenizer = load_model(arguments.model, torch.float32)
        adapted = PeftModel.from_pretrained(base, str(checkpoint))
        with new_folder(folder / "adapter") as unfinished:
            adapted.save_pretrained(str(unfinished))
        model = adapted.merge_and_unload()
    else:
        model, tokenizer = load_trained_model(checkpoint)
    own = {"lora_rank": arguments.lora_rank}
    write_finished_run(folder, "grpo", arguments, config, problems, model, tokenizer, checkpoint, own)
