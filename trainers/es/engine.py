"""The engine of a run, and whether what it takes fits into the memory that is there."""

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import cast

import yaml
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eval.errors import UserError
from eval.hardware import multiplies_bfloat16
from eval.rollout.base import RolloutEngine
from eval.rollout.chat import prompt_ids
from eval.rollout.gguf import local_model_name
from eval.rollout.hf import HFEngine
from eval.rollout.loading import load_model, load_tokenizer
from eval.tasks import Task, get_task
from trainers.earlier_tasks import replay_names
from trainers.es.assignment import portions
from trainers.es.config import AUTO, DTYPES, ESConfig
from trainers.es.memory import (
    PROMPT_TOKENS,
    VLLM_COMPLETIONS,
    VLLM_SLOTS,
    VLLM_TOKENS,
    Demand,
    ModelShape,
    Plan,
    describe,
    device_memory,
    host_memory,
    model_shape,
    plan_memory,
    require_memory,
    size_text,
)


def make_engine(
    config: ESConfig,
    accelerator: Accelerator,
    task: Task | None = None,
    model: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> RolloutEngine:
    """The engine with the model that the run starts from.

    task: where it is not the one of the options. model: where it is loaded already; it is moved to the device and the
    type of the options as it is. tokenizer: where it is not that of the model's folder.
    """
    dtype = DTYPES[config.engine_dtype]
    if config.engine == "hf":
        if model is None:
            model, own = load_model(config.model, dtype)
            tokenizer = tokenizer or own
        tokenizer = tokenizer or load_tokenizer(config.model)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        cast(nn.Module, model).to(accelerator.device)
        # The parameters alone: of the buffers, the rotary frequencies have to stay as exact as they are.
        for parameter in cast(nn.Module, model).parameters():
            parameter.data = parameter.data.to(dtype)
        return HFEngine(model.eval(), tokenizer, population_bytes=int(config.population_gb * 1e9))
    if model is not None or tokenizer is not None:
        raise UserError("engine vllm loads model and tokenizer by name; give the model's folder, or take engine hf")
    from eval.rollout.vllm import VLLMEngine  # here, because vLLM is an extra

    rank = config.member_rank
    return VLLMEngine(
        config.model,
        dtype,
        slots=min(VLLM_SLOTS, most_members(config, accelerator.num_processes)) if rank else 0,
        rank=rank,
        kv_cache_gb=config.population_gb,
        # Validation prompts may be longer than those for training.
        max_model_len=2 * longest_prompt(config, task) + config.max_new_tokens,
        max_num_seqs=VLLM_COMPLETIONS,
        max_num_batched_tokens=VLLM_TOKENS,
    )


def resolve_engine_dtype(config: ESConfig, accelerator: Accelerator, by_name: bool = True) -> None:
    """Put the type that the engine has on this machine in place of `engine_dtype: auto`.

    A run that goes on keeps the one that stands in its folder. by_name: whether the model is loaded by its name alone;
    one that was handed over, and an adapter's, stay in float32, as do the precisions that are there for study.
    """
    if config.engine_dtype != AUTO:
        return
    half = by_name and config.precision == "fp32_master" and multiplies_bfloat16(accelerator.device)
    chosen = ["bfloat16" if half else "float32"]
    before = Path(config.output_dir) / "config.yaml"
    if accelerator.is_main_process and before.is_file():
        chosen = [yaml.safe_load(before.read_text(encoding="utf-8")).get("engine_dtype", "float32")]
    [config.engine_dtype] = broadcast_object_list(chosen)


def most_members(config: ESConfig, processes: int) -> int:
    """Members that one process evaluates at once, at most."""
    return max(map(len, portions(config.population, processes)))


def longest_prompt(
    config: ESConfig, task: Task | None = None, tokenizer: PreTrainedTokenizerBase | None = None
) -> int:
    """Tokens of the longest training prompt; `PROMPT_TOKENS` for a folder without a tokenizer."""
    tasks = [task or get_task(config.task), *map(get_task, replay_names(config.replay))]
    return longest_prompt_of(config.model, tasks, config.train_size, config.data_seed, tokenizer)


def longest_prompt_of(
    model: str, tasks: Iterable[Task], size: int, seed: int, tokenizer: PreTrainedTokenizerBase | None = None
) -> int:
    """The same of `size` training problems of each task."""
    folder = Path(local_model_name(model))
    if tokenizer is None and folder.exists() and not (folder / "tokenizer_config.json").exists():
        return PROMPT_TOKENS
    prompts = [prompt for task in tasks for prompt in task.load("train", size, seed)["prompt"]]
    return max(map(len, prompt_ids(tokenizer or load_tokenizer(model), prompts)))


def memory_demand(
    config: ESConfig, processes: int, task: Task | None = None, tokenizer: PreTrainedTokenizerBase | None = None
) -> Demand:
    """What decides the memory of this run besides its model."""
    return Demand(
        members=most_members(config, processes),
        prompts=min(config.prompts_per_batch or config.prompts_per_step, config.prompts_per_step),
        samples=config.samples,
        prompt_tokens=longest_prompt(config, task, tokenizer),
        max_new_tokens=config.max_new_tokens,
        engine_bytes=DTYPES[config.engine_dtype].itemsize,
        population_bytes=int(config.population_gb * 1e9),
        rank=config.member_rank,
        rest=config.rest,
        vectors=config.on_subspace,
        master_on_cpu=config.master_on_cpu,
        sampled=config.temperature > 0,
        engine=config.engine,
    )


def check_memory(
    config: ESConfig,
    accelerator: Accelerator,
    task: Task | None = None,
    loaded: ModelShape | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Plan:
    """The run's plan, printed for a dry run. Raises `UserError` if it cannot fit on its device.

    loaded: of the model, where it is loaded already. task, tokenizer: as `make_engine` has them.
    """
    model = loaded or model_shape(config.model)
    demand = memory_demand(config, accelerator.num_processes, task, tokenizer)
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
            f"{size_text(host_memory(local))} are free for each; set master_on_cpu: false, or start fewer processes"
        )
    return plan
