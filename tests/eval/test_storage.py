"""Files of users and of runs: what cannot be read, or must not be written, is one line that names file and place."""

import json

import pytest

from eval.errors import UserError
from eval.storage import append_jsonl, read_json, read_jsonl, read_text, read_yaml_mapping, write_json


MARK = "\N{ZERO WIDTH NO-BREAK SPACE}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}\n{"a": nan}\n{"a": 2}\n', "line 2, is not JSON"),
        ('{"a": 1}\n{"a": NaN}\n', "line 2, is not JSON .*NaN is not finite"),
        ('{"a": -Infinity}\n', "line 1, is not JSON .*-Infinity is not finite"),
        ('{"a": 1}\n{"a": 2\n{"a": 3}\n', "line 2, is not JSON"),
        ("[1]\n", "line 1, is not a JSON object"),
        ("[" * 100_000 + "\n", "line 1, is not JSON"),
    ],
)
def test_a_broken_line_is_named(tmp_path, text, message):
    path = tmp_path / "evaluations.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=f"evaluations.jsonl, {message}"):
        read_jsonl(path)


def test_half_a_last_line_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 2}\n{"a"')
    assert read_jsonl(path) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("text", ["", "{", '{"a": NaN}', "[" * 100_000])
def test_a_broken_json_file_is_named(tmp_path, text):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(UserError, match="results.json is not JSON"):
        read_json(path)


@pytest.mark.parametrize("text", ["", "- 1", "a: [", "a: \x00", "[" * 5000, "a: &x [*x, *x"])
def test_a_broken_config_is_named(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="config.yaml"):
        read_yaml_mapping(path)


def test_other_encodings_and_missing_files_are_named(tmp_path):
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    for path in (tmp_path / "latin", tmp_path / "none", tmp_path):
        with pytest.raises(UserError, match=str(path)):
            read_text(path)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    path = tmp_path / "file"
    path.write_text(MARK + '{"a": 1}\n', encoding="utf-8")
    assert read_json(path) == {"a": 1}
    assert read_jsonl(path) == [{"a": 1}]
    assert read_yaml_mapping(path) == {"a": 1}


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_not_written(tmp_path, number):
    path = tmp_path / "results.json"
    with pytest.raises(UserError, match=r"kl\.m\.1 is .*not finite.*results.json"):
        write_json(path, {"kl": {"m": [0.0, number]}})
    with pytest.raises(UserError, match="loss is .*not finite"):
        append_jsonl(path, {"loss": number})
    assert not path.exists()


def test_other_programs_may_write_constants(tmp_path):
    path = tmp_path / "results_x.json"
    path.write_text(json.dumps({"a": float("inf")}))
    assert read_json(path, constants=True) == {"a": float("inf")}
