"""The memory plan, from configurations without weights, against sizes worked out by hand and against what is held."""

import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from eval.errors import UserError
from eval.rollout.base import Sampling
from eval.rollout.hf import HFEngine
from tests.recipe_files import ROOT, planned_demand, recipe_yamls
from tests.tiny import random_checkpoint, random_model
from trainers.arguments import parse
from trainers.es.config import ESConfig
from trainers.es.engine import memory_demand
from trainers.es.member import SeededMember
from trainers.es.memory import (
    LOW_RANK,
    USABLE,
    Demand,
    ModelShape,
    describe,
    model_shape,
    plan_memory,
    require_memory,
    ways_to_shrink,
)
from trainers.es.noise import Noise
from trainers.es.train import train_es


CONFIGS = {
    "llama-3.2-3b": ROOT / "recipes/llama-3.2-3b",
    "qwen3-4b": ROOT / "tests/trainers/es/configs/qwen3-4b",
    "llama-3.1-8b": ROOT / "tests/trainers/es/configs/llama-3.1-8b",
}
# The papers' population and prompts, answers of up to 1,024 tokens, bfloat16 in the engine.
PAPER = Demand(
    members=30,
    prompts=200,
    samples=1,
    prompt_tokens=256,
    max_new_tokens=1024,
    engine_bytes=2,
    population_bytes=int(12e9),
)


@pytest.mark.parametrize(
    "name, parameters, bytes_per_token",
    [
        ("llama-3.2-3b", 3_212_749_824, 2 * 28 * 8 * 128 * 2),
        ("qwen3-4b", 4_022_468_096, 2 * 36 * 8 * 128 * 2),
        ("llama-3.1-8b", 8_030_261_248, 2 * 32 * 8 * 128 * 2),
    ],
)
def test_plans_of_the_papers_models(name, parameters, bytes_per_token):
    model = model_shape(str(CONFIGS[name]))
    assert model.parameters == parameters
    plan = plan_memory(model, PAPER)
    assert plan.together == 1
    assert plan.device["pristine copy"] == plan.device["dense members"] == 2 * parameters
    assert plan.device["master"] == plan.device["starting weights"] == 4 * parameters
    assert plan.device["KV cache"] == 200 * (256 + 1024) * bytes_per_token
    assert plan.device["adapters"] == 0 and plan.host == {}
    assert plan.device["noise"] == 12 * model.config.vocab_size * model.config.hidden_size
    low_rank = plan_memory(model, replace(PAPER, rank=1, rest="frozen", master_on_cpu=True))
    frozen = sum(shape.numel() for name, shape in model.shapes.items() if ".layers." not in name or len(shape) == 1)
    assert low_rank.device["dense members"] == 0 and low_rank.host_bytes == 8 * parameters - 4 * frozen
    matrices = [
        shape
        for tensor, shape in model.shapes.items()
        if len(shape) == 2 and "embed" not in tensor and "lm_head" not in tensor
    ]
    assert low_rank.device["adapters"] == low_rank.together * 2 * sum(map(sum, matrices))


@pytest.mark.parametrize("name", CONFIGS)
def test_plans_of_the_papers_models_on_vllm(name):
    model = model_shape(str(CONFIGS[name]))
    demand = replace(PAPER, engine="vllm", rank=3, rest="frozen")
    plan = plan_memory(model, demand)
    assert (plan.together, plan.rows) == (30, 1024)
    assert plan.device["pristine copy"] == plan.device["vLLM's weights"] == 2 * model.parameters
    searched = sum(s.numel() for tensor, s in model.shapes.items() if ".layers." in tensor and len(s) == 2)
    assert plan.device["master"] == 4 * model.parameters and plan.device["starting weights"] == 4 * searched
    assert plan.device["KV cache"] == 12e9 and plan.device["packed matrices"] == 0
    per_layer = [shape for tensor, shape in model.shapes.items() if ".layers." in tensor and len(shape) == 2]
    assert plan.device["adapters"] == 30 * 8 * 2 * sum(map(sum, per_layer))  # vLLM makes room for rank 8
    full = plan_memory(model, replace(PAPER, engine="vllm"))  # one member after the other, written into the weights
    assert (full.together, full.rows) == (1, 200) and full.device["adapters"] == 0
    matrices = sum(shape.numel() for shape in model.shapes.values() if len(shape) == 2)
    assert plan_memory(model, replace(demand, host_apart=False)).device["packed matrices"] == 2 * matrices


