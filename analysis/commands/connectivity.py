"""Reward and loss along the straight lines between base and the checkpoints, and to both sides of an update."""

import argparse
from functools import cache

from analysis.commands.options import (
    add_checkpoint_options,
    add_sampling_options,
    add_tasks_option,
    measure_parts,
    named_folders,
    own_digests,
    task_names,
)
from analysis.resume import Measurement
from eval.command_line import at_least, finite_number
from eval.commands.own_options import add_own_data_options, own_tasks
from eval.errors import UserError


def add_options(parser: argparse.ArgumentParser) -> None:
    add_checkpoint_options(parser)
    add_tasks_option(parser, required=False)
    add_own_data_options(parser, dashes=True)
    parser.add_argument("--size", type=at_least(1), default=200, help="held-out rows (default: %(default)s)")
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=("lines", "layers", "kinds", "plane", "probes"),
        default=["lines"],
        help="what to measure: whole lines between models; lines on which one layer, or one kind of matrix, moves at "
        "a time; a grid on the plane through three models; odd and even parts along updates and random directions "
        "(default: lines)",
    )
    parser.add_argument(
        "--pairs",
        nargs="+",
        metavar="NAME,NAME",
        help="ends of the lines (default: every two of base and checkpoints)",
    )
    parser.add_argument(
        "--points", type=at_least(1), default=11, help="points on each line, both ends included (default: %(default)s)"
    )
    parser.add_argument(
        "--plane",
        nargs=3,
        metavar="NAME",
        help="corners of the plane, its origin first (default: base and the first two checkpoints)",
    )
    parser.add_argument(
        "--plane-points",
        type=at_least(1),
        default=7,
        help="points along each axis of the plane (default: %(default)s)",
    )
    parser.add_argument(
        "--margin",
        type=finite_number,
        default=0.25,
        help="how far the plane reaches beyond its corners, as a share of their span (default: %(default)s)",
    )
    parser.add_argument(
        "--scales",
        type=finite_number,
        nargs="+",
        default=[0.25, 0.5, 1.0],
        metavar="SCALE",
        help="how far probes go to both sides of base; 1 is the length of the update (default: 0.25 0.5 1.0)",
    )
    parser.add_argument(
        "--random-directions",
        type=at_least(1),
        default=3,
        help="random directions that each probed update is compared with (default: %(default)s)",
    )
    add_sampling_options(parser)


def run(arguments: argparse.Namespace) -> None:
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
    given = (task_names(arguments.tasks) if arguments.tasks else []) + own_tasks(arguments)
    if not given:
        raise UserError("there is no task to measure; give --tasks, or --data and --reward of your own")
    task, *others = given
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
    shared |= own_digests([task])
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


def named_pairs(entries: list[str]) -> list[tuple[str, str]]:
    """["es,grpo", ...] -> [("es", "grpo"), ...]. Raises UserError for what is not two names."""
    pairs = []
    for entry in entries:
        names = entry.split(",")
        if len(names) != 2:
            raise UserError(f"--pairs {entry!r} is not NAME,NAME; write for example es,grpo")
        pairs.append((names[0], names[1]))
    return pairs
