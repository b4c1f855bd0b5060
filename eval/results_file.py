"""`results.json`: what a finished run, study or measurement writes last. Each says what it is.

A file says its `kind`, by which page, gallery and table choose, and `schema_version`, which grows when a key
changes its meaning.
"""

import json
from pathlib import Path
from typing import Any

from eval.errors import UserError
from eval.storage import read_json, write_json


Results = dict[str, Any]
SCHEMA_VERSION = 1
# What `kind` may be. "training" is a single run of any method; the others are studies with a chapter of the report.
KINDS = ("training", "comparison", "claims", "sequential", "circuits", "clocks", "rounding")


def write_results(path: Path, kind: str, results: Results) -> None:
    """Write `results` to `path`, headed by its kind and schema version. Raises ValueError for an unknown kind."""
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is no kind of results; it is one of {', '.join(KINDS)}")
    write_json(path, {"kind": kind, "schema_version": SCHEMA_VERSION} | results)


def read_results_file(path: Path) -> Results:
    """The content of one results.json. Raises UserError if it is not a JSON object."""
    try:
        results = read_json(path)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not JSON ({error}); move it away and start the same command again") from error
    if not isinstance(results, dict):
        raise UserError(f"{path} is not a JSON object; move it away and start the same command again")
    return results


def kind_of(results: Results) -> str:
    """The kind that a file states; of an older one without it, the kind that its sections tell.

    Raises UserError if what it states is no text.
    """
    for key in ("kind", "study"):
        if key in results:
            if not isinstance(results[key], str):
                raise UserError(f"results.json names no kind of results: its {key} is {results[key]!r:.60}")
            return results[key]
    if "settings" in results and "fits" in results:
        return "clocks"
    if "claims" in results:
        return "claims"
    # `python -m analysis` may have measured in the folder of a training.
    measured = "inputs" in results or "theory" in results
    if not measured and ("method" in results or "steps" in results):
        return "training"
    return "comparison"
