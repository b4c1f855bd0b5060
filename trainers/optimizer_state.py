"""The state of a torch optimiser as a safetensors file: `<number of the parameter>.<name of the moment>`."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


OPTIMIZER_FILE = "optimizer.safetensors"


def save_optimizer(optimizer: torch.optim.Optimizer, folder: Path) -> None:
    moments = {}
    for index, state in optimizer.state_dict()["state"].items():
        moments |= {f"{index}.{name}": value for name, value in state.items()}
    save_file(moments, folder / OPTIMIZER_FILE)


def load_optimizer(optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Set the moments in place; the options stay the optimiser's own."""
    state = optimizer.state_dict()
    state["state"] = {}
    for key, value in load_file(folder / OPTIMIZER_FILE).items():
        index, name = key.split(".", 1)
        state["state"].setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(state)
