"""Training of small generative models on the strings of a rule: one loop for denoisers and for next-token models.

What a step does is a pure function of the config and the step number: its batch and its noise come from a generator
seeded with both. So a run that was killed goes on from its newest checkpoint and ends with the same bits, and several
processes see the same batches as one.

The run is looked at on a logarithmic grid of steps, because its two clocks (when it obeys the rule, when it copies its
training strings) lie decades apart.
"""

import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from eval.criteria import RULE_LEARNED
from eval.errors import UserError
from eval.generative.checkpoint import (
    MODELS,
    GenerativeModel,
    build_model,
    load_weights,
    save_weights,
    steps_of,
)
from eval.generative.measure import copies_beyond_control, losses_of_strings, measure_samples
from eval.rules import OPTIONS, Rule, Split, make_rule
from eval.storage import (
    append_jsonl,
    read_json,
    read_jsonl,
    require_free_space,
    truncate_jsonl,
    write_json,
)
from eval.tasks.generate import hash64
from trainers.arguments import as_flat_dict, check_at_least, check_between, check_choice, check_positive
from trainers.launch import make_accelerator, refuse_sharding
from trainers.run_folder import checkpoint_folder, last_complete_step, save_checkpoint, start_run


# Share of valid samples at which a rule counts as learned.
STOPS = ("never", "rule", "memory", "clocks")
# What a finished or interrupted run may be continued with. None of these changes what a step does.
MAY_CHANGE = ("steps", "stop", "stop_copies", "save_every")


