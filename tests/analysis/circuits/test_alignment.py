import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from analysis.circuits.alignment import (
    PRESETS,
    Preset,
    Scores,
    _steps,
    _validation_loss,
    aligned_scores,
    faithfulness_loss,
    map_input,
    node_scores,
    soft_gates,
    train_map,
)
from analysis.circuits.attribution import attribute
from analysis.circuits.batch import Batch
from analysis.circuits.maps import DenseMap, Layout, make_map
from analysis.circuits.nodes import CircuitModel
from analysis.circuits.passes import count_passes
from analysis.circuits.planted import model_batch, planted_llama
from analysis.circuits.planted_recovery import auroc
from analysis.circuits.published import METHODS, published_scores, total, watched_mlp_inputs
from eval.errors import UserError
from tests.tiny import random_model


PAPER, CORRECTED = PRESETS["paper"], PRESETS["corrected"]
IN_SOURCE = ("m0", "a1.h0", "a1.h2", "m1")
IN_TARGET = ("a0.h2", "m0", "a1.h1", "a1.h4", "a2.h3", "a2.h5", "m2")


def planted_pair(seed: int) -> tuple[CircuitModel, CircuitModel]:
    source = planted_llama(IN_SOURCE, layers=2, heads=4, seed=100 + seed)
    target = planted_llama(IN_TARGET, layers=3, heads=6, width=48, seed=seed)
    return CircuitModel(source), CircuitModel(target)


@pytest.fixture(scope="module")
def target() -> CircuitModel:
    return CircuitModel(random_model("llama", seed=3)[0])


@pytest.fixture(scope="module")
def batch(target) -> Batch:
    """Two prompts of 7 tokens and one of 5, padded on the left."""
    whole = model_batch(target, 3, 7)
    mask = whole.attention_mask.clone()
    mask[2, :2] = 0
    return Batch(whole.clean_ids, whole.corrupted_ids, mask, whole.answer, whole.wrong_answer)


def same(layout: Layout, value: float) -> torch.Tensor:
    return torch.full((len(layout),), value)


def scores_of(nodes: int, examples: int = 6, seed: int = 0) -> Scores:
    per_example = torch.randn(examples, nodes, generator=torch.Generator().manual_seed(seed))
    return Scores(per_example.double().mean(0), per_example)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_training_finds_planted_nodes_if_and_only_if_it_is_corrected(name):
    found = []
    for seed in range(3):
        source, target = planted_pair(seed)
        preset = PRESETS[name]
        scores = node_scores(source, model_batch(source, 16, 8), preset)
        alignment = make_map("dense", Layout.of(source), Layout.of(target), seed)
        train_map(
            alignment,
            target,
            {"task": scores},
            {"task": model_batch(target, 24, 8, seed=1)},
            preset,
            seed,
            {"task": model_batch(target, 8, 8, seed=2)},
        )
        predicted = aligned_scores(alignment, map_input(scores, preset))[1:]
        found.append(auroc(predicted, torch.tensor([node in IN_TARGET for node in target.nodes[1:]])))
    if name == "corrected":
        assert found == [1.0, 1.0, 1.0]
    else:
        assert max(found) < 1.0


def test_heads_get_no_gradient_in_the_paper_preset_but_that_of_sparsity():
    _, target = planted_pair(0)
    batch, layout = model_batch(target, 4, 8), Layout.of(target)
    planted = torch.tensor([node in IN_TARGET for node in target.nodes[1:]])

    def gradient(preset: Preset) -> torch.Tensor:
        mask = same(layout, 0.4).requires_grad_()
        return torch.autograd.grad(faithfulness_loss(target, batch, mask, preset), mask)[0]

    released = gradient(PAPER)
    torch.testing.assert_close(released[~layout.is_mlp], torch.full((18,), 0.1 / len(layout)))
    assert gradient(replace(PAPER, sparsity=0.0))[~layout.is_mlp].eq(0).all()
    for repaired in (replace(PAPER, sparsity=0.0, train_heads=True), replace(CORRECTED, sparsity=0.0)):
        slope = gradient(repaired)
        assert slope[planted].ne(0).all() and slope[~planted].eq(0).all()


