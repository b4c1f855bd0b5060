"""The page on one training: what is read from its run folder, and what the page says of it."""

import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.__main__ import main
from analysis.report import build
from analysis.training import add_training_sections, is_part_of_a_study, training_section
from eval.completions import read_completions
from eval.results_file import write_results
from eval.storage import append_jsonl, read_json, write_json, write_text


# What a method calls things in metrics.jsonl.
LENGTHS = {
    "es": {"mean_tokens": 4.0, "max_tokens": 9, "log_prob_gap/mean": 0.02, "log_prob_gap/max": 0.25},
    "grpo": {"completions/mean_length": 4.0, "completions/max_length": 9.0, "loss": 0.5},
    "sft": {"loss": 0.25},
}


def plant(run, method, steps=4, dead=False):
    """The folder of a finished training, with two tables of completions."""
    write_text(run / "config.yaml", "model: base\ntask: yes_no\nseed: 3\n")
    write_json(run / "environment.json", {"command": "posttrain-lab train", "python": "3.11"})
    for step in range(steps + 1):
        share = {"accuracy": step / 8, "low": 0.0, "high": 0.9, "correct": step, "total": 8}
        append_jsonl(run / "evaluations.jsonl", {"step": step, "completions": 6 * step, **share})
        if step:
            row = {
                "step": step,
                "completions": 6 * step,
                "tokens": 24 * step,
                "seconds": 0.5 * step,
                **LENGTHS[method],
            }
            row |= {} if method == "sft" else {"reward": 0.125 * step}
            append_jsonl(
                run / "metrics.jsonl", row | ({"reward": 0.0, "dead_signal": True} if dead and step > 2 else {})
            )
    reached = {"steps": steps, "completions": 6 * steps, "tokens": 24 * steps, "seconds": 0.5 * steps}
    results = {"method": method, "task": "yes_no", "parameters": 1234, **reached, "digests": {"config": "0" * 64}}
    write_results(run / "results.json", "training", results)
    if method != "sft":
        for step in (1, steps):
            plant_table(run / "completions" / f"completions_{step:05d}.parquet", step, method)


def plant_table(file, step, method):
    """In the columns of each trainer; GRPO's has a reward that TRL writes as NaN."""
    texts, rewards = ["yes", "</script>no", "", "maybe"], [1.0, 0.0, None if method == "es" else math.nan, 0.5]
    table = {
        "step": [step] * 4,
        "prompt": [
            [{"role": "system", "content": "Be short."}, {"role": "user", "content": f"Is {n} odd?"}] for n in "1234"
        ],
        "completion": [[{"role": "assistant", "content": f"{text} in step {step}"}] for text in texts],
    }
    parts = {"length": [0.1, 0.2, 0.3, 0.4]}
    more = {**parts, "yes_no": rewards, "member": [0, 0, 1, 1]} if method == "es" else {"yes_no": rewards, **parts}
    file.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({**table, **more, **({} if method == "es" else {"advantage": [0.0] * 4})}), file)


@pytest.mark.parametrize("method", ["es", "grpo"])
def test_a_table_of_a_trainer_is_read_as_completions(tmp_path, method):
    plant_table(tmp_path / "one.parquet", 7, method)
    rows = read_completions(tmp_path / "one.parquet")
    assert [row["value"] for row in rows] == [1.0, 0.0, None, 0.5]
    assert [row["text"] for row in rows] == ["yes in step 7", "</script>no in step 7", " in step 7", "maybe in step 7"]
    assert rows[1]["reference"]["length"] == 0.2 and rows[0]["tokens"] is rows[0]["parsed"] is None


@pytest.mark.slow
@pytest.mark.parametrize("method", ["es", "grpo", "sft"])
def test_the_command_writes_the_numbers_and_the_page(tmp_path, method, capsys):
    run = tmp_path / "run"
    plant(run, method)
    before = read_json(run / "results.json")
    main(["report", "--run", str(run)])
    assert capsys.readouterr().out.strip() == str(run / "report" / "index.html")
    results, written = read_json(run / "results.json"), (run / "results.json").read_bytes()
    assert results.items() >= before.items() and results["training"] == {method: training_section(run)}
    page, text = (run / "report" / "index.html").read_text(), (run / "report" / "report.md").read_text()
    name = {"es": "ES", "grpo": "GRPO", "sft": "SFT"}[method]
    assert f"# {name}: Yes/no from 0 % to 50 %" in text
    assert f"On 8 validation problems of Yes/no {name} goes from 0 % to 50 % in 24 completions." in text
    assert "Trained on Yes/no from base (1,234 parameters)" in text and "Missing" not in text
    assert ("4.0 tokens on average in the first step and 4.0 in the last; the longest of all had 9." in text) == (
        method != "sft"
    )
    gap = "differed by 0.0200 nats on average at first and 0.0200 at last, at most by 0.250. One side is the engine"
    assert (gap in text) == ("## Gap of log-probabilities" in text) == (method == "es")
    assert ("## Loss" in text) == (method != "es") and ("## Lengths" in text) == (method != "sft")
    assert ("All 4 completions of the last table that the training kept are shown, those of step 4." in text) == (
        method != "sft"
    )
    if method != "sft":
        assert "yes in step 4" in text and "in step 1" not in text and "| without a score | 1 | 1 |" in text
        assert "</script>no" not in page
        (run / "completions" / "completions_00004.parquet").unlink()
        assert "The texts are not shown" in build(run).read_text()
    add_training_sections(run)
    assert method != "sft" or (run / "results.json").read_bytes() == written, "nothing is new, nothing is written"


@pytest.mark.slow
def test_a_dead_signal_is_said_and_older_runs_lack_the_longest(tmp_path):
    plant(tmp_path, "es", steps=6, dead=True)
    rows = (tmp_path / "metrics.jsonl").read_text().replace(', "max_tokens": 9', "")
    (tmp_path / "metrics.jsonl").write_text(rows)
    add_training_sections(tmp_path)
    page = build(tmp_path).read_text()
    assert "ES learned nothing from its rewards: from step 1 on they were all equal" in page
    assert "4.0 in the last." in page and "longest of all" not in page


def test_only_a_training_by_itself_is_added_to(tmp_path):
    plant(tmp_path / "study" / "es", "es")
    assert not is_part_of_a_study(tmp_path / "study" / "es", tmp_path)
    write_results(tmp_path / "study" / "results.json", "comparison", {})
    assert is_part_of_a_study(tmp_path / "study" / "es", tmp_path)
    before = (tmp_path / "study" / "results.json").read_bytes()
    add_training_sections(tmp_path / "study")
    add_training_sections(tmp_path)
    assert (tmp_path / "study" / "results.json").read_bytes() == before
    write_results(tmp_path / "rule" / "results.json", "training", {"rule": "parity", "steps": 3})
    add_training_sections(tmp_path / "rule")
    assert "training" not in read_json(tmp_path / "rule" / "results.json")
