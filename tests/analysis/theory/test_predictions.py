"""Theory beside a run: exact where it is arithmetic, within its error where a simulated search has a known answer."""

import json
import math

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from analysis.theory.predictions import (
    fit_modes,
    noise_variance,
    predict,
    proportional_fit,
    relaxation,
    useful_movement,
)
from analysis.theory.random_walk import (
    decayed_walk_norm,
    effective_dimension,
    random_walk_norm,
    signal_share,
    walk_norms,
)
from eval.errors import UserError


MEMBERS, ALPHA, SIGMA, STEPS = 8, 0.01, 0.02, 16
SHAPES = {"a.weight": (6, 4), "b.weight": (6, 4), "c.weight": (5,)}
PARAMETERS = 53


def search(gradient, curvature, noise, members, alpha, sigma, steps, start, seed):
    """Evolution strategies in numpy on v x - sum lambda x^2 / 2 + noise: mean and spread of the members by step."""
    rng = np.random.default_rng(seed)
    x, rewards, spreads = np.array(start, dtype=np.float64), [], []
    for _ in range(steps):
        eps = rng.standard_normal((members, len(x)))
        moved = x + sigma * eps
        fitness = moved @ gradient - (curvature * moved**2).sum(1) / 2 + noise * rng.standard_normal(members)
        rewards.append(fitness.mean())
        spreads.append(fitness.std())
        x = x + alpha / members * ((fitness - fitness.mean()) / fitness.std()) @ eps
    return rewards, spreads


