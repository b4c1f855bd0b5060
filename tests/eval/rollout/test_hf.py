"""The Hugging Face engine against plain transformers, alone and with a population in one batch."""

import copy
from dataclasses import dataclass

import pytest
import torch

from eval.errors import UserError
from eval.rollout.base import Sampling
from eval.rollout.hf import HFEngine
from eval.rollout.loading import load_model, save_model
from tests.tiny import random_checkpoint, random_model


ARCHITECTURES = ("llama", "qwen2", "qwen3", "mistral")
PROMPTS = [[{"role": "user", "content": text}] for text in ("3 7 12 -> 16", "1+2", "A 12+7 B 31-5", "9", "34+58>91?")]
GREEDY = Sampling(max_new_tokens=24)


@dataclass
class GaussianMember:
    index: int
    sigma: float = 0.05

    def delta(self, name, weight):
        generator = torch.Generator().manual_seed(self.index * 1000 + len(name))
        return self.sigma * torch.randn(weight.shape, generator=generator)


def token_ids(completions):
    return [[[sample.token_ids for sample in prompt] for prompt in member] for member in completions]


def plain_generate(model, tokenizer, prompts, max_new_tokens):
    """One prompt at a time through transformers' own `generate`: nothing to share, nothing to pad."""
    answers = []
    for prompt in prompts:
        ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        output = model.generate(**ids, max_new_tokens=max_new_tokens, do_sample=False)
        answers.append([output[0, ids["input_ids"].shape[1] :].tolist()])
    return answers


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_equals_plain_transformers(architecture):
    model, tokenizer = random_model(architecture)
    expected = plain_generate(model, tokenizer, PROMPTS, 24)
    assert token_ids(HFEngine(model, tokenizer).generate(PROMPTS, GREEDY)) == [expected]
    assert len({tuple(answer[0]) for answer in expected}) == len(PROMPTS), "the answers should tell prompts apart"


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_member_equals_plain_transformers_with_its_weights(architecture):
    model, tokenizer = random_model(architecture)
    members = [GaussianMember(index) for index in range(6)]
    found = token_ids(HFEngine(model, tokenizer).generate(PROMPTS, GREEDY, members))
    for member, answers in zip(members, found, strict=True):
        alone = copy.deepcopy(model)
        with torch.no_grad():
            for name, parameter in alone.named_parameters():
                parameter.add_(member.delta(name, parameter))
        assert answers == plain_generate(alone, tokenizer, PROMPTS, 24)
    assert len({str(answers) for answers in found}) == len(members), "the answers should tell members apart"


def test_groups_of_any_size_give_the_same_completions():
    model, tokenizer = random_model()
    members = [GaussianMember(index) for index in range(5)]
    together = HFEngine(model, tokenizer).generate(PROMPTS, GREEDY, members)
    in_turn = HFEngine(model, tokenizer, population_bytes=1).generate(PROMPTS, GREEDY, members)
    assert token_ids(together) == token_ids(in_turn)


@dataclass
class ThinMember:
    """Rank-2 products on matrices, dense biases, norms and embeddings, or none there."""

    index: int
    rest: str = "dense"
    sigma: float = 0.05
    rank: int = 2

    def kind(self, name, weight):
        matrix = weight.ndim == 2 and "embed" not in name
        return "low_rank" if matrix else self.rest

    def factors(self, name, weight):
        generator = torch.Generator().manual_seed(self.index * 1000 + len(name))
        a, b = (torch.randn(size, 2, generator=generator) for size in weight.shape)
        return self.sigma * a, b

    def delta(self, name, weight):
        if self.kind(name, weight) == "low_rank":
            a, b = self.factors(name, weight)
            return a @ b.T
        return GaussianMember(self.index, self.sigma if self.rest == "dense" else 0.0).delta(name, weight)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("rest", ("dense", "frozen"))
def test_low_rank_members_equal_plain_transformers_with_their_weights(architecture, rest):
    model, tokenizer = random_model(architecture)
    members = [ThinMember(index, rest) for index in range(4)]
    found = token_ids(HFEngine(model, tokenizer).generate(PROMPTS, GREEDY, members))
    for member, answers in zip(members, found, strict=True):
        alone = copy.deepcopy(model)
        with torch.no_grad():
            for name, parameter in alone.named_parameters():
                parameter.add_(member.delta(name, parameter))
        assert answers == plain_generate(alone, tokenizer, PROMPTS, 24)
    assert len({str(answers) for answers in found}) == len(members), "the answers should tell members apart"


