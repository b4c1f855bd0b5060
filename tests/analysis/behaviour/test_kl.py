import itertools
import json
import math

import numpy as np
import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from analysis.behaviour.kl import (
    completion_kl,
    exact_kl,
    kl_drift,
    kl_matrices,
    prompt_sets,
    read_prompts,
    sampled_kl,
    token_kl,
)
from eval.errors import UserError
from eval.intervals import ratio_with_interval
from eval.log_probs import completion_log_probs
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

    measured = [kl for batch in BATCHES for kl in completion_kl(p_model, q_model, batch)["exact"]]
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

    # The exact divergences at the positions of p's completions, and both estimators, are unbiased for it.
    for sequences in completion_kl(p_model, q_model, batch).values():
        expected = sum(math.exp(lp) * divergence.sum().item() for lp, divergence in zip(log_p, sequences, strict=True))
        assert expected == pytest.approx(true, rel=1e-5)
    for lp, lq, k1 in zip(log_p, log_q, completion_kl(p_model, q_model, batch)["k1"], strict=True):
        assert k1.sum().item() == pytest.approx(lp - lq, abs=1e-6)


def test_sampled_estimators_of_known_probabilities():
    estimates = sampled_kl(torch.tensor([0.5, 0.1]).log(), torch.tensor([0.25, 0.4]).log())
    assert estimates["k1"].tolist() == pytest.approx([math.log(2), -math.log(4)])
    assert estimates["k3"].tolist() == pytest.approx([-0.5 + math.log(2), 3 - math.log(4)])


@pytest.mark.slow
def test_sampled_estimators_are_unbiased_over_samples():
    p_model, q_model = llama(0), llama(1)
    prompt, count, length = [1, 2], 4000, 3
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        ids = torch.tensor([prompt]).repeat(count, 1)
        for _ in range(length):
            probabilities = p_model(input_ids=ids).logits[:, -1].double().softmax(-1)
            ids = torch.cat([ids, probabilities.multinomial(1, generator=generator)], dim=1)
    batch = [(prompt, row[2:]) for row in ids.tolist()]
    # The true value, from all completions of this length.
    every = [(prompt, list(tokens)) for tokens in itertools.product(range(VOCABULARY), repeat=length)]
    tokens = torch.tensor([completion for _, completion in every])
    log_p = torch.cat(list(completion_log_probs(p_model, every))).gather(1, tokens.view(-1, 1)).view(-1, length)
    exact = torch.stack(completion_kl(p_model, q_model, every)["exact"])
    true = (log_p.sum(1).exp() * exact.sum(1)).sum().item()

    result = exact_kl(p_model, q_model, [batch])
    values = completion_kl(p_model, q_model, batch)
    for name, measured in (("exact", result), ("k1", result["k1"]), ("k3", result["k3"])):
        per_sequence = torch.stack(values[name]).sum(1)
        standard_error = per_sequence.std().item() / math.sqrt(count)
        assert measured["per_sequence"] == pytest.approx(per_sequence.mean().item(), rel=1e-9)
        assert abs(measured["per_sequence"] - true) < 3 * standard_error
        assert standard_error < 0.05 * true
    assert torch.stack(values["k3"]).min() >= 0 > torch.stack(values["k1"]).min()


def test_a_model_against_itself_is_exactly_zero():
    model = llama(0)
    result = exact_kl(model, model, BATCHES)
    for estimate in (result, result["k1"], result["k3"]):
        values = {key: value for key, value in estimate.items() if key.startswith("per_")}
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
    for name in ("k1", "k3"):
        assert cut[name]["per_sequence"] == pytest.approx(whole[name]["per_sequence"], rel=1e-6)


def test_logits_are_never_there_for_more_positions_than_allowed():
    model, calls = llama(0), {"head": [], "transformer": 0}

    def count_transformer(*_):
        calls["transformer"] += 1

    model.lm_head.register_forward_hook(lambda module, args, output: calls["head"].append(tuple(output.shape)))
    model.model.register_forward_hook(count_transformer)
    (batch,) = BATCHES[:1]  # 6 completion tokens in 2 sequences of 5 positions
    list(completion_log_probs(model, batch, max_logits=2 * VOCABULARY))
    assert calls == {"head": [(2, VOCABULARY)] * 3, "transformer": 1}


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
        assert measured["k1"]["tokens"] == tokens and measured["k3"]["per_token"] > 0


def test_free_text_is_one_more_set_of_prompts(tiny_checkpoint, tmp_path):
    base, moved = tiny_checkpoint("base", seed=0), tiny_checkpoint("moved", seed=1)
    (tmp_path / "chat.jsonl").write_text('{"prompt": "Tell me a story."}\n{"prompt": ""}\n{"prompt": "Sum 1 and 2"}\n')
    drift = kl_drift(base, {"moved": moved}, ["yes_no"], 2, 0, 3, 4, "cpu", [tmp_path / "chat.jsonl"])
    assert list(drift["moved"]) == ["yes_no", "chat"]
    forward = drift["moved"]["chat"]["forward"]
    assert forward["prompts"] == "first 2 of chat.jsonl" and forward["sequences"] == 2
    assert forward["per_token"] > 0
    alone = kl_drift(base, {"moved": moved}, [], 2, 0, 3, 4, "cpu", [tmp_path / "chat.jsonl"])
    assert alone["moved"]["chat"] == drift["moved"]["chat"]


