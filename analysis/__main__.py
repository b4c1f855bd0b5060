"""Measure checkpoints; results go to DIR/results.json.

    python -m analysis geometry     norms, cosines, sparsity and spectra of the updates
    python -m analysis connectivity reward and loss between the models, and to both sides of an update
    python -m analysis kl           how far the models' distributions over completions are apart
    python -m analysis theory       a run of evolution strategies beside what theory predicts, from its logs
    python -m analysis circuits     what training did to the circuits of tasks
    python -m analysis report       a page from DIR/results.json, or a gallery over a folder of runs
    python -m analysis table        one table from the results.json of many runs
    python -m analysis clocks       when small models learn a rule and when they copy, with a page of its own

Each part that is measured is one section of results.json. The file has

    methods        names of all checkpoints, in the order in which they came
    inputs         {section: {"checkpoints": {name: SHA-256 of its files}, "options": {...}, "folders": {name: path}}}
    geometry       norms, cosines and sparsity: see analysis.geometry.updates.update_geometry
    spectra        singular values, ranks and subspaces: see analysis.geometry.spectra.update_spectra
    trajectory     the path through the checkpoints in their order: see analysis.geometry.trajectory.drift
    connectivity   lines between the models: see analysis.behaviour.lines.straight_lines
    layer_lines    the same with one layer moving at a time: see analysis.behaviour.lines.part_lines
    kind_lines     the same with one kind of matrix moving at a time
    plane          a grid on the plane through three models: see analysis.behaviour.plane.plane
    probes         odd and even parts along updates and random directions: see analysis.behaviour.probes.probes
    kl             {checkpoint: {task: {"forward", "reverse"}}}: see analysis.behaviour.kl.kl_drift
    kl_matrices    {"order", "incremental", "cumulative"}: see analysis.behaviour.kl.kl_matrices
    theory         {run of evolution strategies: see analysis.theory.predictions.predict}
    claims         verdicts over many comparisons, by recipes/claims.py: see analysis.claims.judge.judge
    circuits       {task: {"nodes", "examples", ...}}: see analysis.circuits.change.task_change

and, if recipes/compare.py wrote it, what that recipe adds. Pairs are keyed "a|b". Rewards are shares of 1, losses and
divergences in nats, norms Euclidean; every KL states its direction, estimator, sampling and prompts. A section that
is there already for the same files and options is not measured again.
"""

import argparse
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NoReturn

from analysis.report.runs_table import as_csv, as_markdown, runs_table
from analysis.resume import Measurement, add_section, file_digest, measure_sections, read_results
from eval.errors import UserError, exit_with_one_line
from eval.storage import write_text


