"""The words must follow the numbers: each function on inputs that call for opposite words."""

import pytest

from analysis.report import sentences
from analysis.report.studies.comparison import accuracy, directions, drift, learning, lines, update_size


def row(accuracy: float, half: float = 0.04) -> dict:
    return {"accuracy": accuracy, "low": accuracy - half, "high": accuracy + half}


def line(rewards: list, losses: list, half: float = 0.03) -> dict:
    """Equally spaced points with intervals of half width `half` for the reward and 0.01 for the loss."""
    last = len(rewards) - 1
    ts = [i / last for i in range(last + 1)]
    even_reward = [(1 - t) * rewards[0] + t * rewards[-1] for t in ts]
    even_loss = [(1 - t) * losses[0] + t * losses[-1] for t in ts]
    return {
        "ts": ts,
        "reward": rewards,
        "reward_low": [value - half for value in rewards],
        "reward_high": [value + half for value in rewards],
        "reward_barrier": max(even - value for even, value in zip(even_reward, rewards, strict=True)),
        "loss": losses,
        "loss_low": [value - 0.01 for value in losses],
        "loss_high": [value + 0.01 for value in losses],
        "loss_barrier": max(value - even for even, value in zip(even_loss, losses, strict=True)),
    }


FLAT = line([0.5, 0.51, 0.52], [0.4, 0.4, 0.4])
# Uphill all the way, only late: below the even line without falling below the lower end.
LATE = line([0.2, 0.25, 0.8], [0.4, 0.4, 0.4])
DIP = line([0.5, 0.2, 0.6], [0.4, 0.9, 0.4])


