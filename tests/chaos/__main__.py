"""All parts or those named, within so many minutes; ends with a table and writes chaos.json."""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.chaos.findings import Report, table


def main() -> int:
    """Exit status 1 if a case was not right."""
    arguments = parse()
    from tests.chaos import answers, configurations, kills, results_files, room, stopped

    count = arguments.kills
    # In the order in which they run, with each one's share of the time. The last takes what the others have left.
    parts: dict[str, tuple[float, Callable[[Report, Path], None]]] = {
        "disk": (0.11, room.disk),
        "ranks": (0.12, stopped.ranks),
        "twins": (0.05, stopped.twins),
        "answers": (0.06, partial(answers.answers, count=arguments.answers, seed=arguments.seed)),
        "configs": (0.03, partial(configurations.configs, count=arguments.configs, seed=arguments.seed)),
        "results": (0.2, partial(results_files.results, count=arguments.mutations, seed=arguments.seed)),
        "hostile": (0.04, answers.hostile),
        "kills": (0.4, partial(kills.kills, count=count, seed=arguments.seed, only=arguments.only)),
    }
    unknown = [name for name in arguments.parts if name not in parts]
    if unknown:
        sys.exit(f"error: no part is called {unknown[0]}; parts: {', '.join(parts)}")
    chosen = {name: part for name, part in parts.items() if name in arguments.parts or not arguments.parts}
    folder = Path(tempfile.mkdtemp(prefix="posttrain-lab-chaos-"))
    reports = []
    end = time.monotonic() + 60 * arguments.minutes
    try:
        for name, (share, part) in chosen.items():
            following = sum(each for each, _ in list(chosen.values())[len(reports) + 1 :])
            began = time.monotonic()
            report = Report(name, began + (end - began) * share / (share + following))
            print(f"== {name}: at most {report.left:.0f} s", flush=True)
            reports.append(report)
            part(report, folder / name)
            report.seconds = time.monotonic() - began
    finally:
        print(table(reports), flush=True)
        rows = {
            "options": vars(arguments) | {"output": str(arguments.output)},
            "parts": [each.row() for each in reports],
        }
        arguments.output.write_text(json.dumps(rows, indent=2, default=str) + "\n", encoding="utf-8")
        if arguments.keep:
            print(f"the runs lie in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return int(any(report.failed for report in reports))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help="parts to run (default: all)")
    parser.add_argument("--minutes", type=float, default=30, help="of all parts together (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=100, help="over all kinds of run (default: %(default)s)")
    parser.add_argument(
        "--only", nargs="*", default=[], metavar="RUN", help="of the runs that are killed, those named"
    )
    parser.add_argument("--answers", type=int, default=10000, help="over all tasks (default: %(default)s)")
    parser.add_argument("--configs", type=int, default=500, help="over all YAML files (default: %(default)s)")
    parser.add_argument("--mutations", type=int, default=2000, help="of each kind of results (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("chaos.json"), help="(default: %(default)s)")
    parser.add_argument("--keep", action="store_true", help="leave the run folders and logs where they are")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
