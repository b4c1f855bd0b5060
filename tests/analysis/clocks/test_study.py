import json
import math
from dataclasses import replace

import pytest

from analysis.__main__ import build_parser
from analysis.clocks.claims import CLAIMS, basin_changes
from analysis.clocks.measure import variants
from analysis.clocks.runs import read_runs
from analysis.clocks.striking import Crossing
from analysis.clocks.study import measure, measure_sweep, telling_runs
from analysis.criteria import AGREEMENT
from analysis.report import build
from analysis.report.studies.clocks.labels import rule_label
from eval.errors import UserError
from eval.storage import read_json


@pytest.fixture(scope="module")
def results(sweep):
    return measure(read_runs(sweep), replicates=40)


def claim(results, name, model):
    return next(e for e in results["claims"] if (e["claim"], e["model"]) == (name, model))


def test_clocks_and_windows_of_every_run(results):
    assert len(results["runs"]) == 15 and len(results["settings"]) == 9
    run = results["runs"]["mlp-g3-n64-s0"]
    # novel_valid reaches 0.9 where 0.02 + 0.98 r = 0.9, copies 0.1 where 0.6 r = 0.1, with r of rising().
    share = 0.88 / 0.98
    expected = 300 / 1.8 * 10 ** (0.12 * math.log(share / (1 - share)))
    assert run["clocks"]["tau_rule_novel"]["step"] == pytest.approx(expected, rel=0.05)
    assert run["clocks"]["tau_mem"]["step"] == pytest.approx(3600 * 10 ** (0.12 * math.log(0.2)), rel=0.05)
    assert run["window"]["state"] == "open" and run["N"] == 64 and run["complexity"] == 3
    low, high = run["intervals"]["tau_rule_novel"]
    assert low < run["clocks"]["tau_rule_novel"]["step"] < high
    assert results["runs"]["mlp-g6-n128"]["window"]["state"] == "vanished"
    json.dumps(results, allow_nan=False)


def test_settings_put_seeds_together(results):
    setting = next(s for s in results["settings"] if (s["model"], s["complexity"], s["N"]) == ("mlp", 3, 128))
    assert setting["runs"] == ["mlp-g3-n128-s0", "mlp-g3-n128-s1"] and setting["seeds"] == [0, 1]
    assert setting["open"] == 2 and setting["share_open"] == 1


def test_only_the_unusual_variant_of_a_model_is_named(sweep):
    runs = read_runs(sweep)
    wide = replace(runs[0], name="wide", config={**runs[0].config, "width": 999})
    named = variants([*runs, wide])
    assert named.pop("wide") == "width 999"
    assert set(named.values()) == {""}


def test_fits_find_the_planted_exponent(results):
    of_memory = [f for f in results["fits"] if f["clock"] == "tau_mem" and f["against"] == "log10 N"]
    assert {fit["model"] for fit in of_memory} == {"mlp", "gpt2"}
    for fit in of_memory:
        slope = fit["slopes"]["log10 N"]
        assert slope["slope"] == pytest.approx(1, abs=0.1)
        assert slope["bootstrap_low"] < 1.05 and slope["bootstrap_high"] > 0.95 and fit["seeds"] == 2
    complexity = next(
        f for f in results["fits"] if (f["model"], f["clock"], f["against"]) == ("mlp", "tau_rule_novel", "complexity")
    )
    # The rule with group 6 is never learned, and counts as later than its run.
    assert complexity["censored"] == 1 and complexity["slopes"]["complexity"]["slope"] > 0.5


def test_claims_hold_where_they_were_planted(results):
    verdicts = {(e["claim"], e["model"]): e["verdict"] for e in results["claims"]}
    assert set(name for name, _ in verdicts) == set(CLAIMS)
    for model in ("mlp", "gpt2"):
        assert verdicts["C1", model] == "seen"
        assert verdicts["C2", model] == "not measured"
        # The rule comes first in these runs, and the rules differ in how many strings are valid.
        assert verdicts["C4a", model] == "not measured" and verdicts["C4b", model] == "seen"
        assert verdicts["C3b", model] == "not measured"
        assert verdicts["C5a", model] == "seen" and verdicts["C5b", model] == "seen"
        assert verdicts["C7", model] == "not measured"
    assert verdicts["C5c", "mlp"] == "seen" and verdicts["C5c", "gpt2"] == "not seen"
    # No run of GPT-2 copies first.
    assert verdicts["C6", "all"] == "censored"
    order = claim(results, "C1", "mlp")
    assert order["ordered"] == order["pairs"] and order["seeds"] == [0, 1]
    assert "mlp against gpt2" in claim(results, "C6", "all")["evidence"]


def test_claims_that_fail_are_not_seen(tmp_path, write_run):
    for group, rule in ((3, 2000), (4, 200)):
        for size, memory in ((64, 600), (256, 500)):
            write_run(tmp_path / "runs" / f"g{group}-{size}", "mlp", group, size, rule=rule, memory=memory)
    results = measure(read_runs(tmp_path / "runs"), replicates=20)
    for name in ("C1", "C5a", "C5b"):
        assert claim(results, name, "mlp")["verdict"] == "not seen", name
    assert claim(results, "C1", "mlp")["ordered"] < AGREEMENT * claim(results, "C1", "mlp")["pairs"]
    assert claim(results, "C6", "all")["verdict"] == "not measured"


