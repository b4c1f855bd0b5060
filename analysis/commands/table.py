"""One table from the results.json of many runs; needs no model."""

import argparse
from pathlib import Path

from eval.folders import check_writable
from eval.ownership import claim_files
from eval.storage import write_text


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=Path, required=True, metavar="DIR", help="folder with runs in it, at any depth")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="folder for table.md and table.csv (default: the folder of runs)"
    )


def run(arguments: argparse.Namespace) -> None:
    from analysis.report.runs_table import as_csv, as_markdown, runs_table

    if arguments.output is not None:
        check_writable(arguments.output, "--output")
    columns, rows = runs_table(arguments.runs)
    output = arguments.output or arguments.runs
    claim_files(output, ["table.csv", "table.md"], in_run=True)
    write_text(output / "table.csv", as_csv(columns, rows))
    write_text(output / "table.md", as_markdown(columns, rows))
    print(f"wrote {len(rows)} runs to {output / 'table.md'} and {output / 'table.csv'}")
