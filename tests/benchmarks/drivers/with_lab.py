"""The lab's own ways of one ES step, and what they are measured by. Runs in the lab's environment.

    batch         all members in one batch of the Hugging Face engine, noise of full rank in every parameter
    low rank      the same with members of rank 1, norms and embeddings frozen
    in turn       the loop of the published code (arXiv 2509.24372, 2604.01499), written by us on the same engine:
                  noise is added to the weights in place, the member answers, the noise is subtracted; then one
                  addition per member
    generate      transformers' `generate` of all members' rows with one set of weights: no search at all

Timed is a whole step: making the members, their answers, the update, and the weights back in the engine.
"""

import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from eval.rollout.base import Completion, Messages, Sampling
from eval.rollout.hf import HFEngine
from eval.tasks import TASKS
from tests.benchmarks.drivers.shared import Job, answer, fitness, generate, load, padded
from trainers.es.member import seeded_member
from trainers.es.noise import Noise, member_seed
from trainers.es.shaping import shape
from trainers.es.update import Update, apply_update


def main() -> None:
    path, way = sys.argv[1:]
    job = Job.read(path)
    step = STEPS[way](job)
    seconds = []
    for number in range(job.steps + 1):
        began = time.perf_counter()
        step(number)
        seconds.append(time.perf_counter() - began)
    answer(seconds)


def countdown_prompts(count: int) -> list[Messages]:
    return list(TASKS["countdown"].load("train", count, 0)["prompt"])


def plain_generation(job: Job) -> Callable[[int], None]:
    model, tokenizer = load(job)
    ids, mask = (part.repeat(job.members, 1) for part in padded(job, tokenizer.pad_token_id))
    return lambda _: fitness(tokenizer.batch_decode(generate(model, ids, mask, job.length)))


def engine_of(job: Job) -> HFEngine:
    """One whose completions all have the same length."""
    engine = HFEngine.from_pretrained(job.model, "cpu")
    engine.end_ids = torch.tensor([-1])
    assert engine.encode(countdown_prompts(len(job.prompts))) == job.prompts
    return engine


def score(completions: Sequence[Sequence[Completion]]) -> float:
    return fitness([completion.text for samples in completions for completion in samples])


def population_in_a_batch(job: Job, noise: Noise) -> Callable[[int], None]:
    engine, prompts, sampling = engine_of(job), countdown_prompts(len(job.prompts)), Sampling(job.length)
    master = {name: weight.clone() for name, weight in engine.named_weights().items()}
    base = {name: weight.clone() for name, weight in master.items()}

    def step(number: int) -> None:
        seeds = [member_seed(0, number, index) for index in range(job.members)]
        members = [seeded_member(index, seed, 1, job.sigma, noise) for index, seed in enumerate(seeds)]
        scores = np.array([score(completions) for completions in engine.generate(prompts, sampling, members)])
        coefficients = [job.alpha / job.members * weight for weight in shape(scores, "zscore")]
        update = Update(number + 1, seeds, coefficients, 0.0, False, "cpu", noise.rank, noise.rest)
        apply_update(master, base, update)
        engine.set_weights(master.items())

    return step


def members_in_turn(job: Job) -> Callable[[int], None]:
    engine, prompts, sampling = engine_of(job), countdown_prompts(len(job.prompts)), Sampling(job.length)
    weights, noise = engine.named_weights(), Noise()

    def add(seed: int, scale: float) -> None:
        for name, weight in weights.items():
            weight.add_(noise.draw(seed, name, weight), alpha=scale)

    def step(number: int) -> None:
        seeds, scores = [member_seed(0, number, index) for index in range(job.members)], []
        for seed in seeds:
            add(seed, job.sigma)
            scores.append(score(engine.generate(prompts, sampling)[0]))
            add(seed, -job.sigma)
        for seed, weight in zip(seeds, shape(np.array(scores), "zscore"), strict=True):
            add(seed, job.alpha / job.members * weight)

    return step


STEPS: dict[str, Callable[[Job], Callable[[int], None]]] = {
    "batch": lambda job: population_in_a_batch(job, Noise()),
    "low rank": lambda job: population_in_a_batch(job, Noise(rank=1, rest="frozen")),
    "in turn": members_in_turn,
    "generate": plain_generation,
}


if __name__ == "__main__":
    main()
