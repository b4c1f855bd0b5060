"""What the trainers cost around their work: `ESTrainer` beside the loop before it, the GRPO recipe beside plain TRL.

    python -m tests.benchmarks.estrainer [--steps 5] [--rounds 3] [--threads 2]

Each round runs, one after the other and each in a process of its own, with the seed and options of recipes/tiny,

    es before    recipes/es.py as it was at the commit below, checked out into a temporary worktree
    es           recipes/es.py as it is
    grpo plain   TRL's `GRPOTrainer` with the task's score of the same text as its reward function, and nothing else
    grpo         recipes/grpo.py

without evaluations, saved at the end alone. Printed are medians over the rounds: seconds of training (first to last
step) and of the whole process, with the ratios, which should be at most 1.02. The runs of a pair have to do the same:
the benchmark fails if a figure that both log of a step (rewards, tokens, loss, entropy) differs in a bit.

The plain script differs from what a user of TRL would write in what the figures depend on, not in what takes time:
it loads the model in float32, as TRL does of a name, where `from_pretrained` keeps the bfloat16 of the file, in which
other tokens are drawn; it scores the text without end tokens alone, as the lab does; and it takes the problems in the
recipe's order. What it leaves out is what is measured: the run folder with its lock, rows and complete checkpoint, the
check of the logits, and the digests.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.storage import read_json, read_jsonl
from tests.recipe_files import ROOT


# The last commit whose `train_es` has a loop of its own.
BEFORE = "4866e50"
PAIRS = (("es", "es before"), ("grpo", "grpo plain"))
CLOCKS = ("seconds", "step_time")
PLAIN_GRPO = """
import json, time
from functools import partial
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOTrainer
from eval.adapters import TaskReward
from eval.rollout.chat import answer_text, end_token_ids
from eval.tasks import get_task
from trainers.arguments import parse
from trainers.grpo import GRPOArguments, GRPOConfig, problems_of_run

arguments, config = parse(GRPOArguments, GRPOConfig)
task = get_task(arguments.task)
steps, seconds = [], 0.0

class Clock(TrainerCallback):
    def on_step_begin(self, *_, **__):
        self.began = time.perf_counter()
    def on_step_end(self, *_, **__):
        global seconds
        seconds += time.perf_counter() - self.began
    def on_log(self, args, state, control, logs, **_):
        if "reward" in logs:
            steps.append(dict(logs))

problems = problems_of_run(task, arguments, config)
config.shuffle_dataset = False
model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(arguments.model)
decode = partial(answer_text, tokenizer, ends=end_token_ids(tokenizer, model.generation_config))
trainer = GRPOTrainer(
    model, TaskReward(task, decode), args=config, train_dataset=problems, processing_class=tokenizer, callbacks=[Clock]
)
trainer.train()
trainer.save_model(config.output_dir + "/model")
with open(config.output_dir + "/measured.json", "w") as file:
    json.dump({"seconds": seconds, "steps": steps}, file)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5, help="steps of each run")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; the medians are printed")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of each run")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder) / "before"
        subprocess.run(
            ["git", "-C", ROOT, "worktree", "add", "--detach", before, BEFORE], check=True, capture_output=True
        )
        try:
            steps = arguments.steps
            runs = {"es before": es_run(before, steps), "es": es_run(ROOT, steps)} | grpo_runs(Path(folder), steps)
            measured = rounds(Path(folder), runs, PAIRS, arguments.rounds, arguments.threads)
        finally:
            subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", before], check=True)
    print(f"recipes/tiny, {arguments.steps} steps, {arguments.threads} threads, medians of {arguments.rounds} rounds")
    print(f"{'':12}{'training, s':>14}{'process, s':>14}")
    for name, times in measured.items():
        training, process = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"{name:12}{training:14.2f}{process:14.2f}")
    for name, reference in PAIRS:
        ratios = [
            statistics.median(
                ours[place] / theirs[place] for ours, theirs in zip(measured[name], measured[reference], strict=True)
            )
            for place in (0, 1)
        ]
        print(f"{name} over {reference}: training {ratios[0]:.3f}, process {ratios[1]:.3f}")


# What is run: the checkout that it runs in, and the words after `python`.
Run = tuple[Path, list[str]]


def es_run(root: Path, steps: int) -> Run:
    return root, _words("recipes/es.py", "recipes/tiny/es.yaml", f"--steps={steps}", "--save_every=1000")


def grpo_runs(folder: Path, steps: int) -> dict[str, Run]:
    """Plain TRL, whose script is written into `folder`, and the recipe."""
    script = folder / "plain_grpo.py"
    script.write_text(PLAIN_GRPO, encoding="utf-8")
    options = ("recipes/tiny/grpo.yaml", f"--max_steps={steps}", "--save_steps=1000")
    return {"grpo plain": (ROOT, _words(str(script), *options)), "grpo": (ROOT, _words("recipes/grpo.py", *options))}


def _words(script: str, config: str, *options: str) -> list[str]:
    return [script, "--config", config, *options, "--eval_every=0"]


def rounds(
    folder: Path, runs: dict[str, Run], pairs: Sequence[tuple[str, str]], count: int, threads: int
) -> dict[str, list[tuple[float, float]]]:
    """{run: (seconds of training, of the process) in each round}. Exits if the runs of a pair do not do the same."""
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for number in range(count):
        steps = {}
        for name, (root, words) in runs.items():
            output = folder / f"{name.replace(' ', '-')}-{number}"
            environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": str(threads)}
            began = time.perf_counter()
            command = [sys.executable, *words, f"--output_dir={output}"]
            done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
            process = time.perf_counter() - began
            seconds, steps[name] = outcome(output)
            measured[name].append((seconds, process))
        for name, reference in pairs:
            if different := differences(steps[name], steps[reference]):
                sys.exit(f"{name} does not do what {reference} does: {'; '.join(different)}")
    return measured


def outcome(output: Path) -> tuple[float, list[dict[str, Any]]]:
    """Seconds of training, and what was logged of each step."""
    if (output / "measured.json").exists():
        measured = json.loads((output / "measured.json").read_text(encoding="utf-8"))
        return measured["seconds"], measured["steps"]
    return read_json(output / "results.json")["seconds"], read_jsonl(output / "metrics.jsonl")


def differences(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> list[str]:
    """In which figures of which steps two runs differ: all that both log, but for clocks."""
    if len(ours) != len(theirs):
        return [f"{len(ours)} steps and {len(theirs)}"]
    return [
        f"{figure} of step {number} is {mine[figure]} and {other[figure]}"
        for number, (mine, other) in enumerate(zip(ours, theirs, strict=True), start=1)
        for figure in mine
        if figure in other and figure not in CLOCKS and mine[figure] != other[figure]
    ]


if __name__ == "__main__":
    main()
