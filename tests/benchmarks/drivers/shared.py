"""What the drivers of all libraries share: the job, plain generation of a fixed length, the fitness, and the answer.

A driver runs in its library's own virtual environment and imports nothing of the lab. It reads a job (a JSON file)
and prints one line of JSON, `{"seconds": [of each step but the first], "peak": resident bytes, "versions": {...}}`.
"""

import json
import re
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


@dataclass(frozen=True)
class Job:
    """model: checkpoint folder. prompts: token ids, [rows][tokens]. length: new tokens of every completion.

    members: completions of each prompt, one of each perturbed model. steps: timed ones, after one that warms up.
    """

    model: str
    prompts: list[list[int]]
    length: int
    members: int
    steps: int
    threads: int
    sigma: float
    alpha: float

    @classmethod
    def read(cls, path: str) -> "Job":
        job = cls(**json.loads(Path(path).read_text(encoding="utf-8")))
        torch.set_num_threads(job.threads)
        return job


def load(job: Job):
    """The model in float32, and its tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    return AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.float32).eval(), tokenizer


def padded(job: Job, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask of the prompts, [rows, longest], padded on the left."""
    longest = max(map(len, job.prompts))
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in job.prompts])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in job.prompts])
    return ids, mask


@torch.no_grad()
def generate(model, ids: torch.Tensor, mask: torch.Tensor, length: int) -> torch.Tensor:
    """Greedy tokens, [rows, length]: exactly so many, whatever the model says about its end."""
    options = {"min_new_tokens": length, "max_new_tokens": length, "do_sample": False}
    return model.generate(input_ids=ids, attention_mask=mask, **options)[:, ids.shape[1] :]


def fitness(texts: list[str]) -> float:
    """Something cheap that differs between members: characters of an answer, on average."""
    return sum(map(len, texts)) / len(texts)


def answer(seconds: list[float], *packages: str) -> None:
    """Print what the run is asked for; the first of the seconds is the warm-up's."""
    status = Path("/proc/self/status")
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024 if status.exists() else None
    versions = {name: version(name) for name in ("torch", "transformers", *packages)}
    print(json.dumps({"seconds": seconds[1:], "peak": peak, "versions": versions}))
    sys.stdout.flush()
