"""Fine-tune a language model on its own correct answers to one task, through TRL's SFTTrainer.

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/sft.py --config recipes/tiny/sft.yaml

Options on the command line go before those in the file: `--samples 4 --output_dir runs/try/sft`. Started again, a
killed run goes on with its next batch of samples, or from its last complete checkpoint. What lies in the run folder
stands in trainers/sft.py.
"""

from eval.errors import exit_with_one_line
from trainers.arguments import parse
from trainers.dry_run import announce, training_lines
from trainers.launch import is_main_process
from trainers.options import StartOptions
from trainers.sft import SFTArguments, SFTConfig, train_sft


CONFIG_TYPES = (SFTArguments, SFTConfig, StartOptions)


def main() -> None:
    arguments, config, start = parse(*CONFIG_TYPES)
    if start.dry_run:
        announce("sft", training_lines("sft", arguments, config))
        return
    results = train_sft(arguments, config)
    if is_main_process():
        print(
            f"{results['completions']} completions, {results['tokens']} tokens; {results['correct']} of them right, "
            f"{results['kept']} trained on in {results['steps']} steps; {results['seconds']:.0f} s of both"
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
