"""The sequential benchmark on a random two-layer model, two tasks and arms of few steps."""

import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from datasets import Dataset
from safetensors.torch import load_file

from eval.completions import read_completions
from eval.errors import UserError
from eval.harness import evaluate_task
from eval.rollout.base import Sampling
from eval.rollout.hf import HFEngine
from eval.storage import read_json, read_jsonl
from eval.tasks.base import Score
from tests.recipe_files import ROOT, load_script
from tests.tiny import random_checkpoint
from trainers.arguments import parse


pytestmark = pytest.mark.slow

sequential = load_script("recipes/sequential.py")


@dataclass(frozen=True)
class Has:
    """Right is an answer with one of these characters: what a random model does now and then, and can learn."""

    name: str
    characters: str
    system_prompt: str = "Write."

    def load(self, split, size, seed):
        return Dataset.from_list(
            [{"prompt": [{"role": "user", "content": f"{self.name} {split} {seed} {i}"}]} for i in range(size)]
        )

    def score(self, completion, row):
        return Score(float(any(character in self.characters for character in completion)), completion)


EARLY, LATE = Has("early", "abcdefghijkl0123456789"), Has("late", "mnopqrstuvwxyzABCDEFGH")
TASKS = ["tests.recipes.test_sequential:EARLY", "tests.recipes.test_sequential:LATE"]
FOLDERS = ["1-tests.recipes.test_sequential-EARLY", "2-tests.recipes.test_sequential-LATE"]
ES = {
    "population": 4,
    "prompts_per_step": 4,
    "train_size": 16,
    "sigma": 0.05,
    "engine_dtype": "float32",
    "alpha": 0.05,
    "temperature": 1.0,
    "eval_every": 0,
    "save_every": 1,
    "log_completions_every": 0,
}
TRL = {
    "save_steps": 1,
    "logging_steps": 1,
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "learning_rate": 0.003,
    "lr_scheduler_type": "constant",
}
GRPO = TRL | {"per_device_train_batch_size": 8, "num_generations": 4}
SFT = TRL | {"samples": 8, "prompts_per_batch": 2, "temperature": 6.0, "num_train_epochs": 1}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The random model and the methods' YAML files; the folder's name stands in the arms."""
    folder = tmp_path_factory.mktemp("files")
    random_checkpoint(folder / "model")
    for name, options in {"es": ES, "grpo": GRPO, "sft": SFT}.items():
        required = {"model": "unset", "task": "countdown", "output_dir": "unset"}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(required | options))
    return folder


def arm_of(files, method, name=None, **options):
    return {"name": name or method, "method": method, "config": f"{files}/{method}.yaml", "options": options}


def options_of(files, folder, **options):
    settings = {
        "model": files / "model",
        "output_dir": folder,
        "tasks": TASKS,
        "seeds": 1,
        "budget": 32,
        "arms": [arm_of(files, "es"), arm_of(files, "grpo")],
        "test_size": 12,
        "max_new_tokens": 6,
        "kl_prompts": 4,
        "batch_size": 12,
        "processes": 1,
    } | options
    words = []
    for key, value in settings.items():
        value = [yaml.safe_dump(value, default_flow_style=True)] if key == "arms" else value
        words += [f"--{key}", *(value if isinstance(value, list) else [str(value)])]
    return words


def run(files, folder, **options):
    before, sys.argv = sys.argv, ["recipes/sequential.py", *options_of(files, folder, **options)]
    try:
        sequential.main()
    finally:
        sys.argv = before
    return read_json(folder / "results.json")


@pytest.fixture(scope="module")
def finished(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "study"
    return folder, run(files, folder)


def without_seconds(results):
    """What two undisturbed runs have in common: all but times, folders and the machine."""
    return {
        arm: {
            seed: chain
            | {"stages": [{key: stage[key] for key in stage if key != "seconds"} for stage in chain["stages"]]}
            for seed, chain in entry["seeds"].items()
        }
        for arm, entry in results["arms"].items()
    }


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def norm(one, other):
    return sum(float((one[name].double() - other[name].double()).square().sum()) for name in one) ** 0.5


def test_results_hold_every_score_and_what_each_training_did(files, finished):
    folder, results = finished
    assert (results["study"], results["tasks"], results["columns"]) == ("sequential", TASKS, TASKS)
    assert (results["match"], results["budget"]) == ("completions", 32)
    assert {arm: entry["method"] for arm, entry in results["arms"].items()} == {"es": "es", "grpo": "grpo"}
    assert results["arms"]["es"]["options"] | ES == results["arms"]["es"]["options"]
    base = load_file(files / "model" / "model.safetensors")
    for arm, entry in results["arms"].items():
        [chain] = entry["seeds"].values()
        assert chain["scores"].keys() == set(TASKS)
        trained = [folder / arm / "seed-0" / name for name in FOLDERS]
        for task, name in zip((EARLY, LATE), TASKS, strict=True):
            for row, path in enumerate([files, *trained]):
                engine = HFEngine.from_pretrained(path / "model")
                alone = evaluate_task(engine, task, "test", 12, 0, Sampling(6), batch_size=5)
                assert chain["scores"][name][row] == [record["value"] for record in alone["records"]]
        before = base
        for stage, path, name in zip(chain["stages"], trained, TASKS, strict=True):
            assert (stage["task"], stage["completions"], stage["ended_by"]) == (name, 32, "steps")
            assert stage["steps"] == {"es": 2, "grpo": 4}[arm]
            spent = read_json(path / "results.json")
            assert (stage["tokens"], stage["seconds"]) == (spent["tokens"], spent["seconds"])
            after = weights(path)
            assert stage["update_norm"] == pytest.approx(norm(after, before))
            assert stage["drift_norm"] == pytest.approx(norm(after, base))
            before = after
            for kl, called in (("kl", "base"), ("kl_step", "the model before")):
                forward, reverse = stage[kl]["forward"], stage[kl]["reverse"]
                assert 0 < forward["low"] <= forward["value"] <= forward["high"]
                assert (forward["direction"], forward["sampled_from"]) == (f"KL({called} || model)", called)
                assert (reverse["direction"], reverse["sampled_from"]) == (f"KL(model || {called})", "model")
                assert forward["sequences"] == 4
        first, second = chain["stages"]
        for direction in ("forward", "reverse"):
            assert first["kl"][direction]["value"] == first["kl_step"][direction]["value"]
            assert second["kl"][direction]["value"] != second["kl_step"][direction]["value"]
    assert results["continual"].keys() >= {"matrix", "metrics", "pairs"}
    assert "countdown" not in (folder / "report" / "index.html").read_text()


def test_what_base_and_last_models_wrote_is_kept(finished):
    folder, results = finished
    for name in TASKS:
        files = {model: row["file"] for model, row in results["written"][name]["files"].items()}
        scores = {model: [row["value"] for row in read_completions(folder / file)] for model, file in files.items()}
        rows = {arm: entry["seeds"]["0"]["scores"][name] for arm, entry in results["arms"].items()}
        assert scores == {"base": rows["es"][0], "es": rows["es"][-1], "grpo": rows["grpo"][-1]}
    page = (folder / "report" / "index.html").read_text()
    assert f"What the models wrote: {TASKS[0]}" in page and page.count('type="application/json"') == 2


def test_each_task_and_each_seed_has_its_own_randomness(finished):
    folder, _ = finished
    seeds = {
        row["seeds"][0] if "seeds" in row else row["seed"]
        for name in FOLDERS
        for row in read_jsonl(folder / "es" / "seed-0" / name / "seeds.jsonl")[:1]
    }
    assert len(seeds) == 2


def test_a_second_start_repeats_nothing_and_further_seeds_and_arms_are_added(files, tmp_path, capsys):
    study = tmp_path / "study"
    arms = [arm_of(files, "es")]
    first = run(files, study, arms=arms)
    times = {path: path.stat().st_mtime_ns for path in (study / "es").rglob("*") if path.is_file()}
    capsys.readouterr()
    more = run(files, study, arms=[*arms, arm_of(files, "es", "slow", alpha=0.001)], seeds=2, batch_size=12)
    assert "4 chains, 1 of them finished" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert more["arms"]["es"]["seeds"]["0"] == first["arms"]["es"]["seeds"]["0"]
    assert [list(entry["seeds"]) for entry in more["arms"].values()] == [["0", "1"]] * 2
    ends = [weights(study / arm / f"seed-{seed}" / FOLDERS[-1]) for arm, seed in (("es", 0), ("es", 1), ("slow", 0))]
    assert norm(ends[0], ends[1]) > 0 and norm(ends[0], ends[2]) > 0
    with pytest.raises(UserError, match=r"the arm slow of .* was another one, with other values of alpha"):
        run(files, study, arms=[*arms, arm_of(files, "es", "slow", alpha=0.002)], seeds=2)
    with pytest.raises(UserError, match="holds a run with other options: test_size was 12, now 13"):
        run(files, study, arms=arms, test_size=13)


def test_a_study_killed_in_the_middle_of_a_training_ends_with_the_same_matrices(files, finished, tmp_path):
    _, undisturbed = finished
    study = tmp_path / "study"
    arms = [arm_of(files, "grpo")]
    command = [sys.executable, "recipes/sequential.py", *options_of(files, study, arms=arms)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    metrics = study / "grpo" / "seed-0" / FOLDERS[1] / "metrics.jsonl"
    while process.poll() is None and not read_jsonl(metrics):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the study should have been killed in its second training"
    assert not (metrics.parent / "results.json").exists()
    ended = run(files, study, arms=arms)
    assert without_seconds(ended)["grpo"] == without_seconds(undisturbed)["grpo"]


def test_chains_side_by_side_give_the_same(files, finished, tmp_path):
    _, undisturbed = finished
    results = run(files, tmp_path / "study", processes=2)
    assert without_seconds(results) == without_seconds(undisturbed)


@pytest.mark.parametrize("match", ["tokens", "seconds"])
def test_the_others_spend_what_the_reference_did(files, tmp_path, match):
    arms = [arm_of(files, "grpo"), arm_of(files, "es"), arm_of(files, "sft")]
    if match == "seconds":
        arms = arms[:2]
    results = run(
        files,
        tmp_path / "study",
        arms=arms,
        match=match,
        reference="es",
        budget=64,
        most_completions=320,
        max_new_tokens=16,
    )
    stages = {arm: entry["seeds"]["0"]["stages"] for arm, entry in results["arms"].items()}
    assert [stage["completions"] for stage in stages["es"]] == [64, 64]
    for arm in set(stages) - {"es"}:
        for stage, reference, name in zip(stages[arm], stages["es"], FOLDERS, strict=True):
            assert stage["ended_by"] == match
            assert stage[match] >= reference[match]
            folder = tmp_path / "study" / arm / "seed-0" / name
            rows = read_jsonl(folder / ("samples.jsonl" if arm == "sft" else "metrics.jsonl"))
            spent = [row[match] for row in rows]
            before = sum(spent[:-1]) if arm == "sft" else [0, *spent][-2]
            assert before < reference[match], "one step less would not have reached it"


def test_a_budget_of_tokens_without_a_reference_ends_every_arm(files, tmp_path):
    results = run(files, tmp_path / "study", match="tokens", budget=100, most_completions=320)
    for entry in results["arms"].values():
        for stage in entry["seeds"]["0"]["stages"]:
            assert stage["ended_by"] == "tokens" and 100 <= stage["tokens"] < 100 + 16 * 6


def test_a_chain_cut_by_most_completions_says_so(files, tmp_path, capsys):
    arms = [arm_of(files, "es")]
    results = run(files, tmp_path / "study", arms=arms, match="tokens", budget=100000, most_completions=40)
    assert [stage["completions"] for stage in results["arms"]["es"]["seeds"]["0"]["stages"]] == [32, 32]
    assert "ended after 32 completions, before its budget of tokens" in capsys.readouterr().out


@pytest.mark.parametrize(("keep", "steps"), [(True, 8), (False, 4)])
def test_the_optimizer_starts_anew_for_each_task_unless_it_is_kept(files, tmp_path, keep, steps):
    run(files, tmp_path / "study", arms=[arm_of(files, "grpo")], keep_optimizer=str(keep).lower())
    state = torch.load(tmp_path / "study" / "grpo" / "seed-0" / FOLDERS[1] / "checkpoint-4" / "optimizer.pt")["state"]
    assert {int(moments["step"]) for moments in state.values()} == {steps}


def test_replay_draws_from_all_earlier_tasks(files, tmp_path):
    arms = [arm_of(files, "es", "replay", replay_share=0.25)]
    run(files, tmp_path / "study", arms=arms)
    kept = [
        yaml.safe_load((tmp_path / "study" / "replay" / "seed-0" / name / "config.yaml").read_text())
        for name in FOLDERS
    ]
    assert [(config["replay"], config["replay_share"]) for config in kept] == [("", 0.0), (TASKS[0], 0.25)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"arms": ["es es FILES/es.yaml sigma=0.1"]},
            r"--arms\[0\] is the text 'es es .*; write it as a mapping, such as {name: es, method: es, config: ",
        ),
        ({"arms": [{"name": "es", "method": "es"}]}, r"--arms\[0\]: config missing"),
        ({"arms": [arm_of("FILES", "grop")]}, r"--arms\[0\]: method is 'grop', not one of .*; did you mean grpo?"),
        ({"arms": [arm_of("FILES/none", "es")]}, "there is no config file .*none/es.yaml"),
        ({"arms": [arm_of("FILES", "es", sigmaa=1)]}, "es.yaml: unknown key 'sigmaa'; did you mean sigma"),
        ({"arms": [arm_of("FILES", "es", steps=3)]}, "steps of arm es is decided for all arms"),
        ({"arms": [arm_of("FILES", "es", "a/b")]}, "'a/b' is the name of a folder"),
        ({"arms": [arm_of("FILES", "es"), arm_of("FILES", "es")]}, "the arms are es, es; give one at least"),
        ({"tasks": [TASKS[0], TASKS[0]]}, "a task stands twice"),
        ({"tasks": ",".join(TASKS)}, f"--tasks has .*; write --tasks {' '.join(TASKS)}"),
        ({"further_tasks": ["contdown"]}, "unknown task 'contdown'"),
        ({"match": "token"}, "match is 'token', not one of .*did you mean tokens"),
        ({"match": "tokens"}, "match: tokens without a reference needs most_completions"),
        ({"match": "tokens", "reference": "sft"}, "reference is 'sft', not one of the arms es, grpo"),
        ({"reference": "es"}, "reference is for match: tokens or seconds"),
        ({"budget": 33}, "the budget of 33 completions is not a whole number of steps of 16"),
        ({"budget": 0}, "budget is 0"),
        ({"seeds": 0}, "seeds is 0"),
        ({"model": "./nowhere"}, "there is no checkpoint folder ./nowhere"),
        ({"only": "es/seed-1"}, "only is 'es/seed-1', not one of the chains es/seed-0, grpo/seed-0"),
        ({"keep_optimizer": "yes please"}, "keep_optimizer"),
    ],
)
def test_mistakes_are_found_before_any_work(files, tmp_path, options, message):
    if "arms" in options:
        options = {"arms": yaml.safe_load(yaml.safe_dump(options["arms"]).replace("FILES", str(files)))}
    with pytest.raises(UserError, match=message) as error:
        run(files, tmp_path / "study", **options)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "study").exists()


def test_a_chain_that_needs_another_s_spending_says_which(files, tmp_path):
    with pytest.raises(UserError, match="needs what .*es/seed-0/1-.* has spent; train that chain first"):
        run(files, tmp_path / "study", match="tokens", reference="es", only="grpo/seed-0")


def test_a_chain_that_fails_is_one_line_with_the_reason(files, tmp_path):
    never = arm_of(files, "sft", temperature=0.0001)
    with pytest.raises(UserError) as error:
        run(files, tmp_path / "study", arms=[never], processes=2, tasks=["countdown"])
    assert "\n" not in str(error.value)
    assert "sft/seed-0 failed: " in str(error.value) and "is right and finished" in str(error.value)


def test_the_tiny_study_is_four_tasks_three_seeds_and_both_methods():
    config, _ = parse(*sequential.CONFIG_TYPES, arguments=["--config", "recipes/tiny/sequential.yaml"])
    assert len(config.columns()) == 4 and config.seeds == 3
    assert {"es", "grpo"} <= {arm.method for arm in config.arms}
    assert Path(config.model).is_dir()
