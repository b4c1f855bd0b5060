"""What theory predicts for the movement of the weights, to stand beside what was measured.

Everywhere theta <- theta + (alpha / N) sum_i z_i eps_i with N members, standard normal eps_i and standardised fitness
z_i. The formulas for useful share and modes are those of "Matching Accuracy, Different Geometry" (arXiv 2604.01499)
and of the notes in its companion repository EvolStrategyTheory. They assume noise that is independent for every scalar
parameter: `effective_dimension` says how far from that shared noise is.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence


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


def signal_share(sigma: float, gradient_norm: float, fitness_noise: float) -> float:
    """Share of the fitness variance that a linear reward explains: s = (sigma |v|)^2 / ((sigma |v|)^2 + xi^2).

    A member's fitness is v . (theta + sigma eps) + xi n with eps and n standard normal, so that sigma |v| is the
    standard deviation of what its perturbation does and xi that of everything else: prompts, sampling, curvature.

    sigma: standard deviation of the perturbation of each parameter.
    gradient_norm: |v|, Euclidean norm of the reward's gradient, in reward per unit of the weights.
    fitness_noise: xi, in reward.
    """
    signal = (sigma * gradient_norm) ** 2
    return signal / (signal + fitness_noise**2)


def useful_share(members: int, parameters: int, signal: float, sample_zscore: bool = False) -> float:
    """Share of a step's expected squared length that lies along the gradient of a linear reward.

        rho = (1 + (N + 1) s) / (d + (N + 1) s)

    The step is (alpha / N) sum_i z_i eps_i. Where z_i = (f_i - E f) / sigma_R, the component of eps_i along the
    gradient is g_i = sqrt(s) z_i + sqrt(1 - s) h_i with h_i independent of z_i, so that (sum z g)^2 is expected to be
    N (1 + (N + 1) s); each of the d - 1 other directions gets N. Without signal it is 1 / d, as in any direction.

    sample_zscore: the members' own mean and standard deviation stand for E f and sigma_R, as the trainers have it.
        Then sum z^2 = N always, which takes fluctuations away, and N + 1 becomes N - 2.

    members: N. parameters: d, of independent noise (see `effective_dimension`). signal: s, of `signal_share`.
    """
    gain = (members - 2 if sample_zscore else members + 1) * signal
    return (1 + gain) / (parameters + gain)


def members_for_half_useful(parameters: int, signal: float) -> float:
    """Population size N* = (d - 2) / s - 1, about d / s, at which `useful_share` is one half."""
    return (parameters - 2) / signal - 1


def expected_step(alpha: float, sigma: float, gradient_norm: float, fitness_std: float) -> float:
    """Length of the mean step, |E[theta' - theta]| = alpha sigma |v| / sigma_R, along the gradient v.

    Holds for rewards up to second order. It cannot exceed alpha, which is reached where the perturbation explains the
    fitness alone. Multiply by `zscore_shrinkage(N)` where the members' own standard deviation stands for sigma_R.

    fitness_std: sigma_R, standard deviation of the fitness over members.
    """
    return alpha * sigma * gradient_norm / fitness_std


def zscore_shrinkage(members: int) -> float:
    """Mean population standard deviation of N standard normal numbers, about 1 - 3 / (4 N).

    sqrt(2 / N) Gamma(N / 2) / Gamma((N - 1) / 2), for N of at least 2.
    """
    return math.sqrt(2 / members) * math.exp(math.lgamma(members / 2) - math.lgamma((members - 1) / 2))


def mode_contraction(
    alpha: float, sigma: float, curvature: float, fitness_std: float, shrinkage: float = 1.0
) -> float:
    """gamma = 1 - alpha sigma lambda / sigma_R, by which a step shrinks the displacement x along one eigenvector.

    For the reward -1/2 sum_k lambda_k x_k^2, whose gradient is -lambda_k x_k, evolution strategies are an
    Ornstein-Uhlenbeck process in every eigenvector: x_{t+1} = gamma_k x_t + N(0, alpha^2 / N).

    curvature: lambda >= 0, in reward per square of the weights' unit. fitness_std: sigma_R.
    shrinkage: `zscore_shrinkage(N)` where the members' own standard deviation stands for sigma_R.
    """
    return 1 - shrinkage * alpha * sigma * curvature / fitness_std


def mode_second_moment(
    alpha: float, contraction: float, members: int, steps: float = math.inf, start: float = 0.0
) -> float:
    """E[x_T^2] of one eigenvector's displacement: gamma^{2T} x_0^2 + (alpha^2 / N) (1 - gamma^{2T}) / (1 - gamma^2).

    steps: T; infinite gives the stationary variance (alpha^2 / N) / (1 - gamma^2). A flat direction (gamma = 1) is a
        free random walk: x_0^2 + T alpha^2 / N.
    contraction: gamma, of `mode_contraction`. Raises ValueError unless -1 < gamma <= 1: beyond, the mode grows.
    """
    if not -1 < contraction <= 1:
        raise ValueError(f"a mode with contraction {contraction} does not settle; alpha is too large")
    diffusion = alpha**2 / members
    if contraction == 1:
        return start**2 + steps * diffusion
    left = contraction ** (2 * steps)
    return left * start**2 + diffusion * (1 - left) / (1 - contraction**2)


def stationary_fitness_std(
    alpha: float,
    sigma: float,
    curvatures: Sequence[float],
    members: int,
    fitness_noise: float,
    shrinkage: float = 1.0,
) -> float:
    """sigma_R of a quadratic reward once all its modes are stationary, where it decides their spread itself:

        sigma_R^2 = sigma^2 sum_k lambda_k^2 V_k(sigma_R) + sigma^4 / 2 sum_k lambda_k^2 + xi^2

    with V_k of `mode_second_moment`. The three terms are what the slope, the curvature and the noise of the evaluation
    put into the fitness. With p_k = c alpha sigma lambda_k, where c is `shrinkage`, inserting V_k makes the first
    sigma_R^2 sum_k p_k / (c^2 N (2 sigma_R - p_k)). Divided by sigma_R^2 the right-hand side falls as sigma_R grows,
    so that exactly one fixed point exists above the largest p_k / 2, below which a mode would grow. It is found by
    bisection.

    curvatures: lambda_k >= 0 of all modes. fitness_noise: xi, in reward. shrinkage: as in `mode_contraction`.
    Raises ValueError if a curvature is negative, or if nothing makes the fitness of members differ.
    """
    if min(curvatures) < 0:
        raise ValueError("a direction of negative curvature has no stationary state")
    pulls = [shrinkage * alpha * sigma * curvature for curvature in curvatures]
    constant = sigma**4 / 2 * sum(curvature**2 for curvature in curvatures) + fitness_noise**2
    if constant == 0:
        raise ValueError("all members have the same fitness: neither curvature nor noise is given")

    def excess(std: float) -> float:
        return sum(pull / (2 * std - pull) for pull in pulls) / (shrinkage**2 * members) + constant / std**2 - 1

    low = max(pulls) / 2
    high = low + math.sqrt(constant)
    while excess(high) > 0:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return high


def decayed_walk_norm(
    alpha: float, decay: float, steps: float, members: int, parameters: int, decay_first: bool = False
) -> float:
    """Expected ||theta_T - theta_0|| of evolution strategies on a flat reward with decay towards theta_0.

    Each step adds noise of variance alpha^2 / N to every parameter and keeps the share gamma = 1 - decay of the
    distance to theta_0. Per parameter, with the decay taken from the new weights as the trainer does,

        V_T = gamma^2 (alpha^2 / N) (1 - gamma^{2T}) / (1 - gamma^2)

    and the norm is sqrt(d V_T); without decay it is `random_walk_norm`. It levels off after some 1 / (2 decay) steps.

    decay: alpha lambda, the share of the distance taken back in each step, in [0, 1].
    steps: T; infinite gives the plateau.
    decay_first: the decay comes before the noise is added, x' = gamma x + noise: the plateau is then the often-quoted
        alpha^2 / (N (1 - (1 - alpha lambda)^2)) per parameter, larger by 1 / gamma^2.
    """
    kept = 1 - decay
    variance = mode_second_moment(alpha, kept, members, steps)
    return math.sqrt(parameters * variance) * (1 if decay_first else kept)


def walk_norms(variances: Sequence[float], decays: Sequence[float], parameters: int) -> list[float]:
    """Expected ||theta_t - theta_0|| after each step of a walk whose steps may differ: alpha schedules, ties, pairs.

    The recursion V_t = (1 - decay_t)^2 (V_{t-1} + v_t), with norms sqrt(d V_t). With v_t = alpha^2 / N throughout it
    is `decayed_walk_norm`, and without decay `random_walk_norm`.

    variances: v_t, what step t adds to the variance of every parameter. decays: share of the distance that step t then
    takes back. parameters: d.
    """
    variance, norms = 0.0, []
    for added, decay in zip(variances, decays, strict=True):
        variance = (1 - decay) ** 2 * (variance + added)
        norms.append(math.sqrt(parameters * variance))
    return norms


def effective_dimension(shapes: Iterable[Sequence[int]], shared_noise: bool, across_sizes: bool = False) -> float:
    """Participation ratio (tr C)^2 / tr(C^2) of the covariance C of one perturbation of all parameters.

    Independent noise gives d, the number of parameters. A generator restarted for every tensor (`shared_noise`, as the
    code released with arXiv 2604.01499 and 2509.24372 does) gives tensors of equal size the same numbers: c tensors of
    n scalars then are n directions of variance c, and C has far fewer dimensions than parameters.

    What isotropic theory says of a perturbation's expected squared length still holds, for tr C = d:
    `random_walk_norm` is right on average. What it says of directions does not: the share of one direction in a step
    is between 0 and max(c) / d in place of 1 / d, and the cosine of two independent perturbations has standard
    deviation 1 / sqrt(D) with the D returned here, not 1 / sqrt(d).

    shapes: one per tensor, as the engine holds them: fused matrices (q, k, v in one) count as one tensor.
    across_sizes: a tensor also shares its numbers with the beginning of every larger one, because they read the same
        stream from its start; torch's CPU generator does so for all tensors of 16 scalars or more, but for their last
        16. False counts only tensors of equal size as sharing.
    """
    tensors_of_size = Counter(math.prod(shape) for shape in shapes)
    parameters = sum(size * count for size, count in tensors_of_size.items())
    if not shared_noise:
        return float(parameters)
    if not across_sizes:
        return parameters**2 / sum(size * count**2 for size, count in tensors_of_size.items())
    squares, sharing, start = 0, sum(tensors_of_size.values()), 0
    for size in sorted(tensors_of_size):
        squares += (size - start) * sharing**2
        start, sharing = size, sharing - tensors_of_size[size]
    return parameters**2 / squares