def test_low_rank_and_dense_members_mix():
    model, tokenizer = random_model()
    members = [ThinMember(0), GaussianMember(1), ThinMember(2, "frozen")]
    engine = HFEngine(model, tokenizer)
    alone = [engine.generate(PROMPTS, GREEDY, [member])[0] for member in members]
    assert token_ids(engine.generate(PROMPTS, GREEDY, members)) == token_ids(alone)


def test_low_rank_members_take_the_memory_of_their_factors():
    model, tokenizer = random_model()
    engine = HFEngine(model, tokenizer)
    weights = engine.named_weights()
    factors = sum(2 * sum(w.shape) * 4 for name, w in weights.items() if w.ndim == 2 and "embed" not in name)
    sizes = {
        kind: sum(engine._overlay_bytes(ThinMember(0, kind), *item) for item in weights.items())
        for kind in ("frozen", "dense")
    }
    assert sizes["frozen"] == factors
    assert sizes["dense"] == factors + sum(w.nbytes for name, w in weights.items() if w.ndim == 1 or "embed" in name)
    overlays = engine._overlays([ThinMember(0, "frozen"), ThinMember(1, "frozen")])
    assert sum(f.a.nbytes + f.b.nbytes for f in overlays.values()) == 2 * factors


def test_groups_fit_the_memory_budget():
    model, tokenizer = random_model()
    weights = sum(parameter.nbytes for parameter in model.parameters())
    engine = HFEngine(model, tokenizer)
    ids = engine.encode(PROMPTS)
    # 2 (keys, values) * 2 layers * 2 heads * width 8 * 4 bytes a token.
    cache = len(PROMPTS) * (max(map(len, ids)) + 24) * 2 * 2 * 2 * 8 * 4
    members = [GaussianMember(index) for index in range(7)]
    for budget, sizes in ((3 * (weights + cache), [3, 3, 1]), (4 * (weights + cache), [4, 3]), (1, [1] * 7)):
        engine.population_bytes = budget
        assert [len(group) for group in engine._groups(ids, GREEDY, members)] == sizes


def test_pristine_weights_are_unchanged_after_many_evaluations():
    model, tokenizer = random_model("qwen2")
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    engine = HFEngine(model, tokenizer)
    first = engine.generate(PROMPTS, GREEDY)
    for index in range(30):
        engine.generate(PROMPTS[:2], Sampling(max_new_tokens=3), [GaussianMember(index), GaussianMember(index + 1)])
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert token_ids(engine.generate(PROMPTS, GREEDY)) == token_ids(first)


def test_the_model_comes_back_as_it_was_also_after_an_error():
    model, tokenizer = random_model()
    model.train()
    engine = HFEngine(model, tokenizer)

    class Broken(GaussianMember):
        def delta(self, name, weight):
            if name.endswith("norm.weight"):
                raise RuntimeError("broken member")
            return super().delta(name, weight)

    with pytest.raises(RuntimeError, match="broken member"):
        engine.generate(PROMPTS, GREEDY, [Broken(0)])
    assert model.training and model.config._attn_implementation == "sdpa"
    assert not any("forward" in vars(module) for module in model.modules())


def test_sampled_completions_do_not_depend_on_the_batch():
    model, tokenizer = random_model()
    engine = HFEngine(model, tokenizer)
    sampling = Sampling(max_new_tokens=20, temperature=1.0, samples=3, seed=5, step=7)
    together = token_ids(engine.generate(PROMPTS, sampling))[0]
    assert [token_ids(engine.generate([prompt], sampling))[0][0] for prompt in PROMPTS] == together
    assert token_ids(engine.generate(PROMPTS[::-1], sampling))[0] == together[::-1]
    assert all(len({tuple(sample) for sample in samples}) == 3 for samples in together), "samples should differ"


