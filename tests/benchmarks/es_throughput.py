"""Completions per second of a population in one batch, beside plain `generate` and beside members in turn.

    python -m tests.benchmarks.es_throughput [--model recipes/tiny/models/llama-small] [--threads 2] [--repeats 5]

Each round times, one after the other,

    plain     transformers' `generate` of all the rows with one set of weights: what a population would cost if
              its members did not differ
    batch     the population in one batch (`HFEngine`), making the members' weights included
    in turn   each member's weights written into the model, then `generate` of its rows: the released loop's way
    engine    the members in turn through our own decoding loop: what batching alone brings

and the medians over the rounds are printed with their ratios. "fixed" lets every completion run to the same length,
so that all do the same work; "sampled" ends them where the model does, at temperature 1, where finished rows leave the
engine's batch and stay in `generate`'s.
"""

import argparse
import statistics
import time

import torch

from eval.rollout.base import Sampling
from eval.rollout.hf import HFEngine
from eval.tasks import TASKS
from trainers.es.member import SeededMember
from trainers.es.noise import Noise, member_seed


LENGTH = 40
SIGMA = 0.01


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="recipes/tiny/models/llama-small", help="checkpoint folder")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; the medians are printed")
    parser.add_argument("--members", type=int, default=32, help="members of the population")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    engine = HFEngine.from_pretrained(arguments.model)
    print(
        f"{arguments.model}: {engine.model.num_parameters():,} parameters, {arguments.threads} threads, "
        f"{arguments.members} members, {LENGTH} tokens at most, medians of {arguments.repeats} rounds"
    )
    print(f"{'':18}{'completions per second':^44}   {'batch over':^27}")
    print(
        f"{'prompts  length':18}{'plain':>11}{'batch':>11}{'in turn':>11}{'engine':>11}   "
        f"{'plain':>9}{'in turn':>9}{'engine':>9}"
    )
    for prompts in (64, 8):
        for fixed in (True, False):
            speed = measure(engine, arguments.members, prompts, fixed, arguments.repeats)
            plain, batch, in_turn, alone = (speed[name] for name in ("plain", "batch", "in turn", "engine"))
            length = "fixed" if fixed else "sampled"
            print(
                f"{prompts:7}  {length:9}{plain:11.0f}{batch:11.0f}{in_turn:11.0f}{alone:11.0f}   "
                f"{batch / plain:9.2f}{batch / in_turn:9.2f}{batch / alone:9.2f}",
                flush=True,
            )


def measure(engine: HFEngine, members: int, prompts: int, fixed: bool, repeats: int) -> dict[str, float]:
    """Completions per second of each way, medians over `repeats` rounds after one warm-up."""
    messages = list(TASKS["countdown"].load("train", prompts, 0)["prompt"])
    population = [SeededMember(i, member_seed(0, 0, i), 1, SIGMA, Noise()) for i in range(members)]
    sampling = Sampling(LENGTH, temperature=0.0 if fixed else 1.0)
    ends = engine.end_ids
    engine.end_ids = torch.tensor([-1]) if fixed else ends
    pristine = {name: weight.clone() for name, weight in engine.named_weights().items()}

    def in_turn():
        for member in population:
            engine.set_weights((name, weight + member.delta(name, weight)) for name, weight in pristine.items())
            generate(engine, messages, fixed)
        engine.set_weights(pristine.items())

    ways = {
        "plain": lambda: generate(engine, messages * members, fixed),
        "batch": lambda: engine.generate(messages, sampling, population),
        "in turn": in_turn,
        "engine": lambda: [engine.generate(messages, sampling, [member]) for member in population],
    }
    seconds = {name: [] for name in ways}
    for round_ in range(repeats + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if round_:
                seconds[name].append(time.perf_counter() - began)
    engine.end_ids = ends
    return {name: members * prompts / statistics.median(times) for name, times in seconds.items()}


@torch.no_grad()
def generate(engine: HFEngine, messages: list, fixed: bool, length: int = LENGTH) -> torch.Tensor:
    ids = engine.encode(messages)
    longest, pad = max(map(len, ids)), engine.tokenizer.pad_token_id
    padded = torch.tensor([[pad] * (longest - len(row)) + row for row in ids], device=engine.model.device)
    ends = {"min_new_tokens": length, "do_sample": False} if fixed else {"do_sample": True, "temperature": 1.0}
    return engine.model.generate(padded, attention_mask=(padded != pad).long(), max_new_tokens=length, top_k=0, **ends)


if __name__ == "__main__":
    main()
