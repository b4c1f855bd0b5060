"""Make a tiny language model from nothing, on generated problems with careless and worked-out answers.

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/pretrain.py \\
        --config recipes/tiny/pretrain-llama-small.yaml
"""

from eval.errors import exit_with_one_line
from trainers.arguments import parse
from trainers.dry_run import announce, training_lines
from trainers.launch import is_main_process
from trainers.options import StartOptions
from trainers.pretrain import PretrainConfig, pretrain


CONFIG_TYPES = (PretrainConfig, StartOptions)


def main():
    config, start = parse(*CONFIG_TYPES)
    if start.dry_run:
        announce("pretrain", training_lines("pretrain", config))
        return
    results = pretrain(config)
    if not is_main_process():
        return
    accuracy = ", ".join(f"{task} {share:.1%}" for task, share in results["validation"]["accuracy"].items())
    print(
        f"{config.output_dir}/model: {results['parameters']:,} parameters, greedy accuracy on validation: {accuracy}"
    )


if __name__ == "__main__":
    exit_with_one_line(main)
