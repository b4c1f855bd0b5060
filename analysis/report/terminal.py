"""The tables of a study for the terminal: those of its page, with the same numbers, as plain text."""

from collections.abc import Callable, Sequence
from pathlib import Path

from analysis.report.results import Results, printable
from analysis.report.studies.circuits import models, transfer
from analysis.report.studies.claims import conditions
from analysis.report.studies.comparison import accuracy, directions, drift, lines, update_size
from analysis.report.studies.sequential import learned_and_kept, matrices
from analysis.report.tables import Table
from eval.results_file import kind_of, read_results_file


def transfer_tables(results: Results) -> list[Table]:
    """How well each way of carrying circuits over does, for every pair and preset."""
    return [
        transfer.summary_table(results, pair, preset)
        for pair, measured in results.get("transfer", {}).items()
        for preset in measured["presets"]
    ]


# Kind of results.json -> those of its page's tables that hold the answer.
TABLES: dict[str, Sequence[Callable[[Results], Table]]] = {
    "comparison": (accuracy.table, update_size.table, directions.table, drift.table, lines.table),
    "sequential": (matrices.table, learned_and_kept.metrics_table),
    "claims": (conditions.table,),
    "circuits": (models.accuracies,),
}


def results_text(run: Path) -> str:
    """The tables of the study in folder `run`, from its results.json."""
    results = printable(read_results_file(run / "results.json"))
    kind = kind_of(results)
    tables = [build(results) for build in TABLES[kind]]
    if kind == "circuits":
        tables += transfer_tables(results)
    return "\n\n".join(plain(table) for table in tables if table.rows)


def plain(table: Table) -> str:
    """The table with its columns aligned: numbers to the right, words to the left."""
    rows = [list(table.columns), *([cell.text for cell in row] for row in table.rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.columns))]
    numbers = [all(row[column].location is not None for row in table.rows) for column in range(len(table.columns))]

    def line(texts: list[str]) -> str:
        aligned = zip(texts, widths, numbers, strict=True)
        return "  ".join(text.rjust(width) if right else text.ljust(width) for text, width, right in aligned).rstrip()

    return "\n".join([table.title, line(rows[0]), line(["-" * width for width in widths]), *map(line, rows[1:])])
