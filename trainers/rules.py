"""Training of small generative models on the strings of a rule: one loop for denoisers and for next-token models.

What a step does is a pure function of the config and the step number: its batch and its noise come from a generator
seeded with both. So a run that was killed goes on from its newest checkpoint and ends with the same bits, and several
processes see the same batches as one.

The run is looked at on a logarithmic grid of steps, because its two clocks (when it obeys the rule, when it copies its
training strings) lie decades apart.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors.numpy import save_file as save_arrays
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from eval.criteria import RULE_LEARNED
from eval.digests import file_digest, run_digests
from eval.errors import UserError
from eval.generative.checkpoint import MODELS, GenerativeModel, build_model, load_weights, save_weights, steps_of
from eval.generative.measure import copies_beyond_control, losses_of_strings, measure_samples
from eval.ownership import remove_made
from eval.results_file import write_results
from eval.rollout.loading import require_finite
from eval.rules import OPTIONS, Rule, Split, make_rule
from eval.storage import append_jsonl, read_json, read_jsonl, require_free_space, truncate_jsonl, write_json
from eval.tasks.generate import hash64
from trainers.arguments import as_flat_dict, check_at_most, check_between, check_choice
from trainers.ending import diverged
from trainers.launch import make_accelerator, refuse_sharding
from trainers.machine import require_training_memory
from trainers.optimizer_state import OPTIMIZER_FILE, load_optimizer, save_optimizer
from trainers.options import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Processes,
    Rows,
    Seed,
    Share,
    check_bounds,
    option,
)
from trainers.run_folder import checkpoint_folder, end_run, last_complete_step, save_checkpoint, start_run
from trainers.step_line import step_line
from trainers.tracking import Tracking, tracker_names


STOPS = ("never", "rule", "memory", "clocks")
# What a finished or interrupted run may be continued with. None of these changes what a step does.
MAY_CHANGE = ("steps", "stop", "stop_copies", "save_every", "report_to")
AVERAGED = "ema.safetensors"
# Models that take the option positions.
POSITIONED = ("dit", "masked_dit")
ADVICE = "lower learning_rate, or clip gradients with clip_norm"


@dataclass
class RulesConfig:
    """A small generative model on a rule, from nothing."""

    output_dir: str = field(metadata={"help": "run folder"})
    # The rule and its strings
    rule: str = option("parity", "name of a rule, see eval/rules")
    length: int | None = option(None, "of rules on strings: symbols in a string")
    side: int | None = option(None, "of rules on grids: rows and columns")
    group: int | None = option(None, "of parity: bits in a group")
    ones: int | None = option(None, "of threshold and fixed_weight: how many ones")
    symbols: int | None = option(None, "of raven: how many numbers")
    train_size: Rows = option(512, "training strings; the control set has as many")
    held_out_size: Rows = option(512, "held-out valid strings")
    data_seed: Seed = option(0, "fixes the three sets")
    # The model
    model: str = option("mlp", f"one of {', '.join(MODELS)}")
    width: PositiveInt = option(128, "width of the residual stream")
    depth: PositiveInt = option(3, "blocks")
    heads: PositiveInt = option(4, "attention heads (not of mlp)")
    mlp_ratio: PositiveFloat = option(4.0, "inner width of a block over its width")
    positions: str = option("learned", "of dit and masked_dit: learned or sincos")
    positional_scale: PositiveFloat = option(
        1.0, "of dit, masked_dit and gpt2: scale of the position codes at the start"
    )
    # Denoisers
    sigma_data: PositiveFloat = option(1.0, "standard deviation that the preconditioning assumes")
    p_mean: float = option(-0.3, "mean of ln sigma in training")
    p_std: PositiveFloat = option(0.8, "standard deviation of ln sigma in training")
    sampler_steps: PositiveInt = option(18, "steps of the sampler (not of next-token models)")
    sigma_min: PositiveFloat = option(0.002, "smallest noise level of the sampler")
    sigma_max: PositiveFloat = option(80.0, "largest noise level of the sampler")
    rho: PositiveFloat = option(7.0, "how strongly the sampler's levels crowd at the small end")
    churn: NonNegativeFloat = option(0.0, "0 samples by the ODE; above, noise is added on the way")
    churn_noise: NonNegativeFloat = option(1.0, "scale of that noise")
    # The optimiser
    steps: PositiveInt = option(10000, "optimiser steps at most")
    batch_size: Rows = option(128, "strings per step, drawn with replacement, all processes")
    learning_rate: PositiveFloat = option(1e-3, "AdamW's learning rate, constant after warm-up")
    warmup_steps: NonNegativeInt = option(0, "linear warm-up of the learning rate")
    weight_decay: NonNegativeFloat = option(0.0, "AdamW's weight decay, on every weight")
    clip_norm: NonNegativeFloat = option(0.0, "largest norm of a gradient; 0 does not clip")
    ema_decay: float = option(0.0, "moving average of the weights; 0 keeps none")
    mixed_precision: str = option("no", "no or bf16; weights stay in float32")
    seed: Seed = option(0, "fixes initial weights, batches, noise and samples")
    # Evaluation
    evaluate_from: PositiveInt = option(32, "first evaluated step")
    evaluations_per_decade: PositiveInt = option(8, "evaluated steps per factor 10")
    evaluate_samples: Rows = option(512, "samples per evaluation at most")
    evaluate_samples_min: PositiveInt = option(64, "samples per evaluation at least")
    evaluation_share: NonNegativeFloat = option(
        0.1, "samples are at most so many that they cost this share of the steps before"
    )
    # The end
    stop: str = option(
        "never",
        "ends the run after two evaluations in a row with 90 % of samples valid (rule), with stop_copies (memory), "
        "after both have happened (clocks), or at the last step (never)",
    )
    stop_copies: Share = option(0.1, "share of copies of training strings, less that of control strings")
    # The machine
    save_every: PositiveInt = option(2000, "longest stretch of steps without a checkpoint")
    log_every: PositiveInt = option(10, "steps between rows of metrics.jsonl")
    report_to: str | list[str] = option("none", "tensorboard, trackio, wandb, several of them, or none")
    threads: Processes = option(1, "CPU threads; part of what makes a run bit-reproducible")

    def __post_init__(self):
        tracker_names(self.report_to)
        check_choice("model", self.model, MODELS)
        check_choice("positions", self.positions, ("learned", "sincos"))
        check_choice("mixed_precision", self.mixed_precision, ("no", "bf16"))
        check_choice("stop", self.stop, STOPS)
        check_bounds(self)
        check_between("ema_decay", self.ema_decay, 0.0, 0.999999)
        check_at_most("depth", self.depth, 1000, "no model has as many blocks")
        check_at_most("sampler_steps", self.sampler_steps, 100_000, "the sampler's error is long below float32's")
        check_at_most("evaluations_per_decade", self.evaluations_per_decade, 10_000, "each keeps a checkpoint")
        if int(self.mlp_ratio * self.width) < 1:
            raise UserError(f"mlp_ratio is {self.mlp_ratio}, which leaves a block no inner width; give more")
        if self.sigma_max <= self.sigma_min:
            raise UserError(f"sigma_max is {self.sigma_max}, not above sigma_min, {self.sigma_min}; exchange them")
        if self.evaluate_samples < self.evaluate_samples_min:
            raise UserError(
                f"evaluate_samples is {self.evaluate_samples}, less than evaluate_samples_min, "
                f"{self.evaluate_samples_min}; raise the first or lower the second"
            )
        if self.model in POSITIONED and self.positions == "sincos" and self.width % (2 * len(self.make_rule().shape)):
            axes = len(self.make_rule().shape)
            raise UserError(
                f"width is {self.width}, no multiple of {2 * axes}; sincos positions on {axes} axes share the width "
                "among the sines and cosines of each"
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
    block = 2 * config.mlp_ratio * config.width**2
    require_training_memory(int(config.depth * block), "width, depth or mlp_ratio")
    start_run(run, config, may_change=MAY_CHANGE)
    if (run / "results.json").exists():
        results = read_json(run / "results.json")
        if results["steps"] >= config.steps or _stops(run, config):
            end_run(run)
            return results
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            (run / "results.json").unlink()
    training = _RuleTraining(config, accelerator)
    training.train(progress)
    results = training.results()
    if accelerator.is_main_process:
        write_results(run / "results.json", "training", results)
        results = read_json(run / "results.json")
    results = _agreed(results, accelerator)
    end_run(run)
    return results


class _RuleTraining:
    """Model, optimiser, data and clocks of a run, on every process, from its newest checkpoint on.

    step: steps done. clock: `seconds` of training and `evaluation_seconds` so far.
    """

    def __init__(self, config: RulesConfig, accelerator: Accelerator):
        self.config, self.accelerator, self.run = config, accelerator, Path(config.output_dir)
        self.rule = config.make_rule()
        self.data = self.rule.split(config.train_size, config.held_out_size, config.data_seed)
        torch.manual_seed(hash64("weights", config.seed))
        self.model = build_model(as_flat_dict(config), self.rule)
        self.ema: AveragedModel | None = None
        if config.ema_decay:
            self.ema = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
        optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self.prepared, self.optimizer = accelerator.prepare(self.model, optimizer)
        if self.ema is not None:
            self.ema.to(accelerator.device)
        self.strings = torch.as_tensor(self.data.train).to(accelerator.device)
        self.tracking = Tracking(tracker_names(config.report_to) if accelerator.is_main_process else [], self.run)
        self.evaluated = evaluation_steps(config.evaluate_from, config.evaluations_per_decade, config.steps)
        self.clock = {"seconds": 0.0, "evaluation_seconds": 0.0}
        self.step = last_complete_step(self.run) or 0
        if self.step:
            self._load(checkpoint_folder(self.run, self.step))
        if accelerator.is_main_process:
            self._prepare_folder()

    @property
    def averaged(self) -> GenerativeModel:
        """The model that is evaluated: the moving average, if the run keeps one."""
        return self.model if self.ema is None else cast(GenerativeModel, self.ema.module)

    def train(self, progress: bool) -> None:
        """Make the steps that are left."""
        config, accelerator = self.config, self.accelerator
        began = time.perf_counter() - self.clock["seconds"]
        shown = progress and accelerator.is_main_process
        bar = tqdm(total=config.steps, initial=self.step, desc=self.run.name, disable=None if shown else True)
        stopped = _agreed(_stops(self.run, config), accelerator)
        while self.step < config.steps and not stopped:
            loss = self._step()
            bar.update()
            saving = self.step in self.evaluated or self.step % config.save_every == 0
            if saving or self.step % config.log_every == 0:
                mean = self._mean(loss, self.step)
                self.clock["seconds"] = time.perf_counter() - began
                if accelerator.is_main_process:
                    row = {"step": self.step, "loss": mean, "seconds": round(self.clock["seconds"], 3)}
                    append_jsonl(self.run / "metrics.jsonl", row)
                    self.tracking.log(row)
            if saving:
                if accelerator.is_main_process:
                    if self.step in self.evaluated:
                        self._evaluate()
                    if progress:
                        self._say(mean)
                    save_checkpoint(self.run, self.step, self._save)
                    _tidy(self.run, self.step)
                accelerator.wait_for_everyone()
                stopped = _agreed(_stops(self.run, config), accelerator)
                # Neither evaluations nor checkpoints count as training.
                began = time.perf_counter() - self.clock["seconds"]
        bar.close()
        self.tracking.close()

    def results(self) -> dict[str, Any]:
        results = {
            "rule": self.rule.describe(),
            "log2_valid_strings": self.rule.log2_count,
            "complexity": self.rule.complexity,
            "constraint_size": self.rule.constraint_size,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "steps": self.step,
            "stopped_early": self.step < self.config.steps,
            **{name: round(value, 3) for name, value in self.clock.items()},
        }
        if self.accelerator.is_main_process:
            results["evaluation"] = read_jsonl(self.run / "evaluations.jsonl")[-1]
            # Not of the whole folder, whose optimiser state goes when the run goes on.
            folder = checkpoint_folder(self.run, self.step)
            weights = [folder / name for name in ("model.safetensors", AVERAGED) if (folder / name).exists()]
            models = {str(path.relative_to(self.run)): file_digest(path) for path in weights}
            results["digests"] = run_digests(self.run, {}, {}) | {"models": models}
        return results

    def _prepare_folder(self) -> None:
        weights = 4 * sum(parameter.numel() for parameter in self.model.parameters())
        copies = len(self.evaluated) * (2 if self.ema is not None else 1) + 4
        require_free_space(self.run, weights * copies, "the checkpoints of this run")
        truncate_jsonl(self.run / "metrics.jsonl", self.step)
        truncate_jsonl(self.run / "evaluations.jsonl", self.step)
        sets = {"train": self.data.train, "control": self.data.control, "held_out": self.data.held_out}
        save_arrays(sets, self.run / "data.safetensors")

    def _step(self) -> torch.Tensor:
        """One step of the optimiser; returns the loss on this process's share of the batch."""
        config, accelerator = self.config, self.accelerator
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * min(1.0, (self.step + 1) / max(1, config.warmup_steps))
        rows, noise = batch(self.model, config, self.step, accelerator.process_index, accelerator.num_processes)
        device = self.strings.device
        loss = self.prepared(self.strings[rows.to(device)], *(part.to(device) for part in noise)).mean()
        self.optimizer.zero_grad()
        accelerator.backward(loss)
        self._require_finite_gradient(loss)
        if config.clip_norm:
            accelerator.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        self.step += 1
        return loss

    def _require_finite_gradient(self, loss: torch.Tensor) -> None:
        """Raise `UserError` if the gradient is not finite: on every process, since all have the same gradient.

        Where the loss is not finite either, it is what the error names.
        """
        gradients = [weight.grad for weight in self.model.parameters() if weight.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients).item()
        if not math.isfinite(norm):
            self._mean(loss, self.step + 1)
            raise diverged(f"the norm of the gradient of step {self.step + 1} is {norm}", ADVICE)

    def _mean(self, loss: torch.Tensor, step: int) -> float:
        """The loss of a step over all processes. Raises `UserError` if it is not finite."""
        mean = torch.as_tensor(self.accelerator.reduce(loss.detach(), "mean")).item()
        if not math.isfinite(mean):
            raise diverged(f"the loss of step {step} is {mean}", ADVICE)
        return mean

    def _evaluate(self) -> None:
        began = time.perf_counter()
        count = sample_count(self.config, self.model, self.step, self.evaluated)
        require_finite(self.averaged.network.named_parameters(), f"step {self.step}")
        row, samples = evaluate(self.averaged, self.rule, self.data, count, self.config.seed, self.step)
        for name, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise diverged(f"{name} in the evaluation of step {self.step} is {value}", ADVICE)
        self.clock["evaluation_seconds"] += time.perf_counter() - began
        times = {name: round(value, 3) for name, value in self.clock.items()}
        append_jsonl(self.run / "evaluations.jsonl", {"step": self.step} | times | row)
        self.tracking.log({"step": self.step} | row)
        (self.run / "samples").mkdir(exist_ok=True)
        save_arrays({"samples": samples}, self.run / "samples" / f"step_{self.step}.safetensors")

    def _say(self, loss: float) -> None:
        done, seconds = self.step * self.config.batch_size, self.clock["seconds"]
        line = step_line("rules", self.step, self.config.steps, seconds=seconds, done=done, unit="rows", loss=loss)
        tqdm.write(line)

    def _save(self, folder: Path) -> None:
        save_weights(self.model, folder)
        if self.ema is not None:
            save_weights(self.averaged, folder, AVERAGED)
        save_optimizer(self.optimizer, folder)
        write_json(folder / "progress.json", self.clock)

    def _load(self, folder: Path) -> None:
        """Set weights, the optimiser's state and the clock back to those of a checkpoint."""
        load_weights(self.model, folder)
        if self.ema is not None:
            load_weights(self.averaged, folder, AVERAGED)
            # Above 0 means that the average has begun.
            self.ema.n_averaged.fill_(1)
        load_optimizer(self.optimizer, folder)
        self.clock = read_json(folder / "progress.json")


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


def _tidy(run: Path, newest: int) -> None:
    """Of the checkpoints before the newest, keep the weights at evaluated steps and nothing else."""
    evaluated = {row["step"] for row in read_jsonl(run / "evaluations.jsonl")}
    for step in steps_of(run):
        folder = checkpoint_folder(run, step)
        if step < newest and step in evaluated:
            (folder / OPTIMIZER_FILE).unlink(missing_ok=True)
        elif step < newest:
            remove_made(folder)
