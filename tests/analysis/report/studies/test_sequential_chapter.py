"""The report of a sequential run, read back from the files it wrote."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from analysis.continual.summary import summarise
from analysis.report import build, build_gallery, html, markdown
from analysis.report.compose import compose
from analysis.report.studies.sequential import CHAPTER
from analysis.report.studies.sequential.summary import title
from analysis.report.style import Drawing
from eval.storage import read_json, write_json
from tests.analysis.continual.planted_sequence import TASKS, full_run, planted_matrix, planted_results
from tests.analysis.report.test_report_build import Page, at_pointer, check_number, markdown_tables, page_of


# Its pages or models take seconds to make.
pytestmark = pytest.mark.slow


FIGURES = ["matrices", "control-matrices", "metrics", "differences", "retention", "drift"]


def summarised(results: dict) -> dict:
    return results | {"continual": summarise(results, resamples=200)}


def written(folder: Path, results: dict) -> Path:
    write_json(folder / "results.json", results)
    assert build(folder) == folder / "report" / "index.html"
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    return written(tmp_path_factory.mktemp("sequential"), summarised(full_run()))


def two_arms(losses: dict[str, list[float]], seeds: int = 3) -> dict:
    """ES and GRPO, the first task at 0.7 and the second at 0.6 right after their trainings if nothing is lost."""
    return summarised(
        planted_results(
            {arm: (arm, [planted_matrix([0.3, 0.2], 0.4, lost)] * seeds) for arm, lost in losses.items()},
            TASKS[:2],
            TASKS[:2],
            {arm: [0.01, 0.02] for arm in losses},
            {arm: 2.0 for arm in losses},
        )
    )


def test_every_number_in_the_tables_is_the_one_in_results(built):
    results, sources = read_json(built / "results.json"), []
    for heading, *rows in page_of(built).tables:
        assert all(len(row) == len(heading) for row in rows)
        for words, source in (cell for row in rows for cell in row if cell[1] is not None):
            sources.append(source)
            if source.startswith(("/config/", "/environment/")):
                assert words == ("n/a" if at_pointer(results, source) is None else str(at_pointer(results, source)))
                continue
            try:
                value = at_pointer(results, source)
            except TypeError:
                # The forward KL less itself, and fits that do not exist.
                assert words == "n/a" and source.split("/")[-2] in ("forward_minus", "fit")
                continue
            assert words == "n/a" if value is None else check_number(words, value) is None
    assert len(sources) == len(set(sources)), "one number stands in two cells"
    expected = {
        *(
            f"/continual/matrix/{arm}/{end}/{row}/{column}"
            for arm in results["arms"]
            for end in ("value", "low", "high")
            for row in range(5)
            for column in range(5)
        ),
        *(
            f"/continual/metrics/{arm}/{metric}/{end}"
            for arm in results["arms"]
            for end in ("value", "low", "high")
            for metric in results["continual"]["metrics"]["es"]
        ),
        *(
            f"/continual/pairs/{pair}/{kind}/{name}/{end}"
            for pair, compared in results["continual"]["pairs"].items()
            for kind in ("metrics", "final")
            for name in compared[kind]
            for end in ("value", "low", "high")
        ),
        *(
            f"/continual/budget/{arm}/tasks/{task}/{unit}"
            for arm in results["arms"]
            for task in TASKS
            for unit in ("steps", "completions", "tokens", "seconds")
        ),
        *(
            f"/continual/drift/{reference}/{group}/{name}/correlation/value"
            for reference in ("step", "base")
            for group in ("all", "es", "grpo")
            for name in ("forward", "reverse", "norm", "gain")
        ),
    }
    assert expected <= set(sources)


def test_figures_and_markdown(built):
    report = (built / "report" / "report.md").read_text(encoding="utf-8")
    assert re.findall(r"!\[[^]]*\]\(([^)]*)\)", report) == [f"figures/{name}.svg" for name in FIGURES]
    assert {path.name for path in (built / "report" / "figures").iterdir()} == {
        f"{name}.{ending}" for name in FIGURES for ending in ("svg", "png")
    }
    tables = [[[words for words, _ in row] for row in table] for table in page_of(built).tables]
    assert markdown_tables(report) == tables


def test_the_matrices_hold_the_planted_accuracies(built):
    svg = (built / "report" / "figures" / "matrices.svg").read_text(encoding="utf-8")
    words = [" ".join(text.split()) for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]
    cells = [word for word in words if re.fullmatch(r"\d+", word) and word not in ("0", "20", "40")]
    value = read_json(built / "results.json")["continual"]["matrix"]
    expected = [f"{100 * v:.0f}" for arm in ("es", "grpo") for row in value[arm]["value"] for v in row]
    assert [cell for cell in expected if cell not in ("0", "20", "40")] == cells
    assert sum("\N{EN DASH}" in word for word in words) == 2 * 25
    for word in ("ES", "GRPO", "before", "Countdown", "Arithmetic", "Four-choice", "Yes/no", "GSM8K"):
        assert word in words
    assert "es-anchored" not in words


def test_title_and_sentences(built):
    text = page_of(built).text
    difference = read_json(built / "results.json")["continual"]["pairs"]["es|grpo"]["metrics"]["forgetting"]
    low, high = (f"{-100 * difference[end]:.1f}" for end in ("high", "low"))
    assert f"ES forgets 10.7 points more than GRPO ({low} to {high})" in text
    # Right after training: 0.25 + 0.45, 0.27 + 0.45, 0.17 + 0.45, 0.34 + 0.45.
    assert "ES brings the tasks to 70.8 % right after their training" in text
    assert "keeps an average accuracy of 61.0 % at the end, forgetting 13.0 points (" in text
    assert (
        "Over all stages, the loss on the other tasks rises with the forward KL on the new task (rank correlation "
        "1.00, 1.00 to 1.00); the reverse KL (1.00) predicts it neither clearly better nor worse; the length of the "
        "update (0.51) predicts it worse."
    ) in text
    assert "Forgotten most: by ES Countdown, 20.0 points (" in text
    assert "by grpo-kl nothing clearly" in text
    assert "Less forgetting: es-anchored than ES, by 9.7 points (" in text
    assert "ES takes it from 25 % to 70 % and ends with 50 %" in text
    assert "Countdown, then Arithmetic, then Four-choice, then Yes/no; 4 arms; 3 seeds each; 5,120 completions" in text
    # The planted divergences do not say how they were measured.
    assert "Estimator:" not in text
    assert "arXiv 1801.10112" in text and "arXiv 2509.04259" in text
    assert "Missing from results.json" not in text and "one seed, its intervals" not in text


def test_title_turns_with_the_numbers():
    assert re.fullmatch(
        r"GRPO forgets 20\.0 points more than ES \(1\d\.\d to 2\d\.\d\)",
        title(two_arms({"es": [0.0, 0.1], "grpo": [0.0, 0.3]})),
    )
    assert title(two_arms({"es": [0.0, 0.1], "grpo": [0.0, 0.1]})) == (
        "No difference in forgetting is seen between ES and GRPO: 0.0 points (0.0 to 0.0)"
    )
    # The order of the arms in the run does not matter.
    assert title(two_arms({"grpo": [0.0, 0.3], "es": [0.0, 0.1]})).startswith("GRPO forgets 20.0 points more than ES")
    assert title(two_arms({"es": [0.0, 0.1]})).startswith("ES forgets 10.0 points (")
    assert title({"study": "sequential"}) == "Tasks in sequence"


def test_one_seed_is_said(tmp_path):
    text = page_of(written(tmp_path, two_arms({"es": [0.0, 0.1], "grpo": [0.0, 0.3]}, seeds=1))).text
    assert "Where an arm has one seed, its intervals cover the choice of test items only." in text
    assert "too few chains for an interval" in text or "rank correlation" not in text.split("Definitions")[0]


def test_one_arm_and_one_task(tmp_path):
    """Neither pairs nor forgetting nor, with a single column, anything to lose: the rest of the page stands."""
    results = planted_results({"es": ("es", [[[0.2], [0.7]]])}, TASKS[:1], TASKS[:1], {"es": [0.1]}, {"es": 3.0})
    run = written(tmp_path, summarised(results))
    text = page_of(run).text
    assert "ES after one task" in text and "ES brings Countdown to 70.0 %." in text
    assert "Missing from results.json" not in text
    assert sorted(path.stem for path in (run / "report" / "figures").glob("*.svg")) == [
        "matrices",
        "metrics",
        "retention",
    ]


def test_one_task_with_a_further_column(tmp_path):
    matrix = [[0.2, 0.5], [0.7, 0.4]]
    results = planted_results(
        {"es": ("es", [matrix] * 2), "grpo": ("grpo", [matrix] * 2)},
        TASKS[:1],
        ["countdown", "gsm8k"],
        {"es": [0.1], "grpo": [0.2]},
        {"es": 3.0, "grpo": 1.0},
    )
    text = page_of(written(tmp_path, summarised(results))).text
    assert "ES and GRPO after one task: nothing that was trained can be forgotten yet" in text
    assert "GSM8K (never trained)" in text and "Missing from results.json" not in text


def test_long_names_stand_below_each_other(tmp_path):
    """Three methods, and a name that leaves no room for two matrices beside each other."""
    tasks = ["countdown_hub", "reasoning_gym/a_rather_long_name"]
    results = planted_results(
        {arm: (arm, [planted_matrix([0.3, 0.2], 0.4, [0.0, 0.1])] * 2) for arm in ("es", "grpo", "sft")},
        tasks,
        tasks,
        {arm: [0.1, 0.2] for arm in ("es", "grpo", "sft")},
        {"es": 3.0, "grpo": 1.0, "sft": 2.0},
    )
    run = written(tmp_path, summarised(results))
    assert "SFT minus GRPO" in page_of(run).text
    svg = (run / "report" / "figures" / "matrices.svg").read_text(encoding="utf-8")
    width, height = map(float, re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups())
    assert height > width
    assert svg.count(">before<") == 3


@pytest.mark.parametrize("columns", [6, 10])
def test_many_columns(tmp_path, columns):
    """More columns than fit beside each other, and more than have room for intervals."""
    names = [*TASKS[:2], *(f"further_{i}" for i in range(columns - 2))]
    results = planted_results(
        {"es": ("es", [planted_matrix([0.3] * columns, 0.4, [0.01, 0.02])] * 2)},
        TASKS[:2],
        names,
        {"es": [0.1, 0.2]},
        {"es": 3.0},
    )
    run = written(tmp_path, summarised(results))
    svg = (run / "report" / "figures" / "matrices.svg").read_text(encoding="utf-8")
    assert svg.count("\N{EN DASH}") == (3 * columns if columns <= 8 else 0)


def test_missing_sections_are_named(tmp_path):
    text = page_of(written(tmp_path / "a", full_run())).text
    assert "Tasks in sequence" in text and "Missing from results.json: continual." in text
    results = summarised(full_run())
    del results["continual"]["drift"], results["continual"]["budget"]
    results["environment"] = None
    run = written(tmp_path / "b", results)
    text = page_of(run).text
    assert "Missing from results.json: environment, continual.budget, continual.drift." in text
    assert not (run / "report" / "figures" / "drift.svg").exists()
    assert (run / "report" / "figures" / "matrices.svg").exists()


def test_incomplete_chains_are_named(tmp_path):
    results = full_run()
    results["arms"]["es"]["seeds"]["2"]["stages"].pop()
    del results["arms"]["grpo-kl"]
    text = page_of(written(tmp_path, summarised(results))).text
    assert "Missing from results.json: arms.es.seeds.2.stages.3, arms.grpo-kl." in text
    assert "Left out: es/2 (trained on 3 of 4 tasks)." in text
    assert "2 to 3 seeds each" in text


def test_unmeasured_divergences(tmp_path):
    results = full_run()
    for arm in results["arms"].values():
        for chain in arm["seeds"].values():
            for stage in chain["stages"]:
                stage["kl"] = stage["kl_step"] = None
    results = summarised(results)
    run = written(tmp_path / "a", results)
    assert "Missing from results.json: arms.es.seeds.0.stages.0.kl_step, arms.es-anchored." in page_of(run).text
    svg = (run / "report" / "figures" / "drift.svg").read_text(encoding="utf-8")
    assert "Update length" in svg and "Forward KL" not in svg
    # None were asked for.
    results["config"]["kl_prompts"] = 0
    assert "Missing from results.json" not in page_of(written(tmp_path / "b", results)).text


def test_the_estimator_stands_where_a_divergence_does(tmp_path):
    results = two_arms({"es": [0.0, 0.1], "grpo": [0.0, 0.3]})
    results["arms"]["es"]["seeds"]["0"]["stages"][0]["kl_step"]["forward"] |= {
        "estimator": "exact sum",
        "temperature": 1.0,
        "prompts": 60,
    }
    text = page_of(written(tmp_path, results)).text
    assert "Estimator: exact sum, at temperature 1, 60 prompts a stage and direction." in text


def test_gallery_shows_a_sequential_run(built):
    page = build_gallery(built).read_text(encoding="utf-8")
    assert "ES forgets 10.7" in page
    assert "report/figures/matrices.svg" in page and "report/figures/drift.svg" in page


def test_the_same_results_give_the_same_page(built, tmp_path):
    again = written(tmp_path, read_json(built / "results.json"))
    for name in ("index.html", "report.md", *(f"figures/{figure}.png" for figure in FIGURES)):
        assert (again / "report" / name).read_bytes() == (built / "report" / name).read_bytes()


SECTIONS = {
    "matrices": ("Accuracy after each task", "matrix"),
    "metrics": ("What was learned and what was kept", "metrics"),
    "differences": ("Arm against arm on the same items", "pairs"),
    "retention": ("Each task from stage to stage", "matrix"),
    "drift": ("Drift and forgetting", "drift"),
}


@pytest.mark.parametrize("name", SECTIONS)
def test_a_missing_section_is_named_in_its_place(monkeypatch, name):
    """Composed without drawing: what is said and listed does not hang on the figures."""
    monkeypatch.setattr(
        import_module("analysis.report.compose"),
        "draw",
        lambda name, painter: Drawing('<svg viewBox="0 0 1 1"></svg>', b""),
    )
    heading, key = SECTIONS[name]
    results = summarised(full_run())
    del results["continual"][key]
    document = compose(CHAPTER, results)
    gone = [other for other, (_, other_key) in SECTIONS.items() if other_key == key]
    assert [part.name for part in document.parts if part.drawing is None] == gone
    # The control arms are a second part of the matrices, which are missed once.
    assert [part.name for part in document.parts] == [n for n in FIGURES if (n, key) != ("control-matrices", "matrix")]
    report = markdown.render(document)
    section = report[report.index(f"## {heading}\n") :]
    assert section.split("\n\n")[1].startswith(f"> Missing from results.json: continual.{key}.")
    assert f"Missing from results.json: continual.{key}." in Page(html.render(document)).text
    assert list(document.missing) == [("continual", key)]
    if key == "pairs":
        # Nothing is said of a difference that was not measured.
        assert document.title.startswith("ES forgets 13.0 points (")


@pytest.mark.parametrize("form", ["mapping", "string"])
def test_arms_that_were_planned_and_not_run_are_missed(monkeypatch, form):
    """Also in the form of older files: one string for each arm, its name first."""
    monkeypatch.setattr(
        import_module("analysis.report.compose"),
        "draw",
        lambda name, painter: Drawing('<svg viewBox="0 0 1 1"></svg>', b""),
    )
    results = two_arms({"es": [0.0, 0.1], "grpo": [0.0, 0.3]}, seeds=1)
    arms = [{"name": arm, "method": arm, "config": f"recipes/tiny/{arm}.yaml"} for arm in ("es", "grpo", "sft")]
    strings = [f"{arm['name']} {arm['method']} {arm['config']}" for arm in arms]
    results["config"]["arms"] = arms if form == "mapping" else strings
    assert list(compose(CHAPTER, results).missing) == [("arms", "sft")]
