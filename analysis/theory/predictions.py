"""A finished run of evolution strategies beside what theory predicts for it, from its logs alone.

The functions of `analysis.theory.random_walk` with the run's own numbers: how far a random walk of the same steps
leads, which share of a step is useful, and where the reward of a quadratic landscape settles. What the theory takes
for granted and the run does not grant stands in "fails".
"""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from analysis.criteria import SETTLED
from analysis.geometry.checkpoints import Checkpoint
from analysis.theory.random_walk import (
    decayed_walk_norm,
    effective_dimension,
    members_for_half_useful,
    mode_contraction,
    mode_second_moment,
    stationary_fitness_std,
    useful_share,
    walk_norms,
    zscore_shrinkage,
)
from eval.errors import UserError
from eval.storage import read_json, read_jsonl, read_yaml_mapping


# Fewer steps than this show no slope.
FEWEST_STEPS = 6
NORMAL_95 = 1.959964
SETTING = ("alpha", "sigma", "anchor", "antithetic", "shared_noise", "fitness_shaping")
LOGS = ("config.yaml", "metrics.jsonl", "seeds.jsonl", "results.json")

Row = dict[str, Any]


def predict(run: Path) -> dict[str, Any]:
    """Theory beside measurement for one finished run folder of evolution strategies. Returns

        {"setting": {"members": N, "parameters": d, "alpha", "sigma", "anchor", "antithetic", "shared_noise",
                     "fitness_shaping", "precision", "steps", "updates": steps that moved the weights},
         "isotropy": {"effective_dimension": D of one perturbation, "cosine_std": 1 / sqrt(D), what independent runs'
                      updates would have, "isotropic_cosine_std": 1 / sqrt(d)},
         "fails": [in words, which assumptions of the theory the run does not meet],
         "walk": {"steps", "measured": |theta_t - theta_0|, "predicted": see `random_walk.walk_norms` (lists),
                  "ratio": measured / predicted at the end, "r_squared": of a straight line from 0 through the measured
                  squares against the steps, "plateau": where anchored decay levels off, None without},
         "useful": None, or for the "first" and "second" half of the run {"from_step", "to_step", "slope": reward per
                  step, "signal_share": s with "_low" and "_high", "share": rho with "_low" and "_high",
                  "random_share": 1 / d, "members_for_half": N* or None},
         "modes": None, or what `fit_modes` returns,
         "missing": {"useful" or "modes": why it is None}}

    Raises UserError if the folder is no finished run of evolution strategies over all weights.
    """
    config, metrics, updates, results = _logs(run)
    members, parameters = config["population"], results["parameters"]
    # Runs written before the trainer had these options have no such keys.
    precision = config.get("precision", "fp32_master")
    rank = config["rank"] if config.get("noise") == "low_rank" else 0
    shapes = Checkpoint(run / "model").shapes.values()
    dimension = effective_dimension(shapes, config["shared_noise"], across_sizes=updates[0]["device"] == "cpu")
    reason = _no_reward_theory(config, metrics)
    modes = reason or _modes(config, metrics)
    return {
        "setting": {
            **{key: config[key] for key in SETTING},
            "members": members,
            "parameters": parameters,
            "precision": precision,
            "steps": len(metrics),
            "updates": sum(any(row["coefficients"]) for row in updates),
        },
        "isotropy": {
            "effective_dimension": dimension,
            "cosine_std": 1 / math.sqrt(dimension),
            "isotropic_cosine_std": 1 / math.sqrt(parameters),
        },
        "fails": failing_assumptions(config["shared_noise"], rank, precision),
        "walk": _walk(config, metrics, updates, parameters),
        "useful": None if reason else _useful(config, metrics, parameters),
        "modes": None if isinstance(modes, str) else modes,
        "missing": ({"useful": reason} if reason else {}) | ({"modes": modes} if isinstance(modes, str) else {}),
    }


