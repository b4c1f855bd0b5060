"""Norms, cosines, sparsity and spectra of the updates, from weights alone."""

import argparse

from analysis.commands.options import add_checkpoint_options, measure_parts, named_folders
from analysis.resume import Measurement
from eval.command_line import at_least, device


def add_options(parser: argparse.ArgumentParser) -> None:
    add_checkpoint_options(parser, of_a_run=True)
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=("updates", "spectra", "trajectory"),
        default=["updates"],
        help="what to measure: norms, cosines and sparsity; singular values, ranks and shared subspaces of every "
        "matrix; the path through the checkpoints in the order given (default: updates)",
    )
    parser.add_argument(
        "--top",
        type=at_least(1),
        default=16,
        help="spectra: singular directions of each matrix that are compared (default: %(default)s)",
    )
    parser.add_argument(
        "--device",
        type=device,
        default="cpu",
        help="spectra: where matrices are decomposed: cpu, cuda, ... (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> None:
    from analysis.geometry.spectra import update_spectra
    from analysis.geometry.trajectory import drift, run_checkpoints
    from analysis.geometry.updates import update_geometry

    base, top = arguments.base, arguments.top
    checkpoints = (
        named_folders(arguments.checkpoints) if arguments.checkpoints else run_checkpoints(arguments.run_folder)
    )
    parts: dict[str, tuple[str, Measurement]] = {
        "updates": ("geometry", ({}, lambda: update_geometry(base, checkpoints))),
        "spectra": ("spectra", ({"top": top}, lambda: update_spectra(base, checkpoints, top, arguments.device))),
        "trajectory": ("trajectory", ({}, lambda: drift(base, checkpoints))),
    }
    measure_parts(arguments, checkpoints, parts)
