"""Differentiable faithfulness alignment (DFA): learn a map from a small model's node scores to a large one's circuit.

Shao et al. 2026, arXiv 2604.24302. Source scores s go through a map to logits s W, and sigmoid(s W) are soft gates on
the nodes of the target model, which stays frozen. W is trained so that the gated target still answers as the whole
one does. `PRESETS` holds every choice twice: "paper", as its released code makes them, mistakes included, and
"corrected". A preset is one dataclass, so that any single choice can be changed by `dataclasses.replace`.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean

import torch
from torch.nn import functional
from tqdm import tqdm

from analysis.circuits.attribution import METHODS, RULES, attribute, check_choice
from analysis.circuits.batch import Batch
from analysis.circuits.faithfulness import INPUT_POLICIES
from analysis.circuits.maps import MAPS, AlignmentMap, Layout
from analysis.circuits.nodes import CircuitModel
from analysis.circuits.passes import Passes, count_passes
from analysis.circuits.published import METHODS as PUBLISHED_METHODS
from analysis.circuits.published import published_scores, total
from eval.errors import UserError


# What the fields of a preset may be.
CHOICES = {
    "method": METHODS,
    "rule": tuple(RULES),
    "mlp_gradient": ("output", "input"),
    "normalise": ("none", "l1"),
    "map": MAPS,
    "direction": ("noise", "denoise"),
    "divergence": ("answer", "all-positions"),
    "order": ("interleaved", "sequential"),
    "keep": ("best-validation", "last"),
    "input_policy": INPUT_POLICIES,
    "select_on": ("validation", "test"),
}
# Prompts that go through a model at once where nothing depends on it.
ROWS = 32


@dataclass(frozen=True)
class Preset:
    """Every choice of DFA. The defaults are the corrected ones; what the released code does is said beside each.

    Scores of the source, and of the target by direct attribution ("gold"):
    method, steps, rule: of `attribute`. Released: nap-ig-inputs, 5 steps, "right".
    mlp_gradient: "output", or "input" as released, where the gradient before the MLP multiplies what is behind it.
    accumulate_in_model_type: sum scores in the model's type, not in float32. Released: yes, bfloat16.
    normalise: "l1" divides s by its sum of absolute values, so that tasks are of one scale and one step of Adam moves
        no logit by more than the learning rate; "none" as released.
    resample_source: every step takes the mean score of as many examples drawn with replacement, so that the map sees
        how sure s is. Released: no.

    Map:
    map, rank, map_penalty: family (one of `maps.MAPS`), rank of "low-rank", weight of `AlignmentMap.penalty`.
        Released: dense.

    Soft intervention and loss:
    train_heads: gate attention heads as well as MLPs. Released: no. Its hooks on heads never fire, so that only the
        sparsity term moves the logits of heads.
    direction: "noise" runs the clean prompt and replaces 1 - m of a node's output by the corrupted run's, the circuit
        computes on what it is given: what the evaluation does. "denoise", as released, runs the corrupted prompt and
        moves a node's output by m towards its activation in the clean run.
    divergence: KL(whole target || gated target) at the "answer" position, mean over prompts; or, as released, the sum
        over "all-positions", padding included, divided by the number of prompts: long prompts weigh more.
    sparsity: weight of the mean gate. Released: 0.1.

    Optimisation by Adam, betas (0.9, 0.999):
    epochs, learning_rate, batch_size: released job scripts: 3, 0.1, 1.
    order: "interleaved" shuffles batches of all tasks in every epoch; "sequential", as released, takes one task after
        the other, unshuffled.
    keep: the map after the epoch with the "best-validation" loss on the training tasks, or the "last", as released.

    Evaluation:
    input_policy: "always" keeps the embeddings in every circuit. Released: "ranked", with a score of 0 for `input` in
        learned rankings, so that it falls out of circuits and f = 0 wherever enough nodes score above 0.
    select_on: the split on which the best regime is chosen. Released: "test".
    """

    method: str = "nap-ig-inputs"
    steps: int = 5
    rule: str = "midpoint"
    mlp_gradient: str = "output"
    accumulate_in_model_type: bool = False
    normalise: str = "l1"
    resample_source: bool = True
    map: str = "dense"
    rank: int = 4
    map_penalty: float = 0.0
    train_heads: bool = True
    direction: str = "noise"
    divergence: str = "answer"
    sparsity: float = 0.1
    epochs: int = 5
    learning_rate: float = 0.1
    batch_size: int = 8
    order: str = "interleaved"
    keep: str = "best-validation"
    input_policy: str = "always"
    select_on: str = "validation"

    def __post_init__(self):
        for name, choices in CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        if min(self.steps, self.epochs, self.batch_size, self.rank) < 1 or self.learning_rate <= 0:
            raise UserError("steps, epochs, batch_size, rank and learning_rate of a DFA preset must be positive")
        if self.as_released and (self.method not in PUBLISHED_METHODS or self.rule != "right"):
            raise UserError(
                f"mlp_gradient input and accumulate_in_model_type exist for {' and '.join(PUBLISHED_METHODS)} with "
                f"rule right, not for {self.method} with rule {self.rule}; change one of them"
            )

    @property
    def as_released(self) -> bool:
        """Whether scores need the released code's estimator."""
        return self.mlp_gradient == "input" or self.accumulate_in_model_type