class OneLineParser(argparse.ArgumentParser):
    """Reports a mistake as a UserError, in place of the usage text."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def main() -> None:
    arguments = build_parser().parse_args()
    arguments.run(arguments)


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="python -m analysis", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    geometry = commands.add_parser(
        "geometry", help="norms, cosines, sparsity and spectra of the updates, from weights alone"
    )
    _add_checkpoint_options(geometry, of_a_run=True)
    geometry.add_argument(
        "--parts",
        nargs="+",
        choices=("updates", "spectra", "trajectory"),
        default=["updates"],
        help="what to measure: norms, cosines and sparsity; singular values, ranks and shared subspaces of every "
        "matrix; the path through the checkpoints in the order given (default: updates)",
    )
    geometry.add_argument(
        "--top",
        type=_positive,
        default=16,
        help="spectra: singular directions of each matrix that are compared (default: %(default)s)",
    )
    geometry.add_argument(
        "--device", default="cpu", help="spectra: where matrices are decomposed: cpu, cuda, ... (default: %(default)s)"
    )
    geometry.set_defaults(run=run_geometry)

    connectivity = commands.add_parser(
        "connectivity", help="reward and loss along the straight lines between base and the checkpoints"
    )
    _add_checkpoint_options(connectivity)
    _add_tasks_option(connectivity, required=True)
    connectivity.add_argument("--size", type=_positive, default=200, help="held-out rows (default: %(default)s)")
    connectivity.add_argument(
        "--parts",
        nargs="+",
        choices=("lines", "layers", "kinds", "plane", "probes"),
        default=["lines"],
        help="what to measure: whole lines between models; lines on which one layer, or one kind of matrix, moves at "
        "a time; a grid on the plane through three models; odd and even parts along updates and random directions "
        "(default: lines)",
    )
    connectivity.add_argument(
        "--pairs",
        nargs="+",
        metavar="NAME,NAME",
        help="ends of the lines (default: every two of base and checkpoints)",
    )
    connectivity.add_argument(
        "--points", type=_positive, default=11, help="points on each line, both ends included (default: %(default)s)"
    )
    connectivity.add_argument(
        "--plane",
        nargs=3,
        metavar="NAME",
        help="corners of the plane, its origin first (default: base and the first two checkpoints)",
    )
    connectivity.add_argument(
        "--plane-points", type=_positive, default=7, help="points along each axis of the plane (default: %(default)s)"
    )
    connectivity.add_argument(
        "--margin",
        type=float,
        default=0.25,
        help="how far the plane reaches beyond its corners, as a share of their span (default: %(default)s)",
    )
    connectivity.add_argument(
        "--scales",
        type=float,
        nargs="+",
        default=[0.25, 0.5, 1.0],
        metavar="SCALE",
        help="how far probes go to both sides of base; 1 is the length of the update (default: 0.25 0.5 1.0)",
    )
    connectivity.add_argument(
        "--random-directions",
        type=_positive,
        default=3,
        help="random directions that each probed update is compared with (default: %(default)s)",
    )
    _add_sampling_options(connectivity)
    connectivity.set_defaults(run=run_connectivity)

    kl = commands.add_parser("kl", help="exact and sampled KL divergence between the models, in both directions")
    _add_checkpoint_options(kl)
    _add_tasks_option(kl, required=False)
    kl.add_argument(
        "--texts",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help='files of prompts to measure on as well: .jsonl with a "prompt" in each line, or one prompt a line',
    )
    kl.add_argument(
        "--parts",
        nargs="+",
        choices=("drift", "matrices"),
        default=["drift"],
        help="what to measure: each checkpoint against base; a sequence of trainings, its checkpoints in the order "
        "given, each against the one before it and against base (default: drift)",
    )
    kl.add_argument(
        "--prompts", type=_positive, default=200, help="held-out prompts of each task or file (default: %(default)s)"
    )
    _add_sampling_options(kl)
    kl.set_defaults(run=run_kl)

    theory = commands.add_parser("theory", help="a run of evolution strategies beside theory; from its logs alone")
    theory.add_argument(
        "--runs",
        nargs="+",
        required=True,
        metavar="NAME=DIR",
        help="finished runs of evolution strategies, with names: es=runs/tiny/compare/es",
    )
    theory.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder whose results.json takes the results"
    )
    theory.set_defaults(run=run_theory)

    circuits = commands.add_parser(
        "circuits", help="overlap, cross-faithfulness and transplants of the circuits of base and checkpoints"
    )
    _add_checkpoint_options(circuits)
    _add_tasks_option(circuits, required=True)
    circuits.add_argument(
        "--examples",
        type=_positive,
        default=100,
        help="examples that find a circuit, and others that judge it; all models solve them (default: %(default)s)",
    )
    circuits.add_argument(
        "--method",
        default="nap-ig-inputs",
        help="attribution, see analysis.circuits.attribution (default: %(default)s)",
    )
    circuits.add_argument(
        "--steps", type=_positive, default=5, help="steps of integrated gradients (default: %(default)s)"
    )
    circuits.add_argument(
        "--circuit-share",
        type=float,
        default=0.2,
        help="share of nodes, or edges, that make a circuit (default: %(default)s)",
    )
    circuits.add_argument("--seed", type=int, default=0, help="of examples and resamples (default: %(default)s)")
    circuits.add_argument(
        "--batch-size", type=_positive, default=256, help="prompts that run together (default: %(default)s)"
    )
    circuits.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: the GPU if there is one)")
    circuits.set_defaults(run=run_circuits)

    report = commands.add_parser("report", help="a page from results.json, or a gallery of them; needs no model")
    one_or_many = report.add_mutually_exclusive_group(required=True)
    one_or_many.add_argument(
        "--run", dest="folder", type=Path, metavar="DIR", help="a run folder: writes DIR/report from DIR/results.json"
    )
    one_or_many.add_argument(
        "--runs", type=Path, metavar="DIR", help="a folder with runs in it, at any depth: writes DIR/gallery.html"
    )
    report.set_defaults(run=run_report)

    table = commands.add_parser("table", help="collect the results.json of many runs in one table; needs no model")
    table.add_argument("--runs", type=Path, required=True, metavar="DIR", help="folder with runs in it, at any depth")
    table.add_argument(
        "--output", type=Path, metavar="DIR", help="folder for table.md and table.csv (default: the folder of runs)"
    )
    table.set_defaults(run=run_table)

    clocks = commands.add_parser(
        "clocks", help="when the models of a sweep over rules learn the rule and when they copy, as a page"
    )
    clocks.add_argument(
        "--runs", type=Path, required=True, metavar="DIR", help="folder with runs of recipes/rules.py, at any depth"
    )
    clocks.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder for results.json and report/"
    )
    clocks.add_argument(
        "--models",
        type=_count,
        default=4,
        help="open the checkpoints of at most so many runs, for their score fields and their parts; 0 needs no "
        "checkpoint and takes seconds (default: %(default)s)",
    )
    clocks.set_defaults(run=run_clocks)
    return parser


# Each command imports what it needs itself: a misspelt option or --help should not wait for torch.
def run_geometry(arguments: argparse.Namespace) -> None:
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


def run_connectivity(arguments: argparse.Namespace) -> None:
    from analysis.behaviour.lines import (
        check_points,
        chosen_pairs,
        part_lines,
        straight_lines,
        task_landscape,
    )
    from analysis.behaviour.plane import check_plane, plane
    from analysis.behaviour.probes import check_probes, probes
    from eval.tasks import get_task

    checkpoints = named_folders(arguments.checkpoints)
    task, *others = task_names(arguments.tasks)
    if others:
        raise UserError(
            f"connectivity measures one task at a time, not {', '.join([task, *others])}; give each its own --output"
        )
    get_task(task)
    models = ["base", *checkpoints]
    pairs = chosen_pairs(models, None if arguments.pairs is None else named_pairs(arguments.pairs))
    corners = arguments.plane or models[:3]
    seeds = list(range(arguments.random_directions))
    check_points(arguments.points)
    if "plane" in arguments.parts:
        check_plane(models, corners, arguments.plane_points, arguments.margin)
    check_probes(models, list(checkpoints), arguments.scales, seeds)

    # References are made once, and only if something is left to measure.
    @cache
    def landscape():
        return task_landscape(
            arguments.base,
            checkpoints,
            task,
            arguments.size,
            arguments.seed,
            arguments.max_new_tokens,
            arguments.batch_size,
            arguments.device,
        )

    shared = {"task": task, "size": arguments.size, "seed": arguments.seed, "max_new_tokens": arguments.max_new_tokens}
    on_lines = shared | {"points": arguments.points, "pairs": ["|".join(pair) for pair in pairs]}
    parts: dict[str, tuple[str, Measurement]] = {
        "lines": ("connectivity", (on_lines, lambda: straight_lines(landscape(), arguments.points, pairs))),
        "layers": ("layer_lines", (on_lines, lambda: part_lines(landscape(), "layer", arguments.points, pairs))),
        "kinds": ("kind_lines", (on_lines, lambda: part_lines(landscape(), "kind", arguments.points, pairs))),
        "plane": (
            "plane",
            (
                shared | {"corners": corners, "points": arguments.plane_points, "margin": arguments.margin},
                lambda: plane(landscape(), corners, arguments.plane_points, arguments.margin),
            ),
        ),
        "probes": (
            "probes",
            (
                shared | {"scales": arguments.scales, "random_seeds": seeds},
                lambda: probes(landscape(), list(checkpoints), arguments.scales, seeds),
            ),
        ),
    }
    measure_parts(arguments, checkpoints, parts)


def run_kl(arguments: argparse.Namespace) -> None:
    from analysis.behaviour.kl import kl_drift, kl_matrices, prompt_sets

    checkpoints = named_folders(arguments.checkpoints)
    tasks = task_names(arguments.tasks) if arguments.tasks else []
    prompt_sets(tasks, arguments.texts, 1, arguments.seed)  # misspelt tasks and broken files, before any checkpoint
    options = {
        "tasks": tasks,
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


def run_circuits(arguments: argparse.Namespace) -> None:
    from analysis.circuits.attribution import METHODS, check_choice
    from analysis.circuits.change import ChangeOptions, checkpoint_changes
    from eval.circuit_tasks import get_circuit_task

    checkpoints = named_folders(arguments.checkpoints)
    tasks = task_names(arguments.tasks)
    for task in tasks:
        get_circuit_task(task)
    check_choice("--method", arguments.method, METHODS)
    options = {
        "tasks": tasks,
        "examples": arguments.examples,
        "method": arguments.method,
        "steps": arguments.steps,
        "circuit_share": arguments.circuit_share,
        "seed": arguments.seed,
    }
    chosen = ChangeOptions(
        arguments.method,
        arguments.steps,
        arguments.circuit_share,
        seed=arguments.seed,
        rows=arguments.batch_size,
    )
    folders = {"base": arguments.base, **checkpoints}
    measurement = (
        options,
        lambda: checkpoint_changes(folders, tasks, arguments.examples, arguments.device, chosen),
    )
    measure_sections(arguments.output, arguments.base, checkpoints, {"circuits": measurement}, arguments.recompute)


def measure_parts(
    arguments: argparse.Namespace, checkpoints: dict[str, Path], parts: dict[str, tuple[str, Measurement]]
) -> None:
    """Measure what --parts names. parts: {part: (its section of results.json, its measurement)}."""
    sections = dict(parts[part] for part in arguments.parts)
    measure_sections(arguments.output, arguments.base, checkpoints, sections, arguments.recompute)


def run_theory(arguments: argparse.Namespace) -> None:
    from analysis.theory.predictions import predict

    measured = {name: predict(folder) for name, folder in named_folders(arguments.runs).items()}
    path = arguments.output / "results.json"
    # Quickly computed from small files, so that it needs no cache.
    add_section(path, read_results(path), "theory", measured)


def run_report(arguments: argparse.Namespace) -> None:
    from analysis.report import build, build_gallery

    print(build(arguments.folder) if arguments.folder else build_gallery(arguments.runs))


def run_table(arguments: argparse.Namespace) -> None:
    columns, rows = runs_table(arguments.runs)
    output = arguments.output or arguments.runs
    write_text(output / "table.csv", as_csv(columns, rows))
    write_text(output / "table.md", as_markdown(columns, rows))
    print(f"wrote {len(rows)} runs to {output / 'table.md'} and {output / 'table.csv'}")


def run_clocks(arguments: argparse.Namespace) -> None:
    from analysis.clocks.study import measure_sweep
    from analysis.report import build

    measure_sweep(arguments.runs, arguments.output, arguments.models)
    print(build(arguments.output))


def named_folders(entries: list[str]) -> dict[str, Path]:
    """["es=runs/es", ...] -> {"es": Path("runs/es"), ...}. Raises UserError for what is not NAME=DIR."""
    folders: dict[str, Path] = {}
    for entry in entries:
        name, _, folder = entry.partition("=")
        if not name or not folder:
            raise UserError(f"--checkpoints {entry!r} is not NAME=DIR; write for example es=runs/es/final")
        if name == "base" or "|" in name or "," in name:
            raise UserError(f"a checkpoint cannot be called {name!r}; choose another name, without | and commas")
        if name in folders:
            raise UserError(f"two checkpoints are called {name!r}; give each its own name")
        folders[name] = Path(folder)
    return folders


def named_pairs(entries: list[str]) -> list[tuple[str, str]]:
    """["es,grpo", ...] -> [("es", "grpo"), ...]. Raises UserError for what is not two names."""
    pairs = []
    for entry in entries:
        names = entry.split(",")
        if len(names) != 2:
            raise UserError(f"--pairs {entry!r} is not NAME,NAME; write for example es,grpo")
        pairs.append((names[0], names[1]))
    return pairs


def task_names(entries: list[str]) -> list[str]:
    """["countdown,yes_no", "arithmetic"] -> ["countdown", "yes_no", "arithmetic"]."""
    names = [name for entry in entries for name in entry.split(",") if name]
    if not names:
        raise UserError("--tasks names no task; give for example --tasks countdown")
    return names


def _add_checkpoint_options(parser: argparse.ArgumentParser, of_a_run: bool = False) -> None:
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


def _add_tasks_option(parser: argparse.ArgumentParser, required: bool) -> None:
    parser.add_argument(
        "--tasks",
        nargs="+",
        required=required,
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


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


if __name__ == "__main__":
    exit_with_one_line(main)
