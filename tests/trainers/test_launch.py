import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from accelerate.utils import DistributedType

from eval.errors import UserError
from tests.recipe_files import ROOT
from trainers.launch import is_main_process, make_accelerator, refuse_sharding


SCRIPT = """
import os, sys
from pathlib import Path
from accelerate.utils import gather_object
from dataclasses import dataclass
from eval.storage import write_json
from trainers.launch import is_main_process, make_accelerator
from trainers.run_folder import save_checkpoint, start_run

@dataclass
class Run:
    steps: int = 1

accelerator = make_accelerator()
ranks = gather_object([[accelerator.process_index, os.getpid(), is_main_process(), str(accelerator.device)]])
start_run(Path(sys.argv[1]), Run())
save_checkpoint(Path(sys.argv[1]), 1, lambda folder: write_json(folder / "rank.json", accelerator.process_index))
write_json(Path(sys.argv[1]) / f"seen_by_{accelerator.process_index}.json", ranks)
accelerator.end_training()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("config", "processes"), [("cpu", 1), ("cpu_2proc", 2)])
def test_launched_processes_find_each_other_and_only_the_first_writes(tmp_path, config, processes):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    run = tmp_path / "a run"
    command = [Path(sys.executable).with_name("accelerate"), "launch"]
    command += ["--config_file", f"accelerate_configs/{config}.yaml", "--main_process_port", "0", script, run]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    seen = [json.loads((run / f"seen_by_{rank}.json").read_text()) for rank in range(processes)]
    assert all(ranks == seen[0] for ranks in seen)
    assert [rank for rank, *_ in seen[0]] == list(range(processes))
    assert len({pid for _, pid, *_ in seen[0]}) == processes
    assert [main for *_, main, _ in seen[0]] == [True, False][:processes]
    assert {device.split(":")[0] for *_, device in seen[0]} == {"cpu"}
    assert json.loads((run / "checkpoints/step_1/rank.json").read_text()) == 0
    environment = json.loads((run / "environment.json").read_text())
    assert "earlier_starts" not in environment
    assert environment["processes"] == processes
    assert environment["command"] == (
        f"accelerate launch --config_file accelerate_configs/{config}.yaml --main_process_port 0 {script} '{run}'"
    )


def test_processes_that_do_not_see_each_other_are_refused(monkeypatch):
    make_accelerator()  # fixes the state of this process: alone
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="2 processes were started, but accelerate sees 1"):
        make_accelerator()


def test_is_main_process(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert is_main_process()
    monkeypatch.setenv("RANK", "0")
    assert is_main_process()
    monkeypatch.setenv("RANK", "1")
    assert not is_main_process()


def test_refuse_sharding():
    # Only a machine with several GPUs can make a sharded accelerator; its type is all that is looked at.
    for distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        with pytest.raises(UserError, match=f"ES cannot run with weights sharded by {distributed_type.value}"):
            refuse_sharding(SimpleNamespace(distributed_type=distributed_type), "ES")
    for distributed_type in (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
        refuse_sharding(SimpleNamespace(distributed_type=distributed_type), "ES")
