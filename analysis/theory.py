"""What theory predicts for the movement of the weights, to stand beside what was measured."""

import math


def random_walk_norm(alpha: float, steps: int, members: int, parameters: int) -> float:
    """Expected ||theta_T - theta_0|| of evolution strategies on a flat reward: alpha * sqrt(T * d / N).

    One step adds (alpha / N) * sum_i z_i eps_i. With noise eps that is independent and standard normal for every
    member and every scalar parameter, and z independent of it, the sum is normal with variance sum_i z_i^2 for each
    parameter; z-scoring with the population standard deviation makes that N exactly. A step's squared length is
    therefore alpha^2 * d / N up to a relative spread of sqrt(2 / d), and independent steps add up in squares
    ("Matching Accuracy, Different Geometry", arXiv 2604.01499, section on theory).

    It is no prediction for noise that parameters share, for fitness that is not z-scored, or for rounded updates. A
    step in which all members tie moves nothing: give the number of effective steps.

    alpha: learning rate of the update above, without a factor 1 / sigma.
    steps: number of updates T that moved the weights.
    members: population size N.
    parameters: number of perturbed scalar parameters d.
    """
    return alpha * math.sqrt(steps * parameters / members)
