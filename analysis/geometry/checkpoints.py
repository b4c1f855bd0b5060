"""Reading Hugging Face checkpoint folders tensor by tensor, so that no two models are ever in memory as a whole."""

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoConfig

from eval.checkpoint_files import is_adapter, locate_tensors, tensor_headers
from eval.errors import UserError
from eval.lora_adapter import LoraAdapter, check_base
from eval.rollout.gguf import local_model_name


# Floating point numbers as safetensors names them.
FLOATING = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
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

    def __str__(self) -> str:
        return str(self.path)

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
    """The weights that a LoRA adapter folder makes of its base, merged tensor by tensor: see `LoraAdapter`.

    Names and shapes are the base's. Raises UserError as `LoraAdapter` and `check_base` do.
    """

    def __init__(self, path: Path, base: Checkpoint):
        self.path, self._base = Path(path), base
        self.names, self.shapes, self.parameters = base.names, base.shapes, base.parameters
        self._adapter = LoraAdapter(self.path, base.shapes, base.path)
        check_base(self.path, base.path)

    def blocks(self, name: str, size: int = 2**20) -> Iterator[torch.Tensor]:
        if self._adapter.changes(name):
            yield from self._stored(name).reshape(-1).split(size)
        else:
            yield from self._base.blocks(name, size)

    def _stored(self, name: str) -> torch.Tensor:
        return self._adapter.merged(name, self._base.read(name))


# A checkpoint folder, or what has been opened: an adapter, which needs its base to be read.
Source = Path | Checkpoint


def opened(source: Source) -> Checkpoint:
    return source if isinstance(source, Checkpoint) else Checkpoint(source)


def open_checkpoints(base: Path, paths: Iterable[Path]) -> list[Checkpoint]:
    """The base, then each of `paths`: a checkpoint of the same model, or a LoRA adapter of the base.

    Raises UserError, naming tensors, if one is of another model.
    """
    origin = Checkpoint(base)
    others = [AdaptedCheckpoint(path, origin) if is_adapter(path) else Checkpoint(path) for path in paths]
    check_same_parameters([origin, *others])
    return [origin, *others]


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