@dataclass
class RulesConfig:
    """A small generative model on a rule, from nothing."""

    output_dir: str = field(metadata={"help": "run folder"})
    # The rule and its strings
    rule: str = field(default="parity", metadata={"help": "name of a rule, see eval/rules"})
    length: int | None = field(default=None, metadata={"help": "of rules on strings: symbols in a string"})
    side: int | None = field(default=None, metadata={"help": "of rules on grids: rows and columns"})
    group: int | None = field(default=None, metadata={"help": "of parity: bits in a group"})
    ones: int | None = field(default=None, metadata={"help": "of threshold and fixed_weight: how many ones"})
    symbols: int | None = field(default=None, metadata={"help": "of raven: how many numbers"})
    train_size: int = field(default=512, metadata={"help": "training strings; the control set has as many"})
    held_out_size: int = field(default=512, metadata={"help": "held-out valid strings"})
    data_seed: int = field(default=0, metadata={"help": "fixes the three sets"})
    # The model
    model: str = field(default="mlp", metadata={"help": f"one of {', '.join(MODELS)}"})
    width: int = field(default=128, metadata={"help": "width of the residual stream"})
    depth: int = field(default=3, metadata={"help": "blocks"})
    heads: int = field(default=4, metadata={"help": "attention heads (not of mlp)"})
    mlp_ratio: float = field(default=4.0, metadata={"help": "inner width of a block over its width"})
    positions: str = field(default="learned", metadata={"help": "of dit and masked_dit: learned or sincos"})
    positional_scale: float = field(
        default=1.0, metadata={"help": "of dit, masked_dit and gpt2: scale of the position codes at the start"}
    )
    # Denoisers
    sigma_data: float = field(default=1.0, metadata={"help": "standard deviation that the preconditioning assumes"})
    p_mean: float = field(default=-0.3, metadata={"help": "mean of ln sigma in training"})
    p_std: float = field(default=0.8, metadata={"help": "standard deviation of ln sigma in training"})
    sampler_steps: int = field(default=18, metadata={"help": "steps of the sampler (not of next-token models)"})
    sigma_min: float = field(default=0.002, metadata={"help": "smallest noise level of the sampler"})
    sigma_max: float = field(default=80.0, metadata={"help": "largest noise level of the sampler"})
    rho: float = field(default=7.0, metadata={"help": "how strongly the sampler's levels crowd at the small end"})
    churn: float = field(default=0.0, metadata={"help": "0 samples by the ODE; above, noise is added on the way"})
    churn_noise: float = field(default=1.0, metadata={"help": "scale of that noise"})
    # The optimiser
    steps: int = field(default=10000, metadata={"help": "optimiser steps at most"})
    batch_size: int = field(default=128, metadata={"help": "strings per step, drawn with replacement, all processes"})
    learning_rate: float = field(default=1e-3, metadata={"help": "AdamW's learning rate, constant after warm-up"})
    warmup_steps: int = field(default=0, metadata={"help": "linear warm-up of the learning rate"})
    weight_decay: float = field(default=0.0, metadata={"help": "AdamW's weight decay, on every weight"})
    clip_norm: float = field(default=0.0, metadata={"help": "largest norm of a gradient; 0 does not clip"})
    ema_decay: float = field(default=0.0, metadata={"help": "moving average of the weights; 0 keeps none"})
    mixed_precision: str = field(default="no", metadata={"help": "no or bf16; weights stay in float32"})
    seed: int = field(default=0, metadata={"help": "fixes initial weights, batches, noise and samples"})
    # Evaluation
    evaluate_from: int = field(default=32, metadata={"help": "first evaluated step"})
    evaluations_per_decade: int = field(default=8, metadata={"help": "evaluated steps per factor 10"})
    evaluate_samples: int = field(default=512, metadata={"help": "samples per evaluation at most"})
    evaluate_samples_min: int = field(default=64, metadata={"help": "samples per evaluation at least"})
    evaluation_share: float = field(
        default=0.1, metadata={"help": "samples are at most so many that they cost this share of the steps before"}
    )
    # The end
    stop: str = field(
        default="never",
        metadata={
            "help": "ends the run after two evaluations in a row with 90 % of samples valid (rule), with "
            "stop_copies (memory), after both have happened (clocks), or at the last step (never)"
        },
    )
    stop_copies: float = field(
        default=0.1, metadata={"help": "share of copies of training strings, less that of control strings"}
    )
    # The machine
    save_every: int = field(default=2000, metadata={"help": "longest stretch of steps without a checkpoint"})
    log_every: int = field(default=10, metadata={"help": "steps between rows of metrics.jsonl"})
    threads: int = field(default=1, metadata={"help": "CPU threads; part of what makes a run bit-reproducible"})

    def __post_init__(self):
        check_choice("model", self.model, MODELS)
        check_choice("positions", self.positions, ("learned", "sincos"))
        check_choice("mixed_precision", self.mixed_precision, ("no", "bf16"))
        check_choice("stop", self.stop, STOPS)
        for name in (
            "train_size",
            "held_out_size",
            "width",
            "depth",
            "heads",
            "mlp_ratio",
            "positional_scale",
            "sigma_data",
            "p_std",
            "sampler_steps",
            "sigma_min",
            "sigma_max",
            "rho",
            "steps",
            "batch_size",
            "learning_rate",
            "evaluate_from",
            "evaluations_per_decade",
            "evaluate_samples",
            "evaluate_samples_min",
            "save_every",
            "log_every",
            "threads",
        ):
            check_positive(name, getattr(self, name))
        for name in ("churn", "churn_noise", "warmup_steps", "weight_decay", "clip_norm", "evaluation_share"):
            check_at_least(name, getattr(self, name), 0)
        check_between("ema_decay", self.ema_decay, 0.0, 0.999999)
        check_between("stop_copies", self.stop_copies, 0.0, 1.0)
        if self.sigma_max <= self.sigma_min:
            raise UserError(f"sigma_max is {self.sigma_max}, not above sigma_min, {self.sigma_min}; exchange them")
        if self.evaluate_samples < self.evaluate_samples_min:
            raise UserError(
                f"evaluate_samples is {self.evaluate_samples}, less than evaluate_samples_min, "
                f"{self.evaluate_samples_min}; raise the first or lower the second"
            )
        needs_head_width = self.model != "mlp"
        if needs_head_width and self.width % (2 * self.heads):
            raise UserError(
                f"width is {self.width}, no multiple of 2 * heads ({2 * self.heads}); every head needs an even width"
            )
        rule = self.make_rule()
        asked = self.held_out_size + 2 * self.train_size
        if asked > rule.count:
            raise UserError(
                f"train_size is {self.train_size} (with as many control strings and {self.held_out_size} held-out "
                f"ones: {asked}), but {rule.describe()} has only {rule.count} valid strings; lower train_size or "
                "held_out_size, or choose a larger rule"
            )

    def make_rule(self) -> Rule:
        return make_rule(self.rule, **{option: getattr(self, option) for option in OPTIONS})


