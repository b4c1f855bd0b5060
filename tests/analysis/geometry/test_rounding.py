"""The figures of the precision study against updates whose rounding is known."""

import json
import math

import pytest
import torch

from analysis.geometry.rounding import PrecisionStudy, UpdateSums, artefacts, describe_update, kind_of, markdown
from eval.storage import read_json
from tests.recipe_files import ROOT, load_script
from trainers.es.bfloat16 import PRECISIONS, ROUNDED
from trainers.es.rounding_study import WITHOUT_UPDATE, Steps, round_in_every_way
from trainers.es.update import Update, apply_update


def sums_of(update, reference, walk=None) -> UpdateSums:
    sums = UpdateSums()
    sums.add(update, reference, reference, torch.zeros_like(update) if walk is None else walk)
    return sums


def test_figures_of_vectors_done_by_hand():
    reference = torch.tensor([3.0, 4.0, 0.0, 0.0])
    update = torch.tensor([3.0, 0.0, 0.0, 4.0])
    found = describe_update(sums_of(update, reference, walk=torch.tensor([0.0, 0.0, 0.0, 1.0])), nominal_norm=10.0)
    assert found["norm"] == 5 and found["nominal_share"] == 0.5 and found["norm_ratio"] == 1
    assert found["cosine"] == pytest.approx(9 / 25) and found["lost_signal"] == pytest.approx(16 / 25)
    assert found["foreign_share"] == pytest.approx(1 - (9 / 25) ** 2) and found["walk_share"] == 0.1
    assert found["changed"] == found["changed_reference"] == 0.5


def test_no_update_has_no_direction():
    found = describe_update(sums_of(torch.zeros(4), torch.ones(4)), 1.0)
    assert found["cosine"] is None and found["foreign_share"] is None and found["lost_signal"] == 1
    assert found["norm_ratio"] == found["changed"] == 0


def test_parts_of_a_model_add_up_and_samples_stand_for_what_they_are_drawn_from():
    generator = torch.Generator().manual_seed(0)
    update, reference = torch.randn(2, 600, generator=generator)
    parts = UpdateSums()
    for start in (0, 200, 400):
        parts = parts + sums_of(update[start : start + 200], reference[start : start + 200])
    whole, joined = (describe_update(sums, 1.0) for sums in (sums_of(update, reference), parts))
    assert joined == pytest.approx(whole, rel=1e-9)
    sample = UpdateSums()
    sample.add(update, reference, reference, reference, share=5)
    assert sample.weights == 3000 and describe_update(sample, 1.0)["norm"] == pytest.approx(
        math.sqrt(5) * whole["norm"]
    )


def test_kinds():
    assert kind_of("model.layers.3.self_attn.q_norm.weight") == "norms"
    assert kind_of("model.layers.3.self_attn.q_proj.weight") == "attention"
    assert kind_of("model.layers.3.mlp.up_proj.weight") == "mlp"
    assert kind_of("model.embed_tokens.weight") == "embeddings" and kind_of("model.norm.weight") == "norms"


@pytest.mark.parametrize("shared", [False, True])
def test_every_way_is_what_the_trainer_does(shared):
    settings = Steps(steps=3, members=4, sigma=1e-2, alpha=1e-2, engines=2, shared_noise=shared)
    name, start = "w", (0.05 * torch.randn(30, 20, generator=torch.Generator().manual_seed(0))).bfloat16().float()
    found = round_in_every_way(name, start, settings)
    assert found.keys() == {*PRECISIONS, WITHOUT_UPDATE}
    for way in (*PRECISIONS, WITHOUT_UPDATE):
        weights = {name: start.clone()}
        for step in range(3):
            seeds = settings.seeds(step)
            released = way in ("released", WITHOUT_UPDATE)
            coefficients = [0.0] * 4 if way == WITHOUT_UPDATE else settings.coefficients(step)
            apply_update(
                weights,
                weights,
                Update(
                    step + 1,
                    seeds,
                    coefficients,
                    0.0,
                    shared,
                    "cpu",
                    precision="released" if released else way,
                    sigma=1e-2,
                    walked=[[seeds[0], 1], [seeds[2], 1]] if released else [],
                ),
            )
        assert torch.equal(weights[name], found[way]), way


