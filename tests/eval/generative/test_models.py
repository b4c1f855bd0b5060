"""The models: shapes, starts, what they can see, and that a few steps of training lower the loss."""

import importlib.util

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from eval.errors import UserError
from eval.generative.checkpoint import MODELS, build_model, load_run, load_weights, save_weights
from eval.generative.dit import DiT
from eval.generative.embedding import position_codes, sinusoids
from eval.generative.masked import draw
from eval.generative.measure import gap_ratio_copies, measure_samples
from eval.rules import make_rule
from eval.rules.base import Split
from eval.rules.encoding import encode


HAS_DIFFUSERS = importlib.util.find_spec("diffusers") is not None
NEEDS_DIFFUSERS = pytest.mark.skipif(
    not HAS_DIFFUSERS, reason="diffusers, an optional dependency, is not installed: pip install -e '.[generative]'"
)
ALL_MODELS = [pytest.param(name, marks=NEEDS_DIFFUSERS if name == "diffusers_dit" else ()) for name in MODELS]
RULES = [make_rule("parity_grid", side=4, group=2), make_rule("latin_square", side=4)]


def built(tiny, name, rule, seed=0, **options):
    torch.manual_seed(seed)
    return build_model(tiny | {"model": name} | options, rule)


def loss_of(model, strings, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return model(torch.as_tensor(strings), *model.corrupt(len(strings), generator))


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
@pytest.mark.parametrize("name", ALL_MODELS)
def test_training_lowers_the_loss_and_samples_are_strings(tiny, name, rule):
    model = built(tiny, name, rule)
    strings = np.repeat(rule.split(train=2, held_out=10, seed=0).train, 20, axis=0)
    before = loss_of(model, strings, seed=1)
    assert before.shape == (40,) and torch.isfinite(before).all()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(40):
        optimizer.zero_grad()
        loss_of(model, strings, seed=step).mean().backward()
        if step:
            unused = [name for name, weight in model.named_parameters() if weight.grad is None]
            assert unused == []
        optimizer.step()
    assert loss_of(model, strings, seed=1).mean() < 0.9 * before.mean()
    samples, vectors = model.sample(20, torch.Generator().manual_seed(0))
    assert samples.shape == (20, rule.positions) and samples.dtype == np.int8
    assert samples.min() >= 0 and samples.max() < rule.vocabulary
    again, _ = model.sample(20, torch.Generator().manual_seed(0))
    assert np.array_equal(samples, again)
    if vectors is not None:
        assert vectors.shape == (20, rule.dimension)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL_MODELS)
def test_weights_survive_the_disk(tiny, name, tmp_path):
    rule = RULES[0]
    model, other = built(tiny, name, rule, seed=0), built(tiny, name, rule, seed=1)
    strings = rule.split(train=8, held_out=1, seed=0).train
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    assert not torch.equal(loss_of(model, strings), loss_of(other, strings))
    save_weights(model, tmp_path)
    load_weights(other, tmp_path)
    assert torch.equal(loss_of(model, strings), loss_of(other, strings))


@pytest.mark.parametrize("name", ["mlp", "dit"])
def test_a_new_denoiser_starts_as_the_zero_network(tiny, name):
    model = built(tiny, name, RULES[0])
    y = torch.randn(3, 16)
    assert torch.equal(model.network(y, torch.zeros(3)), torch.zeros(3, 16))


def test_the_dit_shares_one_time_embedding_and_its_blocks_start_as_the_identity(tiny):
    def parameters(depth):
        model = DiT((9,), 1, 1, width=32, depth=depth, heads=2)
        return sum(weight.numel() for weight in model.parameters()), model

    one, model = parameters(1)
    two, _ = parameters(2)
    # A further block: adaLN's six parts, attention and MLP with their biases, and no embedder.
    assert two - one == (32 * 192 + 192) + (32 * 96 + 96) + (32 * 32 + 32) + (32 * 128 + 128) + (128 * 32 + 32)
    hidden, embedding = torch.randn(2, 9, 32), torch.randn(2, 32)
    assert torch.equal(model.blocks[0](hidden, embedding), hidden)


