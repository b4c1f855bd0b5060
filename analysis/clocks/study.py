"""The page on a sweep of rule runs: both clocks, the innovation window, basins, mechanism, and claims C1 to C7."""

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tqdm import tqdm

from analysis.clocks.claims import claims_section, window_of
from analysis.clocks.measure import (
    REPLICATES,
    bootstraps,
    fits_section,
    group_by,
    runs_section,
    settings_section,
)
from analysis.clocks.opened_models import has_field, mechanism, position_loss, score_field
from analysis.clocks.runs import Run, environment, read_runs
from analysis.clocks.sample_grids import sample_grids
from analysis.report import html, markdown
from analysis.report.results import Results, read_results
from analysis.report.studies.clocks.document import compose
from analysis.resume import digest
from eval.generative.checkpoint import NEXT_TOKEN_MODELS
from eval.storage import new_folder, read_json, write_json, write_text


# At most so many runs are shown curve by curve, as samples, and with what their models do inside.
CURVES, SAMPLE_GRIDS, MODELS = 6, 3, 4


def build(runs: Path, output: Path, models: int = MODELS, replicates: int = REPLICATES) -> Path:
    """Measure every rule run under `runs`, write `output`/results.json and, from it, `output`/report/.

    runs: folder with run folders in it, at any depth: those that hold `evaluations.jsonl`. output: may be `runs`.
    models: of at most so many runs the checkpoints are opened, for score fields, and for mechanisms. What
    results.json already holds of the same checkpoints is not measured again. replicates: draws of every bootstrap.
    Returns the path of report/index.html.

    Raises UserError if there is no rule run under `runs`.
    """
    write_json(Path(output) / "results.json", measure(read_runs(runs), Path(output), models, replicates))
    return write_report(output)


def measure(runs: Sequence[Run], output: Path, models: int = MODELS, replicates: int = REPLICATES) -> Results:
    """What `build` writes to results.json: see analysis.clocks.measure, .claims, .models, .sample_grids."""
    earlier = read_json(output / "results.json") if (output / "results.json").is_file() else {}
    inputs: dict[str, dict[str, str]] = {}

    def of_models(section: str, measured: Callable[[Run], dict[str, Any]], chosen: Sequence[Run]) -> dict[str, Any]:
        """{run: what is measured}, from the earlier results where checkpoints and evaluations are the same."""
        inputs[section] = {run.name: _digest(run) for run in chosen}
        known = earlier.get("inputs", {}).get(section, {})
        return {
            run.name: earlier[section][run.name] if known.get(run.name) == inputs[section][run.name] else measured(run)
            for run in tqdm(chosen, desc=section, unit="run")
        }

    by_interest = telling_runs(runs)
    next_token = [run for run in by_interest if run.model in NEXT_TOKEN_MODELS and run.checkpoints]
    fields = of_models("score_field", score_field, [run for run in by_interest if has_field(run)][:models])
    losses = of_models("position_loss", position_loss, next_token[: max(models // 2, 1)] if models else [])
    inside = [run for run in by_interest if run.checkpoints]
    parts = of_models("mechanism", mechanism, inside[:models])
    grids = {run.name: grid for run in by_interest[:SAMPLE_GRIDS] if (grid := sample_grids(run)) is not None}
    again = bootstraps(runs, replicates)
    fits = fits_section(runs, again)
    return {
        "runs": runs_section(runs, again),
        "settings": settings_section(runs, again),
        "fits": fits,
        "claims": claims_section(runs, fits, fields),
        "shown_runs": [run.name for run in by_interest[:CURVES]],
        "samples": grids,
        "score_field": fields,
        "position_loss": losses,
        "mechanism": parts,
        "inputs": inputs,
        "environment": {
            key: entry if isinstance(entry, str | int | float) else json.dumps(entry)
            for key, entry in environment(runs[0]).items()
            if key not in ("command", "earlier_starts")
        },
        "command": f"python {shlex.join(sys.argv)}",
    }


def write_report(output: Path) -> Path:
    """Write `output`/report/ (index.html, report.md, figures/) anew from `output`/results.json; needs no model."""
    output = Path(output)
    document = compose(read_results(output))
    with new_folder(output / "report") as folder:
        (folder / "figures").mkdir()
        for part in document.parts:
            write_text(folder / "figures" / f"{part.name}.svg", part.drawing.svg)
            (folder / "figures" / f"{part.name}.png").write_bytes(part.drawing.png)
        write_text(folder / "report.md", markdown.render(document))
        write_text(folder / "index.html", html.render(document))
    return output / "report" / "index.html"


def telling_runs(runs: Sequence[Run]) -> list[Run]:
    """All runs in turns, one of each model at a time; of a model's runs those first that show most.

    Both clocks with a window between them before an open window without an end, before the rest; of equals the widest.
    """

    def shown(run: Run) -> tuple[int, float, str]:
        window = window_of(run)
        rank = 2 if window.state != "open" else 1 if window.width is None else 0
        return rank, -(window.width or window.at_least or 0.0), run.name

    # The second seed of a setting comes after the first of every other.
    by_setting = group_by(sorted(runs, key=shown), lambda run: run.setting()).values()
    ordered = [run for turn in zip_longest(*by_setting) for run in turn if run is not None]
    groups = group_by(ordered, lambda run: run.model)
    return [run for turn in zip_longest(*groups.values()) for run in turn if run is not None]


def _digest(run: Run) -> str:
    """Changes when the run's checkpoints or evaluations do: they are written once, so their steps tell."""
    return digest([run.config, run.rows, run.checkpoints])
