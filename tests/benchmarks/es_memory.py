"""Peak memory of runs on a CPU, beside the memory plan; on Linux.

    python -m tests.benchmarks.es_memory [--engines hf vllm grpo] [--model smollm2-135m] [--layers 10] [--threads 2]

Each run is two steps of ES, or of GRPO, in a process of its own, of a random Llama model or of `--model`. What the
process takes for itself (interpreter, libraries, vLLM's own buffers) is left out by taking off the same run of a model
of a few thousand parameters: printed are the plan's difference between the two models, the measured one, and their
ratio. With SmolLM2-135M a run takes about half a minute alone on 2 cores, all of them 8 minutes.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from eval.rollout.gguf import local_model_name
from tests.benchmarks.drivers.training import Settings, grpo_options, measure
from tests.tiny import random_model
from trainers.es.config import ESConfig
from trainers.es.engine import longest_prompt, memory_demand
from trainers.es.memory import model_shape, plan_memory, size_text
from trainers.grpo_memory import grpo_demand, plan_grpo_memory


LOW_RANK = {"noise": "low_rank", "rest": "frozen"}
WAYS = {
    "full noise": {},
    "low rank": LOW_RANK,
    "low rank, rest dense": {"noise": "low_rank"},
    "snes": {"algorithm": "snes"},
    "bfloat16": {"engine_dtype": "bfloat16"},
    "bfloat16, low rank": LOW_RANK | {"engine_dtype": "bfloat16"},
    "sampled, low rank": LOW_RANK | {"temperature": 1.0},
}
GRPO_WAYS = {
    "all parameters": {},
    "lora": {"lora_rank": 8},
    "autocast": {"bf16": True},
    "autocast, lora": {"bf16": True, "lora_rank": 8},
    "checkpointing": {"gradient_checkpointing": True},
}
# vLLM has no adapters for what is dense.
ENGINES = {
    "hf": WAYS,
    "vllm": {way: options for way, options in WAYS.items() if way != "low rank, rest dense"},
    "grpo": GRPO_WAYS,
}
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
GRPO_RUN = {
    "task": "countdown",
    "max_steps": 2,
    "save_steps": 2,
    "per_device_train_batch_size": 16,
    "num_generations": 8,
    "steps_per_generation": 1,
    "max_completion_length": 8,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "logging_steps": 1,
    "report_to": "none",
    "beta": 0.0,
}
# Room for a few members of the larger model; for vLLM what it allocates at once.
POPULATION_GB = {"large": 0.8, "small": 0.05}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", nargs="+", default=["hf"], choices=ENGINES, help="vllm where it is installed")
    ways = list(WAYS | GRPO_WAYS)
    parser.add_argument("--ways", nargs="+", default=ways, choices=ways, help="which runs")
    parser.add_argument("--model", help="a checkpoint folder or name in place of a random model")
    parser.add_argument("--layers", type=int, default=10, help="of the random model")
    parser.add_argument("--width", type=int, default=640, help="of the random model")
    parser.add_argument("--vocabulary", type=int, default=8192, help="of the random model")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--output", help="file for the figures, as JSON")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="posttrain-lab-memory-") as folder:
        large, small = models(Path(folder), arguments.layers, arguments.width, arguments.vocabulary)
        if arguments.model:
            large = Path(local_model_name(arguments.model))
        parameters = model_shape(str(large)).parameters
        print(f"{parameters:,} parameters, peak memory over that of a tiny model")
        print(f"{'engine':8}{'run':24}{'plan':>12}{'measured':>12}{'ratio':>8}")
        for engine in arguments.engines:
            for way, options in ENGINES[engine].items():
                if way in arguments.ways:
                    plan, measured = plan_and_peak(large, small, engine, options, arguments.threads)
                    rows.append({"engine": engine, "way": way, "plan": plan, "measured": measured})
                    print(
                        f"{engine:8}{way:24}{size_text(plan):>12}{size_text(measured):>12}{measured / plan:8.2f}",
                        flush=True,
                    )
    if arguments.output:
        Path(arguments.output).write_text(json.dumps({"parameters": parameters, "rows": rows}), encoding="utf-8")


def models(folder: Path, layers: int, width: int, vocabulary: int) -> tuple[Path, Path]:
    """Checkpoints of a random Llama of this size, and of a tiny one with heads as wide."""
    large = {
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
        "num_key_value_heads": width // 128,
    }
    return random_folder(folder / "large", vocabulary, **large), random_folder(folder / "small", None)


def random_folder(folder: Path, vocabulary: int | None, **options: int) -> Path:
    """A checkpoint of a random Llama with the tiny models' tokenizer, and rows without a token up to `vocabulary`."""
    model, tokenizer = random_model(**({"head_dim": 64} | options))
    model.resize_token_embeddings(vocabulary, mean_resizing=False)
    with torch.no_grad():  # the tiny models' weights are too large for wide ones
        for parameter in model.parameters():
            parameter.mul_(0.1 if parameter.ndim == 2 else 1.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def plan_and_peak(large: Path, small: Path, engine: str, options: Settings, threads: int) -> tuple[int, int]:
    """Bytes by which the larger model's run exceeds the tiny one's: planned, and of resident memory at the peak."""
    plans, peaks = {}, {}
    for size, model in (("large", large), ("small", small)):
        if engine == "grpo":
            settings = GRPO_RUN | {"model": str(model)} | options
            plans[size] = planned_grpo(settings)
        else:
            settings = RUN | {"model": str(model), "engine": engine, "population_gb": POPULATION_GB[size]} | options
            plans[size] = planned_es(settings)
        _, peaks[size] = measure("grpo" if engine == "grpo" else "es", [settings], threads)
    return plans["large"] - plans["small"], peaks["large"] - peaks["small"]


def planned_es(settings: Settings) -> int:
    """Bytes of the plan of a run with these settings, on a CPU, whose memory holds everything."""
    config = ESConfig(output_dir="unused", **settings)
    demand = replace(memory_demand(config, 1), host_apart=False)
    return plan_memory(model_shape(config.model), demand).device_bytes


def planned_grpo(settings: Settings) -> int:
    with tempfile.TemporaryDirectory() as folder:
        arguments, config = grpo_options(settings | {"output_dir": folder})
    prompt_tokens = longest_prompt(ESConfig(output_dir="unused", model=arguments.model, task=arguments.task))
    return plan_grpo_memory(model_shape(arguments.model), grpo_demand(arguments, config, prompt_tokens)).device_bytes


if __name__ == "__main__":
    main()