def test_advice_for_vllm_takes_from_its_keys_and_values():
    model, demand = model_shape(str(CONFIGS["llama-3.2-3b"])), replace(PAPER, engine="vllm", rank=1, rest="frozen")
    with pytest.raises(UserError, match="; set population_gb: [0-9.]+$") as refused:
        require_memory(model, demand, int(55e9))
    share = float(str(refused.value).rsplit(" ", 1)[1])
    assert 3 < share < 12
    require_memory(model, replace(demand, population_bytes=int(share * 1e9)), int(55e9))
    with pytest.raises(UserError, match="; set master_on_cpu: true$"):
        require_memory(model, demand, int(40e9))
    with pytest.raises(UserError, match="rank is 300; vLLM takes adapters of rank up to 256"):
        plan_memory(model, replace(demand, rank=300))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("gigabytes", [24, 80, 160])
def test_a_refusal_names_settings_that_fit(name, gigabytes):
    model, available = model_shape(str(CONFIGS[name])), int(gigabytes * 1e9)
    fits = plan_memory(model, PAPER).device_bytes <= USABLE * available
    if fits:
        assert require_memory(model, PAPER, available) == plan_memory(model, PAPER)
        return
    with pytest.raises(UserError) as refused:
        require_memory(model, PAPER, available)
    message = str(refused.value)
    assert "\n" not in message and f"of {gigabytes}.00 GB can be used" in message
    fitting = [
        (settings, demand)
        for settings, demand in ways_to_shrink(model, PAPER, USABLE * available)
        if plan_memory(model, demand).device_bytes <= USABLE * available
    ]
    if fitting:
        settings, demand = fitting[0]
        assert message.endswith(f"; set {settings}")
        require_memory(model, demand, available)
    else:
        assert "no setting here makes it fit" in message


@pytest.mark.parametrize(
    "name, gigabytes, advice",
    [
        ("llama-3.2-3b", 80, "set prompts_per_batch: 100"),
        ("llama-3.2-3b", 48, "set master_on_cpu: true, prompts_per_batch: 100"),
        ("llama-3.1-8b", 80, "set master_on_cpu: true, prompts_per_batch: 100"),
        (
            "llama-3.1-8b",
            24,
            f"set master_on_cpu: true, {LOW_RANK}, prompts_per_batch: 25, population_gb: 4.597",
        ),
        ("llama-3.1-8b", 16, "no setting here makes it fit; it takes a device with 153.77 GB"),
    ],
)
def test_the_advice_changes_as_little_as_possible(name, gigabytes, advice):
    with pytest.raises(UserError) as refused:
        require_memory(model_shape(str(CONFIGS[name])), PAPER, int(gigabytes * 1e9))
    assert str(refused.value).endswith(advice)


def test_members_at_once_are_the_engine_s_own_number():
    model, tokenizer = random_model()
    demand = Demand(
        members=13,
        prompts=5,
        samples=2,
        prompt_tokens=17,
        max_new_tokens=9,
        engine_bytes=4,
        population_bytes=2_000_000,
    )
    engine = HFEngine(model, tokenizer, population_bytes=2_000_000)
    members = [SeededMember(i, i, 1, 0.1, Noise()) for i in range(13)]
    groups = list(engine._groups([[1] * 17] * 5, Sampling(9, samples=2), members))
    plan = plan_memory(ModelShape.of(model.config), demand)
    assert plan.together == len(groups[0]) > 1
    assert plan.device["dense members"] + plan.device["KV cache"] <= 2_000_000


def test_an_engine_holds_what_the_plan_says(tmp_path):
    """The parts that exist as tensors on a CPU: weights and cache, to the byte."""
    model, tokenizer = random_model()
    plan = plan_memory(ModelShape.of(model.config), Demand(2, 3, 1, 10, 6, 4, 10**9))
    assert plan.device["pristine copy"] == sum(parameter.nbytes for parameter in model.parameters())
    cache = 2 * 2 * 2 * 3 * (10 + 6) * 8 * 4 * 2  # layers, keys and values, heads, rows, tokens, width, bytes, members
    assert plan.device["KV cache"] == cache
    largest = max(parameter.numel() for parameter in model.parameters())
    assert plan.device["noise"] == 12 * largest


ES_RECIPES = [path for path in recipe_yamls() if "/es" in path and not path.startswith("recipes/tiny")]


