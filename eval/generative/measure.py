"""What samples of a generative model say about its two clocks: do they obey the rule, are they copies."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from eval.criteria import GAP_RATIO
from eval.generative.checkpoint import GenerativeModel
from eval.rules import Rule, Split, is_member
from eval.rules.encoding import encode


# A sample is a copy if its nearest training vector is nearer than this share of the distance to the second nearest
# (Bonnaire et al., arXiv:2505.17638).


def measure_samples(rule: Rule, samples: np.ndarray, vectors: Tensor | None, data: Split) -> dict[str, Any]:
    """Shares of the samples, int8 [M, n]; `vectors` are what a denoiser's samples were read off, float [M, D].

    samples: M. valid: obey the rule. group_valid: mean share of a sample's groups that do. copies, control: stand in
    the training set, in the control set. novel_valid: valid among those that are no copies (None if all are copies).
    unique: distinct samples / M. gap_ratio_copies: copies by the distance of `vectors` to the two nearest training
    vectors (None for models without vectors, and for a single training string).
    """
    groups = rule.constraints(samples)
    copied = is_member(samples, data.train)
    valid = float(rule.valid(samples).mean())
    copies = float(copied.mean())
    return {
        "samples": len(samples),
        "valid": valid,
        "group_valid": float(groups.mean()),
        "copies": copies,
        "control": float(is_member(samples, data.control).mean()),
        "novel_valid": None if copied.all() else (valid - copies) / (1 - copies),
        "unique": len(np.unique(samples, axis=0)) / len(samples),
        "gap_ratio_copies": None if vectors is None else gap_ratio_copies(vectors, data.train, rule.vocabulary),
    }


def copies_beyond_control(row: dict[str, Any]) -> float:
    """Share of samples that are copies, less the share in the control set, of a row of `measure_samples`.

    Divided once, from counts: 15 of 100 less 5 of 100 is 0.1, where the shares themselves give 0.09999999999999999.
    """
    return round((row["copies"] - row["control"]) * row["samples"]) / row["samples"]


def novel_validity(row: dict[str, Any]) -> float | None:
    """novel_valid of a row of `measure_samples` from counts, for comparison with a limit; None if all are copies."""
    copied = round(row["copies"] * row["samples"])
    if copied == row["samples"]:
        return None
    return (round(row["valid"] * row["samples"]) - copied) / (row["samples"] - copied)


def gap_ratio_copies(vectors: Tensor, train: np.ndarray, vocabulary: int) -> float | None:
    """Share of `vectors` [M, D] whose distance to the nearest training vector is below `GAP_RATIO` of the second's."""
    if len(train) < 2:
        return None
    distances = torch.cdist(vectors.cpu().double(), encode(train, vocabulary).double())
    nearest, second = distances.topk(2, dim=1, largest=False).values.unbind(1)
    return float((nearest < GAP_RATIO * second).double().mean())


@torch.no_grad()
def losses_of_strings(model: GenerativeModel, strings: np.ndarray, generator: torch.Generator) -> Tensor:
    """float [N]: the training loss of each string of int8 [N, n], with noise from `generator`."""
    device = next(model.parameters()).device
    noise = (part.to(device) for part in model.corrupt(len(strings), generator))
    return model(torch.as_tensor(strings).to(device), *noise)