def test_gates_open_from_the_ablated_run_to_the_whole_model(target, batch):
    layout = Layout.of(target)
    clean = target.record(batch.clean_ids, batch.attention_mask)
    corrupted = target.record(batch.corrupted_ids, batch.attention_mask)

    def run(mask, preset):
        ids, replacement = batch.clean_ids, corrupted.activations
        if preset.direction == "denoise":
            ids, replacement = batch.corrupted_ids, clean.activations
        gates = soft_gates(mask, layout, preset)
        with torch.no_grad():
            return target.run(ids, batch.attention_mask, gates=gates, replacement=replacement, record=True)

    noise, denoise = CORRECTED, replace(PAPER, train_heads=True)
    assert run(same(layout, 1.0), noise).logits.equal(clean.logits)
    assert run(same(layout, 0.0), denoise).logits.equal(corrupted.logits)
    # Noised completely, only the embeddings are still clean; denoised completely, they alone are corrupted.
    for preset, mask, written, embeddings in ((noise, 0.0, corrupted, clean), (denoise, 1.0, clean, corrupted)):
        found = run(same(layout, mask), preset).activations
        assert found.input.equal(embeddings.activations.input)
        for one, other in zip(found.tensors()[1:], written.activations.tensors()[1:], strict=True):
            assert one.equal(other)
    # Untrained heads compute on what they are given, whatever their mask.
    assert run(torch.where(layout.is_mlp, 0.0, 1.0), PAPER).logits.equal(corrupted.logits)
    # The released formula: the first MLP writes current + m (clean - current).
    half = run(torch.where(layout.is_mlp, 0.25, 0.0), PAPER).activations.mlps[0]
    current = corrupted.activations.mlps[0]
    torch.testing.assert_close(half, current + 0.25 * (clean.activations.mlps[0] - current))


def test_the_loss_is_the_stated_divergence(target, batch):
    layout = Layout.of(target)
    clean = target.run(batch.clean_ids, batch.attention_mask, all_positions=True).logits.log_softmax(-1)
    corrupted = target.run(batch.corrupted_ids, batch.attention_mask, all_positions=True).logits.log_softmax(-1)
    everywhere = (clean.exp() * (clean - corrupted)).sum(-1)
    zero = same(layout, 0.0)
    loss = faithfulness_loss(target, batch, zero, PAPER)
    # Summed over all positions, the padding of the third prompt included; divided by the prompts alone.
    torch.testing.assert_close(loss, everywhere.sum() / 3)
    at_answer = replace(PAPER, divergence="answer")
    torch.testing.assert_close(faithfulness_loss(target, batch, zero, at_answer), everywhere[:, -1].mean())
    one = same(layout, 1.0)
    assert faithfulness_loss(target, batch, one, replace(CORRECTED, sparsity=0.3)).item() == pytest.approx(0.3)
    known = clean[:, -1]
    some = torch.linspace(0.1, 0.9, len(layout))
    with count_passes(target) as passes:
        informed = faithfulness_loss(target, batch, some, CORRECTED, known)
    torch.testing.assert_close(informed, faithfulness_loss(target, batch, some, CORRECTED))
    assert (passes.forward, passes.backward) == (6, 0)


def test_no_logit_moves_further_than_the_learning_rate_in_a_step(target, batch):
    preset = replace(CORRECTED, epochs=1, learning_rate=0.2, keep="last", resample_source=False)
    scores = scores_of(10)
    alignment = DenseMap(9, len(Layout.of(target)), torch.Generator().manual_seed(0))
    before = aligned_scores(alignment, map_input(scores, preset))
    train_map(alignment, target, {"a": scores}, {"a": batch}, preset, 0)
    moved = (aligned_scores(alignment, map_input(scores, preset)) - before)[1:].abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.2), atol=1e-4, rtol=0)


