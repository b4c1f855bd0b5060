"""What the trainers cost around their work: `ESTrainer` beside the loop before it, the GRPO recipe beside plain TRL.

    python -m tests.benchmarks.estrainer [--steps 5] [--rounds 3] [--threads 2]

Each round runs, one after the other and each in a process of its own, with the seed and options of recipes/tiny,

    es before    recipes/es.py as it was at the commit below, checked out into a temporary worktree
    es           recipes/es.py as it is
    grpo plain   TRL's `GRPOTrainer` with the task's score of the same text as its reward function, and nothing else
    grpo         recipes/grpo.py

without evaluations, saved at the end alone. Printed are medians over the rounds: seconds of training (first to last
step) and of the whole process, with the ratios, which should be at most 1.02. Rewards in
which the runs of a pair differ are printed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from eval.storage import read_json, read_jsonl
from tests.recipe_files import ROOT


# The last commit whose `train_es` has a loop of its own.
BEFORE = "4866e50"
PAIRS = (("es", "es before"), ("grpo", "grpo plain"))
PLAIN_GRPO = """
import json, time
from functools import partial
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOTrainer
from eval.adapters import TaskReward
from eval.rollout.chat import answer_text, end_token_ids
from eval.tasks import get_task
from trainers.arguments import parse
from trainers.grpo import GRPOArguments, GRPOConfig, problems_of_run

arguments, config = parse(GRPOArguments, GRPOConfig)
task = get_task(arguments.task)
rewards, seconds = [], 0.0

class Clock(TrainerCallback):
    def on_step_begin(self, *_, **__):
        self.began = time.perf_counter()
    def on_step_end(self, *_, **__):
        global seconds
        seconds += time.perf_counter() - self.began
    def on_log(self, args, state, control, logs, **_):
        if "reward" in logs:
            rewards.append(logs["reward"])

problems = problems_of_run(task, arguments, config)
config.shuffle_dataset = False
model = AutoModelForCausalLM.from_pretrained(arguments.model)
tokenizer = AutoTokenizer.from_pretrained(arguments.model)
decode = partial(answer_text, tokenizer, ends=end_token_ids(tokenizer, model.generation_config))
trainer = GRPOTrainer(
    model, TaskReward(task, decode), args=config, train_dataset=problems, processing_class=tokenizer, callbacks=[Clock]
)
trainer.train()
trainer.save_model(config.output_dir + "/model")
with open(config.output_dir + "/measured.json", "w") as file:
    json.dump({"seconds": seconds, "rewards": rewards}, file)
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
            measured = rounds(Path(folder), before, arguments.steps, arguments.rounds, arguments.threads)
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


def rounds(folder: Path, before: Path, steps: int, count: int, threads: int) -> dict[str, list[tuple[float, float]]]:
    """{run: (seconds of training, of the process) in each round}."""
    script = folder / "plain_grpo.py"
    script.write_text(PLAIN_GRPO, encoding="utf-8")
    es = ["--config", "recipes/tiny/es.yaml", f"--steps={steps}", "--eval_every=0", "--save_every=1000"]
    grpo = ["--config", "recipes/tiny/grpo.yaml", f"--max_steps={steps}", "--eval_every=0", "--save_steps=1000"]
    runs = {
        "es before": (before, ["recipes/es.py", *es]),
        "es": (ROOT, ["recipes/es.py", *es]),
        "grpo plain": (ROOT, [str(script), *grpo]),
        "grpo": (ROOT, ["recipes/grpo.py", *grpo]),
    }
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for number in range(count):
        rewards = {}
        for name, (root, words) in runs.items():
            output = folder / f"{name.replace(' ', '-')}-{number}"
            environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": str(threads)}
            began = time.perf_counter()
            command = [sys.executable, *words, f"--output_dir={output}"]
            done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
            process = time.perf_counter() - began
            seconds, rewards[name] = outcome(output)
            measured[name].append((seconds, process))
        for name, reference in PAIRS:
            if rewards[name] != rewards[reference]:
                print(f"{name} has other rewards than {reference}: {rewards[name]} and {rewards[reference]}")
    return measured


def outcome(output: Path) -> tuple[float, list[float]]:
    """Seconds of training and the reward of each step."""
    if (output / "measured.json").exists():
        measured = json.loads((output / "measured.json").read_text(encoding="utf-8"))
        return measured["seconds"], measured["rewards"]
    rows = read_jsonl(output / "metrics.jsonl")
    return read_json(output / "results.json")["seconds"], [row["reward"] for row in rows]


if __name__ == "__main__":
    main()
