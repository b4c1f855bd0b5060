"""The cosine of one update with the mean of others, on vectors that are known."""

import math
from itertools import combinations

import pytest
import torch

from analysis.claims.mean_update import cosines_of_means


def geometry(vectors: dict[str, torch.Tensor]) -> dict:
    """As `update_geometry` gives it, of single tensors."""
    cosine = torch.nn.functional.cosine_similarity
    return {
        "checkpoints": {name: {"norm": vector.norm().item()} for name, vector in vectors.items()},
        "cosine": {
            f"{a}|{b}": {
                "total": cosine(vectors[a], vectors[b], dim=0).item(),
                "null_std": 1 / math.sqrt(len(vectors[a])),
            }
            for a, b in combinations(vectors, 2)
        },
    }


def updates(signal: float, seeds: int = 5, size: int = 20_000) -> dict:
    """ES: a walk of length sqrt(size) beside `signal` along the first axis; GRPO: along it, with noise of its own."""
    torch.manual_seed(0)
    common = torch.zeros(size, dtype=torch.float64)
    common[0] = 1.0
    es = {f"es {i}": torch.randn(size, dtype=torch.float64) + signal * common for i in range(seeds)}
    grpo = {f"grpo {i}": 10 * common + 0.01 * torch.randn(size, dtype=torch.float64) for i in range(seeds)}
    return es | grpo


def names(method: str, seeds: int = 5) -> list[str]:
    return [f"{method} {i}" for i in range(seeds)]


def test_the_cosine_is_that_of_the_mean_vector():
    vectors = updates(signal=3.0)
    found = cosines_of_means(geometry(vectors), names("es"), names("grpo"))
    mean = torch.stack([vectors[name] for name in names("es")]).mean(0)
    expected = [torch.nn.functional.cosine_similarity(mean, vectors[name], dim=0).item() for name in names("grpo")]
    assert found["cosine"][-1] == pytest.approx(sum(expected) / 5, rel=1e-9)
    assert found["k"] == [1, 2, 3, 4, 5] and found["pairs"] == 25


def test_a_common_direction_grows_like_the_root_of_k_and_is_told_from_chance():
    found = cosines_of_means(geometry(updates(signal=4.0)), names("es"), names("grpo"))
    assert found["cosine"] == pytest.approx(found["sqrt"], rel=0.02)
    assert found["z"] > 10 and found["p"] < 1e-20


def test_without_one_it_stays_within_chance():
    found = cosines_of_means(geometry(updates(signal=0.0)), names("es"), names("grpo"))
    assert max(map(abs, found["cosine"])) < 3 * found["chance"]


def test_an_update_that_is_zero_has_no_direction():
    with pytest.raises(ValueError, match="exactly 0"):
        cosines_of_means({"checkpoints": {"a": {"norm": 0.0}, "b": {"norm": 1.0}}, "cosine": {}}, ["a"], ["b"])
