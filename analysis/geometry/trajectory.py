"""How the weights of one run drifted: checkpoints in order, seen from where they started."""

import math
import re
from pathlib import Path

import torch
from tqdm import tqdm

from analysis.geometry.checkpoints import Checkpoint, not_finite, open_checkpoints, parse_name
from analysis.geometry.updates import BLOCK, one_thread
from eval.errors import UserError


def run_checkpoints(run: Path) -> dict[str, Path]:
    """The checkpoints that a run folder kept, by step and in order: {"100": run/checkpoints/step_100, ...}.

    Takes the trainers' checkpoints/step_N and TRL's checkpoint-N. Raises UserError if there is none.
    """
    folders = [*Path(run).glob("checkpoints/step_*"), *Path(run).glob("checkpoint-*")]
    steps = {
        int(match[1]): path for path in folders if (match := re.fullmatch(r"(?:step_|checkpoint-)(\d+)", path.name))
    }
    if not steps:
        raise UserError(
            f"{run} holds no checkpoints/step_N and no checkpoint-N; give the folder of a run that kept some"
        )
    return {str(step): steps[step] for step in sorted(steps)}


def drift(base: Path, checkpoints: dict[str, Path]) -> dict:
    """The path base -> first -> ... -> last checkpoint, in the order of `checkpoints`. Returns

        {"checkpoints": [names], "all": path, "per_kind": {kind: path}}

    where a path of K checkpoints theta_1 ... theta_K from theta_0 = base holds

        norm [K]                |theta_k - theta_0|
        relative_norm [K]       the same over |theta_0|; None where that is 0
        step_norm [K]           |theta_k - theta_{k-1}|
        successive_cosine [K-1] cosine of the steps into and out of theta_1 ... theta_{K-1}
        cosine_with_final [K]   cosine of theta_k - theta_0 with theta_K - theta_0
        path_length             sum of the step norms
        random_norm [K], random_cosine_with_final [K]
                                what norm and cosine_with_final would be had the steps, of the same lengths s, been
                                orthogonal to each other: sqrt(s_1^2 + ... + s_k^2), and that over its value at K.
                                Independent random steps are so, nearly. On a straight line norm = path_length at the
                                end, and all cosines are 1.

    A cosine with something that is exactly 0 is None. A step is what happened between two checkpoints, however many
    updates of the trainer that is.

    Reads every file once, block by block, with sums in float64; memory does not grow with the model.
    Raises UserError if a folder cannot be read, the folders are of different models, or a weight is not finite.
    """
    opened_base, *opened = open_checkpoints(base, checkpoints.values())
    products: dict[str, torch.Tensor] = {}
    squares: dict[str, float] = {}
    with one_thread():
        for name in tqdm(opened_base.names, desc="drift", unit="tensor"):
            of_tensor, square = step_products(opened_base, opened, name)
            kind = parse_name(name)[1]
            products[kind] = products.get(kind, 0) + of_tensor
            squares[kind] = squares.get(kind, 0.0) + square
    return {
        "checkpoints": list(checkpoints),
        "all": path_of(sum(products.values()), sum(squares.values())),
        "per_kind": {kind: path_of(products[kind], squares[kind]) for kind in products},
    }


def step_products(base: Checkpoint, checkpoints: list[Checkpoint], name: str) -> tuple[torch.Tensor, float]:
    """Inner products [K, K] of the K steps of one parameter, and the squared norm of base.

    From products of steps, not of updates: late steps are small beside the whole way, and their norms would otherwise
    be differences of nearly equal numbers.
    """
    products = torch.zeros(len(checkpoints), len(checkpoints), dtype=torch.float64)
    base_square = 0.0
    everything = [base, *checkpoints]
    size = max(BLOCK // len(everything), 1)
    for blocks in zip(*(checkpoint.blocks(name, size) for checkpoint in everything), strict=True):
        values = torch.stack(blocks).double()  # [1 + K, block]
        base_square += values[0].dot(values[0]).item()
        steps = values.diff(dim=0)
        products += steps @ steps.T
    if not math.isfinite(base_square) or not products.isfinite().all():
        # A value that is not finite spoils the steps before and after it: the first spoilt step ends at the culprit.
        spoilt = (~products.diagonal().isfinite()).int()
        culprit = base if not math.isfinite(base_square) else checkpoints[int(spoilt.argmax())]
        raise not_finite(name, culprit)
    return products, base_square


def path_of(products: torch.Tensor, base_square: float) -> dict:
    """What `drift` reports of one path. products [K, K]: inner products of its steps. base_square: |theta_0|^2."""
    count = len(products)
    step_squares = products.diagonal()
    until = torch.ones(count, count, dtype=torch.float64).tril()  # update k is the sum of the steps until k
    updates = until @ products @ until.T
    update_squares = updates.diagonal().clamp(min=0)
    norms, walked = update_squares.sqrt(), step_squares.cumsum(0).sqrt()
    return {
        "norm": norms.tolist(),
        "relative_norm": (norms / math.sqrt(base_square)).tolist() if base_square > 0 else [None] * count,
        "step_norm": step_squares.sqrt().tolist(),
        "successive_cosine": [
            _cosine(products[k, k + 1], step_squares[k], step_squares[k + 1]) for k in range(count - 1)
        ],
        "cosine_with_final": [_cosine(updates[k, -1], update_squares[k], update_squares[-1]) for k in range(count)],
        "path_length": step_squares.sqrt().sum().item(),
        "random_norm": walked.tolist(),
        "random_cosine_with_final": [(walked[k] / walked[-1]).item() if walked[k] > 0 else None for k in range(count)],
    }


def _cosine(product: torch.Tensor, square: torch.Tensor, other_square: torch.Tensor) -> float | None:
    if square == 0 or other_square == 0:
        return None
    return max(-1.0, min(1.0, (product / (square.sqrt() * other_square.sqrt())).item()))
