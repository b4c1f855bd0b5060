"""Options that several commands share, and what is typed for them."""

import argparse
from pathlib import Path

from analysis.resume import Measurement, measure_sections
from eval.command_line import at_least, device, seed
from eval.errors import UserError


def named_folders(entries: list[str]) -> dict[str, Path]:
    """["es=runs/es", ...] -> {"es": Path("runs/es"), ...}. Raises UserError for what is not NAME=DIR."""
    return {name: Path(place) for name, place in named_places(entries).items()}


def named_places(entries: list[str]) -> dict[str, str]:
    """The same as texts, which may be names of hub models."""
    folders: dict[str, str] = {}
    for entry in entries:
        name, _, folder = entry.partition("=")
        if not name or not folder:
            raise UserError(f"--checkpoints {entry!r} is not NAME=DIR; write for example es=runs/es/final")
        if name == "base" or "|" in name or "," in name:
            raise UserError(f"a checkpoint cannot be called {name!r}; choose another name, without | and commas")
        if name in folders:
            raise UserError(f"two checkpoints are called {name!r}; give each its own name")
        folders[name] = folder
    return folders


def task_names(entries: list[str]) -> list[str]:
    """["countdown,yes_no", "arithmetic"] -> ["countdown", "yes_no", "arithmetic"]."""
    names = [name for entry in entries for name in entry.split(",") if name]
    if not names:
        raise UserError("--tasks names no task; give for example --tasks countdown")
    return names


def add_checkpoint_options(parser: argparse.ArgumentParser, of_a_run: bool = False) -> None:
    """--base, --checkpoints (or --run, if `of_a_run`), --output and --recompute."""
    parser.add_argument(
        "--base", type=Path, required=True, metavar="DIR", help="checkpoint folder that all others started from"
    )
    source = parser.add_mutually_exclusive_group(required=True) if of_a_run else parser
    source.add_argument(
        "--checkpoints",
        nargs="+",
        required=not of_a_run,
        metavar="NAME=DIR",
        help="trained checkpoint folders, with names",
    )
    if of_a_run:
        source.add_argument(
            "--run",
            dest="run_folder",
            type=Path,
            metavar="DIR",
            help="in place of --checkpoints: a run folder, whose checkpoints are named by their steps",
        )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder whose results.json takes the results"
    )
    parser.add_argument(
        "--recompute",
        action="store_true",
        help="measure again what results.json holds for the same files and options already",
    )


def add_tasks_option(parser: argparse.ArgumentParser, required: bool) -> None:
    parser.add_argument(
        "--tasks",
        nargs="+",
        required=required,
        metavar="TASK",
        help="what to measure on, separated by spaces or commas; connectivity takes one task",
    )


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=seed, default=0, help="of prompts and sampling (default: %(default)s)")
    parser.add_argument(
        "--max-new-tokens", type=at_least(1), default=256, help="completions are cut there (default: %(default)s)"
    )
    parser.add_argument(
        "--batch-size", type=at_least(1), default=64, help="sequences that run together (default: %(default)s)"
    )
    parser.add_argument("--device", type=device, help="cpu, cuda, cuda:1, ... (default: the GPU if there is one)")


def measure_parts(
    arguments: argparse.Namespace, checkpoints: dict[str, Path], parts: dict[str, tuple[str, Measurement]]
) -> None:
    """Measure what --parts names. parts: {part: (its section of results.json, its measurement)}."""
    sections = dict(parts[part] for part in arguments.parts)
    measure_sections(arguments.output, arguments.base, checkpoints, sections, arguments.recompute)
