"""Whether the methods that find circuits find one that is known.

The models are random, and only the planted nodes write anything. AUROC is 1 where every planted node ranks above every
other; CPR is the area under faithfulness. Gates learned for faithfulness are the control.
"""

import argparse
from pathlib import Path

from eval.command_line import at_least
from eval.folders import check_writable
from eval.ownership import claim_files
from eval.storage import write_json


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--nodes",
        nargs="+",
        default=["a0.h1", "m0", "a1.h2"],
        metavar="NODE",
        help="planted nodes of two layers of four heads: a0.h0 to a1.h3, m0, m1 (default: a0.h1 m0 a1.h2)",
    )
    parser.add_argument("--seeds", type=at_least(1), default=3, help="random models (default: %(default)s)")
    parser.add_argument(
        "--examples", type=at_least(2), default=24, help="prompts that find circuits (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder that gets planted.json (default: none)")


def run(arguments: argparse.Namespace) -> None:
    from analysis.circuits.planted_recovery import planted_recovery

    if arguments.output is not None:
        check_writable(arguments.output, "--output")
        claim_files(arguments.output, ["planted.json"])
    recovered = planted_recovery(arguments.nodes, range(arguments.seeds), arguments.examples)
    for what in ("nodes", "edges"):
        print(f"{what:32}{'AUROC':>8}{'CPR':>8}")
        for method, entry in recovered[what].items():
            means = [sum(entry[key]) / arguments.seeds for key in ("auroc", "cpr")]
            print(f"  {method:30}{means[0]:8.3f}{means[1]:8.3f}")
    if arguments.output is not None:
        write_json(arguments.output / "planted.json", recovered)
