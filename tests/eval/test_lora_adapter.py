"""eval/lora_adapter.py beside PEFT's own merge; what it refuses, and why."""

import json
import re

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from eval.errors import UserError
from eval.lora_adapter import check_base
from eval.rollout.hf import HFEngine
from eval.rollout.loading import open_model
from tests.tiny import random_checkpoint


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A Qwen2, whose attention has biases."""
    return random_checkpoint(tmp_path_factory.mktemp("models") / "base", "qwen2")


def adapter(folder, base, **options):
    """A PEFT adapter of random numbers, saved; and the parameters of PEFT's own merge."""
    torch.manual_seed(1)
    config = LoraConfig(**{"r": 3, "lora_alpha": 12, "target_modules": ["q_proj", "down_proj"]} | options)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return {name: weight.detach() for name, weight in model.merge_and_unload().named_parameters()}


KINDS = {
    "plain": {},
    "rank-stabilised": {"use_rslora": True},
    "a rank pattern": {"rank_pattern": {"layers.1.self_attn.q_proj": 5, "down_proj": 2}},
    "an alpha pattern": {"alpha_pattern": {"layers.1.self_attn.q_proj": 30, "down_proj": 2}},
    "both, and rank-stabilised": {"rank_pattern": {"q_proj": 5}, "alpha_pattern": {"q_proj": 9}, "use_rslora": True},
    "all biases": {"bias": "all"},
    "biases of the adapted": {"bias": "lora_only"},
    "gaussian": {"init_lora_weights": "gaussian"},
    "norms as a whole": {"modules_to_save": ["norm"]},
}


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS.keys())
def test_a_model_is_what_peft_merges(base, tmp_path, options):
    merged = adapter(tmp_path / "adapter", base, **options)
    model, tokenizer = open_model(tmp_path / "adapter", torch.float32, base)
    opened = dict(model.named_parameters())
    assert opened.keys() == merged.keys()
    start = dict(AutoModelForCausalLM.from_pretrained(base).named_parameters())
    for name, weight in merged.items():
        torch.testing.assert_close(opened[name].detach(), weight, rtol=1e-6, atol=1e-6)
        assert torch.equal(opened[name], start[name]) == torch.equal(weight, start[name])
    assert tokenizer.chat_template, "an adapter without a tokenizer has that of its base"


def test_without_a_base_it_is_the_one_that_the_adapter_names(base, tmp_path):
    adapter(tmp_path / "adapter", base)
    named, given = (HFEngine.from_pretrained(tmp_path / "adapter", "cpu", base=one) for one in (None, base))
    for name, weight in given.named_weights().items():
        assert torch.equal(named.named_weights()[name], weight)


REFUSED = {
    "pissa": ({"init_lora_weights": "pissa"}, "that changed its base when it was made (init_lora_weights: pissa)"),
    "olora": ({"init_lora_weights": "olora"}, "that changed its base when it was made (init_lora_weights: olora)"),
    "dora": ({"use_dora": True}, "with DoRA's magnitudes"),
    "lora bias": ({"lora_bias": True}, "with biases in its factors"),
    "tied embedding": ({"modules_to_save": ["embed_tokens"]}, "which its base uses as output embedding too"),
}


@pytest.mark.parametrize(("options", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_an_adapter_that_its_folder_does_not_describe_is_refused_by_name(base, tmp_path, options, reason):
    adapter(tmp_path / "adapter", base, **options)
    with pytest.raises(UserError, match=re.escape(reason)) as error:
        open_model(tmp_path / "adapter", torch.float32, base)
    assert "merge it into its base with PEFT's merge_and_unload" in str(error.value)


@pytest.mark.parametrize("start", ["corda", "lora_ga", "loftq", "mica", "pissa_niter_4"])
def test_every_other_start_that_changes_the_base_is_refused(base, tmp_path, start):
    adapter(tmp_path / "adapter", base)
    edit(tmp_path / "adapter", init_lora_weights=start)
    with pytest.raises(UserError, match=rf"\(init_lora_weights: {start}\)"):
        open_model(tmp_path / "adapter", torch.float32, base)


def edit(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_an_adapter_of_another_base_is_refused(base, tmp_path):
    adapter(tmp_path / "adapter", base)
    other = random_checkpoint(tmp_path / "other", "qwen2", seed=1)
    check_base(tmp_path / "adapter", base)
    with pytest.raises(UserError, match=f"is an adapter of {base}, not of {other}, whose weights are others"):
        open_model(tmp_path / "adapter", torch.float32, other)
    # A hub name, and a folder that is no longer there, go by their last part.
    for named, fits in (("Someone/Other", True), ("/gone/other", True), ("Someone/Another-Base", False), (None, True)):
        edit(tmp_path / "adapter", base_model_name_or_path=named)
        if fits:
            check_base(tmp_path / "adapter", other)
        else:
            with pytest.raises(UserError, match="is an adapter of Someone/Another-Base, not of"):
                check_base(tmp_path / "adapter", other)
