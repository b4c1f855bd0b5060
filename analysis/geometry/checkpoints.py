"""Reading Hugging Face checkpoint folders tensor by tensor, so that no two models are ever in memory as a whole."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig

from eval.checkpoint_files import (
    ADAPTER_CONFIG,
    is_adapter,
    locate_tensors,
    open_tensors,
    tensor_headers,
)
from eval.errors import UserError
from eval.rollout.gguf import local_model_name


ADAPTER_FILE = "adapter_model.safetensors"
# Floating point numbers as safetensors names them.
FLOATING = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# What PEFT puts before the name of every module of the base model.
ADAPTER_PREFIX = "base_model.model."
# Modules that inference engines make of several Hugging Face ones.
FUSED = ("qkv_proj", "gate_up_proj")


class Checkpoint:
    """The weights of one checkpoint folder, by Hugging Face parameter name.

    A packaged model's name or a GGUF file is the folder that `local_model_name` makes of it.

    `eval.checkpoint_files` says in which files they lie, as for loading a model. Files are opened anew for every
    tensor: what is not being read takes no memory.

    names: every parameter once. If the configuration ties the output embedding to the input embedding and the folder
        holds equal copies of both, only the input embedding is listed, as in the loaded model.
    shapes: parameter name -> shape.
    parameters: the number of scalars.

    Raises UserError if the folder has no safetensors weights, or a shard is missing or damaged.
    """

    def __init__(self, path: Path):
        self.path = Path(local_model_name(path))
        self._file_of = locate_tensors(self.path)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._stored_as: dict[str, str] = {}
        self._start: dict[str, int] = {}
        for file in sorted(set(self._file_of.values())):
            own = [name for name in self._file_of if self._file_of[name] == file]
            for name, entry in tensor_headers(file, own).items():
                self.shapes[name], self._stored_as[name], self._start[name] = entry
        copy = self._copy_of_input_embedding()
        if copy is not None:
            del self.shapes[copy]
        self.names = list(self.shapes)
        self.parameters = sum(math.prod(shape) for shape in self.shapes.values())

    def read(self, name: str) -> torch.Tensor:
        """One parameter in float32 on the CPU. Do not change it in place: it may be the mapped file itself."""
        return self._stored(name).to(torch.float32)

    def items(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every parameter's name and float32 value, one after the other."""
        return ((name, self.read(name)) for name in self.names)

    def blocks(self, name: str, size: int = 2**20) -> Iterator[torch.Tensor]:
        """One parameter as consecutive flat float32 pieces of at most `size` scalars, converted one at a time.

        Read from the file, not from a mapping of it: the system then reads ahead, and no page of it has to be mapped.
        """
        if self._stored_as[name] not in FLOATING:
            raise self._not_floating(name)
        dtype, left = FLOATING[self._stored_as[name]], math.prod(self.shapes[name])
        with open(self._file_of[name], "rb") as file:
            file.seek(self._start[name])
            while left:
                buffer = bytearray(min(size, left) * dtype.itemsize)
                file.readinto(buffer)
                yield torch.frombuffer(buffer, dtype=dtype).to(torch.float32)
                left -= min(size, left)

    def _stored(self, name: str) -> torch.Tensor:
        with safe_open(self._file_of[name], framework="pt") as file:
            tensor = file.get_tensor(name)
        if not tensor.is_floating_point():
            raise self._not_floating(name)
        return tensor

    def _not_floating(self, name: str) -> UserError:
        return UserError(
            f"{name} in {self.path} is stored as {self._stored_as[name]}, not as 16, 32 or 64 bit floating point "
            "numbers; give an unquantised checkpoint"
        )

    def _copy_of_input_embedding(self) -> str | None:
        """The name of an output embedding that is only a second copy of the input embedding.

        The rule is transformers' own (`PreTrainedModel.tie_weights`): tied if the configuration says so and the
        stored values do not contradict it.
        """
        of_kind = {parse_name(name)[1]: name for name in self.shapes}
        source, copy = of_kind.get("embed_tokens"), of_kind.get("lm_head")
        if source is None or copy is None:
            return None
        if not (self.path / "config.json").is_file():
            raise UserError(
                f"{self.path} lacks config.json, which says whether its embeddings are tied; copy it there"
            )
        tied = AutoConfig.from_pretrained(self.path).tie_word_embeddings
        return copy if tied and torch.equal(self._stored(source), self._stored(copy)) else None


