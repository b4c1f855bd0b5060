"""All parts or those named, each in a process of its own; ends with a table and writes gpu-check.json."""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from eval.storage import read_json, write_json
from tests.gpu_check.machine import Machine, described
from tests.gpu_check.parts import Part, all_parts
from tests.gpu_check.processes import error_line, run
from tests.gpu_check.report import FAILED, RAN, SKIPPED, TIMEOUT, Row, document, table
from tests.recipe_files import ROOT


# With less than so many seconds left, a part is not begun.
SHORTEST = 15
# Lines of a failed part that are shown.
SHOWN = 15


def main() -> int:
    """Exit status 1 if a part failed or took too long."""
    arguments = parse()
    if arguments.run is not None:
        run_part(*arguments.run)
        return 0
    environment = surroundings(arguments.device)
    os.environ.update(environment)
    machine = described(arguments.device)
    end = time.monotonic() + 60 * arguments.minutes
    folder = Path(tempfile.mkdtemp(prefix="posttrain-lab-gpu-check-"))
    rows = []
    try:
        write_json(folder / "machine.json", asdict(machine))
        for part in chosen(arguments.parts, arguments.device):
            rows.append(row_of(part, machine, folder, end))
            print(f"{rows[-1].part}: {rows[-1].status}", flush=True)
    finally:
        print(f"\n{table(machine, rows)}", flush=True)
        write_json(arguments.output, document(machine, rows, time.strftime("%Y-%m-%d")))
        print(f"{arguments.output}: no secrets, host names or paths are in it", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
    return int(any(row.status in (FAILED, TIMEOUT) for row in rows))


def chosen(names: list[str], device: str) -> list[Part]:
    """Leaves with one line for a name that no part has."""
    parts = all_parts(device)
    known = [part.name for part in parts]
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"error: no part is called {unknown[0]!r}; parts: {', '.join(known)}")
    return [part for part in parts if not names or part.name in names]


def row_of(part: Part, machine: Machine, folder: Path, end: float) -> Row:
    """Run a part in a process of its own, for at most its own seconds and what is left of the check's."""
    if reason := part.reason(machine):
        return Row(part.name, SKIPPED, reason=reason)
    left = end - time.monotonic()
    if left < SHORTEST:
        return Row(part.name, SKIPPED, reason="no time was left for it (--minutes)")
    limit = min(part.seconds, left)
    ending = run([sys.executable, "-m", "tests.gpu_check", "--run", part.name, str(folder)], limit, os.environ)
    row = Row(part.name, RAN, ending.seconds)
    written = folder / part.name / "figures.json"
    if ending.status is None:
        row.status, row.error = TIMEOUT, f"it was ended after {limit:.0f} s"
    elif ending.status or not written.exists():
        by = f"ended by signal {-ending.status}: " if ending.status < 0 else ""
        row.status, row.error = FAILED, by + error_line(ending.text)
    else:
        row.figures = read_json(written)
        if wrong := [name for name, value in row.figures.items() if value is False]:
            row.status, row.error = (
                FAILED,
                f"{wrong[0].replace('_', ' ')}: no {row.figures.get('wrong') or ''}".strip(),
            )
    if row.status != RAN:
        print("\n".join(ending.text.splitlines()[-SHOWN:]), flush=True)
    shutil.rmtree(folder / part.name, ignore_errors=True)
    return row


def run_part(name: str, folder: str) -> None:
    """In the process of a part: leave its figures in its folder."""
    machine = Machine(**json.loads((Path(folder) / "machine.json").read_text(encoding="utf-8")))
    [part] = [part for part in all_parts(machine.device) if part.name == name]
    own = Path(folder) / name
    own.mkdir()
    write_json(own / "figures.json", part.figures(machine, own))


def surroundings(device: str) -> dict[str, str]:
    """What the processes of the parts find in their environment."""
    found = {"PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    if device == "cpu":
        found |= {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true", "VLLM_CPU_KVCACHE_SPACE": "1"}
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu_check", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help="parts to run, in quotes (default: all)")
    parser.add_argument(
        "--device",
        choices=("cuda", "cpu"),
        default="cuda",
        help="cpu tries the check itself, on tiny models (default: %(default)s)",
    )
    parser.add_argument("--minutes", type=float, default=10, help="of all parts together (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("gpu-check.json"), help="(default: %(default)s)")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