PRESETS = {
    "paper": Preset(
        rule="right",
        mlp_gradient="input",
        accumulate_in_model_type=True,
        normalise="none",
        resample_source=False,
        train_heads=False,
        direction="denoise",
        divergence="all-positions",
        epochs=3,
        batch_size=1,
        order="sequential",
        keep="last",
        input_policy="ranked",
        select_on="test",
    ),
    "corrected": Preset(),
}


@dataclass(frozen=True, eq=False)
class Scores:
    """Node scores of one task in one model, `input` first. mean: [N] float64; per_example: [E, N] float32."""

    mean: torch.Tensor
    per_example: torch.Tensor


@dataclass(frozen=True, eq=False)
class Training:
    """A trained map and how it went: per epoch the mean loss over steps and, where it was asked for, the validation
    loss (else empty); the epoch kept, from 1; and what it asked of the target model, validation included.
    """

    map: AlignmentMap
    losses: list[float]
    validation_losses: list[float]
    epoch: int
    passes: Passes


def node_scores(model: CircuitModel, batch: Batch, preset: Preset, steps: int | None = None) -> Scores:
    """Direct attribution by the preset's method; `steps` in place of the preset's."""
    batches = [part.to(model.device) for part in batch.split(ROWS)]
    steps = preset.steps if steps is None else steps
    if preset.as_released:
        per_example = published_scores(
            model, batches, preset.method, steps, preset.mlp_gradient, preset.accumulate_in_model_type
        )
        dtype = model.dtype if preset.accumulate_in_model_type else torch.float64
        return Scores(total(per_example, dtype), per_example)
    attribution = attribute(model, batches, preset.method, steps=steps, rule=preset.rule)
    return Scores(attribution.scores, attribution.per_example)


def map_input(scores: Scores, preset: Preset, generator: torch.Generator | None = None) -> torch.Tensor:
    """[S] float32: what a map is given of a task: its scores without `input`, normalised.

    A generator asks for the mean of as many examples drawn with replacement, in place of the mean of all.
    """
    if generator is None:
        values = scores.mean[1:].float()
    else:
        examples = len(scores.per_example)
        values = scores.per_example[torch.randint(examples, (examples,), generator=generator), 1:].mean(0)
    if preset.normalise == "l1":
        values = functional.normalize(values, p=1, dim=0)
    return values


def soft_gates(mask: torch.Tensor, layout: Layout, preset: Preset) -> torch.Tensor:
    """[T] mask m of the nodes without `input` to [1 + T] gates for `CircuitModel.run`.

    Noising gates a node by m between its corrupted activation and what it computes. Denoising gates it by 1 - m
    between its clean activation and what it computes. `input` computes: clean embeddings when noising, corrupted ones
    when denoising. Heads that are not trained compute as well.
    """
    gates = mask if preset.direction == "noise" else 1 - mask
    if not preset.train_heads:
        gates = torch.where(layout.is_mlp.to(gates.device), gates, 1.0)
    return torch.cat([torch.ones(1, device=gates.device), gates])


def faithfulness_loss(
    target: CircuitModel, batch: Batch, mask: torch.Tensor, preset: Preset, clean: torch.Tensor | None = None
) -> torch.Tensor:
    """KL(whole target || gated target) of one batch, as the preset has it, plus `sparsity` times the mean of `mask`.

    mask: [T], on the target's device. clean: log-probabilities [B, V] of the whole target at the answer position,
    where they are known; they save a pass when noising.
    """
    everywhere = preset.divergence == "all-positions"
    gates = soft_gates(mask, Layout.of(target), preset)
    with torch.no_grad():
        if preset.direction == "noise":
            ids = batch.clean_ids
            replacement = target.run(batch.corrupted_ids, batch.attention_mask, record=True).activations
            if clean is None or everywhere:
                logits = target.run(batch.clean_ids, batch.attention_mask, all_positions=everywhere).logits
                clean = logits.log_softmax(-1)
        else:
            ids = batch.corrupted_ids
            whole = target.run(batch.clean_ids, batch.attention_mask, record=True, all_positions=everywhere)
            replacement, clean = whole.activations, whole.logits.log_softmax(-1)
    run = target.run(ids, batch.attention_mask, gates=gates, replacement=replacement, all_positions=everywhere)
    divergence = functional.kl_div(run.logits.log_softmax(-1), clean, reduction="batchmean", log_target=True)
    return divergence + preset.sparsity * mask.mean()