@pytest.mark.parametrize("path", ES_RECIPES)
def test_a_recipe_fits_the_device_that_its_header_names(path):
    (config,) = parse(ESConfig, arguments=["--config", path])
    text = (ROOT / path).read_text()
    gigabytes = int(re.search(r"Hardware: (?:one GPU of|a CPU with) (\d+) GB", text)[1])
    model = path.split("/")[1]
    shape = model_shape(str(CONFIGS.get(model, ROOT / "tests/trainers/es/configs" / model)))
    require_memory(shape, planned_demand(config), gigabytes * 10**9)


def test_every_model_of_the_papers_has_their_values_and_corrected_ones():
    models = ("qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-3b", "qwen3-4b", "llama-3.2-1b", "llama-3.2-3b")
    for model in models:
        (corrected,), (paper,) = (
            parse(ESConfig, arguments=["--config", f"recipes/{model}/{name}.yaml"]) for name in ("es", "es-paper")
        )
        assert (paper.precision, paper.shared_noise) == ("released", True)
        assert (corrected.precision, corrected.shared_noise) == ("fp32_master", False)
        assert paper.model == corrected.model and paper.population == corrected.population == 30
        assert paper.sigma == corrected.sigma == 2 * paper.alpha == 2 * corrected.alpha == 1e-3


RUN = {
    "steps": 2,
    "population": 4,
    "prompts_per_step": 3,
    "train_size": 12,
    "max_new_tokens": 12,
    "engine_dtype": "float32",
    "eval_every": 0,
    "task": "tests.trainers.es.test_train:VARIETY",
}


def test_a_dry_run_prints_the_plan_and_leaves_nothing(tmp_path, capsys):
    base = random_checkpoint(tmp_path / "base")
    config = ESConfig(model=str(base), output_dir=str(tmp_path / "run"), dry_run=True, memory_gb=4, **RUN)
    assert train_es(config) == {}
    printed = capsys.readouterr().out
    assert "pristine copy" in printed and "usable on the device" in printed and "of 4.00 GB" in printed
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_dry_run_needs_no_weights(tmp_path):
    flags = [f"--{key}={value}" for key, value in (RUN | {"engine_dtype": "bfloat16", "master_on_cpu": True}).items()]
    command = [
        sys.executable,
        "recipes/es.py",
        "--model",
        str(CONFIGS["qwen3-4b"]),
        "--output_dir",
        str(tmp_path / "run"),
        "--dry_run",
        "--memory_gb",
        "12",
        *flags,
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert "prompts of 256 tokens" in done.stdout and "together in the machine's memory" in done.stdout
    assert "pristine copy                          8.04 GB" in done.stdout
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: this run takes ")


def test_a_run_that_cannot_fit_is_refused_before_its_weights_are_read(tmp_path):
    config = ESConfig(model=str(CONFIGS["llama-3.1-8b"]), output_dir=str(tmp_path / "run"), memory_gb=16, **RUN)
    with pytest.raises(UserError, match="this run takes .* but 14.72 GB of 16.00 GB can be used"):
        train_es(config)
    assert not (tmp_path / "run").exists()


def test_the_demand_is_that_of_the_largest_portion(tmp_path):
    base = random_checkpoint(tmp_path / "base")
    config = ESConfig(model=str(base), output_dir="unused", **RUN | {"population": 32})
    assert memory_demand(config, 1).members == 32 and memory_demand(config, 4).members == 4
    assert memory_demand(config, 1).engine == "hf"
    vectors = ESConfig(model=str(base), output_dir="unused", algorithm="snes", space_rank=3, **RUN)
    assert memory_demand(vectors, 1).rank == 3 and memory_demand(vectors, 1).vectors
    assert plan_memory(model_shape(str(base)), memory_demand(vectors, 1)).device["dense members"] == 0


def test_where_the_master_lies_does_not_change_a_bit(tmp_path):
    base = random_checkpoint(tmp_path / "base")
    for on_cpu in (False, True):
        train_es(ESConfig(model=str(base), output_dir=str(tmp_path / str(on_cpu)), master_on_cpu=on_cpu, **RUN))
    files = [(tmp_path / str(on_cpu) / "model" / "model.safetensors").read_bytes() for on_cpu in (False, True)]
    assert files[0] == files[1]


def test_the_table_is_for_people():
    model = model_shape(str(CONFIGS["llama-3.2-3b"]))
    text = describe(plan_memory(model, PAPER), PAPER, int(80e9))
    assert text.splitlines()[0] == "memory of each process, with prompts of 256 tokens and 1 members at once:"
    assert "75.79 GB" in text and "adapters" not in text
