"""The page names the function that computed a number: called again, it gives that number."""

from importlib import import_module

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from analysis.behaviour.lines import Landscape
from analysis.circuits.change import ChangeOptions, likeness
from analysis.claims.judge import CLAIMS, judge
from analysis.clocks.measure import bootstraps
from analysis.clocks.phases import phases_section, pooled_section
from analysis.clocks.runs import read_runs
from analysis.clocks.study import measure
from analysis.continual.summary import complete_chains, summarise
from analysis.report.provenance import FUNCTIONS, function_of
from analysis.report.results import lookup
from tests.analysis.claims.test_judge import sweep as claims_sweep
from tests.analysis.clocks import conftest as clocks_fixtures
from tests.analysis.continual.planted_sequence import full_run
from tests.analysis.report.conftest import synthetic_results
from tests.analysis.report.test_report_build import page_of
from tests.analysis.report.test_report_further import checkpoint, quadratic


rule_run = clocks_fixtures.write_run


def resolved(name: str):
    module, _, function = name.rpartition(".")
    return getattr(import_module(module), function)


def computed(kind: str, location: str, *arguments, **options):
    """What the function named for a number of results of this kind returns."""
    name = function_of(kind, tuple(location.split("/")))
    assert name is not None
    return resolved(name)(*arguments, **options)


def at(entry, path: str):
    return lookup(entry, *path.split("/"))


@pytest.mark.parametrize("name", sorted({name for functions in FUNCTIONS.values() for name in functions.values()}))
def test_every_named_function_exists(name):
    assert callable(resolved(name)) and resolved(name).__doc__


def test_numbers_of_the_weights(tmp_path):
    """Lengths and ranks, computed here once more from the planted weights."""
    base = checkpoint(tmp_path / "base", 0, 0.1)
    models = {"es": checkpoint(tmp_path / "es", 1, 0.5), "grpo": checkpoint(tmp_path / "grpo", 2, 0.2)}
    weights = {name: load_file(path / "model.safetensors") for name, path in (models | {"base": base}).items()}
    update = {name: (weights["es"][name] - weights["base"][name]).double() for name in weights["base"]}
    length = sum(float(part.square().sum()) for part in update.values()) ** 0.5
    geometry = computed("comparison", "geometry/checkpoints/es/norm", base, models)
    assert at(geometry, "checkpoints/es/norm") == pytest.approx(length, rel=1e-6)
    path = computed("comparison", "trajectory/all/norm/1", base, {"5": models["grpo"], "10": models["es"]})
    assert at(path, "all/norm/1") == pytest.approx(length, rel=1e-6)
    location = "spectra/checkpoints/es/per_kind/q_proj/stable_rank"
    spectra = computed("comparison", location, base, models, top=4)
    ranks = []
    for name in (name for name in update if "q_proj" in name):
        values = torch.linalg.svdvals(update[name])
        ranks.append(float(values.square().sum() / values[0].square()))
    assert at(spectra, location.partition("/")[2]) == pytest.approx(np.mean(ranks), rel=1e-4)


def test_numbers_of_the_landscape(tmp_path):
    """A bowl whose loss is known everywhere."""
    base = checkpoint(tmp_path / "base", 0, 0.1)
    models = {"es": checkpoint(tmp_path / "es", 1, 0.5), "grpo": checkpoint(tmp_path / "grpo", 2, 0.2)}
    landscape = Landscape({"base": base, **models}, quadratic, {"task": "countdown", "size": 60})
    losses = {
        name: quadratic(load_file(path / "model.safetensors").items())["loss"]
        for name, path in (models | {"base": base}).items()
    }
    lines = computed("comparison", "connectivity/lines/es|grpo/loss/2", landscape, 3, [("es", "grpo")])
    assert at(lines, "lines/es|grpo/loss/2") == pytest.approx(losses["grpo"], rel=1e-5)
    parts = computed("comparison", "kind_lines/lines/es|grpo/q_proj/loss/0", landscape, "kind", 3, [("es", "grpo")])
    assert at(parts, "lines/es|grpo/q_proj/loss/0") == pytest.approx(losses["es"], rel=1e-5)
    plane = computed("comparison", "plane/models/grpo/loss", landscape, ["base", "es", "grpo"], 4, 0.25)
    assert at(plane, "models/grpo/loss") == pytest.approx(losses["grpo"], rel=1e-5)
    location = "probes/checkpoints/es/update/even/loss/0"
    probed = computed("comparison", location, landscape, ["es"], [1.0], [0])
    odd, even = (at(probed, f"checkpoints/es/update/{part}/loss/0") for part in ("odd", "even"))
    assert odd + even == pytest.approx(losses["es"] - losses["base"], rel=1e-4)


