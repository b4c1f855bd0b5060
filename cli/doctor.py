"""What this machine has: Python, libraries against their bounds, engines, cores, memory, GPU."""

import argparse
import importlib
import os
import platform
from importlib import metadata


def add_options(parser: argparse.ArgumentParser) -> None:
    """None: it shows all that it knows."""


def run(arguments: argparse.Namespace) -> None:
    import psutil
    import torch

    print(f"{'python':20} {platform.python_version()}")
    for name, installed, bounds in libraries():
        print(f"{name:20} {installed or 'missing':12} {bounds}")
    for engine, problem in {"hf": engine_problem("transformers"), "vllm": engine_problem("vllm")}.items():
        print(f"{'engine ' + engine:20} {problem or 'works'}")
    print(f"{'cores':20} {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()}")
    memory = psutil.virtual_memory()
    print(f"{'memory':20} {memory.total / 1e9:.1f} GB, {memory.available / 1e9:.1f} GB of it free")
    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    print(f"{'GPU':20} {', '.join(f'{gpu.name} ({gpu.total_memory / 1e9:.0f} GB)' for gpu in gpus) or 'none'}")


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


def engine_problem(module: str) -> str | None:
    """Why an engine cannot start here; None if its library can be imported."""
    try:
        importlib.import_module(module)
    except Exception as error:  # a library built for another machine fails in ways of its own
        return f"does not work: {' '.join(str(error).split())[:100]}"
    return None
