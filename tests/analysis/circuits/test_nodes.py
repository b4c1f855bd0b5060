import peft
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from analysis.circuits.nodes import ARCHITECTURES, CircuitModel, head_outputs, node_names, parse_node
from analysis.circuits.planted import model_batch
from eval.errors import UserError
from tests.tiny import random_model


def circuit_model(architecture="llama", **options) -> CircuitModel:
    return CircuitModel(random_model(architecture, **options)[0])


def test_names_and_their_order():
    names = node_names(layers=2, heads=2)
    assert names == ("input", "a0.h0", "a0.h1", "m0", "a1.h0", "a1.h1", "m1")
    assert [parse_node(name) for name in names] == [
        (-1, None),
        (0, 0),
        (0, 1),
        (0, None),
        (1, 0),
        (1, 1),
        (1, None),
    ]
    with pytest.raises(UserError, match="'a1h2' is no node"):
        parse_node("a1h2")
    with pytest.raises(UserError, match="no node 'm2'"):
        circuit_model().gates(["m2"])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_open_and_closed_gates_are_the_clean_and_the_corrupted_run_to_the_last_bit(architecture):
    model = circuit_model(architecture)
    batch = model_batch(model, examples=3, length=7)
    plain = model.model(batch.clean_ids, attention_mask=batch.attention_mask).logits[:, -1]
    clean = model.record(batch.clean_ids, batch.attention_mask)
    corrupted = model.record(batch.corrupted_ids, batch.attention_mask)
    torch.testing.assert_close(clean.logits, plain)
    ones, zeros = torch.ones(len(model.nodes)), torch.zeros(len(model.nodes))
    noised = {"replacement": corrupted.activations}
    assert model.run(batch.clean_ids, batch.attention_mask, gates=ones, **noised).logits.equal(clean.logits)
    assert model.run(batch.clean_ids, batch.attention_mask, gates=zeros, **noised).logits.equal(corrupted.logits)
    # Denoising: clean activations pinned into the corrupted run.
    pinned = {"replacement": clean.activations}
    assert model.run(batch.corrupted_ids, batch.attention_mask, gates=zeros, **pinned).logits.equal(clean.logits)
    assert model.run(batch.corrupted_ids, batch.attention_mask, gates=ones, **pinned).logits.equal(corrupted.logits)


def test_several_sets_of_gates_in_one_pass_are_the_passes_one_by_one():
    model = circuit_model()
    batch = model_batch(model, examples=3, length=7)
    corrupted = model.record(batch.corrupted_ids, batch.attention_mask).activations
    of_each = torch.rand(4, 3, len(model.nodes), generator=torch.Generator().manual_seed(0))

    def logits(gates):
        return model.run(batch.clean_ids, batch.attention_mask, gates=gates, replacement=corrupted).logits

    one_by_one = torch.stack([logits(gates) for gates in of_each])
    torch.testing.assert_close(logits(of_each), one_by_one, rtol=1e-5, atol=1e-5)
    shared = of_each[:, :1]
    one_by_one = torch.stack([logits(gates[0]) for gates in shared])
    torch.testing.assert_close(logits(shared), one_by_one, rtol=1e-5, atol=1e-5)


def test_a_closed_gate_is_the_node_s_weights_set_to_zero():
    batch = model_batch(circuit_model(), examples=3, length=7)
    model = circuit_model()
    removed = model.gates(set(model.nodes) - {"a0.h2", "m1"})
    zero = model.record(batch.clean_ids, batch.attention_mask).activations
    for tensor in zero.tensors():
        tensor.zero_()
    gated = model.run(batch.clean_ids, batch.attention_mask, gates=removed, replacement=zero).logits
    layers = model.model.model.layers
    layers[0].self_attn.o_proj.weight[:, 16:24] = 0
    layers[1].mlp.down_proj.weight.zero_()
    edited = model.model(batch.clean_ids).logits[:, -1]
    torch.testing.assert_close(gated, edited, rtol=1e-5, atol=1e-5)


def test_all_positions_and_recording():
    model = circuit_model("qwen3")
    batch = model_batch(model, examples=2, length=5)
    run = model.run(batch.clean_ids, batch.attention_mask, record=True, all_positions=True)
    torch.testing.assert_close(run.logits, model.model(batch.clean_ids).logits)
    assert [tuple(tensor.shape) for tensor in run.activations.tensors()] == [(2, 5, 32)] * 5
    written = head_outputs(model, 0, run.activations.heads[0]).sum(-2)
    torch.testing.assert_close(written, model.layers[0].self_attn.o_proj(run.activations.heads[0]))


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padding_on_either_side_changes_nothing(architecture, implementation):
    model = circuit_model(architecture, attn_implementation=implementation)
    batch = model_batch(model, examples=2, length=6)
    expected = model.run(batch.clean_ids, batch.attention_mask).logits
    filler = torch.zeros(2, 3, dtype=torch.long)
    for pad in (lambda ids: torch.cat([filler, ids], 1), lambda ids: torch.cat([ids, filler], 1)):
        padded = model.run(pad(batch.clean_ids), pad(batch.attention_mask)).logits
        torch.testing.assert_close(padded, expected, rtol=1e-4, atol=1e-4)


def test_hooks_are_gone_after_a_run_also_after_one_that_fails():
    model = circuit_model()
    batch = model_batch(model, examples=2, length=5)
    model.record(batch.clean_ids, batch.attention_mask)
    with pytest.raises(ValueError, match="gates of shape"):
        zeros = model.record(batch.clean_ids, batch.attention_mask).activations
        model.run(batch.clean_ids, batch.attention_mask, gates=torch.ones(3), replacement=zeros)
    with pytest.raises(IndexError):
        model.run(batch.clean_ids + 10_000, batch.attention_mask, record=True)
    for module in model.model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bfloat16_keeps_gates_and_logits_in_float32(architecture):
    model = CircuitModel(random_model(architecture)[0].bfloat16())
    batch = model_batch(model, examples=2, length=6)
    corrupted = model.record(batch.corrupted_ids, batch.attention_mask)
    gates = torch.full((len(model.nodes),), 0.5, requires_grad=True)
    run = model.run(batch.clean_ids, batch.attention_mask, gates=gates, replacement=corrupted.activations)
    run.logits.sum().backward()
    assert run.logits.dtype == gates.grad.dtype == torch.float32
    assert corrupted.activations.heads[0].dtype == torch.bfloat16
    assert (gates.grad != 0).all()


def test_parameters_are_frozen_and_the_model_is_in_evaluation_mode():
    network, _ = random_model()
    network.train()
    model = CircuitModel(network)
    assert not any(parameter.requires_grad for parameter in model.model.parameters())
    assert not network.training


def test_other_models_are_refused_by_name():
    config = GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2, bos_token_id=None, eos_token_id=None)
    with pytest.raises(UserError, match="not GPT2LMHeadModel"):
        CircuitModel(GPT2LMHeadModel(config))
    adapted = peft.get_peft_model(random_model()[0], peft.LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(UserError, match="merge a PEFT adapter"):
        CircuitModel(adapted)


def test_the_guards_find_a_model_that_is_not_the_sum_of_its_nodes():
    network, _ = random_model()
    network.model.layers[1].self_attn.o_proj.register_forward_hook(lambda _m, _a, output: 1.5 * output)
    with pytest.raises(UserError, match="the heads of layer 1 do not sum up to its attention"):
        CircuitModel(network)
    network, _ = random_model()
    network.model.layers[0].register_forward_hook(lambda _m, _a, output: 1.5 * output)
    with pytest.raises(UserError, match="do not sum up to the residual"):
        CircuitModel(network)
