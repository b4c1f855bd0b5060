"""Where a denoiser pulls noisy strings: towards the rule, towards its training set, and from how far.

A denoiser takes y = x + sigma z (float [B, D], entries of x are -1 and +1) and sigma (float [B]) and gives an estimate
of x (float [B, D]). Strings are integers [M, n]; a string with its code word is called a vertex. Three classes of
vertices are compared throughout:

    train       training strings
    held_out    valid strings that were never trained on
    violating   held-out strings with one symbol changed, so that they break the rule

Noise is the same for all classes and at all training steps.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from eval.generative.edm import noise_levels, sample_heun
from eval.rules import Rule, is_member
from eval.rules.encoding import decode, encode


Denoiser = Callable[[Tensor, Tensor], Tensor]
# (noisy [B, D], sigma) -> [B, D]: where the model takes noisy vertices, in one step or along the whole flow.
Restorer = Callable[[Tensor, float], Tensor]

# With entries of -1 and +1, what tells valid from invalid lies between about 0.4 and 1.5.
SIGMAS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0)


def violate(strings: np.ndarray, rule: Rule, seed: int) -> np.ndarray:
    """`strings` with one symbol each replaced by another so that the rule is broken, int8 [K, n].

    The place and the new symbol are uniform among those that break the rule. Strings that obey the rule whatever one
    symbol is changed to are left out, so that K may be less than their number. Raises ValueError if all are.
    """
    generator = np.random.default_rng(seed)
    places, added = np.indices((rule.positions, rule.vocabulary - 1)).reshape(2, -1)
    broken = []
    for string in strings:
        changed = np.repeat(string[None], len(places), axis=0)
        changed[np.arange(len(places)), places] = (string[places] + added + 1) % rule.vocabulary
        invalid = changed[~rule.valid(changed)]
        if len(invalid):
            broken.append(invalid[generator.integers(len(invalid))])
    if not broken:
        raise ValueError(f"no change of one symbol breaks {rule.describe()} in any of the {len(strings)} strings")
    return np.stack(broken)


def noise(count: int, dimension: int, seed: int) -> Tensor:
    """Standard normal, float [count, dimension]: with one seed, fewer rows are the first of more."""
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed))


def repeated(strings: np.ndarray, count: int) -> np.ndarray:
    """Exactly `count` rows: the first ones, and again from the start where there are fewer."""
    return strings[np.arange(count) % len(strings)]


def score_clock(
    denoise: Denoiser, rule: Denoiser, empirical: Denoiser, clean: Tensor, sigmas: Sequence[float], seed: int = 0
) -> dict[str, list[float | None]]:
    """On which side the learned denoiser o lies, between the rule's optimum R and the training set's optimum E.

    I(sigma) is the mean over noisy vertices of (|o - E| - |o - R|) / |R - E|, in [-1, 1] by the triangle inequality:
    +1 where o is the rule's optimum, -1 where it is the empirical one. Vertices where R and E agree to 1e-6 per entry
    do not count; None if all do.

    {"sigma", "index": I, "to_rule": root mean square of o - R per entry, "to_empirical": of o - E,
     "between": of R - E}, a number per sigma.

    clean: code words to add noise to, float [B, D]: held-out ones, where the two optima differ.
    """
    z = noise(*clean.shape, seed)
    result: dict[str, list[float | None]] = {"sigma": list(sigmas), "index": []}
    result |= {"to_rule": [], "to_empirical": [], "between": []}
    for sigma in sigmas:
        level = torch.full((len(clean),), sigma)
        noisy = clean + sigma * z
        with torch.no_grad():
            o, r, e = (each(noisy, level).double() for each in (denoise, rule, empirical))
        to_rule, to_empirical, between = (d.norm(dim=1) for d in (o - r, o - e, r - e))
        apart = between > 1e-6 * math.sqrt(clean.shape[1])
        index = (to_empirical - to_rule)[apart] / between[apart]
        result["index"].append(index.mean().item() if len(index) else None)
        for name, distance in (("to_rule", to_rule), ("to_empirical", to_empirical), ("between", between)):
            result[name].append((distance.square().mean() / clean.shape[1]).sqrt().item())
    return result


def denoising_loss(
    denoise: Denoiser, vertices: dict[str, Tensor], sigmas: Sequence[float], seed: int = 0
) -> dict[str, list[float]]:
    """Mean of (D(x + sigma z) - x)^2 per entry, unweighted, for every class of code words [B, D] and every sigma."""
    losses: dict[str, list[float]] = {}
    for name, clean in vertices.items():
        z = noise(*clean.shape, seed)
        losses[name] = []
        for sigma in sigmas:
            with torch.no_grad():
                estimate = denoise(clean + sigma * z, torch.full((len(clean),), sigma))
            losses[name].append((estimate - clean).double().square().mean().item())
    return losses


def one_step(denoise: Denoiser) -> Restorer:
    """The denoiser's estimate itself, whose signs are the restored string."""

    def restore(noisy: Tensor, sigma: float) -> Tensor:
        return denoise(noisy, torch.full((len(noisy),), sigma))

    return restore


