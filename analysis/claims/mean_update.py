"""Do evolution strategies and GRPO follow a common direction, which one update of ES hides in its noise?

An update of ES is a signal and, many times longer, a random walk. Averaging the updates of K seeds leaves the signal
and shortens the walk by sqrt(K): if GRPO's update shares the signal, its cosine with the mean grows like sqrt(K) until
the walk no longer dominates; if it does not, the cosine stays within chance for every K.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations, product
from pathlib import Path
from statistics import fmean
from typing import Any

from scipy import stats

from analysis.geometry.updates import update_geometry


def alignment(base: Path, es: Mapping[int, Path], grpo: Mapping[int, Path]) -> dict[str, Any]:
    """`cosines_of_means` of the models of all seeds, by seed; one pass over their files."""
    models = {f"es {seed}": folder for seed, folder in es.items()}
    models |= {f"grpo {seed}": folder for seed, folder in grpo.items()}
    geometry = update_geometry(base, models)
    return cosines_of_means(geometry, [f"es {seed}" for seed in es], [f"grpo {seed}" for seed in grpo])


def cosines_of_means(geometry: Mapping[str, Any], first: Sequence[str], second: Sequence[str]) -> dict[str, Any]:
    """The cosine of one method's update with the mean of K of the other's, as K grows. Returns

        {"k": [1, ...], "cosine": [mean over all choices of K of `first` and each of `second`],
         "sqrt": [sqrt(K) times the cosine at K = 1: what a common direction would give],
         "chance": standard deviation of the cosine of two random updates, mean over the pairs,
         "pairs": how many, "z": mean cosine of the pairs in standard deviations of that mean, "p": two-sided}

    Updates of different seeds are independent, so that cosines of different pairs are uncorrelated under chance, and
    their mean has the standard deviation of one over sqrt(pairs).

    geometry: see `update_geometry`, with all of them. Raises ValueError if an update is exactly 0.
    """
    products = inner_products(geometry)
    pairs = list(product(first, second))
    singles = [products[a, b] / math.sqrt(products[a, a] * products[b, b]) for a, b in pairs]
    chance = fmean(geometry["cosine"][key(geometry, a, b)]["null_std"] for a, b in pairs)
    z = fmean(singles) * math.sqrt(len(pairs)) / chance
    cosines = []
    for k in range(1, len(first) + 1):
        of_k = []
        for chosen in combinations(first, k):
            square = sum(products[a, other] for a, other in product(chosen, repeat=2))
            of_k += [sum(products[a, b] for a in chosen) / math.sqrt(square * products[b, b]) for b in second]
        cosines.append(fmean(of_k))
    counts = list(range(1, len(first) + 1))
    return {
        "k": counts,
        "cosine": cosines,
        "sqrt": [math.sqrt(k) * cosines[0] for k in counts],
        "chance": chance,
        "pairs": len(pairs),
        "z": z,
        "p": float(2 * stats.norm.sf(abs(z))),
    }


def key(geometry: Mapping[str, Any], a: str, b: str) -> str:
    """Under which a pair stands in "cosine" of the geometry."""
    return f"{a}|{b}" if f"{a}|{b}" in geometry["cosine"] else f"{b}|{a}"


def inner_products(geometry: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    """{(a, b): <a, b>} of all updates, from their norms and cosines. Raises ValueError if an update is exactly 0."""
    norms = {name: entry["norm"] for name, entry in geometry["checkpoints"].items()}
    if not all(norms.values()):
        raise ValueError("an update is exactly 0, so that it has no direction")
    products = {(name, name): norm**2 for name, norm in norms.items()}
    for a, b in combinations(norms, 2):
        products[a, b] = products[b, a] = geometry["cosine"][key(geometry, a, b)]["total"] * norms[a] * norms[b]
    return products
