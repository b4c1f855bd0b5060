"""The sections beyond a plain comparison: measured for real on planted checkpoints, then drawn and read back."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from analysis.behaviour.lines import Landscape, part_lines
from analysis.behaviour.plane import plane
from analysis.behaviour.probes import probes
from analysis.claims.judge import judge
from analysis.geometry.spectra import update_spectra
from analysis.geometry.trajectory import drift
from analysis.report import build, build_gallery
from analysis.theory.predictions import predict
from eval.errors import UserError
from eval.storage import read_json, write_json
from tests.analysis.claims.test_judge import sweep
from tests.analysis.report.test_report_build import at_pointer, check_number, markdown_tables, page_of
from tests.analysis.theory.test_predictions import write_run


# Its pages or models take seconds to make.
pytestmark = pytest.mark.slow


FIGURES = {
    "spectra": ["spectra", "ranks", "subspaces"],
    "trajectory": ["trajectory"],
    "theory": ["theory-walk", "theory-useful"],
    "layer_lines": ["layer-lines"],
    "kind_lines": ["kind-lines"],
    "plane": ["plane"],
    "probes": ["probes"],
    "kl_matrices": ["kl-matrices"],
    "claims": ["claims"],
}


def checkpoint(folder: Path, seed: int, scale: float) -> Path:
    """Two matrices in two layers and a norm, moved from zero by `scale` times a random direction."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        f"model.layers.{layer}.self_attn.{kind}.weight": scale * torch.randn(12, 8, generator=generator)
        for layer in (0, 1)
        for kind in ("q_proj", "v_proj")
    }
    folder.mkdir(parents=True)
    save_file(tensors | {"model.norm.weight": torch.ones(8) * (1 + scale)}, folder / "model.safetensors")
    return folder


def quadratic(weights) -> dict:
    """Reward and loss of a bowl around weights of 0.1, with made-up intervals."""
    distance = sum(float((weight - 0.1).double().square().sum()) for _, weight in weights)
    reward, loss = 1 / (1 + distance / 50), distance / 100
    return {
        "reward": reward,
        "reward_low": max(0.0, reward - 0.1),
        "reward_high": min(1.0, reward + 0.1),
        "reward_total": 60,
        "loss": loss,
        "loss_low": loss - 0.01,
        "loss_high": loss + 0.01,
    }


def divergence(value: float, direction: str) -> dict:
    return {
        "per_token": value,
        "per_token_low": value / 2,
        "per_token_high": 2 * value,
        "sequences": 40,
        "direction": direction,
        "sampled_from": direction[3:].split(" ")[0],
    }


@pytest.fixture(scope="module")
def sections(tmp_path_factory) -> dict:
    """Every further section, by the functions that measure them."""
    folder = tmp_path_factory.mktemp("further")
    base = checkpoint(folder / "base", 0, 0.1)
    models = {"es": checkpoint(folder / "es", 1, 0.5), "grpo": checkpoint(folder / "grpo", 2, 0.2)}
    landscape = Landscape({"base": base, **models}, quadratic, {"task": "countdown", "size": 60})
    tasks = {"countdown": 0.1, "yes_no": 0.2}
    stages = {
        name: {task: divergence(value, f"KL({name} || base)") for task, value in tasks.items()} for name in models
    }
    return {
        "spectra": update_spectra(base, models, top=4),
        "trajectory": drift(base, {"5": models["grpo"], "10": models["es"]}),
        "theory": {"es": predict(write_run(folder / "run", shared_noise=True))},
        "layer_lines": part_lines(landscape, "layer", 3, [("es", "grpo")]),
        "kind_lines": part_lines(landscape, "kind", 3, [("es", "grpo")]),
        "plane": plane(landscape, ["base", "es", "grpo"], 4, 0.25),
        "probes": probes(landscape, ["es", "grpo"], [0.5, 1.0], [0, 1]),
        "kl_matrices": {"order": ["base", "es", "grpo"], "incremental": stages, "cumulative": stages},
    }


@pytest.fixture(scope="module")
def full(sections, tmp_path_factory) -> Path:
    from tests.analysis.report.conftest import synthetic_results

    run = tmp_path_factory.mktemp("full")
    write_json(run / "results.json", synthetic_results() | sections)
    build(run)
    return run


def test_every_section_has_its_figures_in_both_formats_and_a_sentence(full, sections):
    page = (full / "report" / "index.html").read_text()
    for section in sections:
        for name in FIGURES[section]:
            svg = (full / "report" / "figures" / f"{name}.svg").read_text()
            assert "<path" in svg
            with Image.open(full / "report" / "figures" / f"{name}.png") as image:
                assert image.size[0] > 600
            part = page.split(f'<section id="{name}">')[1].split("</section>")[0]
            sentence = part.split("<figcaption>")[1].split("</figcaption>")[0]
            assert sentence.endswith(".") and len(sentence) > 40
    assert "Missing" not in page


