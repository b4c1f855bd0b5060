"""From a run's config to its model, and from a checkpoint folder to the trained model.

checkpoints/step_N/model.safetensors    the network's weights; for GPT-2 and Llama, with config.json beside it, a
                                        folder that `AutoModelForCausalLM.from_pretrained` opens
checkpoints/step_N/ema.safetensors      their exponential moving average, if the run keeps one
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model

from eval.errors import UserError
from eval.generative.denoiser import EDMDenoiser
from eval.generative.diffusers_dit import DiffusersDiT
from eval.generative.dit import DiT
from eval.generative.masked import MaskedDiffusion
from eval.generative.mlp import MLP
from eval.generative.next_token import NextToken, gpt2, llama
from eval.rollout.loading import require_finite
from eval.rules import Rule, rule_of
from eval.rules.encoding import channels
from eval.storage import read_yaml_mapping


MODELS = ("mlp", "dit", "diffusers_dit", "masked_dit", "gpt2", "llama")
NEXT_TOKEN_MODELS = ("gpt2", "llama")

GenerativeModel = EDMDenoiser | MaskedDiffusion | NextToken


def build_model(config: Mapping[str, Any], rule: Rule) -> GenerativeModel:
    """The untrained model of a run's config, float32; its initial weights come from torch's global generator.

    Keys: `model` (one of `MODELS`), `width`, `depth`, `heads`, `mlp_ratio`, `positions`, `positional_scale`, and for
    denoisers `sigma_data`, `p_mean`, `p_std`, `sampler_steps`, `sigma_min`, `sigma_max`, `rho`, `churn` and
    `churn_noise`.
    """
    model, width, depth, heads = (config[key] for key in ("model", "width", "depth", "heads"))
    ratio, positions, scale = (config[key] for key in ("mlp_ratio", "positions", "positional_scale"))
    if model == "gpt2":
        return NextToken(gpt2(rule, width, depth, heads, ratio, scale), rule)
    if model == "llama":
        return NextToken(llama(rule, width, depth, heads, ratio), rule)
    symbols = rule.vocabulary
    if model == "masked_dit":
        network = DiT(rule.shape, symbols + 1, symbols, width, depth, heads, ratio, positions, scale)
        return MaskedDiffusion(network, rule, config["sampler_steps"])
    per_position = channels(symbols)
    if model == "mlp":
        network = MLP(rule.dimension, width, depth, ratio)
    elif model == "dit":
        network = DiT(rule.shape, per_position, per_position, width, depth, heads, ratio, positions, scale)
    else:
        network = DiffusersDiT(rule.shape, per_position, width, depth, heads)
    keys = ("sigma_data", "p_mean", "p_std", "sampler_steps", "sigma_min", "sigma_max", "rho", "churn", "churn_noise")
    return EDMDenoiser(network, rule, **{key: config[key] for key in keys})


def save_weights(model: GenerativeModel, folder: Path, name: str = "model.safetensors") -> None:
    """Write the network's weights into an existing folder. Raises UserError for weights that are not finite."""
    require_finite(model.network.named_parameters(), "this run")
    save_model(model.network, str(Path(folder) / name), metadata={"format": "pt"})
    if isinstance(model, NextToken):
        model.network.config.save_pretrained(folder)


def load_weights(model: GenerativeModel, folder: Path, name: str = "model.safetensors") -> None:
    """Read what `save_weights` wrote, in place. Raises UserError for weights that are not finite."""
    load_model(model.network, str(Path(folder) / name))
    require_finite(model.network.named_parameters(), str(Path(folder) / name))


def steps_of(folder: Path) -> list[int]:
    """The steps of a run's complete checkpoints, rising."""
    names = [path.name for path in (Path(folder) / "checkpoints").glob("step_*")]
    return sorted(int(name.removeprefix("step_")) for name in names if re.fullmatch(r"step_\d+", name))


def load_run(folder: Path, step: int | None = None, ema: bool = False) -> tuple[GenerativeModel, dict[str, Any]]:
    """The model of a run folder as it was after `step` steps (None: the newest checkpoint), and the run's config.

    In evaluation mode, on the CPU. Raises `UserError` if there is no such checkpoint, or no moving average in it.
    """
    folder = Path(folder)
    steps = steps_of(folder)
    if not (folder / "config.yaml").exists() or not steps:
        raise UserError(f"{folder} holds no run with checkpoints; give the output_dir of recipes/rules.py")
    if step is None:
        step = steps[-1]
    if step not in steps:
        raise UserError(f"{folder} has no checkpoint of step {step}; it has {', '.join(map(str, steps))}")
    config = read_yaml_mapping(folder / "config.yaml")
    weights = folder / "checkpoints" / f"step_{step}"
    name = "ema.safetensors" if ema else "model.safetensors"
    if not (weights / name).exists():
        raise UserError(f"{weights} has no {name}: the run kept no moving average (ema_decay 0); use its raw weights")
    with torch.random.fork_rng(devices=[]):
        model = build_model(config, rule_of(config))
    load_weights(model, weights, name)
    return model.eval(), config
