"""One gallery over every kind of results that the lab writes."""

import json
import shutil

import pytest
import torch

from analysis.circuits.change import ChangeOptions, likeness
from analysis.circuits.intensity import statistics
from analysis.claims.judge import judge
from analysis.clocks.runs import read_runs
from analysis.clocks.study import measure
from analysis.continual.summary import summarise
from analysis.report import CHAPTERS, build, build_gallery, has_page
from analysis.report.runs_table import runs_table
from analysis.training import add_training_sections
from eval.errors import UserError
from eval.results_file import KINDS, kind_of, write_results
from eval.storage import read_json, write_json
from tests.analysis.claims.test_judge import sweep as claims_sweep
from tests.analysis.clocks import conftest as clocks_fixtures
from tests.analysis.continual.planted_sequence import full_run
from tests.analysis.report.conftest import synthetic_results
from tests.analysis.report.test_report_build import Page
from tests.analysis.test_training import plant as plant_training


# Its pages or models take seconds to make.
pytestmark = pytest.mark.slow


rule_run = clocks_fixtures.write_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory, rule_run):
    """Results of every kind, and of the trainings below them. All but the claims say what they are."""
    folder = tmp_path_factory.mktemp("runs")
    generator = torch.Generator().manual_seed(0)
    weights, scores = torch.rand(6, 5, 5, generator=generator), torch.rand(8, 10, generator=generator)
    for model in ("es", "grpo"):
        write_results(folder / "compare" / model / "results.json", "training", {"method": model, "steps": 2})
    write_results(folder / "compare" / "results.json", "comparison", synthetic_results())
    plant_training(folder / "single", "es")
    add_training_sections(folder / "single")
    comparisons = claims_sweep(lambda task, budget, precision: {})
    write_json(folder / "claims" / "results.json", {"base_model": "tiny", "claims": judge(comparisons)})
    sequence = full_run()
    sequence |= {"continual": summarise(sequence, resamples=50)}
    write_results(folder / "sequential" / "results.json", "sequential", sequence)
    active = {"small": statistics(weights), "es": statistics(2 * weights)}
    alike = likeness(scores, scores, ChangeOptions(resamples=5))
    overlap = {"small|es": {"nodes": alike, "edges": alike}}
    compared = {"ioi_short": {"overlap": overlap, "cross_faithfulness": {}, "transplant": {}, "circuits": {}}}
    change = {"models": ["small", "es"], "tasks": compared, "intensity": active}
    circuits = {"study": "circuits", "models": ["small"], "tasks": ["ioi_short"], "change": change}
    write_results(folder / "circuits" / "results.json", "circuits", circuits)
    for seed in (0, 1):
        run = rule_run(folder / "clocks" / f"seed={seed}", seed=seed)
        trained = {"rule": "parity", "steps": 10, "evaluation": {"step": 10, "valid": 0.9}}
        write_results(run / "results.json", "training", trained)
    write_results(folder / "clocks" / "results.json", "clocks", measure(read_runs(folder / "clocks"), 0, 5))
    write_results(folder / "rounding" / "results.json", "rounding", {"models": {}, "settings": {}})
    (folder / "killed").mkdir()
    (folder / "killed" / "config.yaml").write_text("seed: 3\n")
    return folder


def test_every_kind_is_in_the_gallery_with_its_numbers(runs):
    page = Page(build_gallery(runs).read_text(encoding="utf-8"))
    raw = (runs / "gallery.html").read_text(encoding="utf-8")
    assert {kind_of(read_json(path)) for path in runs.rglob("results.json")} == set(KINDS)
    assert raw.count('<article class="run"') == len(CHAPTERS)
    for kind in ("circuits", "claims", "clocks", "compare", "sequential", "single"):
        assert f'href="{kind}/report/index.html"' in raw and (runs / kind / "report" / "index.html").is_file()
        assert f'src="{kind}/report/figures/' in raw or kind == "circuits"
    for source in [part.split('"')[0] for part in raw.split('src="')[1:]]:
        assert (runs / source).is_file()
    for numbers in (
        "Similar accuracy, different weights, a barrier between them",
        "Test accuracy on Countdown: 55 % / 60 %",
        "Of 18 claims 17 hold and 1 was not measured",
        "ES forgets 10.7",
        "Rank correlation of scores: 1.00 / ",
        "Activation intensity: 2.00 times",
        "Rule first, copies later, in all 2 runs",
        "Windows open: 2 of 2",
    ):
        assert numbers in page.text
    assert "6 further runs without a page" in page.text
    for further in (
        "compare/es: finished: nothing compared",
        "clocks/seed=0: finished",
        "rounding: finished: rounding",
    ):
        assert further in page.text
    (table,) = page.tables
    assert [row[0][0] for row in table[1:]] == ["compare"], "only comparisons stand in the table of comparisons"


def test_the_table_tells_the_kinds_apart(runs):
    columns, rows = runs_table(runs)
    assert {row["run"]: row["status"] for row in rows} == {
        "circuits": "finished: circuits",
        "claims": "finished: claims",
        "clocks": "finished: clocks",
        "clocks/seed=0": "finished: nothing compared",
        "clocks/seed=1": "finished: nothing compared",
        "compare": "finished: evaluation, geometry, connectivity, kl",
        "compare/es": "finished: nothing compared",
        "compare/grpo": "finished: nothing compared",
        "killed": "unfinished: no results.json",
        "rounding": "finished: rounding",
        "sequential": "finished: sequential",
        "single": "finished: nothing compared",
    }
    assert "accuracy es" in columns and not any("step" in column for column in columns)


@pytest.mark.parametrize("kind", CHAPTERS)
def test_an_older_file_without_its_kind_makes_the_same_page(runs, tmp_path, kind):
    made = {one: read_json(one) for one in runs.rglob("results.json")}
    (path,) = (one for one, results in made.items() if kind_of(results) == kind and has_page(results))
    results = read_json(path)
    older = {key: entry for key, entry in results.items() if key not in ("kind", "schema_version")}
    if kind == "sequential":
        older["study"] = "sequential"
    write_json(tmp_path / "older" / "results.json", older)
    if "written" in results:
        shutil.copytree(path.parent / "completions", tmp_path / "older" / "completions")
    build(path.parent)
    build(tmp_path / "older")
    pages = [(run / "report" / "report.md").read_text() for run in (path.parent, tmp_path / "older")]
    assert pages[0] == pages[1]


def test_a_kind_without_a_page_is_refused(runs):
    with pytest.raises(UserError, match="kind training, which has no page"):
        build(runs / "compare" / "es")


def test_what_was_measured_in_the_folder_of_a_training_has_a_page(tmp_path):
    results = {"method": "es", "steps": 2, "inputs": {"kl": {}}, "methods": ["es"], "kl": synthetic_results()["kl"]}
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert "0.21" in build(tmp_path).read_text()
    assert build_gallery(tmp_path).is_file()
