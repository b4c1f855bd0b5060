"""The table of what a model wrote: every text comes back, in columns that TRL's tools read."""

import pyarrow.parquet as pq
import pytest

from eval.completions import accuracy_of, completions_file, file_name, in_utf8, read_completions, write_completions
from eval.errors import UserError


TEXTS = ["plain", "", "\x00\x1b[31m", "\u202eevil\u202c", "a" + "\u0301" * 500, "</script><!--", "x" * 1_000_000]


def record(index, text, **changed):
    fields = {"index": index, "prompt": [], "completion": text, "value": 1.0, "parsed": "7", "parts": {"steps": 2.0}}
    return fields | {"tokens": 3, "finished": True} | changed


def row(number, **columns):
    return {"prompt": [{"role": "user", "content": f"problem {number}"}], "answer": number, **columns}


def test_every_text_comes_back(tmp_path):
    rows = [row(number) for number in range(len(TEXTS))]
    write_completions(tmp_path / "t.parquet", "sums", [record(i, text) for i, text in enumerate(TEXTS)], rows)
    found = read_completions(tmp_path / "t.parquet")
    assert [one["text"] for one in found] == TEXTS
    assert found[1] == {
        "index": 1,
        "sample": 0,
        "prompt": [{"role": "user", "content": "problem 1"}],
        "text": "",
        "value": 1.0,
        "parsed": "7",
        "tokens": 3,
        "finished": True,
        "parts": {"steps": 2.0},
        "reference": {"answer": 1},
    }


def test_what_is_unknown_is_null(tmp_path):
    unknown = record(0, "?", value=None, parsed=None, parts={}, finished=False)
    write_completions(tmp_path / "t.parquet", "sums", [unknown], [row(0)])
    [found] = read_completions(tmp_path / "t.parquet")
    assert (found["value"], found["parsed"], found["finished"], found["parts"]) == (None, None, False, {})


def test_a_graded_score_keeps_what_accuracy_counts(tmp_path):
    graded = [record(0, "It is 7", value=0.4, exact=0.0), record(1, "?", value=None), record(2, "7", exact=1.0)]
    write_completions(tmp_path / "t.parquet", "exact", graded, [row(0), row(1), row(2)])
    found = read_completions(tmp_path / "t.parquet")
    assert [one["value"] for one in found] == [0.4, None, 1.0]
    assert [accuracy_of(one) for one in found] == [0.0, None, 1.0]
    # A part of a reward of one's own may have that name, and is no such declaration.
    write_completions(tmp_path / "own.parquet", "own", [record(0, "7", value=0.4, parts={"exact": 1.0})], [row(0)])
    [own] = read_completions(tmp_path / "own.parquet")
    assert accuracy_of(own) == 0.4 and "exact" not in own


def test_the_columns_are_those_of_trl(tmp_path):
    """`prompt` and `completion` are conversations, and a reward has a column of its name."""
    write_completions(tmp_path / "t.parquet", "sums", [record(0, "7")], [row(0)])
    [found] = pq.read_table(tmp_path / "t.parquet").to_pylist()
    assert list(found)[:3] == ["prompt", "completion", "sums"]
    assert found["completion"] == [{"role": "assistant", "content": "7"}] and found["sums"] == 1.0


def test_a_task_may_be_called_like_a_column(tmp_path):
    write_completions(tmp_path / "t.parquet", "prompt", [record(0, "7", value=0.5)], [row(0)])
    assert read_completions(tmp_path / "t.parquet")[0]["value"] == 0.5


def test_lone_surrogates_are_kept_as_their_escapes(tmp_path):
    """In a completion, in the prompt, in an answer, in a column and in the name of the task."""
    lone = "a\ud800b"
    rows = [{"prompt": [{"role": "user", "content": lone}], "answer": lone}]
    write_completions(tmp_path / "t.parquet", "task \udfff", [record(0, lone, parsed=lone)], rows)
    [found] = read_completions(tmp_path / "t.parquet")
    assert found["text"] == found["parsed"] == found["prompt"][0]["content"] == "a\\ud800b"
    assert found["reference"] == {"answer": lone}
    assert in_utf8("\U0001f600 é") == "\U0001f600 é"


def test_the_same_records_are_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_completions(tmp_path / name, "sums", [record(0, "7"), record(1, "8")], [row(0), row(1)])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_two_names_never_share_a_file():
    names = ["a-b", "a/b", "a b", "..", ".", "../a", "a\ud800"]
    files = [file_name(name) for name in names]
    assert files[0] == "a-b" and len(set(files)) == len(names)
    assert not any("/" in file or file.startswith(".") for file in files)
    assert completions_file("es", "countdown") == "es/countdown.parquet"


@pytest.mark.parametrize("content", [b"", b"PAR1 and then nothing"])
def test_a_damaged_file_is_one_line(tmp_path, content):
    (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(UserError, match=r"t.parquet holds no completions of an evaluation \(ArrowInvalid\)"):
        read_completions(tmp_path / "t.parquet")


def test_another_table_is_one_line(tmp_path):
    import pyarrow as pa

    pq.write_table(pa.table({"index": [0], "text": ["a"]}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match="holds no completions"):
        read_completions(tmp_path / "t.parquet")