def train_rules(config: RulesConfig, progress: bool = True) -> dict[str, Any]:
    """Train, or finish training, the model of `config`; returns what is written to `results.json`.

    Files in `output_dir`: config.yaml, environment.json, data.safetensors (the three sets), metrics.jsonl,
    evaluations.jsonl (see `evaluate`), samples/step_N.safetensors, checkpoints/step_N/ (weights at every evaluated
    step; the trainer's state in the newest), results.json, written last. A finished run returns at once; given more
    `steps` or a later `stop`, it goes on.
    """
    torch.set_num_threads(config.threads)
    run = Path(config.output_dir)
    accelerator = make_accelerator(mixed_precision=config.mixed_precision)
    refuse_sharding(accelerator, "training on rules")
    if config.batch_size % accelerator.num_processes:
        raise UserError(
            f"batch_size is {config.batch_size}, which {accelerator.num_processes} processes cannot share evenly; "
            "change batch_size or the number of processes"
        )
    start_run(run, config, may_change=MAY_CHANGE)
    if (run / "results.json").exists():
        results = read_json(run / "results.json")
        if results["steps"] >= config.steps or _stops(run, config):
            return results
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            (run / "results.json").unlink()

    rule = config.make_rule()
    data = rule.split(config.train_size, config.held_out_size, config.data_seed)
    torch.manual_seed(hash64("weights", config.seed))
    model = build_model(as_flat_dict(config), rule)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay)) if config.ema_decay else None
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    prepared, optimizer = accelerator.prepare(model, optimizer)
    if ema is not None:
        ema.to(accelerator.device)
    strings = torch.as_tensor(data.train).to(accelerator.device)

    evaluated = evaluation_steps(config.evaluate_from, config.evaluations_per_decade, config.steps)
    start, clock = 0, {"seconds": 0.0, "evaluation_seconds": 0.0}
    if (step := last_complete_step(run)) is not None:
        clock = _load(checkpoint_folder(run, step), model, ema, optimizer)
        start = step
    if accelerator.is_main_process:
        weights = 4 * sum(parameter.numel() for parameter in model.parameters())
        copies = len(evaluated) * (2 if ema is not None else 1) + 4
        require_free_space(run, weights * copies, "the checkpoints of this run")
        truncate_jsonl(run / "metrics.jsonl", start)
        truncate_jsonl(run / "evaluations.jsonl", start)
        save_arrays(
            {"train": data.train, "control": data.control, "held_out": data.held_out}, run / "data.safetensors"
        )

    began = time.perf_counter() - clock["seconds"]
    bar = tqdm(
        total=config.steps, initial=start, desc=run.name, disable=not (progress and accelerator.is_main_process)
    )
    step = start
    stopped = _agreed(_stops(run, config), accelerator)
    while step < config.steps and not stopped:
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup_steps))
        rows, noise = batch(model, config, step, accelerator.process_index, accelerator.num_processes)
        loss = prepared(strings[rows.to(strings.device)], *(part.to(strings.device) for part in noise)).mean()
        optimizer.zero_grad()
        accelerator.backward(loss)
        if config.clip_norm:
            accelerator.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        if ema is not None:
            ema.update_parameters(model)
        step += 1
        bar.update()

        look = step in evaluated
        save = look or step % config.save_every == 0
        if save or step % config.log_every == 0:
            mean = accelerator.reduce(loss.detach(), "mean").item()
            if not math.isfinite(mean):
                raise UserError(
                    f"the loss of step {step} is {mean}; lower learning_rate, or clip gradients with clip_norm"
                )
            clock["seconds"] = time.perf_counter() - began
            if accelerator.is_main_process:
                row = {"step": step, "loss": mean, "seconds": round(clock["seconds"], 3)}
                append_jsonl(run / "metrics.jsonl", row)
        if save:
            if accelerator.is_main_process:
                if look:
                    look_began = time.perf_counter()
                    count = sample_count(config, model, step, evaluated)
                    looked_at = model if ema is None else ema.module
                    row, samples = evaluate(looked_at, rule, data, count, config.seed, step)
                    clock["evaluation_seconds"] += time.perf_counter() - look_began
                    with_times = {"step": step} | {name: round(value, 3) for name, value in clock.items()} | row
                    append_jsonl(run / "evaluations.jsonl", with_times)
                    (run / "samples").mkdir(exist_ok=True)
                    save_arrays({"samples": samples}, run / "samples" / f"step_{step}.safetensors")
                save_checkpoint(run, step, partial(_save, model, ema, optimizer, clock))
                _tidy(run, step)
            accelerator.wait_for_everyone()
            stopped = _agreed(_stops(run, config), accelerator)
            # Neither evaluations nor checkpoints count as training.
            began = time.perf_counter() - clock["seconds"]
    bar.close()

    results = {
        "rule": rule.describe(),
        "log2_valid_strings": rule.log2_count,
        "complexity": rule.complexity,
        "constraint_size": rule.constraint_size,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps": step,
        "stopped_early": step < config.steps,
        **{name: round(value, 3) for name, value in clock.items()},
    }
    if accelerator.is_main_process:
        results["evaluation"] = read_jsonl(run / "evaluations.jsonl")[-1]
        write_json(run / "results.json", results)
    return _agreed(results, accelerator)


