"""Overlap, cross-faithfulness and transplants of the circuits of base and checkpoints."""

import argparse

from analysis.commands.options import add_checkpoint_options, add_tasks_option, named_folders, task_names
from analysis.resume import measure_sections
from eval.command_line import at_least, device, seed, share


def add_options(parser: argparse.ArgumentParser) -> None:
    add_checkpoint_options(parser)
    add_tasks_option(parser, required=True)
    parser.add_argument(
        "--examples",
        type=at_least(1),
        default=100,
        help="examples that find a circuit, and others that judge it; all models solve them (default: %(default)s)",
    )
    parser.add_argument(
        "--method",
        default="nap-ig-inputs",
        help="attribution, see analysis.circuits.attribution (default: %(default)s)",
    )
    parser.add_argument(
        "--steps", type=at_least(1), default=5, help="steps of integrated gradients (default: %(default)s)"
    )
    parser.add_argument(
        "--circuit-share",
        type=share,
        default=0.2,
        help="share of nodes, or edges, that make a circuit (default: %(default)s)",
    )
    parser.add_argument("--edges", action="store_true", help="the faithfulness of circuits of edges as well")
    parser.add_argument("--seed", type=seed, default=0, help="of examples and resamples (default: %(default)s)")
    parser.add_argument(
        "--batch-size", type=at_least(1), default=256, help="prompts that run together (default: %(default)s)"
    )
    parser.add_argument("--device", type=device, help="cpu, cuda, cuda:1, ... (default: the GPU if there is one)")


def run(arguments: argparse.Namespace) -> None:
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
    } | ({"edges": True} if arguments.edges else {})
    chosen = ChangeOptions(
        arguments.method,
        arguments.steps,
        arguments.circuit_share,
        seed=arguments.seed,
        rows=arguments.batch_size,
        edges=arguments.edges,
    )
    folders = {"base": arguments.base, **checkpoints}
    measurement = (
        options,
        lambda: checkpoint_changes(folders, tasks, arguments.examples, arguments.device, chosen),
    )
    measure_sections(arguments.output, arguments.base, checkpoints, {"circuits": measurement}, arguments.recompute)
