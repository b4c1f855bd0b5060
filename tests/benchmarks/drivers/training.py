"""Trainings in a process of their own: seconds of their steps, and resident memory at the peak; on Linux."""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from eval.rollout.base import Sampling
from eval.rollout.hf import HFEngine
from eval.storage import read_jsonl
from eval.tasks import get_task
from tests.recipe_files import ROOT
from trainers.arguments import parse
from trainers.es.config import ESConfig
from trainers.es.train import train_es
from trainers.grpo import GRPOArguments, GRPOConfig, train_grpo


Settings = dict[str, Any]


def measure(method: str, runs: list[Settings], threads: int) -> tuple[list[list[float]], int]:
    """The seconds of each step of each run, and the peak of the process in which all of them are made, one by one.

    method: "es" or "grpo"; "model" only loads the model in float32 and answers the prompts of a step. runs: the
    options of each, without the folder. Raises `RuntimeError` if one fails.
    """
    command = [sys.executable, "-m", "tests.benchmarks.drivers.training", method, json.dumps(runs), str(threads)]
    variables = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the run ended with {done.returncode}:\n{done.stderr[-3000:]}")
    answer = json.loads(done.stdout.splitlines()[-1])
    return answer["seconds"], answer["peak"]


def grpo_options(settings: Settings) -> tuple[GRPOArguments, GRPOConfig]:
    """As the recipe reads them."""
    arguments, config = parse(
        GRPOArguments, GRPOConfig, arguments=[f"--{name}={value}" for name, value in settings.items()]
    )
    return arguments, config


def answer_prompts(settings: Settings) -> None:
    prompts = get_task(settings["task"]).load("train", settings["prompts_per_step"], 0)["prompt"]
    HFEngine.from_pretrained(settings["model"], "cpu").generate(list(prompts), Sampling(settings["max_new_tokens"]))


def main() -> None:
    method, runs, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    seconds: list[list[float]] = []
    if method == "model":
        for settings in json.loads(runs):
            answer_prompts(settings)
        runs = "[]"
    with tempfile.TemporaryDirectory(prefix="posttrain-lab-training-") as folder:
        for number, settings in enumerate(json.loads(runs)):
            output = f"{folder}/{number}"
            if method == "es":
                train_es(ESConfig(output_dir=output, **settings))
            else:
                train_grpo(*grpo_options(settings | {"output_dir": output}))
            clock = [0.0] + [row["seconds"] for row in read_jsonl(Path(output) / "metrics.jsonl")]
            seconds.append([after - before for before, after in zip(clock, clock[1:], strict=False)])
    # Not getrusage's ru_maxrss, which starts at what the process held that started this one.
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
    print(json.dumps({"seconds": seconds, "peak": peak}))


if __name__ == "__main__":
    main()