def test_every_number_in_the_tables_of_the_sections_is_the_one_in_results(full, sections):
    results = read_json(full / "results.json")
    shown = set()
    for words, source in (cell for table in page_of(full).tables for row in table for cell in row):
        if source and source.split("/")[1] in sections:
            shown.add(source)
            check_number(words, at_pointer(results, source)) if words != "n/a" else None
            assert (words == "n/a") == (at_pointer(results, source) is None)
    assert {source.split("/")[1] for source in shown} == set(sections) - {"plane"}
    assert "/spectra/checkpoints/es/per_kind/q_proj/effective_rank" in shown
    assert "/trajectory/all/norm/1" in shown
    assert "/kind_lines/lines/grpo|es/v_proj/loss_barrier" in shown
    assert "/probes/checkpoints/es/update/even/loss/1" in shown
    assert "/theory/es/useful/first/signal_share" in shown


def test_the_sentences_say_what_the_numbers_say(full):
    words = page_of(full).text
    assert "ES's direction gains" in words
    assert "tensors share their noise" in words, "where isotropy fails the report says so"
    assert "this assumes independent noise, which the run does not have" in words
    assert "Ornstein-Uhlenbeck" in words


def test_sections_that_nobody_measured_are_not_missing(built):
    page = (built / "report" / "index.html").read_text()
    assert "Missing" not in page and "spectra" not in page
    assert not (built / "report" / "figures" / "plane.svg").exists()


def test_a_trajectory_alone_is_a_report_of_its_own(sections, tmp_path):
    write_json(tmp_path / "results.json", {"methods": [], "trajectory": sections["trajectory"]})
    build(tmp_path)
    page = page_of(tmp_path)
    assert page.text.startswith("How one run drifted") or "How one run drifted" in page.text[:400]
    assert "Missing" not in page.text and "Budget" not in page.text
    figures = sorted(path.name for path in (tmp_path / "report" / "figures").iterdir())
    assert figures == ["trajectory.png", "trajectory.svg"]


@pytest.fixture(scope="module")
def judged(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("judged")
    comparisons = sweep(lambda task, budget, precision: {"es": 0.5} if budget == "published" else {})
    write_json(run / "results.json", {"base_model": "tiny", "claims": judge(comparisons), "config": {"seeds": 5}})
    build(run)
    return run


def test_the_claims_have_a_page(judged):
    page = page_of(judged)
    assert "Of 18 claims 16 hold, 1 depends on the setting and 1 was not measured" in page.text
    assert "Missing" not in page.text
    (table,) = [table for table in page.tables if table[0][1][0] == "Statement"]
    rows = {row[0][0]: [words for words, _ in row] for row in table[1:]}
    assert rows["accuracy"][2] == "depends on budget" and rows["accuracy"][3:6] == ["4", "4", "0"]
    assert rows["norm"][2] == "holds" and rows["forgetting"][2] == "not measured"
    results = read_json(judged / "results.json")
    for words, source in (cell for table in page.tables for row in table for cell in row):
        if source and source.startswith("/claims"):
            number = at_pointer(results, source)
            if number is None:
                assert words == "n/a"
            else:
                check_number(words, number)
    assert any(
        row[0] == "accuracy"
        for table in markdown_tables((judged / "report" / "report.md").read_text())
        for row in table
    )
    svg = (judged / "report" / "figures" / "claims.svg").read_text()
    assert "grpo-probe" in svg and "published" in svg


def test_the_gallery_links_every_report_and_builds_those_that_lack_one(full, judged, tmp_path):
    for name, run in (("a/seed 0", full), ("claims", judged)):
        write_json(tmp_path / name / "results.json", read_json(run / "results.json"))
    write_json(tmp_path / "a" / "seed 0" / "es" / "results.json", {"method": "es"})
    path = build_gallery(tmp_path)
    assert path == tmp_path / "gallery.html"
    page = path.read_text()
    assert page.count('<article class="run"') == 2
    for name in ("a/seed%200", "claims"):
        assert f'href="{name}/report/index.html"' in page
        assert (tmp_path / name.replace("%20", " ") / "report" / "index.html").is_file()
    for source in [part.split('"')[0] for part in page.split('src="')[1:]]:
        assert (tmp_path / source.replace("%20", " ")).is_file()
    assert "Of 18 claims" in page and "accuracy es" in page and "1 further runs" in page

    before = (tmp_path / "claims" / "report" / "index.html").stat().st_mtime_ns
    build_gallery(tmp_path)
    assert (tmp_path / "claims" / "report" / "index.html").stat().st_mtime_ns == before, "reports are not built twice"


def test_a_folder_without_anything_to_report(tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        build_gallery(tmp_path / "nowhere")
    (tmp_path / "results.json").write_text(json.dumps({"method": "es"}))
    with pytest.raises(UserError, match="there is nothing to report in"):
        build_gallery(tmp_path)


def test_a_training_that_was_never_evaluated_has_its_curve_all_the_same(full, tmp_path):
    results = read_json(full / "results.json")
    for method in ("es", "grpo"):
        empty = {key: [] for key in ("completions", "accuracy", "low", "high")}
        results["training"][method]["evaluation"] = empty | {"total": 0}
    write_json(tmp_path / "results.json", results)
    build(tmp_path)
    assert "accuracy on validation problems was not recorded" in page_of(tmp_path).text
    assert (tmp_path / "report" / "figures" / "learning.svg").is_file()
