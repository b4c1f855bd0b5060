"""How far, where and in which direction training moved the weights."""

import math
import os
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from analysis.geometry.checkpoints import Checkpoint, not_finite, open_checkpoints, parse_name


NO_LAYER = "-"
THRESHOLDS = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)

# Threads that measure one tensor each.
MOST_WORKERS = 4
# Scalars of all checkpoints together that are in work at once, in each thread. Small, so that they stay in the cache
# of one core and the allocator reuses their memory: with blocks of a megabyte, handing out fresh pages costs more than
# the arithmetic.
BLOCK = 2**16


@dataclass(frozen=True)
class TensorUpdate:
    """What one pass over one parameter (or a sum over several) leaves behind, for K checkpoints; all in float64.

    scalars: number of scalar parameters.
    base_square: squared norm of the base weights.
    products: [K, K] inner products of the updates; the diagonal holds their squared norms.
    changed, changed_bf16: [K] number of scalars that differ from base, exactly and after rounding both to bfloat16.
    within: [K, T] number of scalars that differ from base by at most each of THRESHOLDS.
    """

    scalars: int
    base_square: float
    products: torch.Tensor
    changed: torch.Tensor
    changed_bf16: torch.Tensor
    within: torch.Tensor

    def __add__(self, other: "TensorUpdate") -> "TensorUpdate":
        return TensorUpdate(
            self.scalars + other.scalars,
            self.base_square + other.base_square,
            self.products + other.products,
            self.changed + other.changed,
            self.changed_bf16 + other.changed_bf16,
            self.within + other.within,
        )


