"""The same model post-trained twice, by evolution strategies and by GRPO, at the same budget; then what differs.

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/compare.py --config recipes/tiny/compare.yaml

Both methods start from one checkpoint, see the same task under the same evaluator and generate the same number of
completions. The finished models are compared on held-out problems, in weight space, in KL to the base and along the
straight lines between them; where GRPO has kept the weights of its evaluations, so are the first two that are equally
accurate. Every stage writes its own file; started again, an interrupted comparison goes on with
the first stage that has none. The report is in report/index.html of the run folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.claims.comparison import MEASURED, ComparedOn, compare_models
from analysis.claims.equal_accuracy import MATCHED, matched_section
from analysis.claims.matched import chosen_steps, first_match, read_curve
from analysis.report import build
from analysis.report.terminal import results_text
from analysis.resume import read_results, without_other_checkpoints
from eval.errors import UserError, exit_with_one_line
from eval.results_file import write_results
from eval.stages import Stages
from eval.storage import read_json, read_yaml_mapping
from eval.tasks import TASKS, TaskSpec, get_task, is_own, own_data
from trainers.arguments import as_flat_dict, check_between, parse
from trainers.budget import es_at_budget, grpo_at_budget
from trainers.chains import local_model
from trainers.dry_run import announce, folder_line, held_out_line, print_memory_plan, training_lines
from trainers.es.config import ESConfig
from trainers.es.folder import may_grow
from trainers.es.memory import model_shape
from trainers.es.replay import can_replay, keep_permuted, keep_replayed
from trainers.es.train import train_es
from trainers.evaluated import evaluated_folder, evaluated_models
from trainers.grpo import GRPOArguments, GRPOConfig, check_more_steps, train_grpo
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
from trainers.task_options import TaskOption, TaskOptionList, TaskOptions, fold_task, rewarded_task
from trainers.tracking import Tracking, comparison_summary, tracker_names


METHODS = ("es", "grpo")
# Along a line; a model is evaluated at each.
MOST_POINTS = 10_000


@dataclass(kw_only=True)
class CompareConfig(TaskOptions, ComparedOn):
    """One model, one task, one budget, two methods.

    The two YAML files give what belongs to a method alone; model, task, seed, budget and folders come from here.
    """

    model: str = field(metadata={"help": "checkpoint folder or hub name that both methods start from"})
    output_dir: str = field(metadata={"help": "run folder of the comparison"})
    es_config: str = field(metadata={"help": "YAML file of recipes/es.py"})
    grpo_config: str = field(metadata={"help": "YAML file of recipes/grpo.py"})
    task: TaskOption = option("countdown", "what both methods are rewarded for")
    completions: PositiveInt = option(61440, "training completions that each method generates")
    grpo_completions: NonNegativeInt = option(0, "completions of GRPO where its budget is another one; 0: the same")
    seed: Seed = option(0, "seed of both trainings")
    test_tasks: TaskOptionList = option(list(TASKS), "tasks evaluated at the end")
    test_size: Rows = option(500, "held-out problems per task")
    max_new_tokens: PositiveInt = option(64, "longest completion, in training and afterwards")
    kl_prompts: Rows = option(200, "prompts per task and direction of the KL")
    line_points: int = option(11, "models along each straight line, the ends included")
    batch_size: PositiveInt = option(500, "prompts generated at a time after training")
    matched: bool = option(
        True,
        "measure at equal accuracy too, where grpo_config has keep_evaluated: true; ES is replayed from its seeds",
    )
    measured_checkpoints: PositiveInt = option(
        6, "checkpoints of each method whose length and KL are measured along the trainings then, at most"
    )
    report_to: str | list[str] = option(
        "none", "tensorboard, trackio, wandb, several of them, or none: both trainings, and a run with what differs"
    )

    def __post_init__(self):
        check_bounds(self)
        check_comparison(self)
        tracker_names(self.report_to)
        fold_task(self)
        self.test_tasks = tested_tasks(self.task, self.test_tasks)


def tested_tasks(task: str, test_tasks: Sequence[TaskSpec]) -> list[str]:
    """The tasks evaluated at the end, a trained one of one's own among them. Raises UserError for a wrong one."""
    tested = [rewarded_task(spec) for spec in test_tasks]
    if is_own(task) and task not in tested:
        tested = [task, *tested]
    if len(set(tested)) < len(tested):
        raise UserError(f"test_tasks has two tasks of one name ({', '.join(tested)}); give each once, or a name")
    return tested


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
    shared: dict[str, Any] = {name: getattr(config, name) for name in ("model", "task", "seed", "data_seed")}
    if trackers := tracker_names(config.report_to):
        shared["report_to"] = trackers
    es = es_at_budget(config.es_config, budget, longest, output_dir=str(run / "es"), **shared)
    grpo = grpo_at_budget(
        config.grpo_config, config.grpo_completions or budget, longest, output_dir=str(run / "grpo"), **shared
    )
    model_shape(config.model)
    return es, grpo


def say_plan(config: CompareConfig) -> None:
    """What a dry run says."""
    es, grpo = trainings(config)
    may_change = may_differ(config, es, grpo)
    announce("es, the first of two trainings", training_lines("es", es))
    print_memory_plan(es)
    announce("grpo, the second", training_lines("grpo", *grpo))
    announce(
        "compare",
        {
            "test": held_out_line(config.test_tasks, config.test_size, config.data_seed),
            "lines": f"{config.line_points} models along each, {config.line_size:,} problems for each model",
            "folder": folder_line(config.output_dir, config, may_change=may_change),
        },
    )


