"""The vLLM engine where vLLM is installed: against transformers with the same weights, and against itself."""

import copy
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from eval.errors import UserError
from eval.rollout.base import Sampling
from eval.rollout.hf import HFEngine
from tests.tiny import random_model
from trainers.es.member import seeded_member
from trainers.es.noise import Noise, member_seed


if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed (make installs it on Linux on x86-64)", allow_module_level=True)

from vllm import SamplingParams  # noqa: E402

from eval.rollout.vllm import VLLMEngine  # noqa: E402


pytestmark = pytest.mark.vllm
PROMPTS = [[{"role": "user", "content": text}] for text in ("3 7 12 -> 16", "1+2", "A 12+7 B 31-5", "9", "34+58>91?")]
GREEDY = Sampling(max_new_tokens=16)
SAMPLED = Sampling(max_new_tokens=16, temperature=1.0, samples=2, seed=5, step=7)
SLOTS = 6


@dataclass
class GaussianMember:
    index: int
    sigma: float = 0.05

    def delta(self, name, weight):
        generator = torch.Generator().manual_seed(self.index * 1000 + len(name))
        return self.sigma * torch.randn(weight.shape, generator=generator)


def low_rank(index: int, rank: int = 1, rest: str = "frozen", sigma: float = 0.05):
    return seeded_member(index, member_seed(3, 0, index), 1, sigma, Noise(rank=rank, rest=rest))


def token_ids(completions):
    return [[[sample.token_ids for sample in prompt] for prompt in member] for member in completions]


class Pair:
    """One random model in both engines."""

    def __init__(self, folder: Path, architecture: str, **options):
        self.model, self.tokenizer = random_model(architecture, **options)
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        self.hf = HFEngine(self.model, self.tokenizer)
        self.vllm = VLLMEngine(folder, slots=SLOTS, rank=2, kv_cache_gb=0.05)

    def perturbed(self, member):
        """The transformers model with the member's weights."""
        model = copy.deepcopy(self.model)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.add_(member.delta(name, parameter))
        return model


# Heads of width 32, the smallest that vLLM's CPU attention takes.
@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return Pair(tmp_path_factory.mktemp("llama"), "llama", head_dim=32)


@pytest.fixture(scope="module")
def qwen2(tmp_path_factory):
    # A head of its own, and biases; Qwen2 derives the width of its heads from the hidden size.
    return Pair(
        tmp_path_factory.mktemp("qwen2"),
        "qwen2",
        hidden_size=64,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=False,
    )


@pytest.fixture(params=("llama", "qwen2"))
def pair(request):
    return request.getfixturevalue(request.param)


def log_probs(pair: Pair, ids: list[int], slot: int | None = None) -> torch.Tensor:
    """Of each token but the first, from vLLM."""
    params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
    adapter = None if slot is None else pair.vllm.adapters[slot]
    output = pair.vllm.llm.generate({"prompt_token_ids": ids}, params, lora_request=adapter, use_tqdm=False)[0]
    return torch.tensor([row[token].logprob for row, token in zip(output.prompt_logprobs[1:], ids[1:], strict=True)])


@torch.no_grad()
def expected_log_probs(model, ids: list[int]) -> torch.Tensor:
    logits = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    return logits.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def test_log_probs_of_a_perturbed_engine_equal_transformers(pair):
    ids = sum(pair.vllm.encode(PROMPTS), [])[:80]
    seen = []
    for member in (GaussianMember(0), GaussianMember(1), low_rank(2)):
        with pair.vllm.weights_of(member):
            seen.append(log_probs(pair, ids))
        expected = expected_log_probs(pair.perturbed(member), ids)
        torch.testing.assert_close(seen[-1], expected, rtol=0, atol=1e-4)
    assert (seen[0] - seen[1]).abs().max() > 0.1, "the members should differ"
    torch.testing.assert_close(log_probs(pair, ids), expected_log_probs(pair.model, ids), rtol=0, atol=1e-4)


@pytest.mark.parametrize("rank", (1, 2))
def test_log_probs_of_members_in_slots_equal_transformers(pair, rank):
    ids = sum(pair.vllm.encode(PROMPTS), [])[:80]
    members = [low_rank(index, rank) for index in range(3)]
    pair.vllm.write_slots(members)
    seen = [log_probs(pair, ids, slot) for slot in range(3)]
    for member, found in zip(members, seen, strict=True):
        torch.testing.assert_close(found, expected_log_probs(pair.perturbed(member), ids), rtol=0, atol=1e-4)
    assert (seen[0] - seen[1]).abs().max() > 0.1, "the members should differ"


def test_slots_are_never_stale(pair):
    """The same slots, prompts and adapter names with other members: neither factors nor cached prefixes survive."""
    for first, rank in ((0, 2), (10, 1), (20, 2), (30, 1)):
        members = [low_rank(first + index, rank) for index in range(3)]
        found = token_ids(pair.vllm.generate(PROMPTS, GREEDY, members))
        assert found == token_ids(pair.hf.generate(PROMPTS, GREEDY, members))


