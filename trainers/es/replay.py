"""Rebuild the model of any ES step from the starting model and the seed log.

python -m trainers.es.replay --base DIR --seeds runs/.../seeds.jsonl [--step N] --output DIR
"""

from pathlib import Path

import torch

from eval.command_line import OneLineParser
from eval.errors import UserError, exit_with_one_line
from eval.ownership import require_ours
from eval.rollout.loading import load_model, save_model
from eval.storage import new_folder, read_yaml_mapping
from trainers.es.update import read_seed_log, replay


def build_parser() -> OneLineParser:
    parser = OneLineParser(
        description="Rebuild the model of any ES step from the starting model and the seed log.", allow_abbrev=False
    )
    parser.add_argument("--base", required=True, help="checkpoint folder or hub name that the run started from")
    parser.add_argument("--seeds", required=True, type=Path, help="the run's seeds.jsonl")
    parser.add_argument("--step", type=int, help="replay up to this step; the whole log if not given")
    parser.add_argument("--output", required=True, type=Path, help="new folder for the rebuilt checkpoint")
    return parser


def main():
    arguments = build_parser().parse_args()
    require_ours(arguments.output)
    options = arguments.seeds.parent / "config.yaml"
    asked = options.exists() and read_yaml_mapping(options).get("peft_config")
    if asked or (arguments.seeds.parent / "adapter").is_dir():
        raise UserError(
            f"{arguments.seeds} is of a search over an adapter, whose start is not in --base; take its adapter/ folder"
        )
    updates = read_seed_log(arguments.seeds)
    steps = len(updates) if arguments.step is None else arguments.step
    if not 1 <= steps <= len(updates):
        raise UserError(f"{arguments.seeds} holds {len(updates)} steps; --step {steps} is not among them")
    model, tokenizer = load_model(arguments.base, torch.float32)
    base = {name: parameter.data.to(updates[0].device) for name, parameter in model.named_parameters()}
    with new_folder(arguments.output) as folder:
        save_model(folder, model, tokenizer, replay(base, updates[:steps]))
    print(f"{arguments.output}: the weights after step {steps}")


if __name__ == "__main__":
    exit_with_one_line(main)