def test_the_order_of_the_steps(batch):
    long = Batch(*(torch.cat([tensor] * 3) for tensor in vars(batch).values() if torch.is_tensor(tensor)))
    tasks = {"a": long, "b": batch}
    sequential = list(_steps(tasks, replace(PAPER, batch_size=4), torch.Generator().manual_seed(0)))
    assert [(task, rows.tolist()) for task, rows in sequential] == [
        ("a", [0, 1, 2, 3]),
        ("a", [4, 5, 6, 7]),
        ("a", [8]),
        ("b", [0, 1, 2]),
    ]
    preset = replace(CORRECTED, batch_size=2)
    epochs = [list(_steps(tasks, preset, torch.Generator().manual_seed(seed))) for seed in range(6)]
    for epoch in epochs:
        for task, size in (("a", 9), ("b", 3)):
            assert sorted(row for name, rows in epoch if name == task for row in rows.tolist()) == list(range(size))
    assert len({str(epoch) for epoch in epochs}) == 6
    assert any(epoch[0][0] == "b" for epoch in epochs)


def test_training_counts_its_passes_and_leaves_the_target_alone(target, batch):
    before = {name: parameter.clone() for name, parameter in target.model.named_parameters()}
    layout, scores = Layout.of(target), scores_of(11)
    validation = {"a": model_batch(target, 5, 6, seed=1)}
    for preset, forward, backward in (
        (replace(PAPER, epochs=2), 2 * 2 * 3, 2 * 3),
        # Once the clean answers; each epoch corrupted and gated, then validation: corrupted, clean and gated.
        (replace(CORRECTED, epochs=2, batch_size=2), 3 + 2 * (2 * 3 + 3 * 5), 2 * 3),
        (replace(CORRECTED, epochs=2, divergence="all-positions"), 2 * (3 * 3 + 3 * 5), 2 * 3),
    ):
        alignment = make_map("dense", layout, layout, 0)
        training = train_map(alignment, target, {"a": scores}, {"a": batch}, preset, 0, validation)
        assert (training.passes.forward, training.passes.backward) == (forward, backward)
        assert training.passes.as_dict()["forward_equivalents"] == forward + 2 * backward
        assert len(training.losses) == 2
    for name, parameter in target.model.named_parameters():
        assert parameter.equal(before[name]) and parameter.grad is None


def test_the_map_of_the_best_validation_loss_is_kept(target, batch):
    layout, scores = Layout.of(target), {"a": scores_of(11)}
    validation = {"a": model_batch(target, 6, 7, seed=4)}
    # A step this large overshoots, so that the last epoch is not the best.
    preset = replace(CORRECTED, epochs=4, learning_rate=3.0, batch_size=1)
    alignment = make_map("dense", layout, layout, 1)
    training = train_map(alignment, target, scores, {"a": batch}, preset, 1, validation)
    assert len(training.validation_losses) == 4
    assert training.epoch == 1 + training.validation_losses.index(min(training.validation_losses)) < 4
    assert _validation_loss(alignment, target, scores, validation, preset) == min(training.validation_losses)
    with pytest.raises(UserError, match="validation prompts of every training task"):
        train_map(alignment, target, scores, {"a": batch}, preset, 1)
    with pytest.raises(UserError, match="no tasks"):
        train_map(alignment, target, scores, {}, preset, 1)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_training_repeats_itself_from_its_seed(target, batch, preset):
    layout, scores = Layout.of(target), {"a": scores_of(11)}
    validation = {"a": model_batch(target, 4, 7, seed=4)}

    def weights(seed: int) -> torch.Tensor:
        alignment = make_map("dense", layout, layout, 0)
        small = replace(preset, epochs=2, batch_size=2)
        return train_map(alignment, target, scores, {"a": batch}, small, seed, validation).map.matrix().detach()

    assert weights(5).equal(weights(5))
    # Nothing but the start of the map is drawn as released.
    assert weights(5).equal(weights(6)) == (preset == PAPER)


