"""What is stored of a measurement, and when it is measured again."""

import hashlib
import json
import shutil

import pytest

from analysis.resume import digest, folder_digests, measure_sections, stage, store
from eval.digests import file_digest, folder_digest
from eval.errors import UserError


class Counter:
    """A measurement that returns how many times it was made."""

    def __init__(self):
        self.times = 0

    def __call__(self) -> dict:
        self.times += 1
        return {"times": self.times}


def test_a_stage_is_computed_once_for_the_same_inputs(tmp_path, capsys):
    counter = Counter()
    first = {"tasks": ["a", "b"], "size": 3}
    assert stage(tmp_path, "kl", first, counter) == stage(tmp_path, "kl", first, counter) == {"times": 1}
    assert capsys.readouterr().out == "stage kl\n"
    path = tmp_path / "kl.json"
    assert json.loads(path.read_text()) == {"inputs": first, "result": {"times": 1}}
    assert stage(tmp_path, "kl", first | {"tasks": ["b", "a"], "seed": 0}, counter) == {"times": 2}
    assert capsys.readouterr().out == f"{path} was computed from other tasks, seed; computing it again\nstage kl\n"
    assert stage(tmp_path, "other", {}, lambda: {1: (2, 3)}) == {"1": [2, 3]}, "as JSON reads it back"


def test_a_stage_of_an_older_version_counts_as_finished(tmp_path):
    (tmp_path / "kl.json").write_text('{"es": {"value": 1.5}}')
    assert stage(tmp_path, "kl", {"size": 3}, Counter()) == {"es": {"value": 1.5}}


def test_a_stage_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        stage(tmp_path, "kl", {}, lambda: 1 / 0)
    assert list(tmp_path.iterdir()) == []


def test_digests_differ_with_the_order_of_names():
    assert digest({"a": 1, "b": 2}) == digest({"a": 1, "b": 2}) != digest({"b": 2, "a": 1})


def test_a_section_is_measured_once_for_the_same_files_and_options(tiny_checkpoint, tmp_path, capsys):
    base, es, grpo = (tiny_checkpoint(name, seed) for seed, name in enumerate(("base", "es", "grpo")))
    output, lines, layers = tmp_path / "out", Counter(), Counter()

    def measure(checkpoints=None, options=None, recompute=False):
        sections = {"lines": (options or {"seed": 0}, lines), "layers": ({}, layers)}
        measure_sections(output, base, checkpoints or {"es": es, "grpo": grpo}, sections, recompute)
        return lines.times, layers.times

    assert measure() == (1, 1)
    results = json.loads((output / "results.json").read_text())
    assert results == {
        "kind": "comparison",
        "schema_version": 1,
        "methods": ["es", "grpo"],
        "inputs": {
            section: {
                "checkpoints": {"base": folder_digest(base), "es": folder_digest(es), "grpo": folder_digest(grpo)},
                "options": options,
                "folders": {"base": str(base), "es": str(es), "grpo": str(grpo)},
            }
            for section, options in (("lines", {"seed": 0}), ("layers", {}))
        },
        "lines": {"times": 1},
        "layers": {"times": 1},
    }
    capsys.readouterr()
    assert measure() == (1, 1)
    assert capsys.readouterr().out == "".join(
        f"{output / 'results.json'} holds {section} of these checkpoints and options already; "
        "--recompute measures it again\n"
        for section in ("lines", "layers")
    )
    # The same files elsewhere are the same checkpoints.
    shutil.copytree(es, tmp_path / "copy")
    assert measure({"es": tmp_path / "copy", "grpo": grpo}) == (1, 1)
    # An option of one section, then its old value again: only the last measurement is kept.
    assert measure(options={"seed": 1}) == (2, 1)
    assert measure() == (3, 1)
    # Other files under the same names, another order, another name.
    assert measure({"es": grpo, "grpo": es}) == (4, 2)
    assert measure({"grpo": es, "es": grpo}) == (5, 3)
    assert measure({"ours": es, "grpo": grpo}) == (6, 4)
    assert measure({"ours": es, "grpo": grpo}) == (6, 4)
    assert measure({"ours": es, "grpo": grpo}, recompute=True) == (7, 5)
    results = json.loads((output / "results.json").read_text())
    assert results["lines"] == {"times": 7} and results["layers"] == {"times": 5}
    assert results["methods"] == ["es", "grpo", "ours"]


def test_a_section_from_elsewhere_is_measured(tiny_checkpoint, tmp_path):
    """Without its inputs nobody knows what a section was measured from."""
    output, counter = tmp_path / "out", Counter()
    output.mkdir()
    (output / "results.json").write_text('{"task": "countdown", "kl": {"times": 0}}')
    base = tiny_checkpoint("base", 0)
    measure_sections(output, base, {"es": base}, {"kl": ({}, counter)}, recompute=False)
    results = json.loads((output / "results.json").read_text())
    assert results["kl"] == {"times": 1} and results["task"] == "countdown"


def test_the_digest_covers_what_the_model_computes_with(tiny_checkpoint):
    folder = tiny_checkpoint("base", 0)
    digest = folder_digest(folder)
    (folder / "results.json").write_text("{}")
    assert folder_digest(folder) == digest
    for name in ("model.safetensors", "config.json", "chat_template.jinja"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content + b" ")
        assert folder_digest(folder) != digest, name
        (folder / name).write_bytes(content)
    assert folder_digest(folder) == digest
    assert file_digest(folder / "config.json") == hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()


def test_nothing_is_measured_of_a_folder_without_weights(tiny_checkpoint, tmp_path):
    base, counter = tiny_checkpoint("base", 0), Counter()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=str(tmp_path / "empty")):
        measure_sections(tmp_path / "out", base, {"es": tmp_path / "empty"}, {"kl": ({}, counter)}, recompute=False)
    assert counter.times == 0 and not (tmp_path / "out").exists()
    assert folder_digests({"base": base}) == {"base": folder_digest(base)}


def test_a_section_is_replaced_and_the_others_stay(tmp_path):
    store(tmp_path, "geometry", {"x": 1}, {"es": tmp_path}, {"options": 1})
    store(tmp_path, "kl", {"y": 2}, {"grpo": tmp_path, "es": tmp_path}, {"options": 2})
    store(tmp_path, "geometry", {"x": 3}, {"es": tmp_path}, {"options": 3})
    assert json.loads((tmp_path / "results.json").read_text()) == {
        "kind": "comparison",
        "schema_version": 1,
        "methods": ["es", "grpo"],
        "inputs": {"geometry": {"options": 3}, "kl": {"options": 2}},
        "geometry": {"x": 3},
        "kl": {"y": 2},
    }


def test_a_damaged_results_file_is_not_overwritten(tmp_path):
    (tmp_path / "results.json").write_text('{"kl": ')
    with pytest.raises(UserError, match="is not JSON"):
        store(tmp_path, "geometry", {}, {}, {})
    assert (tmp_path / "results.json").read_text() == '{"kl": '
