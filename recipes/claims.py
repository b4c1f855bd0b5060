"""The claims about evolution strategies and GRPO, judged over seeds, tasks, budgets and precisions.

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/claims.py --config recipes/tiny/claims.yaml

Every combination of task, budget, precision and seed is one run of recipes/compare.py in a folder of its own, with
theory and probes measured on top. The budget "matched" gives both methods `completions`; "published" gives them in
the proportion of the code released with arXiv 2604.01499, GRPO having `published_grpo_completions`. Budgets and
precisions may add options to the two YAML files. Started again, the sweep skips what is finished and goes on
with the rest; more seeds can be asked for later. The verdicts are in report/index.html of the folder, the single
comparisons in gallery.html.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from analysis.claims.judge import Comparison, judge
from analysis.report import build, build_gallery
from analysis.resume import read_results
from analysis.theory.predictions import predict
from eval.errors import UserError, exit_with_one_line
from eval.storage import read_json, write_json, write_text
from eval.tasks import get_task
from trainers.arguments import as_flat_dict, check_at_least, check_choice, check_positive, parse, read_yaml
from trainers.es.config import ESConfig
from trainers.grpo import GRPOArguments, GRPOConfig
from trainers.launch import make_accelerator
from trainers.run_folder import start_run
from trainers.side_by_side import run_python, side_by_side


BUDGETS = ("matched", "published")
PRECISIONS = ("fp32", "released")
METHODS = ("es", "grpo")
# What may differ from the sweep that a folder holds already: how much of it is run, not how.
MAY_CHANGE = ("tasks", "seeds", "budgets", "precisions", "processes")


@dataclass
class ClaimsConfig:
    """The sweep, and the settings that all of its comparisons share."""

    model: str = field(metadata={"help": "checkpoint folder that all trainings start from"})
    output_dir: str = field(metadata={"help": "folder of the sweep"})
    es_config: str = field(metadata={"help": "YAML file of recipes/es.py"})
    grpo_config: str = field(metadata={"help": "YAML file of recipes/grpo.py"})
    tasks: str = field(default="countdown,arithmetic", metadata={"help": "trained tasks, comma-separated"})
    seeds: int = field(default=5, metadata={"help": "training seeds 0, 1, ...; a verdict takes at least 5"})
    budgets: str = field(default=",".join(BUDGETS), metadata={"help": "matched, published or both"})
    precisions: str = field(default=",".join(PRECISIONS), metadata={"help": "fp32, released or both"})
    completions: int = field(default=15360, metadata={"help": "training completions of ES, and of GRPO if matched"})
    published_grpo_completions: int = field(default=896, metadata={"help": "those of GRPO at the published budget"})
    es_options: str = field(default="", metadata={"help": "options that go before those in es_config: key=value,..."})
    grpo_options: str = field(default="", metadata={"help": "the same for grpo_config"})
    es_released: str = field(
        default="precision=released", metadata={"help": "further options of ES at released precision: key=value,..."}
    )
    grpo_released: str = field(default="", metadata={"help": "the same for GRPO; none: it trains as in fp32"})
    grpo_published: str = field(
        default="", metadata={"help": "further options of GRPO at the published budget, such as a smaller batch"}
    )
    processes: int = field(default=2, metadata={"help": "comparisons side by side, each with one thread"})
    data_seed: int = field(default=0, metadata={"help": "fixes the problems of all comparisons"})
    test_tasks: str = field(default="countdown,arithmetic,four_choice,yes_no", metadata={"help": "see compare.py"})
    test_size: int = field(default=200, metadata={"help": "held-out problems per task"})
    max_new_tokens: int = field(default=56, metadata={"help": "longest completion, in every stage"})
    kl_prompts: int = field(default=60, metadata={"help": "prompts per task and direction of the KL"})
    line_points: int = field(default=5, metadata={"help": "models along each straight line, the ends included"})
    line_size: int = field(default=200, metadata={"help": "held-out problems for each of them"})
    probe_size: int = field(default=60, metadata={"help": "held-out problems for each point of the probes"})
    random_directions: int = field(default=2, metadata={"help": "random directions beside each probed update"})
    batch_size: int = field(default=200, metadata={"help": "prompts generated at a time after training"})

    def __post_init__(self):
        for name in (
            "seeds",
            "completions",
            "published_grpo_completions",
            "processes",
            "test_size",
            "max_new_tokens",
            "kl_prompts",
            "line_size",
            "probe_size",
            "random_directions",
            "batch_size",
        ):
            check_positive(name, getattr(self, name))
        check_at_least("line_points", self.line_points, 3)
        for name in {*words(self.tasks), *words(self.test_tasks)}:
            get_task(name)
        for name in words(self.budgets):
            check_choice("budgets", name, BUDGETS)
        for name in words(self.precisions):
            check_choice("precisions", name, PRECISIONS)
        if not all(words(listed) for listed in (self.tasks, self.budgets, self.precisions)):
            raise UserError("tasks, budgets and precisions each need one entry at least")
        for listed in (self.es_options, self.grpo_options, self.es_released, self.grpo_released, self.grpo_published):
            added_options(listed)


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


CONFIG_TYPES = (ClaimsConfig,)


def main() -> None:
    (config,) = parse(*CONFIG_TYPES)
    if make_accelerator().num_processes > 1:
        raise UserError("start the sweep in one process; its option processes says how many comparisons run at a time")
    sweep = Path(config.output_dir)
    planned = list(jobs(config))
    settings = method_settings(config)
    start_run(sweep, config, may_change=MAY_CHANGE)
    for name, options in settings.items():
        write_text(sweep / "configs" / f"{name}.yaml", yaml.safe_dump(options, sort_keys=False))

    # 1. The comparisons, those of one seed before those of the next.
    unfinished = [job for job in planned if not is_finished(sweep / job.folder)]
    print(f"{len(planned)} comparisons, {len(planned) - len(unfinished)} of them finished", flush=True)
    began = time.perf_counter()
    side_by_side([partial(run_one, config, sweep, job) for job in unfinished], config.processes, "comparison")
    print(f"{len(unfinished)} comparisons in {(time.perf_counter() - began) / 60:.1f} minutes", flush=True)

    # 2. The verdicts, over everything that is there.
    comparisons = [
        Comparison(job.conditions, job.seed, read_json(sweep / job.folder / "results.json")) for job in planned
    ]
    environment = read_json(sweep / "environment.json")
    write_json(
        sweep / "results.json",
        {
            "command": environment["command"],
            "environment": environment,
            "config": as_flat_dict(config),
            "base_model": config.model,
            "claims": judge(comparisons),
        },
    )
    print(f"gallery: {build_gallery(sweep)}")
    print(f"report: {build(sweep)}")


def words(listed: str) -> list[str]:
    """ "a, b" -> ["a", "b"]."""
    return [word.strip() for word in listed.split(",") if word.strip()]


def jobs(config: ClaimsConfig) -> Iterator[Job]:
    for seed in range(config.seeds):
        for task, budget, precision in product(*map(words, (config.tasks, config.budgets, config.precisions))):
            yield Job(task, budget, precision, seed)


def added_options(listed: str) -> dict[str, Any]:
    """ "precision=released,shared_noise=true" -> {"precision": "released", "shared_noise": True}."""
    pairs = [word.partition("=") for word in words(listed)]
    for key, equals, value in pairs:
        if not (key and equals and value):
            raise UserError(f"{key + equals + value!r} is no key=value; write for example precision=released")
    return {key: yaml.safe_load(value) for key, _, value in pairs}


def method_settings(config: ClaimsConfig) -> dict[str, dict[str, Any]]:
    """{"es-matched-fp32": content of its YAML file, ...}. Raises UserError for options that a method does not have."""
    settings = {}
    for method, types, path, always, further in (
        ("es", (ESConfig,), config.es_config, config.es_options, {"released": config.es_released}),
        (
            "grpo",
            (GRPOArguments, GRPOConfig),
            config.grpo_config,
            config.grpo_options,
            {"released": config.grpo_released, "published": config.grpo_published},
        ),
    ):
        for budget, precision in product(words(config.budgets), words(config.precisions)):
            options = added_options(always)
            for condition in (budget, precision):
                options |= added_options(further.get(condition, ""))
            parse(*types, arguments=["--config", path, *(f"--{key}={value}" for key, value in options.items())])
            settings[f"{method}-{budget}-{precision}"] = read_yaml(Path(path)) | options
    return settings


def is_finished(run: Path) -> bool:
    return {"connectivity", "probes", "theory"} <= read_results(run / "results.json").keys()


def run_one(config: ClaimsConfig, sweep: Path, job: Job) -> None:
    run = sweep / job.folder
    options = {
        "model": config.model,
        "output_dir": run,
        "task": job.task,
        "seed": job.seed,
        **{
            f"{method}_config": sweep / "configs" / f"{method}-{job.budget}-{job.precision}.yaml" for method in METHODS
        },
        "completions": config.completions,
        "grpo_completions": config.published_grpo_completions if job.budget == "published" else 0,
        **{
            key: getattr(config, key)
            for key in (
                "data_seed",
                "test_tasks",
                "test_size",
                "max_new_tokens",
                "kl_prompts",
                "line_points",
                "line_size",
                "batch_size",
            )
        },
    }
    run_python(
        run,
        "the comparison",
        [str(Path(__file__).with_name("compare.py")), *(f"--{key}={value}" for key, value in options.items())],
    )
    base = run / "base" if (run / "base").is_dir() else config.model
    run_python(
        run,
        "the comparison",
        [
            "-m",
            "analysis",
            "connectivity",
            "--parts",
            "probes",
            "--base",
            base,
            "--output",
            run,
            "--checkpoints",
            *(f"{method}={run / method / 'model'}" for method in METHODS),
            "--tasks",
            job.task,
            "--size",
            config.probe_size,
            "--seed",
            config.data_seed,
            "--max-new-tokens",
            config.max_new_tokens,
            "--batch-size",
            config.batch_size,
            "--scales",
            1,
            "--random-directions",
            config.random_directions,
        ],
    )
    results = read_json(run / "results.json")
    write_json(run / "results.json", results | {"theory": {"es": predict(run / "es")}})
    build(run)


if __name__ == "__main__":
    exit_with_one_line(main)
