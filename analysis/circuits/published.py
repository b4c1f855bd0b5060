"""Node scores as the code released with DFA computes them (its copy of EAP-IG), where that differs from sense.

Two differences, each with its own switch: the MLPs' differences of *output* are multiplied by the gradient at the
MLPs' *input*, and the sum over examples is kept in the model's type (bfloat16 there). Scores are means over examples:
the released scale at its batch size of one.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from tqdm import tqdm

from analysis.circuits.ablation import ablated_run
from analysis.circuits.attribution import RULES, activation_path, check_choice, differences, input_path, products
from analysis.circuits.batch import Batch, answer_loss
from analysis.circuits.nodes import CircuitModel, Run, hooks


METHODS = ("nap", "nap-ig-inputs", "nap-ig-activations-published")


def published_scores(
    model: CircuitModel,
    batches: Sequence[Batch],
    method: str = "nap-ig-inputs",
    steps: int = 5,
    mlp_gradient: str = "input",
    accumulate_in_model_type: bool = True,
) -> torch.Tensor:
    """[E, N] float32 scores of each example by counterfactual patching; see `total` for their published mean.

    method, steps: of `attribute`, by the "right" rule; one of METHODS.
    mlp_gradient: "input", before the norm in front of the MLP, along the MLP's branch only, as released; "output" is
        the right one.
    accumulate_in_model_type: round every product to the model's type.
    """
    check_choice("method", method, METHODS)
    check_choice("mlp gradient", mlp_gradient, ("input", "output"))
    path = [(1.0, 1.0)] if method == "nap" else RULES["right"](steps)
    per_example = []
    for batch in tqdm(batches, desc=f"{method} as released", unit="batch", leave=False):
        removed = ablated_run(model, batch, "counterfactual")
        scores, points, change = 0.0, 0, None
        if method == "nap-ig-activations-published":
            clean = model.record(batch.clean_ids, batch.attention_mask)
            change = differences(removed.activations, clean.activations)
            runs = activation_path(model, batch, clean, removed, path)
        else:
            runs = ((run, weight) for run, _, weight in input_path(model, batch, removed, path))
        with watched_mlp_inputs(model) as mlp_inputs:
            for run, _ in runs:  # the right sum gives all the same weight
                if change is None:  # the path over inputs begins with the clean run
                    change = differences(removed.activations, run.activations)
                slopes = _slopes(run, batch, mlp_inputs if mlp_gradient == "input" else run.activations.mlps)
                mlp_inputs.clear()
                scores = scores + products(model, slopes, change)
                points += 1
        scores = scores / points
        per_example.append(scores.to(model.dtype).float().cpu() if accumulate_in_model_type else scores.cpu())
    return torch.cat(per_example)


def total(per_example: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[N] float64 mean of [E, N] scores, added up one example after the other in `dtype`."""
    accumulated = torch.zeros_like(per_example[0], dtype=dtype)
    for scores in per_example:
        accumulated = accumulated + scores.to(dtype)
    return (accumulated / len(per_example)).double()


@contextmanager
def watched_mlp_inputs(model: CircuitModel) -> Iterator[list[torch.Tensor]]:
    """Yield a list to which every run appends, layer by layer, what its MLPs' norms are given: L tensors [B, T, d].

    Each is a tensor of its own in the graph, so that its gradient is that of the MLP's branch alone.
    """
    branches: list[torch.Tensor] = []

    def watch(_module, arguments):
        branch = arguments[0].view_as(arguments[0])
        branches.append(branch)
        return (branch,)

    handles = [layer.post_attention_layernorm.register_forward_pre_hook(watch) for layer in model.layers]
    with hooks(handles):
        yield branches


def _slopes(run: Run, batch: Batch, mlps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """dL/da of input, then heads and `mlps` of each layer."""
    in_layers = [tensor for pair in zip(run.activations.heads, mlps, strict=True) for tensor in pair]
    return list(torch.autograd.grad(answer_loss(run.logits, batch).sum(), [run.activations.input, *in_layers]))
