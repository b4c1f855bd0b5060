"""Ctrl-C ends a training in one line, with status 130, and the same command goes on (eval/interrupts.py)."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.recipe_files import ROOT
from tests.tiny import random_checkpoint
from trainers.run_folder import how_to_go_on


OPTIONS = {
    "es": "--steps 9999 --save_every 2 --population 2 --prompts_per_step 2 --max_new_tokens 4 --eval_every 0",
    "grpo": "--max_steps 9999 --save_steps 2 --per_device_train_batch_size 4 --num_generations 2 "
    "--max_completion_length 4 --eval_every 0 --train_size 8",
}


@pytest.mark.slow
@pytest.mark.parametrize("method, launcher", [("es", "cpu_2proc"), ("grpo", "cpu")])
def test_ctrl_c_ends_a_training_in_one_line(tmp_path, method, launcher):
    model, run = random_checkpoint(tmp_path / "base"), tmp_path / "run"
    command = [sys.executable, "-m", "cli", method, "--launcher", launcher, "--config", f"recipes/tiny/{method}.yaml"]
    command += [*OPTIONS[method].split(), "--model", str(model), "--output_dir", str(run)]
    started = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    log, deadline = run / "metrics.jsonl", time.monotonic() + 120
    while not (log.exists() and log.read_text().count("\n") >= 3):
        assert started.poll() is None and time.monotonic() < deadline, started.communicate()[1]
        time.sleep(0.05)
    os.killpg(started.pid, signal.SIGINT)
    out, error = started.communicate(timeout=60)
    assert started.returncode == 130
    said = re.fullmatch(r"interrupted after step (\d+); the same command goes on from step (\d+)\n", error)
    assert said is not None, error
    assert int(said[1]) >= 3 and 2 <= int(said[2]) <= int(said[1])
    assert out.count(f"{method}     3/9999") == 1 and "\r" not in out


def test_what_is_said_before_the_first_step_and_the_first_checkpoint(tmp_path):
    assert how_to_go_on(tmp_path) == "interrupted; the same command goes on where it was"
    (tmp_path / "metrics.jsonl").write_text('{"step": 3}\n')
    assert how_to_go_on(tmp_path).endswith(
        "after step 3; the same command begins again, as there is no checkpoint yet"
    )
