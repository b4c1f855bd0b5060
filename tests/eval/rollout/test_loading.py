"""Opening checkpoints that people really have: what is missing is refused by name, what can be read is read."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from eval.checkpoint_files import locate_tensors, tensor_headers
from eval.errors import UserError
from eval.rollout.hf import HFEngine
from eval.rollout.loading import load_model, save_model
from tests.recipe_files import ROOT


SHIPPED = ROOT / "recipes/tiny/models/llama-small"


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(SHIPPED, tmp_path / "model")


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def change_json(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.1.mlp.up_proj.weight"])
def test_missing_tensors_are_refused_by_name(folder, name):
    change_weights(folder, lambda weights: weights.pop(name))
    with pytest.raises(UserError, match=f"it lacks {name}"):
        load_model(folder, torch.float32)


def test_more_layers_in_the_configuration_than_in_the_weights(folder):
    change_json(folder / "config.json", num_hidden_layers=4)
    with pytest.raises(UserError, match=r"it lacks model.layers.3.* and 6 more"):
        load_model(folder, torch.float32)


def test_another_shape_is_refused(folder):
    change_weights(folder, lambda weights: weights.update({"model.norm.weight": torch.ones(7)}))
    with pytest.raises(UserError, match="model.norm.weight"):
        load_model(folder, torch.float32)


def test_tensors_without_a_place_are_named_and_buffers_are_not(folder, capfd):
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8), "v_head.weight": torch.ones(3)}
    change_weights(folder, lambda weights: weights.update(extra))
    load_model(folder, torch.float32)
    said = capfd.readouterr().err
    assert "v_head.weight" in said and "inv_freq" not in said.split("warning:")[-1]
    assert "model.layers.0.self_attn.rotary_emb.inv_freq" not in locate_tensors(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(folder, value):
    change_weights(folder, lambda weights: weights["model.norm.weight"].fill_(value))
    with pytest.raises(UserError, match="not finite .* in model.norm.weight"):
        load_model(folder, torch.float32)
    with pytest.raises(UserError, match="not finite"):
        HFEngine.from_pretrained(SHIPPED, "cpu").set_weights({"model.norm.weight": torch.tensor([value])}.items())


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    model, tokenizer = load_model(SHIPPED, torch.float32)
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    weights["model.norm.weight"] = torch.full_like(weights["model.norm.weight"], torch.nan)
    with pytest.raises(UserError, match="this run are not finite"):
        save_model(tmp_path, model, tokenizer, weights)
    assert not (tmp_path / "model.safetensors").exists()


def test_a_stale_index_beside_a_single_file_is_not_read(folder):
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert set(locate_tensors(folder).values()) == {folder / "model.safetensors"}
    load_model(folder, torch.float32)


@pytest.mark.parametrize("content", [b"", b"\0" * 8, b"\xff" * 64, b"\x10" + b"\0" * 7 + b"{}"])
def test_a_damaged_file_is_named(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="model.safetensors is damaged"):
        load_model(folder, torch.float32)


def test_a_truncated_file_is_named(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="model.safetensors is damaged"):
        load_model(folder, torch.float32)


def test_a_damaged_index_is_named(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    for content in ("{", "[]", '{"weight_map": 3}'):
        (folder / "model.safetensors.index.json").write_text(content)
        with pytest.raises(UserError, match="index.json is damaged"):
            load_model(folder, torch.float32)
    index = {"weight_map": {"nothing.weight": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="lacks nothing.weight"):
        tensor_headers(folder / "model-00001-of-00001.safetensors", ["nothing.weight"])


@pytest.mark.parametrize(
    ("file", "content"),
    [("tokenizer.json", "{"), ("tokenizer.json", None), ("config.json", "{"), ("config.json", "[]")],
)
def test_a_damaged_or_missing_part_is_one_line(folder, file, content):
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    with pytest.raises(UserError) as error:
        load_model(folder, torch.float32)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


def test_a_generation_configuration_that_transformers_would_not_save_is_kept(folder, tmp_path):
    change_json(folder / "generation_config.json", temperature=0.6, top_p=0.9, do_sample=False)
    model, tokenizer = load_model(folder, torch.float32)
    (tmp_path / "saved").mkdir()
    save_model(tmp_path / "saved", model, tokenizer, dict(model.named_parameters()))
    assert json.loads((tmp_path / "saved/generation_config.json").read_text())["temperature"] == 0.6
