"""Who is right where, how alike two models write, and which problems are shown."""

import pytest

from analysis.behaviour.written import (
    agreement,
    choose,
    compared,
    kind_of_problem,
    take_in_turn,
    written,
    written_section,
)
from analysis.statistics import mcnemar
from eval.completions import write_completions
from eval.digests import file_digest
from eval.errors import UserError
from eval.intervals import wilson_interval


def answers(*rows, prompt="?"):
    """Rows of (text, parsed, value)."""
    return [
        {"index": number, "prompt": prompt, "text": text, "parsed": parsed, "value": value}
        for number, (text, parsed, value) in enumerate(rows)
    ]


FIRST = answers(
    ("a", "1", 1.0), ("b", "2", 0.0), ("c", None, 0.0), ("d", "4", 1.0), ("e", None, None), ("f", "6", 0.5)
)
SECOND = answers(
    ("a", "1", 1.0), ("B", "2", 1.0), ("c", None, 0.0), ("D", "5", 0.0), ("e", None, 0.0), ("f", "6", 1.0)
)


def test_how_alike_two_models_write():
    found = agreement(FIRST, SECOND)
    low, high = wilson_interval(4, 6)
    assert found["identical_text"] == {"share": 4 / 6, "low": low, "high": high, "count": 4, "total": 6}
    assert (found["same_answer"]["count"], found["same_answer"]["total"]) == (3, 4), "no answer is not the same answer"


def test_who_is_right_where():
    """Half right is not right; what one left without a score counts in nothing but `unscored`."""
    test = mcnemar([row["value"] for row in FIRST], [row["value"] for row in SECOND])
    assert (test.only_first, test.only_second) == (1, 2)
    assert agreement(FIRST, SECOND)["flips"] == {
        "both_right": 1,
        "both_wrong": 1,
        "unscored": 1,
        "only_first": 1,
        "only_second": 2,
        "p_value": test.p_value,
    }


def test_a_reward_of_ones_own_may_give_more_than_one():
    found = agreement(answers(("a", None, 1.2), ("b", None, 7.0)), answers(("a", None, 1.0), ("b", None, -2.0)))
    assert (found["flips"]["both_right"], found["flips"]["only_first"], found["flips"]["only_second"]) == (1, 1, 0)


def test_a_task_without_answers_to_find():
    """A reward function gives scores and no parsed answers."""
    found = agreement(answers(("a", None, 1.0)), answers(("b", None, 1.0)))
    assert found["same_answer"] == {"share": None, "low": None, "high": None, "count": 0, "total": 0}


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1.0, 1.0, 1.0], "all"),
        ([1.0, 0.0, 1.0], "some"),
        ([0.0, 1.0, 0.9], "only|grpo"),
        ([0.0, 0.0, 0.5], "none"),
        ([1.0, None, 1.0], "unscored"),
        ([1.2, -3.0, 0.99], "only|es"),
    ],
)
def test_kinds_of_problems(values, kind):
    assert kind_of_problem(values, ["es", "grpo", "sft"]) == kind


def test_which_models_are_compared():
    assert compared(["base", "es", "grpo"]) == ["es", "grpo"]
    assert compared(["base", "es"]) == ["base", "es"]
    assert compared(["es"]) == ["es"] and compared(["a", "b", "c"]) == ["a", "b", "c"]


def test_rare_kinds_are_shown_whole():
    kinds = ["all"] * 700 + ["only|es"] * 10 + ["none"] * 290
    chosen = choose(kinds, 200, 0)
    assert len(chosen) == len(set(chosen)) == 200 and chosen == sorted(chosen)
    assert [sum(kinds[place] == kind for place in chosen) for kind in ("all", "only|es", "none")] == [95, 10, 95]
    assert choose(kinds, 200, 0) == chosen != choose(kinds, 200, 1)
    assert choose(["all"] * 3, 200, 0) == [0, 1, 2] and choose([], 200, 0) == []
    assert take_in_turn([[1, 2, 3], [4]], 3) == [1, 4, 2]


def test_counts_of_two_models_add_up():
    numbers = written({"base": FIRST, "es": FIRST, "grpo": SECOND})
    assert numbers["compared"] == ["es", "grpo"] and numbers["problems"] == 6
    assert numbers["kinds"] == {
        "all": {"problems": 1, "shown": 1},
        "only|es": {"problems": 1, "shown": 1},
        "only|grpo": {"problems": 2, "shown": 2},
        "none": {"problems": 1, "shown": 1},
        "unscored": {"problems": 1, "shown": 1},
    }
    assert numbers["differ"] == {"problems": 2, "shown": 2} and "some" not in numbers
    assert list(numbers["pairs"]) == ["base|es", "base|grpo", "es|grpo"]
    assert numbers["pairs"]["es|grpo"] == agreement(FIRST, SECOND)


def test_three_models_and_one():
    numbers = written({"a": FIRST, "b": SECOND, "c": SECOND})
    assert numbers["kinds"]["some"] == {"problems": 2, "shown": 2} and numbers["some"]["problems"] == 3
    alone = written({"model": FIRST})
    assert list(alone["kinds"]) == ["all", "none", "unscored"] and alone["pairs"] == {} and "differ" not in alone


def test_other_problems_cannot_be_compared():
    with pytest.raises(UserError, match="es answered other problems than base"):
        written({"base": FIRST, "es": answers(("a", "1", 1.0), prompt="!")})
    with pytest.raises(UserError, match="base has several answers"):
        written({"base": [*FIRST, FIRST[0]]})


def test_a_run_without_the_files_has_no_section(tmp_path):
    rows = [{"prompt": [{"role": "user", "content": "?"}]}]
    record = {"index": 0, "completion": "a", "parsed": None, "value": 1.0, "parts": {}, "tokens": 1, "finished": True}
    write_completions(tmp_path / "completions" / "es.parquet", "t", [record], rows)
    file = tmp_path / "completions" / "es.parquet"
    assert written_section(tmp_path, {"t": {"es": file, "grpo": tmp_path / "none"}}) == {}
    files = written_section(tmp_path, {"t": {"es": file}})["t"]["files"]
    assert files == {"es": {"file": "completions/es.parquet", "sha256": file_digest(file)}}
