"""Many runs of recipes/rules.py, several at a time on one machine.

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/rules_sweep.py \\
        --config recipes/rules/clocks.yaml
"""

from eval.errors import exit_with_one_line
from trainers.arguments import parse
from trainers.sweep import SweepConfig, run_sweep


CONFIG_TYPES = (SweepConfig,)


def main():
    (config,) = parse(*CONFIG_TYPES)
    results = run_sweep(config)
    seconds = sum(result["seconds"] + result["evaluation_seconds"] for result in results.values())
    print(f"{config.output_dir}: {len(results)} runs, {seconds:.0f} s of training and evaluation in all")


if __name__ == "__main__":
    exit_with_one_line(main)
