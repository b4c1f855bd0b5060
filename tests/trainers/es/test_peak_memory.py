"""The memory plan against the measured peak of whole runs on a CPU."""

import sys

import pytest

from tests.benchmarks.es_memory import LOW_RANK, models, plan_and_peak


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from Linux's /proc")


@pytest.fixture(scope="module")
def large_and_small(tmp_path_factory):
    return models(tmp_path_factory.mktemp("models"), layers=4, width=640, vocabulary=4096)


@pytest.mark.slow
@pytest.mark.parametrize("engine, options", [("hf", {}), pytest.param("vllm", LOW_RANK, marks=pytest.mark.vllm)])
def test_the_plan_is_near_the_peak(large_and_small, engine, options):
    plan, peak = plan_and_peak(*large_and_small, engine, options | {"steps": 1, "eval_size": 16}, threads=1)
    assert plan > 300e6
    assert 0.8 < peak / plan < 1.2
