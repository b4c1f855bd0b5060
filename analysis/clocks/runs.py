"""The run folders of a sweep, and what is derived from each of them: once, on the run."""

import json
from collections.abc import Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file

from analysis.clocks.striking import (
    MEMORY,
    RULE_NOVEL,
    Crossing,
    Row,
    Window,
    clocks_of,
    innovation_window,
    innovation_yield,
)
from eval.errors import UserError
from eval.generative.checkpoint import steps_of
from eval.rules import OPTIONS, Rule, rule_of
from eval.storage import read_json, read_jsonl, read_yaml_mapping


# What may differ between runs that are compared as one setting with several seeds: what names a run, which of the
# equivalent data sets it has, how long it lasts, how often it is looked at. None of these changes what a step does.
NO_SETTING = set(
    "output_dir seed data_seed held_out_size steps stop stop_copies evaluate_from evaluations_per_decade "
    "evaluate_samples evaluate_samples_min evaluation_share save_every log_every threads".split()
)
RULE_KEYS = {"rule", *OPTIONS}


@dataclass(frozen=True)
class Run:
    """One run folder. name: its path below the folder of runs."""

    name: str
    folder: Path
    config: dict[str, Any]
    rows: list[Row]

    @cached_property
    def rule(self) -> Rule:
        return rule_of(self.config)

    @cached_property
    def data(self) -> dict[str, np.ndarray]:
        """train, control, held_out: int8 [N, n]."""
        return load_file(self.folder / "data.safetensors")

    @property
    def finished(self) -> bool:
        return (self.folder / "results.json").is_file()

    @property
    def train_size(self) -> int:
        return len(self.data["train"])

    @property
    def model(self) -> str:
        return self.config["model"]

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @cached_property
    def clocks(self) -> dict[str, Crossing | None]:
        """When each clock of `analysis.clocks.striking.CLOCKS` struck; None for one that the run cannot show."""
        return clocks_of(self.rows)

    @property
    def rule_learned(self) -> Crossing:
        """The rule clock that windows, claims and chosen checkpoints go by: copying alone makes samples valid."""
        return self.clocks[RULE_NOVEL]

    @property
    def memorised(self) -> Crossing:
        return self.clocks[MEMORY]

    @cached_property
    def window(self) -> Window:
        return innovation_window(self.rule_learned, self.memorised)

    @property
    def memory_censored_by(self) -> str | None:
        """Why the memory clock is known only to be later than the run, in words; None where it struck."""
        if self.memorised.observed:
            return None
        if not self.finished:
            return "the run is not finished"
        if self.rows[-1]["step"] < self.config["steps"]:
            return f"stop: {self.config['stop']}"
        return f"the last step, {self.rows[-1]['step']:,}"

    @cached_property
    def innovation_yield(self) -> dict[str, float | int]:
        return innovation_yield(self.rows)

    @cached_property
    def checkpoints(self) -> list[int]:
        """Steps of the complete checkpoints, rising."""
        return steps_of(self.folder)

    @property
    def ema(self) -> bool:
        """Whether the run was evaluated with the moving average of its weights."""
        return self.config["ema_decay"] > 0

    @cached_property
    def parameters(self) -> int | None:
        """Scalars in the newest checkpoint; None without one."""
        if not self.checkpoints:
            return None
        newest = self.folder / "checkpoints" / f"step_{self.checkpoints[-1]}" / "model.safetensors"
        with safe_open(newest, framework="numpy") as file:
            return sum(int(np.prod(file.get_slice(name).get_shape())) for name in file.keys())

    @cached_property
    def setting(self) -> str:
        """What a run is besides its seed, as text: equal texts are the same setting."""
        return self.setting_apart_from(frozenset())

    def setting_apart_from(self, apart_from: Set[str]) -> str:
        """The setting without these keys of the config, to find settings that differ in them alone."""
        kept = {key: value for key, value in self.config.items() if key not in NO_SETTING | apart_from}
        return json.dumps(kept, sort_keys=True)


def read_runs(folder: Path) -> list[Run]:
    """Every rule run under `folder`, sorted by name: folders with evaluations.jsonl and at least one evaluation.

    Raises UserError if there is none, or if a folder with evaluations lacks its config or its data.
    """
    runs = []
    for path in sorted(Path(folder).rglob("evaluations.jsonl")):
        run = path.parent
        rows = read_jsonl(path)
        if not rows or any(part.startswith(".unfinished-") for part in run.parts):
            continue
        for needed in ("config.yaml", "data.safetensors"):
            if not (run / needed).is_file():
                raise UserError(f"{run} has evaluations but no {needed}; move the folder away or start its run again")
        config = read_yaml_mapping(run / "config.yaml")
        name = run.relative_to(folder).as_posix() if run != Path(folder) else run.name
        runs.append(Run(name, run, config, rows))
    if not runs:
        raise UserError(
            f"no rule run with evaluations under {folder}; make some first "
            "(accelerate launch recipes/rules.py --config recipes/rules/<yaml>)"
        )
    return runs


def environment(run: Run) -> dict[str, Any]:
    path = run.folder / "environment.json"
    return read_json(path) if path.is_file() else {}
