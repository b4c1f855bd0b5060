"""The generators of reasoning-gym as tasks; without the package (extra `tasks`) there is nothing to generate."""

import pytest

from eval.tasks import get_task
from eval.tasks.hub import DATA_VARIABLE
from eval.tasks.reasoning_gym import SCORERS


pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed: pip install -e '.[tasks]'")


@pytest.mark.parametrize("generator", sorted(SCORERS))
def test_its_own_answers_are_right_and_others_are_not(generator, tmp_path, monkeypatch):
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    task = get_task(f"reasoning_gym/{generator}")
    rows = task.load("train", 3, 0).to_list()
    assert rows == task.load("train", 3, 0).to_list()
    for row in rows:
        assert task.score(f"So it is \\boxed{{{row['answer']}}}.", row).value == 1.0
        assert task.score("\\boxed{-987654}", row).value == 0.0
        assert task.score("", row).value == 0.0
    asked = [{row["prompt"][1]["content"] for row in task.load(split, 2, 0)} for split in ("validation", "test")]
    assert not asked[0] & asked[1]
