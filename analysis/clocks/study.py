"""What the runs of a sweep show of the two clocks, the window between them, basins, mechanism, and claims C1 to C7."""

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tqdm import tqdm

from analysis.clocks.claims import claims_section
from analysis.clocks.early import is_denoiser, score_memory
from analysis.clocks.measure import (
    REPLICATES,
    bootstraps,
    fits_section,
    group_by,
    runs_section,
    settings_section,
)
from analysis.clocks.opened_models import has_field, mechanism, position_loss, score_field
from analysis.clocks.phases import phases_section, pooled_section
from analysis.clocks.runs import Run, environment, read_runs
from analysis.clocks.sample_grids import sample_grids
from analysis.resume import digest
from eval.digests import file_digest
from eval.generative.checkpoint import NEXT_TOKEN_MODELS
from eval.results_file import Results, read_results_file, write_results


# At most so many runs are shown curve by curve, as samples, and with what their models do inside.
CURVES, SAMPLE_GRIDS, MODELS = 6, 3, 4


def measure_sweep(runs: Path, output: Path, models: int = MODELS, replicates: int = REPLICATES) -> None:
    """Measure every rule run under `runs` and write `output`/results.json, from which the page is built.

    runs: folder with run folders in it, at any depth: those that hold `evaluations.jsonl`. output: may be `runs`.
    models: of at most so many runs the checkpoints are opened, for score fields, and for mechanisms. What
    results.json already holds of the same checkpoints is not measured again. replicates: draws of every bootstrap.

    Raises UserError if there is no rule run under `runs`.
    """
    path = Path(output) / "results.json"
    sweep = read_runs(runs)
    earlier = read_results_file(path) if path.is_file() else {}
    write_results(path, "clocks", measure(sweep, models, replicates, earlier))


def measure(
    runs: Sequence[Run], models: int = MODELS, replicates: int = REPLICATES, earlier: Results | None = None
) -> Results:
    """The sections of results.json: see analysis.clocks.measure, .phases, .claims, .opened_models, .early and
    .sample_grids.

    earlier: results of the same folder, whose sections on opened models stand where their runs have not changed.
    """
    by_interest = telling_runs(runs)
    with_checkpoints = [run for run in by_interest if run.checkpoints]
    next_token = [run for run in with_checkpoints if run.model in NEXT_TOKEN_MODELS]
    opened: dict[str, tuple[Callable[[Run], dict[str, Any]], Sequence[Run]]] = {
        "score_field": (score_field, [run for run in by_interest if has_field(run)][:models]),
        "position_loss": (position_loss, next_token[: max(models // 2, 1)] if models else []),
        "mechanism": (mechanism, with_checkpoints[:models]),
        # One number a checkpoint: of every run.
        "score_memory": (score_memory, [run for run in runs if is_denoiser(run)] if models else []),
    }
    inputs = {section: {run.name: _digest(run) for run in chosen} for section, (_, chosen) in opened.items()}
    sections = {
        section: _of_models(section, measured, chosen, inputs[section], earlier or {})
        for section, (measured, chosen) in opened.items()
    }
    again = bootstraps(runs, replicates)
    lines, pooled = phases_section(runs, again), pooled_section(runs, again)
    return {
        "runs": runs_section(runs, again),
        "settings": settings_section(runs, again),
        "fits": fits_section(runs, again),
        "phases": lines,
        "pooled_phases": pooled,
        "claims": claims_section(runs, lines, pooled, sections["score_field"]),
        "shown_runs": [run.name for run in by_interest[:CURVES]],
        "samples": {run.name: grid for run in by_interest[:SAMPLE_GRIDS] if (grid := sample_grids(run)) is not None},
        **sections,
        "inputs": inputs,
        "digests": _digests(runs),
        "environment": {
            key: entry if isinstance(entry, str | int | float) else json.dumps(entry)
            for key, entry in environment(runs[0]).items()
            if key not in ("command", "earlier_starts")
        },
        "command": f"python {shlex.join(sys.argv)}",
    }


def _of_models(
    section: str,
    measured: Callable[[Run], dict[str, Any]],
    runs: Sequence[Run],
    inputs: dict[str, str],
    earlier: Results,
) -> dict[str, Any]:
    """{run: what is measured}, from the earlier results where checkpoints and evaluations are the same."""
    known = earlier.get("inputs", {}).get(section, {})
    return {
        run.name: earlier[section][run.name] if known.get(run.name) == inputs[run.name] else measured(run)
        for run in tqdm(runs, desc=section, unit="run")
    }


def telling_runs(runs: Sequence[Run]) -> list[Run]:
    """All runs in turns, one of each model at a time; of a model's runs those first that show most.

    Both clocks with a window between them before an open window without an end, before the rest; of equals the widest.
    """

    def shown(run: Run) -> tuple[int, float, str]:
        rank = 2 if run.window.state != "open" else 1 if run.window.width is None else 0
        return rank, -(run.window.width or run.window.at_least or 0.0), run.name

    def in_turns(runs: Sequence[Run], key: Callable[[Run], str]) -> list[Run]:
        turns = zip_longest(*group_by(runs, key).values())
        return [run for turn in turns for run in turn if run is not None]

    # The second seed of a setting comes after the first of every other.
    return in_turns(in_turns(sorted(runs, key=shown), lambda run: run.setting), lambda run: run.model)


def _digests(runs: Sequence[Run]) -> dict[str, dict[str, str]]:
    """Of each run the evaluations, the strings, the options and the newest checkpoint."""
    newest = {run.name: run.folder / "checkpoints" / f"step_{run.checkpoints[-1]}" for run in runs if run.checkpoints}
    return {
        "configs": {run.name: file_digest(run.folder / "config.yaml") for run in runs},
        "models": {name: file_digest(folder / "model.safetensors") for name, folder in newest.items()},
        "data": {run.name: file_digest(run.folder / "data.safetensors") for run in runs},
        "files": {run.name: file_digest(run.folder / "evaluations.jsonl") for run in runs},
    }


def _digest(run: Run) -> str:
    """Changes when the run's checkpoints or evaluations do: they are written once, so their steps tell."""
    return digest([run.config, run.rows, run.checkpoints])
