"""Singular values of the updates: how many directions each uses, and which it shares with others and with base."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean

import torch
from tqdm import tqdm

from analysis.geometry.checkpoints import Checkpoint, not_finite, open_checkpoints, parse_name
from analysis.geometry.subspaces import compare_subspaces, energy_in_subspaces
from analysis.geometry.updates import BLOCK


# Singular vectors are given only for singular values above this share of the largest: below, the Gram matrix in
# float64 leaves them orthonormal to worse than 1e-6.
SMALLEST_RATIO = 1e-5
SLAB_SCALARS = 2**23  # converted to float64 at once
TRACY_WIDOM_99 = 2.0234  # 99 % quantile of the real Tracy-Widom distribution


@dataclass(frozen=True)
class Decomposition:
    """Singular values of a matrix [m, n] and the vectors of the largest.

    values: [min(m, n)] float64, largest first. left [m, k], right [n, k]: float32, orthonormal columns.
    """

    values: torch.Tensor
    left: torch.Tensor
    right: torch.Tensor


def update_spectra(base: Path, checkpoints: dict[str, Path], top: int = 16, device: str = "cpu") -> dict:
    """Spectra, ranks and subspaces of the update theta - theta_base of every matrix, for the named checkpoints.

    Returns

        {"top": k,
         "checkpoints": {name: {"matrices": {parameter: {**`spectrum`, "base_overlap": `energy_in_subspaces` of the
                                                         update in the k largest singular directions of base}},
                                "per_kind": {kind: {"matrices": how many, "stable_rank", "effective_rank",
                                                    "random_stable_rank", "random_effective_rank", "above_noise",
                                                    "base_overlap": {"left": {"share", "null"}, "right", "both"}}}}},
         "pairs": {"a|b": {"matrices": {parameter: {"left": `compare_subspaces` of the k largest singular directions of
                                                    the two updates, "right"}},
                           "per_kind": {kind: {"left": {"mean_square", "null"}, "right": {"mean_square", "null"}}}}},
         "other_parameters": [parameters that are not matrices and have no spectrum]}

    per_kind holds means over the matrices of one kind whose update is not 0 (None if there is none). A matrix whose
    update is exactly 0 has no ranks and no subspaces (None). An update of rank below k has a subspace of its rank.

    Reads every file once, parameter by parameter. Memory: two float32 copies of the largest matrix and float64
    matrices of its smaller side; the time goes as rows * columns * smaller side.

    top: k, number of singular vectors on each side, at least 1. device: where matrices are multiplied and decomposed.
    Raises UserError if a folder cannot be read, the folders are of different models, or a weight is not finite.
    """
    opened_base, *others = open_checkpoints(base, checkpoints.values())
    opened = dict(zip(checkpoints, others, strict=True))
    names = [name for name, shape in opened_base.shapes.items() if len(shape) == 2]
    pairs = list(combinations(checkpoints, 2))
    of_checkpoint: dict[str, dict] = {name: {} for name in checkpoints}
    of_pair: dict[tuple[str, str], dict] = {pair: {} for pair in pairs}
    for parameter in tqdm(names, desc="spectra", unit="matrix"):
        weight = opened_base.read(parameter)
        of_base = decompose(_finite(weight, parameter, opened_base).to(device), top)
        updates = {}
        for name, checkpoint in opened.items():
            update = _finite(_difference(checkpoint, parameter, weight), parameter, checkpoint).to(device)
            updates[name] = decompose(update, top)
            of_checkpoint[name][parameter] = spectrum(updates[name].values, tuple(update.shape), top) | {
                "base_overlap": energy_in_subspaces(update, of_base.left, of_base.right)
            }
        for a, b in pairs:
            of_pair[a, b][parameter] = {
                "left": compare_subspaces(updates[a].left, updates[b].left),
                "right": compare_subspaces(updates[a].right, updates[b].right),
            }
    return {
        "top": top,
        "checkpoints": {
            name: {"matrices": matrices, "per_kind": _per_kind(matrices, _mean_spectrum)}
            for name, matrices in of_checkpoint.items()
        },
        "pairs": {
            f"{a}|{b}": {"matrices": matrices, "per_kind": _per_kind(matrices, _mean_angles)}
            for (a, b), matrices in of_pair.items()
        },
        "other_parameters": [name for name in opened_base.names if name not in set(names)],
    }


def decompose(matrix: torch.Tensor, top: int) -> Decomposition:
    """All singular values and the `top` largest singular vectors, through the Gram matrix of the smaller side.

    The squares of the singular values are the eigenvalues of that matrix, formed in float64: a value is exact to some
    1e-16 * (largest / value)^2, relative to itself, so that values below 1e-7 of the largest are rounding. Exact
    for vocabulary-sized matrices too, without a second copy of the matrix.

    matrix: [m, n] float32. top: wanted vectors on each side; there are fewer if the rank is smaller.
    """
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T  # [long, short]
    slabs = tall.split(max(SLAB_SCALARS // tall.shape[1], 1))
    gram = torch.zeros(tall.shape[1], tall.shape[1], dtype=torch.float64, device=matrix.device)
    for slab in slabs:
        wide = slab.double()
        gram.addmm_(wide.T, wide)
    squares, vectors = torch.linalg.eigh(gram)
    values = squares.flip(0).clamp(min=0).sqrt()
    count = int((values[:top] > SMALLEST_RATIO * values[0]).sum())
    of_short = vectors.flip(1)[:, :count]
    of_long = torch.cat([(slab.double() @ of_short / values[:count]).float() for slab in slabs])
    left, right = (of_long, of_short.float()) if tall is matrix else (of_short.float(), of_long)
    return Decomposition(values, left, right)


def spectrum(values: torch.Tensor, shape: tuple[int, int], top: int) -> dict:
    """What the singular values say of a matrix, beside what a random matrix of the same shape and norm would have.

    {"norm": Frobenius norm, "singular_values": the `top` largest,
     "stable_rank", "effective_rank": see the functions; None if the matrix is 0,
     "random_edge": `random_edge`, "above_noise": number of values beyond `noise_quantile`,
     "random_stable_rank", "random_effective_rank": see the functions}
    """
    norm = values.norm().item()
    return {
        "norm": norm,
        "singular_values": values[:top].tolist(),
        "stable_rank": stable_rank(values) if norm > 0 else None,
        "effective_rank": effective_rank(values) if norm > 0 else None,
        "random_edge": random_edge(shape, norm),
        "above_noise": int((values > noise_quantile(shape, norm)).sum()),
        "random_stable_rank": random_stable_rank(shape),
        "random_effective_rank": random_effective_rank(shape),
    }


def stable_rank(values: torch.Tensor) -> float:
    """|A|_F^2 / |A|_2^2, between 1 and the rank; from the singular values of A, which is not 0."""
    return (values.square().sum() / values.max().square()).item()


def effective_rank(values: torch.Tensor) -> float:
    """exp of the entropy of the squared singular values' shares, between 1 and the rank.

    Roy & Vetterli 2007 ("The effective rank: a measure of effective dimensionality") take the shares of the singular
    values themselves; with squares, the shares are those of the squared norm, as in the stable rank, and the number is
    smaller.
    """
    shares = values.square() / values.square().sum()
    return math.exp(torch.special.entr(shares).sum().item())


def random_edge(shape: tuple[int, int], norm: float) -> float:
    """Upper edge of the Marchenko-Pastur law: norm (sqrt(m) + sqrt(n)) / sqrt(m n).

    The largest singular value that independent entries of mean 0 and variance norm^2 / (m n) have, for large m and n
    (Marchenko & Pastur 1967). In finite matrices it scatters around a slightly smaller value: see `noise_quantile`.
    """
    m, n = shape
    return norm * (math.sqrt(m) + math.sqrt(n)) / math.sqrt(m * n)


def noise_quantile(shape: tuple[int, int], norm: float) -> float:
    """What the largest singular value of a random Gaussian matrix exceeds in 1 % of cases.

    Centre and scale of Johnstone 2001 ("On the distribution of the largest eigenvalue in principal components
    analysis", Theorem 1.1) with the 99 % quantile of the Tracy-Widom distribution. As `norm` includes what stands out
    of the noise, the count of singular values beyond it errs to the small side.
    """
    m, n = shape
    roots = math.sqrt(max(m, n) - 1) + math.sqrt(min(m, n))
    spread = roots * (1 / math.sqrt(max(max(m, n) - 1, 1)) + 1 / math.sqrt(min(m, n))) ** (1 / 3)
    return norm * math.sqrt((roots**2 + TRACY_WIDOM_99 * spread) / (m * n))


def random_stable_rank(shape: tuple[int, int]) -> float:
    """Stable rank m n / (sqrt(m) + sqrt(n))^2 of a large random matrix, whose norm is at the Marchenko-Pastur edge."""
    m, n = shape
    return m * n / (math.sqrt(m) + math.sqrt(n)) ** 2


def random_effective_rank(shape: tuple[int, int]) -> float:
    """Effective rank a exp(-a / (2 b)) of a large random matrix with sides a <= b.

    The entropy of the shares is ln a - a / (2 b) (Page 1993, "Average entropy of a subsystem").
    """
    a, b = min(shape), max(shape)
    return a * math.exp(-a / (2 * b))


def _difference(checkpoint: Checkpoint, parameter: str, weight: torch.Tensor) -> torch.Tensor:
    """The update of one parameter in float32, without a float32 copy of the checkpoint's own values."""
    difference = torch.empty(weight.shape)
    start = 0
    for block in checkpoint.blocks(parameter, BLOCK):
        end = start + len(block)
        torch.sub(block, weight.reshape(-1)[start:end], out=difference.view(-1)[start:end])
        start = end
    return difference


def _finite(matrix: torch.Tensor, parameter: str, checkpoint: Checkpoint) -> torch.Tensor:
    if not matrix.isfinite().all():
        raise not_finite(parameter, checkpoint)
    return matrix


def _per_kind(matrices: dict[str, dict], mean: Callable[[list[dict]], dict | None]) -> dict[str, dict | None]:
    kinds: dict[str, list[dict]] = {}
    for parameter, entry in matrices.items():
        kinds.setdefault(parse_name(parameter)[1], []).append(entry)
    return {kind: mean(entries) for kind, entries in kinds.items()}


def _mean_spectrum(entries: list[dict]) -> dict | None:
    moved = [entry for entry in entries if entry["base_overlap"] is not None]
    if not moved:
        return None
    of_numbers = ("stable_rank", "effective_rank", "random_stable_rank", "random_effective_rank", "above_noise")
    return (
        {"matrices": len(moved)}
        | {key: fmean(entry[key] for entry in moved) for key in of_numbers}
        | {
            "base_overlap": {
                side: {key: fmean(entry["base_overlap"][side][key] for entry in moved) for key in ("share", "null")}
                for side in ("left", "right", "both")
            }
        }
    )


def _mean_angles(entries: list[dict]) -> dict | None:
    moved = [entry for entry in entries if entry["left"] is not None and entry["right"] is not None]
    if not moved:
        return None
    return {
        side: {key: fmean(entry[side][key] for entry in moved) for key in ("mean_square", "null")}
        for side in ("left", "right")
    }
