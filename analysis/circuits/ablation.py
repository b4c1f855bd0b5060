"""What a node writes when it is knocked out: its value on the corrupted prompt, its mean, or zero."""

from collections.abc import Sequence

import torch

from analysis.circuits.batch import Batch
from analysis.circuits.nodes import Activations, CircuitModel, Run
from eval.errors import UserError


ABLATIONS = ("counterfactual", "mean", "zero")


def ablated_run(model: CircuitModel, batch: Batch, ablation: str, means: Activations | None = None) -> Run:
    """The run in which every node is knocked out: its logits [B, V] at the last real token, and the replacements.

    "counterfactual": each node writes what it writes on the corrupted prompt, so this is the corrupted run.
    "mean": its mean over clean prompts (`means`, of `mean_activations`). "zero": nothing.
    Without gradients. Raises UserError for another name, and for "mean" without `means`.
    """
    if ablation == "counterfactual":
        return model.record(batch.corrupted_ids, batch.attention_mask)
    if ablation == "mean" and means is None:
        raise UserError("mean ablation needs means; compute them by mean_activations on the prompts to average over")
    if ablation not in ABLATIONS:
        raise UserError(f"ablation {ablation!r} is unknown; choose one of {', '.join(ABLATIONS)}")
    replacement = means if ablation == "mean" else zero_activations(model)
    none = torch.zeros(len(model.nodes), device=model.device)
    with torch.no_grad():
        run = model.run(batch.clean_ids, batch.attention_mask, gates=none, replacement=replacement)
    return Run(run.logits, replacement)


def zero_activations(model: CircuitModel) -> Activations:
    """Nothing, from every node, at every position: [1, 1, ...]."""

    def zeros(width: int) -> torch.Tensor:
        return torch.zeros(1, 1, width, dtype=model.dtype, device=model.device)

    layers = range(len(model.layers))
    return Activations(
        zeros(model.width), [zeros(model.heads * model.head_dim) for _ in layers], [zeros(model.width) for _ in layers]
    )


def mean_activations(model: CircuitModel, batches: Sequence[Batch]) -> Activations:
    """What each node writes on average over all real tokens of the clean prompts: [1, 1, ...], summed in float32.

    Padding is left out. One mean for all positions: prompts of different lengths have no positions in common.
    """
    totals, tokens = None, 0
    for batch in batches:
        batch = batch.to(model.device)
        real = batch.attention_mask.bool()
        activations = model.record(batch.clean_ids, batch.attention_mask).activations
        sums = [tensor[real].float().sum(0) for tensor in activations.tensors()]
        totals = sums if totals is None else [total + one for total, one in zip(totals, sums, strict=True)]
        tokens += int(real.sum())
    means = [(total / tokens).to(model.dtype)[None, None] for total in totals]
    return Activations(means[0], means[1::2], means[2::2])
