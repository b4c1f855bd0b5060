"""The parts of the check, in the order in which they run: the cheapest that say most come first."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.gpu_check.machine import Machine, no_device, no_fsdp, no_second_gpu, no_server, no_vllm, no_zero


@dataclass(frozen=True)
class Part:
    """figures: runs it in a folder of its own. reason: why it cannot run on a machine, "" if it can.

    seconds: after which it is ended.
    """

    name: str
    seconds: float
    reason: Callable[[Machine], str]
    figures: Callable[[Machine, Path], dict[str, Any]]


# Of the models with which a step of evolution strategies is timed; GRPO and the rest take the first.
SHAPES = {"cuda": ("135m", "1b"), "cpu": ("tiny",)}


def all_parts(device: str) -> list[Part]:
    first, *others = SHAPES[device]
    return [
        *of_engine("hf", first, 90),
        _part("replay", 90, no_device, "es", "verified", first),
        *of_engine("vllm", first, 150),
        _part("grpo colocate", 150, no_vllm, "grpo", "colocate", first),
        _part("grpo zero2", 120, no_zero, "grpo", "zero2", first),
        _part("grpo fsdp2", 120, no_fsdp, "grpo", "fsdp2", first),
        *(part for shape in others for engine in ("hf", "vllm") for part in of_engine(engine, shape, 150)),
        _part("grpo ddp", 120, no_second_gpu, "grpo", "ddp", first),
        _part("grpo server", 180, no_server, "grpo", "server", first),
    ]


def of_engine(engine: str, shape: str, seconds: float) -> list[Part]:
    """Plain generation, and the step of evolution strategies that is compared with it."""
    reason = no_vllm if engine == "vllm" else no_device
    return [
        _part(f"plain {engine} {shape}", seconds, reason, "es", f"plain_{engine}", shape),
        _part(f"es {engine} {shape}", seconds, reason, "es", "es_step", shape, engine),
    ]


def _part(
    name: str, seconds: float, reason: Callable[[Machine], str], module: str, function: str, *given: str
) -> Part:
    return Part(name, seconds, reason, partial(_run, module, function, given))


def _run(module: str, function: str, given: tuple[str, ...], machine: Machine, folder: Path) -> dict[str, Any]:
    """The libraries that a part needs are imported where it runs."""
    return getattr(importlib.import_module(f"tests.gpu_check.{module}"), function)(machine, folder, *given)
