"""The claims about evolution strategies and GRPO, judged over seeds, tasks, budgets and precisions.

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/claims.py --config recipes/tiny/claims.yaml

Every combination of task, budget, precision and seed is one comparison (recipes/compare.py) in a folder of its own,
with theory and probes measured on top. The budget "matched" gives both methods `completions`; "published" gives them
in the proportion of the code released with arXiv 2604.01499, GRPO having `published_grpo_completions`. Budgets and
precisions may add options to the two YAML files. Started again, the sweep skips what is finished and goes on
with the rest; more seeds can be asked for later. The verdicts are in report/index.html of the folder, the single
comparisons in gallery.html.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from analysis.claims.comparison import ComparedOn, add_probes
from analysis.claims.judge import FACTORS, Comparison, judge
from analysis.claims.mean_update import alignment
from analysis.report import build, build_gallery
from analysis.report.terminal import results_text
from analysis.resume import read_results, stage
from analysis.theory.predictions import predict
from eval.digests import file_digest, run_digests
from eval.errors import UserError, exit_with_one_line
from eval.results_file import write_results
from eval.secrets import without_secrets
from eval.stages import Stages
from eval.storage import read_json, write_text
from recipes.compare import METHODS, CompareConfig, check_comparison, compare
from trainers.arguments import (
    as_flat_dict,
    check_at_most,
    check_choice,
    from_yaml,
    parse,
    read_yaml,
)
from trainers.chains import AT_BUDGET, local_model
from trainers.dry_run import announce, folder_line, held_out_line, model_line
from trainers.es.config import ESConfig
from trainers.es.memory import model_shape
from trainers.grpo import GRPOArguments, GRPOConfig
from trainers.launch import make_accelerator
from trainers.options import PositiveInt, Processes, Rows, StartOptions, check_bounds, option
from trainers.run_folder import start_run
from trainers.side_by_side import side_by_side
from trainers.task_options import TaskOptionList, rewarded_task


BUDGETS = ("matched", "published")
PRECISIONS = ("fp32", "released")
# What may differ from the sweep that a folder holds already: how much of it is run, not how.
MAY_CHANGE = ("tasks", "seeds", "budgets", "precisions", "processes")


@dataclass(kw_only=True)
class ClaimsConfig(ComparedOn):
    """The sweep, and the settings that all of its comparisons share."""

    model: str = field(metadata={"help": "checkpoint folder that all trainings start from"})
    output_dir: str = field(metadata={"help": "folder of the sweep"})
    es_config: str = field(metadata={"help": "YAML file of recipes/es.py"})
    grpo_config: str = field(metadata={"help": "YAML file of recipes/grpo.py"})
    tasks: TaskOptionList = option(["countdown", "arithmetic"], "each trained on its own")
    seeds: PositiveInt = option(5, "training seeds 0, 1, ...; a verdict takes at least 5")
    budgets: list[str] = option([*BUDGETS], "matched, published or both")
    precisions: list[str] = option([*PRECISIONS], "fp32, released or both")
    completions: PositiveInt = option(15360, "training completions of ES, and of GRPO if matched")
    published_grpo_completions: PositiveInt = option(896, "those of GRPO at the published budget")
    es_options: dict[str, Any] = option({}, "options that go before those in es_config, such as {sigma: 0.02}")
    grpo_options: dict[str, Any] = option({}, "the same for grpo_config")
    es_released: dict[str, Any] = option({"precision": "released"}, "further options of ES at released precision")
    grpo_released: dict[str, Any] = option({}, "the same for GRPO; none: it trains as in fp32")
    grpo_published: dict[str, Any] = option(
        {}, "further options of GRPO at the published budget, such as a smaller batch"
    )
    processes: Processes = option(2, "comparisons side by side, each with one thread")
    probe_size: Rows = option(60, "held-out problems for each point of the probes")
    random_directions: PositiveInt = option(2, "random directions beside each probed update")

    def __post_init__(self):
        check_bounds(self)
        check_comparison(self)
        check_at_most("seeds", self.seeds, 10_000, "each is a comparison of every kind")
        self.tasks = [rewarded_task(spec) for spec in self.tasks]
        self.test_tasks = [rewarded_task(spec) for spec in self.test_tasks]
        for name in self.budgets:
            check_choice("budgets", name, BUDGETS)
        for name in self.precisions:
            check_choice("precisions", name, PRECISIONS)
        if not (self.tasks and self.budgets and self.precisions):
            raise UserError("tasks, budgets and precisions each need one entry at least")

    def options_of(self, method: str, budget: str, precision: str) -> dict[str, Any]:
        """What goes before the options in the method's file under these conditions."""
        conditions = ("options", budget, precision)
        return {key: value for name in conditions for key, value in getattr(self, f"{method}_{name}", {}).items()}


