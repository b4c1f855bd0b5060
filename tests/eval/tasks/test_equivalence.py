"""eval/tasks/equivalence.py: the limit holds in any thread, and the worker comes back."""

import os
import threading
import time

import pytest

from eval.tasks import PAPER_TASKS
from eval.tasks.equivalence import Verifier


TOWER = "9^{9^{9^9}}"


@pytest.fixture
def verifier():
    verifier = Verifier(seconds=1.0)
    yield verifier
    verifier.close()


@pytest.mark.slow
def test_too_long_a_comparison_ends_and_the_next_one_works(verifier):
    assert verifier.equal("\\frac{1}{2}", "0.5") is True
    first = verifier._process.pid
    assert verifier.equal("1", TOWER) is None
    assert verifier.equal("\\frac{1}{2}", "0.25") is False
    assert verifier._process.pid != first


@pytest.mark.slow
def test_off_the_main_thread(verifier):
    found = {}

    def compare(name, reference, answer):
        found[name] = verifier.equal(reference, answer)

    cases = {"same": ("2\\sqrt{2}", "\\sqrt{8}"), "other": ("2", "3"), "tower": ("1", TOWER), "again": ("1", "4-3")}
    threads = [threading.Thread(target=compare, args=(name, *case)) for name, case in cases.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {"same": True, "other": False, "tower": None, "again": True}


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


@pytest.mark.slow
def test_an_answer_that_takes_too_long_is_wrong_and_marked():
    score = PAPER_TASKS["math"].score(f"\\boxed{{{TOWER}}}", {"answer": "1"})
    assert (score.value, score.parts) == (0.0, {"unjudged": 1.0})