def train_map(
    alignment: AlignmentMap,
    target: CircuitModel,
    scores: Mapping[str, Scores],
    batches: Mapping[str, Batch],
    preset: Preset,
    seed: int,
    validation: Mapping[str, Batch] | None = None,
) -> Training:
    """Train `alignment` in place on the tasks of `batches`; the target stays frozen.

    scores: of the source model, for every task of `batches`. batches: prompts of the target, all of a task in one.
    seed: of shuffling and resampling; the map's own start is drawn by `make_map`.
    validation: prompts of the same tasks, needed if the preset keeps the map of best validation loss.

    Raises UserError if there are no tasks or validation prompts are missing.
    """
    if not batches:
        raise UserError("there are no tasks to train an alignment on; give at least one")
    if preset.keep == "best-validation" and set(validation or {}) != set(batches):
        raise UserError("keeping the best-validation map needs validation prompts of every training task")
    batches = {task: batch.to(target.device) for task, batch in batches.items()}
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(alignment.parameters(), lr=preset.learning_rate)
    losses, validation_losses, best, kept = [], [], None, preset.epochs
    with count_passes(target) as passes:
        clean = {task: _clean_log_probabilities(target, batch, preset) for task, batch in batches.items()}
        for epoch in tqdm(range(1, preset.epochs + 1), desc="alignment", unit="epoch", leave=False):
            of_steps = []
            for task, rows in _steps(batches, preset, generator):
                given = map_input(scores[task], preset, generator if preset.resample_source else None)
                mask = alignment(given).sigmoid().to(target.device)
                known = None if clean[task] is None else clean[task][rows]
                loss = faithfulness_loss(target, batches[task].select(rows), mask, preset, known)
                loss = loss + preset.map_penalty * alignment.penalty().to(loss.device)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                of_steps.append(loss.item())
            losses.append(fmean(of_steps))
            if preset.keep == "best-validation":
                validation_losses.append(_validation_loss(alignment, target, scores, validation, preset))
                if validation_losses[-1] == min(validation_losses):
                    best, kept = copy.deepcopy(alignment.state_dict()), epoch
    if best is not None:
        alignment.load_state_dict(best)
    return Training(alignment, losses, validation_losses, kept, passes)


def aligned_scores(alignment: AlignmentMap, given: torch.Tensor) -> torch.Tensor:
    """[1 + T] float64 scores of the target's nodes: the logits s W, and 0 for `input`, as published.

    The 0 counts only where `input` is ranked with the others.
    """
    with torch.no_grad():
        return torch.cat([torch.zeros(1), alignment(given)]).double()


def _clean_log_probabilities(target: CircuitModel, batch: Batch, preset: Preset) -> torch.Tensor | None:
    """[E, V] of the whole target at the answer position; None where a step needs the clean run itself anyway."""
    if preset.direction != "noise" or preset.divergence != "answer":
        return None
    with torch.no_grad():
        return torch.cat(
            [target.run(part.clean_ids, part.attention_mask).logits.log_softmax(-1) for part in batch.split(ROWS)]
        )


def _steps(
    batches: Mapping[str, Batch], preset: Preset, generator: torch.Generator
) -> Iterator[tuple[str, torch.Tensor]]:
    """One epoch: (task, rows of its batch) of every step."""
    steps = []
    for task, batch in batches.items():
        count = len(batch)
        rows = torch.arange(count) if preset.order == "sequential" else torch.randperm(count, generator=generator)
        steps += [(task, part) for part in rows.split(preset.batch_size)]
    if preset.order == "interleaved":
        steps = [steps[place] for place in torch.randperm(len(steps), generator=generator).tolist()]
    yield from steps


@torch.no_grad()
def _validation_loss(
    alignment: AlignmentMap,
    target: CircuitModel,
    scores: Mapping[str, Scores],
    validation: Mapping[str, Batch],
    preset: Preset,
) -> float:
    """Mean over tasks of the mean loss over their validation prompts."""
    by_task = []
    for task, batch in validation.items():
        mask = alignment(map_input(scores[task], preset)).sigmoid().to(target.device)
        parts = [part.to(target.device) for part in batch.split(ROWS)]
        total_loss = sum(faithfulness_loss(target, part, mask, preset).item() * len(part) for part in parts)
        by_task.append(total_loss / len(batch))
    return fmean(by_task)
