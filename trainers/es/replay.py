"""Rebuild the model of any ES step from the starting model and the seed log.

python -m trainers.es.replay --base DIR --seeds runs/.../seeds.jsonl [--step N] --output DIR
"""

from collections.abc import Collection
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eval.command_line import OneLineParser
from eval.errors import UserError, exit_with_one_line
from eval.ownership import require_ours
from eval.rollout.loading import load_model, save_model
from eval.storage import new_folder, read_yaml_mapping
from trainers.es.search import EvolutionStrategy
from trainers.es.update import permuted, read_seed_log, replay, replayed
from trainers.evaluated import evaluated_models, keep_evaluated


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
    if is_of_adapter(arguments.seeds.parent):
        raise UserError(
            f"{arguments.seeds} is of a search over an adapter, whose start is not in --base; take its adapter/ folder"
        )
    updates = read_seed_log(arguments.seeds)
    steps = len(updates) if arguments.step is None else arguments.step
    if not 1 <= steps <= len(updates):
        raise UserError(f"{arguments.seeds} holds {len(updates)} steps; --step {steps} is not among them")
    model, tokenizer, base = starting_weights(arguments.base, updates[0].device)
    with new_folder(arguments.output) as folder:
        save_model(folder, model, tokenizer, replay(base, updates[:steps]))
    print(f"{arguments.output}: the weights after step {steps}")


def is_of_adapter(run: Path) -> bool:
    """Whether the search of this run was over an adapter, whose start is not in the model that it began with."""
    options = run / "config.yaml"
    asked = options.exists() and read_yaml_mapping(options).get("peft_config")
    return bool(asked or (run / "adapter").is_dir())


def can_replay(run: Path) -> bool:
    """Whether the seed log of this run rebuilds the model of any of its steps."""
    return (run / EvolutionStrategy.log).exists() and not is_of_adapter(run)


def starting_weights(
    model: str | Path, device: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, torch.Tensor]]:
    """The model, its tokenizer, and its float32 weights where the noise was drawn."""
    loaded, tokenizer = load_model(model, torch.float32)
    return loaded, tokenizer, {name: parameter.data.to(device) for name, parameter in loaded.named_parameters()}


def keep_replayed(run: Path, model: str | Path, steps: Collection[int]) -> None:
    """Make evaluated/step_N (see `trainers.evaluated`) of those of `steps` that are not there, in one replay.

    run: of evolution strategies from `model`, see `can_replay`.
    """
    missing = set(steps) - evaluated_models(run).keys()
    if not missing:
        return
    updates = read_seed_log(run / EvolutionStrategy.log)[: max(missing)]
    loaded, tokenizer, base = starting_weights(model, updates[0].device)
    progress = tqdm(replayed(base, updates), desc="replay", total=len(updates), unit="step")
    for step, weights in enumerate(progress, start=1):
        if step in missing:
            keep_evaluated(run, step, lambda folder, now=weights: save_model(folder, loaded, tokenizer, now))


def keep_permuted(run: Path, model: str | Path, output: Path, seed: int) -> None:
    """Make `output` anew: the model that the same seeds give with the fitness of every step shuffled (`permuted`)."""
    updates = permuted(read_seed_log(run / EvolutionStrategy.log), seed)
    loaded, tokenizer, base = starting_weights(model, updates[0].device)
    with new_folder(output) as folder:
        save_model(folder, loaded, tokenizer, replay(base, updates))


if __name__ == "__main__":
    exit_with_one_line(main)
