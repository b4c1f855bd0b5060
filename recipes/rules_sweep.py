"""Many runs of recipes/rules.py, several at a time on one machine.

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/rules_sweep.py \\
        --config recipes/rules/clocks.yaml
"""

from pathlib import Path

from eval.errors import exit_with_one_line
from trainers.arguments import parse
from trainers.dry_run import announce, finished_line, training_lines
from trainers.options import StartOptions
from trainers.sweep import SweepConfig, run_sweep


CONFIG_TYPES = (SweepConfig, StartOptions)


def main():
    config, start = parse(*CONFIG_TYPES)
    if start.dry_run:
        announce("rules_sweep", plan(config))
        return
    results = run_sweep(config)
    seconds = sum(result["seconds"] + result["evaluation_seconds"] for result in results.values())
    print(f"{config.output_dir}: {len(results)} runs, {seconds:.0f} s of training and evaluation in all")


def plan(config: SweepConfig) -> dict[str, str]:
    """What a dry run says: every run's folder is looked at."""
    runs = config.configs()
    for run in runs:
        training_lines("rules", run)
    return {
        "runs": finished_line((Path(run.output_dir) for run in runs), "runs"),
        "length": f"{sum(run.steps for run in runs):,} steps at most in all, {config.workers} runs at a time",
        "folder": config.output_dir,
    }


if __name__ == "__main__":
    exit_with_one_line(main)
