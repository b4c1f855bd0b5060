"""Training steps per second of the small generative models, beside matrix products and diffusers' transformer.

    python -m tests.benchmarks.rules [--threads 1] [--repeats 5] [--part speed|share|all]

Part "speed" times whole training steps (loss, gradients, AdamW) and sampling, in turn, in one run:

    matmul      one matrix product over and over, of the shape of the network's widest layer, for as many operations as
                the step's matrix products and attention have: what a step would cost without the rest
    diffusers   the same step with diffusers' DiT of equal depth and width, if diffusers is installed

and prints medians over the rounds with their ratios. Part "share" trains recipes/rules/parity-mlp.yaml until the rule
is learned, and prints what part of that time went into sampling and evaluation, and into drawing batches and noise and
the loss around the network.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from eval.generative.checkpoint import GenerativeModel, build_model
from eval.rules import Rule
from tests.recipe_files import ROOT
from trainers.arguments import as_flat_dict, parse
from trainers.rules import RulesConfig, batch, train_rules


SIZES = {
    "mlp 24 bits, width 128, 3 blocks": {
        "model": "mlp",
        "length": 24,
        "group": 3,
        "width": 128,
        "depth": 3,
        "batch_size": 128,
        "mlp_ratio": 1.0,
    },
    "gpt2 16 bits, width 64, 2 blocks": {
        "model": "gpt2",
        "length": 16,
        "group": 4,
        "width": 64,
        "depth": 2,
        "heads": 2,
        "batch_size": 64,
    },
    "dit 6x6, width 64, 2 blocks": {
        "model": "dit",
        "rule": "parity_grid",
        "side": 6,
        "group": 3,
        "width": 64,
        "depth": 2,
        "heads": 4,
        "batch_size": 64,
    },
    "dit 6x6, width 128, 4 blocks": {
        "model": "dit",
        "rule": "parity_grid",
        "side": 6,
        "group": 3,
        "width": 128,
        "depth": 4,
        "heads": 8,
        "batch_size": 64,
    },
}
SAMPLES = 64


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; the medians are printed")
    parser.add_argument("--steps", type=int, default=10, help="training steps per round")
    parser.add_argument("--part", choices=("speed", "share", "all"), default="all", help="what to measure")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.part in ("speed", "all"):
        speed(arguments.repeats, arguments.steps)
    if arguments.part in ("share", "all"):
        share(arguments.threads)


def speed(repeats: int, steps: int) -> None:
    print(f"{torch.get_num_threads()} threads, medians of {repeats} rounds of {steps} steps; times in ms")
    print(
        f"{'':34}{'parameters':>11}{'GFLOP':>8}{'step':>8}{'matmul':>8}{'ratio':>7}{'sample':>8}{'in steps':>9}"
        f"{'diffusers':>11}{'ratio':>7}{'sample':>8}{'ratio':>7}"
    )
    for name, options in SIZES.items():
        config = RulesConfig(output_dir="unused", **options)
        rule, model = made(config)
        flops = flops_of_step(model, rule, config)
        ways = {
            "step": lambda m=model, r=rule, c=config: train_steps(m, r, c, steps) / steps,
            "matmul": lambda c=config, r=rule, f=flops: matmul_seconds(c, r, f),
            "sample": lambda m=model: sample_seconds(m),
        }
        if config.model == "dit" and find_spec("diffusers") is not None:
            same_size = replace(config, model="diffusers_dit")
            _, other = made(same_size)
            ways["other step"] = lambda m=other, r=rule, c=same_size: train_steps(m, r, c, steps) / steps
            ways["other sample"] = lambda m=other: sample_seconds(m)
        found = medians(ways, repeats)
        parameters = sum(weight.numel() for weight in model.parameters())
        line = (
            f"{name:34}{parameters:11,}{flops / 1e9:8.2f}{1e3 * found['step']:8.2f}{1e3 * found['matmul']:8.2f}"
            f"{found['step'] / found['matmul']:7.2f}{1e3 * found['sample']:8.1f}"
            f"{found['sample'] / found['step']:9.1f}"
        )
        if "other step" in found:
            line += (
                f"{1e3 * found['other step']:11.2f}{found['other step'] / found['step']:7.2f}"
                f"{1e3 * found['other sample']:8.1f}{found['other sample'] / found['sample']:7.2f}"
            )
        print(line, flush=True)
    if find_spec("diffusers") is None:
        print("diffusers is not installed (pip install -e '.[generative]'): its columns are empty")


def share(threads: int) -> None:
    """Where the time to tau_rule goes."""
    recipe = str(ROOT / "recipes" / "rules" / "parity-mlp.yaml")
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--config", recipe, "--output_dir", str(Path(folder) / "run"), "--stop", "rule"]
        (config,) = parse(RulesConfig, arguments=[*flags, "--threads", str(threads)])
        results = train_rules(config, progress=False)
    rule, model = made(config)
    steps = results["steps"]
    whole = medians({"step": lambda: train_steps(model, rule, config, 50) / 50}, 3)["step"]
    network = medians({"step": lambda: network_steps(model, config, 50) / 50}, 3)["step"]
    loss = max(0.0, whole - network) * steps
    evaluation = results["evaluation_seconds"]
    total = results["seconds"] + evaluation
    print(
        f"parity-mlp to its rule: {steps} steps, {total:.2f} s; evaluation with sampling {evaluation / total:.1%}, "
        f"batches, noise and loss {loss / total:.1%}, together {(evaluation + loss) / total:.1%}"
    )


def made(config: RulesConfig) -> tuple[Rule, GenerativeModel]:
    torch.manual_seed(0)
    rule = config.make_rule()
    return rule, build_model(as_flat_dict(config), rule)


def optimizer_of(model: GenerativeModel) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)


def train_steps(model: GenerativeModel, rule: Rule, config: RulesConfig, steps: int) -> float:
    """Seconds of `steps` training steps as the trainer makes them."""
    strings = torch.as_tensor(rule.split(config.train_size, 1, 0).train)
    optimizer = optimizer_of(model)
    began = time.perf_counter()
    for step in range(steps):
        rows, noise = batch(model, config, step)
        loss = model(strings[rows], *noise).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - began


def network_steps(model: GenerativeModel, config: RulesConfig, steps: int) -> float:
    """Seconds of the same steps with a fixed input and the plain mean of the network's output as loss."""
    y, time_input = torch.randn(config.batch_size, model.dimension), torch.zeros(config.batch_size)
    optimizer = optimizer_of(model)
    began = time.perf_counter()
    for _ in range(steps):
        loss = model.network(y, time_input).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - began


