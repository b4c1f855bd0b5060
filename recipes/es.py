"""Fine-tune a language model with evolution strategies.

accelerate launch --config_file accelerate_configs/cpu.yaml recipes/es.py --config recipes/tiny/es.yaml
"""

from eval.errors import exit_with_one_line
from trainers.arguments import parse
from trainers.dry_run import announce, print_memory_plan, training_lines
from trainers.es import ESConfig, ESTrainer
from trainers.launch import is_main_process


CONFIG_TYPES = (ESConfig,)


def main():
    (config,) = parse(*CONFIG_TYPES)
    if config.dry_run:
        announce("es", training_lines("es", config))
        print_memory_plan(config)
        return
    trainer = ESTrainer(args=config)
    trainer.train()
    if not is_main_process():
        return
    results = trainer.results
    print(
        f"{config.output_dir}/model: {results['steps']} steps, {results['completions']:,} completions, "
        f"{results['seconds']:.0f} s"
    )


if __name__ == "__main__":
    exit_with_one_line(main)
