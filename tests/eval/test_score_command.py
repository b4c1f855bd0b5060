"""`python -m eval`: the real commands. Mistakes cost one line, and no file is ever half written."""

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from eval.__main__ import main
from eval.completions import read_completions
from eval.digests import data_digests, file_digest, folder_digest
from eval.errors import UserError
from eval.intervals import wilson_interval
from eval.ownership import MARKER
from eval.rollout.base import Sampling
from eval.rollout.hf import HFEngine
from eval.storage import read_jsonl
from eval.tasks import TASKS
from trainers.tiny_tokenizer import character_tokenizer


ROOT = Path(__file__).parents[2]


def command(*arguments, **options):
    """`python -m eval ...` in a process of its own."""
    arguments = [sys.executable, "-m", "eval", *map(str, arguments)]
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=120, **options)


def run(monkeypatch, *arguments):
    """The same in this process, where it is quicker."""
    monkeypatch.setattr(sys, "argv", ["python -m eval", *map(str, arguments)])
    main()


def score(monkeypatch, folder, content, task="countdown"):
    """The scores of an input file with `content` (text or bytes)."""
    (folder / "rows.jsonl").write_bytes(content if isinstance(content, bytes) else content.encode())
    run(monkeypatch, "score", "--task", task, "--input", folder / "rows.jsonl", "--output", folder / "scores.jsonl")
    return [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]


def row(completion, **columns):
    return json.dumps({"completion": completion, "numbers": [3, 4], "target": 7} | columns) + "\n"


def test_score_as_a_command(tmp_path):
    rows = (
        row("\\boxed{3+4}") + row("\\boxed{3*4}") + row("seven") + row("\\boxed{\ud800}") + row("<answer>4+3</answer>")
    )
    (tmp_path / "rows.jsonl").write_text(rows)
    done = command(
        "score",
        "--task",
        "countdown",
        "--input",
        tmp_path / "rows.jsonl",
        "--output",
        tmp_path / "new" / "scores.jsonl",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"5 rows: 2 right, 0 unscorable; scores in {tmp_path}/new/scores.jsonl\n"
    assert (tmp_path / "new" / "scores.jsonl").read_text() == (
        '{"value": 1.0, "parsed": "3+4"}\n'
        '{"value": 0.0, "parsed": "3*4"}\n'
        '{"value": 0.0, "parsed": null}\n'
        '{"value": 0.0, "parsed": "\\ud800"}\n'
        '{"value": 1.0, "parsed": "4+3"}\n'
    )


def test_a_mistake_as_a_command(tmp_path):
    (tmp_path / "rows.jsonl").write_text(row("\\boxed{3+4}") + "{}\n")
    done = command(
        "score", "--task", "countdown", "--input", tmp_path / "rows.jsonl", "--output", tmp_path / "scores.jsonl"
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {tmp_path}/rows.jsonl, line 2, has no column 'completion'; add it to the line\n"
    assert os.listdir(tmp_path) == ["rows.jsonl"]


@pytest.mark.slow
def test_a_full_disk_leaves_the_old_scores(tmp_path):
    (tmp_path / "rows.jsonl").write_text(row("\\boxed{3+4}") * 1000)
    (tmp_path / "scores.jsonl").write_text("old\n")
    arguments = ("--task", "countdown", "--input", tmp_path / "rows.jsonl", "--output", tmp_path / "scores.jsonl")
    # A file may grow to 10,000 bytes; the scores take 32,000.
    done = command("score", *arguments, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)))
    assert done.returncode == 2
    assert done.stderr.startswith("error: no room left to write")
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "scores.jsonl").read_text() == "old\n"
    assert sorted(os.listdir(tmp_path)) == ["rows.jsonl", "scores.jsonl"]


@pytest.mark.parametrize(
    ("task", "right", "wrong"),
    [
        ("countdown", {"numbers": [3, 4], "target": 7, "completion": "\\boxed{3+4}"}, {"completion": "\\boxed{7}"}),
        ("arithmetic", {"answer": "700", "completion": "\\boxed{700}"}, {"completion": "\\boxed{70}"}),
        ("arithmetic", {"answer": 700, "completion": "\\boxed{700}"}, {"completion": "700"}),
        (
            "four_choice",
            {"answer": "B", "choices": ["1+1", "2+2", "1+2", "1+0"], "completion": "\\boxed{b}"},
            {"completion": "\\boxed{A}"},
        ),
        ("yes_no", {"answer": "no", "completion": "\\boxed{No}"}, {"completion": "\\boxed{yes}"}),
    ],
)
def test_every_task(tmp_path, monkeypatch, task, right, wrong):
    content = "".join(json.dumps(line) + "\n" for line in (right | wrong, right))
    assert [score["value"] for score in score(monkeypatch, tmp_path, content, task)] == [0.0, 1.0]