@pytest.mark.parametrize(("factor", "verdict"), [(1.5, "seen"), (6.0, "not seen")])
def test_rules_are_compared_at_equally_many_strings_and_within_a_phase(tmp_path, write_run, factor, verdict):
    """Three rules at one N; 2^18 strings are valid of the first two, 2^16 of the third, whose clock is far away."""
    for length, group, memory in ((27, 3, 400), (24, 4, 400 * factor), (24, 3, 40000)):
        for seed in (0, 1):
            folder = tmp_path / "runs" / f"{length}-{group}-{seed}"
            write_run(folder, "mlp", group, 64, seed, rule=1e7, memory=memory, length=length)
    results = measure(read_runs(tmp_path / "runs"), replicates=20)
    copies_first = claim(results, "C3a", "mlp")
    assert copies_first["verdict"] == verdict and copies_first["factor"] == pytest.approx(factor, rel=0.05)
    assert copies_first["runs"] == 4 and claim(results, "C3b", "mlp")["verdict"] == "not measured"


def test_runs_that_end_early_leave_claims_censored(tmp_path, write_run):
    for size in (64, 256):
        for group in (3, 4):
            write_run(tmp_path / "runs" / f"g{group}-{size}", "mlp", group, size, rule=5000, memory=50000, last=427)
    results = measure(read_runs(tmp_path / "runs"), replicates=20)
    assert {claim(results, name, "mlp")["verdict"] for name in ("C1", "C5a", "C5b", "C5c")} == {"censored"}
    # Which clock comes first is unknown: these runs belong to neither phase.
    for name in ("C3a", "C3b", "C4a", "C4b"):
        assert claim(results, name, "mlp")["verdict"] == "not measured"
    run = results["runs"]["g3-64"]
    assert run["first"] == "unknown" and run["memory_censored_by"] == "the last step, 427"


def test_basin_changes():
    def at(train, held_out, violating):
        radii = {"train": train, "held_out": held_out, "violating": violating}
        return {name: {"radius": radius, "probability": [0.0]} for name, radius in radii.items()}

    field = {
        "steps": [10, 100, 1000],
        "sigmas": [0.2, 0.4],
        "basins": {"one_step": [at(0.5, 0.5, 0.5), at(0.9, 0.8, None), at(1.2, 0.6, None)]},
        "no_rule": {"held_out": {"radius": 0.5}},
    }
    struck = basin_changes(field, Crossing(60.0, 40), Crossing(700.0, 500))
    assert struck == pytest.approx((1.6, 2.5, 2.0))
    assert basin_changes(field, Crossing(None, 1000), Crossing(None, 1000)) == (None, None, None)


@pytest.mark.slow
def test_the_page_holds_every_part_that_the_sweep_can_fill(sweep, tmp_path):
    measure_sweep(sweep, tmp_path / "out", replicates=5)
    page = build(tmp_path / "out")
    html = page.read_text()
    for title in (
        "What the sweep shows",
        "Both clocks on one axis",
        "Clocks against the size",
        "Where the window is open",
        "Clocks against the complexity",
        "What the models draw",
        "Claims C1 to C7",
    ):
        assert title in html
    for absent in ("Basins of attraction", "Attention to the group"):
        assert absent not in html
    assert (page.parent / "report.md").read_text().startswith("# ")
    assert (page.parent / "figures" / "windows.png").is_file()
    before = html
    build(tmp_path / "out")
    assert page.read_text() == before
    results = read_json(tmp_path / "out" / "results.json")
    assert len(results["claims"]) == 21 and results["kind"] == "clocks"


def test_the_command_and_its_mistakes(tmp_path, capsys):
    arguments = build_parser().parse_args(["clocks", "--runs", str(tmp_path), "--output", str(tmp_path / "o")])
    with pytest.raises(UserError, match="no rule run with evaluations"):
        arguments.run(arguments)
    with pytest.raises(UserError, match="whole number"):
        build_parser().parse_args(["clocks", "--runs", "a", "--output", "b", "--models", "-1"])


def test_a_run_without_its_data_is_named(tmp_path, write_run):
    folder = write_run(tmp_path / "runs" / "a")
    (folder / "data.safetensors").unlink()
    with pytest.raises(UserError, match="no data.safetensors"):
        read_runs(tmp_path / "runs")


def test_telling_runs_take_turns_between_models(sweep):
    chosen = telling_runs(read_runs(sweep))
    assert len(chosen) == 15 and {run.model for run in chosen[:2]} == {"mlp", "gpt2"}
    of_mlp = [run for run in chosen if run.model == "mlp"]
    first_of_setting = [i for i, run in enumerate(of_mlp) if run.setting not in {r.setting for r in of_mlp[:i]}]
    # Each setting once before any comes again; among them the run without a window last.
    assert first_of_setting == list(range(len(first_of_setting)))
    assert of_mlp[first_of_setting[-1]].name == "mlp-g6-n128"


def test_rule_labels():
    assert rule_label("parity(length=24, group=3)") == "parity 24, G=3"
    assert rule_label("latin_square(side=4)") == "latin square 4x4"
    assert rule_label("sudoku()") == "sudoku"
    assert rule_label("threshold(length=8, ones=5)") == "threshold 8, ones 5"
