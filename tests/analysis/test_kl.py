import itertools
import math

import numpy as np
import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from analysis.kl import completion_kl, completion_log_probs, exact_kl, kl_drift, ratio_with_interval, token_kl
from eval.errors import UserError
from eval.rollout.base import Sampling
from eval.rollout.hf import HFEngine
from eval.tasks import TASKS


VOCABULARY = 7
BATCHES = [
    [([1, 2, 3], [4, 5]), ([6], [1, 2, 3, 0])],
    [([2, 2], [3])],
]


def llama(seed: int, sharpness: float = 1.0) -> LlamaForCausalLM:
    """A random model; logits are proportional to `sharpness`."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        attn_implementation="sdpa",
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.model.norm.weight *= sharpness
    return model


@torch.no_grad()
def log_probs_alone(model, ids: list[int]) -> torch.Tensor:
    """Plain transformers: [length, vocabulary] for one unpadded sequence."""
    return model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)


def brute_force(p_model, q_model, prompt, completion) -> list[float]:
    """KL at each completion position, token by token of the vocabulary."""
    p, q = (log_probs_alone(model, prompt + completion).tolist() for model in (p_model, q_model))
    positions = range(len(prompt) - 1, len(prompt) + len(completion) - 1)
    return [sum(math.exp(lp) * (lp - lq) for lp, lq in zip(p[i], q[i], strict=True)) for i in positions]


def test_token_kl_of_a_known_pair_and_its_direction():
    p = torch.tensor([0.9, 0.1], dtype=torch.float64).log()
    q = torch.tensor([0.5, 0.5], dtype=torch.float64).log()
    assert token_kl(p, q).item() == pytest.approx(0.9 * math.log(1.8) + 0.1 * math.log(0.2), abs=1e-15)
    assert token_kl(q, p).item() == pytest.approx(0.5 * math.log(5 / 9) + 0.5 * math.log(5), abs=1e-15)


def test_token_kl_with_impossible_tokens():
    p = torch.tensor([0.5, 0.5, 0.0]).log()
    q = torch.tensor([0.25, 0.25, 0.5]).log()
    assert token_kl(p, q).item() == pytest.approx(math.log(2))
    assert token_kl(q, p).item() == math.inf
    assert token_kl(p, p).item() == 0


def test_equals_brute_force_on_a_small_vocabulary():
    p_model, q_model = llama(0), llama(1)
    pairs = [pair for batch in BATCHES for pair in batch]
    expected = [brute_force(p_model, q_model, *pair) for pair in pairs]
    assert min(min(sequence) for sequence in expected) > 1e-3

    measured = [kl for batch in BATCHES for kl in completion_kl(p_model, q_model, batch)]
    for sequence, values in zip(measured, expected, strict=True):
        assert sequence.tolist() == pytest.approx(values, rel=1e-5)

    result = exact_kl(p_model, q_model, BATCHES)
    total = sum(map(sum, expected))
    assert result["tokens"] == 7 and result["sequences"] == 3
    assert result["per_token"] == pytest.approx(total / 7, rel=1e-5)
    assert result["per_sequence"] == pytest.approx(total / 3, rel=1e-5)
    assert result["per_token_low"] <= result["per_token"] <= result["per_token_high"]
    assert result["per_sequence_low"] < result["per_sequence"] < result["per_sequence_high"]
    assert result["estimator"] == "exact full-vocabulary sum at each position of sampled completions"


def test_expectation_over_all_completions_is_the_divergence_of_the_two_distributions_over_completions():
    p_model, q_model = llama(0), llama(1)
    prompt = [1, 2]
    completions = [list(tokens) for tokens in itertools.product(range(VOCABULARY), repeat=2)]
    batch = [(prompt, completion) for completion in completions]

    def log_probability(model, completion):
        rows = log_probs_alone(model, prompt + completion)[1:3]
        return sum(row[token].item() for row, token in zip(rows, completion, strict=True))

    log_p = [log_probability(p_model, completion) for completion in completions]
    log_q = [log_probability(q_model, completion) for completion in completions]
    assert sum(map(math.exp, log_p)) == pytest.approx(1)
    true = sum(math.exp(lp) * (lp - lq) for lp, lq in zip(log_p, log_q, strict=True))

    kl = completion_kl(p_model, q_model, batch)
    expected = sum(math.exp(lp) * divergence.sum().item() for lp, divergence in zip(log_p, kl, strict=True))
    assert expected == pytest.approx(true, rel=1e-5)


def test_a_model_against_itself_is_exactly_zero():
    model = llama(0)
    result = exact_kl(model, model, BATCHES)
    values = {key: value for key, value in result.items() if key.startswith("per_")}
    assert len(values) == 6 and set(values.values()) == {0.0}


def test_direction_against_the_uniform_model():
    sharp, uniform = llama(0, sharpness=3.0), llama(1, sharpness=0.0)
    (batch,) = BATCHES[:1]
    log_probs = torch.cat(list(completion_log_probs(sharp, batch)))
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    to_uniform = (math.log(VOCABULARY) - entropy).mean().item()
    from_uniform = (-math.log(VOCABULARY) - log_probs.mean(-1)).mean().item()
    assert abs(to_uniform - from_uniform) > 0.1

    assert exact_kl(sharp, uniform, [batch])["per_token"] == pytest.approx(to_uniform, rel=1e-9)
    assert exact_kl(uniform, sharp, [batch])["per_token"] == pytest.approx(from_uniform, rel=1e-9)


@pytest.mark.parametrize("max_logits", [1, 2 * VOCABULARY, 5 * VOCABULARY + 3])
def test_the_size_of_the_pieces_changes_nothing_and_is_kept(max_logits):
    p_model, q_model = llama(0), llama(1)
    pieces = [log_probs.numel() for log_probs in completion_log_probs(p_model, BATCHES[0], max_logits)]
    assert max(pieces) <= max(max_logits, VOCABULARY) and sum(pieces) == 6 * VOCABULARY
    whole, cut = exact_kl(p_model, q_model, BATCHES), exact_kl(p_model, q_model, BATCHES, max_logits)
    assert cut["per_token"] == pytest.approx(whole["per_token"], rel=1e-6)
    assert cut["per_sequence_high"] == pytest.approx(whole["per_sequence_high"], rel=1e-6)


def test_a_model_that_caps_its_logits_is_refused():
    config = Gemma2Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        final_logit_softcapping=0.5,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    with pytest.raises(UserError, match="Gemma2ForCausalLM changes its logits"):
        exact_kl(llama(0), Gemma2ForCausalLM(config).eval(), BATCHES)


def test_intervals():
    rng = np.random.default_rng(0)
    values = rng.normal(3.0, 2.0, size=400)
    mean, low, high = ratio_with_interval(values, [1] * 400, seed=0)
    assert mean == pytest.approx(values.mean())
    half_width = 1.96 * values.std() / math.sqrt(400)
    assert low == pytest.approx(mean - half_width, abs=0.1 * half_width)
    assert high == pytest.approx(mean + half_width, abs=0.1 * half_width)
    assert ratio_with_interval(values, [1] * 400, seed=0) == (mean, low, high)
    # The same value per token everywhere leaves nothing uncertain, however long the sequences.
    assert ratio_with_interval([2.0, 6.0, 10.0], [1, 3, 5], seed=0) == pytest.approx((2.0, 2.0, 2.0))


def test_kl_drift_measures_both_directions_on_their_own_samples(tiny_checkpoint):
    base, moved = tiny_checkpoint("base", seed=0), tiny_checkpoint("moved", seed=1)
    tasks = ["arithmetic", "yes_no"]
    drift = kl_drift(base, {"still": base, "moved": moved}, tasks, 6, seed=3, max_new_tokens=5, batch_size=4)

    assert list(drift) == ["still", "moved"] and list(drift["moved"]) == tasks
    for task in tasks:
        for direction in ("forward", "reverse"):
            assert drift["still"][task][direction]["per_token"] == 0.0
            assert drift["moved"][task][direction]["per_token"] > 0.01
        forward, reverse = drift["moved"][task]["forward"], drift["moved"][task]["reverse"]
        assert (forward["direction"], forward["sampled_from"]) == ("KL(base || model)", "base")
        assert (reverse["direction"], reverse["sampled_from"]) == ("KL(model || base)", "model")

    base_engine, engine = HFEngine.from_pretrained(base, device="cpu"), HFEngine.from_pretrained(moved, device="cpu")
    prompts = list(TASKS["arithmetic"].load("test", 6, 3)["prompt"])
    sampling = Sampling(max_new_tokens=5, temperature=1.0, seed=3)
    for sampler, other, direction in ((base_engine, engine, "forward"), (engine, base_engine, "reverse")):
        (completions,) = sampler.generate(prompts, sampling)
        sums, tokens = 0.0, 0
        for ids, (completion,) in zip(sampler.encode(prompts), completions, strict=True):
            sums += sum(brute_force(sampler.model, other.model, ids, completion.token_ids))
            tokens += len(completion.token_ids)
        measured = drift["moved"]["arithmetic"][direction]
        assert measured["tokens"] == tokens and measured["sequences"] == 6
        assert measured["per_token"] == pytest.approx(sums / tokens, rel=1e-4)


def test_kl_drift_refuses_another_chat_template(tiny_checkpoint):
    base, moved = tiny_checkpoint("base", seed=0), tiny_checkpoint("moved", seed=1)
    template = moved / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|user|>", "<|user|>Q: "))
    with pytest.raises(UserError, match="encodes the prompts of yes_no differently"):
        kl_drift(base, {"moved": moved}, ["yes_no"], 2, seed=0, max_new_tokens=2, batch_size=2)
