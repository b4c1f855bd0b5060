"""bfloat16 where the processor has it: the engine's type, autocast on a CPU, and the gap that rounding makes."""

import math

import pytest
import torch
import yaml
from safetensors.torch import load_file

from eval import hardware
from eval.errors import UserError
from eval.log_prob_gap import NAMES, gap
from eval.rollout.base import Sampling
from eval.rollout.hf import HFEngine
from eval.storage import read_jsonl
from tests.recipe_files import ROOT
from tests.tiny import random_checkpoint
from trainers.arguments import parse
from trainers.es import ESConfig, ESTrainer
from trainers.es.train import train_es
from trainers.grpo import GRPOArguments, GRPOConfig, train_grpo
from trainers.verify import verify


ES = {
    "task": "tests.trainers.es.test_train:VARIETY",
    "steps": 2,
    "population": 4,
    "prompts_per_step": 2,
    "train_size": 4,
    "max_new_tokens": 8,
    "sigma": 0.05,
    "alpha": 0.05,
    "eval_every": 0,
    "log_completions_every": 0,
    "log_prob_gap_every": 1,
    "temperature": 1.0,
}
GRPO = {
    "task": "tests.trainers.test_grpo:DIGITS",
    "max_steps": 2,
    "save_steps": 2,
    "logging_steps": 1,
    "report_to": "none",
    "use_cpu": True,
    "gradient_checkpointing": False,
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "max_completion_length": 6,
    "learning_rate": 0.01,
    "temperature": 0.7,
    "log_prob_gap_every": 1,
}
# Of a model with weights as large as these: float32 rounds in the sixth digit, bfloat16 in the third.
EXACT, ROUNDED = 1e-4, 3e-3


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return random_checkpoint(tmp_path_factory.mktemp("model"))


def with_flags(monkeypatch, *flags):
    monkeypatch.setattr(hardware, "cpu_flags", lambda: set(flags))


def es(base, run, **options):
    return train_es(ESConfig(model=str(base), output_dir=str(run), **(ES | options)))


def grpo(base, run, **options):
    options = GRPO | {"model": base, "output_dir": run} | options
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return train_grpo(*parse(GRPOArguments, GRPOConfig, arguments=words))


def gaps(run):
    return [[row[name] for name in NAMES] for row in read_jsonl(run / "metrics.jsonl")]


def dtype_of(run):
    return yaml.safe_load((run / "config.yaml").read_text())["engine_dtype"]


def test_auto_is_what_the_processor_multiplies_and_a_run_keeps_it(base, tmp_path, monkeypatch):
    with_flags(monkeypatch, "avx2", "avx512_bf16")
    es(base, tmp_path / "half")
    assert dtype_of(tmp_path / "half") == "bfloat16"
    with_flags(monkeypatch, "avx2")
    es(base, tmp_path / "whole")
    assert dtype_of(tmp_path / "whole") == "float32"
    # The finished run is given more steps on a machine that would choose otherwise.
    es(base, tmp_path / "half", steps=3)
    assert dtype_of(tmp_path / "half") == "bfloat16" and len(gaps(tmp_path / "half")) == 3
    assert all(mean <= most < EXACT for mean, most in gaps(tmp_path / "whole"))
    assert all(most > ROUNDED for _, most in gaps(tmp_path / "half"))
    assert {why for _, why in verify(tmp_path / "half", 1)} == {None}


def test_a_bfloat16_engine_starts_from_the_stored_weights_and_exact_frequencies(base, tmp_path):
    trainer = ESTrainer(str(base), args=ESConfig(output_dir=str(tmp_path), **(ES | {"engine_dtype": "bfloat16"})))
    stored = load_file(base / "model.safetensors")
    assert all(torch.equal(weight, stored[name]) for name, weight in trainer.weights.items())
    assert {weight.dtype for weight in trainer.engine.named_weights().values()} == {torch.bfloat16}
    exact = HFEngine.from_pretrained(base, "cpu")
    for name, buffer in exact.model.named_buffers():
        assert torch.equal(trainer.engine.model.get_buffer(name), buffer)


