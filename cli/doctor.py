"""What this machine has and what works on it: Python, libraries, engines, cores, memory, disk, bfloat16, GPU.

Every engine is really imported, in a process of its own: a native library that was built for another machine may end
the process that imports it.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from importlib import metadata

from eval.hardware import multiplies_bfloat16


# What each engine and optional part is, by the statement that it cannot do without.
ENGINES = {"hf": "import torch; from transformers import AutoModelForCausalLM", "vllm": "from vllm import LLM"}
TRAINERS = {
    "es": "import evotorch",
    "grpo": "from trl import GRPOTrainer",
    "sft": "from trl import SFTTrainer",
    "adapters": "import peft",
}
OPTIONAL = {
    "math": "import math_verify",
    "tasks": "import reasoning_gym",
    "holdouts": "import lm_eval",
    "generative": "from diffusers import DiTTransformer2DModel",
    "trackio": "import trackio",
    "wandb": "import wandb",
    "tensorboard": "from torch.utils.tensorboard import SummaryWriter",
}
# Printed by a child: what torch says of the device.
DEVICES = """
import json, torch
gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
print(json.dumps({
    "gpus": [f"{gpu.name} ({gpu.total_memory / 1e9:.0f} GB)" for gpu in gpus],
    "bf16 on GPU": bool(gpus) and torch.cuda.is_bf16_supported(),
}))
"""
SECONDS = 300


def add_options(parser: argparse.ArgumentParser) -> None:
    """None: it shows all that it knows."""


def run(arguments: argparse.Namespace) -> None:
    show("python", f"{platform.python_version()} ({sys.executable})")
    for name, installed, bounds in libraries():
        show(name, f"{installed or 'missing':12} {bounds}")
    for kind, parts in {"engine": ENGINES, "trainer": TRAINERS, "optional": OPTIONAL}.items():
        for name, statement in parts.items():
            show(f"{kind} {name}", problem(statement) or "works")
    show("cores", str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()))
    show_memory()
    free = shutil.disk_usage(os.getcwd()).free
    show("disk", f"{free / 1e9:.1f} GB free in the current folder")
    show("bf16 on CPU", "in hardware" if multiplies_bfloat16("cpu") else "emulated, slow")
    found, output = child(DEVICES)
    if found is None:
        devices = json.loads(output.strip().split("\n")[-1])
        show("GPU", ", ".join(devices["gpus"]) or "none")
        if devices["gpus"]:
            show("bf16 on GPU", "yes" if devices["bf16 on GPU"] else "no")
    else:
        show("GPU", f"cannot be told: torch {found}")


def show(name: str, words: str) -> None:
    print(f"{name:20} {words}", flush=True)


def show_memory() -> None:
    import psutil

    memory = psutil.virtual_memory()
    show("memory", f"{memory.total / 1e9:.1f} GB, {memory.available / 1e9:.1f} GB of it free")


def libraries() -> list[tuple[str, str | None, str]]:
    """(name, installed version or None, its bounds and whether it is within them) of every library of the package."""
    from packaging.requirements import Requirement

    rows = []
    for requirement in map(Requirement, metadata.requires("posttrain-lab") or []):
        if requirement.marker is not None:  # of an extra
            continue
        try:
            installed = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            rows.append((requirement.name, None, f"needs {requirement.specifier}"))
            continue
        fits = requirement.specifier.contains(installed, prereleases=True)
        rows.append((requirement.name, installed, f"{'within' if fits else 'OUTSIDE'} {requirement.specifier}"))
    return rows


def problem(statement: str) -> str | None:
    """Why an import fails here; None if it does not."""
    return child(statement)[0]


def child(statement: str) -> tuple[str | None, str]:
    """Run Python code in a process of its own; returns what went wrong, None if nothing did, and what it printed."""
    command = [sys.executable, "-P", "-c", statement]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return f"does not work: it takes more than {SECONDS} s to import", ""
    if done.returncode < 0:
        return f"does not work: it ends the process with {signal.Signals(-done.returncode).name}", done.stdout
    if done.returncode > 0:
        said = (done.stderr.strip().split("\n") or [""])[-1]
        missing = said.startswith("ModuleNotFoundError")
        return f"{'not installed' if missing else 'does not work'}: {said[:120]}", done.stdout
    return None, done.stdout