@dataclass(frozen=True)
class Job:
    """One comparison of the sweep."""

    task: str
    budget: str
    precision: str
    seed: int

    @property
    def folder(self) -> Path:
        return Path(self.task) / f"{self.budget}-{self.precision}" / f"seed-{self.seed}"

    @property
    def conditions(self) -> dict[str, str]:
        return {"task": self.task, "budget": self.budget, "precision": self.precision}


CONFIG_TYPES = (ClaimsConfig, StartOptions)


def main() -> None:
    config, start = parse(*CONFIG_TYPES)
    if make_accelerator().num_processes > 1:
        raise UserError("start the sweep in one process; its option processes says how many comparisons run at a time")
    sweep = Path(config.output_dir)
    planned = list(jobs(config))
    model_shape(config.model)
    settings = method_settings(config)
    if start.dry_run:
        announce("claims", lines_of_plan(config, planned))
        return
    start_run(sweep, config, may_change=MAY_CHANGE)
    for name, options in settings.items():
        write_text(sweep / "configs" / f"{name}.yaml", yaml.safe_dump(without_secrets(options), sort_keys=False))

    stages = Stages(["comparisons", "mean updates", "verdicts", "report"])

    # 1. The comparisons, those of one seed before those of the next.
    unfinished = [job for job in planned if not is_finished(sweep / job.folder)]
    stages.begin("comparisons", finished=not unfinished)
    print(f"{len(planned)} comparisons, {len(planned) - len(unfinished)} of them finished", flush=True)
    began = time.perf_counter()
    calls = {
        sweep / job.folder: partial(
            compare_and_probe, comparison_config(config, job), config.probe_size, config.random_directions
        )
        for job in unfinished
    }
    side_by_side(calls, config.processes, "comparison")
    print(f"{len(unfinished)} comparisons in {(time.perf_counter() - began) / 60:.1f} minutes", flush=True)

    # 2. Does GRPO's update share a direction with the mean of ES's over seeds?
    aligned = alignments(sweep, config, planned, stages)

    # 3. The verdicts, over everything that is there.
    stages.begin("verdicts")
    comparisons = [
        Comparison(job.conditions, job.seed, read_json(sweep / job.folder / "results.json")) for job in planned
    ]
    environment = read_json(sweep / "environment.json")
    results = {
        "command": environment["command"],
        "environment": environment,
        "config": as_flat_dict(config),
        "base_model": config.model,
        "claims": judge(comparisons),
        "alignment": aligned,
        # Each has the digests of its own models and data.
        "digests": run_digests(sweep, {"base": config.model}, {})
        | {"files": {str(job.folder): file_digest(sweep / job.folder / "results.json") for job in planned}},
    }
    write_results(sweep / "results.json", "claims", results)
    stages.begin("report")
    gallery, page = build_gallery(sweep), build(sweep)
    print(f"\n{results_text(sweep)}\n", flush=True)
    print(f"gallery: {gallery}")
    print(f"report: {page}")


