"""A full results.json of every kind, as the tests of the report have them: planted, so that no model is needed."""

from pathlib import Path
from typing import Any

from analysis.claims.judge import judge
from analysis.clocks.runs import read_runs
from analysis.clocks.study import measure
from analysis.continual.summary import summarise
from analysis.training import add_training_sections
from eval.results_file import SCHEMA_VERSION
from eval.storage import read_json, write_json
from tests.analysis.claims.test_judge import sweep
from tests.analysis.clocks.conftest import write_rule_run
from tests.analysis.continual.planted_sequence import full_run
from tests.analysis.report.conftest import synthetic_results
from tests.analysis.report.studies.planted_circuits import planted_study
from tests.analysis.test_training import plant as plant_training


def results_of(kind: str, folder: Path) -> dict[str, Any]:
    """Results of this kind. Those of clocks are measured on runs that are written to `folder`."""
    makers = {
        "comparison": synthetic_results,
        "claims": lambda: {"base_model": "tiny", "claims": judge(sweep(lambda task, budget, precision: {}))},
        "sequential": lambda: (run := full_run()) | {"continual": summarise(run, resamples=20)},
        "circuits": planted_study,
        "clocks": lambda: measured_clocks(folder),
        "training": lambda: reported_training(folder),
    }
    return {"kind": kind, "schema_version": SCHEMA_VERSION} | makers[kind]()


def reported_training(folder: Path) -> dict[str, Any]:
    plant_training(folder, "grpo")
    add_training_sections(folder)
    return read_json(folder / "results.json")


def measured_clocks(folder: Path) -> dict[str, Any]:
    for size in (64, 128):
        for seed in (0, 1):
            run = write_rule_run(folder / f"size={size},seed={seed}", train_size=size, seed=seed)
            write_json(run / "results.json", {"kind": "training", "rule": "parity", "steps": 10})
    return measure(read_runs(folder), 0, 5)