def test_the_dit_mixes_positions_and_needs_its_position_codes():
    torch.manual_seed(0)
    model = DiT((6,), 1, 1, width=32, depth=1, heads=2, positional_scale=1.0)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    y = torch.randn(1, 6)
    other = y.clone()
    other[0, 5] += 1
    assert (model(y, torch.zeros(1)) != model(other, torch.zeros(1))).all()
    # Without position codes a permuted input gives the permuted output.
    with torch.no_grad():
        model.positions.zero_()
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(model(y[:, order], torch.zeros(1)), model(y, torch.zeros(1))[:, order])


@pytest.mark.parametrize("scale", [0.02, 1.0])
def test_the_positional_scale_is_what_is_asked_for(tiny, scale):
    grid = make_rule("parity_grid", side=6, group=2)
    learned = built(tiny, "dit", grid, positional_scale=scale).network.positions
    assert learned.requires_grad and learned.std().item() == pytest.approx(scale, rel=0.1)
    fixed = built(tiny, "dit", grid, positional_scale=scale, positions="sincos").network
    assert "positions" not in dict(fixed.named_parameters())
    assert fixed.positions.abs().max().item() == pytest.approx(scale, rel=1e-5)
    gpt = built(tiny, "gpt2", grid, positional_scale=scale).network.transformer.wpe.weight
    assert gpt.std().item() == pytest.approx(scale, rel=0.1)


def test_sincos_codes_tell_all_cells_of_a_grid_apart():
    codes = position_codes((4, 4), 32)
    assert codes.shape == (16, 32)
    assert torch.pdist(codes).min() > 0.5
    # The first half belongs to the row.
    assert torch.equal(codes[0, :16], codes[3, :16]) and not torch.equal(codes[0, :16], codes[4, :16])
    assert torch.equal(sinusoids(torch.zeros(1), 4, 10.0), torch.tensor([[1.0, 1.0, 0.0, 0.0]]))


def test_attention_weights_are_those_of_the_forward_pass():
    torch.manual_seed(0)
    attention = DiT((6,), 1, 1, width=32, depth=1, heads=4).blocks[0].attention
    hidden = torch.randn(2, 6, 32)
    weights = attention.weights(hidden)
    assert weights.shape == (2, 4, 6, 6)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 4, 6))
    _, _, value = attention.split(attention.qkv(hidden))
    mixed = (weights @ value).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention.project(mixed), attention(hidden))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_next_token_loss_and_samples(tiny, name, tmp_path):
    rule = make_rule("parity", length=6, group=2)
    model = built(tiny, name, rule)
    strings = torch.as_tensor(rule.draw(5, np.random.default_rng(0)))
    losses = model.position_loss(strings)
    assert losses.shape == (5, 6)
    torch.testing.assert_close(model(strings), losses.mean(dim=1))
    # What comes later does not matter.
    other = strings.clone()
    other[:, 3:] = 1 - other[:, 3:]
    torch.testing.assert_close(model.position_loss(other)[:, :3], losses[:, :3])
    # Probabilities of all strings add up to one.
    every = np.array(np.meshgrid(*[[0, 1]] * 6)).reshape(6, -1).T
    total = torch.exp(-model.position_loss(torch.as_tensor(every)).double().sum(dim=1)).sum().item()
    assert total == pytest.approx(1.0, abs=1e-5)
    # Sampling with the cache follows these probabilities.
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    samples, _ = model.sample(20000, torch.Generator().manual_seed(0))
    share = np.bincount(samples @ (1 << np.arange(6)), minlength=64) / 20000
    chance = torch.exp(-model.position_loss(torch.as_tensor(every)).double().sum(dim=1)).detach().numpy()
    expected = np.zeros(64)
    expected[every @ (1 << np.arange(6))] = chance
    assert np.abs(share - expected).max() < 5 * np.sqrt(expected.max() / 20000)
    prompts = np.array([[1, 0]] * 50, dtype=np.int8)
    prompted, _ = model.sample(50, torch.Generator().manual_seed(0), prompts)
    assert np.array_equal(prompted[:, :2], prompts) and prompted.shape == (50, 6)
    # A checkpoint is a folder that transformers opens.
    save_weights(model, tmp_path)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path)
    logits = opened(input_ids=model.with_start(strings.long())[:, :-1]).logits
    expected_logits = model.network(input_ids=model.with_start(strings.long())[:, :-1]).logits
    torch.testing.assert_close(logits, expected_logits)


