"""The sections on equal accuracy and on controls: what they say and where their numbers stand."""

import copy

import pytest

from analysis.barriers import with_controls
from analysis.claims.equal_accuracy import at_level, stopped
from analysis.claims.matched import columns, cost_of
from analysis.report import build
from analysis.report.studies.comparison import headline, lines, matched
from eval.storage import write_json
from tests.analysis.claims.test_matched import curve
from tests.analysis.report.conftest import synthetic_results
from tests.analysis.report.test_report_build import at_pointer, page_of


def matched_results(results: dict, found: bool = True) -> dict:
    """ "matched" as `matched_section` writes it, with the end's numbers but a GRPO that moved less."""
    curves = {"es": curve([0.24, 0.6, 0.8], every=15), "grpo": curve([0.24, 0.7, 0.81, 0.9], every=4)}
    at = {key: copy.deepcopy(results[key]) for key in ("task", "evaluation", "geometry", "kl", "random_walk")}
    at["geometry"]["checkpoints"]["grpo"]["norm"] /= 4
    kept = {
        method: {"step": [point.step for point in points[1:]], "accuracy": [point.accuracy for point in points[1:]]}
        | {name: [0.1 * (i + 1) for i in range(len(points) - 1)] for name in matched.ALONG}
        for method, points in curves.items()
    }
    difference = {"difference": -0.01, "low": -0.03, "high": 0.01}
    test = {**difference, "margin": 0.05, "problems": 500, "control": difference, "verdict": "matches or exceeds"}
    return {
        "within": 0.02,
        "found": found,
        "level": 0.8,
        "difference": -0.01,
        "pair": {
            method: {name: of[i] for name, of in columns(points).items()}
            for (method, points), i in zip(curves.items(), (2, 2), strict=True)
        },
        "cost": {method: cost_of(points, 0.8) for method, points in curves.items()},
        "at": at,
        "stops": {
            stop: stopped(of, "countdown", ["es", "grpo"])
            for stop, of in ((matched.BUDGET, results), (matched.ACCURACY, at))
        },
        "non_inferior": {stop: test for stop in (matched.BUDGET, matched.ACCURACY)},
        "curves": {method: columns(points) for method, points in curves.items()},
        "kept": kept,
        "at_level": {method: at_level(rows, 0.8) for method, rows in kept.items()},
    }


def controls(results: dict, clean: bool) -> dict:
    """Controls of the line es|grpo: the line itself (clean), or one with a deep dip."""
    flat = copy.deepcopy(results["connectivity"]["lines"]["base|es"])
    dip = synthetic_results()["connectivity"]["lines"]["es|grpo"]
    made = {"random": flat if clean else dip, "mirrored": dip}
    return {"lines": {"es|grpo": {"points": 11, "lines": made, "base": {}, **with_controls(flat, made)}}}


@pytest.fixture
def flat(results):
    """Without a barrier on the line between the methods."""
    results["connectivity"]["lines"]["es|grpo"] = copy.deepcopy(results["connectivity"]["lines"]["base|es"])
    return results


def test_both_sections_stand_on_the_page_with_numbers_of_results_json(results, tmp_path):
    results["matched"] = matched_results(results)
    results["controls"] = controls(results, clean=True)
    write_json(tmp_path / "results.json", results)
    build(tmp_path)
    page = page_of(tmp_path)
    for name in ("cost", "equal-accuracy", "controls"):
        assert (tmp_path / "report" / "figures" / f"{name}.svg").exists(), name
    markdown = (tmp_path / "report" / "report.md").read_text()
    assert "At equal accuracy" in markdown and "What accuracy costs" in markdown
    assert page is not None and at_pointer(results, "/matched/stops/matched accuracy/norm/ratio") == pytest.approx(
        4 * results["matched"]["stops"]["matched budget"]["norm"]["ratio"]
    )


def test_the_caption_says_which_checkpoints_and_what_changes(results):
    results["matched"] = matched_results(results)
    said = matched.caption(results)
    assert said.startswith("Compared are ES at step 30 (80.0 %) and GRPO at step 8 (81.0 %)")
    assert "16.7 at the matched budget, 66.7 here" in said
    results["matched"] = matched_results(results, found=False)
    assert "the nearest are ES at step 30 (80.0 %)" in matched.caption(results)
    assert "nothing is concluded" in matched.caption(results)


def test_the_cost_is_that_of_the_common_accuracy(results):
    results["matched"] = matched_results(results)
    said = matched.cost_caption(results)
    assert "ES 3,000 completions, 30 s" in said and "GRPO 764 completions" in said
    results["matched"]["cost"]["es"] = None
    assert "ES does not reach it at any evaluation" in matched.cost_caption(results)


def test_a_test_without_power_says_so_in_caption_title_and_headline(flat):
    flat["controls"] = controls(flat, clean=True)
    said = lines.caption(flat)
    assert "this test cannot tell" in said and "a random update of the same length in every tensor" in said
    assert "this test cannot tell" in headline.headline(flat)
    assert "no barrier" not in headline.title(flat)
    flat["controls"] = controls(flat, clean=False)
    assert "cannot tell" not in lines.caption(flat) + headline.headline(flat)
    assert "no barrier between them" in headline.title(flat)
