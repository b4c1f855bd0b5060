"""Memory in what a denoiser computes, beside memory in what it draws: at every checkpoint of every run.

Exact copies ask for all symbols of a sample at once. The denoiser itself takes sides earlier: noisy training strings
return to where they came from oftener than noisy strings that it never saw. For next-token models the same is the gap
between the losses of training strings and of unseen valid ones, which stands in every evaluation.
"""

from dataclasses import asdict
from typing import Any

from analysis.clocks.opened_models import CAPTURE_SIGMA, VERTICES, load
from analysis.clocks.runs import Run
from analysis.clocks.score_field import one_step, repeated, return_probability, score_clock
from analysis.clocks.striking import crossing
from analysis.criteria import RECOVERY_GAP
from eval.rules.encoding import encode
from eval.rules.oracles import empirical_denoiser
from eval.rules.parity import GridParity, Parity


def is_denoiser(run: Run) -> bool:
    """Whether the run is a continuous denoiser with checkpoints."""
    return bool(run.checkpoints) and run.model in ("mlp", "dit", "diffusers_dit")


def score_memory(run: Run) -> dict[str, Any]:
    """{"steps": of all checkpoints, "sigma", "vertices", "recovery_gap": per step, return probability of training less
    that of held-out vertices in one step, "tau_mem_recovery": when it reaches `RECOVERY_GAP`: {"step", "after"},
    "index": per step, where the denoiser lies on held-out vertices between the rule's optimum (+1) and the training
    set's (-1), None for rules whose optimum has no closed form, "turn": the step at which the index is largest}
    """
    rule, train = run.rule, run.data["train"]
    vertices = {name: repeated(run.data[name], VERTICES) for name in ("train", "held_out")}
    closed = isinstance(rule, Parity | GridParity)
    empirical, clean = empirical_denoiser(train, rule.vocabulary), encode(vertices["held_out"], rule.vocabulary)
    # A run that is still going on removes its newest checkpoint when it writes the next, unless it was evaluated.
    evaluated = {row["step"] for row in run.rows}
    steps, gaps, index = [step for step in run.checkpoints if step in evaluated], [], []
    for step in steps:
        denoise = load(run, step).denoise
        train_returns, held_out_returns = (
            return_probability(one_step(denoise), strings, (CAPTURE_SIGMA,), rule.vocabulary)[0]
            for strings in vertices.values()
        )
        gaps.append(train_returns - held_out_returns)
        if closed:
            index += score_clock(denoise, rule.denoise_rule, empirical, clean, (CAPTURE_SIGMA,))["index"]
    known = [(value, step) for value, step in zip(index, steps, strict=False) if value is not None]
    return {
        "steps": steps,
        "sigma": CAPTURE_SIGMA,
        "vertices": VERTICES,
        "recovery_gap": gaps,
        "tau_mem_recovery": asdict(crossing(steps, gaps, RECOVERY_GAP)),
        "index": index if closed else None,
        "turn": max(known)[1] if known else None,
    }
