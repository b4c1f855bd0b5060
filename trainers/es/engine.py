"""The engine of a run, and whether what it takes fits into the memory that is there."""

import os
from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator

from eval.errors import UserError
from eval.rollout.base import RolloutEngine
from eval.rollout.chat import prompt_ids
from eval.rollout.gguf import local_model_name
from eval.rollout.hf import HFEngine
from eval.rollout.loading import load_tokenizer
from eval.tasks import get_task
from trainers.earlier_tasks import replay_names
from trainers.es.assignment import portions
from trainers.es.config import DTYPES, ESConfig
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


def make_engine(config: ESConfig, accelerator: Accelerator) -> RolloutEngine:
    """The engine with the model that the run starts from."""
    dtype = DTYPES[config.engine_dtype]
    if config.engine == "hf":
        return HFEngine.from_pretrained(
            config.model, accelerator.device, dtype, population_bytes=int(config.population_gb * 1e9)
        )
    from eval.rollout.vllm import VLLMEngine  # here, because vLLM is an extra

    rank = config.member_rank
    return VLLMEngine(
        config.model,
        dtype,
        slots=most_members(config, accelerator.num_processes) if rank else 0,
        rank=rank,
        kv_cache_gb=config.population_gb,
        # Validation prompts may be longer than those for training.
        max_model_len=2 * longest_prompt(config) + config.max_new_tokens,
        max_num_seqs=VLLM_COMPLETIONS,
        max_num_batched_tokens=VLLM_TOKENS,
    )


def most_members(config: ESConfig, processes: int) -> int:
    """Members that one process evaluates at once, at most."""
    return max(map(len, portions(config.population, processes)))


def longest_prompt(config: ESConfig) -> int:
    """Tokens of the longest training prompt; `PROMPT_TOKENS` for a folder without a tokenizer."""
    folder = Path(local_model_name(config.model))
    if folder.exists() and not (folder / "tokenizer_config.json").exists():
        return PROMPT_TOKENS
    tasks = [get_task(name) for name in (config.task, *replay_names(config.replay))]
    prompts = [
        prompt for task in tasks for prompt in task.load("train", config.train_size, config.data_seed)["prompt"]
    ]
    tokenizer = load_tokenizer(config.model)
    return max(map(len, prompt_ids(tokenizer, prompts)))


def memory_demand(config: ESConfig, processes: int) -> Demand:
    """What decides the memory of this run besides its model."""
    return Demand(
        members=most_members(config, processes),
        prompts=min(config.prompts_per_batch or config.prompts_per_step, config.prompts_per_step),
        samples=config.samples,
        prompt_tokens=longest_prompt(config),
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
            f"{size_text(host_memory(local))} are free for each; set master_on_cpu: false, or start fewer processes"
        )
    return plan
