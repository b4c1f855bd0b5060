"""The packaged model itself, where its package is installed: make install-real."""

import importlib.metadata

import pytest
import torch

from eval.digests import file_digest, model_digest
from eval.rollout.base import Sampling
from eval.rollout.gguf import PACKAGED, local_model_name, packaged_file
from eval.rollout.hf import HFEngine
from eval.storage import read_json


pytestmark = pytest.mark.real
NAME = "smollm2-135m"


def test_the_installed_package_is_the_one_that_is_named():
    package, _, file, digest, _ = PACKAGED[NAME]
    name, _, version = package.partition("==")
    assert importlib.metadata.version(name) == version
    assert packaged_file(NAME).name == file
    assert file_digest(packaged_file(NAME)) == digest


@pytest.mark.slow
def test_the_packaged_model_answers():
    engine = HFEngine.from_pretrained(NAME, "cpu", torch.bfloat16)
    assert engine.model.num_parameters() == 134_515_008
    assert engine.tokenizer.eos_token == engine.tokenizer.pad_token == "<|im_end|>"
    [[[answer]]] = engine.generate([[{"role": "user", "content": "What is the capital of France?"}]], Sampling(24))
    assert "Paris" in answer.text and answer.finished
    folder = local_model_name(NAME)
    assert model_digest(NAME) == model_digest(folder)
    assert read_json(folder / "provenance.json")["license"] == "apache-2.0"
    assert "license: apache-2.0" in (folder / "README.md").read_text(encoding="utf-8")
