"""trainers/step_line.py and eval/stages.py: what a command says of its progress."""

from eval.stages import Stages
from trainers.step_line import duration, step_line


def test_a_step_says_reward_speed_and_what_is_left():
    line = step_line("grpo", 12, 120, seconds=24.0, done=6144, reward=0.5118)
    assert line == "grpo   12/120  reward 0.512  256 completions/s  2 s/step  3 min 36 s left"


def test_only_what_is_known_is_said():
    assert step_line("es", 0, 30, accuracy=0.26) == "es   0/30  accuracy 26.0 %"
    line = step_line("sft", 2, 4, seconds=8.0, done=24, unit="rows", loss=0.03415, accuracy=1.0)
    assert line == "sft  2/4  loss 0.03415  accuracy 100.0 %  3 rows/s  4 s/step  8 s left"
    assert step_line("es", 1, 2, seconds=0.0, done=8, reward=None) == "es  1/2"


def test_durations():
    texts = [duration(seconds) for seconds in (0.4, 59, 60, 3599, 7800, 90000)]
    assert texts == ["0 s", "59 s", "1 min 00 s", "59 min 59 s", "2 h 10 min", "1 d 1 h"]


def test_stages_are_numbered_and_said_once(capsys):
    for shown in (True, False):
        stages = Stages(["training es", "report"], shown)
        stages.begin("training es", finished=True)
        stages.begin("report")
    assert capsys.readouterr().out == "stage 1 of 2: training es, finished already\nstage 2 of 2: report\n"