def test_masked_diffusion_bound_and_sampler(tiny):
    rule = make_rule("parity", length=6, group=3)
    model = built(tiny, "masked_dit", rule)
    times, masked = model.corrupt(4000, torch.Generator().manual_seed(0))
    assert times.min() > 0 and times.max() <= 1
    assert masked.float().mean().item() == pytest.approx(0.5, abs=0.01)
    # A new network gives even odds to both bits, whose bound is ln 2 per bit.
    loss = loss_of(model, rule.draw(4000, np.random.default_rng(0)))
    assert loss.mean().item() == pytest.approx(np.log(2), rel=0.05)
    # Masked bits are not looked at, bits in sight are.
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    strings = torch.tensor([[0, 1, 1, 0, 0, 1]])
    hidden = torch.tensor([[True, False, False, True, True, True]])
    other = strings ^ hidden.long()
    half = torch.tensor([0.5])
    assert torch.equal(model.logits(strings, hidden, half), model.logits(other, hidden, half))
    assert not torch.equal(model.logits(strings, hidden, half), model.logits(1 - strings, hidden, half))


def test_draw_follows_the_softmax():
    logits = torch.tensor([0.0, 1.0, -1.0]).expand(30000, 3)
    share = torch.bincount(draw(logits, torch.Generator().manual_seed(0)), minlength=3) / 30000
    torch.testing.assert_close(share, torch.softmax(logits[0], dim=0), atol=4 * 0.5 / 30000**0.5, rtol=0)


def test_measures_of_samples():
    rule = make_rule("parity", length=6, group=3)
    data = Split(
        train=np.array([[0] * 6, [1, 1, 0, 0, 0, 0]], dtype=np.int8),
        control=np.array([[1, 0, 1, 0, 0, 0]], dtype=np.int8),
        held_out=np.empty((0, 6), dtype=np.int8),
    )
    samples = np.array([[0] * 6, [0] * 6, [1, 0, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]], dtype=np.int8)
    row = measure_samples(rule, samples, encode(samples), data)
    # Exact copies have ratio 0; the other two are equally far from both training strings.
    assert row == {
        "samples": 4,
        "valid": 0.75,
        "group_valid": 7 / 8,
        "copies": 0.5,
        "control": 0.25,
        "novel_valid": 0.5,
        "unique": 0.75,
        "gap_ratio_copies": 0.5,
    }
    copies = measure_samples(rule, samples[:2], None, data)
    assert copies["novel_valid"] is None and copies["gap_ratio_copies"] is None and copies["copies"] == 1.0


def test_gap_ratio_is_a_third():
    train = np.array([[0, 0], [1, 1]], dtype=np.int8)
    # On the diagonal at distance d from (-1, -1) and 2 sqrt(2) - d from (1, 1): a third at d = sqrt(2) / 2.
    for place, share in ((-0.51, 1.0), (-0.49, 0.0)):
        assert gap_ratio_copies(torch.tensor([[place, place]]), train, 2) == share
    assert gap_ratio_copies(torch.zeros(1, 2), train[:1], 2) is None


@pytest.mark.skipif(HAS_DIFFUSERS, reason="diffusers is installed, so its absence cannot be seen")
def test_without_diffusers_the_message_says_what_to_install(tiny):
    with pytest.raises(UserError, match=r"needs the diffusers library; install it with: pip install"):
        built(tiny, "diffusers_dit", RULES[0])


@NEEDS_DIFFUSERS
def test_diffusers_takes_square_grids_only(tiny):
    with pytest.raises(UserError, match="generates square grids"):
        built(tiny, "diffusers_dit", make_rule("parity", length=16, group=2))


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(UserError, match="holds no run with checkpoints"):
        load_run(tmp_path)
