"""A circuit found by optimisation: gates that keep the model's answers with as little of the model as possible."""

from collections.abc import Sequence

import torch
from torch.nn import functional
from tqdm import tqdm

from analysis.circuits.ablation import ABLATIONS, ablated_run, mean_activations
from analysis.circuits.attribution import Attribution, check_choice
from analysis.circuits.batch import Batch
from analysis.circuits.nodes import Activations, CircuitModel
from eval.errors import UserError


def learn_mask(
    model: CircuitModel,
    batches: Sequence[Batch],
    ablation: str = "counterfactual",
    steps: int = 100,
    learning_rate: float = 0.1,
    sparsity: float = 0.1,
    initial_gate: float = 0.9,
    means: Activations | None = None,
) -> Attribution:
    """Scores by subnetwork probing (Cao et al. 2021, arXiv 2104.03514) with plain sigmoid gates.

    Minimises KL(model || gated model) at the last real token, mean over the examples of a batch, plus `sparsity`
    times the mean gate, by Adam over the gates' logits; `input` stays open. Knocked-out nodes write their replacement
    and the others compute on what they are given, as when faithfulness is measured. Batches are taken in turn, one a
    step; a step costs one forward and backward pass, and two forward passes more when a batch is met first.

    The scores are the logits of the gates, and for `input` the largest of them: it is in every circuit. Raises
    UserError for an unknown choice or no examples.
    """
    check_choice("ablation", ablation, ABLATIONS)
    if steps < 1:
        raise UserError(f"{steps} steps of mask learning; give at least 1")
    if not batches:
        raise UserError("there are no examples to learn a mask on; give at least one batch")
    if ablation == "mean" and means is None:
        means = mean_activations(model, batches)
    initial = torch.tensor(initial_gate).logit().item()
    logits = torch.full((len(model.nodes) - 1,), initial, device=model.device, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=learning_rate)
    targets: dict[int, tuple[torch.Tensor, Activations]] = {}
    for step in tqdm(range(steps), desc="mask", unit="step", leave=False):
        number = step % len(batches)
        batch = batches[number].to(model.device)
        if number not in targets:
            with torch.no_grad():
                clean = model.run(batch.clean_ids, batch.attention_mask).logits
            targets[number] = (clean.log_softmax(-1), ablated_run(model, batch, ablation, means).activations)
        clean, replacement = targets[number]
        gates = torch.cat([torch.ones(1, device=model.device), logits.sigmoid()])
        run = model.run(batch.clean_ids, batch.attention_mask, gates=gates, replacement=replacement)
        divergence = functional.kl_div(run.logits.log_softmax(-1), clean, reduction="batchmean", log_target=True)
        loss = divergence + sparsity * gates[1:].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = logits.detach().cpu().double()
    return Attribution("mask", ablation, model.nodes, torch.cat([found.max().reshape(1), found]), None)
