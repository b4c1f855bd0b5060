"""Many small runs at once on one machine: worker processes that each train one model at a time.

An entry of a sweep is a YAML of recipes/rules.py and options that go before its own; of an option with a list of
values every one is run, and of several such options all combinations:

    {config: recipes/rules/parity-mlp.yaml, options: {train_size: [256, 512], seed: [0, 1, 2]}}

A run's folder is the sweep's folder, then the file's name and the options: parity-mlp/train_size=256,seed=0, without
those that are null, which take an option of the file away. Finished runs are left as they are and interrupted ones go
on, so a sweep is continued by starting it again.
"""

from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

from eval.errors import UserError
from trainers.arguments import from_yaml
from trainers.options import Processes, check_bounds, option
from trainers.rules import RulesConfig, train_rules
from trainers.run_lock import lock_run, unlock_run
from trainers.side_by_side import side_by_side


@dataclass(frozen=True)
class Runs:
    """All combinations of the options' values, on one YAML file."""

    EXAMPLE: ClassVar[str] = "{config: recipes/rules/parity-mlp.yaml, options: {train_size: [256, 512], seed: [0, 1]}}"

    config: str
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if "output_dir" in self.options:
            raise UserError("output_dir is decided for all runs of the sweep; leave it out of options")
        for name, values in self.options.items():
            if values == []:
                raise UserError(f"{name} has no values; give one, or leave it out")

    def expand(self, folder: str) -> list[RulesConfig]:
        """One config per run, in folders below `folder`. Raises `UserError` for a mistake in any of them."""
        axes = [
            [(name, value) for value in (values if isinstance(values, list) else [values])]
            for name, values in self.options.items()
        ]
        configs = []
        for settings in product(*axes):
            given = [f"{name}={_as_typed(value)}" for name, value in settings if value is not None]
            folder_name = ",".join(given) or "run"
            output_dir = str(Path(folder) / Path(self.config).stem / folder_name)
            configs += from_yaml(self.config, (RulesConfig,), dict(settings) | {"output_dir": output_dir})
        return configs


def _as_typed(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass
class SweepConfig:
    """Runs of recipes/rules.py that differ in some options."""

    output_dir: str = field(metadata={"help": "folder that holds the folders of the runs"})
    runs: list[Runs] = field(metadata={"help": f"what is run, such as [{Runs.EXAMPLE}]"})
    workers: Processes = option(2, "runs at a time, each a process of its own")

    def __post_init__(self):
        check_bounds(self)
        if not self.runs:
            raise UserError(f"runs is empty; give at least one entry, such as {Runs.EXAMPLE}")
        # Every run's mistakes come out now, before the first one starts.
        self.configs()

    def configs(self) -> list[RulesConfig]:
        """One config per run, in the order of the entries. Raises `UserError` for a mistake in any of them."""
        by_folder: dict[str, RulesConfig] = {}
        for entry in self.runs:
            for config in entry.expand(self.output_dir):
                if config.output_dir in by_folder:
                    raise UserError(f"two runs of the sweep have the folder {config.output_dir}; remove one of them")
                by_folder[config.output_dir] = config
        return list(by_folder.values())


def run_sweep(config: SweepConfig) -> dict[Path, dict[str, Any]]:
    """Train every run of the sweep; returns their results by folder.

    A run that fails does not stop the others; when they have ended, the first failure is raised.
    """
    sweep = Path(config.output_dir)
    sweep.mkdir(parents=True, exist_ok=True)
    lock_run(sweep)
    jobs = {Path(run.output_dir): partial(train_rules, run, progress=False) for run in config.configs()}
    try:
        return side_by_side(jobs, config.workers, "run", stop_at_failure=False)
    finally:
        unlock_run(sweep)
