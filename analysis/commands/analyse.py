"""Compare checkpoints or LoRA adapters, trained anywhere, with the model that they started from; ends in a page.

Weights alone give geometry and spectra; prompts (the built-in ones, or --prompts FILE) the KL divergence to base; a
task (--task, or --data and --reward) also accuracies and the straight lines between the models. Started again, it
measures what is not yet there.
"""

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from analysis.commands.options import named_places
from eval.command_line import at_least, device, seed
from eval.errors import UserError
from eval.folders import check_writable
from eval.secrets import hide_in_command


PARTS = ("geometry", "spectra", "evaluation", "kl", "lines", "layers", "kinds")
WITHOUT_A_TASK = ("geometry", "spectra", "kl")
USUAL = ("geometry", "spectra", "evaluation", "kl", "lines")
# Rows of a task where no option asks for more.
TEST_ROWS, PROMPTS, LINE_ROWS = 500, 200, 200


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--base", required=True, metavar="MODEL", help="checkpoint folder or hub name that all others started from"
    )
    parser.add_argument(
        "--checkpoints",
        nargs="+",
        required=True,
        metavar="NAME=DIR",
        help="what was trained, by name: checkpoint folders, LoRA adapter folders, run folders, hub names",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder for results.json and report/ (default: runs/analyse/ and the names)",
    )
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, help="what to measure (default: all but layers and kinds)"
    )
    add_task_options(parser)
    parser.add_argument(
        "--prompts",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help='files of prompts for the KL: .jsonl with a "prompt" in each line, or one prompt a line',
    )
    parser.add_argument(
        "--size", type=at_least(1), help=f"test rows that are evaluated (default: {TEST_ROWS} at most)"
    )
    parser.add_argument(
        "--kl-prompts", type=at_least(1), help=f"prompts of each task or file for the KL (default: {PROMPTS} at most)"
    )
    parser.add_argument(
        "--line-size", type=at_least(1), help=f"test rows for each point of a line (default: {LINE_ROWS} at most)"
    )
    parser.add_argument(
        "--points", type=at_least(3), default=11, help="points on each line, both ends included (default: %(default)s)"
    )
    parser.add_argument(
        "--top", type=at_least(1), default=16, help="singular directions that are compared (default: %(default)s)"
    )
    parser.add_argument("--seed", type=seed, default=0, help="of rows, prompts and sampling (default: %(default)s)")
    parser.add_argument(
        "--max-new-tokens", type=at_least(1), default=128, help="completions are cut there (default: %(default)s)"
    )
    parser.add_argument(
        "--batch-size", type=at_least(1), default=64, help="sequences that run together (default: %(default)s)"
    )
    parser.add_argument("--device", type=device, help="cpu, cuda, cuda:1, ... (default: the GPU if there is one)")
    parser.add_argument("--recompute", action="store_true", help="measure again what is there already")


def add_task_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", metavar="TASK", help="task to measure on, see posttrain-lab tasks")
    parser.add_argument("--data", help="in place of --task: your rows, .jsonl, .json, .parquet, .csv or hub/name")
    parser.add_argument("--prompt-column", default="prompt", help="of --data: the prompt (default: %(default)s)")
    parser.add_argument("--answer-column", default="", help="of --data: the right answer (default: answer, if there)")
    parser.add_argument(
        "--reward", nargs="+", default=[], metavar="REWARD", help="of --data: file.py:function, or a scorer's name"
    )
    parser.add_argument("--system-prompt", default="", help="of --data: what stands before each prompt")


def run(arguments: argparse.Namespace) -> None:
    from analysis.analyse import measure
    from analysis.report import build
    from eval.tasks import task_name

    output = arguments.output or Path("runs", "analyse", "-".join(named_places(arguments.checkpoints)))
    check_writable(output, "--output")
    asked = asked_of(arguments)
    config = {key: plain(value) for key, value in vars(arguments).items() if key != "run"} | {"parts": [*asked.parts]}
    about = {
        "command": shlex.join(["posttrain-lab", *hide_in_command(sys.argv[1:])]),
        "config": config,
        "base_model": arguments.base,
    }
    if asked.task is not None:
        about["task"] = task_name(asked.task)
    measure(asked, output, about, arguments.recompute)
    print(f"report: {build(output)}")


def asked_of(arguments: argparse.Namespace) -> Any:
    """The options as what is measured. Raises UserError, before any work, for what cannot be."""
    from analysis.analyse import BUILT_IN_PROMPTS, WITH_A_TASK, Asked, can_chat, prompts_of, rows_of
    from analysis.claims.comparison import ComparedOn
    from eval.model_folder import model_folder

    base = model_folder(arguments.base)
    checkpoints = {name: model_folder(place) for name, place in named_places(arguments.checkpoints).items()}
    task = task_of(arguments)
    texts = list(arguments.prompts) or ([BUILT_IN_PROMPTS] if task is None else [])
    parts = list(dict.fromkeys(arguments.parts or (USUAL if task is not None else WITHOUT_A_TASK)))
    if task is None and (lacking := [part for part in parts if part in WITH_A_TASK]):
        raise UserError(f"--parts {', '.join(lacking)} needs a task; give --task NAME, or --data and --reward")
    if not arguments.parts and task is None and not arguments.prompts and not can_chat(base):
        print(f"{arguments.base} has no chat template to write prompts with, so no KL is measured", flush=True)
        parts.remove("kl")

    def rows(size: int | None, usual: int, option: str) -> int:
        return (size or usual) if task is None else rows_of(task, size, usual, arguments.seed, option)

    of_texts = prompts_of(texts, arguments.kl_prompts, PROMPTS) if texts else 0
    of_task = 0 if task is None else rows(arguments.kl_prompts, PROMPTS, "--kl-prompts")
    measured_on = ComparedOn(
        data_seed=arguments.seed,
        test_size=rows(arguments.size, TEST_ROWS, "--size"),
        max_new_tokens=arguments.max_new_tokens,
        kl_prompts=max(of_texts, of_task),
        batch_size=arguments.batch_size,
        test_tasks=[] if task is None else [task],
        line_points=arguments.points,
        line_size=rows(arguments.line_size, LINE_ROWS, "--line-size"),
    )
    return Asked(base, checkpoints, parts, task, texts, measured_on, arguments.top, arguments.device)


def task_of(arguments: argparse.Namespace) -> Any:
    """The task that the options name, as `get_task` takes it; None without any."""
    if arguments.data is None:
        if arguments.reward:
            raise UserError("--reward needs --data, whose rows it scores; give both, or --task NAME")
        return arguments.task
    if arguments.task is not None:
        raise UserError("--task and --data are both given; choose one of them")
    if not arguments.reward:
        raise UserError("--data needs --reward: file.py:function, or a scorer's name")
    keys = ("data", "prompt_column", "answer_column", "reward", "system_prompt")
    return {key: getattr(arguments, key) for key in keys}


def plain(value: Any) -> Any:
    """An option as JSON holds it."""
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value
