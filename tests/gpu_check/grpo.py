"""GRPO as its recipe runs it: with vLLM beside the trainer or on a server, sharded by ZeRO-2 and FSDP2, or DDP."""

import itertools
import os
import socket
import statistics
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from eval.rollout.gguf import local_model_name
from eval.storage import read_json, read_jsonl
from eval.tasks import get_task
from tests.gpu_check.machine import Machine
from tests.gpu_check.processes import RANKS, run, started
from tests.gpu_check.reward import TASK_NAME
from tests.gpu_check.shapes import model_of
from trainers.arguments import from_yaml
from trainers.es.engine import longest_prompt_of
from trainers.es.memory import model_shape
from trainers.grpo import GRPOArguments, GRPOConfig
from trainers.grpo_memory import grpo_demand, plan_grpo_memory


# Completions of each process in a step, answers to a problem, and tokens of each.
BATCH, ANSWERS, TOKENS = {"cuda": 32, "cpu": 8}, 4, {"cuda": 64, "cpu": 8}
# What of the plan's parts the processes of a launch have between them.
SHARED = {
    "zero2": ("gradients", "optimizer's moments"),
    "fsdp2": ("weights", "gradients", "optimizer's moments"),
}
# What accelerate calls a launch that shards.
KINDS = {"zero2": "DEEPSPEED", "fsdp2": "FSDP"}
COLOCATE = {
    "use_vllm": True,
    "vllm_mode": "colocate",
    "vllm_gpu_memory_utilization": 0.3,
    "vllm_max_model_length": 256,
}


def colocate(machine: Machine, folder: Path, shape: str) -> dict[str, Any]:
    """vLLM in the trainer's process; the gap between the two is that of the first step."""
    config = "cpu" if machine.device == "cpu" else "single_gpu"
    return grpo(machine, folder, shape, config, 1, **COLOCATE, log_prob_gap_every=1000)


def ddp(machine: Machine, folder: Path, shape: str) -> dict[str, Any]:
    """A process for each GPU with the whole model; two on a CPU."""
    config = "cpu_2proc" if machine.device == "cpu" else "multi_gpu"
    return grpo(machine, folder, shape, config, machine.processes, log_prob_gap_every=1000)


def zero2(machine: Machine, folder: Path, shape: str) -> dict[str, Any]:
    return grpo(machine, folder, shape, "zero2", machine.processes)


def fsdp2(machine: Machine, folder: Path, shape: str) -> dict[str, Any]:
    return grpo(machine, folder, shape, "fsdp2", machine.processes)


def server(machine: Machine, folder: Path, shape: str) -> dict[str, Any]:
    """vLLM on the second GPU, started as recipes/qwen2.5-3b/grpo.yaml says, and the trainer on the first."""
    first, second = visible_gpus()[:2]
    port, group_port = free_port(), free_port()
    command = [str(Path(sys.executable).with_name("vllm")), "serve"]
    command += [str(local_model_name(model_of(shape, folder, machine.device)))]
    command += ["--weight-transfer-config", '{"backend": "nccl"}', "--logprobs-mode", "processed_logprobs"]
    command += ["--max-logprobs", "-1", "--max-model-len", "256", "--gpu-memory-utilization", "0.5"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": second, "VLLM_SERVER_DEV_MODE": "1"}
    with answering(command, environment, f"http://127.0.0.1:{port}/health"):
        return grpo(
            machine,
            folder,
            shape,
            "single_gpu",
            1,
            {"CUDA_VISIBLE_DEVICES": first},
            use_vllm=True,
            vllm_mode="server",
            vllm_server_host="127.0.0.1",
            vllm_server_port=port,
            vllm_group_port=group_port,
            log_prob_gap_every=1000,
        )


def grpo(
    machine: Machine,
    folder: Path,
    shape: str,
    config: str,
    processes: int,
    environment: dict[str, str] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Three steps of the recipe, launched by a file of accelerate_configs."""
    model, ranks = model_of(shape, folder, machine.device), folder / "ranks"
    ranks.mkdir()
    usual = {
        "model": model,
        "task": TASK_NAME,
        "output_dir": folder / "run",
        "seed": 0,
        "max_steps": 3,
        "save_steps": 3,
        "logging_steps": 1,
        "report_to": "none",
        "eval_every": 0,
        "per_device_train_batch_size": BATCH[machine.device],
        "num_generations": ANSWERS,
        "max_completion_length": TOKENS[machine.device],
        "learning_rate": 1e-6,
        "bf16": machine.bfloat16 and machine.device == "cuda",
        "gradient_checkpointing": False,
        "use_cpu": machine.device == "cpu",
    }
    words = [
        f"--{name}={str(value).lower() if value is True or value is False else value}"
        for name, value in (usual | options).items()
    ]
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        f"accelerate_configs/{config}.yaml",
    ]
    if processes > 1 or config in KINDS:
        command += ["--num_processes", str(processes), "--main_process_port", str(free_port())]
    command += ["-m", "tests.gpu_check.grpo_process", *words]
    ending = run(command, 3600, os.environ | {RANKS: str(ranks)} | (environment or {}))
    print(ending.text, flush=True)
    if ending.status:
        sys.exit(ending.status)
    return figures(folder, config, processes)


def figures(folder: Path, config: str, processes: int) -> dict[str, Any]:
    """What a run that is complete has to say."""
    rows = read_jsonl(folder / "run" / "metrics.jsonl")
    seconds = [after["seconds"] - before["seconds"] for before, after in itertools.pairwise(rows)]
    ranks = [read_json(file) for file in sorted((folder / "ranks").iterdir())]
    gap = {name.replace("/", "_"): value for name, value in rows[0].items() if name.startswith("log_prob_gap/")}
    return {
        "processes": processes,
        "steps": len(rows),
        "completions": rows[-1]["completions"],
        "seconds_per_step": statistics.median(seconds),
        "memory_planned_bytes": of_each_process(planned_parts(folder / "run" / "config.yaml"), config, processes),
        "memory_peak_bytes": max(rank["peak"] for rank in ranks),
        **({"sharded": all(rank["kind"] == KINDS[config] for rank in ranks)} if config in KINDS else {}),
        **gap,
    }


def planned_parts(file: Path) -> dict[str, int]:
    """The plan of `--dry-run` for the run with this config.yaml: {part: bytes}."""
    arguments, config = from_yaml(str(file), (GRPOArguments, GRPOConfig), {})
    prompt_tokens = longest_prompt_of(arguments.model, [get_task(arguments.task)], 32, config.seed)
    return plan_grpo_memory(model_shape(arguments.model), grpo_demand(arguments, config, prompt_tokens)).device


def of_each_process(parts: Mapping[str, int], config: str, processes: int) -> float:
    """Bytes of all parts on one process; vLLM comes on top of it."""
    return sum(size / processes if name in SHARED.get(config, ()) else size for name, size in parts.items())


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(index) for index in range(torch.cuda.device_count())]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def answering(command: list[str], environment: dict[str, str], url: str) -> Iterator[None]:
    """Inside the block a server answers at the address. Raises RuntimeError if it ends before, and prints its log."""
    with tempfile.TemporaryFile() as log, started(command, environment, log) as process:
        while not answers(url):
            if process.poll() is not None:
                log.seek(0)
                print(log.read().decode("utf-8", errors="replace"), flush=True)
                raise RuntimeError(f"the server ended with status {process.returncode} before it answered")
            time.sleep(0.5)
        yield


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return reply.status == 200
    except (urllib.error.URLError, OSError):
        return False