class AdaptedCheckpoint(Checkpoint):
    """The weights that a LoRA adapter folder makes of its base: W + scale * B A, merged tensor by tensor in float32.

    scale is lora_alpha / r, or lora_alpha / sqrt(r) for rank-stabilised LoRA. Parameters that the adapter holds as a
    whole (PEFT's modules_to_save, biases) replace those of the base. Names and shapes are the base's.

    Raises UserError for adapters of another kind, and for tensors that belong to nothing in the base.
    """

    def __init__(self, path: Path, base: Checkpoint):
        self.path, self._base = Path(path), base
        self.names, self.shapes, self.parameters = base.names, base.shapes, base.parameters
        self._config = _lora_config(self.path)
        file = self.path / ADAPTER_FILE
        if not file.is_file():
            raise UserError(f"{self.path} lacks {ADAPTER_FILE}; save the adapter again with PEFT's save_pretrained")
        with open_tensors(file) as opened:
            stored = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}
        self._factors: dict[str, tuple[str, str]] = {}
        self._whole: dict[str, str] = {}
        strangers = []
        for name, shape in stored.items():
            # PEFT wraps an adapted layer, whose own bias then stands one level deeper.
            parameter = name.removeprefix(ADAPTER_PREFIX).replace(".base_layer.", ".")
            module, is_a, _ = parameter.partition(".lora_A.weight")
            other = name.replace(".lora_A.", ".lora_B.")
            if is_a and self._fits(f"{module}.weight", shape, stored.get(other)):
                self._factors[f"{module}.weight"] = (name, other)
            elif not is_a and self.shapes.get(parameter) == shape:
                self._whole[parameter] = name
            elif not (parameter.endswith(".lora_B.weight") and name.replace(".lora_B.", ".lora_A.") in stored):
                strangers.append(f"{name} {list(shape)}")
        if strangers:
            more = f", and {len(strangers) - 3} more" if len(strangers) > 3 else ""
            raise UserError(
                f"{self.path} is no LoRA adapter of {base.path}, in which these tensors have no place: "
                f"{', '.join(strangers[:3])}{more}"
            )

    def blocks(self, name: str, size: int = 2**20) -> Iterator[torch.Tensor]:
        if name not in self._factors and name not in self._whole:
            yield from self._base.blocks(name, size)
        else:
            yield from self._stored(name).reshape(-1).split(size)

    def _stored(self, name: str) -> torch.Tensor:
        with safe_open(self.path / ADAPTER_FILE, framework="pt") as file:
            if name in self._whole:
                return file.get_tensor(self._whole[name]).to(torch.float32)
            weight = self._base.read(name)
            if name not in self._factors:
                return weight
            a, b = (file.get_tensor(part).to(torch.float32) for part in self._factors[name])
        rank = math.sqrt(len(a)) if self._config.get("use_rslora") else len(a)
        return torch.addmm(weight, b, a, alpha=self._config["lora_alpha"] / rank)

    def _fits(self, parameter: str, a: tuple[int, ...], b: tuple[int, ...] | None) -> bool:
        return b is not None and len(a) == len(b) == 2 and a[0] == b[1] and self.shapes.get(parameter) == (b[0], a[1])


def open_checkpoints(base: Path, paths: Iterable[Path]) -> list[Checkpoint]:
    """The base, then each of `paths`: a checkpoint of the same model, or a LoRA adapter of the base.

    Raises UserError, naming tensors, if one is of another model.
    """
    origin = Checkpoint(base)
    opened = [origin]
    for path in paths:
        opened.append(AdaptedCheckpoint(path, origin) if is_adapter(path) else Checkpoint(path))
    check_same_parameters(opened)
    return opened


def check_same_parameters(checkpoints: Sequence[Checkpoint]) -> None:
    """Raise UserError, naming the first few tensors, unless all checkpoints have the same names and shapes."""
    first = checkpoints[0]
    for other in checkpoints[1:]:
        differences = [f"{name} is only in {first.path}" for name in first.names if name not in other.shapes]
        differences += [f"{name} is only in {other.path}" for name in other.names if name not in first.shapes]
        differences += [
            f"{name} has shape {list(shape)} in {first.path} and {list(other.shapes[name])} in {other.path}"
            for name, shape in first.shapes.items()
            if other.shapes.get(name, shape) != shape
        ]
        if differences:
            more = f", and {len(differences) - 3} more differences" if len(differences) > 3 else ""
            fused = sorted({kind for kind in FUSED for name in {*first.names} ^ {*other.names} if kind in name})
            hint = f"; {', '.join(fused)} is an inference engine's: save under Hugging Face names" if fused else ""
            raise UserError(
                f"checkpoints of different models cannot be compared: {'; '.join(differences[:3])}{more}{hint}"
            )


def not_finite(name: str, checkpoint: Checkpoint) -> UserError:
    return UserError(f"{name} in {checkpoint.path} holds values that are not finite; the run that wrote it diverged")


def parse_name(hf_name: str) -> tuple[int | None, str]:
    """Layer number and kind of a parameter: "model.layers.3.self_attn.q_proj.weight" -> (3, "q_proj").

    The kind is the module's own name ("embed_tokens", "input_layernorm", "lm_head", ...); a bias adds ".bias". Outside
    of the numbered layers the layer is None.
    """
    parts = hf_name.split(".")
    layer = next((int(part) for part in parts if part.isdecimal()), None)
    words = [part for part in parts if not part.isdecimal()]
    if len(words) > 1 and words[-1] == "weight":
        return layer, words[-2]
    if len(words) > 1 and words[-1] == "bias":
        return layer, f"{words[-2]}.bias"
    return layer, words[-1]


# What PEFT's LoRA can be besides a low-rank term of a fixed base, by option of its configuration.
UNLIKE_PLAIN_LORA = {
    "use_dora": "with DoRA's magnitudes",
    "alpha_pattern": "with an alpha_pattern",
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


def _lora_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json of an adapter that is one plain low-rank term per matrix."""
    file = folder / ADAPTER_CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8-sig"))
        kind, start, alpha = config.get("peft_type"), config.get("init_lora_weights"), config["lora_alpha"]
    except (ValueError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({error}); copy or save the adapter again") from error
    unlike = [what for option, what in UNLIKE_PLAIN_LORA.items() if config.get(option)]
    if kind != "LORA":
        unlike = [f"of type {kind}"]
    elif start not in KEEPS_THE_BASE:
        unlike.append(f"that changed its base when it was made (init_lora_weights: {start})")
    elif not isinstance(alpha, int | float) or not math.isfinite(alpha):
        unlike.append(f"whose lora_alpha is {alpha}")
    if unlike:
        raise UserError(
            f"{folder} is an adapter {unlike[0]}, which is not merged here; merge it into its base with PEFT's "
            "merge_and_unload and save_pretrained, and give that folder"
        )
    return config
