"""Several processes: members to whoever is free, equal weights, and an end for all when one dies."""

import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from safetensors.torch import load_file
from torch.distributed import TCPStore

from eval.errors import UserError, exit_with_one_line
from eval.storage import read_json, read_jsonl
from tests.recipe_files import ROOT
from tests.tiny import random_checkpoint
from trainers.es.assignment import Assignment, portions
from trainers.es.checksum import checksum, require_equal_weights
from trainers.es.config import ESConfig
from trainers.es.train import train_es
from trainers.launch import SHARDED_LAUNCHES, make_accelerator, refuse_sharded_launch
from trainers.watch import watch_processes


OPTIONS = {
    "steps": 30,
    "population": 6,
    "prompts_per_step": 3,
    "train_size": 12,
    "max_new_tokens": 12,
    "engine_dtype": "float32",
    "sigma": 0.02,
    "alpha": 0.02,
    "eval_every": 0,
    "save_every": 4,
    "task": "tests.trainers.es.test_train:VARIETY",
    "log_completions_every": 0,
}


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def processes(count: int, work: Callable[[], None], folder: Path) -> list[BaseProcess]:
    """`work` in the processes of one run, forked from this one because imports take seconds.

    There is no launcher that would stop the others when one dies. What process r writes to stderr is in
    `folder`/stderr_r.
    """
    port = str(free_port())

    def run(rank: int) -> None:
        os.environ |= {
            "WORLD_SIZE": str(count),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        os.chdir(folder)
        errors = os.open(folder / f"stderr_{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(errors, 2)
        sys.stderr = open(2, "w", closefd=False)
        # An accelerator of this process's tests knows of one process.
        AcceleratorState._reset_state(reset_partial_state=True)
        exit_with_one_line(work)

    context = multiprocessing.get_context("fork")
    started = [context.Process(target=run, args=(rank,)) for rank in range(count)]
    for process in started:
        process.start()
    return started


def errors_of(rank: int, folder: Path) -> str:
    return (folder / f"stderr_{rank}").read_text()


@pytest.mark.parametrize("members, ranks", [(30, 3), (7, 2), (2, 8), (1024, 16)])
def test_portions_hold_every_member_once_and_never_grow(members, ranks):
    found = portions(members, ranks)
    assert [member for portion in found for member in portion] == list(range(members))
    sizes = [len(portion) for portion in found]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] == 1
    assert sizes[0] <= -(-members // ranks)


def test_one_process_takes_everything_at_once():
    assert portions(30, 1) == [range(30)]


def work_at_two_speeds() -> None:
    with watch_processes():
        accelerator = make_accelerator()
        assignment = Assignment(accelerator)
        seconds = [0.01, 0.1][accelerator.process_index]
        for step in range(2):
            accelerator.wait_for_everyone()
            began, taken = time.perf_counter(), []
            for portion in assignment.take(step, 40):
                time.sleep(seconds * len(portion))
                taken += list(portion)
            rows = gather_object([[taken, time.perf_counter() - began]])
        if accelerator.is_main_process:
            Path("rows.json").write_text(json.dumps(rows))


@pytest.mark.slow
def test_a_process_of_a_tenth_of_the_speed_gets_what_it_can_do_in_the_time(tmp_path):
    for rank, process in enumerate(processes(2, work_at_two_speeds, tmp_path)):
        process.join(60)
        assert process.exitcode == 0, errors_of(rank, tmp_path)
    (fast, fast_seconds), (slow, slow_seconds) = json.loads((tmp_path / "rows.json").read_text())
    assert sorted(fast + slow) == list(range(40))
    # Even shares would take the slow one 2 s and leave the other idle for 1.8 s of them. Its first portion is a
    # quarter of the members; after it, single members at most.
    assert 1 <= len(slow) <= 12 and fast_seconds < 1.6 and slow_seconds < 1.6


def test_the_checksum_sees_every_bit_and_every_name():
    weights = {"a": torch.randn(5, 7), "b": torch.zeros(3)}
    value = checksum(weights)
    assert value == checksum({name: weight.clone() for name, weight in weights.items()}) < 2**64
    for bit in range(32):
        changed = {name: weight.clone() for name, weight in weights.items()}
        changed["a"].view(torch.int32)[4, 6] ^= -(2**31) if bit == 31 else 1 << bit
        assert checksum(changed) != value
    assert checksum({"a": weights["a"].flip(0), "b": weights["b"]}) != value
    assert checksum({"a": weights["a"], "c": weights["b"]}) != value


def test_the_checksum_does_not_depend_on_the_blocks_but_for_their_places(monkeypatch):
    weights = {"a": torch.randn(1000)}
    monkeypatch.setattr("trainers.es.checksum.BLOCK", 64)
    value = checksum(weights)
    weights["a"][[3, 70]] = weights["a"][[70, 3]]
    assert checksum(weights) != value


def compare_weights_that_differ() -> None:
    accelerator = make_accelerator()
    weights = {"w": torch.ones(10)}
    require_equal_weights(accelerator, weights, 4)
    weights["w"][3] += accelerator.process_index * 1e-7
    require_equal_weights(accelerator, weights, 5)


def test_different_weights_stop_all_processes_with_both_values(tmp_path):
    lines = []
    for rank, process in enumerate(processes(2, compare_weights_that_differ, tmp_path)):
        process.join(60)
        errors = errors_of(rank, tmp_path)
        assert process.exitcode == 2 and "Traceback" not in errors
        lines.append(next(line for line in errors.splitlines() if line.startswith("error: ")))
    other = torch.ones(10)
    other[3] += 1e-7
    assert lines[0] == lines[1]
    assert lines[0].startswith(
        f"error: after step 5 the weights differ between processes: checksum {checksum({'w': torch.ones(10)}):016x} "
        f"on process 0, {checksum({'w': other}):016x} on process 1;"
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return random_checkpoint(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def undisturbed(base, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    train_es(ESConfig(model=str(base), output_dir=str(run), **OPTIONS))
    return run


def same_weights(a: Path, b: Path) -> bool:
    a, b = (load_file(run / "model" / "model.safetensors") for run in (a, b))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def train_until(run: Path, config: ESConfig, count: int, steps: int, folder: Path) -> list[BaseProcess]:
    """The processes of a run that has done `steps` steps and goes on."""
    started = processes(count, lambda: train_es(config), folder)
    while all(process.is_alive() for process in started) and len(read_jsonl(run / "metrics.jsonl")) < steps:
        time.sleep(0.002)
    return started


@pytest.mark.slow
def test_whichever_process_is_killed_the_other_ends_and_a_restart_gives_the_same_weights(undisturbed, base, tmp_path):
    run = tmp_path / "killed"
    config = ESConfig(model=str(base), output_dir=str(run), **OPTIONS)
    for victim, steps in ((1, 6), (0, 20)):
        started = train_until(run, config, 2, steps, tmp_path)
        other = started[1 - victim]
        started[victim].kill()
        killed = time.monotonic()
        other.join(60)
        assert time.monotonic() - killed < 20, "the connection closes at once; only a lost machine takes longer"
        started[victim].join()
        assert started[victim].exitcode == -signal.SIGKILL, "it should have been killed while it trained"
        assert other.exitcode == 1
        line = f"error: process {victim} has stopped, so process {1 - victim} stops too"
        assert line in errors_of(1 - victim, tmp_path)
    for rank, process in enumerate(processes(2, lambda: train_es(config), tmp_path)):
        process.join(100)
        assert process.exitcode == 0, errors_of(rank, tmp_path)
    assert same_weights(run, undisturbed)
    assert [row["reward"] for row in read_jsonl(run / "metrics.jsonl")] == [
        row["reward"] for row in read_jsonl(undisturbed / "metrics.jsonl")
    ]


def never_starts() -> None:
    if os.environ["RANK"] == "0":
        with watch_processes():
            time.sleep(30)


@pytest.mark.slow
def test_a_process_that_dies_before_it_has_met_the_others_ends_them_too(tmp_path, monkeypatch):
    monkeypatch.setattr("trainers.watch.START_LIMIT", 1)
    store = TCPStore("127.0.0.1", free_port(), is_master=True, wait_for_workers=False)
    monkeypatch.setattr(f"{__name__}.free_port", lambda: store.port)
    first, _ = processes(2, never_starts, tmp_path)
    first.join(20)
    assert first.exitcode == 1
    assert "error: process 1 has not started within 1 s of process 0" in errors_of(0, tmp_path)


@contextmanager
def two_machines():
    """(words before a command, address of the first machine, network interface) for each of two machines.

    Two network namespaces joined by a virtual cable where this process may make them; else this machine twice.
    """
    name = f"es{uuid.uuid4().hex[:6]}"
    commands = [
        f"ip netns add {name}a",
        f"ip netns add {name}b",
        f"ip link add {name}0 type veth peer name {name}1",
        f"ip link set {name}0 netns {name}a",
        f"ip link set {name}1 netns {name}b",
        f"ip -n {name}a addr add 10.231.77.1/30 dev {name}0",
        f"ip -n {name}b addr add 10.231.77.2/30 dev {name}1",
        f"ip -n {name}a link set {name}0 up",
        f"ip -n {name}b link set {name}1 up",
        f"ip -n {name}a link set lo up",
        f"ip -n {name}b link set lo up",
    ]
    possible = shutil.which("ip") is not None and os.geteuid() == 0
    try:
        if possible and all(
            subprocess.run(command.split(), capture_output=True, check=False).returncode == 0 for command in commands
        ):
            yield [
                (["ip", "netns", "exec", f"{name}{letter}"], "10.231.77.1", f"{name}{number}")
                for number, letter in enumerate("ab")
            ]
        else:
            yield [([], "127.0.0.1", "lo")] * 2
    finally:
        if possible:
            for letter in "ab":
                subprocess.run(["ip", "netns", "del", f"{name}{letter}"], capture_output=True, check=False)


@pytest.mark.slow
def test_the_two_machine_command_resumes_a_run_on_machines_that_share_no_folder(undisturbed, base, tmp_path):
    folders = [tmp_path / f"machine{rank}" for rank in range(2)]
    for folder in folders:
        folder.mkdir()
    config = ESConfig(model=str(base), output_dir="run", **OPTIONS)
    (interrupted,) = train_until(folders[0] / "run", config, 1, 10, folders[0])
    interrupted.kill()
    flags = [f"--{key}={value}" for key, value in (OPTIONS | {"model": base, "output_dir": "run"}).items()]
    with two_machines() as machines:
        started, port = [], str(free_port())
        for rank, (prefix, address, interface) in enumerate(machines):
            command = [
                *prefix,
                str(Path(sys.executable).with_name("accelerate")),
                "launch",
                "--config_file",
                str(ROOT / "accelerate_configs" / "multi_node.yaml"),
                "--num_processes",
                "2",
                "--machine_rank",
                str(rank),
                "--main_process_ip",
                address,
                "--main_process_port",
                port,
                str(ROOT / "recipes" / "es.py"),
                *flags,
            ]
            environment = os.environ | {"PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": interface}
            started.append(
                subprocess.Popen(
                    command,
                    cwd=folders[rank],
                    env=environment,
                    text=True,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
            )
        for process in started:
            output, errors = process.communicate(timeout=200)
            assert process.returncode == 0, output + errors
    assert not (folders[1] / "run").exists()
    environment = read_json(folders[0] / "run" / "environment.json")
    assert environment["processes"] == 2 and len(environment["earlier_starts"]) == 1
    assert same_weights(folders[0] / "run", undisturbed)


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_MEGATRON_LM"])
def test_sharding_is_refused_before_anything_is_built(monkeypatch, variable):
    monkeypatch.setenv(variable, "true")
    with pytest.raises(UserError, match="evolution strategies cannot run with weights sharded by"):
        refuse_sharded_launch("evolution strategies")
    with pytest.raises(UserError, match="sharded"):
        train_es(ESConfig(model="no/model", output_dir="unused", **OPTIONS))


@pytest.mark.parametrize("name", ["fsdp2", "zero2", "zero3"])
def test_these_variables_are_what_a_sharded_launch_sets(name):
    arguments = ["--config_file", str(ROOT / "accelerate_configs" / f"{name}.yaml"), "script.py"]
    arguments, defaults, _ = _validate_launch_command(launch_command_parser().parse_args(arguments))
    if name == "fsdp2":
        environment = prepare_multi_gpu_env(arguments)
    else:
        arguments.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
        _, environment = prepare_deepspeed_cmd_env(arguments)
    assert any(environment.get(variable) == "true" for variable in SHARDED_LAUNCHES)