def alignments(sweep: Path, config: ClaimsConfig, planned: list[Job], stages: Stages) -> list[dict[str, Any]]:
    """For each condition its factors and the cosines of means (see `analysis.claims.mean_update`)."""
    conditions: dict[tuple[str, ...], dict[int, Path]] = {}
    for job in planned:
        conditions.setdefault(tuple(job.conditions.values()), {})[job.seed] = sweep / job.folder
    folders = {"/".join(condition): runs for condition, runs in conditions.items()}
    digests = {
        name: {seed: file_digest(run / "geometry.json") for seed, run in runs.items()}
        for name, runs in folders.items()
    }

    def measure() -> list[dict[str, Any]]:
        base = local_model(config.model, sweep / "base")
        return [
            dict(zip(FACTORS, condition, strict=False))
            | alignment(base, *({seed: run / method / "model" for seed, run in runs.items()} for method in METHODS))
            for condition, runs in conditions.items()
        ]

    return stage(sweep, "mean updates", {"geometry": digests}, measure, stages)


def lines_of_plan(config: ClaimsConfig, planned: list[Job]) -> dict[str, str]:
    """What a dry run says."""
    done = sum(is_finished(Path(config.output_dir) / job.folder) for job in planned)
    published = f", {config.published_grpo_completions:,} of GRPO where published" * ("published" in config.budgets)
    return {
        "model": model_line(config.model),
        "comparisons": f"{len(planned)}, {done} of them finished; {config.processes} at a time",
        "length": f"{config.completions:,} completions of each method{published}",
        "data": held_out_line(config.tasks, config.test_size, config.data_seed),
        "folder": folder_line(config.output_dir, config, may_change=MAY_CHANGE),
    }


def jobs(config: ClaimsConfig) -> Iterator[Job]:
    for seed in range(config.seeds):
        for task, budget, precision in product(config.tasks, config.budgets, config.precisions):
            yield Job(task, budget, precision, seed)


def method_settings(config: ClaimsConfig) -> dict[str, dict[str, Any]]:
    """{"es-matched-fp32": content of its YAML file, ...}. Raises UserError for options that a method does not have."""
    settings = {}
    for method, types in (("es", (ESConfig,)), ("grpo", (GRPOArguments, GRPOConfig))):
        path = getattr(config, f"{method}_config")
        for budget, precision in product(config.budgets, config.precisions):
            options = config.options_of(method, budget, precision)
            from_yaml(path, types, options)
            published = method == "grpo" and budget == "published"
            completions = config.published_grpo_completions if published else config.completions
            AT_BUDGET[method](path, completions, config.max_new_tokens, **options)
            settings[f"{method}-{budget}-{precision}"] = read_yaml(path) | options
    return settings


def is_finished(run: Path) -> bool:
    return {"connectivity", "controls", "probes", "theory"} <= read_results(run / "results.json").keys()


def comparison_config(config: ClaimsConfig, job: Job) -> CompareConfig:
    sweep = Path(config.output_dir)
    return CompareConfig(
        model=config.model,
        output_dir=str(sweep / job.folder),
        task=job.task,
        seed=job.seed,
        es_config=str(sweep / "configs" / f"es-{job.budget}-{job.precision}.yaml"),
        grpo_config=str(sweep / "configs" / f"grpo-{job.budget}-{job.precision}.yaml"),
        completions=config.completions,
        measured_checkpoints=1,
        grpo_completions=config.published_grpo_completions if job.budget == "published" else 0,
        **{option.name: getattr(config, option.name) for option in fields(ComparedOn)},
    )


def compare_and_probe(config: CompareConfig, probe_size: int, random_directions: int) -> None:
    """One comparison, with what the claims need beyond it."""
    base, run = compare(config), Path(config.output_dir)
    device = make_accelerator().device
    add_probes(run, base, METHODS, config.task, probe_size, random_directions, config, device)
    theory = {"theory": {"es": predict(run / "es")}}
    write_results(run / "results.json", "comparison", read_json(run / "results.json") | theory)
    build(run)


if __name__ == "__main__":
    exit_with_one_line(main)