def batch(
    model: GenerativeModel, config: RulesConfig, step: int, process: int = 0, processes: int = 1
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """This process's share of a step: indices of training strings and the model's noise for them.

    Every process draws the whole batch, so that the shares of any number of processes make up the same batch.
    """
    generator = torch.Generator().manual_seed(hash64("step", config.seed, step) >> 1)
    rows = torch.randint(config.train_size, (config.batch_size,), generator=generator)
    noise = model.corrupt(config.batch_size, generator)
    return rows[process::processes], tuple(part[process::processes] for part in noise)


def evaluation_steps(first: int, per_decade: int, last: int) -> list[int]:
    """Distinct rising steps, `per_decade` per factor 10 from `first` on, and `last`."""
    steps = set()
    exponent = 0
    while (step := round(first * 10 ** (exponent / per_decade))) < last:
        steps.add(step)
        exponent += 1
    return sorted(steps | {last})


def sample_count(config: RulesConfig, model: GenerativeModel, step: int, evaluated: Sequence[int]) -> int:
    """How many samples to draw at an evaluated step: `evaluation_share` of what the steps since the last one cost.

    Cost is counted in strings that pass through the network; forward and backward together count three times.
    """
    earlier = [other for other in evaluated if other < step]
    trained = 3 * config.batch_size * (step - (earlier[-1] if earlier else 0))
    affordable = int(config.evaluation_share * trained / model.rows_per_sample)
    return min(max(affordable, config.evaluate_samples_min), config.evaluate_samples)


def evaluate(
    model: GenerativeModel, rule: Rule, data: Split, count: int, seed: int, step: int
) -> tuple[dict[str, Any], np.ndarray]:
    """One row of evaluations.jsonl without step and times, and the samples, int8 [count, n].

    The keys are those of `measure_samples`, and `loss_train` and `loss_held_out`: the training loss on strings of the
    two sets, with the same noise for both and at every step.
    """
    model.eval()
    generator = torch.Generator().manual_seed(hash64("samples", seed, step) >> 1)
    samples, vectors = model.sample(count, generator)
    row = measure_samples(rule, samples, vectors, data)
    strings = min(len(data.train), len(data.held_out), 256)
    for name, part in (("loss_train", data.train), ("loss_held_out", data.held_out)):
        generator = torch.Generator().manual_seed(hash64("evaluation", seed) >> 1)
        row[name] = losses_of_strings(model, part[:strings], generator).mean().item()
    model.train()
    return row, samples


def stop_reached(rows: Sequence[dict[str, Any]], stop: str, stop_copies: float) -> bool:
    """Whether the evaluations so far end a run, see the option `stop`: two in a row must agree."""

    def twice(holds: Sequence[bool]) -> bool:
        return any(a and b for a, b in zip(holds, holds[1:], strict=False))

    rule = twice([row["valid"] >= RULE_LEARNED for row in rows])
    memory = twice([copies_beyond_control(row) >= stop_copies for row in rows])
    return {"never": False, "rule": rule, "memory": memory, "clocks": rule and memory}[stop]


def _stops(run: Path, config: RulesConfig) -> bool:
    return stop_reached(read_jsonl(run / "evaluations.jsonl"), config.stop, config.stop_copies)


def _agreed(answer: Any, accelerator: Accelerator) -> Any:
    """The main process's answer, on every process: the others may read the file before it is written."""
    return broadcast_object_list([answer])[0] if accelerator.num_processes > 1 else answer


def _save(
    model: GenerativeModel,
    ema: AveragedModel | None,
    optimizer: torch.optim.Optimizer,
    clock: dict[str, float],
    folder: Path,
) -> None:
    save_weights(model, folder)
    if ema is not None:
        save_weights(ema.module, folder, "ema.safetensors")
    moments = {}
    for index, state in optimizer.state_dict()["state"].items():
        moments |= {f"{index}.{name}": value for name, value in state.items()}
    save_file(moments, folder / "optimizer.safetensors")
    write_json(folder / "progress.json", clock)


def _load(
    folder: Path, model: GenerativeModel, ema: AveragedModel | None, optimizer: torch.optim.Optimizer
) -> dict[str, float]:
    """Load weights and the optimiser's state in place; returns the seconds so far."""
    load_weights(model, folder)
    if ema is not None:
        load_weights(ema.module, folder, "ema.safetensors")
        # Above 0 means that the average has begun.
        ema.n_averaged.fill_(1)
    state = optimizer.state_dict()
    state["state"] = {}
    for key, value in load_file(folder / "optimizer.safetensors").items():
        index, name = key.split(".", 1)
        state["state"].setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(state)
    return read_json(folder / "progress.json")


def _tidy(run: Path, newest: int) -> None:
    """Of the checkpoints before the newest, keep the weights at evaluated steps and nothing else."""
    evaluated = {row["step"] for row in read_jsonl(run / "evaluations.jsonl")}
    for step in steps_of(run):
        folder = checkpoint_folder(run, step)
        if step < newest and step in evaluated:
            (folder / "optimizer.safetensors").unlink(missing_ok=True)
        elif step < newest:
            # Renamed first: a kill in the middle of the removal must not leave half of it under its name.
            shutil.rmtree(folder.rename(folder.with_name(f".unfinished-{folder.name}")))