def test_what_a_map_is_given():
    scores = scores_of(5)
    assert map_input(scores, PAPER).equal(scores.mean[1:].float())
    assert map_input(scores, CORRECTED).abs().sum().item() == pytest.approx(1.0)
    drawn = map_input(scores, PAPER, torch.Generator().manual_seed(0))
    rows = torch.randint(6, (6,), generator=torch.Generator().manual_seed(0))
    assert drawn.equal(scores.per_example[rows, 1:].mean(0))
    alignment = DenseMap(4, 3, torch.Generator().manual_seed(0))
    given = map_input(scores, PAPER)
    assert aligned_scores(alignment, given).tolist() == [0.0, *(given @ alignment.weight).double().tolist()]


def test_choices_are_checked():
    for options, message in (
        ({"direction": "sideways"}, "direction 'sideways' is unknown; choose one of noise, denoise"),
        ({"divergence": "x"}, "divergence 'x'"),
        ({"epochs": 0}, "must be positive"),
        ({"learning_rate": 0.0}, "must be positive"),
        ({"mlp_gradient": "input"}, "with rule right, not for nap-ig-inputs with rule midpoint"),
        ({"mlp_gradient": "input", "rule": "right", "method": "exact"}, "not for exact"),
    ):
        with pytest.raises(UserError, match=message):
            Preset(**options)


@pytest.mark.parametrize("method", METHODS)
def test_released_scores_differ_at_mlps_alone_and_only_by_where_the_gradient_is_taken(target, batch, method):
    right = attribute(target, [batch], method, steps=3, rule="right").per_example
    repaired = published_scores(target, [batch], method, 3, mlp_gradient="output", accumulate_in_model_type=False)
    torch.testing.assert_close(repaired, right)
    released = published_scores(target, [batch], method, 3)
    mlps = torch.cat([torch.tensor([False]), Layout.of(target).is_mlp])
    torch.testing.assert_close(released[:, ~mlps], right[:, ~mlps])
    assert ((released - right)[:, mlps].abs() > 1e-3).all()


def test_the_released_gradient_of_an_mlp_is_that_of_its_branch(target, batch):
    start = target.embed(batch.clean_ids).requires_grad_()
    with watched_mlp_inputs(target) as inputs:
        run = target.run(batch.clean_ids, batch.attention_mask, embeddings=start, record=True)
    loss = run.logits[:, 5].sum()
    outputs = torch.autograd.grad(loss, run.activations.mlps, retain_graph=True)
    branches = torch.autograd.grad(loss, inputs)
    for layer, given, slope, found in zip(target.layers, inputs, outputs, branches, strict=True):
        given = given.detach().requires_grad_()
        written = layer.mlp(layer.post_attention_layernorm(given))
        torch.testing.assert_close(torch.autograd.grad(written, given, slope)[0], found)
    assert not target.layers[0].post_attention_layernorm._forward_pre_hooks


def test_released_sums_are_rounded_to_the_models_type():
    per_example = torch.tensor([[256.0]] + [[1.0]] * 4)
    assert total(per_example, torch.float32).tolist() == [52.0]
    # bfloat16 has 8 bits: 256 + 1 is 256.
    assert total(per_example, torch.bfloat16).item() == torch.tensor(256 / 5).bfloat16().item() == 51.25


def test_passes_count_every_prompt_forward_and_backward(target, batch):
    gates = torch.full((4, 3, len(target.nodes)), 0.5, requires_grad=True)
    with count_passes(target) as passes:
        replacement = target.record(batch.corrupted_ids, batch.attention_mask).activations
        run = target.run(batch.clean_ids, batch.attention_mask, gates=gates, replacement=replacement)
        assert (passes.forward, passes.backward) == (15, 0)
        functional.log_softmax(run.logits, -1)[..., 0].sum().backward()
    assert passes.as_dict() == {"forward": 15, "backward": 12, "forward_equivalents": 39}
    target.record(batch.clean_ids, batch.attention_mask)
    assert passes.forward == 15
    with count_passes(target) as passes:
        attribute(target, [batch], "nap-ig-inputs", steps=4, rule="right")
    assert (passes.forward, passes.backward) == (3 * 5, 3 * 4)
    assert math.isclose((passes + passes).equivalents, 2 * 39)
