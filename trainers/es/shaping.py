"""From rewards to the weights z_i of the members in the update.

Members without a fitness (NaN: none of their completions could be scored) take no part and get z = 0. If all the
others are tied there is nothing to learn from and every z is 0.
"""

import numpy as np


SHAPINGS = ("zscore", "centered_rank", "raw")
BASELINES = ("none", "mean", "zscore")


def member_fitness(rewards: np.ndarray, baseline: str = "none") -> np.ndarray:
    """Mean reward of each member over its prompts.

    rewards: [members, prompts], NaN where a completion could not be scored. Returns [members], NaN for a member
        without any scored completion.
    baseline: "none"; "mean" subtracts from each prompt its mean over the members, which changes the fitness by a
        constant unless some completions are unscored; "zscore" also divides by the prompt's standard deviation over
        members, so that prompts on which members disagree little count as much as the others. Tied prompts count 0.
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    scored = ~np.isnan(rewards)
    if baseline != "none":
        count = np.maximum(scored.sum(0), 1)
        mean = np.where(scored, rewards, 0.0).sum(0) / count
        centred = rewards - mean
        if baseline == "zscore":
            deviation = np.sqrt(np.where(scored, centred**2, 0.0).sum(0) / count)
            centred = np.divide(centred, deviation, out=np.zeros_like(centred) * centred, where=deviation > 1e-12)
        rewards = centred
    count = scored.sum(1)
    total = np.where(scored, rewards, 0.0).sum(1)
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)


def shape(fitness: np.ndarray, how: str) -> np.ndarray:
    """Weights z [members] from fitnesses [members].

    zscore: (f - mean) / population standard deviation, so that sum z^2 = number of members with a fitness.
    centered_rank: ranks spread evenly over [-0.5, 0.5]; tied members share the mean of their ranks.
    raw: the fitness itself.
    """
    fitness = np.asarray(fitness, dtype=np.float64)
    scored = ~np.isnan(fitness)
    z = np.zeros_like(fitness)
    values = fitness[scored]
    if len(values) == 0 or np.ptp(values) < 1e-12:
        return z
    if how == "zscore":
        z[scored] = (values - values.mean()) / values.std()
    elif how == "centered_rank":
        below = (values[None] < values[:, None]).sum(1)
        equal = (values[None] == values[:, None]).sum(1)
        z[scored] = (below + (equal - 1) / 2) / (len(values) - 1) - 0.5
    else:
        z[scored] = values
    return z
