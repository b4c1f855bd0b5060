"""Digests depend on what was measured, and on nothing else."""

import hashlib
import json

import datasets

from eval.digests import data_digests, model_digest, rows_digest, run_digests
from eval.tasks import get_task
from tests.tiny import random_checkpoint


def test_rows_are_the_same_whatever_holds_them():
    rows = get_task("countdown").load("test", 5, 0)
    listed = rows.to_list()
    assert rows_digest(rows) == rows_digest(listed) == rows_digest([dict(reversed(row.items())) for row in listed])
    assert rows_digest(datasets.Dataset.from_list(listed)) == rows_digest(listed)
    assert data_digests([("countdown", 5)], "test", 0) == {"countdown, 5 rows of test": rows_digest(listed)}


def test_every_column_and_the_order_of_rows_count():
    rows = [{"prompt": "1", "answer": "one"}, {"prompt": "2", "answer": "two"}]
    others = [rows[::-1], rows[:1], [rows[0], rows[1] | {"answer": "2"}], [rows[0], rows[1] | {"prompt": "3"}]]
    assert len({rows_digest(one) for one in [rows, *others]}) == 5
    lines = "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows)
    assert rows_digest(rows) == hashlib.sha256(lines.encode()).hexdigest()


def test_digests_of_a_run(tmp_path):
    model = random_checkpoint(tmp_path / "model")
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    digests = run_digests(tmp_path, {"model": model, "start": "nobody/nothing"}, {"rows": "abc"})
    assert digests["config"] == hashlib.sha256(b"seed: 0\n").hexdigest()
    assert digests["models"] == {"model": model_digest(model), "start": "nobody/nothing"}
    assert digests["data"] == {"rows": "abc"} and list(digests["files"]) == ["metrics.jsonl"]
    before = model_digest(model)
    (model / "config.json").write_text((model / "config.json").read_text() + "\n")
    assert model_digest(model) != before
