"""Exact and sampled KL divergence between the models, in both directions."""

import argparse
from collections.abc import Callable
from pathlib import Path

from analysis.commands.options import (
    add_checkpoint_options,
    add_sampling_options,
    add_tasks_option,
    measure_parts,
    named_folders,
    own_digests,
    task_names,
)
from analysis.resume import Measurement, measure_sections
from eval.command_line import at_least
from eval.commands.own_options import add_own_data_options, own_tasks
from eval.digests import file_digest


def add_options(parser: argparse.ArgumentParser) -> None:
    add_checkpoint_options(parser)
    add_tasks_option(parser, required=False)
    add_own_data_options(parser, dashes=True)
    parser.add_argument(
        "--texts",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help='files of prompts to measure on as well: .jsonl with a "prompt" in each line, or one prompt a line',
    )
    parser.add_argument(
        "--text",
        metavar="FILE",
        help="a text to measure on as it stands, without sampling: passages with blank lines between them; builtin: "
        "100 kB of prose in the public domain, which no task is about",
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=("drift", "matrices"),
        default=["drift"],
        help="what to measure: each checkpoint against base; a sequence of trainings, its checkpoints in the order "
        "given, each against the one before it and against base (default: drift)",
    )
    parser.add_argument(
        "--prompts", type=at_least(1), default=200, help="held-out prompts of each task or file (default: %(default)s)"
    )
    add_sampling_options(parser)


def run(arguments: argparse.Namespace) -> None:
    from analysis.behaviour.kl import kl_drift, kl_matrices, prompt_sets

    checkpoints = named_folders(arguments.checkpoints)
    tasks = (task_names(arguments.tasks) if arguments.tasks else []) + own_tasks(arguments, needs_reward=False)
    on_text = {} if arguments.text is None else text_section(arguments, checkpoints)
    if on_text and not tasks and not arguments.texts:
        measure_sections(arguments.output, arguments.base, checkpoints, on_text, arguments.recompute)
        return
    prompt_sets(tasks, arguments.texts, 1, arguments.seed)  # misspelt tasks and broken files, before any checkpoint
    options = {
        "tasks": tasks,
        **own_digests(tasks),
        "texts": {path.stem: file_digest(path) for path in arguments.texts},
        "prompts": arguments.prompts,
        "seed": arguments.seed,
        "max_new_tokens": arguments.max_new_tokens,
    }

    def measured(function: Callable[..., dict]) -> Measurement:
        return options, lambda: function(
            arguments.base,
            checkpoints,
            tasks,
            arguments.prompts,
            arguments.seed,
            arguments.max_new_tokens,
            arguments.batch_size,
            arguments.device,
            arguments.texts,
        )

    parts = {"drift": ("kl", measured(kl_drift)), "matrices": ("kl_matrices", measured(kl_matrices))}
    measure_parts(arguments, checkpoints, parts)
    if on_text:
        measure_sections(arguments.output, arguments.base, checkpoints, on_text, arguments.recompute)


def text_section(arguments: argparse.Namespace, checkpoints: dict[str, Path]) -> dict[str, Measurement]:
    """{"kl_text": its measurement}. Raises UserError for a text that cannot be read."""
    from analysis.behaviour.free_text import text_kl
    from eval.perplexity import read_passages, text_file

    passages = read_passages(arguments.text)
    options = {"text": arguments.text, "sha256": file_digest(text_file(arguments.text)), "seed": arguments.seed}

    def measure() -> dict:
        return text_kl(arguments.base, checkpoints, passages, arguments.batch_size, arguments.seed, arguments.device)

    return {"kl_text": (options, measure)}
