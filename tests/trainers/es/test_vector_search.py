"""evotorch's algorithms on subspaces of a model's matrices."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from eval.errors import UserError
from eval.rollout.base import LowRankMember, Sampling
from eval.rollout.hf import HFEngine
from eval.storage import read_json, read_jsonl
from tests.tiny import random_checkpoint, random_model
from trainers.es.config import ESConfig
from trainers.es.search import Evaluation
from trainers.es.subspace import Subspace, VectorMember
from trainers.es.train import train_es
from trainers.es.vector_search import (
    ALGORITHMS,
    VectorProblem,
    VectorSearch,
    check_length,
    make_algorithm,
    share_ties,
)


MATRIX = "layers.0.q_proj.weight"


def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"embed_tokens.weight": (9, 6), MATRIX: (8, 6), "layers.0.down_proj.weight": (6, 10)}
    drawn = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return drawn | {"norm.weight": torch.ones(6)}


@pytest.mark.parametrize("kind, length", [("lora", 2 * (8 + 6 + 6 + 10)), ("random", 2 * 4), ("singular", 2 * 2)])
def test_a_space_changes_matrices_by_products_and_starts_at_no_change(kind, length):
    base = weights()
    space = Subspace(base, kind, 2, seed=3)
    assert space.length == len(space.start) == length and set(space.places) == {MATRIX, "layers.0.down_proj.weight"}
    assert not any(space.delta(name, weight, space.start).any() for name, weight in base.items())
    vector = torch.randn(length, generator=torch.Generator().manual_seed(1))
    for name, weight in base.items():
        delta = space.delta(name, weight, vector)
        assert delta.shape == weight.shape
        if name in space.places:
            a, b = space.factors(name, weight, vector)
            torch.testing.assert_close(delta, a @ b.T)
            assert torch.linalg.matrix_rank(delta) == 2
        else:
            assert not delta.any()
    again = Subspace(base, kind, 2, seed=3)
    assert torch.equal(again.delta(MATRIX, base[MATRIX], vector), space.delta(MATRIX, base[MATRIX], vector))
    member = VectorMember(0, vector, space)
    assert isinstance(member, LowRankMember) and member.kind("norm.weight", base["norm.weight"]) == "frozen"


def test_singular_values_change_by_what_the_vector_says():
    base = weights()
    space = Subspace(base, "singular", 3, seed=0)
    vector = torch.zeros(space.length)
    vector[:3] = torch.tensor([0.5, 0.0, -0.25])
    before = torch.linalg.svdvals(base[MATRIX])
    after = torch.linalg.svdvals(base[MATRIX] + space.delta(MATRIX, base[MATRIX], vector))
    expected = torch.cat([before[:3] * torch.tensor([1.5, 1.0, 0.75]), before[3:]]).sort(descending=True).values
    torch.testing.assert_close(after, expected)


def test_random_cores_of_deviation_one_give_entries_of_deviation_one():
    base = {MATRIX: torch.zeros(300, 200)}
    space = Subspace(base, "random", 8, seed=0)
    vector = torch.randn(space.length, generator=torch.Generator().manual_seed(2))
    expected = float(vector.pow(2).mean().sqrt())
    assert float(space.delta(MATRIX, base[MATRIX], vector).pow(2).mean().sqrt()) == pytest.approx(expected, rel=1e-5)


def test_the_engine_answers_with_the_same_model_that_a_checkpoint_of_the_vector_holds():
    model, tokenizer = random_model()
    engine = HFEngine(model, tokenizer)
    base = {name: weight.clone() for name, weight in engine.named_weights().items()}
    space = Subspace(base, "lora", 2, seed=0)
    generator = torch.Generator().manual_seed(0)
    members = [VectorMember(i, 0.3 * torch.randn(space.length, generator=generator), space) for i in range(3)]
    prompts = [[{"role": "user", "content": f"{i} + 3"}] for i in range(4)]
    together = engine.generate(prompts, Sampling(12), members)
    for member, answers in zip(members, together, strict=True):
        engine.set_weights((name, weight + member.delta(name, weight)) for name, weight in base.items())
        assert engine.generate(prompts, Sampling(12)) == [answers]
    assert together[0] != together[1]


def problem_of(rewards, baseline="none", shaping="zscore", recorded=(), kind="singular", rank=3):
    space = Subspace(weights(), kind, rank, seed=0)

    def evaluate(step, members):
        found = rewards(torch.stack([member.vector for member in members]))
        return Evaluation(np.asarray(found, dtype=float)[:, None], len(members), 0, 0, 0)

    return VectorProblem(evaluate, space, baseline, shaping, 5, list(recorded))


OPTIONS = {
    "pgpe": {"center_learning_rate": 0.3},
    "pgpe clipup": {"center_learning_rate": 0.06, "optimizer": "clipup"},
    "pgpe adam": {"center_learning_rate": 0.06, "optimizer": "adam"},
    "snes": {},
    "snes sgd": {"optimizer": "sgd", "center_learning_rate": 1.0},
    "xnes": {},
    "cem": {},
    "cmaes": {},
}
TARGET = torch.tensor([0.5, -0.5, 0.2, 0.4, -0.1, 0.3])


@pytest.mark.parametrize("name", OPTIONS)
def test_every_algorithm_finds_a_maximum(name):
    problem = problem_of(lambda vectors: -(vectors - TARGET).pow(2).sum(1))
    # CEM stops where its elites have no spread left: it needs more of both to get there.
    size = {"members": 60, "stdev": 0.5} if name == "cem" else {"members": 20, "stdev": 0.2}
    algorithm = make_algorithm(name.split()[0], problem, **size, **OPTIONS[name])
    search = VectorSearch(problem, weights(), algorithm)
    for _ in range(60):
        search.step()
    search.finish()
    assert search.steps_count == 60
    centre = torch.as_tensor(algorithm.status["center"])
    assert float((centre - TARGET).norm()) < 0.15 < float(TARGET.norm())
    metrics = search.metrics()
    json.dumps(metrics, allow_nan=False)
    moved = search.weights[MATRIX] - weights()[MATRIX]
    torch.testing.assert_close(moved, problem.space.delta(MATRIX, moved, centre), atol=1e-5, rtol=1e-4)
    assert metrics["distance_from_base"] > 0 and torch.equal(search.weights["norm.weight"], torch.ones(6))


@pytest.mark.parametrize("name", [name for name in OPTIONS if not name.startswith(("cem", "pgpe adam"))])
def test_a_step_in_which_all_are_tied_leaves_a_finite_centre_where_it_is(name):
    problem = problem_of(lambda vectors: torch.ones(len(vectors)))
    algorithm = make_algorithm(name.split()[0], problem, members=10, stdev=0.2, **OPTIONS[name])
    search = VectorSearch(problem, weights(), algorithm)
    for _ in range(3):
        search.step()
    search.finish()
    centre = torch.as_tensor(algorithm.status["center"])
    if name == "cmaes":
        # The weights of its ranks add up to one: tied members move it to their mean.
        assert bool(centre.isfinite().all())
    else:
        torch.testing.assert_close(centre, problem.space.start, atol=1e-6, rtol=0)
    assert search.metrics()["members_tied"] is True


def test_tied_members_share_their_weights_whatever_their_order():
    shared = share_ties(torch.tensor([0.1, 0.5, 0.3, -0.9]), torch.tensor([1.0, 2.0, 1.0, 0.0]))
    torch.testing.assert_close(shared, torch.tensor([0.2, 0.5, 0.2, -0.9]))


def test_finish_lets_the_centre_see_the_last_population():
    problem = problem_of(lambda vectors: -(vectors - TARGET).pow(2).sum(1))
    search = VectorSearch(problem, weights(), make_algorithm("snes", problem, members=20, stdev=0.2))
    search.step()
    assert search.update_norm == 0 and not search.algorithm.status["center"].any()
    search.finish()
    assert search.update_norm > 0 and search.steps_count == 1


def test_unscored_members_count_as_average_and_the_baseline_is_the_trainer_s():
    def rewards(vectors):
        found = vectors[:, 0].clone()
        found[3] = math.nan
        return found

    problem = problem_of(rewards)
    search = VectorSearch(problem, weights(), make_algorithm("snes", problem, members=8, stdev=0.2))
    search.step()
    assert search.metrics()["members_unscored"] == 1
    assert problem.fitness[3] == pytest.approx(np.delete(problem.fitness, 3).mean())
    search.step()
    assert bool(torch.as_tensor(search.algorithm.status["center"]).isfinite().all())


@pytest.mark.parametrize("name", ALGORITHMS)
def test_recorded_fitness_brings_an_algorithm_back_to_the_bit(name):
    options = OPTIONS[name]
    whole = problem_of(lambda vectors: -(vectors - TARGET).pow(2).sum(1))
    search = VectorSearch(whole, weights(), make_algorithm(name, whole, members=8, stdev=0.2, **options))
    rows = []
    for _ in range(8):
        search.step()
        rows.append(json.loads(json.dumps(search.log_row())))
    resumed = problem_of(
        lambda vectors: -(vectors - TARGET).pow(2).sum(1), recorded=[row["fitness"] for row in rows[:5]]
    )
    other = VectorSearch(resumed, weights(), make_algorithm(name, resumed, members=8, stdev=0.2, **options))
    assert other.steps_count == 5
    for _ in range(3):
        other.step()
    search.finish()
    other.finish()
    assert all(torch.equal(other.weights[key], search.weights[key]) for key in other.weights)


RUN = {
    "engine_dtype": "float32",
    "steps": 5,
    "population": 6,
    "prompts_per_step": 3,
    "train_size": 12,
    "max_new_tokens": 12,
    "sigma": 0.1,
    "eval_every": 2,
    "eval_size": 4,
    "save_every": 2,
    "task": "tests.trainers.es.test_train:VARIETY",
    "log_completions_every": 0,
}


def test_a_run_resumes_to_the_same_model_and_its_model_is_the_centre(tmp_path):
    base = random_checkpoint(tmp_path / "base")
    config = {"model": str(base), "algorithm": "snes", "space": "lora", **RUN}
    results = train_es(ESConfig(output_dir=str(tmp_path / "whole"), **config))
    assert results["completions"] == 5 * 6 * 3
    saved = load_file(tmp_path / "whole" / "model" / "model.safetensors")
    start = load_file(base / "model.safetensors")
    changed = {name for name in start if not torch.equal(saved[name], start[name])}
    assert changed == {name for name, weight in start.items() if weight.ndim == 2 and "embed" not in name}
    # A run that was killed after its checkpoint of step 4.
    again = tmp_path / "again"
    train_es(ESConfig(output_dir=str(again), **config))
    (again / "results.json").unlink()
    train_es(ESConfig(output_dir=str(again), **config))
    assert all(torch.equal(load_file(again / "model" / "model.safetensors")[name], saved[name]) for name in saved)
    assert [row["step"] for row in read_jsonl(again / "fitness.jsonl")] == [1, 2, 3, 4, 5]
    assert read_json(again / "results.json")["completions"] == results["completions"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"algorithm": "sness"}, "algorithm is 'sness'.*did you mean snes"),
        ({"algorithm": "snes", "space": "svd"}, "space is 'svd'"),
        ({"algorithm": "xnes", "optimizer": "adam"}, "optimizer is 'adam', but xnes moves its centre by a rule"),
        ({"algorithm": "pgpe"}, "give center_learning_rate"),
        ({"algorithm": "pgpe", "center_learning_rate": 0.1, "population": 5}, "takes members in pairs"),
        ({"algorithm": "cem", "parenthood_ratio": 0.2}, "fewer than 2 elites"),
        ({"algorithm": "snes", "antithetic": True}, "antithetic has no meaning for algorithm snes"),
        ({"algorithm": "snes", "precision": "released"}, "precision has no meaning"),
    ],
)
def test_mistakes_are_found_before_a_model_loads(options, message):
    with pytest.raises(UserError, match=message):
        ESConfig(model="no/model", output_dir="unused", **(RUN | options))


def test_vectors_too_long_for_a_covariance_and_ranks_too_high_are_refused():
    space = Subspace({MATRIX: torch.zeros(2000, 500)}, "lora", 1, seed=0)
    with pytest.raises(UserError, match="xnes keeps the covariance of all 2,500 numbers"):
        check_length("xnes", space)
    check_length("snes", space)
    with pytest.raises(UserError, match=r"space_rank is 7, but .*give at most 6"):
        Subspace(weights(), "random", 7, seed=0)