def write_run(folder, **changed):
    """A finished run folder whose fitness rises evenly and whose coefficients are z-scores."""
    config = {
        "population": MEMBERS,
        "alpha": ALPHA,
        "sigma": SIGMA,
        "anchor": 0.0,
        "antithetic": False,
        "shared_noise": False,
        "fitness_shaping": "zscore",
    } | changed
    rng, alpha = np.random.default_rng(3), config["alpha"]
    (folder / "model").mkdir(parents=True)
    save_file({name: torch.zeros(shape) for name, shape in SHAPES.items()}, folder / "model" / "model.safetensors")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "results.json").write_text(json.dumps({"parameters": PARAMETERS}))
    metrics, seeds = [], []
    for step in range(1, STEPS + 1):
        z = rng.standard_normal(MEMBERS)
        z = (z - z.mean()) / z.std()
        seeds.append(
            {
                "step": step,
                "seeds": list(range(MEMBERS)),
                "device": "cpu",
                "decay": alpha * config["anchor"],
                "coefficients": (config["alpha"] / MEMBERS * z).tolist(),
            }
        )
        metrics.append(
            {
                "step": step,
                "alpha": config["alpha"],
                "reward": 0.2 + 0.01 * step,
                "reward_std": 0.05,
                "distance_from_base": random_walk_norm(alpha, step, MEMBERS, PARAMETERS),
            }
        )
    for name, rows in (("metrics", metrics), ("seeds", seeds)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_walk_norms_are_the_closed_forms():
    variance = ALPHA**2 / MEMBERS
    walk = walk_norms([variance] * 20, [0.0] * 20, 100)
    assert walk == pytest.approx([random_walk_norm(ALPHA, t, MEMBERS, 100) for t in range(1, 21)], rel=1e-12)
    decayed = walk_norms([variance] * 20, [0.1] * 20, 100)
    assert decayed == pytest.approx([decayed_walk_norm(ALPHA, 0.1, t, MEMBERS, 100) for t in range(1, 21)], rel=1e-12)
    assert walk_norms([1.0, 0.0], [0.0, 0.0], 4) == [2.0, 2.0], "a step in which all members tie adds nothing"


def test_the_variance_of_a_step_adds_up_coefficients_of_one_seed():
    assert noise_variance({"seeds": [1, 2, 3], "coefficients": [1.0, -2.0, 3.0]}) == 14.0
    assert noise_variance({"seeds": [1, 1, 2], "coefficients": [1.0, 2.0, 3.0]}) == 18.0  # a pair, theta +- sigma eps


def test_the_fit_through_the_origin():
    assert proportional_fit([1, 2, 3], [2.0, 4.0, 6.0]) == 1.0
    assert proportional_fit([1, 2], [1.0, 1.0]) is None
    # b = (1 * 1 + 2 * 1 + 3 * 4) / 14 = 15 / 14; mean of y is 2
    residual = sum((y - 15 / 14 * x) ** 2 for x, y in ((1, 1), (2, 1), (3, 4)))
    assert proportional_fit([1, 2, 3], [1.0, 1.0, 4.0]) == pytest.approx(1 - residual / 6)


def test_a_run_that_is_a_random_walk(tmp_path):
    found = predict(write_run(tmp_path / "run"))
    assert found["walk"]["steps"] == list(range(1, STEPS + 1))
    assert found["walk"]["predicted"] == pytest.approx(found["walk"]["measured"], rel=1e-9)
    assert found["walk"]["ratio"] == pytest.approx(1, rel=1e-9)
    assert found["walk"]["r_squared"] == pytest.approx(1, abs=1e-12)
    assert found["walk"]["plateau"] is None and found["fails"] == []
    assert found["isotropy"]["effective_dimension"] == PARAMETERS
    assert found["isotropy"]["cosine_std"] == pytest.approx(PARAMETERS**-0.5)
    assert found["setting"]["updates"] == STEPS
    assert set(found["useful"]) == {"first", "second"}
    assert (found["useful"]["first"]["from_step"], found["useful"]["second"]["to_step"]) == (1, STEPS)
    assert found["useful"]["first"]["slope"] == pytest.approx(0.01)
    assert found["modes"] is None and found["missing"]["modes"] == "the reward had not settled by the end"


def test_shared_noise_and_rounding_are_named_and_the_dimension_falls(tmp_path):
    found = predict(write_run(tmp_path / "run", shared_noise=True, precision="released"))
    dimension = effective_dimension(SHAPES.values(), True, across_sizes=True)
    assert found["isotropy"]["effective_dimension"] == dimension < PARAMETERS / 2
    assert found["isotropy"]["isotropic_cosine_std"] == pytest.approx(PARAMETERS**-0.5)
    assert "tensors share their noise" in found["fails"][0] and "rounded (precision released)" in found["fails"][1]


def test_anchored_decay_has_a_plateau(tmp_path):
    found = predict(write_run(tmp_path / "run", anchor=20.0))
    assert found["walk"]["plateau"] == pytest.approx(decayed_walk_norm(ALPHA, 0.2, math.inf, MEMBERS, PARAMETERS))
    assert found["walk"]["predicted"][-1] == pytest.approx(found["walk"]["plateau"], rel=2e-2)
    assert found["walk"]["ratio"] > 1.5, "the measured walk had no decay"


def test_what_the_formulas_are_not_for_is_left_out_with_a_reason(tmp_path):
    found = predict(write_run(tmp_path / "run", fitness_shaping="centered_rank"))
    assert found["useful"] is None and found["modes"] is None
    assert "z-scored fitness" in found["missing"]["useful"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"algorithm": "snes"}, "a run with algorithm snes"),
        ({"rest": "frozen"}, "noise for some of the parameters only"),
    ],
)
def test_other_searches_are_refused(tmp_path, changed, message):
    with pytest.raises(UserError, match=message):
        predict(write_run(tmp_path / "run", **changed))


def test_a_folder_that_is_no_finished_run_is_refused(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "seeds.jsonl").unlink()
    with pytest.raises(UserError, match="lacks seeds.jsonl, so it is no finished run of evolution strategies"):
        predict(run)