def test_join():
    assert [sentences.join(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]


def test_accuracy_change_says_lift_only_when_intervals_are_apart():
    base = row(0.27)
    assert (
        accuracy.accuracy_change("Countdown", base, {"ES": row(0.55), "GRPO": row(0.61)})
        == "ES and GRPO both lift Countdown from 27 % to 55 % and 61 %"
    )
    assert (
        accuracy.accuracy_change("Countdown", base, {"ES": row(0.55), "GRPO": row(0.30)})
        == "ES lifts Countdown from 27 % to 55 %, while GRPO does not clearly change Countdown (27 % to 30 %, the "
        "intervals overlap)"
    )
    assert (
        accuracy.accuracy_change("Countdown", base, {"ES": row(0.0), "GRPO": row(0.01)})
        == "ES and GRPO both lower Countdown from 27 % to 0 % and 1 %"
    )
    three = accuracy.accuracy_change("Countdown", base, dict.fromkeys(["A", "B", "C"], row(0.5)))
    assert three == "A, B and C all lift Countdown from 27 % to 50 %, 50 % and 50 %"


def test_touching_intervals_are_no_difference():
    assert accuracy.comparison({"low": 0.1, "high": 0.3}, {"low": 0.3, "high": 0.5}) == "unclear"
    assert accuracy.comparison({"low": 0.1, "high": 0.3}, {"low": 0.31, "high": 0.5}) == "higher"
    assert accuracy.comparison({"low": 0.4, "high": 0.5}, {"low": 0.1, "high": 0.39}) == "lower"


def test_off_task_change():
    base = {"Arithmetic": row(0.41), "Yes/no": row(0.58)}
    assert (
        accuracy.off_task_change("ES", base, {"Arithmetic": row(0.27), "Yes/no": row(0.70)})
        == "ES loses on Arithmetic (41 % to 27 %) and gains on Yes/no (58 % to 70 %)"
    )
    assert accuracy.off_task_change("GRPO", base, base) == "GRPO changes none of the other tasks clearly"


def test_rises_names_a_fall_from_the_peak():
    steady = {
        "completions": [0, 10, 20],
        "accuracy": [0.27, 0.5, 0.55],
        "low": [0.23, 0.46, 0.51],
        "high": [0.3, 0.54, 0.6],
    }
    fallen = {
        "completions": [0, 10, 40],
        "accuracy": [0.27, 0.6, 0.4],
        "low": [0.23, 0.56, 0.36],
        "high": [0.3, 0.64, 0.44],
    }
    assert learning.rises({"ES": steady}) == "ES goes from 27 % to 55 % in 20 completions"
    assert (
        learning.rises({"ES": steady, "GRPO": steady})
        == "ES goes from 27 % to 55 % and GRPO goes from 27 % to 55 % in 20 completions each"
    )
    assert learning.rises({"ES": steady, "GRPO": fallen}) == (
        "ES goes from 27 % to 55 % in 20 completions and GRPO goes from 27 % to 40 % in 40 completions; "
        "GRPO had reached 60 % at 10 and fell back"
    )
    unknown = fallen | {"accuracy": [None, None, None]}
    assert learning.rises({"ES": unknown}) == "ES goes from n/a to n/a in 40 completions"


def test_budget_admits_a_mismatch():
    assert learning.budget({"ES": 61440, "GRPO": 61440}) == "at the same budget of 61,440 completions"
    assert learning.budget({"ES": 61440, "GRPO": 60000}) == (
        "at nearly the same budget (ES 61,440 and GRPO 60,000 completions)"
    )
    assert learning.budget({"ES": 600000, "GRPO": 32000}) == (
        "at different budgets (ES 600,000 and GRPO 32,000 completions)"
    )
    assert learning.budget({"ES": 0, "GRPO": 5}) == "at different budgets (ES 0 and GRPO 5 completions)"
    assert learning.budget({"ES": 7}) == "with 7 completions"


def test_distance():
    assert update_size.distance({"ES": 4.1, "GRPO": 0.45}) == "ES moved the weights 9.1 times as far as GRPO"
    assert update_size.distance({"ES": 0.45, "GRPO": 4.1}) == "GRPO moved the weights 9.1 times as far as ES"
    assert (
        update_size.distance({"ES": 4.1, "GRPO": 4.0})
        == "ES and GRPO moved the weights about equally far (by 4.10 and 4.00)"
    )
    assert update_size.distance({"ES": 4.1, "GRPO": 0.0}) == "ES moved the weights by 4.10 and GRPO not at all"
    assert update_size.distance({"ES": 0.0, "GRPO": 0.0}) == "ES and GRPO did not move the weights"
    assert update_size.distance({"ES": 4.1}) == "ES moved the weights by 4.10"


@pytest.mark.parametrize(
    ("cosine", "null_std", "words"),
    [
        (0.003, 0.0016, "are no more aligned than two random directions (cosine 0.0030)"),
        (-0.003, 0.0016, "are no more aligned than two random directions (cosine -0.0030)"),
        (0.013, 0.0016, "are nearly orthogonal (cosine 0.013)"),
        (0.003, None, "are nearly orthogonal (cosine 0.003)"),
        (0.3, 0.0016, "are weakly aligned (cosine 0.300)"),
        (-0.3, 0.0016, "are weakly opposed (cosine -0.300)"),
        (0.7, 0.0016, "are partly aligned (cosine 0.700)"),
        (-0.7, 0.0016, "are partly opposed (cosine -0.700)"),
        (0.95, 0.0016, "point almost the same way (cosine 0.950)"),
        (-0.95, 0.0016, "point almost opposite ways (cosine -0.950)"),
    ],
)
def test_orientation(cosine, null_std, words):
    assert directions.orientation(cosine, null_std) == f"the two updates {words}"


def test_orientation_of_an_update_that_is_zero():
    assert directions.orientation(None, None) == "the cosine between the two updates is undefined"


def test_random_walk():
    assert (
        update_size.random_walk("ES", 7.3, 7.2)
        == "ES's length of 7.30 is what a random walk of the same steps predicts (7.20)"
    )
    assert (
        update_size.random_walk("ES", 14.4, 7.2)
        == "ES's length of 14.4 is 2.0 times what a random walk of the same steps "
        "predicts (7.20)"
    )
    assert "0.50 times" in update_size.random_walk("ES", 3.6, 7.2)


def test_largest_change_and_cosine_range_name_the_matrix():
    cells = {"0": {"q_proj": 0.1, "k_proj": 0.02}, "-": {"embed_tokens": None, "norm": 0.0}}
    assert update_size.largest_change("ES", cells) == (
        "ES changes q_proj of layer 0 most (by 10.0 % of its length), 5.0 times as much as what it changes least"
    )
    assert "norm outside the layers most (by 30.0 %" in update_size.largest_change("ES", cells | {"-": {"norm": 0.3}})
    assert update_size.largest_change("ES", {"0": {"q_proj": None}}) is None
    assert directions.cosine_range({"0": {"q_proj": -0.2, "k_proj": 0.5}, "-": {"norm": None}}) == (
        "matrix by matrix it runs from -0.200 (q_proj, layer 0) to 0.500 (k_proj, layer 0)"
    )
    assert directions.cosine_range({"0": {"q_proj": None}}) is None


def test_drift_claims_an_order_only_when_intervals_are_apart():
    far = {"per_token": 0.3, "per_token_low": 0.27, "per_token_high": 0.33}
    near = {"per_token": 0.1, "per_token_low": 0.08, "per_token_high": 0.12}
    vague = {"per_token": 0.25, "per_token_low": 0.1, "per_token_high": 0.4}
    start = "on Countdown the KL divergence in nats per token is "
    assert drift.drift("Countdown", {"ES": far, "GRPO": near}) == (
        start + "0.30 for ES and 0.10 for GRPO, clearly largest for ES"
    )
    assert drift.drift("Countdown", {"ES": near, "GRPO": far}).endswith("clearly largest for GRPO")
    assert drift.drift("Countdown", {"ES": far, "GRPO": vague}).endswith("intervals overlapping")
    unbounded = far | {"per_token_low": None}
    assert drift.drift("Countdown", {"ES": unbounded, "GRPO": near}) == start + "0.30 for ES and 0.10 for GRPO"


def test_reward_barrier():
    assert lines.reward_barrier(FLAT) == "none"
    assert lines.reward_barrier(DIP) == "clear"
    assert lines.reward_barrier(LATE) == "lag"
    # A gap of 10 points that intervals of 20 points do not separate from the even line.
    assert lines.reward_barrier(line([0.5, 0.4, 0.5], [0.4] * 3, half=0.2)) == "unresolved"
    # No gap at all, but so few examples that one of 10 points is not excluded.
    assert lines.reward_barrier(line([0.5, 0.5, 0.5], [0.4] * 3, half=0.2)) == "unresolved"
    assert lines.reward_barrier(DIP | {"reward_barrier": None}) == "unknown"


def test_loss_barrier():
    assert lines.loss_barrier(FLAT) == "none"
    assert lines.loss_barrier(DIP) == "clear"
    assert lines.loss_barrier(line([0.5] * 3, [0.9, 0.85, 0.4])) == "lag"
    # The limit is a tenth of what the references cost on the even line, met exactly by the first.
    assert lines.loss_barrier(line([0.5] * 3, [0.4, 0.44, 0.4])) == "none"
    assert lines.loss_barrier(line([0.5] * 3, [0.04, 0.0445, 0.04]) | {"loss_low": [0.0, 0.042, 0.0]}) == "clear"
    assert lines.loss_barrier(line([0.5] * 3, [0.4, 0.45, 0.4]) | {"loss_low": [0.3] * 3}) == "unresolved"
    assert lines.loss_barrier(line([0.5] * 3, [0.4, 0.1, 0.4])) == "none"
    without_references = FLAT | dict.fromkeys(["loss", "loss_low", "loss_high"], [None] * 3) | {"loss_barrier": None}
    assert lines.loss_barrier(without_references) == "unknown"


def test_barrier_between():
    assert lines.barrier_between(FLAT) == (
        "no reward barrier lies on the straight line between them (largest gap 0.0 points)"
    )
    assert lines.barrier_between(DIP) == "a reward barrier of 35.0 points lies on the straight line between them"
    assert lines.barrier_between(LATE) == (
        "on the straight line between them the reward lags by up to 25.0 points, without falling below its lower end"
    )
    hill = line([0.5, 0.51, 0.52], [0.4, 0.9, 0.4])
    assert lines.barrier_between(hill) == (
        "no reward barrier (0.0 points) but a loss barrier of 0.50 nats per token lies between them"
    )
    vague = line([0.5, 0.4, 0.5], [0.4] * 3, half=0.2)
    assert lines.barrier_between(vague) == (
        "a reward barrier between them is neither shown nor excluded (largest gap 10.0 points)"
    )
    assert "not known" in lines.barrier_between(FLAT | {"reward_barrier": None})


def test_barriers():
    flat = lines.barriers({"base\N{EN DASH}ES": FLAT})
    assert flat.startswith("No line shows a barrier;")
    both = lines.barriers({"base\N{EN DASH}ES": FLAT, "ES\N{EN DASH}GRPO": DIP})
    assert both.startswith("A barrier stands on ES\N{EN DASH}GRPO;")
    assert (
        "base\N{EN DASH}ES 0.0 points and 0 (no barrier), ES\N{EN DASH}GRPO 35.0 points and 0.50 (a barrier)" in both
    )
    late = lines.barriers({"base\N{EN DASH}ES": LATE})
    assert late.startswith("No barrier is established;")
    assert late.endswith("base\N{EN DASH}ES 25.0 points and 0 (reward: a lag, loss: no barrier).")
    vague = lines.barriers({"ES\N{EN DASH}GRPO": line([0.5, 0.4, 0.5], [0.4] * 3, half=0.2)})
    assert vague.startswith("No barrier is established;")


def test_gain_verdict():
    base = row(0.27)
    assert accuracy.gain_verdict("Countdown", base, {"ES": row(0.55), "GRPO": row(0.58)}) == "Similar accuracy"
    assert (
        accuracy.gain_verdict("Countdown", base, {"ES": row(0.45), "GRPO": row(0.60)})
        == "Both lift Countdown, GRPO furthest"
    )
    # Seven points apart with overlapping intervals: neither the same nor different.
    assert accuracy.gain_verdict("Countdown", base, {"ES": row(0.55), "GRPO": row(0.62)}) == "Both lift Countdown"
    assert (
        accuracy.gain_verdict("Countdown", base, {"ES": row(0.55), "GRPO": row(0.28)})
        == "ES lifts Countdown, GRPO does not"
    )
    assert (
        accuracy.gain_verdict("Countdown", base, {"ES": row(0.1), "GRPO": row(0.28)}) == "No clear gain on Countdown"
    )
    assert accuracy.gain_verdict("Countdown", base, {"ES": row(0.55)}) == "ES lifts Countdown"


def counted(correct: int, total: int) -> dict:
    return {"accuracy": correct / total, "correct": correct, "total": total}


def test_a_difference_that_meets_its_limit_exactly_meets_it():
    """0.15 - 0.1 is below 0.05 in floats and 0.3 - 0.25 too, but 0.35 - 0.3 and 1 - 0.95 are not."""
    for low in range(96):
        assert accuracy.similar(counted(low, 100), counted(low + 5, 100))
        assert accuracy.similar(counted(low + 5, 100), counted(low, 100))
        assert low > 94 or not accuracy.similar(counted(low, 100), counted(low + 6, 100))
    assert accuracy.similar(counted(6, 60), counted(25, 500)) and not accuracy.similar(
        counted(6, 60), counted(24, 500)
    )
    # Partial values, and a file without counts: the accuracies themselves.
    partial = {"accuracy": 0.5, "correct": 40, "total": 100}
    assert accuracy.similar(partial, counted(52, 100)) and not accuracy.similar(partial, counted(40, 100))
    assert accuracy.similar({"accuracy": 0.5}, {"accuracy": 0.54})
    assert lines.reward_barrier(line([1.0, 0.95, 1.0], [0.4] * 3)) == "none"
    assert lines.reward_barrier(line([1.0, 0.94, 1.0], [0.4] * 3)) == "clear"


def test_weights_verdict():
    assert directions.weights_verdict([7.3, 0.4], 0.01) == "different weights"
    assert directions.weights_verdict([7.3, 0.4], 0.99) == "different weights"
    assert directions.weights_verdict([7.3, 7.2], 0.97) == "nearly the same weights"
    assert directions.weights_verdict([7.3, 7.2], 0.7) == "partly the same weights"
    assert directions.weights_verdict([7.3, 7.2], -0.97) == "different weights"
    assert directions.weights_verdict([7.3, 0.0], None) is None


def test_barrier_verdict():
    assert lines.barrier_verdict(FLAT) == "no barrier between them"
    assert lines.barrier_verdict(LATE) is None
    assert lines.barrier_verdict(DIP) == "a barrier between them"
    assert lines.barrier_verdict(line([0.5, 0.51, 0.52], [0.4, 0.9, 0.4])) == "a barrier between them"
    assert lines.barrier_verdict(line([0.5, 0.5, 0.5], [0.4] * 3, half=0.2)) is None
    assert lines.barrier_verdict(FLAT | {"loss_barrier": None}) is None
