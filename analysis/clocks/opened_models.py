"""What needs the checkpoints of a run: its score field, its loss by position, its parts."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from analysis.clocks.mechanism import (
    ablation,
    attention_to_mates,
    attention_weights,
    group_mates,
    partial_parities,
    relation_ablation,
)
from analysis.clocks.runs import Run
from analysis.clocks.score_field import (
    SIGMAS,
    basins,
    capture_table,
    denoising_loss,
    one_step,
    repeated,
    score_clock,
    violate,
    whole_flow,
)
from analysis.clocks.striking import Crossing, crossing
from analysis.criteria import RECOVERY_GAP
from eval.generative.checkpoint import GenerativeModel, load_run
from eval.generative.next_token import NextToken
from eval.rules.base import ENUMERABLE
from eval.rules.encoding import encode
from eval.rules.oracles import empirical_denoiser, independent_bit_denoiser
from eval.rules.parity import GridParity, Parity
from eval.rules.spatial_relation import SpatialRelation


# The whole flow costs some 15 denoiser calls for each vertex: it is followed from few noise levels.
FLOW_SIGMAS = (0.4, 0.7, 1.0, 1.4)
CAPTURE_SIGMA = 0.7
VERTICES = 128
STRINGS = 128
CHECKPOINTS = 7


def chosen_steps(run: Run, count: int = CHECKPOINTS) -> list[int]:
    """Steps of at most `count` checkpoints: first, last, those just after the clocks, others spread in log step."""
    steps = run.checkpoints
    wanted = {steps[0], steps[-1]}
    wanted |= {just_after(crossed, steps) for crossed in (run.rule_learned, run.memorised) if crossed.observed}
    for i in np.linspace(0, len(steps) - 1, count):
        if len(wanted) < count:
            wanted.add(steps[round(i)])
    return sorted(wanted)


def just_after(clock: Crossing, steps: Sequence[int]) -> int:
    """The first of rising steps at which a clock has struck; the last where it has not."""
    return min((step for step in steps if clock.observed and step >= clock.time), default=steps[-1])


def has_field(run: Run) -> bool:
    """Whether the run is a continuous denoiser with checkpoints, and the optimum of its rule is known."""
    known = run.rule.count <= ENUMERABLE or isinstance(run.rule, Parity | GridParity)
    return bool(run.checkpoints) and run.model in ("mlp", "dit", "diffusers_dit") and known


def load(run: Run, step: int) -> GenerativeModel:
    return load_run(run.folder, step, run.ema)[0]


def score_field(run: Run) -> dict[str, Any]:
    """The learned denoiser through training, beside the optima of the rule, of the training set, and of neither.

    {"steps", "sigmas", "flow_sigmas", "capture_sigma", "vertices": of each class,
     "score_clock", "denoising_loss", "capture" (whole flow): one entry per step, see analysis.clocks.score_field;
     "basins": {"one_step", "flow": one entry per step}; "recovery_gap": per step, return probability of training less
     that of held-out vertices at capture_sigma, and its clock "tau_mem_recovery": {"step", "after"};
     "rule_optimum", "train_optimum", "no_rule": basins of the optima; "rule_loss": losses of the rule's optimum}
    """
    rule, train, held_out = run.rule, run.data["train"], run.data["held_out"]
    strings = {
        "train": repeated(train, VERTICES),
        "held_out": repeated(held_out, VERTICES),
        "violating": repeated(violate(held_out[:VERTICES], rule, seed=0), VERTICES),
    }
    codes = {name: encode(part, rule.vocabulary) for name, part in strings.items()}
    empirical = empirical_denoiser(train, rule.vocabulary)
    optima = {
        "rule_optimum": rule.denoise_rule,
        "train_optimum": empirical,
        "no_rule": independent_bit_denoiser(rule.vocabulary),
    }
    steps = chosen_steps(run)
    field: dict[str, Any] = {
        "steps": steps,
        "sigmas": list(SIGMAS),
        "flow_sigmas": list(FLOW_SIGMAS),
        "capture_sigma": CAPTURE_SIGMA,
        "vertices": VERTICES,
        "score_clock": [],
        "denoising_loss": [],
        "basins": {"one_step": [], "flow": []},
        "capture": [],
        "rule_loss": denoising_loss(rule.denoise_rule, codes, SIGMAS),
    } | {name: basins(one_step(denoise), strings, SIGMAS, rule) for name, denoise in optima.items()}
    for step in steps:
        denoise = load(run, step).denoise
        field["score_clock"].append(score_clock(denoise, rule.denoise_rule, empirical, codes["held_out"], SIGMAS))
        field["denoising_loss"].append(denoising_loss(denoise, codes, SIGMAS))
        field["basins"]["one_step"].append(basins(one_step(denoise), strings, SIGMAS, rule))
        field["basins"]["flow"].append(basins(whole_flow(denoise), strings, FLOW_SIGMAS, rule))
        field["capture"].append(capture_table(whole_flow(denoise), strings["violating"], train, rule, FLOW_SIGMAS))
    at = SIGMAS.index(CAPTURE_SIGMA)
    field["recovery_gap"] = [
        basin["train"]["probability"][at] - basin["held_out"]["probability"][at]
        for basin in field["basins"]["one_step"]
    ]
    field["tau_mem_recovery"] = asdict(crossing(steps, field["recovery_gap"], RECOVERY_GAP))
    return field


def position_loss(run: Run) -> dict[str, Any]:
    """{"steps", "oracle": least loss by position that knows the rule, "train", "held_out": [step][position], nats}."""
    steps = chosen_steps(run)
    losses: dict[str, Any] = {"steps": steps, "oracle": run.rule.position_entropy().tolist()}
    for name in ("train", "held_out"):
        strings = torch.as_tensor(run.data[name][:512])
        with torch.no_grad():
            losses[name] = [load(run, step).position_loss(strings).mean(dim=0).tolist() for step in steps]
    return losses


def mechanism(run: Run) -> dict[str, Any]:
    """{"steps", "attention": [step][layer][head] on group mates, relative to even attention, null without attention;
    "probes": [step] partial parities, null for other rules; "ablation_steps", "ablation": one entry per step;
    "relation": for spatial relations, the ablation of the prompted model at the last step, else null}.
    """
    steps = chosen_steps(run)
    mates = group_mates(run.rule)
    strings = run.data["held_out"][:STRINGS]
    group = run.config.get("group")
    measured: dict[str, Any] = {"steps": steps, "attention": [], "probes": []}
    for step in steps:
        model = load(run, step)
        weights = attention_weights(model, strings)
        causal = isinstance(model, NextToken)
        measured["attention"].append(None if weights is None else attention_to_mates(weights, mates, causal))
        measured["probes"].append(partial_parities(model, group) if group else None)
    measured["ablation_steps"] = sorted({just_after(run.rule_learned, steps), steps[-1]})
    measured["ablation"] = [
        ablation(load(run, step), run.rule, run.data["train"]) for step in measured["ablation_steps"]
    ]
    model = load(run, steps[-1])
    prompted = isinstance(run.rule, SpatialRelation) and isinstance(model, NextToken)
    measured["relation"] = relation_ablation(model, run.rule) if prompted else None
    return measured
