import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from analysis.geometry.checkpoints import Checkpoint, check_same_parameters, open_checkpoints, parse_name
from eval.errors import UserError


def tiny_llama(tied: bool, seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=40,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=tied,
        )
    )


def one_line(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("shard_size", ["1GB", "20KB"])
@pytest.mark.parametrize("tied", [True, False])
def test_reads_exactly_the_parameters_of_the_model(tmp_path, shard_size, tied):
    model = tiny_llama(tied)
    model.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (tmp_path / "model.safetensors").exists() == (shard_size == "1GB")

    checkpoint = Checkpoint(tmp_path)

    parameters = dict(model.named_parameters())
    assert sorted(checkpoint.names) == sorted(parameters)
    assert checkpoint.shapes == {name: tuple(parameters[name].shape) for name in checkpoint.names}
    assert checkpoint.parameters == sum(p.numel() for p in parameters.values())
    for name, parameter in parameters.items():
        assert checkpoint.read(name).dtype == torch.float32
        assert torch.equal(checkpoint.read(name), parameter.detach())


def test_bf16_is_read_as_the_same_values_in_fp32(tmp_path):
    stored = torch.randn(7, 5).bfloat16()
    save_file({"a.weight": stored}, tmp_path / "model.safetensors")
    assert torch.equal(Checkpoint(tmp_path).read("a.weight"), stored.float())


def test_blocks_put_together_are_the_parameter(tmp_path):
    stored = torch.randn(7, 5)
    save_file({"a.weight": stored}, tmp_path / "model.safetensors")
    blocks = list(Checkpoint(tmp_path).blocks("a.weight", size=16))
    assert [len(block) for block in blocks] == [16, 16, 3]
    assert torch.equal(torch.cat(blocks), stored.flatten())


def test_a_stored_copy_of_a_tied_embedding_is_not_listed(tmp_path):
    model = tiny_llama(tied=True)
    model.save_pretrained(tmp_path / "once")
    model.save_pretrained(tmp_path / "twice")
    tensors = load_file(tmp_path / "twice" / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, tmp_path / "twice" / "model.safetensors", metadata={"format": "pt"})

    twice = Checkpoint(tmp_path / "twice")

    assert "lm_head.weight" not in twice.names
    check_same_parameters([Checkpoint(tmp_path / "once"), twice])


def test_a_different_output_embedding_is_a_parameter_of_its_own_as_in_transformers(tmp_path):
    tiny_llama(tied=True).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})

    loaded = LlamaForCausalLM.from_pretrained(tmp_path)

    assert torch.equal(Checkpoint(tmp_path).read("lm_head.weight"), loaded.lm_head.weight.detach())


def test_a_folder_without_weights(tmp_path):
    with pytest.raises(UserError) as error:
        Checkpoint(tmp_path)
    assert str(tmp_path) in one_line(error) and "no weights" in one_line(error)
    with pytest.raises(UserError) as error:
        Checkpoint(tmp_path / "absent")
    assert "is not a folder" in one_line(error)


def test_a_missing_shard(tmp_path):
    tiny_llama(tied=True).save_pretrained(tmp_path, max_shard_size="20KB")
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(UserError) as error:
        Checkpoint(tmp_path)
    assert shard.name in one_line(error)


def test_an_index_that_names_a_tensor_its_shard_does_not_hold(tmp_path):
    save_file({"a.weight": torch.ones(2)}, tmp_path / "one.safetensors")
    index = {"weight_map": {"a.weight": "one.safetensors", "b.weight": "one.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError) as error:
        Checkpoint(tmp_path)
    assert "b.weight" in one_line(error)


def test_a_truncated_file(tmp_path):
    save_file({"a.weight": torch.ones(1000)}, tmp_path / "model.safetensors")
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:500])
    with pytest.raises(UserError) as error:
        Checkpoint(tmp_path)
    assert "damaged" in one_line(error)