def test_a_model_that_was_handed_over_stays_in_float32(base, tmp_path, monkeypatch):
    with_flags(monkeypatch, "avx512_bf16")
    model = HFEngine.from_pretrained(base, "cpu").model
    trainer = ESTrainer(model, args=ESConfig(output_dir=str(tmp_path), **ES))
    assert trainer.args.engine_dtype == "float32" and trainer.model.dtype == torch.float32


@pytest.mark.parametrize("noise", [{}, {"noise": "low_rank", "rest": "frozen"}, {"algorithm": "snes"}])
def test_the_gap_is_of_the_member_and_changes_nothing(base, tmp_path, noise):
    options = noise | {"engine_dtype": "float32", "steps": 1}
    es(base, tmp_path / "measured", **options)
    es(base, tmp_path / "plain", **options, log_prob_gap_every=0)
    assert all(mean <= most < EXACT for mean, most in gaps(tmp_path / "measured"))
    with_gap, without = (read_jsonl(tmp_path / run / "metrics.jsonl")[0] for run in ("measured", "plain"))
    assert not set(NAMES) & set(without)
    clocks = {*NAMES, "seconds"}
    assert {name: value for name, value in with_gap.items() if name not in clocks} == {
        name: value for name, value in without.items() if name not in clocks
    }


def test_an_engine_gives_the_log_probabilities_of_what_it_drew(base):
    engine = HFEngine.from_pretrained(base, "cpu")
    prompts = [[{"role": "user", "content": text}] for text in ("one", "another one")]
    sampling = Sampling(6, temperature=2.0, samples=2)
    [asked] = engine.generate(prompts, sampling, log_probs=True)
    [plain] = engine.generate(prompts, sampling)
    for prompt, with_them, without in zip(engine.encode(prompts), asked, plain, strict=True):
        for one, other in zip(with_them, without, strict=True):
            assert one.token_ids == other.token_ids and other.log_probs is None
            with torch.no_grad():
                logits = engine.model(torch.tensor([prompt + one.token_ids])).logits[0]
            rows = logits.log_softmax(-1)[len(prompt) - 1 : -1]
            expected = rows.gather(1, torch.tensor(one.token_ids)[:, None])[:, 0]
            assert one.log_probs == pytest.approx(expected.tolist(), abs=EXACT)


@pytest.mark.slow
def test_grpo_with_autocast_keeps_float32_weights_and_shows_its_gap(base, tmp_path, monkeypatch):
    with_flags(monkeypatch, "avx512_bf16")
    for bf16 in (False, True):
        grpo(base, tmp_path / str(bf16), bf16=bf16)
    assert all(mean <= most < EXACT for mean, most in gaps(tmp_path / "False"))
    assert all(most > ROUNDED for _, most in gaps(tmp_path / "True"))
    trained, start = load_file(tmp_path / "True/model/model.safetensors"), load_file(base / "model.safetensors")
    assert {weight.dtype for weight in trained.values()} == {torch.float32}
    # Finer steps than bfloat16 has.
    assert any(not torch.equal(weight, weight.bfloat16().float()) for weight in trained.values())
    assert any(not torch.equal(weight, start[name]) for name, weight in trained.items())
    assert yaml.safe_load((tmp_path / "True/config.yaml").read_text())["bf16"] is True


def test_half_precision_is_refused_where_the_processor_lacks_it(base, tmp_path, monkeypatch):
    with_flags(monkeypatch, "avx2")
    with pytest.raises(UserError, match="write bf16: false"):
        grpo(base, tmp_path / "run", bf16=True)


def test_the_gap_is_the_mean_and_the_largest_difference():
    assert gap([[-1.0, -2.0], [-0.5]], [[-1.5, -2.0], [-0.25]]) == (0.25, 0.5)
    assert gap([[-1.0, None]], [[-1.5, -2.0]]) == (0.5, 0.5)
    assert math.isnan(gap([[None]], [[-1.0]])[0])


@pytest.mark.slow
@pytest.mark.vllm
def test_vllm_reports_the_same_gap(tmp_path):
    base = ROOT / "recipes/tiny/models/llama-small"  # vLLM's CPU build has no heads as narrow as the random model's
    options = {"engine": "vllm", "noise": "low_rank", "rest": "frozen", "population_gb": 0.2, "steps": 1}
    es(base, tmp_path / "es", engine_dtype="float32", **options)
    assert all(mean <= most < 1e-3 for mean, most in gaps(tmp_path / "es"))
