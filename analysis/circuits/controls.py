"""What a transferred circuit must be compared with: rankings that know nothing, less, or the target itself.

The published controls break one part of the method each: an untrained W, permuted columns of W, scrambled source
scores, and the depth heuristic. The baselines ask what the source adds: the same training without source scores
(`learn_masks`), what other tasks' circuits in the target give (`mean_of_tasks`, `nearest_task`), and direct
attribution for as much of the target's compute (`affordable`).
"""

import zlib
from collections.abc import Mapping, Sequence

import torch
from torch.nn import functional

from analysis.circuits.alignment import Preset, Scores, Training, aligned_scores, map_input, train_map
from analysis.circuits.batch import Batch
from analysis.circuits.maps import AlignmentMap, DenseMap, Layout, depth_mean_matrix
from analysis.circuits.nodes import CircuitModel
from analysis.criteria import SMALLEST_GAP


# Steps of integrated gradients beyond which more of them tell nothing new.
MOST_STEPS = 50


def permuted_columns(alignment: AlignmentMap, given: torch.Tensor, seed: int) -> torch.Tensor:
    """[1 + T] scores by a trained map whose columns are permuted: the predicted values, on the wrong nodes."""
    scores = aligned_scores(alignment, given)
    order = torch.randperm(len(scores) - 1, generator=torch.Generator().manual_seed(seed))
    return torch.cat([scores[:1], scores[1:][order]])


def scrambled(given: torch.Tensor, task: str, seed: int) -> torch.Tensor:
    """[S] source scores in an order drawn from task and seed. Mostly destroys inner products with other tasks."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{task} {seed}".encode()))
    return given[torch.randperm(len(given), generator=generator)]


def depth_mean(given: torch.Tensor, source: Layout, target: Layout) -> torch.Tensor:
    """[1 + T] scores by equal relative depth, see `depth_mean_matrix`; 0 for `input`, as published."""
    return torch.cat([torch.zeros(1), given @ depth_mean_matrix(source, target)]).double()


def random_ranking(nodes: int, seed: int) -> torch.Tensor:
    """[nodes] normal scores."""
    return torch.randn(nodes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def learn_masks(
    target: CircuitModel, batch: Batch, preset: Preset, seed: int, validation: Batch | None = None
) -> tuple[torch.Tensor, Training]:
    """([1 + T] scores, how it went) of gates learned on the target alone.

    The same training, objective, seed and steps as in-distribution DFA with a dense map, for a source of a single
    node: s is the number 1 in place of the source's circuit.
    """
    one = Scores(torch.ones(2, dtype=torch.float64), torch.ones(1, 2))
    alignment = DenseMap(1, len(Layout.of(target)), torch.Generator().manual_seed(seed))
    held_out = None if validation is None else {"": validation}
    training = train_map(alignment, target, {"": one}, {"": batch}, preset, seed, held_out)
    return aligned_scores(alignment, map_input(one, preset)), training


def mean_of_tasks(scores: Sequence[torch.Tensor]) -> torch.Tensor:
    """[N] mean of several tasks' scores [N], each divided by its sum of absolute values."""
    return torch.stack([functional.normalize(vector, p=1, dim=0) for vector in scores]).mean(0)


def nearest_task(task: str, given: Mapping[str, torch.Tensor]) -> str:
    """The other task whose source scores have the largest cosine with those of `task`; of equal ones the first."""
    others = [name for name in given if name != task]
    cosines = [functional.cosine_similarity(given[task], given[name], dim=0).item() for name in others]
    return others[cosines.index(max(cosines))]


def affordable(budget: int, per_example: float, examples: int, steps: int, step_cost: int) -> tuple[int, int]:
    """(examples, steps) of direct attribution for at most `budget` forward-equivalents of the target.

    per_example: what one costs at `steps` steps. First as many examples as there are; what is left buys steps, each of
    `step_cost` (0: the method has none to buy), up to MOST_STEPS. At least one example.
    """
    count = max(1, min(examples, int(budget / per_example)))
    if step_cost > 0:
        steps += max(0, int((budget / count - per_example) / step_cost))
    return count, max(min(steps, MOST_STEPS), 1)


def useless_cpr(shares: Sequence[float]) -> float:
    """CPR of a ranking with f = 0 until the whole model is kept: 0.25 for MIB's shares."""
    return (shares[-1] - shares[-2]) / 2


def recovery(cpr: float, gold: float, floor: float) -> float | None:
    """(cpr - floor) / (gold - floor): 0 for a useless ranking, 1 for direct attribution on the target.

    None where gold is not at least SMALLEST_GAP above the floor. Published recovery is cpr / gold, which a useless
    ranking does not take to 0.
    """
    return (cpr - floor) / (gold - floor) if gold - floor >= SMALLEST_GAP else None