def test_quantised_weights_are_refused(tmp_path):
    save_file({"a.weight": torch.ones(3, dtype=torch.int8)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError) as error:
        Checkpoint(tmp_path).read("a.weight")
    assert "a.weight" in one_line(error)


def test_different_models_are_refused_by_naming_tensors(tmp_path):
    for folder, tensors in {
        "a": {"x.weight": torch.ones(2), "y.weight": torch.ones(2, 3)},
        "b": {"x.weight": torch.ones(2), "y.weight": torch.ones(3, 2)},
        "c": {"x.weight": torch.ones(2)} | {f"z{i}.weight": torch.ones(2) for i in range(5)},
    }.items():
        (tmp_path / folder).mkdir()
        save_file(tensors, tmp_path / folder / "model.safetensors")
    a, b, c = (Checkpoint(tmp_path / folder) for folder in "abc")
    check_same_parameters([a, a])
    with pytest.raises(UserError) as error:
        check_same_parameters([a, a, b])
    assert "y.weight has shape [2, 3]" in one_line(error) and "[3, 2]" in one_line(error)
    with pytest.raises(UserError) as error:
        check_same_parameters([a, c])
    assert "y.weight is only in" in one_line(error) and "3 more differences" in one_line(error)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("model.layers.12.self_attn.q_proj.weight", (12, "q_proj")),
        ("model.layers.0.self_attn.k_proj.bias", (0, "k_proj.bias")),
        ("model.layers.3.mlp.down_proj.weight", (3, "down_proj")),
        ("model.layers.3.post_attention_layernorm.weight", (3, "post_attention_layernorm")),
        ("model.layers.3.mlp.experts.7.up_proj.weight", (3, "up_proj")),
        ("model.layers.3.mlp.experts.gate_up_proj", (3, "gate_up_proj")),
        ("model.embed_tokens.weight", (None, "embed_tokens")),
        ("model.norm.weight", (None, "norm")),
        ("lm_head.weight", (None, "lm_head")),
    ],
)
def test_parse_name(name, expected):
    assert parse_name(name) == expected


def lora_adapter(folder, base, rslora=False, **options):
    """A PEFT adapter with random factors, saved; and the weights that PEFT makes of it when it merges."""
    torch.manual_seed(5)
    config = LoraConfig(r=3, lora_alpha=12, target_modules=["q_proj", "down_proj"], use_rslora=rslora, **options)
    model = get_peft_model(LlamaForCausalLM.from_pretrained(base), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return dict(model.merge_and_unload().named_parameters())


@pytest.mark.parametrize("rslora", [False, True])
def test_a_lora_adapter_is_its_base_plus_its_factors(tmp_path, rslora):
    tiny_llama(tied=True).save_pretrained(tmp_path / "base", max_shard_size="20KB")
    merged = lora_adapter(tmp_path / "adapter", tmp_path / "base", rslora)

    base, adapter = open_checkpoints(tmp_path / "base", [tmp_path / "adapter"])

    assert sorted(adapter.names) == sorted(merged)
    for name in adapter.names:
        torch.testing.assert_close(adapter.read(name), merged[name].detach(), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(
            torch.cat(list(adapter.blocks(name, 7))), adapter.read(name).flatten(), rtol=0, atol=0
        )
        moved = ("q_proj" in name) or ("down_proj" in name)
        assert torch.equal(adapter.read(name), base.read(name)) != moved


def test_modules_saved_as_a_whole_replace_those_of_the_base(tmp_path):
    tiny_llama(tied=False).save_pretrained(tmp_path / "base")
    merged = lora_adapter(tmp_path / "adapter", tmp_path / "base", modules_to_save=["lm_head"])
    base, adapter = open_checkpoints(tmp_path / "base", [tmp_path / "adapter"])
    assert torch.equal(adapter.read("lm_head.weight"), merged["lm_head.weight"].detach())
    assert not torch.equal(adapter.read("lm_head.weight"), base.read("lm_head.weight"))


def test_an_adapter_alone_or_of_another_base_or_kind_is_refused(tmp_path):
    tiny_llama(tied=True).save_pretrained(tmp_path / "base")
    lora_adapter(tmp_path / "adapter", tmp_path / "base")
    with pytest.raises(UserError) as error:
        Checkpoint(tmp_path / "adapter")
    assert "is an adapter, and a whole model is needed here" in one_line(error)

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "narrow")
    with pytest.raises(UserError) as error:
        open_checkpoints(tmp_path / "narrow", [tmp_path / "adapter"])
    assert "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight [3, 48]" in one_line(error)
    assert "and 1 more" in one_line(error)

    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_dora": True}))
    with pytest.raises(UserError) as error:
        open_checkpoints(tmp_path / "base", [tmp_path / "adapter"])
    assert "DoRA" in one_line(error)


def test_an_engines_fused_names_are_named(tmp_path):
    for folder, names in {"a": ["q_proj", "k_proj", "v_proj"], "b": ["qkv_proj"]}.items():
        (tmp_path / folder).mkdir()
        tensors = {f"model.layers.0.self_attn.{name}.weight": torch.ones(2, 2) for name in names}
        save_file(tensors, tmp_path / folder / "model.safetensors")
    with pytest.raises(UserError) as error:
        open_checkpoints(tmp_path / "a", [tmp_path / "b"])
    assert "model.layers.0.self_attn.q_proj.weight is only in" in one_line(error)
    assert one_line(error).endswith("qkv_proj is an inference engine's: save under Hugging Face names")


def test_pickled_weights_are_named(tmp_path):
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError) as error:
        Checkpoint(tmp_path)
    assert "pytorch_model.bin is not read" in one_line(error)
