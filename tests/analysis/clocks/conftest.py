import json
import math
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from eval.rules import make_rule


def rising(step: float, middle: float, width: float = 0.12) -> float:
    """From 0 to 1 in log step."""
    return 1 / (1 + math.exp(-(math.log10(step) - math.log10(middle)) / width))


def write_rule_run(
    folder: Path,
    model: str = "mlp",
    group: int = 3,
    train_size: int = 64,
    seed: int = 0,
    rule: float = 300,
    memory: float = 3000,
    last: int = 100000,
    length: int = 24,
    **options,
) -> Path:
    """Write a run folder without a model: evaluations whose clocks are known, real data."""
    config = {
        "output_dir": str(folder),
        "rule": "parity",
        "length": length,
        "side": None,
        "group": group,
        "ones": None,
        "symbols": None,
        "train_size": train_size,
        "data_seed": 0,
        "model": model,
        "width": 128,
        "batch_size": 128,
        "depth": 3,
        "heads": 4,
        "mlp_ratio": 2.0,
        "seed": seed,
        "ema_decay": 0.0,
        "steps": last,
        "stop": "never",
    } | options
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    split = make_rule("parity", length=length, group=group).split(train_size, 64, 0)
    data = {"train": split.train, "control": split.control, "held_out": split.held_out}
    save_file({name: np.ascontiguousarray(part) for name, part in data.items()}, folder / "data.safetensors")
    (folder / "samples").mkdir()
    rows = []
    steps = [round(32 * 10 ** (i / 8)) for i in range(40) if 32 * 10 ** (i / 8) <= last]
    for step in steps:
        # Shares are counts of 512 samples, as those of an evaluation are.
        copies = round(512 * 0.6 * rising(step, 4 * memory)) / 512
        learned = 0.02 + 0.98 * rising(step, rule / 1.8)
        valid = copies + round(512 * (1 - copies) * learned) / 512
        novel = (valid - copies) / (1 - copies)
        rows.append(
            {
                "step": step,
                "seconds": step / 100,
                "evaluation_seconds": 1.0,
                "samples": 512,
                "valid": valid,
                "group_valid": 0.5 + novel / 2,
                "copies": copies,
                "control": 0.0,
                "novel_valid": novel,
                "unique": 1 - copies / 3,
                "gap_ratio_copies": copies,
                "loss_train": 0.5 - copies / 4,
                "loss_held_out": 0.5 + copies / 4,
            }
        )
    (folder / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step in (steps[0], steps[-1]):
        samples = np.concatenate([split.train[:4], split.held_out[:4], 1 - split.train[:8]])
        save_file({"samples": samples.astype(np.int8)}, folder / "samples" / f"step_{step}.safetensors")
    (folder / "results.json").write_text("{}")
    return folder


@pytest.fixture(scope="session")
def write_run():
    return write_rule_run


@pytest.fixture(scope="session")
def sweep(tmp_path_factory, write_run):
    """Two models, three sizes and two rules, with the clocks that the claims speak of, and a censored and a vanished
    window among them."""
    runs = tmp_path_factory.mktemp("sweep") / "runs"
    for model, offset in (("mlp", 1.0), ("gpt2", 2.0)):
        for size in (64, 128, 256):
            for seed in (0, 1):
                write_run(
                    runs / f"{model}-g3-n{size}-s{seed}",
                    model,
                    3,
                    size,
                    seed,
                    rule=300 * offset + 20 * seed,
                    memory=900 * offset * size / 64,
                )
        write_run(runs / f"{model}-g4-n128", model, 4, 128, rule=1800 * offset, memory=1800 * offset)
    write_run(runs / "mlp-g6-n128", "mlp", 6, 128, rule=1e7, memory=1500)
    return runs