def test_the_length_of_a_random_walk():
    walk = synthetic_results()["random_walk"]["es"]
    settings = [walk[key] for key in ("alpha", "steps", "members", "parameters")]
    assert computed("comparison", "random_walk/es/predicted_norm", *settings) == pytest.approx(
        walk["predicted_norm"], rel=1e-4
    )


def test_verdicts():
    comparisons = claims_sweep(lambda task, budget, precision: {"es": 0.5} if budget == "published" else {})
    results = {"claims": judge(comparisons)}
    assert computed("claims", "claims/claims/1/holds", comparisons) == results["claims"]
    condition = at(results, "claims/claims/1/conditions/0")
    by_seed = [[difference] for difference in condition["values"]]
    again = computed("claims", "claims/claims/1/conditions/0/mean", CLAIMS[1], by_seed)
    assert again["mean"] == condition["mean"] and again["high"] == condition["high"]


def test_numbers_of_a_sequence():
    run = full_run()
    results = run | {"continual": summarise(run, resamples=50)}
    chains = complete_chains(run["arms"], run["tasks"], run["columns"])[0]["es"]
    arrays, options = list(chains.scores.values()), {"resamples": 50, "confidence": 0.95, "seed": 0}
    matrix = computed("sequential", "continual/matrix/es/value/1/0", arrays, **options)
    assert at(matrix, "value/1/0") == at(results, "continual/matrix/es/value/1/0") > 0
    metrics = computed("sequential", "continual/metrics/es/forgetting/low", arrays, **options)
    assert metrics["forgetting"].low == at(results, "continual/metrics/es/forgetting/low")
    stages = list(chains.stages.values())
    spent = computed("sequential", "continual/budget/es/total/completions", stages, run["tasks"])
    assert at(spent, "total/completions") == at(results, "continual/budget/es/total/completions")


def test_numbers_of_circuits():
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(6, 5, 5, generator=generator)
    intensity = computed("circuits", "change/intensity/es/intensity", weights)
    edges = [weights[:, writer, reader] for reader in range(5) for writer in range(reader + 1)]
    assert intensity["intensity"] == pytest.approx(float(torch.stack(edges).mean()), rel=1e-5)
    before, after = torch.rand(2, 8, 10, generator=generator)
    location = "change/tasks/ioi_short/overlap/small|es/nodes/spearman/value"
    overlap = computed("circuits", location, before, after, ChangeOptions(resamples=5))
    assert overlap == likeness(before, after, ChangeOptions(resamples=5)) and "value" in overlap["spearman"]


def test_numbers_of_clocks(tmp_path, rule_run):
    for seed in (0, 1):
        for size in (64, 128):
            rule_run(tmp_path / "runs" / f"n{size}-{seed}", train_size=size, memory=50 * size, seed=seed)
    runs = read_runs(tmp_path / "runs")
    results = measure(runs, 0, 5)
    again = bootstraps(runs, 5)
    of_runs = computed("clocks", "runs/n64-0/clocks/tau_mem/step", runs, again)
    assert at(of_runs, "n64-0/clocks/tau_mem/step") == at(results, "runs/n64-0/clocks/tau_mem/step") > 0
    settings = computed("clocks", "settings/0/clocks/tau_mem/median", runs, again)
    assert at(settings, "0/clocks/tau_mem/median") == at(results, "settings/0/clocks/tau_mem/median") > 0
    fits = computed("clocks", "fits/0/observed", runs, again)
    assert at(fits, "0/observed") == at(results, "fits/0/observed") > 0
    lines, pooled = phases_section(runs, again), pooled_section(runs, again)
    claims = computed("clocks", "claims/0/runs", runs, lines, pooled, {})
    assert at(claims, "0/runs") == at(results, "claims/0/runs")


def test_the_page_names_them_below_its_tables(built):
    page, report = page_of(built).text, (built / "report" / "report.md").read_text()
    for name in (
        "eval.harness.evaluate_task",
        "analysis.geometry.updates.update_geometry, analysis.theory.random_walk.random_walk_norm",
        "analysis.behaviour.kl.kl_drift",
        "analysis.behaviour.lines.straight_lines",
        "analysis.training.training_summary",
    ):
        assert f"Computed by {name}." in page
        assert f"Computed by `{name.replace(', ', '`, `')}`." in report


def test_a_setting_was_computed_by_nothing():
    assert function_of("comparison", ("config", "seed")) is None
    assert function_of("training", ("steps",)) is None
