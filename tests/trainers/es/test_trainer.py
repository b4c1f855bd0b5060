"""ESTrainer as TRL's GRPOTrainer: the same scripts run with both, and nothing but the two names changes."""

import asyncio
import json
import re

import datasets
import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, EarlyStoppingCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from eval.errors import UserError
from eval.rollout.hf import HFEngine
from eval.storage import read_json, read_jsonl, read_yaml_mapping
from tests.recipe_files import ROOT
from tests.tiny import random_checkpoint, random_model
from trainers.es import ESConfig, ESTrainer
from trainers.verify import verify


BOTH = pytest.mark.parametrize(
    ("Trainer", "Config"),
    [pytest.param(GRPOTrainer, GRPOConfig, marks=pytest.mark.slow), (ESTrainer, ESConfig)],
    ids=["grpo", "es"],
)
# What any GRPO script for a CPU says.
SMALL = {
    "max_steps": 2,
    "per_device_train_batch_size": 32,
    "num_generations": 8,
    "max_completion_length": 32,
    "temperature": 1.0,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "bf16": False,
    "use_cpu": True,
    "gradient_checkpointing": False,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Weights as small as those of a real model, so that members of the usual sigma answer differently."""
    folder = random_checkpoint(tmp_path_factory.mktemp("base"))
    weights = load_file(folder / "model.safetensors")
    small = {name: weight * (0.05 if weight.ndim == 2 else 1.0) for name, weight in weights.items()}
    save_file(small, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def texts(count):
    return datasets.Dataset.from_list([{"prompt": f"{index} + 1 ="} for index in range(count)])


def chats(count):
    return datasets.Dataset.from_list(
        [
            {"prompt": [{"role": "user", "content": f"{index} + 1 = ?"}], "solution": str(index + 1)}
            for index in range(count)
        ]
    )


def near_length(completions, **kwargs):
    """The closer to five different characters, the better."""
    return [-abs(5.0 - len(set(completion))) for completion in completions]


def in_tags(completions, **kwargs):
    contents = [completion[0]["content"] for completion in completions]
    return [1.0 if re.match(r"<.*>$", content) else 0.25 * len(set(content)) for content in contents]


def has_solution(completions, solution, **kwargs):
    return [float(right in answer[0]["content"]) for answer, right in zip(completions, solution, strict=True)]


async def few_tokens(completion_ids, **kwargs):
    await asyncio.sleep(0)
    return [-0.1 * len(set(ids)) if ids else None for ids in completion_ids]


def check_run(trainer, output, names):
    assert output.global_step == trainer.state.global_step == 2
    logged = [row for row in trainer.state.log_history if "reward" in row]
    assert [row["step"] for row in logged] == [1, 2]
    assert all(isinstance(row["reward"], float) for row in logged)
    for name in names:
        assert any(key.startswith(f"rewards/{name}") for key in logged[0]), logged[0]


@BOTH
def test_plain_texts_and_a_reward_of_length(base, tmp_path, Trainer, Config):
    args = Config(output_dir=str(tmp_path), **SMALL)
    trainer = Trainer(model=base, reward_funcs=near_length, args=args, train_dataset=texts(6))
    check_run(trainer, trainer.train(), ["near_length"])
    trainer.save_model(str(tmp_path / "saved"))
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert not torch.equal(saved["model.norm.weight"], load_file(f"{base}/model.safetensors")["model.norm.weight"])
    assert torch.equal(saved["model.norm.weight"], trainer.model.model.norm.weight)


@BOTH
def test_chats_and_two_weighed_rewards_of_format_and_of_a_column(base, tmp_path, Trainer, Config):
    model, tokenizer = random_model()
    args = Config(output_dir=str(tmp_path), reward_weights=[0.5, 2.0], eval_strategy="steps", eval_steps=1, **SMALL)
    trainer = Trainer(
        model=model,
        reward_funcs=[in_tags, has_solution],
        args=args,
        train_dataset=chats(6),
        eval_dataset=chats(4),
        processing_class=tokenizer,
    )
    check_run(trainer, trainer.train(), ["in_tags", "has_solution"])
    evaluations = [row for row in trainer.state.log_history if "eval_reward" in row]
    assert [row["step"] for row in evaluations][-2:] == [1, 2]
    assert isinstance(trainer.evaluate()["eval_reward"], float)


@BOTH
def test_an_adapter_and_a_reward_that_waits(base, tmp_path, Trainer, Config):
    model = AutoModelForCausalLM.from_pretrained(base)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    trainer = Trainer(
        model=model,
        reward_funcs=few_tokens,
        args=Config(output_dir=str(tmp_path), **SMALL),
        train_dataset=chats(6),
        peft_config=LoraConfig(r=2, lora_alpha=256, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    check_run(trainer, trainer.train(), ["few_tokens"])
    if Trainer is ESTrainer:  # a replay would start from the base, which lacks the adapter's start
        assert "trainers.es.replay" not in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    trainer.save_model(str(tmp_path / "saved"))
    opened = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "saved")
    adapter = {name: weight for name, weight in opened.named_parameters() if "lora_" in name}
    assert any(weight.any() for name, weight in adapter.items() if "lora_B" in name)
    for name, weight in opened.get_base_model().state_dict().items():
        if "lora_" not in name:
            assert torch.equal(weight, before[name.replace(".base_layer", "")])


# --- What it does as transformers' Trainer does ---


OPTIONS = {
    "steps": 4,
    "population": 4,
    "prompts_per_step": 3,
    "max_new_tokens": 12,
    "engine_dtype": "float32",
    "sigma": 0.02,
    "alpha": 0.02,
    "save_every": 2,
    "log_completions_every": 0,
    "eval_every": 2,
}


class Recorder(TrainerCallback):
    """Writes down the events; asks for what it is told to at a step."""

    def __init__(self, **asks):
        self.events, self.asks = [], asks

    def on_step_end(self, args, state, control, **kwargs):
        self.events.append("on_step_end")
        for flag, step in self.asks.items():
            if state.global_step == step:
                setattr(control, flag, True)


def note(name):
    def write_down(self, args, state, control, model=None, **kwargs):
        self.events.append(name)
        assert name == "on_init_end" or model is not None
        assert "logs" not in kwargs or name == "on_log"

    return write_down


for event in ("init_end", "train_begin", "step_begin", "log", "evaluate", "save", "train_end"):
    setattr(Recorder, f"on_{event}", note(f"on_{event}"))


def trainer_on(base, folder, callbacks=(), **options):
    return ESTrainer(
        base,
        near_length,
        args=ESConfig(output_dir=str(folder), **(OPTIONS | options)),
        train_dataset=texts(12),
        eval_dataset=texts(4),
        callbacks=list(callbacks),
    )


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory):
    """An undisturbed run of four steps with its recorder."""
    folder, recorder = tmp_path_factory.mktemp("whole") / "run", Recorder()
    trainer_on(base, folder, [recorder]).train()
    return folder, recorder


def test_the_events_of_callbacks_come_as_in_transformers(whole):
    _, recorder = whole
    step = ["on_step_begin", "on_step_end", "on_log"]
    evaluated = ["on_log", "on_evaluate"]
    assert recorder.events == [
        *("on_init_end", "on_train_begin", *evaluated),
        *(*step, *step, *evaluated, "on_save"),
        *(*step, *step, *evaluated, "on_save"),
        "on_train_end",
    ]


@pytest.mark.slow
def test_callbacks_stop_save_and_evaluate(whole, base, tmp_path):
    asks = Recorder(should_save=1, should_evaluate=1, should_training_stop=3)
    trainer = trainer_on(base, tmp_path / "run", [asks], save_every=50)
    trainer.add_callback(removed := Recorder())
    trainer.remove_callback(removed)
    assert trainer.train().global_step == 3
    assert removed.events == []
    results = read_json(tmp_path / "run" / "results.json")
    assert (results["ended_by"], results["steps"]) == ("callback", 3)
    assert (tmp_path / "run" / "checkpoints" / "step_1").is_dir()
    assert [row["step"] for row in read_jsonl(tmp_path / "run" / "evaluations.jsonl")] == [0, 1, 2, 3]
    # The same command finds it complete, and one with more steps goes on to the same weights.
    assert trainer_on(base, tmp_path / "run", save_every=50).train().global_step == 3
    assert trainer_on(base, tmp_path / "run", save_every=50, steps=5).train().global_step == 5
    assert read_jsonl(tmp_path / "run" / "seeds.jsonl")[:4] == read_jsonl(whole[0] / "seeds.jsonl")


def test_a_complete_run_returns_at_once_with_its_weights_and_its_log(whole, base, tmp_path):
    trainer = trainer_on(base, whole[0])
    assert trainer.train().global_step == trainer.state.global_step == 4
    assert [row["step"] for row in trainer.state.log_history if "reward" in row] == [1, 2, 3, 4]
    assert same(dict(trainer.engine.named_weights()), weights(whole[0]))
    trainer.save_model(str(tmp_path / "model"))
    assert same(weights(tmp_path), weights(whole[0]))
    last = read_jsonl(whole[0] / "evaluations.jsonl")[-1]
    assert trainer.evaluate()["eval_accuracy"] == last["accuracy"]


def test_files_of_a_run_on_objects_are_verified_without_its_script(whole, capsys):
    assert all(wrong is None for _, wrong in verify(whole[0], 1))
    assert "reward_funcs, train_dataset, eval_dataset were objects" in capsys.readouterr().out


def test_early_stopping_of_transformers(base, tmp_path):
    stopping = EarlyStoppingCallback(early_stopping_patience=1, early_stopping_threshold=1e9)
    assert trainer_on(base, tmp_path, [stopping], steps=20, eval_every=1).train().global_step <= 3


def test_a_run_goes_on_from_the_checkpoint_that_is_named(whole, base, tmp_path):
    class Killed(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 3:
                raise KeyboardInterrupt

    folder = tmp_path / "run"
    with pytest.raises(UserError, match="holds no complete checkpoint"):
        trainer_on(base, tmp_path / "new").train(resume_from_checkpoint=True)
    with pytest.raises(KeyboardInterrupt):
        trainer_on(base, folder, [Killed()], keep=2, save_every=1).train()
    again = trainer_on(base, folder, keep=2, save_every=1)
    with pytest.raises(UserError, match="its own are step_2, step_3"):
        again.train(resume_from_checkpoint=str(folder / "checkpoints" / "step_9"))
    assert again.train(str(folder / "checkpoints" / "step_2")).global_step == 4
    assert same(weights(folder), weights(whole[0]))
    assert [row["step"] for row in again.state.log_history if "reward" in row] == [1, 2, 3, 4]


def test_config_yaml_knows_the_objects_of_a_run(whole, base):
    recorded = read_yaml_mapping(whole[0] / "config.yaml")
    assert recorded["reward_funcs"][0].startswith("near_length ") and recorded["train_dataset"].startswith("12 rows ")
    other = ESTrainer(
        base,
        in_tags,
        args=ESConfig(output_dir=str(whole[0]), **OPTIONS),
        train_dataset=texts(12),
        eval_dataset=texts(4),
    )
    with pytest.raises(UserError, match="reward_funcs was .'near_length .* now .'in_tags"):
        other.train()
    assert read_yaml_mapping(whole[0] / "config.yaml") == recorded


def test_a_loaded_model_is_trained_in_place_to_the_same_weights(whole, base, tmp_path):
    engine = HFEngine.from_pretrained(base)
    trainer = ESTrainer(
        engine.model,
        near_length,
        args=ESConfig(output_dir=str(tmp_path), **OPTIONS),
        train_dataset=texts(12),
        eval_dataset=texts(4),
        processing_class=engine.tokenizer,
    )
    trainer.train()
    assert trainer.model is engine.model
    assert same(engine.named_weights(), weights(whole[0])) and same(weights(tmp_path), weights(whole[0]))


ADAPTER = LoraConfig(r=2, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")


def adapter_run(base, folder, callbacks=(), **options):
    return ESTrainer(
        base,
        near_length,
        args=ESConfig(output_dir=str(folder), **(OPTIONS | {"eval_every": 0} | options)),
        train_dataset=texts(12),
        peft_config=ADAPTER,
        callbacks=list(callbacks),
    )


@pytest.mark.slow
def test_an_adapter_resumes_grows_and_merges(base, tmp_path):
    adapter_run(base, tmp_path / "whole").train()
    stopped = adapter_run(base, tmp_path / "run", steps=2)
    stopped.train()
    adapter_run(base, tmp_path / "run").train()
    ours, theirs = (load_file(tmp_path / run / "adapter" / "adapter_model.safetensors") for run in ("run", "whole"))
    assert same(ours, theirs) and any(weight.any() for name, weight in ours.items() if "lora_B" in name)
    opened = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "run" / "adapter")
    merged = dict(opened.merge_and_unload().named_parameters())
    for name, weight in weights(tmp_path / "run").items():
        assert torch.allclose(weight, merged[name], atol=1e-6), name


# --- More of a finished run ---


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"algorithm": "snes", "eval_every": 0}], ids=["es", "snes"])
def test_more_steps_of_a_finished_run_give_the_bits_of_a_longer_one(base, tmp_path, options):
    trainer_on(base, tmp_path / "long", steps=5, **options).train()
    folder = tmp_path / "grown"
    trainer_on(base, folder, steps=3, **options).train()
    assert trainer_on(base, folder, steps=5, **options).train().global_step == 5
    assert same(weights(folder), weights(tmp_path / "long"))
    for log in ("seeds.jsonl", "fitness.jsonl", "evaluations.jsonl"):
        assert read_jsonl(folder / log) == read_jsonl(tmp_path / "long" / log)
    rewards = [[row["reward"] for row in read_jsonl(run / "metrics.jsonl")] for run in (folder, tmp_path / "long")]
    assert rewards[0] == rewards[1]
    before = (folder / "config.yaml").read_bytes()
    with pytest.raises(UserError, match="steps is 2, but the run in .* has come to 5"):
        trainer_on(base, folder, steps=2, **options).train()
    assert (folder / "config.yaml").read_bytes() == before


def test_what_would_change_the_past_is_refused_by_name(base, tmp_path):
    trainer_on(base, tmp_path, steps=2, sigma_schedule="linear").train()
    with pytest.raises(UserError, match="sigma_schedule linear depends on steps"):
        trainer_on(base, tmp_path, steps=4, sigma_schedule="linear").train()
    with pytest.raises(UserError, match="alpha was 0.02, now 0.03"):
        trainer_on(base, tmp_path, steps=2, sigma_schedule="linear", alpha=0.03).train()


# --- Names of GRPOConfig ---


def test_names_of_grpo_are_the_lab_s_options():
    config = ESConfig(
        model="m",
        output_dir="o",
        max_steps=7,
        eval_strategy="steps",
        eval_steps=3,
        save_strategy="no",
        save_total_limit=None,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        num_generations=4,
        max_completion_length=9,
        bf16=True,
    )
    assert (config.steps, config.eval_every, config.population, config.prompts_per_step) == (7, 3, 4, 4)
    assert (config.max_new_tokens, config.engine_dtype) == (9, "bfloat16")
    assert config.save_every == config.keep == 99_999_999


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": 3, "steps": 3}, "steps is given under two names"),
        ({"top_p": 0.9}, "top_p is not known here"),
        ({"eval_strategy": "epoch"}, "eval_strategy is 'epoch'"),
        ({"max_stepps": 3}, "no option max_stepps; did you mean max_steps"),
        ({"per_device_train_batch_size": 6, "num_generations": 4}, "no whole number of prompts"),
        ({"load_best_model_at_end": True}, "load_best_model_at_end"),
        ({"model_init_kwargs": {"dtype": "auto"}}, "model_init_kwargs"),
    ],
)
def test_names_that_cannot_be_kept_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        ESConfig(model="m", output_dir="o", **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reward_funcs": near_length}, "give train_dataset"),
        ({"reward_funcs": "countdown", "train_dataset": texts(4)}, "a task has data of its own"),
        ({"model": None}, "model is missing"),
        ({"reward_funcs": "countdown", "args": ESConfig(engine="vllm"), "peft_config": ADAPTER}, "engine is 'vllm'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, message, tmp_path):
    with pytest.raises(UserError, match=message):
        ESTrainer(**({"model": "m", "args": ESConfig(output_dir=str(tmp_path))} | arguments))


def test_a_card_says_what_the_run_was(whole, base, monkeypatch):
    trainer = trainer_on(base, whole[0])
    with pytest.raises(UserError, match="train first"):
        trainer.create_model_card()
    trainer.train()
    trainer.create_model_card()
    card = (whole[0] / "model" / "README.md").read_text()
    assert base in card and "48 completions generated" in card and "near_length" in card
    monkeypatch.setattr("trainers.hub.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        trainer.push_to_hub()


def test_the_script_of_the_readme(base, tmp_path, monkeypatch):
    manual = (ROOT / "README.md").read_text(encoding="utf-8")
    script = next(code for code in re.findall(r"```python\n(.*?)```", manual, re.DOTALL) if "ESTrainer" in code)
    assert len(script.strip().splitlines()) <= 15
    rows = [{"prompt": f"Write {index}.", "answer": str(index % 10)} for index in range(50)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    exec(script.replace("recipes/tiny/models/llama-small", base).replace("max_steps=20", "max_steps=2"), {})
    results = read_json(tmp_path / "runs" / "mine" / "results.json")
    assert (results["steps"], results["completions"]) == (2, 2 * 8 * 40)
    assert [row["step"] for row in read_jsonl(tmp_path / "runs" / "mine" / "evaluations.jsonl")] == [0, 2]
