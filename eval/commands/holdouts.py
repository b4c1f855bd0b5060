"""MMLU and IFEval through lm-evaluation-harness.

Needs `pip install -e '.[holdouts]'`, and downloads their data. Writes the harness's own files, and holdouts.json with
each metric, its 95 % interval and the settings that it depends on.
"""

import argparse
from pathlib import Path

from eval.commands.output import require_writable
from eval.external import HOLDOUTS, run_holdouts
from eval.ownership import claim_files


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", required=True, metavar="DIR", help="Hugging Face checkpoint folder, or the name of a hub model"
    )
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=list(HOLDOUTS),
        metavar="NAME",
        help=f"hold-outs, separated by spaces or commas (default: {' '.join(HOLDOUTS)})",
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="folder to write to; made if it does not exist"
    )


def run(arguments: argparse.Namespace) -> None:
    require_writable(arguments.output)
    claim_files(arguments.output, ["holdouts.json"])
    result = run_holdouts(
        arguments.model, [name for entry in arguments.tasks for name in entry.split(",")], arguments.output
    )
    for task, metrics in result["tasks"].items():
        for metric, measured in metrics.items():
            print(f"{task:8} {metric:24} {measured['value']:.3f}, {measured['rows']} rows")
    print(f"results in {arguments.output / 'holdouts.json'}")
