"""`TorchEggrollES` of torcheggroll through its two-step API, with the smallest loop around it that generates.

The library evaluates one forward pass of all members by `vmap`, which cannot generate: it documents
`prepare_population`, an evaluation of one's own with `functional_call`, and `apply_fitness_scores`. The evaluation is
here transformers' `generate` as the forward pass of a module. Timed are all three together.
"""

import sys
import time

import torch
from torch import nn
from torch.func import functional_call
from torcheggroll import TorchEggrollES

from tests.benchmarks.drivers.shared import Job, answer, fitness, generate, load, padded


class Generator(nn.Module):
    """A model whose forward pass is generation."""

    def __init__(self, model, length: int):
        super().__init__()
        self.model, self.length = model, length

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return generate(self.model, ids, mask, self.length)


def main() -> None:
    job = Job.read(sys.argv[1])
    model, tokenizer = load(job)
    prompts = padded(job, tokenizer.pad_token_id)
    generator = Generator(model, job.length)
    es = TorchEggrollES(generator, pop_size=job.members, sigma=job.sigma, lr=job.alpha, rank=1)
    seconds = []
    for _ in range(job.steps + 1):
        began = time.perf_counter()
        scores = []
        for parameters in es.prepare_population():
            tokens = functional_call(generator, parameters, prompts)
            scores.append(fitness(tokenizer.batch_decode(tokens)))
        es.apply_fitness_scores(torch.tensor(scores))
        seconds.append(time.perf_counter() - began)
    answer(seconds, "torcheggroll")


if __name__ == "__main__":
    main()
