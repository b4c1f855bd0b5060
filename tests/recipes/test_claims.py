"""The claims sweep: which comparisons it plans, what it refuses, and that it resumes what is unfinished."""

import sys
from pathlib import Path

import pytest
import yaml

from eval.errors import UserError
from eval.storage import read_json
from tests.recipe_files import load_script


pytestmark = pytest.mark.slow

claims = load_script("recipes/claims.py")
MODEL = "recipes/tiny/models/llama-small"
# One comparison of two ES steps and two GRPO steps.
SMALL = {
    "model": MODEL,
    "tasks": ["countdown"],
    "seeds": 1,
    "budgets": ["matched"],
    "precisions": ["fp32"],
    "processes": 1,
    "completions": 64,
    "published_grpo_completions": 32,
    "test_tasks": ["countdown", "yes_no"],
    "test_size": 8,
    "max_new_tokens": 40,
    "kl_prompts": 4,
    "line_points": 3,
    "line_size": 8,
    "probe_size": 4,
    "random_directions": 1,
    "es_config": "recipes/tiny/es.yaml",
    "es_options": {
        "population": 4,
        "prompts_per_step": 8,
        "sigma": 0.01,
        "temperature": 1.0,
        "eval_every": 0,
        "log_completions_every": 0,
    },
    "grpo_config": "recipes/tiny/grpo.yaml",
    "grpo_options": {"per_device_train_batch_size": 32, "num_generations": 4, "eval_every": 0, "save_steps": 2},
}


def run(folder: Path, **options) -> None:
    settings = SMALL | {"output_dir": str(folder)} | options
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(settings))
    before, sys.argv = sys.argv, ["recipes/claims.py", "--config", str(path)]
    try:
        claims.main()
    finally:
        sys.argv = before


def config(**options):
    return claims.ClaimsConfig(**(SMALL | {"output_dir": "unused"} | options))


def test_the_sweep_is_every_combination_seed_by_seed():
    planned = list(
        claims.jobs(
            config(
                tasks=["countdown", "yes_no"],
                seeds=2,
                budgets=["matched", "published"],
                precisions=["fp32", "released"],
            )
        )
    )
    assert len(planned) == len(set(planned)) == 16
    assert [job.seed for job in planned] == [0] * 8 + [1] * 8
    assert planned[3].folder == Path("countdown/published-released/seed-0")
    assert planned[3].conditions == {"task": "countdown", "budget": "published", "precision": "released"}


def test_conditions_add_their_options_to_the_yaml_files_of_the_methods():
    settings = claims.method_settings(
        config(
            budgets=["matched", "published"],
            precisions=["fp32", "released"],
            es_released={"shared_noise": True, "sigma": 0.02},
            grpo_published={"num_generations": 8},
        )
    )
    assert set(settings) == {
        f"{method}-{budget}-{precision}"
        for method in ("es", "grpo")
        for budget in ("matched", "published")
        for precision in ("fp32", "released")
    }
    shipped = yaml.safe_load(Path("recipes/tiny/es.yaml").read_text())
    plain, rounded = settings["es-matched-fp32"], settings["es-matched-released"]
    changed = {"population": 4, "prompts_per_step": 8, "sigma": 0.01, "temperature": 1.0, "eval_every": 0}
    assert plain == shipped | changed | {"log_completions_every": 0}
    assert rounded == plain | {"shared_noise": True, "sigma": 0.02}
    assert settings["grpo-matched-released"] == settings["grpo-matched-fp32"]
    assert settings["grpo-published-fp32"] == settings["grpo-matched-fp32"] | {"num_generations": 8}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budgets": ["machted"]}, "budgets is 'machted', not one of matched, published; did you mean matched?"),
        ({"precisions": []}, "tasks, budgets and precisions each need one entry"),
        ({"tasks": ["contdown"]}, "unknown task 'contdown'"),
        ({"es_options": "population=4"}, "es_options is population=4, but it takes a mapping"),
        ({"es_options": {"populaton": 4}}, "es.yaml: unknown key 'populaton'; did you mean population"),
        ({"line_points": 2}, "line_points is 2"),
    ],
)
def test_mistakes_are_found_before_any_work(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        run(tmp_path / "sweep", **options)
    assert not (tmp_path / "sweep").exists()


def test_a_sweep_ends_with_verdicts_and_does_nothing_twice(tmp_path, capsys):
    sweep = tmp_path / "sweep"
    run(sweep)
    assert "1 comparisons, 0 of them finished" in capsys.readouterr().out
    finished = sweep / "countdown" / "matched-fp32" / "seed-0"
    results = read_json(finished / "results.json")
    assert {"evaluation", "geometry", "kl", "connectivity", "probes", "theory"} <= results.keys()
    assert results["config"]["seed"] == 0 and results["training"]["grpo"]["completions"] == 64
    judged = read_json(sweep / "results.json")["claims"]
    assert judged["comparisons"] == 1 and judged["factors"]["budget"] == ["matched"]
    verdicts = {claim["key"]: claim for claim in judged["claims"]}
    norms = [results["geometry"]["checkpoints"][method]["norm"] for method in ("es", "grpo")]
    assert verdicts["norm"]["conditions"][0]["values"] == [pytest.approx(norms[0] / norms[1])]
    assert verdicts["norm"]["verdict"] == "undecided", "one seed decides nothing"
    assert verdicts["forgetting"]["verdict"] == "not measured"
    assert "claims" in (sweep / "report" / "index.html").read_text()
    assert "countdown/matched-fp32/seed-0/report/index.html" in (sweep / "gallery.html").read_text()

    before = (finished / "results.json").stat().st_mtime_ns
    run(sweep)
    assert "1 comparisons, 1 of them finished" in capsys.readouterr().out
    assert (finished / "results.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="holds a run with other options: test_size was 8, now 9"):
        run(sweep, test_size=9)


def test_a_budget_that_is_no_whole_number_of_steps_is_one_line_before_any_work(tmp_path):
    with pytest.raises(UserError) as error:
        run(tmp_path / "sweep", completions=65)
    assert "\n" not in str(error.value)
    assert "the budget of 65 completions is not a whole number of steps of 32" in str(error.value)
    assert not (tmp_path / "sweep").exists()
