"""Evolution strategies: a step beside plain generation of the same rows, memory beside its plan, and replay."""

import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from eval.rollout.base import Messages
from eval.rollout.chat import prompt_ids
from eval.rollout.gguf import local_model_name
from eval.rollout.hf import HFEngine
from eval.rollout.loading import load_model, load_tokenizer
from eval.storage import read_jsonl
from tests.benchmarks.es_throughput import generate
from tests.gpu_check.machine import Machine
from tests.gpu_check.memory import peak_bytes, resident_bytes
from tests.gpu_check.processes import clean
from tests.gpu_check.reward import TASK, TASK_NAME
from tests.gpu_check.shapes import model_of
from tests.recipe_files import ROOT
from trainers.es.config import ESConfig
from trainers.es.engine import memory_demand
from trainers.es.memory import model_shape, plan_memory
from trainers.es.trainer import ESTrainer
from trainers.es.update import read_seed_log, replay


REPEATS = 3


@dataclass(frozen=True)
class Size:
    """Of a step: members, prompts of each, and tokens of each answer. population_gb: memory for them."""

    members: int
    prompts: int
    tokens: int
    population_gb: float

    @property
    def rows(self) -> int:
        return self.members * self.prompts


SIZES = {"cuda": Size(16, 16, 64, 3.0), "cpu": Size(4, 4, 8, 0.1)}


def es_config(machine: Machine, model: str, folder: Path, **options: Any) -> ESConfig:
    size = SIZES[machine.device]
    usual = {
        "task": TASK_NAME,
        "steps": 5,
        "population": size.members,
        "prompts_per_step": size.prompts,
        "train_size": size.prompts,
        "max_new_tokens": size.tokens,
        "population_gb": size.population_gb,
        "sigma": 0.005,
        "alpha": 0.005,
        "eval_every": 0,
        "save_every": 1000,
        "log_completions_every": 0,
        "engine_dtype": dtype_of(machine),
        "use_cpu": machine.device == "cpu",
    }
    return ESConfig(model=model, output_dir=str(folder), **usual | options)


def dtype_of(machine: Machine) -> str:
    return "bfloat16" if machine.bfloat16 else "float32"


def es_step(machine: Machine, folder: Path, shape: str, engine: str) -> dict[str, Any]:
    """A run of rank 1: its speed after the first step, its memory, its gap, and its weights replayed from its log."""
    before = resident_bytes()
    model = model_of(shape, folder, machine.device)
    run = folder / "run"
    options = {"engine": engine, "noise": "low_rank", "rest": "frozen", "log_prob_gap_every": 1000}
    config = es_config(machine, model, run, **options)
    trainer = ESTrainer(args=config)
    trainer.train()
    peak = peak_bytes(machine.device, before)
    demand = replace(memory_demand(config, 1), host_apart=machine.device != "cpu")
    rows = read_jsonl(run / "metrics.jsonl")
    return {
        "model": "packaged" if model == "smollm2-135m" else "random",
        "engine_dtype": config.engine_dtype,
        **speed(rows),
        "memory_planned_bytes": plan_memory(model_shape(model), demand).device_bytes,
        "memory_peak_bytes": peak,
        "log_prob_gap_mean": rows[0]["log_prob_gap/mean"],
        "log_prob_gap_max": rows[0]["log_prob_gap/max"],
        "replayed_bit_for_bit": replayed(model, run, machine.device),
    }


def speed(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Medians over the steps after the first, which warms up. rows: of metrics.jsonl, where both counts run on."""
    steps = list(itertools.pairwise(rows))
    seconds = [after["seconds"] - before["seconds"] for before, after in steps]
    rates = [(after["tokens"] - before["tokens"]) / took for (before, after), took in zip(steps, seconds, strict=True)]
    return {"seconds_per_step": statistics.median(seconds), "tokens_per_second": statistics.median(rates)}


def replayed(model: str, run: Path, device: str) -> bool:
    """Whether the run's log leads from the model to the run's final weights, to the last bit."""
    start, _ = load_model(model, torch.float32)
    base = {name: weight.data.to(device) for name, weight in start.named_parameters()}
    weights = replay(base, read_seed_log(run / "seeds.jsonl"))
    saved = load_file(run / "model" / "model.safetensors")
    return all(torch.equal(weight.cpu(), saved[name]) for name, weight in weights.items())


def plain_hf(machine: Machine, folder: Path, shape: str) -> dict[str, Any]:
    """`generate` of transformers, of the rows of an ES step, all of them to the full length."""
    engine = HFEngine.from_pretrained(
        model_of(shape, folder, machine.device), dtype=getattr(torch, dtype_of(machine)), device=machine.device
    )
    size = SIZES[machine.device]
    return timed(machine, lambda: generate(engine, rows_of_a_step(machine), fixed=True, length=size.tokens))


def plain_vllm(machine: Machine, folder: Path, shape: str) -> dict[str, Any]:
    """vLLM's own `LLM.generate`, as vLLM is without adapters, of the same rows."""
    from eval.rollout.vllm import LLM, SamplingParams  # here, because vLLM is an extra

    size, model = SIZES[machine.device], model_of(shape, folder, machine.device)
    building = nullcontext()
    if machine.device == "cpu":
        from eval.rollout.vllm_cpu import editable_cpu_engine

        building = editable_cpu_engine()  # without it vLLM fails on what else is imported here
    with building:
        llm = LLM(
            model=str(local_model_name(model)),
            dtype=dtype_of(machine),
            max_model_len=256,
            kv_cache_memory_bytes=int(size.population_gb * 1e9),
            gpu_memory_utilization=0.5,  # what has to be free
            enforce_eager=machine.device == "cpu",
            disable_log_stats=True,
            seed=0,
        )
    requests = [{"prompt_token_ids": ids} for ids in prompt_ids(load_tokenizer(model), rows_of_a_step(machine))]
    params = SamplingParams(temperature=0.0, max_tokens=size.tokens, ignore_eos=True, detokenize=False)

    def once() -> None:
        llm.generate(requests, params, use_tqdm=False)
        llm.reset_prefix_cache()

    return timed(machine, once)


def rows_of_a_step(machine: Machine) -> list[Messages]:
    size = SIZES[machine.device]
    return list(TASK.load("train", size.prompts, 0)["prompt"]) * size.members


def timed(machine: Machine, once: Callable[[], Any]) -> dict[str, float]:
    """Medians over `REPEATS` calls after one that warms up."""
    size, seconds = SIZES[machine.device], []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        once()
        if machine.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    median = statistics.median(seconds[1:])
    return {"seconds": median, "tokens_per_second": size.rows * size.tokens / median}


def verified(machine: Machine, folder: Path, shape: str) -> dict[str, Any]:
    """A run of full noise, which `python -m trainers.verify` then replays, and of which it makes two steps again."""
    run = folder / "run"
    config = es_config(machine, model_of(shape, folder, machine.device), run, engine="hf", steps=4)
    ESTrainer(args=config).train()
    command = [sys.executable, "-m", "trainers.verify", str(run), "--steps", "2"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    checks = [line.split(maxsplit=1) for line in told.stdout.splitlines() if line.startswith(("ok ", "WRONG "))]
    if not checks:
        raise RuntimeError(f"nothing was verified: {told.stderr.strip().splitlines()[-1:]}")
    return {
        "checks": len(checks),
        "replayed_bit_for_bit": all(state == "ok" for state, what in checks if "the weights after step" in what),
        "steps_made_again_equal": all(state == "ok" for state, what in checks if "made again" in what),
        "wrong": [clean(what) for state, what in checks if state == "WRONG"],
    }
