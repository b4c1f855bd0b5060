"""`python -m analysis geometry|connectivity|kl|report`: measure checkpoints; results go to DIR/results.json."""

import argparse
import json
from pathlib import Path
from typing import Any, NoReturn

from eval.errors import UserError, exit_with_one_line
from eval.storage import read_json, write_json


class OneLineParser(argparse.ArgumentParser):
    """Reports a mistake as a UserError, in place of the usage text."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def main() -> None:
    arguments = build_parser().parse_args()
    arguments.run(arguments)


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="python -m analysis", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    geometry = commands.add_parser("geometry", help="norms, cosines and sparsity of the updates, from weights alone")
    _add_checkpoint_options(geometry)
    geometry.set_defaults(run=run_geometry)

    connectivity = commands.add_parser(
        "connectivity", help="reward and loss along the straight lines between base and the checkpoints"
    )
    _add_checkpoint_options(connectivity)
    _add_tasks_option(connectivity)
    connectivity.add_argument("--size", type=_positive, default=200, help="held-out rows (default: %(default)s)")
    connectivity.add_argument(
        "--points", type=_positive, default=11, help="points on each line, both ends included (default: %(default)s)"
    )
    _add_sampling_options(connectivity)
    connectivity.set_defaults(run=run_connectivity)

    kl = commands.add_parser("kl", help="exact KL divergence between base and each checkpoint, in both directions")
    _add_checkpoint_options(kl)
    _add_tasks_option(kl)
    kl.add_argument(
        "--prompts", type=_positive, default=200, help="held-out prompts of each task (default: %(default)s)"
    )
    _add_sampling_options(kl)
    kl.set_defaults(run=run_kl)

    report = commands.add_parser("report", help="write DIR/report from DIR/results.json; needs no model")
    report.add_argument("--run", dest="folder", type=Path, required=True, metavar="DIR", help="a run folder")
    report.set_defaults(run=run_report)
    return parser


# Each command imports what it needs itself: a misspelt option or --help should not wait for torch.
def run_geometry(arguments: argparse.Namespace) -> None:
    from analysis.geometry import update_geometry

    checkpoints = named_folders(arguments.checkpoints)
    store(arguments.output, "geometry", update_geometry(arguments.base, checkpoints), checkpoints)


def run_connectivity(arguments: argparse.Namespace) -> None:
    from analysis.connectivity import connectivity

    checkpoints = named_folders(arguments.checkpoints)
    task, *others = task_names(arguments.tasks)
    if others:
        raise UserError(
            f"connectivity measures one task at a time, not {', '.join([task, *others])}; give each its own --output"
        )
    measured = connectivity(
        arguments.base,
        checkpoints,
        task,
        arguments.size,
        arguments.points,
        arguments.seed,
        arguments.max_new_tokens,
        arguments.batch_size,
        arguments.device,
    )
    store(arguments.output, "connectivity", measured, checkpoints)


def run_kl(arguments: argparse.Namespace) -> None:
    from analysis.kl import kl_drift

    checkpoints = named_folders(arguments.checkpoints)
    measured = kl_drift(
        arguments.base,
        checkpoints,
        task_names(arguments.tasks),
        arguments.prompts,
        arguments.seed,
        arguments.max_new_tokens,
        arguments.batch_size,
        arguments.device,
    )
    store(arguments.output, "kl", measured, checkpoints)


def run_report(arguments: argparse.Namespace) -> None:
    from analysis.report import build

    print(build(arguments.folder))


def named_folders(entries: list[str]) -> dict[str, Path]:
    """["es=runs/es", ...] -> {"es": Path("runs/es"), ...}. Raises UserError for what is not NAME=DIR."""
    folders: dict[str, Path] = {}
    for entry in entries:
        name, _, folder = entry.partition("=")
        if not name or not folder:
            raise UserError(f"--checkpoints {entry!r} is not NAME=DIR; write for example es=runs/es/final")
        if name == "base" or "|" in name:
            raise UserError(f"a checkpoint cannot be called {name!r}; choose another name, without |")
        if name in folders:
            raise UserError(f"two checkpoints are called {name!r}; give each its own name")
        folders[name] = Path(folder)
    return folders


def task_names(entries: list[str]) -> list[str]:
    """["countdown,yes_no", "arithmetic"] -> ["countdown", "yes_no", "arithmetic"]."""
    names = [name for entry in entries for name in entry.split(",") if name]
    if not names:
        raise UserError("--tasks names no task; give for example --tasks countdown")
    return names


def store(output: Path, section: str, measured: dict, checkpoints: dict[str, Path]) -> None:
    """Put `measured` under `section` of OUTPUT/results.json and leave the other sections as they are.

    "methods" lists the names of all checkpoints in the file, in the order in which they came.
    """
    path = output / "results.json"
    results = read_results(path)
    results["methods"] = list(dict.fromkeys([*results.get("methods", []), *checkpoints]))
    results[section] = measured
    write_json(path, results)
    print(f"wrote {section} to {path}")


def read_results(path: Path) -> dict[str, Any]:
    """What earlier commands stored; {} if there is nothing yet."""
    if not path.exists():
        return {}
    try:
        return read_json(path)
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON ({error}); move it away or give another --output") from error


def _add_checkpoint_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--base", type=Path, required=True, metavar="DIR", help="checkpoint folder that all others started from"
    )
    parser.add_argument(
        "--checkpoints", nargs="+", required=True, metavar="NAME=DIR", help="trained checkpoint folders, with names"
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder whose results.json takes the results"
    )


def _add_tasks_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tasks",
        nargs="+",
        required=True,
        metavar="TASK",
        help="what to measure on, separated by spaces or commas; connectivity takes one task",
    )


def _add_sampling_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, help="of prompts and sampling (default: %(default)s)")
    parser.add_argument(
        "--max-new-tokens", type=_positive, default=256, help="completions are cut there (default: %(default)s)"
    )
    parser.add_argument(
        "--batch-size", type=_positive, default=64, help="sequences that run together (default: %(default)s)"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: the GPU if there is one)")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


if __name__ == "__main__":
    exit_with_one_line(main)
