"""The table over a folder of runs."""

import csv
import io
import json

import pytest

from analysis.report.runs_table import as_csv, as_markdown, runs_table
from eval.errors import UserError


def compared(base: float, es: float, seed: int) -> dict:
    """What the comparison of one run leaves, cut down to what the table reads."""

    def accuracy(value):
        return {"accuracy": value, "low": value - 0.05, "high": value + 0.05}

    def divergence(value):
        return {"per_token": value, "per_token_low": value / 2, "per_token_high": value * 2}

    return {
        "task": "countdown",
        "config": {"seed": seed},
        "evaluation": {
            "base": {"countdown": accuracy(base)},
            "es": {"countdown": accuracy(es), "yes_no": accuracy(0.5)},
        },
        "geometry": {
            "checkpoints": {
                "es": {"norm": 7.25, "relative_norm": 0.125},
                "grpo": {"norm": 0.5, "relative_norm": 0.01},
            },
            "cosine": {"es|grpo": {"total": 0.001}},
        },
        "kl": {
            "es": {
                "countdown": {"forward": divergence(0.2), "reverse": divergence(0.4)},
                "yes_no": {"forward": divergence(1.0), "reverse": divergence(3.0)},
                "arithmetic": {"forward": divergence(2.0), "reverse": divergence(5.0)},
            }
        },
        "connectivity": {"lines": {"es|grpo": {"reward_barrier": 0.03, "loss_barrier": None}}},
    }


def test_the_table_of_many_runs(tmp_path):
    runs = tmp_path / "runs"
    for name in ("a/seed-1", "a/seed-0", "broken", "killed", "pretrain", "drift", "notes"):
        (runs / name).mkdir(parents=True)
    (runs / "a/seed-0/results.json").write_text(json.dumps(compared(0.25, 0.5, seed=0)))
    (runs / "a/seed-1/results.json").write_text(json.dumps(compared(0.25, 0.75, seed=1)))
    (runs / "broken/results.json").write_text('{"kl": ')
    (runs / "killed/config.yaml").write_text("seed: 3\n")
    (runs / "pretrain/results.json").write_text('{"parameters": 12, "validation": {"loss": 1.0}}')
    (runs / "drift/results.json").write_text(json.dumps({"kl": compared(0.25, 0.5, 0)["kl"]}))
    columns, table_rows = runs_table(runs)

    rows = {row["run"]: row for row in csv.DictReader(io.StringIO(as_csv(columns, table_rows)))}
    assert list(rows) == ["a/seed-0", "a/seed-1", "broken", "drift", "killed", "pretrain"]
    assert {name: row["status"] for name, row in rows.items()} == {
        "a/seed-0": "finished: evaluation, geometry, connectivity, kl",
        "a/seed-1": "finished: evaluation, geometry, connectivity, kl",
        "broken": "unreadable: results.json is not JSON",
        "drift": "finished: kl; its KL is left out, as the trained task is not stated",
        "killed": "unfinished: no results.json",
        "pretrain": "finished: nothing compared",
    }
    assert rows["a/seed-1"] == {
        "run": "a/seed-1",
        "status": "finished: evaluation, geometry, connectivity, kl",
        "task": "countdown",
        "seed": "1",
        "accuracy base": "0.25",
        "accuracy base low": "0.2",
        "accuracy base high": "0.3",
        "accuracy es": "0.75",
        "accuracy es low": "0.7",
        "accuracy es high": "0.8",
        "norm es": "7.25",
        "norm grpo": "0.5",
        "relative norm es": "0.125",
        "relative norm grpo": "0.01",
        "cosine (es, grpo)": "0.001",
        "KL(base || es) on-task": "0.2",
        "KL(base || es) on-task low": "0.1",
        "KL(base || es) on-task high": "0.4",
        "KL(base || es) off-task": "1.5",
        "KL(es || base) on-task": "0.4",
        "KL(es || base) on-task low": "0.2",
        "KL(es || base) on-task high": "0.8",
        "KL(es || base) off-task": "4.0",
        "reward barrier (es, grpo)": "0.03",
        "loss barrier (es, grpo)": "",
    }
    table, note = as_markdown(columns, table_rows).split("\n\n")
    assert note.startswith("Accuracy: of the finished models, greedy decoding")
    header, rule, *lines = table.splitlines()
    assert len(lines) == 6 and rule.count("---") == 17
    assert header.startswith("| run | status | task | seed | accuracy base | accuracy es | norm es |")
    assert r"| KL(base \|\| es) on-task | KL(base \|\| es) off-task |" in header
    assert "| countdown | 0 | 0.25 (0.2 to 0.3) | 0.5 (0.45 to 0.55) | 7.25 |" in lines[0]
    assert "0.2 (0.1 to 0.4) | 1.5 |" in lines[0] and lines[0].endswith("| 0.03 |  |")


def test_a_table_of_nothing(tmp_path):
    with pytest.raises(UserError, match="there is no run in"):
        runs_table(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        runs_table(tmp_path / "absent")
