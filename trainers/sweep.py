"""Many small runs at once on one machine: worker processes that each train one model at a time.

A line of a sweep is a recipe and options with comma-separated values, all combinations of which are run:

    recipes/rules/parity-mlp.yaml train_size=256,512 seed=0,1,2

A run's folder is the sweep's folder and then the recipe's name and the values: parity-mlp/train_size=256,seed=0.
Finished runs are left as they are and interrupted ones go on, so a sweep is continued by starting it again.
"""

import multiprocessing
import multiprocessing.connection
import os
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from tqdm import tqdm

from eval.errors import UserError
from trainers.arguments import check_positive, parse
from trainers.rules import RulesConfig, train_rules


@dataclass
class SweepConfig:
    """Runs of recipes/rules.py that differ in some options."""

    output_dir: str = field(metadata={"help": "folder that holds the folders of the runs"})
    runs: list[str] = field(metadata={"help": "lines `RECIPE.yaml option=value,value ...`, see trainers/sweep.py"})
    workers: int = field(default=2, metadata={"help": "runs at a time, each a process of its own"})

    def __post_init__(self):
        check_positive("workers", self.workers)
        if not self.runs:
            raise UserError("runs is empty; give at least one line `RECIPE.yaml option=value,value ...`")
        # Every run's mistakes come out now, before the first one starts.
        self.configs()

    def configs(self) -> list[RulesConfig]:
        """One config per run, in the order of the lines. Raises `UserError` for a mistake in any of them."""
        found: dict[str, RulesConfig] = {}
        for line in self.runs:
            for config in expand(line, self.output_dir):
                if config.output_dir in found:
                    raise UserError(f"two runs of the sweep have the folder {config.output_dir}; remove one line")
                found[config.output_dir] = config
        return list(found.values())


def expand(line: str, folder: str) -> list[RulesConfig]:
    """The configs of one line of a sweep whose folder is `folder`."""
    recipe, *words = line.split()
    axes = []
    for word in words:
        option, separator, values = word.partition("=")
        if not (option and separator and values):
            raise UserError(f"{word!r} in the sweep's line {line!r} is no option=value,value")
        axes.append([(option, value) for value in values.split(",")])
    configs = []
    for settings in product(*axes):
        name = ",".join(f"{option}={value}" for option, value in settings) or "run"
        flags = [flag for option, value in settings for flag in (f"--{option}", value)]
        output_dir = str(Path(folder) / Path(recipe).stem / name)
        (config,) = parse(RulesConfig, arguments=["--config", recipe, *flags, "--output_dir", output_dir])
        configs.append(config)
    return configs


def run_sweep(config: SweepConfig) -> dict[str, dict[str, Any]]:
    """Train every run of the sweep; returns their results by folder.

    A run that fails does not stop the others; when they have ended, the first failure is raised.
    """
    # Workers are forked from a server that has imported torch once and has done nothing else.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    # Read by the OpenMP runtime when the server loads it; each run then sets its own number of threads.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    results, failures = {}, []
    pool = ProcessPoolExecutor(config.workers, context, initializer=_end_with_the_sweep, max_tasks_per_child=1)
    with pool:
        started = {pool.submit(train_rules, run, progress=False): run.output_dir for run in config.configs()}
        for finished in tqdm(as_completed(started), total=len(started), desc="runs"):
            if finished.exception() is None:
                results[started[finished]] = finished.result()
            else:
                failures.append(finished.exception())
    if failures:
        raise failures[0]
    return results


def _end_with_the_sweep() -> None:
    """In a worker: end at once when the sweep's own process is gone, so that no two write to one run folder.

    A worker's parent in the operating system is the fork server; a kill of the sweep would not reach the worker.
    """

    def watch() -> None:
        multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