def _walk(config: Row, metrics: list[Row], updates: list[Row], parameters: int) -> Row:
    steps, measured = [row["step"] for row in metrics], [row["distance_from_base"] for row in metrics]
    predicted = walk_norms([noise_variance(row) for row in updates], [row["decay"] for row in updates], parameters)
    decay = config["alpha"] * config["anchor"]
    plateau = decayed_walk_norm(config["alpha"], decay, math.inf, config["population"], parameters) if decay else None
    return {
        "steps": steps,
        "measured": measured,
        "predicted": predicted,
        "ratio": measured[-1] / predicted[-1] if predicted[-1] > 0 else None,
        "r_squared": proportional_fit(steps, [norm**2 for norm in measured]),
        "plateau": plateau,
    }


def _no_reward_theory(config: Row, metrics: list[Row]) -> str | None:
    """Why nothing can be said of the run's rewards, in words; None if something can."""
    spreads, third = [row["reward_std"] for row in metrics], len(metrics) // 3
    unscored = any(row["reward"] is None for row in metrics)
    if config["fitness_shaping"] != "zscore" or config["antithetic"] or unscored:
        return "the formulas are for z-scored fitness of members without pairs, in which every step was scored"
    if len(metrics) < 2 * FEWEST_STEPS:
        return f"{len(metrics)} steps show no slope; it takes {2 * FEWEST_STEPS}"
    if not any(spreads[:third]) or not any(spreads[-third:]):
        return "all members had the same fitness in every step of a third of the run, so that nothing moved"
    return None


def _useful(config: Row, metrics: list[Row], parameters: int) -> Row:
    middle = len(metrics) // 2
    halves = {"first": slice(0, middle), "second": slice(middle, len(metrics))}
    rewards, spreads, alphas = ([row[key] for row in metrics] for key in ("reward", "reward_std", "alpha"))
    return {
        half: {"from_step": part.start + 1, "to_step": part.stop}
        | useful_movement(
            rewards[part], spreads[part], alphas[part], config["sigma"], config["population"], parameters
        )
        for half, part in halves.items()
    }


def _modes(config: Row, metrics: list[Row]) -> Row | str:
    """What `fit_modes` returns, or why there is no such fit."""
    rewards, spreads, alphas = ([row[key] for row in metrics] for key in ("reward", "reward_std", "alpha"))
    modes = fit_modes(rewards, spreads, config["alpha"], config["sigma"], config["population"])
    if not isinstance(modes, str) and (len(set(alphas)) > 1 or config["alpha"] * config["anchor"]):
        return "the formulas are for a constant alpha without anchor"
    return modes


def noise_variance(update: dict[str, Any]) -> float:
    """Variance that a step gives to every parameter, sum over its different seeds of (sum of their coefficients)^2.

    For z-scored fitness of independent members it is alpha^2 / N.
    """
    of_seed: dict[int, float] = {}
    for seed, coefficient in zip(update["seeds"], update["coefficients"], strict=True):
        of_seed[seed] = of_seed.get(seed, 0.0) + coefficient
    return sum(coefficient**2 for coefficient in of_seed.values())


def failing_assumptions(shared_noise: bool, rank: int, precision: str) -> list[str]:
    """What keeps a run from being the isotropic walk with exact arithmetic that the theory is about."""
    fails = []
    if shared_noise:
        fails.append(
            "tensors share their noise, so that a step has far fewer independent directions than parameters: its "
            "length is right on average, but shares and cosines of single directions are not"
        )
    if rank:
        fails.append(f"the noise of matrices has rank {rank}: uncorrelated, but not isotropic")
    if precision != "fp32_master":
        fails.append(f"updates are rounded (precision {precision}): they lose part of their length and direction")
    return fails


