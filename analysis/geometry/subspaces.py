"""Angles between the subspaces that updates use, and what random subspaces would give."""

import math

import torch


def principal_cosines(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Cosines of the principal angles between two subspaces of R^n, largest first.

    They are the singular values of A^T B (Bjorck & Golub 1973, "Numerical methods for computing angles between linear
    subspaces"): 1 where the subspaces share a direction, 0 where one has a direction orthogonal to all of the other.

    a: [n, p], b: [n, q], with orthonormal columns. Returns [min(p, q)] in float64.
    """
    return torch.linalg.svdvals(a.double().T @ b.double()).clamp(max=1.0)


def random_mean_square(dimension: int, p: int, q: int) -> tuple[float, float]:
    """Expectation and standard deviation of the mean squared principal cosine of two random subspaces.

    The squared cosines sum to tr(PQ) with the projections P and Q. For a uniformly random subspace E[P] = (p / n) I,
    hence E[tr(PQ)] = p q / n and the mean over min(p, q) angles is max(p, q) / n, which is k / n for p = q = k. Its
    variance is 2 p q (n - p) (n - q) / (n^2 (n - 1) (n + 2)) / min(p, q)^2.

    dimension: n, at least 2. p, q: dimensions of the subspaces, at least 1.
    """
    n = dimension
    variance = 2 * p * q * (n - p) * (n - q) / (n**2 * (n - 1) * (n + 2))
    return max(p, q) / n, math.sqrt(variance) / min(p, q)


def compare_subspaces(a: torch.Tensor, b: torch.Tensor) -> dict | None:
    """{"dimensions": [p, q], "cosines", "mean_square", "null", "null_std"} of two subspaces of R^n.

    a: [n, p], b: [n, q], with orthonormal columns. null, null_std: `random_mean_square`. None if one has no dimension,
    or if n is 1.
    """
    n, p, q = len(a), a.shape[1], b.shape[1]
    if p == 0 or q == 0 or n == 1:
        return None
    cosines = principal_cosines(a, b)
    null, null_std = random_mean_square(n, p, q)
    return {
        "dimensions": [p, q],
        "cosines": cosines.tolist(),
        "mean_square": cosines.square().mean().item(),
        "null": null,
        "null_std": null_std,
    }


def energy_in_subspaces(matrix: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> dict | None:
    """Shares of the squared Frobenius norm of `matrix` that lie in given column and row spaces.

    left: |U^T A|^2 / |A|^2 with `left` = U [m, k]; right: |A V|^2 / |A|^2 with `right` = V [n, k]; both: |U^T A V|^2 /
    |A|^2. Each stands as {"share", "null"}: a random matrix with independent entries of mean 0 and one variance, like
    any random rotation of A, is expected to have k / m, k / n and k^2 / (m n) of its energy there.

    matrix: A [m, n], float32; sums are formed in float64. Returns None if A is 0.
    """
    m, n = matrix.shape
    total = sum(rows.double().square().sum().item() for rows in matrix.split(1024))
    if total == 0:
        return None
    from_left = left.to(matrix.dtype).T @ matrix
    shares = {
        "left": (from_left, left.shape[1] / m),
        "right": (matrix @ right.to(matrix.dtype), right.shape[1] / n),
        "both": (from_left @ right.to(matrix.dtype), left.shape[1] * right.shape[1] / (m * n)),
    }
    return {
        side: {"share": part.double().square().sum().item() / total, "null": null}
        for side, (part, null) in shares.items()
    }
