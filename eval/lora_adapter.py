"""LoRA adapter folders as PEFT saves them: what each makes of its base, one parameter at a time.

An adapter that is no plain low-rank term of an unchanged base is refused by name, because its folder alone does not
say what the model became.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from eval.checkpoint_files import ADAPTER_CONFIG, is_adapter, locate_tensors, open_tensors
from eval.digests import file_digest
from eval.errors import UserError


ADAPTER_FILE = "adapter_model.safetensors"
# What PEFT puts before the name of every module of the base model.
PREFIX = "base_model.model."
# What PEFT's LoRA can be besides a low-rank term of a fixed base, by option of its configuration.
UNLIKE_PLAIN_LORA = {
    "use_dora": "with DoRA's magnitudes",
    "fan_in_fan_out": "for transposed weights",
    "lora_bias": "with biases in its factors",
    "layer_replication": "that repeats layers of the base",
    "target_parameters": "of parameters that are no matrices of a module",
    "trainable_token_indices": "with rows of the embedding",
    "alora_invocation_tokens": "that is switched on by tokens",
    "use_bdlora": "with block-diagonal factors",
    "use_qalora": "of a quantised base",
    "arrow_config": "that routes between adapters",
    "kasa_config": "with singular values of its own",
    "monteclora_config": "with sampled weights",
}
# These leave the base as it is. PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA and MiCA subtract their first factors from it, so
# that the adapter alone does not say what the model became.
KEEPS_THE_BASE = (True, False, None, "gaussian", "eva", "orthogonal")


class LoraAdapter:
    """The weights that a LoRA adapter folder makes of its base: W + scale * B A, in float32.

    scale is lora_alpha / r, or lora_alpha / sqrt(r) for rank-stabilised LoRA, with the alpha that an alpha_pattern
    gives a module; r is the rank of the stored factors. Parameters that the adapter holds as a whole (PEFT's
    modules_to_save, biases) replace those of the base.

    shapes: of the base's parameters, by name; an output embedding that is tied to the input is not among them.
    base: its name, for messages.

    Raises UserError for adapters of another kind, and for tensors that belong to nothing in the base.
    """

    def __init__(self, folder: Path, shapes: Mapping[str, tuple[int, ...]], base: Path | str):
        self.folder = Path(folder)
        self._config = adapter_config(self.folder)
        _require_plain(self.folder, self._config)
        file = self.folder / ADAPTER_FILE
        if not file.is_file():
            raise UserError(f"{folder} lacks {ADAPTER_FILE}; save the adapter again with PEFT's save_pretrained")
        with open_tensors(file) as opened:
            stored = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}
        self._factors: dict[str, tuple[str, str]] = {}
        self._whole: dict[str, str] = {}
        strangers = []
        for name, shape in stored.items():
            # PEFT wraps an adapted layer, whose own bias then stands one level deeper.
            parameter = name.removeprefix(PREFIX).replace(".base_layer.", ".")
            module, is_a, _ = parameter.partition(".lora_A.weight")
            other = name.replace(".lora_A.", ".lora_B.")
            if is_a and _fits(shape, stored.get(other), shapes.get(f"{module}.weight")):
                self._factors[f"{module}.weight"] = (name, other)
            elif not is_a and shapes.get(parameter) == shape:
                self._whole[parameter] = name
            elif not (parameter.endswith(".lora_B.weight") and name.replace(".lora_B.", ".lora_A.") in stored):
                strangers.append(f"{name} {list(shape)}")
        if strangers:
            more = f", and {len(strangers) - 3} more" if len(strangers) > 3 else ""
            raise UserError(
                f"{folder} is no LoRA adapter of {base}, in which these tensors have no place: "
                f"{', '.join(strangers[:3])}{more}"
            )
        self._refuse_untying(shapes)

    def changes(self, parameter: str) -> bool:
        return parameter in self._factors or parameter in self._whole

    def merged(self, parameter: str, weight: torch.Tensor) -> torch.Tensor:
        """What the adapter makes of a parameter of the base, in float32; `weight` itself where it changes nothing."""
        if not self.changes(parameter):
            return weight
        with safe_open(self.folder / ADAPTER_FILE, framework="pt") as file:
            if parameter in self._whole:
                return file.get_tensor(self._whole[parameter]).to(torch.float32)
            a, b = (file.get_tensor(part).to(torch.float32) for part in self._factors[parameter])
        rank = math.sqrt(len(a)) if self._config.get("use_rslora") else len(a)
        scale = self._alpha(parameter.removesuffix(".weight")) / rank
        return torch.addmm(weight.float(), b.to(weight.device), a.to(weight.device), alpha=scale)

    def _alpha(self, module: str) -> float:
        """The first pattern that fits the end of the module's name decides, as in PEFT."""
        patterns = self._config.get("alpha_pattern") or {}
        fitting = (alpha for pattern, alpha in patterns.items() if re.match(rf"(.*\.)?({pattern})$", module))
        return next(fitting, self._config["lora_alpha"])

    def _refuse_untying(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """PEFT replaces the input embedding and leaves the output embedding that was tied to it."""
        tied = not any(name.endswith("lm_head.weight") for name in shapes)
        changed = [name for name in self._whole if name.endswith("embed_tokens.weight")]
        if tied and changed:
            raise UserError(
                f"{self.folder} replaces {changed[0]}, which its base uses as output embedding too, and so is no "
                f"adapter of that model alone; {MERGE}"
            )


MERGE = "merge it into its base with PEFT's merge_and_unload and save_pretrained, and give that folder"


def adapter_config(folder: Path) -> dict[str, Any]:
    """What adapter_config.json says. Raises UserError if that is no JSON object."""
    file = Path(folder) / ADAPTER_CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8-sig"))
        if not isinstance(config, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({error}); copy or save the adapter again") from error
    return config


def _require_plain(folder: Path, config: dict[str, Any]) -> None:
    """Raise UserError, naming the kind, unless the adapter is one plain low-rank term per matrix."""
    kind, start = config.get("peft_type"), config.get("init_lora_weights")
    unlike = [what for option, what in UNLIKE_PLAIN_LORA.items() if config.get(option)]
    if kind != "LORA":
        unlike = [f"of type {kind}"]
    elif start not in KEEPS_THE_BASE:
        unlike.append(f"that changed its base when it was made (init_lora_weights: {start})")
    else:
        if "lora_alpha" not in config:
            raise UserError(f"{folder / ADAPTER_CONFIG} is damaged ('lora_alpha'); copy or save the adapter again")
        alphas = [config["lora_alpha"], *(config.get("alpha_pattern") or {}).values()]
        unlike += [f"whose lora_alpha is {alpha}" for alpha in alphas if not _is_number(alpha)]
    if unlike:
        raise UserError(f"{folder} is an adapter {unlike[0]}, which is not merged here; {MERGE}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _fits(a: tuple[int, ...], b: tuple[int, ...] | None, weight: tuple[int, ...] | None) -> bool:
    return b is not None and len(a) == len(b) == 2 and a[0] == b[1] and weight == (b[0], a[1])


def named_base(folder: Path) -> str:
    """The model that an adapter says it belongs to. Raises UserError if it names none."""
    base = adapter_config(folder).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise UserError(f"{folder} is an adapter and does not say of which model; give that model too")
    return base


def check_base(folder: Path, base: Path) -> None:
    """Raise UserError if an adapter names another model than `base` as its own.

    A folder that is here is the same if its weights are, wherever they lie; one that is not, and a hub model, by the
    last part of its name: folders are moved, and seldom renamed.
    """
    named = adapter_config(folder).get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        return
    place, base = Path(named), Path(base)
    if place.is_dir() and not is_adapter(place):
        if place.resolve() == base.resolve() or _weights_digests(place) == _weights_digests(base):
            return
        reason = "whose weights are others"
    else:
        if place.name.lower() in {name.lower() for name in _names_of(base)}:
            return
        reason = "which is not here to be compared, and has another name"
    raise UserError(
        f"{folder} is an adapter of {named}, not of {base}, {reason}; give that model as base, or correct "
        f"base_model_name_or_path in its {ADAPTER_CONFIG} if it is the same one"
    )


def _names_of(base: Path) -> set[str]:
    """What a model's folder may be known by: its own name, the name in its config.json, that of a hub's snapshot."""
    names = {base.resolve().name, base.name}
    names |= {parent.name.split("--")[-1] for parent in base.absolute().parents if parent.name.startswith("models--")}
    try:
        config = json.loads((base / "config.json").read_text(encoding="utf-8-sig"))
        names.add(Path(str(config["_name_or_path"])).name)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return names


def _weights_digests(folder: Path) -> set[str]:
    return {file_digest(file) for file in set(locate_tensors(folder).values())}
