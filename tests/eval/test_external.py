"""eval/external.py: the reading of a result file written by hand in the harness's form. The harness is not run."""

import copy
from pathlib import Path

import pytest

from eval.errors import UserError
from eval.external import HOLDOUTS, holdout_command, parse_holdouts, run_holdouts
from eval.storage import read_json


RESULT = read_json(Path(__file__).parent / "fixtures" / "lm_eval_results.json")


def test_a_result_file():
    parsed = parse_holdouts(RESULT, ["mmlu", "ifeval"])
    assert parsed["tasks"] == {
        "mmlu": {
            "acc": {
                "value": 0.25,
                "low": pytest.approx(0.25 - 1.959964 * 0.02),
                "high": pytest.approx(0.25 + 1.959964 * 0.02),
                "rows": 135 + 311,
            }
        },
        "ifeval": {
            "prompt_level_strict_acc": {"value": 0.01, "low": 0.0, "high": pytest.approx(0.02959964), "rows": 100},
            "inst_level_strict_acc": {"value": 0.35, "low": None, "high": None, "rows": 100},
        },
    }
    assert parsed["settings"] == {
        "version": "0.4.13",
        "backend": "hf",
        "model_args": "pretrained=m,dtype=bfloat16",
        "chat_template": True,
        "shots": {"mmlu": [0], "ifeval": [0]},
        "limit": None,
    }


def test_what_is_missing_is_named():
    result = copy.deepcopy(RESULT)
    del result["results"]["mmlu"]["acc,none"]
    with pytest.raises(UserError, match="no 'acc' for mmlu"):
        parse_holdouts(result, ["mmlu"])
    del result["results"]["ifeval"]
    with pytest.raises(UserError, match="no task 'ifeval'; evaluate it"):
        parse_holdouts(result, ["ifeval"])


def test_the_command():
    command = holdout_command("runs/x/model", list(HOLDOUTS), Path("out"))
    assert command[1:5] == ["-m", "lm_eval", "--model", "hf"]
    assert "pretrained=runs/x/model,dtype=bfloat16" in command
    assert command[command.index("--tasks") + 1] == "mmlu,ifeval"
    assert command[command.index("--output_path") + 1] == "out"
    assert "--apply_chat_template" in command


def test_an_unknown_holdout(tmp_path):
    with pytest.raises(UserError, match="unknown hold-out 'mmlu_pro'; choose among mmlu, ifeval"):
        run_holdouts("model", ["mmlu_pro"], tmp_path)