def test_the_signal_share_of_a_linear_reward_is_found():
    dimension, noise, members = 50, 0.1, 32
    gradient = np.zeros(dimension)
    gradient[0] = 4.0
    truth = signal_share(SIGMA, 4.0, noise)  # 0.39
    estimates = []
    for seed in range(20):
        rewards, spreads = search(gradient, 0.0, noise, members, ALPHA, SIGMA, 60, np.zeros(dimension), seed)
        found = useful_movement(rewards, spreads, [ALPHA] * 60, SIGMA, members, dimension)
        assert found["signal_share_low"] < found["signal_share"] < found["signal_share_high"]
        assert found["random_share"] < found["share_low"] < found["share"] < found["share_high"] < 0.5
        estimates.append(found["signal_share"])
    error = 3 * np.std(estimates) / math.sqrt(len(estimates))
    assert error < 0.03 and np.mean(estimates) == pytest.approx(truth, abs=error)


def test_the_modes_of_a_quadratic_are_found_and_the_spread_is_predicted():
    modes, flat, curvature = 40, 60, 30.0
    curvatures = np.concatenate([np.full(modes, curvature), np.zeros(flat)])
    start = np.concatenate([np.full(modes, 0.04), np.zeros(flat)])
    found = []
    for seed in range(6):
        rewards, spreads = search(np.zeros(100), curvatures, 0.0, 32, 0.02, 0.01, 80, start, seed)
        # The reward of the theory reaches 1 at its top.
        found.append(fit_modes([1 + reward for reward in rewards], spreads, 0.02, 0.01, 32))
    assert all(isinstance(one, dict) for one in found), found
    assert np.mean([one["curvature"] for one in found]) == pytest.approx(curvature, rel=0.1)
    assert np.mean([one["modes"] for one in found]) == pytest.approx(modes, rel=0.2)
    predicted, measured = (np.mean([one[key] for one in found]) for key in ("predicted_fitness_std", "fitness_std"))
    assert predicted == pytest.approx(measured, rel=0.15)
    assert len(found[0]["fitted"]) == len(found[0]["reward"]) == 80


@pytest.mark.parametrize(
    ("curve", "reason"),
    [
        (lambda t: 0.5 - 0.01 * t, "did not rise"),
        (lambda t: 0.2 + 0.01 * t, "not settled"),
        (lambda t: 1.2 - 0.7**t, "no landscape with a positive number of modes"),
    ],
)
def test_curves_that_no_quadratic_explains(curve, reason):
    rewards = [curve(t) for t in range(30)]
    assert reason in fit_modes(rewards, [0.05] * 30, ALPHA, SIGMA, MEMBERS)


def test_a_step_in_which_all_members_tie_moves_no_mode():
    kept, gained = relaxation(ALPHA, SIGMA, 30.0, [0.05, 0.0, 0.04, 0.05], MEMBERS, 0.9)
    assert kept[1] == kept[2] and gained[1] == gained[2]
    without = relaxation(ALPHA, SIGMA, 30.0, [0.05, 0.04, 0.05], MEMBERS, 0.9)
    assert (kept[:2] + kept[3:], gained[:2] + gained[3:]) == without
    rewards = [0.3, 0.3, *(1 - 0.7 * 0.8**t for t in range(28))]
    assert fit_modes(rewards, [0.0, 0.0, *[0.05] * 28], ALPHA, SIGMA, MEMBERS) is not None


def test_a_run_whose_members_tie_for_a_third_of_it_says_so(tmp_path):
    run = write_run(tmp_path / "run")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    tied = [row | ({"reward_std": 0.0} if row["step"] <= STEPS // 3 else {}) for row in rows]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tied))
    found = predict(run)
    assert found["useful"] is found["modes"] is None
    assert "same fitness in every step of a third" in found["missing"]["useful"]


def test_the_rank_counts_for_low_rank_noise_alone(tmp_path):
    # The trainer writes every option, with its default where it was not asked for.
    assert predict(write_run(tmp_path / "full", noise="full", rank=1))["fails"] == []
    [reason] = predict(write_run(tmp_path / "low", noise="low_rank", rank=2))["fails"]
    assert reason.startswith("the noise of matrices has rank 2")