@pytest.mark.parametrize(
    "content",
    [
        row("\\boxed{3+4}") * 2,
        (row("\\boxed{3+4}") * 2).rstrip("\n"),
        row("\\boxed{3+4}") * 2 + "\r\n\n",
        (row("\\boxed{3+4}") * 2).replace("\n", "\r\n"),
        b"\xef\xbb\xbf" + (row("\\boxed{3+4}") * 2).encode(),
        # Characters that end a line for Python, but not in JSON Lines.
        json.dumps({"completion": "\u2028\x85\\boxed{3+4}", "numbers": [3, 4], "target": 7}, ensure_ascii=False)
        + "\n"
        + row("\\boxed{3+4}"),
    ],
)
def test_byte_order_marks_and_line_ends(tmp_path, monkeypatch, content):
    assert score(monkeypatch, tmp_path, content) == [{"value": 1.0, "parsed": "3+4"}] * 2


NOT_JSON = "is not valid JSON in UTF-8; write one object a line"
NOT_AN_OBJECT = "is not a JSON object; write one object a line, with its columns as keys"
UNUSABLE = (
    "has columns that countdown cannot use: numbers must be a list of integers, and target a number; correct them"
)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", NOT_JSON),
        ("", NOT_JSON),
        ('{"completion": "x",}', NOT_JSON),
        ('{"completion": "x", "numbers": [3, NaN], "target": 7}', NOT_JSON),
        ('{"completion": "x", "numbers": [3, 4], "target": ' + "9" * 5000 + "}", NOT_JSON),
        ("[" * 100_000, NOT_JSON),
        (b'{"completion": "\xff"}', NOT_JSON),
        ("[]", NOT_AN_OBJECT),
        ("3", NOT_AN_OBJECT),
        ("null", NOT_AN_OBJECT),
        ('{"numbers": [3, 4], "target": 7}', "has no column 'completion'; add it to the line"),
        ('{"completion": "x", "target": 7}', "has no column 'numbers'; add it to the line"),
        ('{"completion": "x", "numbers": [3, 4]}', "has no column 'target'; add it to the line"),
        ('{"completion": null}', "has a completion that is not a text; write it as a JSON string"),
        ('{"completion": ["x"]}', "has a completion that is not a text; write it as a JSON string"),
        (row("x", numbers="3 4"), UNUSABLE),
        (row("x", numbers=["3", "x"]), UNUSABLE),
        (row("x", numbers=None), UNUSABLE),
        (row("x", target="seven"), UNUSABLE),
    ],
)
def test_a_broken_line_is_named(tmp_path, monkeypatch, line, message):
    line = line if isinstance(line, bytes) else line.encode()
    with pytest.raises(UserError) as error:
        score(monkeypatch, tmp_path, row("x").encode() + line.rstrip(b"\n") + b"\n" + row("x").encode())
    assert str(error.value) == f"{tmp_path}/rows.jsonl, line 2, {message}"
    assert os.listdir(tmp_path) == ["rows.jsonl"]


def test_a_reference_that_is_no_integer_is_unscorable(tmp_path, monkeypatch, capsys):
    lines = [{"completion": "\\boxed{7}", "answer": "seven"}, {"completion": "\\boxed{7}", "answer": 7}]
    written = score(monkeypatch, tmp_path, "\n".join(json.dumps(line) for line in lines), "arithmetic")
    assert [line["value"] for line in written] == [None, 1.0]
    assert "2 rows: 1 right, 1 unscorable" in capsys.readouterr().out


