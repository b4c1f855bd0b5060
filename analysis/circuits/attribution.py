"""How much each node does for a task: what the loss would gain if the node were knocked out.

The loss is -(logit[answer] - logit[wrong answer]) at the last real token. For a node v that writes a_v on the clean
prompt and a'_v when knocked out, d_v = a'_v - a_v. A positive score means that knocking v out raises the loss: v
helps. All sums are in float32, whatever the model's type, and kept for each example.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.polynomial.legendre import leggauss
from tqdm import tqdm

from analysis.circuits.ablation import ABLATIONS, ablated_run, mean_activations
from analysis.circuits.batch import Batch, answer_loss
from analysis.circuits.exact import exact_patching
from analysis.circuits.nodes import Activations, CircuitModel, Run
from analysis.circuits.relevance import relevance_rules
from eval.errors import UserError


# Points of a path from 0 (knocked out) to 1 (clean), each with its weight relative to the mean one.
Points = Sequence[tuple[float, float]]


def gauss_legendre(steps: int) -> Points:
    """Exact for polynomials of degree 2 * steps - 1, where the other rules are for degree 0 or 1."""
    nodes, weights = leggauss(steps)
    return [
        ((1 + node) / 2, steps * weight / 2) for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True)
    ]


RULES: dict[str, Callable[[int], Points]] = {
    "left": lambda steps: [(k / steps, 1.0) for k in range(steps)],
    "right": lambda steps: [((k + 1) / steps, 1.0) for k in range(steps)],
    "midpoint": lambda steps: [((k + 0.5) / steps, 1.0) for k in range(steps)],
    "gauss-legendre": gauss_legendre,
}
METHODS = ("nap", "nap-ig-inputs", "nap-ig-activations", "nap-ig-activations-published", "relp", "exact")


@dataclass(frozen=True)
class Completeness:
    """What integrated gradients attribute along a path, and the change of the loss along it; equal with many steps.

    what: the path. attributed, actual: mean over examples (and over paths), in units of the loss.
    error: mean absolute difference over mean absolute actual change, 0 when the sum over steps is exact.
    """

    what: str
    attributed: float
    actual: float
    error: float

    def __str__(self) -> str:
        return (
            f"completeness of {self.what}: attributed {self.attributed:.4g}, actual change of the loss "
            f"{self.actual:.4g}, relative error {self.error:.2g}"
        )


@dataclass(frozen=True, eq=False)
class Attribution:
    """nodes: N names. scores: [N] float64, the mean of per_example.

    per_example: [E, N] float32, in the order of the examples.
    completeness: for integrated gradients only.
    """

    method: str
    ablation: str
    nodes: tuple[str, ...]
    scores: torch.Tensor
    per_example: torch.Tensor
    completeness: Completeness | None = None


def attribute(
    model: CircuitModel,
    batches: Sequence[Batch],
    method: str = "nap-ig-inputs",
    ablation: str = "counterfactual",
    steps: int = 5,
    rule: str = "right",
    means: Activations | None = None,
    rows: int = 64,
) -> Attribution:
    """Score every node by one of METHODS, on every example of `batches`.

    nap: <d_v, dL/da_v> on the clean prompt (attribution patching; Syed et al. 2023, arXiv 2310.10348).
    nap-ig-inputs: <d_v, mean of dL/da_v over points on the line between the embeddings of the corrupted and of the
        clean prompt> (EAP-IG; Hanna et al. 2024, arXiv 2403.17806). Counterfactual ablation only.
    nap-ig-activations: the gradient is averaged while v's sub-layer (embedding, all heads of a layer, MLP) moves on
        the line between a'_v and a_v, everything before it clean (Marks et al. 2024, arXiv 2403.19647).
    nap-ig-activations-published: the same runs as the released EAP-IG code uses them: at every step of every sub-layer
        the products of all nodes are added up, and divided by the number of all steps. Close to nap.
    relp: as nap, with the slopes of layer-wise relevance in place of gradients (see `relevance.py`).
    exact: L with v knocked out, less L: activation patching (see `exact.py`).

    steps, rule: of integrated gradients; alpha = k/steps, for k = 0 to steps-1 ("left"), 1 to steps ("right"), or
        (k + 1/2)/steps ("midpoint"), or Gauss and Legendre's points; alpha = 1 is the clean prompt. The released
        EAP-IG takes "right" for nodes and "left" for edges, and 5 steps.
    ablation: "counterfactual", "mean" (`means`, by default those of `batches` themselves) or "zero".
    rows: as many prompts go through the model at once where several variants of one batch do.

    Integrated gradients print their completeness: how far the attributed change is from the actual one. With zero
    ablation it cannot be had for `input`: RMSNorm undoes the scale of the embeddings until they are nearly 0, so that
    the loss jumps at the end of the path.
    Raises UserError for an unknown choice or no examples.
    """
    check_choice("method", method, METHODS)
    check_options(method, ablation, steps, rule, batches)
    if ablation == "mean" and means is None:
        means = mean_activations(model, batches)
    points = RULES[rule](steps)
    per_batch, changes = [], []
    for batch in tqdm(batches, desc=method, unit="batch", leave=False):
        batch = batch.to(model.device)
        removed = ablated_run(model, batch, ablation, means)
        if method == "nap":
            scores = nap(model, batch, removed)
        elif method == "relp":
            with relevance_rules(model):
                scores = nap(model, batch, removed)
        elif method == "nap-ig-inputs":
            scores, change = nap_ig_inputs(model, batch, removed, points)
            changes.append(change)
        elif method == "nap-ig-activations":
            scores, change = nap_ig_activations(model, batch, removed, points)
            changes.append(change)
        elif method == "nap-ig-activations-published":
            scores = nap_ig_activations_published(model, batch, removed, points)
        else:
            scores = exact_patching(model, batch, removed.activations, rows)
        per_batch.append(scores.cpu())
    per_example = torch.cat(per_batch)
    completeness = None
    if changes:
        path = f"{method} ({steps} steps, {rule})"
        completeness = _completeness(path, *(torch.cat(parts) for parts in zip(*changes, strict=True)))
        tqdm.write(str(completeness))
    return Attribution(method, ablation, model.nodes, per_example.double().mean(0), per_example, completeness)


def nap(model: CircuitModel, batch: Batch, removed: Run) -> torch.Tensor:
    """[B, N] scores by one gradient on the clean prompt; `removed` is the run with every node knocked out."""
    start = model.embed(batch.clean_ids).requires_grad_()
    run = gradient_run(model, batch, start)
    return products(model, gradients(run, batch), differences(removed.activations, run.activations))


def nap_ig_inputs(
    model: CircuitModel, batch: Batch, removed: Run, points: Points
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """[B, N] scores by the mean gradient over embeddings at `points`, and ([B] attributed to `input`, [B] actual)."""
    scores, clean_loss, change = 0.0, None, None
    for run, loss, weight in input_path(model, batch, removed, points):
        if change is None:
            clean_loss, change = loss, differences(removed.activations, run.activations)
        if run.logits.requires_grad:
            scores = scores + weight * products(model, gradients(run, batch), change) / len(points)
    actual = answer_loss(removed.logits, batch) - clean_loss
    return scores, (scores[:, 0].cpu(), actual.cpu())


def input_path(
    model: CircuitModel, batch: Batch, removed: Run, points: Points
) -> Iterator[tuple[Run, torch.Tensor, float]]:
    """Yield (run, [B] loss, weight) on the clean prompt, then at each point < 1 between corrupted and clean prompt.

    Each run is recorded and has a graph, so that gradients can be taken, except for the clean one if 1 is not among
    `points`: that one is for its activations only.
    """
    clean, corrupted = model.embed(batch.clean_ids), removed.activations.input
    at_the_end = [weight for alpha, weight in points if alpha == 1.0]
    if at_the_end:
        run = gradient_run(model, batch, clean.requires_grad_())
    else:
        run = model.record(batch.clean_ids, batch.attention_mask)
    yield run, answer_loss(run.logits.detach(), batch), sum(at_the_end)
    for alpha, weight in points:
        if alpha < 1.0:
            run = gradient_run(model, batch, torch.lerp(corrupted, clean.detach(), alpha).requires_grad_())
            yield run, answer_loss(run.logits.detach(), batch), weight


def nap_ig_activations(
    model: CircuitModel, batch: Batch, removed: Run, points: Points
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """[B, N] scores, and ([B * (2L + 1)] attributed, actual) of each sub-layer's path.

    A gate multiplies a_v - a'_v = -d_v. So at a point where everything before the sub-layer is clean, the gradient of
    the loss with respect to the gate is -<d_v, dL/da_v>.
    """
    examples, count = len(batch), len(model.nodes)
    with torch.no_grad():
        clean_loss = answer_loss(model.run(batch.clean_ids, batch.attention_mask).logits, batch)
    alphas, weights = torch.tensor(points, device=model.device)[:, :, None, None].unbind(1)
    columns, attributed, actual = [], [], []
    for part in sublayers(model):
        gates = torch.ones(len(points), examples, count, device=model.device)
        gates[..., part] = alphas
        gates.requires_grad_()
        run = model.run(batch.clean_ids, batch.attention_mask, gates=gates, replacement=removed.activations)
        (slope,) = torch.autograd.grad(answer_loss(run.logits, batch).sum(), gates)
        columns.append(-(weights * slope[..., part]).mean(0))
        without = torch.ones(count, device=model.device)
        without[part] = 0.0
        with torch.no_grad():
            run = model.run(batch.clean_ids, batch.attention_mask, gates=without, replacement=removed.activations)
        attributed.append(columns[-1].sum(1).cpu())
        actual.append((answer_loss(run.logits, batch) - clean_loss).cpu())
    return torch.cat(columns, dim=1), (torch.cat(attributed), torch.cat(actual))


def nap_ig_activations_published(model: CircuitModel, batch: Batch, removed: Run, points: Points) -> torch.Tensor:
    """[B, N] scores; every sub-layer's path counts for every node."""
    clean = model.record(batch.clean_ids, batch.attention_mask)
    change = differences(removed.activations, clean.activations)
    runs = activation_path(model, batch, clean, removed, points)
    scores = [weight * products(model, gradients(run, batch), change) for run, weight in runs]
    return torch.stack(scores).mean(0)


