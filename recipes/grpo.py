"""Post-train a language model on one task by GRPO, through TRL.

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/grpo.py --config recipes/tiny/grpo.yaml

Options on the command line go before those in the file: `--max_steps 2 --output_dir runs/try/grpo`. Started again, a
killed run goes on from its last complete checkpoint. What lies in the run folder stands in trainers/grpo.py.
"""

from eval.errors import exit_with_one_line
from trainers.arguments import parse
from trainers.dry_run import announce, training_lines
from trainers.grpo import GRPOArguments, GRPOConfig, train_grpo
from trainers.launch import is_main_process
from trainers.options import StartOptions


CONFIG_TYPES = (GRPOArguments, GRPOConfig, StartOptions)


def main() -> None:
    arguments, config, start = parse(*CONFIG_TYPES)
    if start.dry_run:
        announce("grpo", training_lines("grpo", arguments, config))
        return
    results = train_grpo(arguments, config)
    if is_main_process():
        print(
            f"{results['steps']} steps, {results['completions']} completions, {results['tokens']} tokens, "
            f"{results['seconds']:.0f} s of training"
        )
        if results["last_evaluation"] is not None:
            first, last = results["first_evaluation"], results["last_evaluation"]
            print(
                f"greedy accuracy on {last['total']} validation problems: {first['accuracy']:.3f} before, "
                f"{last['accuracy']:.3f} after"
            )
        print(f"final model: {config.output_dir}/model")


if __name__ == "__main__":
    exit_with_one_line(main)