def test_greedy_completions_equal_the_hugging_face_engine(pair):
    dense = [GaussianMember(index) for index in range(2)]
    # More low-rank members than slots, in two groups.
    thin = [low_rank(index) for index in range(SLOTS + 2)]
    for members in ([None], dense, thin, [dense[0], *thin[:2], None, thin[2]]):
        expected = [pair.hf.generate(PROMPTS, GREEDY, [member])[0] for member in members]
        assert token_ids(pair.vllm.generate(PROMPTS, GREEDY, members)) == token_ids(expected)
    assert len({str(answers) for answers in token_ids(pair.hf.generate(PROMPTS, GREEDY, thin))}) == len(thin)


def test_sampled_completions_equal_the_hugging_face_engine(pair):
    members = [low_rank(index) for index in range(3)]
    for own_noise in (False, True):
        sampling = Sampling(16, temperature=0.7, samples=2, seed=1, step=3, member_noise=own_noise)
        found = token_ids(pair.vllm.generate(PROMPTS, sampling, members))
        assert found == token_ids(pair.hf.generate(PROMPTS, sampling, members))


def test_sampled_completions_do_not_depend_on_the_batch(llama):
    together = token_ids(llama.vllm.generate(PROMPTS, SAMPLED))[0]
    assert [token_ids(llama.vllm.generate([prompt], SAMPLED))[0][0] for prompt in PROMPTS] == together
    assert token_ids(llama.vllm.generate(PROMPTS[::-1], SAMPLED))[0] == together[::-1]
    assert all(len({tuple(sample) for sample in samples}) == 2 for samples in together), "samples should differ"


def test_a_thousand_evaluations_leave_the_pristine_weights_bit_equal(pair):
    before = {name: parameter.clone() for name, parameter in pair.model.named_parameters()}
    views = pair.vllm.llm.llm_engine.model_executor.driver_worker.worker.views
    first = token_ids(pair.vllm.generate(PROMPTS, GREEDY))
    for index in range(970):
        with pair.vllm.weights_of(GaussianMember(index)):
            pass
    for index in range(30):
        pair.vllm.generate(PROMPTS[:1], Sampling(max_new_tokens=1), [GaussianMember(index)])
    for weights in (pair.vllm.named_weights(), views):
        assert weights.keys() == before.keys()
        assert all(torch.equal(weight, before[name]) for name, weight in weights.items())
    assert token_ids(pair.vllm.generate(PROMPTS, GREEDY)) == first


def test_the_weights_come_back_after_an_error(llama):
    class Broken(GaussianMember):
        def delta(self, name, weight):
            if name == "model.norm.weight":
                raise RuntimeError("broken member")
            return super().delta(name, weight)

    expected = token_ids(llama.vllm.generate(PROMPTS, GREEDY))
    with pytest.raises(RuntimeError, match="broken member"):
        llama.vllm.generate(PROMPTS, GREEDY, [Broken(0)])
    assert token_ids(llama.vllm.generate(PROMPTS, GREEDY)) == expected


def test_set_weights_by_name(qwen2):
    before = {name: parameter.clone() for name, parameter in qwen2.model.named_parameters()}
    other = {name: weight * 1.5 for name, weight in before.items()}
    for weights in (other, before):
        qwen2.vllm.set_weights(weights.items())
        qwen2.hf.set_weights(weights.items())
        assert token_ids(qwen2.vllm.generate(PROMPTS, GREEDY)) == token_ids(qwen2.hf.generate(PROMPTS, GREEDY))
    with pytest.raises(UserError, match="no parameter 'visual.weight'"):
        qwen2.vllm.set_weights([("visual.weight", torch.zeros(1))])


def test_tied_heads_appear_once_and_move_together(llama):
    assert "lm_head.weight" not in llama.vllm.named_weights()
    assert llama.model.lm_head.weight is llama.model.model.embed_tokens.weight


def test_completions_that_cannot_fit_are_refused(llama):
    with pytest.raises(UserError, match="exceed the engine's 256"):
        llama.vllm.generate(PROMPTS, Sampling(max_new_tokens=250))


def test_finished_and_cut_completions(llama):
    completions = [c for prompt in llama.vllm.generate(PROMPTS, Sampling(60, 2.0, samples=20))[0] for c in prompt]
    finished = [c for c in completions if c.finished]
    assert finished and len(finished) < len(completions)
    end = llama.tokenizer.eos_token_id
    assert all(c.token_ids[-1] == end and "<|end|>" not in c.text for c in finished)
    assert all(len(c.token_ids) == 60 and end not in c.token_ids for c in completions if not c.finished)
