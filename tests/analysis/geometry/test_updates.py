import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from analysis.geometry import updates as geometry
from analysis.geometry.spectra import update_spectra
from analysis.geometry.updates import update_geometry
from eval.errors import UserError


Q0 = "model.layers.0.self_attn.q_proj.weight"
Q1 = "model.layers.1.self_attn.q_proj.weight"
D1 = "model.layers.1.mlp.down_proj.weight"
NORM = "model.norm.weight"
SHAPES = {Q0: (4, 4), Q1: (4, 4), D1: (2, 5), NORM: (4,)}


def save(folder, tensors):
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    return folder


def save_sharded(folder, tensors):
    folder.mkdir(parents=True)
    for number, (name, tensor) in enumerate(tensors.items()):
        save_file({name: tensor}, folder / f"part{number}.safetensors")
    index = {"weight_map": {name: f"part{number}.safetensors" for number, name in enumerate(tensors)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def planted():
    """Base of all ones; updates a and b with norms and angles known by construction."""
    base = {name: torch.ones(shape) for name, shape in SHAPES.items()}
    a = {name: tensor.clone() for name, tensor in base.items()}
    b = {name: tensor.clone() for name, tensor in base.items()}
    a[Q0][0, 0] += 3.0
    b[Q0][0, 0] += 1.0
    b[Q0][0, 1] += 1.0  # cosine in layer 0: 1 / sqrt(2)
    a[D1][0, 0] += 4.0
    b[D1][1, 1] += 2.0  # orthogonal in layer 1
    return base, a, b


@pytest.mark.parametrize("writer", [save, save_sharded])
def test_planted_norms_shares_and_cosines(tmp_path, writer):
    base, a, b = (writer(tmp_path / name, tensors) for name, tensors in zip("xab", planted(), strict=True))

    result = update_geometry(base, {"a": a, "b": b})

    assert result["parameters"] == 46
    assert result["base_norm"] == pytest.approx(math.sqrt(46), abs=1e-12)
    of_a = result["checkpoints"]["a"]
    assert of_a["norm"] == pytest.approx(5, abs=1e-12)
    assert of_a["relative_norm"] == pytest.approx(5 / math.sqrt(46), abs=1e-12)
    assert of_a["changed_share"] == 2 / 46
    assert of_a["changed_share_bf16"] == 2 / 46
    assert result["checkpoints"]["b"]["changed_share"] == 3 / 46
    assert of_a["per_kind"] == {
        "q_proj": {"norm": 3.0, "relative_norm": pytest.approx(3 / math.sqrt(32), abs=1e-12)},
        "down_proj": {"norm": 4.0, "relative_norm": pytest.approx(4 / math.sqrt(10), abs=1e-12)},
        "norm": {"norm": 0.0, "relative_norm": 0.0},
    }
    assert list(of_a["per_layer"]) == ["0", "1", "-"]
    assert {layer: norms["norm"] for layer, norms in of_a["per_layer"].items()} == {"0": 3.0, "1": 4.0, "-": 0.0}
    assert {
        layer: {kind: norms["norm"] for kind, norms in kinds.items()}
        for layer, kinds in of_a["per_layer_kind"].items()
    } == {"0": {"q_proj": 3.0}, "1": {"q_proj": 0.0, "down_proj": 4.0}, "-": {"norm": 0.0}}

    assert list(result["cosine"]) == ["a|b"]
    cosine = result["cosine"]["a|b"]
    assert cosine["total"] == pytest.approx(3 / (5 * math.sqrt(6)), abs=1e-12)
    assert cosine["per_layer_kind"] == {
        "0": {"q_proj": pytest.approx(1 / math.sqrt(2), abs=1e-12)},
        "1": {"q_proj": None, "down_proj": 0.0},
        "-": {"norm": None},
    }
    # Of one tensor 1 / sqrt(d), whatever its norms; undefined where one update is 0.
    assert cosine["null_std_per_layer_kind"] == {
        "0": {"q_proj": pytest.approx(1 / 4, abs=1e-12)},
        "1": {"q_proj": None, "down_proj": pytest.approx(1 / math.sqrt(10), abs=1e-12)},
        "-": {"norm": None},
    }
    # |a_t|^2 |b_t|^2 / d_t: 9 * 2 / 16 in layer 0 and 16 * 4 / 10 in layer 1
    assert cosine["null_std"] == pytest.approx(math.sqrt(9 * 2 / 16 + 16 * 4 / 10) / (5 * math.sqrt(6)), abs=1e-12)


def test_agrees_with_whole_models_in_float64_and_every_pair_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(geometry, "BLOCK", 21)  # blocks of 7 scalars for each of 3 checkpoints, the last one short
    torch.manual_seed(0)
    base = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    others = {
        key: {name: t + 1e-3 * torch.randn(t.shape) * (torch.rand(t.shape) < 0.5) for name, t in base.items()}
        for key in "abc"
    }
    paths = {key: save(tmp_path / key, tensors) for key, tensors in others.items()}

    result = update_geometry(save(tmp_path / "base", base), paths)

    flat = {
        key: torch.cat([(t[n].double() - base[n].double()).flatten() for n in SHAPES]) for key, t in others.items()
    }
    for key, delta in flat.items():
        assert result["checkpoints"][key]["norm"] == pytest.approx(delta.norm().item(), rel=1e-12)
        assert result["checkpoints"][key]["changed_share"] == (delta != 0).double().mean().item()
    assert list(result["cosine"]) == ["a|b", "a|c", "b|c"]
    for pair, cosine in result["cosine"].items():
        a, b = (flat[key] for key in pair.split("|"))
        assert cosine["total"] == pytest.approx((a @ b / a.norm() / b.norm()).item(), abs=1e-12)


def test_the_null_spread_is_that_of_random_directions(tmp_path):
    generator = torch.Generator().manual_seed(1)
    a_norms, b_norms, sizes = [3.0, 0.5, 1.0], [2.0, 2.0, 0.1], [16, 30, 4]
    names = [Q0, D1, NORM]
    base = {name: torch.zeros(size) for name, size in zip(names, sizes, strict=True)}
    a, b = (
        {name: norm * torch.eye(size)[0] for name, norm, size in zip(names, norms, sizes, strict=True)}
        for norms in (a_norms, b_norms)
    )
    paths = {"a": save(tmp_path / "a", a), "b": save(tmp_path / "b", b)}
    null_std = update_geometry(save(tmp_path / "base", base), paths)["cosine"]["a|b"]["null_std"]

    draws = 20_000
    products = torch.zeros(draws, dtype=torch.float64)
    for a_norm, b_norm, size in zip(a_norms, b_norms, sizes, strict=True):
        u, v = torch.randn(2, draws, size, dtype=torch.float64, generator=generator)
        products += a_norm * b_norm * (u * v).sum(1) / u.norm(dim=1) / v.norm(dim=1)
    simulated = products / math.hypot(*a_norms) / math.hypot(*b_norms)
    assert simulated.std().item() == pytest.approx(null_std, rel=0.03)  # 6 standard errors of a standard deviation


def test_changes_that_bf16_does_not_see(tmp_path):
    base = {Q0: torch.ones(10)}
    moved = {Q0: torch.ones(10)}
    moved[Q0][:4] += 1e-4  # bfloat16 steps near 1 are 2^-7 above and 2^-8 below
    moved[Q0][4] += 0.02
    paths = {"moved": save(tmp_path / "moved", moved)}
    result = update_geometry(save(tmp_path / "base", base), paths)["checkpoints"]["moved"]
    assert result["changed_share"] == 0.5
    assert result["changed_share_bf16"] == 0.1


def test_shares_within_each_threshold(tmp_path):
    base = {Q0: torch.zeros(5, 4), NORM: torch.zeros(4)}
    small, mixed = ({name: tensor.clone() for name, tensor in base.items()} for _ in range(2))
    small[Q0][0, 0] = 5e-8
    mixed[Q0].flatten()[:6] = torch.tensor([5e-7, -5e-6, 5e-5, -5e-4, 5e-3, -5e-2])
    mixed[NORM][0] = -2.0
    paths = {"small": save(tmp_path / "s", small), "mixed": save(tmp_path / "m", mixed)}
    result = update_geometry(save(tmp_path / "base", base), paths)["checkpoints"]
    assert list(result["mixed"]["share_within"]) == ["1e-07", "1e-06", "1e-05", "0.0001", "0.001", "0.01"]
    assert list(result["small"]["share_within"].values()) == [1.0] * 6
    assert list(result["mixed"]["share_within"].values()) == [n / 24 for n in (17, 18, 19, 20, 21, 22)]


def test_bf16_base_and_fp32_checkpoint(tmp_path):
    base = torch.randn(20, generator=torch.Generator().manual_seed(0)).bfloat16()
    moved = base.float() + 1e-4
    paths = {"same": save(tmp_path / "s", {Q0: base.float()}), "moved": save(tmp_path / "m", {Q0: moved})}
    result = update_geometry(save(tmp_path / "base", {Q0: base}), paths)
    assert result["checkpoints"]["same"]["norm"] == 0
    assert result["checkpoints"]["same"]["changed_share"] == 0
    expected = (moved.double() - base.double()).norm().item()
    assert result["checkpoints"]["moved"]["norm"] == pytest.approx(expected, rel=1e-12)


def test_two_bf16_checkpoints(tmp_path):
    generator = torch.Generator().manual_seed(2)
    base = torch.randn(40, 30, generator=generator)
    a, b = (base + 0.05 * torch.randn(40, 30, generator=generator) for _ in range(2))
    a[0, 0], base[0, 1] = 3e4, 1e-30
    base, a, b = base.bfloat16(), a.bfloat16(), b.bfloat16()
    paths = {"a": save(tmp_path / "a", {Q0: a}), "b": save(tmp_path / "b", {Q0: b})}
    result = update_geometry(save(tmp_path / "base", {Q0: base}), paths)
    updates = {"a": a.double() - base.double(), "b": b.double() - base.double()}
    assert result["base_norm"] == pytest.approx(base.double().norm().item(), rel=1e-12)
    for name, update in updates.items():
        found = result["checkpoints"][name]
        share = (update != 0).double().mean().item()
        assert 0.5 < share < 1
        assert found["changed_share"] == found["changed_share_bf16"] == share
        assert found["norm"] == pytest.approx(update.norm().item(), rel=1e-7)
        assert found["share_within"]["0.01"] == (update.abs() <= 0.01).double().mean().item()
    cosine = (updates["a"] * updates["b"]).sum() / updates["a"].norm() / updates["b"].norm()
    assert result["cosine"]["a|b"]["total"] == pytest.approx(cosine.item(), rel=1e-6)


def test_a_checkpoint_that_did_not_move(tmp_path):
    base, a, _ = planted()
    paths = {"a": save(tmp_path / "a", a), "still": save(tmp_path / "still", base)}
    result = update_geometry(save(tmp_path / "base", base), paths)
    assert result["checkpoints"]["still"]["norm"] == 0.0
    assert result["cosine"]["a|still"]["total"] is None
    assert result["cosine"]["a|still"]["null_std"] is None
    json.dumps(result, allow_nan=False)


def test_parameters_that_are_zero_in_base_have_no_relative_norm(tmp_path):
    paths = {"a": save(tmp_path / "a", {Q0: torch.ones(4)})}
    result = update_geometry(save(tmp_path / "base", {Q0: torch.zeros(4)}), paths)
    assert result["checkpoints"]["a"]["per_layer"]["0"] == {"norm": 2.0, "relative_norm": None}


def test_tied_embeddings_count_once_however_they_are_stored(tmp_path):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(tmp_path / "base")
    with torch.no_grad():
        model.model.embed_tokens.weight += 0.5
    model.save_pretrained(tmp_path / "moved")
    tensors = load_file(tmp_path / "moved" / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, tmp_path / "moved" / "model.safetensors", metadata={"format": "pt"})

    result = update_geometry(tmp_path / "base", {"moved": tmp_path / "moved"})

    assert result["parameters"] == model.num_parameters()
    assert result["checkpoints"]["moved"]["norm"] == pytest.approx(0.5 * math.sqrt(20 * 16), rel=1e-6)
    assert result["checkpoints"]["moved"]["changed_share"] == 320 / model.num_parameters()


def test_torch_has_its_threads_back_even_after_an_error(tmp_path):
    base, a, _ = planted()
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        paths = {"a": save(tmp_path / "a", a)}
        update_geometry(save(tmp_path / "base", base), paths)
        assert torch.get_num_threads() == 3
        a[Q0][0, 0] = float("inf")
        with pytest.raises(UserError):
            update_geometry(tmp_path / "base", {"a": save(tmp_path / "broken", a)})
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


def test_weights_that_are_not_finite_are_named(tmp_path):
    base, a, b = planted()
    b[D1][0, 0] = float("nan")
    paths = {"a": save(tmp_path / "a", a), "b": save(tmp_path / "b", b)}
    with pytest.raises(UserError) as error:
        update_geometry(save(tmp_path / "base", base), paths)
    assert D1 in str(error.value) and str(tmp_path / "b") in str(error.value)


def test_another_model_is_refused(tmp_path):
    base, a, _ = planted()
    a[NORM] = torch.ones(5)
    with pytest.raises(UserError, match=r"model\.norm\.weight has shape \[4\]"):
        update_geometry(save(tmp_path / "base", base), {"a": save(tmp_path / "a", a)})


def test_a_lora_adapter_has_the_norm_of_its_factors_and_their_rank(tmp_path):
    generator = torch.Generator().manual_seed(0)
    base = save(tmp_path / "base", {Q0: torch.randn(12, 8, generator=generator), NORM: torch.ones(4)})
    a, b = torch.randn(2, 8, generator=generator), torch.randn(12, 2, generator=generator)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    module = f"base_model.model.{Q0.removesuffix('.weight')}"
    save_file({f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 3}))

    norm = torch.linalg.matrix_norm(1.5 * b.double() @ a.double()).item()
    of_adapter = update_geometry(base, {"lora": adapter})["checkpoints"]["lora"]
    assert of_adapter["norm"] == pytest.approx(norm, rel=1e-6)
    assert of_adapter["per_kind"]["norm"]["norm"] == 0.0
    assert of_adapter["changed_share"] == 96 / 100
    values = update_spectra(base, {"lora": adapter}, top=4)["checkpoints"]["lora"]["matrices"][Q0]["singular_values"]
    expected = torch.linalg.svdvals(1.5 * b.double() @ a.double())[:2].tolist()
    assert values[:2] == pytest.approx(expected, rel=1e-6)
    assert values[2] < 1e-5 * values[0], "the update has the rank of the adapter"