def whole_flow(denoise: Denoiser, steps: int = 8, sigma_min: float = 0.02) -> Restorer:
    """The end of the probability-flow ODE from the noise level down, by the lab's own Heun sampler."""

    def restore(noisy: Tensor, sigma: float) -> Tensor:
        return sample_heun(denoise, noisy / sigma, noise_levels(steps, sigma_min, sigma))

    return restore


def restored(restore: Restorer, strings: np.ndarray, sigma: float, vocabulary: int, seed: int = 0) -> np.ndarray:
    """Where `restore` takes each vertex [M, n] after noise of level sigma, int8 [M, n]."""
    clean = encode(strings, vocabulary)
    with torch.no_grad():
        return decode(restore(clean + sigma * noise(*clean.shape, seed), sigma), vocabulary)


def return_probability(
    restore: Restorer, strings: np.ndarray, sigmas: Sequence[float], vocabulary: int, seed: int = 0
) -> list[float]:
    """Share of vertices [M, n] that come back exactly after noise of each level: how wide their basin is."""
    return [
        float((restored(restore, strings, sigma, vocabulary, seed) == strings).all(axis=1).mean()) for sigma in sigmas
    ]


def half_recovery_sigma(sigmas: Sequence[float], probabilities: Sequence[float]) -> float | None:
    """The noise level from which half of the vertices return: the radius of the basin.

    The first crossing of one half as sigma grows, linear in log sigma; None if it lies outside of `sigmas`.
    """
    for i in range(1, len(sigmas)):
        before, here = probabilities[i - 1], probabilities[i]
        if before >= 0.5 > here:
            share = (before - 0.5) / (before - here)
            return math.exp(math.log(sigmas[i - 1]) + share * math.log(sigmas[i] / sigmas[i - 1]))
    return None


def capture_table(
    restore: Restorer, violating: np.ndarray, train: np.ndarray, rule: Rule, sigmas: Sequence[float], seed: int = 0
) -> dict[str, list[float]]:
    """Where violating vertices go after noise of each level, as shares that sum to 1.

    "stays": back to the violating vertex; "train": to a training string; "valid": to another valid string; "other": to
    another string that breaks the rule.
    """
    table: dict[str, list[float]] = {name: [] for name in ("stays", "train", "valid", "other")}
    for sigma in sigmas:
        strings = restored(restore, violating, sigma, rule.vocabulary, seed)
        stays = (strings == violating).all(axis=1)
        copied = is_member(strings, train)
        valid = rule.valid(strings) & ~copied
        for name, share in (("stays", stays), ("train", copied), ("valid", valid)):
            table[name].append(float(share.mean()))
        table["other"].append(float((~(stays | copied | valid)).mean()))
    return table


def basins(
    restore: Restorer, vertices: dict[str, np.ndarray], sigmas: Sequence[float], rule: Rule, seed: int = 0
) -> dict[str, dict]:
    """{class: {"probability": `return_probability` at each sigma, "radius": `half_recovery_sigma`}}."""
    widths = {}
    for name, strings in vertices.items():
        probability = return_probability(restore, strings, sigmas, rule.vocabulary, seed)
        widths[name] = {"probability": probability, "radius": half_recovery_sigma(sigmas, probability)}
    return widths
