"""The runs that are killed: every kind of recipe at a size of seconds."""

from pathlib import Path

import yaml

from tests.chaos.starts import Start


MODEL = "recipes/tiny/models/llama-small"
ES = {
    "population": 4,
    "prompts_per_step": 16,
    "temperature": 1.0,
    "train_size": 64,
    "sigma": 0.02,
    "engine_dtype": "float32",
    "alpha": 0.01,
    "max_new_tokens": 24,
    "eval_every": 2,
    "eval_size": 8,
    "save_every": 1,
}
TRL = {
    "save_steps": 1,
    "save_total_limit": 2,
    "logging_steps": 1,
    "report_to": "none",
    "eval_every": 2,
    "eval_size": 8,
    "learning_rate": 3e-4,
    "max_completion_length": 24,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
}
GRPO = TRL | {"per_device_train_batch_size": 32, "num_generations": 4}
SFT = TRL | {"problems": 32, "samples": 4, "prompts_per_batch": 16, "per_device_train_batch_size": 16}
VLLM = {"engine": "vllm", "population_gb": 0.25, "noise": "low_rank", "rank": 1, "rest": "frozen"}
RULES = {
    "rule": "parity",
    "length": 12,
    "group": 3,
    "train_size": 40,
    "held_out_size": 40,
    "model": "dit",
    "width": 32,
    "depth": 2,
    "heads": 2,
    "sampler_steps": 4,
    "batch_size": 16,
    "steps": 60,
    "evaluate_from": 5,
    "evaluate_samples": 32,
    "evaluate_samples_min": 16,
    "save_every": 7,
    "log_every": 1,
}
PRETRAIN = {
    "hidden_size": 32,
    "layers": 1,
    "heads": 2,
    "key_value_heads": 1,
    "intermediate_size": 32,
    "batch_size": 40,
    "steps": 12,
    "evaluate_every": 4,
    "evaluate_size": 4,
    "save_every": 2,
    "warmup_steps": 2,
    "threads": 1,
}
AFTERWARDS = {"test_size": 8, "kl_prompts": 4, "max_new_tokens": 24}


def scenarios(folder: Path) -> dict[str, Start]:
    """Name -> start. Writes the YAML files of methods that studies take into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    run = {"model": MODEL, "task": "countdown", "output_dir": "unset"}
    methods = {"es": ES, "grpo": GRPO | {"max_steps": 1}, "sft": SFT}
    for name, options in methods.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(run | options), encoding="utf-8")
    files = {"es_config": folder / "es.yaml", "grpo_config": folder / "grpo.yaml"}
    trained = {"model": MODEL, "task": "countdown"}
    compare = trained | files | AFTERWARDS | {"completions": 192, "line_points": 3, "line_size": 8}
    arms = [{"name": name, "method": name, "config": str(folder / f"{name}.yaml")} for name in ("es", "grpo", "sft")]
    sequential = AFTERWARDS | {"model": MODEL, "tasks": ["countdown", "yes_no"], "seeds": 1, "budget": 128}
    sequential |= {"processes": 1, "arms": yaml.safe_dump(arms, default_flow_style=True)}
    return {
        "es": Start("recipes/es.py", words(trained | ES | {"steps": 6})),
        "grpo": Start("recipes/grpo.py", words(trained | GRPO | {"max_steps": 4})),
        "sft": Start("recipes/sft.py", words(trained | SFT | {"num_train_epochs": 2})),
        "rules": Start("recipes/rules.py", words(RULES)),
        "pretrain": Start("recipes/pretrain.py", words(PRETRAIN)),
        "compare": Start("recipes/compare.py", words(compare | {"test_tasks": ["countdown", "yes_no"]})),
        "sequential": Start("recipes/sequential.py", words(sequential)),
        "es, two ranks": Start("recipes/es.py", words(trained | ES | {"steps": 6}), config="cpu_2proc"),
        "es, vllm": Start("recipes/es.py", words(trained | ES | VLLM | {"steps": 6}), config="cpu"),
    }


def words(options: dict) -> list[str]:
    """Options as they stand on a command line; of a list each entry is a word."""
    return [
        str(word)
        for key, value in options.items()
        for word in (f"--{key}", *(value if isinstance(value, list) else [value]))
    ]
