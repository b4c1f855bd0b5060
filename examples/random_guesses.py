"""A method: guess around the weights and keep the best guess.

    python examples/random_guesses.py --model recipes/tiny/models/llama-small --output_dir runs/guesses

What a method of the lab has: a documented config, a run folder that says what was asked for, a member of the engine
for each model that it tries, and a finished `model/` with results.json written last. It changes weights, so that it
belongs to `trainers`, with a thin recipe beside it.
"""

from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import torch

from eval.errors import exit_with_one_line
from eval.results_file import write_results
from eval.rollout.base import Sampling
from eval.rollout.hf import HFEngine
from eval.rollout.loading import save_model
from eval.storage import append_jsonl, new_folder
from eval.tasks import get_task
from trainers.arguments import check_positive, parse
from trainers.es.member import seeded_member
from trainers.es.noise import Noise, member_seed
from trainers.run_folder import start_run


@dataclass
class GuessConfig:
    """One round of guesses, all judged on the same problems."""

    model: str = field(metadata={"help": "checkpoint folder or hub name to start from"})
    output_dir: str = field(metadata={"help": "run folder"})
    task: str = field(default="countdown", metadata={"help": "what a guess is judged by"})
    guesses: int = field(default=8, metadata={"help": "models that are tried"})
    problems: int = field(default=16, metadata={"help": "training problems that each of them answers"})
    sigma: float = field(default=0.01, metadata={"help": "standard deviation of the noise on every weight"})
    max_new_tokens: int = field(default=56, metadata={"help": "longest completion"})
    seed: int = field(default=0, metadata={"help": "of guesses and problems"})

    def __post_init__(self):
        for name in ("guesses", "problems", "sigma", "max_new_tokens"):
            check_positive(name, getattr(self, name))
        get_task(self.task)


def main() -> None:
    (config,) = parse(GuessConfig)
    run, task = Path(config.output_dir), get_task(config.task)
    start_run(run, config)

    # 1. The model as it is and every guess answer the same problems.
    engine = HFEngine.from_pretrained(config.model, torch.device("cpu"))
    rows = task.load("train", config.problems, config.seed).to_list()
    seeds = [member_seed(config.seed, 0, index) for index in range(config.guesses)]
    guesses = [seeded_member(index, seed, 1, config.sigma, Noise()) for index, seed in enumerate(seeds)]
    prompts, sampling = [row["prompt"] for row in rows], Sampling(config.max_new_tokens)
    answers = engine.generate(prompts, sampling) + engine.generate(prompts, sampling, guesses)
    rewards = [
        fmean(task.score(samples[0].text, row).value or 0.0 for samples, row in zip(of_model, rows, strict=True))
        for of_model in answers
    ]
    for index, reward in enumerate(rewards):
        append_jsonl(run / "metrics.jsonl", {"guess": index, "reward": reward})

    # 2. The best becomes the model; of equals the earliest, so that a guess must be better to count. 0 is no guess.
    best = max(range(len(rewards)), key=rewards.__getitem__)
    weights = engine.named_weights()
    if best > 0:
        weights = {name: weight + guesses[best - 1].delta(name, weight) for name, weight in weights.items()}
    with new_folder(run / "model") as folder:
        save_model(folder, engine.model, engine.tokenizer, weights)
    numbers = {
        "completions": len(rewards) * len(rows),
        "base_reward": rewards[0],
        "reward": rewards[best],
        "best": best,
    }
    write_results(run / "results.json", "training", {"method": "guesses", "task": config.task} | numbers)
    print(f"reward {rewards[0]:.3f} -> {rewards[best]:.3f}  {numbers['completions']} completions")


if __name__ == "__main__":
    exit_with_one_line(main)
