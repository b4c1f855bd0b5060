"""The best possible denoisers and next-token losses, for models that know the rule, the training set, or neither.

A denoiser takes y = x + sigma z (float [B, D], encoded as in eval/rules/encoding.py) and sigma (float [B]) and gives
the posterior mean of x (float [B, D]).
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from eval.rules.encoding import encode


Denoiser = Callable[[Tensor, Tensor], Tensor]


def posterior_mean(y: Tensor, sigma: Tensor, points: Tensor) -> Tensor:
    """E[x | y] for x uniform over `points` [K, D], all of one norm: softmax_k(y . x_k / sigma^2) x_k.

    The norms of y and of x_k cancel in the softmax of -|y - x_k|^2 / (2 sigma^2). Computed in float64.
    """
    points = points.to(y.device, torch.float64)
    scores = y.double() @ points.T / sigma.double()[:, None] ** 2
    return (torch.softmax(scores, dim=1) @ points).to(y.dtype)


def empirical_denoiser(train: np.ndarray | Tensor, vocabulary: int = 2) -> Denoiser:
    """The optimum of the denoising loss on the training strings (integers [N, n]): it knows nothing but them."""
    points = encode(train, vocabulary)
    return lambda y, sigma: posterior_mean(y, sigma, points)


def independent_bit_denoiser(vocabulary: int = 2) -> Denoiser:
    """The optimum if every symbol were drawn by itself, uniformly: tanh(y / sigma^2) for bits, no rule at all."""

    def denoise(y: Tensor, sigma: Tensor) -> Tensor:
        scaled = y / sigma[:, None] ** 2
        if vocabulary == 2:
            return torch.tanh(scaled)
        # Two symbols' code words differ by 2 in two channels.
        return (2 * torch.softmax(2 * scaled.unflatten(1, (-1, vocabulary)), dim=-1) - 1).flatten(1)

    return denoise


def group_parity_posterior(y: Tensor, sigma: Tensor, group: int) -> Tensor:
    """E[x | y] for bits in contiguous groups of `group`, each with an even number of ones; in closed form.

    With t_i = tanh(y_i / sigma^2) and s = (-1)^group, over the bits of one group,

        E[x_i | y] = (t_i + s prod_{j != i} t_j) / (1 + s prod_j t_j)

    Where all |t| round to 1 and their signs break the rule this is 0 / 0; there its limit is taken, in which exactly
    one bit is wrong, bit i with probability softmax_i(-2 |y_i| / sigma^2).
    """
    sign = (-1.0) ** group
    logits = (y.double() / sigma.double()[:, None] ** 2).unflatten(1, (-1, group))
    t = torch.tanh(logits)
    one = torch.ones_like(t[..., :1])
    before = torch.cat([one, t[..., :-1]], dim=-1).cumprod(-1)
    after = torch.cat([t[..., 1:], one], dim=-1).flip(-1).cumprod(-1).flip(-1)
    product = t.prod(-1, keepdim=True)
    denominator = 1 + sign * product
    certain = denominator < 1e-9
    general = (t + sign * before * after) / denominator.masked_fill(certain, 1.0)
    wrong = torch.softmax(-2 * logits.abs(), dim=-1)
    return torch.where(certain, logits.sign() * (1 - 2 * wrong), general).flatten(1).to(y.dtype)


def position_entropy(strings: np.ndarray) -> np.ndarray:
    """float64 [n], in nats: H(x_i | x_1 .. x_{i-1}) for x uniform over the distinct `strings` [K, n].

    It is the least mean loss that a next-token model can have at each position; the sum is ln K.
    """
    count = len(strings)
    entropies = []
    joint = 0.0
    for end in range(1, strings.shape[1] + 1):
        _, repeats = np.unique(strings[:, :end], axis=0, return_counts=True)
        share = repeats / count
        longer = float(-(share * np.log(share)).sum())
        entropies.append(longer - joint)
        joint = longer
    assert math.isclose(joint, math.log(count), abs_tol=1e-9), "the strings are not distinct"
    return np.array(entropies)