def test_files_that_cannot_be_read_or_written(tmp_path, monkeypatch):
    (tmp_path / "rows.jsonl").write_text(row("x"))
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "folder").mkdir()

    def error(source, target):
        with pytest.raises(UserError) as raised:
            run(
                monkeypatch,
                "score",
                "--task",
                "countdown",
                "--input",
                tmp_path / source,
                "--output",
                tmp_path / target,
            )
        return str(raised.value).replace(f"{tmp_path}/", "")

    assert error("none.jsonl", "out") == "cannot read --input none.jsonl: No such file or directory; check the path"
    assert error("folder", "out") == "cannot read --input folder: Is a directory; check the path"
    assert error("empty.jsonl", "out") == "--input empty.jsonl is empty; give one JSON object a line"
    assert error("rows.jsonl", "folder") == "--output folder is a folder; give the name of a file"
    assert error("rows.jsonl", "empty.jsonl/out") == (
        "--output needs the folder empty.jsonl, but a file is in its way; choose another"
    )
    assert error("rows.jsonl", "folder/../rows.jsonl") == (
        "--output is the same file as --input and would replace it; choose another --output"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "the following arguments are required: score|evaluate|perplexity|holdouts; "),
        ("scor", "argument score|evaluate|perplexity|holdouts: invalid choice: 'scor'"),
        ("score --task countdown", "the following arguments are required: --input, --output; "),
        ("score --task countdwn --input a --output b", "unknown task 'countdwn'; did you mean 'countdown'? "),
        ("score --task countdown --inpt a --input a --output b", "unrecognized arguments: --inpt a; "),
        ("evaluate --model m --tasks nothing --output o", "unknown task 'nothing'; known tasks: countdown, "),
        ("evaluate --model m --tasks yes_no, --output o", "unknown task ''; known tasks: countdown, "),
        ("evaluate --model m --tasks yes_no,yes_no --output o", "--tasks yes_no,yes_no names a task twice; "),
        ("evaluate --model m --tasks yes_no --output o --size 0", "argument --size: '0' is not a whole number of at "),
        ("evaluate --model m --tasks yes_no --output o --batch_size 1.5", "argument --batch_size: '1.5' is not a "),
        ("evaluate --model m --tasks yes_no --output o --temperature -1", "argument --temperature: '-1' is neither "),
        (
            "evaluate --model m --tasks yes_no --output o --temperature nan",
            "argument --temperature: 'nan' is neither ",
        ),
        (
            "evaluate --model m --tasks yes_no --output o --samples 4",
            "--samples 4 without --temperature would all be ",
        ),
        ("evaluate --model m --tasks yes_no --output o --split dev", "argument --split: invalid choice: 'dev'"),
    ],
)
def test_mistakes_on_the_command_line(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        run(monkeypatch, *arguments.split())
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ("--help", ["score", "evaluate", "perplexity", "holdouts"]),
        ("score --help", ["--task", "--input", "--prompt_column", "--answer_column", "--reward", "--output"]),
        (
            "evaluate --help",
            ["--model", "--tasks", "--data", "--system_prompt", "--prompt_column", "--answer_column", "--reward"]
            + ["--output", "--size", "--seed", "--split", "--temperature"]
            + ["--max_new_tokens", "--batch_size", "--samples", "--dtype", "--cache"],
        ),
        ("holdouts --help", ["--model", "--tasks", "--output"]),
    ],
)
def test_help_explains_every_option(monkeypatch, capsys, arguments, names):
    # Wide enough for an explanation to stand on one line.
    monkeypatch.setenv("COLUMNS", "500")
    with pytest.raises(SystemExit) as finished:
        run(monkeypatch, *arguments.split())
    assert finished.value.code == 0
    pattern = r"^ +(-?-?\w+)(?: \S+(?: \[\S+ \.\.\.\])?)?(?:  +|\n +)(\S.*)$"
    lines = re.findall(pattern, capsys.readouterr().out, flags=re.MULTILINE)
    explanations = dict(lines)
    assert [name for name, _ in lines] == names
    assert all(len(explanations[name].split()) >= 3 for name in names)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A random model of two layers; its answers are noise, but always the same noise."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = character_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_evaluate_as_a_command(tmp_path, model_folder):
    output = tmp_path / "evaluation"
    arguments = ("--model", model_folder, "--output", output, "--tasks", "countdown,yes_no", "--size", 10, "--seed", 3)
    done = command("evaluate", *arguments, "--max_new_tokens", 5, "--batch_size", 4)
    assert done.returncode == 0, done.stderr
    assert "%|" not in done.stderr  # bars are for terminals
    assert done.stdout.splitlines() == [
        "countdown        accuracy 0.000, 95 % interval 0.000 to 0.278, 10 rows scored, 0 unscorable",
        "yes_no           accuracy 0.000, 95 % interval 0.000 to 0.278, 10 rows scored, 0 unscorable",
        f"results in {output}/results.json",
    ]
    assert sorted(os.listdir(output)) == [MARKER, "completions", "countdown.jsonl", "results.json", "yes_no.jsonl"]
    tables = [f"completions/{name}.parquet" for name in ("countdown", "yes_no")]
    results = json.loads((output / "results.json").read_text())
    by_task, digests = results.pop("tasks"), results.pop("digests")
    assert digests["models"] == {"model": folder_digest(model_folder)}
    assert digests["data"] == data_digests([("countdown", 10), ("yes_no", 10)], "test", 3)
    assert digests["files"] == {table: file_digest(output / table) for table in tables}
    for table, name in zip(tables, ("countdown", "yes_no"), strict=True):
        lines = [json.loads(line) for line in (output / f"{name}.jsonl").read_text().splitlines()]
        assert [row["text"] for row in read_completions(output / table)] == [line["completion"] for line in lines]
    assert results == {
        "model": str(model_folder),
        "split": "test",
        "size": 10,
        "seed": 3,
        "temperature": 0.0,
        "max_new_tokens": 5,
    }
    engine = HFEngine.from_pretrained(model_folder)
    for name in ("countdown", "yes_no"):
        # What the model answers when all prompts are in one batch.
        prompts = [row["prompt"] for row in TASKS[name].load("test", 10, 3)]
        [answers] = engine.generate(prompts, Sampling(max_new_tokens=5))
        records = [json.loads(line) for line in (output / f"{name}.jsonl").read_text().splitlines()]
        assert [record["prompt"] for record in records] == prompts
        assert [record["completion"] for record in records] == [answer.text for [answer] in answers]
        assert [record["tokens"] for record in records] == [len(answer.token_ids) for [answer] in answers]
        assert by_task[name] == {
            "correct": 0,
            "total": 10,
            "unscorable": 0,
            "accuracy": 0.0,
            "low": 0.0,
            "high": wilson_interval(0, 10)[1],
            "mean_tokens": sum(len(answer.token_ids) for [answer] in answers) / 10,
            "unfinished": sum(not answer.finished for [answer] in answers),
        }