def compare(config: CompareConfig) -> Path:
    """Train, measure and report, or go on where an earlier start was; returns the folder of the base model.

    In a run of several processes all train, and the main one does the rest.
    """
    run = Path(config.output_dir)

    es, grpo = trainings(config)
    accelerator = make_accelerator()
    start_run(run, config, may_change=may_differ(config, es, grpo))

    # 1. Two trainings. A finished one returns at once.
    matched = MATCHED if config.matched and grpo[0].keep_evaluated else ()
    stages = Stages(["training es", "training grpo", *MEASURED, *matched, "report"], accelerator.is_main_process)
    stages.begin("training es", finished=(run / "es" / "results.json").exists())
    train_es(es)
    stages.begin("training grpo", finished=(run / "grpo" / "results.json").exists())
    train_grpo(*grpo)
    base = local_model(config.model, run / "base")
    if not accelerator.is_main_process:
        return base

    # 2. What the finished models can do, and how they differ.
    sections = compare_models(
        run, base, METHODS, config.task, config, accelerator.device, stages, lambda: permuted_es(run, config.model)
    )

    # 3. The same where they are equally accurate, and along the way there.
    if matched:
        sections |= equally_accurate(config, base, accelerator.device, sections, stages)

    # 4. All numbers in one file, and the page made from it. What `python -m analysis` has added to the file stays,
    # unless the models are others now.
    environment = read_json(run / "environment.json")
    about = {
        "command": environment["command"],
        "environment": environment,
        "config": as_flat_dict(config),
        "task": config.task,
        "base_model": config.model,
        **own_data([config.task, *config.test_tasks]),
    }
    earlier = without_other_checkpoints(read_results(run / "results.json"), sections["digests"]["models"])
    earlier.pop("matched", None)  # of shorter trainings, where these have none
    write_results(run / "results.json", "comparison", earlier | about | sections)
    tracking = Tracking(tracker_names(config.report_to), run)
    tracking.summary(comparison_summary(sections), step=config.completions)
    tracking.close()
    stages.begin("report")
    page = build(run)
    print(f"\n{results_text(run)}\n", flush=True)
    print(f"report: {page}")
    return base


def permuted_es(run: Path, model: str) -> Path | None:
    """The control of the ES run that learned nothing: its seeds with shuffled fitness; None where no log has them."""
    if not can_replay(run / "es"):
        return None
    keep_permuted(run / "es", model, run / "controls" / "permuted", seed=0)
    return run / "controls" / "permuted"


def equally_accurate(
    config: CompareConfig, base: Path, device: Any, sections: dict[str, Any], stages: Stages
) -> dict[str, Any]:
    """{"matched": see `matched_section`}; {} where a training has no evaluation whose weights there are."""
    run = Path(config.output_dir)
    curves = {method: read_curve(run / method) for method in METHODS}
    there = {method: kept_steps(run / method, [point.step for point in curves[method]]) for method in METHODS}
    es, grpo = METHODS
    match = first_match((curves[es], curves[grpo]), (there[es], there[grpo]))
    if match is None:
        return {}
    kept = {}
    for method, point in zip(METHODS, match.pair, strict=True):
        last = curves[method][-1].step
        steps = chosen_steps(there[method], config.measured_checkpoints, point.step)
        if can_replay(run / method):
            keep_replayed(run / method, config.model, [step for step in steps if step != last])
        kept[method] = {
            step: run / method / "model" if step == last else evaluated_folder(run / method, step) for step in steps
        }
    measured = matched_section(run, base, config.task, config, device, curves, match, kept, sections, stages)
    return {"matched": measured}


def kept_steps(run: Path, evaluated: list[int]) -> list[int]:
    """Of the steps at which a training was evaluated, those whose weights are there or can be made again."""
    there = {*(evaluated if can_replay(run) else evaluated_models(run)), *evaluated[-1:]} - {0}
    return sorted(there & {*evaluated})


def may_differ(config: CompareConfig, es: ESConfig, grpo: tuple[GRPOArguments, GRPOConfig]) -> tuple[str, ...]:
    """The options that may differ from those of the comparison in the folder."""
    return "report_to", "matched", "measured_checkpoints", *more_completions(config, es, grpo)


def more_completions(config: CompareConfig, es: ESConfig, grpo: tuple[GRPOArguments, GRPOConfig]) -> tuple[str, ...]:
    """The options that may differ from those of the comparison in the folder, because it is given more completions.

    Raises `UserError`, before anything is written, if one of the trainings cannot go on.
    """
    run = Path(config.output_dir)
    if not (run / "config.yaml").exists():
        return ()
    before = read_yaml_mapping(run / "config.yaml")
    budgets = [(one, before.get(one, 0)) for one in ("completions", "grpo_completions")]
    for name, earlier in budgets:
        if 0 < getattr(config, name) < earlier:
            raise UserError(
                f"{name} was {earlier}, now {getattr(config, name)}, but a comparison is made longer, never shorter; "
                "give at least that, or choose another output_dir"
            )
    grown = tuple(name for name, earlier in budgets if getattr(config, name) != earlier)
    if grown:
        may_grow(run / "es", es)
        check_more_steps(get_task(config.task), *grpo)
    return grown


if __name__ == "__main__":
    exit_with_one_line(main)