def test_the_rounding_of_the_released_configuration():
    """100 steps of 30 members on weights of deviation 0.02. The released loop keeps the norm of a random walk, but
    much of it points elsewhere; a float32 sum with one rounding is nearly the walk itself."""
    start = (0.02 * torch.randn(4000, generator=torch.Generator().manual_seed(1))).bfloat16().float()
    settings = Steps()
    after = round_in_every_way("w", start, settings)
    study = PrecisionStudy()
    reference = after["fp32_master"] - start
    for way in PRECISIONS:
        walk = after[WITHOUT_UPDATE] - start if way == "released" else torch.zeros_like(start)
        study.at(way, "mlp").add(after[way] - start, reference, after["fp32_master"].bfloat16().float() - start, walk)
    found = {way: kinds["all"] for way, kinds in study.report(settings.alpha * math.sqrt(100 / 30)).items()}
    assert found["fp32_master"]["nominal_share"] == pytest.approx(1, abs=0.05)
    assert found["fp32_master"]["cosine"] == pytest.approx(1) and found["fp32_master"]["foreign_share"] < 1e-9
    # The values of an independent simulation of the same loop: 0.95 and 0.60; 0.86 and 0.67; 1.04 and 0.94; walk 0.28.
    expected = {"released": (0.95, 0.60), "exact_restore": (0.86, 0.67), "fp32_sum": (1.04, 0.94)}
    for way, (norm, cosine) in expected.items():
        assert found[way]["nominal_share"] == pytest.approx(norm, abs=0.05), way
        assert found[way]["cosine"] == pytest.approx(cosine, abs=0.05), way
    assert found["released"]["walk_share"] == pytest.approx(0.28, abs=0.05)
    assert abs(found["stochastic_rounding"]["lost_signal"]) < 0.05, "random rounding keeps the expectation"
    parts = artefacts(found)
    total = sum(parts[name]["cosine"] for name in ("restoring by subtraction", "one addition per member", "no master"))
    assert total == pytest.approx(found["released"]["cosine"] - 1)


def test_the_command_writes_figures_of_every_model_and_both_kinds_of_noise(tmp_path, monkeypatch):
    words = [
        "precision.py",
        "--output_dir",
        str(tmp_path / "run"),
        "--models",
        "recipes/tiny/models/llama-small",
        "--simulated",
        "recipes/llama-3.2-3b",
        "--sample",
        "500",
        "--steps",
        "1",
        "--population",
        "4",
    ]
    monkeypatch.setattr("sys.argv", words)
    monkeypatch.chdir(ROOT)
    load_script("recipes/precision.py").main()
    models = read_json(tmp_path / "run" / "results.json")["models"]
    assert models.keys() == {"llama-small", "simulated llama-3.2-3b"}
    for noises in models.values():
        assert noises.keys() == {"independent", "shared"}
        for found in noises.values():
            assert found["ways"].keys() == set(PRECISIONS)
            weights = sum(found["ways"]["released"][kind]["weights"] for kind in found["ways"]["released"]) / 2
            assert weights == pytest.approx(found["parameters"], rel=1e-9), "the sample stands for all weights"
        assert noises["shared"]["same_shape_cosine"] == pytest.approx(1)
        assert abs(noises["independent"]["same_shape_cosine"]) < 0.1
        assert noises["independent"]["effective_dimension"] == noises["independent"]["parameters"]
    assert models["simulated llama-3.2-3b"]["shared"]["parameters"] == 3_212_749_824
    text = (tmp_path / "run" / "report.md").read_text()
    assert text == markdown(models) and all(f"| {way} |" in text for way in ROUNDED)
    json.dumps(models, allow_nan=False)