def proportional_fit(x: Sequence[float], y: Sequence[float]) -> float | None:
    """R^2 = 1 - sum (y - b x)^2 / sum (y - mean y)^2 of the best straight line through 0; None if y is constant."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    spread = ((y - y.mean()) ** 2).sum()
    if spread == 0:
        return None
    return float(1 - ((y - (x @ y) / (x @ x) * x) ** 2).sum() / spread)


def useful_movement(
    rewards: Sequence[float],
    spreads: Sequence[float],
    alphas: Sequence[float],
    sigma: float,
    members: int,
    parameters: int,
) -> dict[str, Any]:
    """The share of a step's squared length that lies along the gradient, from how fast the reward rises.

    A linear reward with gradient v rises by |v| times the mean step, c alpha sigma |v| / sigma_R
    (`analysis.theory.random_walk.expected_step`, c of `zscore_shrinkage`). With s = sigma^2 |v|^2 / sigma_R^2 that is
    c alpha s sigma_R / sigma per step, and c sigma_R is the mean spread of the members: s is sigma times the slope of
    the reward over alpha times their spread. The slope is that of a least-squares line, its interval 1.96 standard
    errors; s is cut to [0, 1] before rho is taken from it. A reward that bends inside the window rises less than its
    gradient says, and s comes out too small.

    rewards, spreads: mean and standard deviation of the members' fitness, by step.
    """
    steps = np.arange(len(rewards), dtype=np.float64)
    centred = steps - steps.mean()
    slope = float(centred @ np.asarray(rewards) / (centred @ centred))
    residuals = np.asarray(rewards) - np.mean(rewards) - slope * centred
    error = NORMAL_95 * math.sqrt(float(residuals @ residuals) / (len(steps) - 2) / float(centred @ centred))
    # Reward gained in a step whose whole fitness spread comes from the gradient.
    whole = float(np.mean(np.multiply(alphas, spreads))) / sigma
    signal = {end: (slope + sign * error) / whole for end, sign in (("", 0), ("_low", -1), ("_high", 1))}
    within = {end: min(max(value, 0.0), 1.0) for end, value in signal.items()}
    return (
        {"slope": slope}
        | {f"signal_share{end}": value for end, value in signal.items()}
        | {
            f"share{end}": useful_share(members, parameters, value, sample_zscore=True)
            for end, value in within.items()
        }
        | {
            "random_share": 1 / parameters,
            "members_for_half": members_for_half_useful(parameters, within[""]) if within[""] > 0 else None,
        }
    )


def fit_modes(
    rewards: Sequence[float], spreads: Sequence[float], alpha: float, sigma: float, members: int
) -> dict[str, Any] | str:
    """The quadratic landscape, of m modes with one curvature lambda below a reward of 1, that explains a reward curve.

    Around its top the members' mean reward is R_t = 1 - lambda m (w_t + sigma^2) / 2, where the mean square w_t of a
    mode's displacement follows the Ornstein-Uhlenbeck recursion w_{t+1} = gamma_t^2 w_t + alpha^2 / N with gamma_t of
    `random_walk.mode_contraction`. The spread of the members that sets the pace, sigma_R, is taken from the run,
    step by step. For each lambda on a grid the curve is linear in m and m w_0; the least squares of all are taken.

    What the spread must be at the end is no part of the fit: without noise of the evaluation it is sigma_R of
    `random_walk.stationary_fitness_std`, and may be set beside what was measured. Real landscapes have many
    curvatures; m and lambda are those of the modes that limit the reward.

    spreads: standard deviation of the members' fitness by step, the members' own, as all spreads below; not 0
        throughout the first or the last third.
    Returns {"steps", "reward" (measured), "fitted", "final_reward": where the modes become stationary, "contraction":
    gamma in the last third, "curvature": lambda, "modes": m, "fitness_std": mean over the last third,
    "predicted_fitness_std": the self-consistent one, "frozen_fitness_std": mean over the first third, "frozen_reward":
    where the same landscape would settle had the spread stayed there}, or, in words, why there is no such fit.
    """
    third = max(len(rewards) // 3, 1)
    if fmean(rewards[-third:]) <= fmean(rewards[:third]):
        return "the reward did not rise"
    shrinkage = zscore_shrinkage(members)
    stds = [spread / shrinkage for spread in spreads]
    # Over the steps that moved: where all members tied there was no update.
    late, early = (fmean(std for std in part if std > 0) for part in (stds[-third:], stds[:third]))
    missing = 1 - np.asarray(rewards, dtype=np.float64)
    best = None
    smallest = min(std for std in stds if std > 0)
    for curvature in np.geomspace(1e-3, 1.9, 400) * smallest / (shrinkage * alpha * sigma):
        kept, gained = relaxation(alpha, sigma, float(curvature), stds, members, shrinkage)
        design = curvature / 2 * np.stack([kept, np.add(gained, sigma**2)], axis=1)
        solution, *_ = np.linalg.lstsq(design, missing, rcond=None)
        error = float(((design @ solution - missing) ** 2).sum())
        if min(solution) > 0 and (best is None or error < best[0]):
            best = (error, float(curvature), float(solution[1]), kept[-1], (1 - design @ solution).tolist())
    if best is None:
        return "no landscape with a positive number of modes gives this curve"
    _, curvature, modes, left, fitted = best
    if left > SETTLED:
        return "the reward had not settled by the end"
    predicted = stationary_fitness_std(alpha, sigma, [curvature] * max(round(modes), 1), members, 0.0, shrinkage)

    def settled(std: float) -> tuple[float, float]:
        contraction = mode_contraction(alpha, sigma, curvature, std, shrinkage)
        variance = mode_second_moment(alpha, contraction, members)
        return contraction, 1 - curvature / 2 * modes * (variance + sigma**2)

    contraction, final = settled(late)
    return {
        "steps": list(range(1, len(rewards) + 1)),
        "reward": list(rewards),
        "fitted": fitted,
        "final_reward": final,
        "contraction": contraction,
        "curvature": curvature,
        "modes": modes,
        "fitness_std": shrinkage * late,
        "predicted_fitness_std": shrinkage * predicted,
        "frozen_fitness_std": shrinkage * early,
        "frozen_reward": settled(early)[1],
    }


def relaxation(
    alpha: float, sigma: float, curvature: float, stds: Sequence[float], members: int, shrinkage: float
) -> tuple[list[float], list[float]]:
    """(kept, gained) such that a mode's mean square displacement before each step is kept_t w_0 + gained_t.

    A step in which all members tied, std 0, leaves the mode where it is.
    """
    kept, gained = [1.0], [0.0]
    for std in stds[:-1]:
        if std == 0:
            kept.append(kept[-1])
            gained.append(gained[-1])
            continue
        square = mode_contraction(alpha, sigma, curvature, std, shrinkage) ** 2
        kept.append(square * kept[-1])
        gained.append(square * gained[-1] + alpha**2 / members)
    return kept, gained


def _logs(run: Path) -> tuple[dict[str, Any], list[dict], list[dict], dict[str, Any]]:
    """Configuration, metrics, seed log and results of a finished run."""
    run = Path(run)
    missing = [name for name in LOGS if not (run / name).is_file()]
    if missing:
        raise UserError(
            f"{run} lacks {missing[0]}, so it is no finished run of evolution strategies; give the folder that "
            "recipes/es.py wrote, or es/ in the folder of a comparison"
        )
    config, results = read_yaml_mapping(run / "config.yaml"), read_json(run / "results.json")
    metrics, updates = read_jsonl(run / "metrics.jsonl"), read_jsonl(run / "seeds.jsonl")
    algorithm, rest = config.get("algorithm", "es"), config.get("rest", "dense")
    if algorithm != "es" or rest != "dense":
        what = f"algorithm {algorithm}" if algorithm != "es" else "noise for some of the parameters only"
        raise UserError(f"{run} is a run with {what}; the theory is for evolution strategies on all weights")
    if not metrics or len(metrics) != len(updates):
        raise UserError(
            f"{run}: metrics.jsonl and seeds.jsonl hold {len(metrics)} and {len(updates)} steps; finish it"
        )
    return config, metrics, updates, results
