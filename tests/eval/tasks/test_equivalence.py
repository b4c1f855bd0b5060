"""eval/tasks/equivalence.py: the limit holds in any thread, and the worker comes back."""

import os
import random
import threading
import time

import psutil
import pytest

from eval.adapters import score_completions
from eval.tasks import PAPER_TASKS
from eval.tasks.equivalence import VERIFIER, Verifier
from eval.tasks.hendrycks_math import level_number


TOWER = "9^{9^{9^9}}"
# Costly in a way that its text does not show.
SLOW = "(x+y+z+w)^{400}"


@pytest.fixture
def verifier():
    verifier = Verifier(seconds=0.3)
    yield verifier
    verifier.close()


@pytest.mark.slow
def test_too_long_a_comparison_ends_and_the_next_one_works(verifier):
    assert verifier.equal("\\frac{1}{2}", "0.5") is True
    for _ in range(3):
        assert verifier._judge("1", SLOW) is None
    assert verifier.equal("\\frac{1}{2}", "0.25") is False


@pytest.mark.slow
def test_off_the_main_thread(verifier):
    equal = {}

    def compare(name, reference, answer):
        equal[name] = verifier.equal(reference, answer)

    cases = {"same": ("2\\sqrt{2}", "\\sqrt{8}"), "other": ("2", "3"), "slow": ("1", SLOW), "again": ("1", "4-3")}
    threads = [threading.Thread(target=compare, args=(name, *case)) for name, case in cases.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert equal == {"same": True, "other": False, "slow": None, "again": True}


@pytest.mark.slow
def test_waiting_is_not_working(verifier):
    """The limit counts the worker's own CPU time: a pause as long as the limit between two answers costs nothing."""
    assert verifier.equal("1", "1.0") is True
    time.sleep(1.2)
    assert verifier.equal("1", "2") is False


@pytest.mark.slow
def test_a_forked_process_starts_its_own_worker(verifier):
    assert verifier.equal("1", "3-2") is True
    child = os.fork()
    if child == 0:
        # Exits at once whatever happens: a forked pytest must not go on.
        try:
            os._exit(0 if verifier.equal("1", "5-4") is True else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert verifier.equal("1", "3-2") is True


@pytest.mark.parametrize("answer", [TOWER, SLOW, "(13!)!", "99999!", "2^{99^{55}}"])
def test_an_answer_that_takes_too_long_is_undecided_and_marked(answer):
    score = PAPER_TASKS["math"].score(f"\\boxed{{{answer}}}", {"answer": "1"})
    assert (score.value, score.parts) == (None, {"unjudged": 1.0})


def test_a_pair_is_judged_once(verifier, monkeypatch):
    assert verifier.equal("1", "2-1") is True
    monkeypatch.setattr(verifier, "_judge", None)
    assert verifier.equal("1", "2-1") is True


@pytest.mark.slow
def test_512_hostile_answers_take_less_than_a_minute():
    draw = random.Random(0).randint
    answers = [f"(x+y+z+w)^{{{draw(100, 400)}}}" for _ in range(128)]
    answers += [f"{draw(2, 99)}^{{{draw(2, 99)}^{{{draw(2, 99)}}}}}" for _ in range(128)]
    answers += [f"{draw(10_000, 99_999)}!" for _ in range(128)]
    answers += [f"\\sum_{{k=1}}^{{{draw(10**6, 10**9)}}} k^{{-2}}" for _ in range(128)]
    completions = [f"\\boxed{{{answer}}}" for answer in answers]
    scores = score_completions(PAPER_TASKS["math"], completions, [{"answer": "x^2"}] * len(completions))
    # Their processor time and not ours: on two idle cores twice a minute of it is a minute.
    clocks = [psutil.Process(worker.pid).cpu_times() for worker in VERIFIER._started if worker.poll() is None]
    assert 0 < sum(clock.user + clock.children_user for clock in clocks) < 2 * 60
    assert all(score.value in (None, 0.0) for score in scores)


EQUAL = [("1024", "2^{10}"), ("2^{2010}", "4^{1005}"), ("\\pm7", "7,-7"), ("101_2", "101_{2}"), ("12500", "12 500")]
NOT_EQUAL = [
    ("\\frac{1}{2004!}", "\\frac{1}{2006!}"),
    ("10^{-21}", "10^{-20}"),
    ("e^{-50}", "0"),
    ("\\sqrt{2}", "1.41421356"),
    ("\\frac13", "0.333"),
    ("(0,10^{-20})", "(0,10^{-21})"),
    ("\\{1,10^{-20}\\}", "\\{1,10^{-21}\\}"),
    ("x+10^{-20}", "x+10^{-21}"),
    ("314_5", "314_6"),
    ("12", "1 2"),
    ("10^{100}", "10^{101}"),
]
PAIRS = [(*pair, 1.0) for pair in EQUAL] + [(*pair, 0.0) for pair in NOT_EQUAL]


@pytest.mark.parametrize(("reference", "answer", "value"), PAIRS)
def test_equal_means_equal(reference, answer, value):
    assert PAPER_TASKS["math"].score(f"\\boxed{{{answer}}}", {"answer": reference}).value == value


def test_levels_as_text():
    assert [level_number(level) for level in (5, "5", "Level 5", "Level ?")] == [5, 5, 5, 0]