def test_evaluate_without_weights_keeps_the_old_results(tmp_path, monkeypatch, model_folder):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text((model_folder / "config.json").read_text())
    output = tmp_path / "evaluation"
    output.mkdir()
    (output / "results.json").write_text("old\n")
    with pytest.raises(UserError, match="holds no weights: "):
        run(monkeypatch, "evaluate", "--model", model, "--tasks", "countdown", "--output", output)
    assert (output / "results.json").read_text() == "old\n"
    assert os.listdir(output) == ["results.json"]


def test_an_evaluation_cut_short_leaves_no_results_of_another(tmp_path, monkeypatch, model_folder):
    (tmp_path / "broken_task.py").write_text(
        "from eval.tasks import TASKS\n"
        "class Broken:\n"
        "    name = 'broken'\n"
        "    load = TASKS['yes_no'].load\n"
        "    def score(self, completion, row): raise RuntimeError('a bug')\n"
        "task = Broken()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    output = tmp_path / "evaluation"
    arguments = (
        "evaluate",
        "--model",
        model_folder,
        "--output",
        output,
        "--size",
        2,
        "--max_new_tokens",
        2,
        "--tasks",
    )
    run(monkeypatch, *arguments, "countdown")
    assert sorted(os.listdir(output)) == [MARKER, "completions", "countdown.jsonl", "results.json"]
    with pytest.raises(RuntimeError, match="a bug"):
        run(monkeypatch, *arguments, "countdown,broken_task:task")
    assert sorted(os.listdir(output)) == [MARKER, "completions", "countdown.jsonl"]


def test_evaluate_replaces_no_files_of_others(tmp_path, monkeypatch, model_folder):
    arguments = ("evaluate", "--model", model_folder, "--tasks", "countdown", "--size", 2, "--max_new_tokens", 2)
    (tmp_path / "countdown.jsonl").write_text("mine")
    with pytest.raises(UserError, match=r"did not write and does not replace \(countdown.jsonl\)"):
        run(monkeypatch, *arguments, "--output", tmp_path)
    assert (tmp_path / "countdown.jsonl").read_text() == "mine"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("steps: 3\n")
    with pytest.raises(UserError, match="is the folder of a run"):
        run(monkeypatch, *arguments, "--output", tmp_path / "run")
    assert os.listdir(tmp_path / "run") == ["config.yaml"]


def test_rewards_of_ones_own_read_the_columns_of_the_input(tmp_path, monkeypatch):
    (tmp_path / "reward.py").write_text(
        "def score(prompts, completions, answer, **columns):\n"
        "    return [len(p[0]['content']) + (c[0]['content'] == a) for p, c, a in zip(prompts, completions, answer)]\n"
    )
    rows = [
        {"question": "ab", "answer": "2", "completion": "2"},
        {"question": "abc", "answer": "2", "completion": "3"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    words = ["score", "--reward", "reward.py:score", "--prompt-column", "question", "--input", "rows.jsonl"]
    main([*words, "--output", "scores.jsonl"])
    assert [row["value"] for row in read_jsonl(tmp_path / "scores.jsonl")] == [3.0, 3.0]
    with pytest.raises(UserError, match="either --task, or a --reward"):
        main([*words, "--task", "countdown", "--output", "scores.jsonl"])
