"""The YAML files in recipes/ and the scripts that take them, for the tests that go over all of them."""

import importlib
import re
from pathlib import Path
from types import ModuleType

from trainers.arguments import read_yaml
from trainers.es.config import ESConfig
from trainers.es.memory import PROMPT_TOKENS, Demand


ROOT = Path(__file__).resolve().parents[1]


def recipe_yamls(folder: str = "recipes") -> list[str]:
    """Paths relative to the repository, sorted; the shipped models' own files are none of them."""
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*.yaml"))


def script_of(yaml_path: str) -> str:
    """The script that takes this YAML, from the launch command that stands in its header.

    The comment lines at the top hold `accelerate launch ... recipes/<script>.py --config <this file>`, over several
    lines if need be. Raises `ValueError` if they do not, or if the command names another file.
    """
    lines = (ROOT / yaml_path).read_text(encoding="utf-8").split("\n")
    end = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    header = " ".join(line.lstrip("# ").rstrip("\\ ") for line in lines[:end])
    command = re.search(r"accelerate launch .*?(recipes/\w+\.py) .*?--config (\S+)", header)
    if command is None:
        raise ValueError(
            f"{yaml_path} names no script: begin it with "
            f"`# accelerate launch ... recipes/<script>.py --config {yaml_path}`"
        )
    if command[2] != yaml_path:
        raise ValueError(f"the command at the top of {yaml_path} gives --config {command[2]}")
    return command[1]


def needs_vllm(yaml_path: str) -> bool:
    return read_yaml(ROOT / yaml_path).get("engine") == "vllm"


def planned_demand(config: ESConfig) -> Demand:
    """What decides the memory of a recipe whose model and tokenizer are not here; its engine is in bfloat16."""
    return Demand(
        members=config.population,
        prompts=config.prompts_per_batch or config.prompts_per_step,
        samples=config.samples,
        prompt_tokens=PROMPT_TOKENS,
        max_new_tokens=config.max_new_tokens,
        engine_bytes=2,
        population_bytes=int(config.population_gb * 1e9),
        sampled=config.temperature > 0,
        master_on_cpu=config.master_on_cpu,
        rank=config.member_rank,
        rest=config.rest,
        engine=config.engine,
    )


def load_script(path: str) -> ModuleType:
    """The module of a script in recipes/."""
    return importlib.import_module(path.removesuffix(".py").replace("/", "."))