def test_prompts_from_files(tmp_path):
    def user(content):
        return {"role": "user", "content": content}

    text, rows = tmp_path / "text.txt", tmp_path / "rows.jsonl"
    text.write_text("first line\n\n  second line\u2028still second\n", encoding="utf-8")
    assert read_prompts(text) == [[user("first line")], [user("  second line\u2028still second")]]
    system = {"role": "system", "content": "Be brief."}
    rows.write_text(json.dumps({"prompt": [system, user("hi")], "answer": 3}) + "\n" + json.dumps({"prompt": ""}))
    assert read_prompts(rows) == [[system, user("hi")], [user("")]]


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "line 1 of .* is not JSON"),
        ('{"prompt": "a"}\n\n{"prompt": "b"}', "line 2 of .* is not JSON"),
        ('{"text": "a"}', 'line 1 of .* has no "prompt"'),
        ('["a"]', 'line 1 of .* has no "prompt"'),
        ('{"prompt": []}', 'line 1 of .* has no "prompt"'),
        ('{"prompt": [{"role": "user"}]}', 'line 1 of .* has no "prompt"'),
    ],
)
def test_broken_files_of_prompts(tmp_path, content, message):
    (tmp_path / "rows.jsonl").write_text(content)
    with pytest.raises(UserError, match=message):
        read_prompts(tmp_path / "rows.jsonl")


def test_prompts_that_are_missing_or_called_alike(tmp_path):
    (tmp_path / "yes_no.txt").write_text("a prompt")
    (tmp_path / "blank.txt").write_text("\n \n")
    with pytest.raises(UserError, match="cannot read prompts from"):
        read_prompts(tmp_path / "absent.txt")
    with pytest.raises(UserError, match="holds no prompts"):
        read_prompts(tmp_path / "blank.txt")
    with pytest.raises(UserError, match="two sets of prompts are called 'yes_no'"):
        prompt_sets(["yes_no"], [tmp_path / "yes_no.txt"], 2, seed=0)
    with pytest.raises(UserError, match="no prompts to measure on"):
        prompt_sets([], [], 2, seed=0)


def test_matrices_compare_each_stage_with_the_one_before_and_with_base(tiny_checkpoint):
    paths = {name: tiny_checkpoint(name, seed=seed) for seed, name in enumerate(("base", "first", "second"))}
    stages = {"first": paths["first"], "same": paths["first"], "second": paths["second"]}
    tasks = ["arithmetic", "yes_no"]
    result = kl_matrices(paths["base"], stages, tasks, 4, seed=2, max_new_tokens=4, batch_size=3, device="cpu")
    assert result["order"] == ["base", "first", "same", "second"]
    incremental, cumulative = result["incremental"], result["cumulative"]
    assert list(incremental) == list(cumulative) == list(stages)
    expected = {"first": "base", "same": "first", "second": "same"}
    for task in tasks:
        for name, before in expected.items():
            assert incremental[name][task]["direction"] == f"KL({name} || {before})"
            assert cumulative[name][task]["direction"] == f"KL({name} || base)"
            assert incremental[name][task]["sampled_from"] == cumulative[name][task]["sampled_from"] == name
        assert incremental["first"][task] == cumulative["first"][task]
        assert incremental["same"][task]["per_token"] == 0.0
        assert cumulative["same"][task]["per_token"] == cumulative["first"][task]["per_token"]
        # The two-model measurement of this very pair, in the direction model || base, is the same number.
        for reference, matrix in (("first", incremental), ("base", cumulative)):
            pair = kl_drift(paths[reference], {"second": paths["second"]}, [task], 4, 2, 4, 3, "cpu")
            assert matrix["second"][task]["per_sequence"] == pair["second"][task]["reverse"]["per_sequence"]


def test_matrices_refuse_another_chat_template(tiny_checkpoint):
    base, moved = tiny_checkpoint("base", seed=0), tiny_checkpoint("moved", seed=1)
    template = moved / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|user|>", "<|user|>Q: "))
    with pytest.raises(UserError, match="encodes the prompts of yes_no differently"):
        kl_matrices(base, {"moved": moved}, ["yes_no"], 2, seed=0, max_new_tokens=2, batch_size=2)


def test_kl_drift_refuses_another_chat_template(tiny_checkpoint):
    base, moved = tiny_checkpoint("base", seed=0), tiny_checkpoint("moved", seed=1)
    template = moved / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|user|>", "<|user|>Q: "))
    with pytest.raises(UserError, match="encodes the prompts of yes_no differently"):
        kl_drift(base, {"moved": moved}, ["yes_no"], 2, seed=0, max_new_tokens=2, batch_size=2)


@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
def test_a_byte_order_mark_is_no_part_of_the_first_prompt(tmp_path, suffix):
    text = '{"prompt": "first"}\n' if suffix == ".jsonl" else "first\nsecond\n"
    (tmp_path / f"plain{suffix}").write_text(text, encoding="utf-8")
    (tmp_path / f"marked{suffix}").write_text(text, encoding="utf-8-sig")
    assert read_prompts(tmp_path / f"marked{suffix}") == read_prompts(tmp_path / f"plain{suffix}")