def activation_path(
    model: CircuitModel, batch: Batch, clean: Run, removed: Run, points: Points
) -> Iterator[tuple[Run, float]]:
    """Recorded clean runs with one sub-layer between knocked out and clean, and their weights; for each in turn."""
    for part in sublayers(model):
        for alpha, weight in points:
            gates = torch.ones(len(model.nodes), device=model.device)
            gates[part] = alpha
            run = model.run(
                batch.clean_ids,
                batch.attention_mask,
                gates=gates,
                replacement=removed.activations,
                embeddings=clean.activations.input.detach().requires_grad_(),
                record=True,
            )
            yield run, weight


def circuit_losses(
    model: CircuitModel, batch: Batch, replacement: Activations, gates: torch.Tensor, rows: int
) -> torch.Tensor:
    """[K, B] losses of the circuits of [K, N] gates, at most `rows` prompts at once."""
    runs = (
        model.run(batch.clean_ids, batch.attention_mask, gates=some.unsqueeze(1), replacement=replacement)
        for some in gates.split(max(1, rows // len(batch)))
    )
    return torch.cat([answer_loss(run.logits, batch) for run in runs])


def sublayers(model: CircuitModel) -> Iterator[slice]:
    """Slices of the nodes that are computed at once: input, then heads and MLP of each layer."""
    yield slice(0, 1)
    for layer in range(len(model.layers)):
        start = 1 + layer * (model.heads + 1)
        yield slice(start, start + model.heads)
        yield slice(start + model.heads, start + model.heads + 1)


def gradient_run(model: CircuitModel, batch: Batch, embeddings: torch.Tensor, **gated: Any) -> Run:
    """A recorded run from `embeddings`, a leaf that requires gradients; gated: `gates` and `replacement`."""
    with torch.enable_grad():
        return model.run(batch.clean_ids, batch.attention_mask, embeddings=embeddings, record=True, **gated)


def gradients(run: Run, batch: Batch) -> Sequence[torch.Tensor]:
    """dL/da of every tensor of the run's activations, of each example's own loss."""
    return torch.autograd.grad(answer_loss(run.logits, batch).sum(), run.activations.tensors())


def differences(removed: Activations, kept: Activations) -> list[torch.Tensor]:
    """d = a' - a of every tensor, in float32."""
    return [one.float() - other.detach().float() for one, other in zip(removed.tensors(), kept.tensors(), strict=True)]


def products(model: CircuitModel, slopes: Sequence[torch.Tensor], change: Sequence[torch.Tensor]) -> torch.Tensor:
    """[B, N] sums of <d_v, dL/da_v> over positions, in float32. At padding the gradient is exactly 0."""
    columns = []
    for position, (slope, difference) in enumerate(zip(slopes, change, strict=True)):
        product = slope.float() * difference
        if position % 2 == 1:
            columns.append(product.unflatten(-1, (model.heads, model.head_dim)).sum((1, 3)))
        else:
            columns.append(product.sum((1, 2)).unsqueeze(1))
    return torch.cat(columns, dim=1)


def check_options(method: str, ablation: str, steps: int, rule: str, batches: Sequence[Batch]) -> None:
    """Raise UserError for what neither nodes nor edges can be attributed by."""
    check_choice("ablation", ablation, ABLATIONS)
    check_choice("rule", rule, tuple(RULES))
    if steps < 1:
        raise UserError(f"{steps} steps of integrated gradients; give at least 1")
    if method == "nap-ig-inputs" and ablation != "counterfactual":
        raise UserError(f"nap-ig-inputs moves between two prompts; it knows no {ablation} ablation")
    if not batches:
        raise UserError("there are no examples to attribute on; give at least one batch")


def check_choice(what: str, name: str, choices: Sequence[str]) -> None:
    """Raise UserError unless `name` is one of `choices`."""
    if name not in choices:
        raise UserError(f"{what} {name!r} is unknown; choose one of {', '.join(choices)}")


def _completeness(what: str, attributed: torch.Tensor, actual: torch.Tensor) -> Completeness:
    error = (attributed - actual).abs().mean() / actual.abs().mean().clamp(min=torch.finfo(torch.float32).tiny)
    return Completeness(what, attributed.mean().item(), actual.mean().item(), error.item())
