"""A small generative model on a rule: when does it obey the rule, and when does it copy its training strings?

accelerate launch --config_file accelerate_configs/cpu.yaml recipes/rules.py --config recipes/rules/parity-mlp.yaml
"""

from eval.errors import exit_with_one_line
from trainers.arguments import parse
from trainers.dry_run import announce, training_lines
from trainers.launch import is_main_process
from trainers.options import StartOptions
from trainers.rules import RulesConfig, train_rules


CONFIG_TYPES = (RulesConfig, StartOptions)


def main():
    config, start = parse(*CONFIG_TYPES)
    if start.dry_run:
        announce("rules", training_lines("rules", config))
        return
    results = train_rules(config)
    if not is_main_process():
        return
    last = results["evaluation"]
    print(
        f"{config.output_dir}: {results['parameters']:,} parameters, {results['steps']} steps in "
        f"{results['seconds']:.0f} s; of {last['samples']} samples {last['valid']:.1%} obey {results['rule']}, "
        f"{last['copies']:.1%} are copies of training strings ({last['control']:.1%} of control strings)"
    )


if __name__ == "__main__":
    exit_with_one_line(main)
