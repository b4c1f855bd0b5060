"""What one model gains from another's components: their activations, put in its place on the same prompts.

Prakash et al. 2024, "Fine-Tuning Enhances Existing Mechanisms" (arXiv 2402.14811), call it cross-model activation
patching.
"""

import torch

from analysis.circuits.batch import Batch, answer_loss
from analysis.circuits.nodes import CircuitModel


@torch.no_grad()
def transplant(
    receiver: CircuitModel, donor: CircuitModel, batch: Batch, sets: torch.Tensor, batch_size: int, chunk: int = 32
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logit differences of `receiver` on the clean prompts when chosen nodes write what they write in `donor`.

    sets: bool [K, N], each a set of nodes to transplant. Downstream nodes of the receiver recompute.
    Returns float32, on the CPU: [K, B] after each transplant, [B] of the receiver and [B] of the donor as they are.
    Both models need the same nodes and widths.
    """
    changed, own, other = [], [], []
    for part in batch.split(batch_size):
        part = part.to(receiver.device)
        run = donor.record(part.clean_ids, part.attention_mask)
        other.append(-answer_loss(run.logits, part).cpu())
        own.append(-answer_loss(receiver.run(part.clean_ids, part.attention_mask).logits, part).cpu())
        pieces = []
        for some in sets.split(chunk):
            gates = (~some).float().unsqueeze(1).to(receiver.device)
            logits = receiver.run(part.clean_ids, part.attention_mask, gates=gates, replacement=run.activations).logits
            pieces.append(-answer_loss(logits, part).cpu())
        changed.append(torch.cat(pieces))
    return torch.cat(changed, 1), torch.cat(own), torch.cat(other)
