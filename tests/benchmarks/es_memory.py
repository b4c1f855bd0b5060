"""Peak memory of runs with evolution strategies on a CPU, beside the memory plan; on Linux.

    python -m tests.benchmarks.es_memory [--engines hf vllm] [--layers 10] [--width 640] [--threads 2]

Each run is two steps of a random Llama model in a process of its own. What the process takes for itself (interpreter,
libraries, vLLM's own buffers) is left out by taking off the same run of a model of a few thousand parameters: printed
are the plan's difference between the two models, the measured one, and their ratio.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tests.recipe_files import ROOT
from tests.tiny import random_model
from trainers.es.config import ESConfig
from trainers.es.engine import memory_demand
from trainers.es.memory import model_shape, plan_memory, size_text
from trainers.es.train import train_es


LOW_RANK = {"noise": "low_rank", "rest": "frozen"}
WAYS = {
    "full noise": {},
    "low rank": LOW_RANK,
    "low rank, rest dense": {"noise": "low_rank"},
    "snes": {"algorithm": "snes"},
    "bfloat16": {"engine_dtype": "bfloat16"},
    "sampled, low rank": LOW_RANK | {"temperature": 1.0},
}
# vLLM has no adapters for what is dense.
ENGINES = {"hf": tuple(WAYS), "vllm": tuple(way for way in WAYS if way != "low rank, rest dense")}
RUN = {
    "task": "countdown",
    "steps": 2,
    "population": 8,
    "prompts_per_step": 8,
    "train_size": 16,
    "max_new_tokens": 8,
    "eval_every": 1,
    "eval_size": 64,
    "save_every": 1,
    "sigma": 0.01,
    "engine_dtype": "float32",
}
# Room for a few members of the larger model; for vLLM what it allocates at once.
POPULATION_GB = {"large": 0.8, "small": 0.05}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", nargs="+", default=["hf"], choices=ENGINES, help="vllm where it is installed")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS, help="which runs")
    parser.add_argument("--layers", type=int, default=10, help="of the larger model")
    parser.add_argument("--width", type=int, default=640, help="of the larger model")
    parser.add_argument("--vocabulary", type=int, default=8192, help="of the larger model")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="posttrain-lab-memory-") as folder:
        large, small = models(Path(folder), arguments.layers, arguments.width, arguments.vocabulary)
        print(f"{model_shape(str(large)).parameters:,} parameters, peak memory over that of a tiny model")
        print(f"{'engine':8}{'run':24}{'plan':>12}{'measured':>12}{'ratio':>8}")
        for engine in arguments.engines:
            for way in ENGINES[engine]:
                if way in arguments.ways:
                    plan, measured = plan_and_peak(large, small, engine, WAYS[way], arguments.threads)
                    print(
                        f"{engine:8}{way:24}{size_text(plan):>12}{size_text(measured):>12}{measured / plan:8.2f}",
                        flush=True,
                    )


def models(folder: Path, layers: int, width: int, vocabulary: int) -> tuple[Path, Path]:
    """Checkpoints of a random Llama of this size, and of a tiny one with heads as wide."""
    large = {
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
        "num_key_value_heads": width // 128,
    }
    for name, options, rows in (("large", large, vocabulary), ("small", {}, None)):
        model, tokenizer = random_model(head_dim=64, **options)
        model.resize_token_embeddings(rows, mean_resizing=False)
        with torch.no_grad():  # the tiny models' weights are too large for wide ones
            for parameter in model.parameters():
                parameter.mul_(0.1 if parameter.ndim == 2 else 1.0)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder / "large", folder / "small"


def plan_and_peak(large: Path, small: Path, engine: str, options: dict[str, Any], threads: int) -> tuple[int, int]:
    """Bytes by which the larger model's run exceeds the tiny one's: planned, and of resident memory at the peak."""
    plans, peaks = {}, {}
    for size, model in (("large", large), ("small", small)):
        settings = RUN | {"model": str(model), "engine": engine, "population_gb": POPULATION_GB[size]} | options
        config = ESConfig(output_dir="unused", **settings)
        demand = replace(memory_demand(config, 1), host_apart=False)  # a CPU's memory holds everything
        plans[size] = plan_memory(model_shape(str(model)), demand).device_bytes
        peaks[size] = peak_of(settings, threads)
    return plans["large"] - plans["small"], peaks["large"] - peaks["small"]


def peak_of(settings: dict[str, Any], threads: int) -> int:
    """Resident bytes at the peak of a run with these settings, in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.es_memory", "--run", json.dumps(settings), str(threads)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the run ended with {done.returncode}:\n{done.stderr}")
    return int(done.stdout.splitlines()[-1])


def run(settings: str, threads: str) -> None:
    torch.set_num_threads(int(threads))
    with tempfile.TemporaryDirectory(prefix="posttrain-lab-memory-") as folder:
        train_es(ESConfig(output_dir=f"{folder}/run", **json.loads(settings)))
    # Not getrusage's ru_maxrss, which starts at what the process held that started this one.
    print(int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        run(*sys.argv[2:])
    else:
        main()