def update_geometry(base: Path, checkpoints: dict[str, Path]) -> dict:
    """Norms, orientation and sparsity of the updates theta - theta_base of the named checkpoints.

    Reads every file once, block by block, a few tensors at a time; sums in float64. Returns

        {"parameters": d, "base_norm": ||theta_base||,
         "checkpoints": {name: {"norm", "relative_norm" (by base's norm of the same parameters; None where that is 0),
                                "changed_share", "changed_share_bf16" (share of scalars that differ from base; the
                                same after rounding both to bfloat16),
                                "share_within": {threshold: share of scalars that differ from base by at most that},
                                "per_kind": {kind: {"norm", "relative_norm"}},
                                "per_layer": {layer: {"norm", "relative_norm"}},
                                "per_layer_kind": {layer: {kind: {"norm", "relative_norm"}}}}},
         "cosine": {"a|b": {"total", "per_layer_kind": {layer: {kind: cosine}}, "null_std",
                          "null_std_per_layer_kind": {layer: {kind: null_std}}}}}

    for every pair a, b in the order of `checkpoints`. Thresholds are THRESHOLDS as strings, absolute, in units of the
    weights. Layers are strings; parameters outside of the layers stand under
    "-". The cosine with an update that is exactly 0 is None. `null_std`: see `null_cosine_std`.

    Raises UserError if a folder cannot be read, the folders are of different models, or a weight is not finite.
    """
    opened_base, *opened = open_checkpoints(base, checkpoints.values())

    def measure(name: str) -> TensorUpdate:
        return measure_tensor(opened_base, opened, name)

    # Several tensors side by side: while one waits for the disk, another is computed.
    with one_thread(), ThreadPoolExecutor(min(MOST_WORKERS, os.cpu_count() or 1)) as pool:
        measured = pool.map(measure, opened_base.names)
        measured = tqdm(measured, desc="geometry", total=len(opened_base.names), unit="tensor")
        updates = dict(zip(opened_base.names, measured, strict=True))
    total = sum_up(updates.values())
    per_kind = group(updates, lambda layer, kind: kind)
    per_layer = group(updates, lambda layer, kind: layer)
    tensors_per_layer_kind = members_of(updates, lambda layer, kind: (layer, kind))
    per_layer_kind = {key: sum_up(members) for key, members in tensors_per_layer_kind.items()}
    return {
        "parameters": total.scalars,
        "base_norm": math.sqrt(total.base_square),
        "checkpoints": {
            name: _norms(total, k)
            | {
                "changed_share": total.changed[k].item() / total.scalars,
                "changed_share_bf16": total.changed_bf16[k].item() / total.scalars,
                "share_within": {
                    f"{threshold:g}": total.within[k, t].item() / total.scalars
                    for t, threshold in enumerate(THRESHOLDS)
                },
                "per_kind": {kind: _norms(update, k) for kind, update in per_kind.items()},
                "per_layer": {layer: _norms(update, k) for layer, update in per_layer.items()},
                "per_layer_kind": _nest({key: _norms(update, k) for key, update in per_layer_kind.items()}),
            }
            for k, name in enumerate(checkpoints)
        },
        "cosine": {
            f"{a}|{b}": {
                "total": cosine(total, i, j),
                "per_layer_kind": _nest({key: cosine(update, i, j) for key, update in per_layer_kind.items()}),
                "null_std": null_cosine_std(updates.values(), i, j),
                "null_std_per_layer_kind": _nest(
                    {key: null_cosine_std(members, i, j) for key, members in tensors_per_layer_kind.items()}
                ),
            }
            for (i, a), (j, b) in combinations(enumerate(checkpoints), 2)
        },
    }


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch from sharing out each operation among threads, while the context is open.

    On blocks of BLOCK scalars an operation takes microseconds, less than threads need to meet; where other processes
    use the cores, waiting for the last thread made the pass many times slower.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def measure_tensor(base: Checkpoint, checkpoints: list[Checkpoint], name: str) -> TensorUpdate:
    """One pass over one parameter of base and of all checkpoints."""
    count = len(checkpoints)
    base_square = 0.0
    products = torch.zeros(count, count, dtype=torch.float64)
    changed, changed_bf16, within = np.zeros(count, int), np.zeros(count, int), np.zeros((count, len(THRESHOLDS)), int)
    size = max(BLOCK // count, 1)
    for base_block, *blocks in zip(base.blocks(name, size), *(c.blocks(name, size) for c in checkpoints), strict=True):
        base_square += base_block.double().square_().sum().item()
        # Two bfloat16 numbers differ by a float32 number, unless one is 2^16 times the other: then by one to 24 bits.
        narrow = all(_is_bf16(block) for block in (base_block, *blocks))
        precision = torch.float32 if narrow else torch.float64
        difference = torch.stack(blocks).to(precision).sub_(base_block.to(precision))  # [K, block]
        wide = difference.double()
        products += wide @ wide.T
        for k, (block, magnitude) in enumerate(zip(blocks, difference.abs().numpy(), strict=True)):
            # NumPy compares and counts several times faster than torch on a CPU.
            moved = np.count_nonzero(block.numpy() != base_block.numpy())
            changed[k] += moved
            changed_bf16[k] += moved if narrow else np.count_nonzero(_through_bf16(block) != _through_bf16(base_block))
            within[k] += [np.count_nonzero(magnitude <= threshold) for threshold in THRESHOLDS]
    finite = products.diagonal().isfinite()
    if not math.isfinite(base_square) or not finite.all():
        culprit = base if not math.isfinite(base_square) else checkpoints[int(finite.int().argmin())]
        raise not_finite(name, culprit)
    counts = (torch.from_numpy(of_kind) for of_kind in (changed, changed_bf16, within))
    return TensorUpdate(math.prod(base.shapes[name]), base_square, products, *counts)


def sum_up(updates: Iterable[TensorUpdate]) -> TensorUpdate:
    """The update of several parameters together."""
    first, *others = updates
    return sum(others, start=first)


def group(updates: dict[str, TensorUpdate], key_of: Callable[[str, str], Hashable]) -> dict[Hashable, TensorUpdate]:
    """Sum the updates of the parameters with the same `key_of(layer, kind)`; numbered layers come first, in order."""
    return {key: sum_up(members) for key, members in members_of(updates, key_of).items()}


def members_of(
    updates: dict[str, TensorUpdate], key_of: Callable[[str, str], Hashable]
) -> dict[Hashable, list[TensorUpdate]]:
    """The updates of the parameters with the same `key_of(layer, kind)`; numbered layers come first, in order."""
    parsed = [(*parse_name(name), update) for name, update in updates.items()]
    parsed.sort(key=lambda entry: (entry[0] is None, entry[0] or 0))
    groups: dict[Hashable, list[TensorUpdate]] = {}
    for layer, kind, update in parsed:
        groups.setdefault(key_of(NO_LAYER if layer is None else str(layer), kind), []).append(update)
    return groups


def cosine(update: TensorUpdate, i: int, j: int) -> float | None:
    """Cosine of the angle between the updates of checkpoints i and j; None if one of them is exactly 0."""
    squares = update.products[i, i] * update.products[j, j]
    if squares == 0:
        return None
    return max(-1.0, min(1.0, (update.products[i, j] / squares.sqrt()).item()))


def null_cosine_std(updates: Iterable[TensorUpdate], i: int, j: int) -> float | None:
    """Standard deviation of the cosine of two random updates with the per-tensor norms of i and j; None if one is 0.

    Let a = (|a_t| u_t)_t and b = (|b_t| v_t)_t over the tensors t, where u_t and v_t are independent and uniform on
    the unit sphere of dimension d_t. By symmetry E[u_t . v_t] = 0. Fix v_t: u_t . v_t is then one coordinate of u_t in
    some orthonormal basis; the d_t coordinates have equal variances and their squares sum to 1, so
    Var[u_t . v_t] = 1 / d_t. Tensors are independent, hence

        Var[cos(a, b)] = sum_t |a_t|^2 |b_t|^2 / d_t / (|a|^2 |b|^2),    E[cos(a, b)] = 0.

    With one tensor this is the familiar 1 / sqrt(d). It is larger where both updates concentrate in the same few
    tensors. |cosine| of some 3 null_std or less is what unrelated directions give.
    """
    updates = list(updates)
    total = sum_up(updates).products
    if total[i, i] == 0 or total[j, j] == 0:
        return None
    variance = sum(u.products[i, i] / total[i, i] * u.products[j, j] / total[j, j] / u.scalars for u in updates)
    return math.sqrt(variance)


def _is_bf16(block: torch.Tensor) -> bool:
    """Whether the lower halves of all float32 numbers are 0."""
    return not np.bitwise_or.reduce(block.numpy().view(np.uint32)) & 0xFFFF


def _through_bf16(block: torch.Tensor) -> np.ndarray:
    return block.bfloat16().float().numpy()


def _norms(update: TensorUpdate, k: int) -> dict[str, float | None]:
    norm = math.sqrt(update.products[k, k])
    relative = norm / math.sqrt(update.base_square) if update.base_square > 0 else None
    return {"norm": norm, "relative_norm": relative}


def _nest(values: dict[tuple[str, str], object]) -> dict[str, dict[str, object]]:
    nested: dict[str, dict[str, object]] = {}
    for (layer, kind), value in values.items():
        nested.setdefault(layer, {})[kind] = value
    return nested
