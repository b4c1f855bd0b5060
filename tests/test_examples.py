"""The examples of CONTRIBUTING.md do what they say."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from analysis.report import html
from analysis.report.compose import compose
from analysis.report.section import Chapter
from eval.errors import UserError
from eval.storage import read_json
from tests.recipe_files import ROOT


def example(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_every_example_stands_in_its_readme_and_in_contributing():
    names = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
    assert names, "no examples"
    for page in ("examples/README.md", "CONTRIBUTING.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        assert [name for name in names if name not in text] == [], page


def test_task_letter_count():
    task = example("letter_count").TASK
    rows = {split: task.load(split, 40, 0).to_list() for split in ("train", "test")}
    assert not {r["word"] + r["letter"] for r in rows["train"]} & {r["word"] + r["letter"] for r in rows["test"]}
    for row in rows["train"]:
        assert row["word"].count(row["letter"]) == int(row["answer"])
        assert task.score(f"I count.\n{row['answer']}.", row).value == 1.0
        assert task.score("many", row).value == 0.0
    assert task.score("", rows["train"][0]).parsed is None
    with pytest.raises(UserError, match="unknown split"):
        task.load("training", 4, 0)


def test_rule_alternating_bits():
    rule = example("alternating_bits").AlternatingBits(length=12, group=4)
    every = np.array([[int(bit) for bit in f"{number:012b}"] for number in range(2**12)], dtype=np.int8)
    valid = every[rule.valid(every)]
    assert len(valid) == rule.count == 8
    assert {tuple(string) for string in valid} == {tuple(string) for string in rule.valid_strings}
    assert (valid.mean(axis=0) == 0.5).all(), "a single bit is uniform, as `complexity` says"
    with pytest.raises(UserError, match="multiple of the group"):
        example("alternating_bits").AlternatingBits(length=10, group=4)


def test_section_length_by_layer():
    section = example("length_by_layer").SECTION
    kinds = {"0": {"q_proj": {"norm": 3.0}, "k_proj": {"norm": 4.0}}, "1": {"q_proj": {"norm": 12.0}}}
    entry = {"norm": 13.0, "per_layer_kind": kinds}
    chapter = Chapter(
        sections=lambda results: [section],
        title=lambda results: "A page",
        headline=lambda results: "",
        context=lambda results: "",
        tiles=lambda results: [],
        thumbnails=["length-by-layer"],
    )
    document = compose(chapter, {"methods": ["es"], "geometry": {"checkpoints": {"es": entry}}})
    assert example("length_by_layer").layer_lengths({"geometry": {"checkpoints": {"es": entry}}}, "es") == {
        "0": 5.0,
        "1": 12.0,
    }
    assert document.parts[0].sentence == "ES moved layer 1 furthest."
    page = html.render(document)
    assert "How the length is spread over the layers" in page and "<svg" in page and "Length of a layer" in page
    lacking = compose(chapter, {"methods": ["es"]})
    assert lacking.parts[0].drawing is None and ("geometry",) in lacking.missing


@pytest.mark.slow
def test_method_random_guesses(tmp_path):
    command = [sys.executable, "examples/random_guesses.py", "--model", "recipes/tiny/models/llama-small"]
    command += ["--output_dir", str(tmp_path / "run"), "--guesses", "3", "--problems", "8"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = read_json(tmp_path / "run" / "results.json")
    assert results["kind"] == "training" and results["completions"] == 4 * 8
    assert results["reward"] >= results["base_reward"]
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()