def flops_of_step(model: GenerativeModel, rule: Rule, config: RulesConfig) -> int:
    """Floating-point operations of a step's matrix products and attention, forward and backward."""
    counter = FlopCounterMode(display=False)
    with counter:
        train_steps(model, rule, config, 1)
    return counter.get_total_flops()


def matmul_seconds(config: RulesConfig, rule: Rule, flops: int) -> float:
    """Seconds of `flops` as products [rows, width] @ [width, inner], as the widest layer has them."""
    rows = config.batch_size * (1 if config.model == "mlp" else rule.positions)
    inner = round(config.mlp_ratio * config.width)
    left, right = torch.randn(rows, config.width), torch.randn(config.width, inner)
    out = torch.empty(rows, inner)
    each = 2 * rows * config.width * inner
    times = max(1, round(flops / each))
    began = time.perf_counter()
    for _ in range(times):
        torch.mm(left, right, out=out)
    return (time.perf_counter() - began) * flops / (each * times)


def sample_seconds(model: GenerativeModel) -> float:
    began = time.perf_counter()
    model.sample(SAMPLES, torch.Generator().manual_seed(0))
    return time.perf_counter() - began


def medians(ways: dict[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """Median seconds that each way reports, over `repeats` rounds after one to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(repeats + 1):
        for name, way in ways.items():
            value = way()
            if round_:
                seconds[name].append(value)
    return {name: statistics.median(values) for name, values in seconds.items()}


if __name__ == "__main__":
    main()
