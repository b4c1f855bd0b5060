"""Every number of the smallest runs is the number of the golden file."""

import pytest

from eval.storage import read_json
from tests.golden import FOLDER, RUNS, by_place, numbers, run


# Across processors and builds of torch, float32 sums differ in the last digits; after two steps of training and a
# softmax the golden files agree to about 1e-6. Counts, shares and verdicts are compared by the same measure: an answer
# that turned over moves them by far more. Numbers near zero are differences of larger ones: ABSOLUTE is for those.
RELATIVE, ABSOLUTE = 1e-4, 1e-6


def differences(expected: dict, measured: dict) -> list[str]:
    """One line for each place that only one of the two has, or whose numbers differ."""
    before, now = dict(by_place(expected)), dict(by_place(measured))
    lines = [f"{place} is gone" for place in before.keys() - now.keys()]
    lines += [f"{place} is new" for place in now.keys() - before.keys()]
    for place in before.keys() & now.keys():
        exact = {type(before[place]), type(now[place])} & {bool, type(None)}
        near = pytest.approx(before[place], rel=RELATIVE, abs=ABSOLUTE) if not exact else before[place]
        if now[place] != near:
            lines.append(f"{place} was {before[place]} and is {now[place]}")
    return sorted(lines)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_no_number_has_moved(name, tmp_path):
    expected = read_json(FOLDER / f"{name}.json")
    assert differences(expected, run(name, tmp_path / name)) == []


@pytest.mark.parametrize("name", RUNS)
def test_golden_files_are_what_is_compared(name):
    """Neither texts nor durations, and enough numbers that their equality says something."""
    expected = read_json(FOLDER / f"{name}.json")
    assert numbers(expected) == expected
    assert len(dict(by_place(expected))) > {"rules": 10}.get(name, 500)


def test_a_moved_number_is_named():
    before = {"a": {"b": [1.0, 2.0]}, "c": True, "d": None}
    assert differences(before, before) == []
    assert differences(before, {"a": {"b": [1.0, 2.001]}, "c": True, "d": 0.0}) == [
        "a/b/1 was 2.0 and is 2.001",
        "d was None and is 0.0",
    ]
    assert differences(before, {"a": {"b": [1.00001]}, "c": True, "d": None, "e": 1}) == ["a/b/1 is gone", "e is new"]
    assert numbers({"x": 1 / 3, "seconds": 2.0, "name": "es", "config": {"seed": 1}, "of": ["es", 1]}) == {
        "x": 0.3333333,
        "of": [1],
    }
