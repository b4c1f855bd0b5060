"""The same model post-trained twice, by evolution strategies and by GRPO, at the same budget; then what differs.

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/compare.py --config recipes/tiny/compare.yaml

Both methods start from one checkpoint, see the same task under the same evaluator and generate the same number of
completions. The finished models are compared on held-out problems, in weight space, in KL to the base and along the
straight lines between them. Every stage writes its own file; started again, an interrupted comparison goes on with
the first stage that has none. The report is in report/index.html of the run folder.
"""

from dataclasses import dataclass, field
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from analysis.claims.comparison import ComparedOn, compare_models
from analysis.report import build
from analysis.resume import read_results
from eval.errors import UserError, exit_with_one_line
from eval.results_file import write_results
from eval.storage import read_json
from eval.tasks import TASKS, get_task
from trainers.arguments import as_flat_dict, check_between, parse
from trainers.budget import es_at_budget, grpo_at_budget
from trainers.chains import local_model
from trainers.dry_run import announce, folder_line, held_out_line, print_memory_plan, training_lines
from trainers.es.config import ESConfig
from trainers.es.memory import model_shape
from trainers.es.train import train_es
from trainers.grpo import GRPOArguments, GRPOConfig, train_grpo
from trainers.launch import make_accelerator
from trainers.options import (
    NonNegativeInt,
    PositiveInt,
    Rows,
    Seed,
    StartOptions,
    check_bounds,
    check_held_out,
    check_rows,
    option,
)
from trainers.run_folder import start_run


METHODS = ("es", "grpo")
# Along a line; a model is evaluated at each.
MOST_POINTS = 10_000


@dataclass(kw_only=True)
class CompareConfig(ComparedOn):
    """One model, one task, one budget, two methods.

    The two YAML files give what belongs to a method alone; model, task, seed, budget and folders come from here.
    """

    model: str = field(metadata={"help": "checkpoint folder or hub name that both methods start from"})
    output_dir: str = field(metadata={"help": "run folder of the comparison"})
    es_config: str = field(metadata={"help": "YAML file of recipes/es.py"})
    grpo_config: str = field(metadata={"help": "YAML file of recipes/grpo.py"})
    task: str = option("countdown", "what both methods are rewarded for")
    completions: PositiveInt = option(61440, "training completions that each method generates")
    grpo_completions: NonNegativeInt = option(0, "completions of GRPO where its budget is another one; 0: the same")
    seed: Seed = option(0, "seed of both trainings")
    test_tasks: list[str] = option(list(TASKS), "tasks evaluated at the end")
    test_size: Rows = option(500, "held-out problems per task")
    max_new_tokens: PositiveInt = option(64, "longest completion, in training and afterwards")
    kl_prompts: Rows = option(200, "prompts per task and direction of the KL")
    line_points: int = option(11, "models along each straight line, the ends included")
    batch_size: PositiveInt = option(500, "prompts generated at a time after training")

    def __post_init__(self):
        check_bounds(self)
        check_comparison(self)
        for name in {self.task, *self.test_tasks}:
            get_task(name)


def check_comparison(config: ComparedOn) -> None:
    """Raise `UserError` for sizes and seeds with which nothing can be compared."""
    check_held_out(config)
    check_rows("line_size", config.line_size)
    check_between("line_points", config.line_points, 3, MOST_POINTS)
    if not config.test_tasks:
        raise UserError("test_tasks is empty; give one at least")


CONFIG_TYPES = (CompareConfig, StartOptions)


def main() -> None:
    config, start = parse(*CONFIG_TYPES)
    if start.dry_run:
        say_plan(config)
    else:
        compare(config)


def trainings(config: CompareConfig) -> tuple[ESConfig, tuple[GRPOArguments, GRPOConfig]]:
    """Both trainings with their options, checked before either begins."""
    run, budget, longest = Path(config.output_dir), config.completions, config.max_new_tokens
    shared = {"model": config.model, "task": config.task, "seed": config.seed, "data_seed": config.data_seed}
    es = es_at_budget(config.es_config, budget, longest, output_dir=str(run / "es"), **shared)
    grpo = grpo_at_budget(
        config.grpo_config, config.grpo_completions or budget, longest, output_dir=str(run / "grpo"), **shared
    )
    model_shape(config.model)
    return es, grpo


def say_plan(config: CompareConfig) -> None:
    """What a dry run says."""
    es, grpo = trainings(config)
    announce("es, the first of two trainings", training_lines("es", es))
    print_memory_plan(es)
    announce("grpo, the second", training_lines("grpo", *grpo))
    announce(
        "compare",
        {
            "test": held_out_line(config.test_tasks, config.test_size, config.data_seed),
            "lines": f"{config.line_points} models along each, {config.line_size:,} problems for each model",
            "folder": folder_line(config.output_dir, config),
        },
    )


def compare(config: CompareConfig) -> Path:
    """Train, measure and report, or go on where an earlier start was; returns the folder of the base model.

    In a run of several processes all train, and the main one does the rest.
    """
    disable_progress_bar()  # transformers' bar for each file it reads or writes
    run = Path(config.output_dir)

    es, grpo = trainings(config)
    accelerator = make_accelerator()
    start_run(run, config)

    # 1. Two trainings. A finished one returns at once.
    train_es(es)
    train_grpo(*grpo)
    base = local_model(config.model, run / "base")
    if not accelerator.is_main_process:
        return base

    # 2. What the finished models can do, and how they differ.
    sections = compare_models(run, base, METHODS, config.task, config, accelerator.device)

    # 3. All numbers in one file, and the page made from it. What `python -m analysis` has added to the file stays.
    environment = read_json(run / "environment.json")
    about = {
        "command": environment["command"],
        "environment": environment,
        "config": as_flat_dict(config),
        "task": config.task,
        "base_model": config.model,
    }
    write_results(run / "results.json", "comparison", read_results(run / "results.json") | about | sections)
    print(f"report: {build(run)}")
    return base


if __name__ == "__main__":
    exit_with_one_line(main)