def test_sampling_noise_depends_on_seed_step_and_optionally_member():
    model, tokenizer = random_model()
    engine = HFEngine(model, tokenizer)

    def sample(members=(None,), **address):
        return token_ids(engine.generate(PROMPTS, Sampling(12, temperature=1.0, **address), members))

    assert sample(seed=1) == sample(seed=1)
    assert sample(seed=1) != sample(seed=2)
    assert sample(seed=1, step=0) != sample(seed=1, step=1)
    same_weights = [GaussianMember(0, sigma=0.0), GaussianMember(1, sigma=0.0)]
    shared, own = sample(same_weights), sample(same_weights, member_noise=True)
    assert shared[0] == shared[1] == sample()[0]
    assert own[0] != own[1]


def test_sampling_follows_the_model_distribution():
    model, tokenizer = random_model()
    engine = HFEngine(model, tokenizer)
    draws = 4000
    completions = engine.generate(PROMPTS[:1], Sampling(1, temperature=1.5, samples=draws))[0][0]
    ids = torch.tensor(engine.encode(PROMPTS[:1]))
    expected = (model(ids).logits[0, -1] / 1.5).softmax(-1)
    counts = torch.bincount(torch.tensor([c.token_ids[0] for c in completions]), minlength=len(expected))
    error = (counts / draws - expected) / (expected * (1 - expected) / draws).sqrt().clamp(min=1e-9)
    likely = expected > 5 / draws
    assert likely.sum() > 5 and error[likely].abs().max() < 4.5


def test_finished_rows_and_cut_rows():
    model, tokenizer = random_model()
    engine = HFEngine(model, tokenizer)
    completions = [c for prompt in engine.generate(PROMPTS, Sampling(150, 2.0, samples=20))[0] for c in prompt]
    finished = [c for c in completions if c.finished]
    assert finished and len(finished) < len(completions)
    assert all(c.token_ids[-1] == tokenizer.eos_token_id and "<|end|>" not in c.text for c in finished)
    assert all(len(c.token_ids) == 150 for c in completions if not c.finished)
    assert all(c.token_ids.count(tokenizer.eos_token_id) == c.finished for c in completions)


def test_set_weights_by_name(tmp_path):
    model, tokenizer = random_model()
    other, _ = random_model(seed=1)
    engine = HFEngine(model, tokenizer)
    engine.set_weights((name, parameter.data) for name, parameter in other.named_parameters())
    assert token_ids(engine.generate(PROMPTS, GREEDY)) == token_ids(
        HFEngine(other, tokenizer).generate(PROMPTS, GREEDY)
    )
    with pytest.raises(UserError, match="no parameter 'visual.weight'"):
        engine.set_weights([("visual.weight", torch.zeros(1))])


@pytest.mark.parametrize("architecture", ("llama", "qwen2"))
def test_saved_models_open_as_hugging_face_checkpoints(tmp_path, architecture):
    model, tokenizer = random_model(architecture)
    weights = {name: parameter.data * 2 for name, parameter in model.named_parameters()}
    save_model(tmp_path, model, tokenizer, weights)
    loaded, loaded_tokenizer = load_model(tmp_path, torch.float32)
    assert all(torch.equal(parameter, weights[name]) for name, parameter in loaded.named_parameters())
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert loaded_tokenizer.chat_template == tokenizer.chat_template


def test_bad_checkpoints_give_one_line(tmp_path):
    with pytest.raises(UserError, match="there is no checkpoint folder"):
        HFEngine.from_pretrained(tmp_path / "missing")
    with pytest.raises(UserError, match="has no config.json"):
        HFEngine.from_pretrained(tmp_path)
    random_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match="holds no weights"):
        HFEngine.from_pretrained(tmp_path)
    with pytest.raises(UserError, match="neither a local folder nor a hub model"):
        HFEngine.from_pretrained("nobody/no-such-model")


def test_a_sliding_window_shorter_than_the_text_is_refused():
    model, tokenizer = random_model("mistral")
    model.config.sliding_window = 30
    engine = HFEngine(model, tokenizer)
    assert engine.generate(PROMPTS[1:2], Sampling(max_new_tokens=20))
    with pytest.raises(UserError, match="sliding window of 30"):
        engine.generate(PROMPTS, Sampling(max_new_tokens=20))


def test_unsupported_modules_are_refused():
    model, tokenizer = random_model()
    model.extra = torch.nn.LayerNorm(4)
    with pytest.raises(UserError, match="parameters outside Linear, Embedding and RMSNorm"):
        HFEngine(model, tokenizer)
