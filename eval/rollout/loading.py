"""Opening and saving Hugging Face checkpoints, with one-line errors; nothing is filled in silently."""

import copy
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from eval.checkpoint_files import BUFFERS, is_adapter, locate_tensors, tensor_headers
from eval.errors import UserError
from eval.freed_memory import keep_freed_memory
from eval.lora_adapter import LoraAdapter, check_base, named_base
from eval.rollout.gguf import local_model_name


# Of a list of tensors, so many are named.
NAMED = 3


def load_model(
    path: str | Path, dtype: torch.dtype, tokenizer_of: str | Path | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of a local checkpoint folder, a hub name, a packaged model's name or a GGUF file.

    tokenizer_of: the folder or hub name that has the tokenizer, where it is another.

    Raises UserError if the weights lack a tensor of the model, which transformers would fill with random numbers, have
    one of another shape, or hold a value that is not finite; tensors that the model has no place for are named.
    """

    path = local_model_name(path)
    keep_freed_memory()

    def build() -> PreTrainedModel:
        # Mismatched sizes are let pass there, because we name them; so is transformers' table of them.
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()
        try:
            opened: Any = AutoModelForCausalLM.from_pretrained(
                path,
                dtype=dtype,
                attn_implementation="sdpa",
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        finally:
            logging.set_verbosity(verbosity)
        model, report = opened
        lacking = sorted(report["missing_keys"])
        unlike = sorted(str(entry[0] if isinstance(entry, tuple) else entry) for entry in report["mismatched_keys"])
        strangers = sorted(name for name in report["unexpected_keys"] if not BUFFERS.search(name))
        if lacking or unlike:
            parts = [("it lacks", lacking), ("of another shape are", unlike), ("without a place in it are", strangers)]
            listed = "; ".join(f"{what} {_several(names)}" for what, names in parts if names)
            raise UserError(f"the weights of {path} are not those of the model in its config.json: {listed}")
        if strangers:
            print(f"warning: {path} holds tensors that its model does not use: {_several(strangers)}", file=sys.stderr)
        return model

    model, tokenizer = _load(path, build, tokenizer_of)
    require_finite(model.named_parameters(), str(path))
    return model, tokenizer


def open_model(
    path: str | Path, dtype: torch.dtype, base: str | Path | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of a checkpoint folder, a hub name, or the folder of a LoRA adapter, merged into its base.

    base: what an adapter adapts (unless given, the model that it names), and whose tokenizer a folder without one has.
    Raises UserError as `load_model`, `LoraAdapter` and, with a base in a folder, `check_base` do.
    """
    if not is_adapter(Path(path)):
        bare = base is not None and Path(path).is_dir() and not has_tokenizer(Path(path))
        return load_model(path, dtype, base if bare else None)
    base = named_base(Path(path)) if base is None else base
    if Path(base).is_dir():
        check_base(Path(path), Path(base))
    model, tokenizer = load_model(base, torch.float32, path if has_tokenizer(Path(path)) else None)
    parameters = dict(model.named_parameters())
    adapter = LoraAdapter(Path(path), {name: tuple(weight.shape) for name, weight in parameters.items()}, base)
    with torch.no_grad():
        for name, weight in parameters.items():
            if adapter.changes(name):
                weight.copy_(adapter.merged(name, weight))
    require_finite(parameters, str(path))
    return model.to(dtype), tokenizer  # pyright: ignore[reportArgumentType]  transformers' decorator hides the method


def has_tokenizer(folder: Path) -> bool:
    """Whether a checkpoint or adapter folder has a tokenizer of its own; many hold weights alone."""
    return any((folder / name).is_file() for name in ("tokenizer_config.json", "tokenizer.json", "vocab.json"))


def load_architecture(path: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The same without the weights: parameters have names and shapes but take no memory."""
    path = local_model_name(path)

    def build() -> PreTrainedModel:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path))
        if (Path(path) / "generation_config.json").is_file() or not Path(path).exists():
            model.generation_config = GenerationConfig.from_pretrained(path)
        return model

    return _load(path, build)


def require_finite(weights: Mapping[str, torch.Tensor] | Iterable[tuple[str, torch.Tensor]], where: str) -> None:
    """Raise UserError, naming the first few tensors, if a weight is NaN or infinite."""
    named = dict(weights)
    broken = [name for name, weight in named.items() if not torch.isfinite(weight).all()]
    if broken:
        raise UserError(
            f"the weights of {where} are not finite (NaN or infinite) in {_several(broken)}; the training that made "
            "them has diverged: take an earlier checkpoint, or train with smaller steps"
        )


def require_finite_logits(largest: torch.Tensor) -> None:
    """Raise UserError if the largest of a model's logits, for whatever positions, is NaN or infinite."""
    if not torch.isfinite(largest).all():
        raise UserError(
            "the logits of the model are not finite (NaN or infinite): its weights have grown too large; take an "
            "earlier checkpoint, or train with smaller steps"
        )


def save_model(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    weights: Mapping[str, torch.Tensor],
    dtype: torch.dtype = torch.float32,
) -> None:
    """A Hugging Face checkpoint of `model`'s architecture with these weights, by parameter name, stored as `dtype`.

    Unlike `model.save_pretrained` it does not need the weights to be in the model. Raises UserError for weights that
    are not finite: such a checkpoint is never called complete.
    """
    require_finite(weights, "this run")
    config = copy.deepcopy(model.config)
    config.dtype = dtype
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    # Not by `save_pretrained`, which refuses what many models have in theirs (a temperature without sampling).
    (Path(folder) / "generation_config.json").write_text(model.generation_config.to_json_string(), encoding="utf-8")
    tokenizer.save_pretrained(folder)
    contiguous = {name: weight.detach().to(dtype).contiguous().cpu() for name, weight in weights.items()}
    save_file(contiguous, Path(folder) / "model.safetensors", metadata={"format": "pt"})


def load_config(path: str | Path) -> PretrainedConfig:
    """The configuration of a checkpoint folder or hub model. Raises UserError if it is none of a model."""
    if not str(path):
        raise UserError("the model's name is empty; give a checkpoint folder, or the name of a hub model")
    path = local_model_name(path)
    try:
        config = AutoConfig.from_pretrained(path)
        layers = config.get_text_config().num_hidden_layers
    except Exception as error:  # of many kinds, from several libraries
        raise _cannot_load(path, "config.json", error) from error
    if layers < 1:
        raise UserError(f"the config.json of {path} gives the model {layers} layers; copy the folder again")
    return config


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint folder or hub model. Raises UserError if it cannot be read."""
    path = local_model_name(path)
    try:
        return AutoTokenizer.from_pretrained(path)
    except Exception as error:  # of many kinds, from several libraries
        raise _cannot_load(path, "tokenizer", error) from error


def _load(
    path: str | Path, build: Callable[[], PreTrainedModel], tokenizer_of: str | Path | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    folder = Path(path)
    if folder.exists():
        _check_folder(folder)
    elif str(path).startswith((".", "/", "~")) or str(path).count("/") > 1:
        raise UserError(f"there is no checkpoint folder {path}; check the path")
    load_config(path)
    tokenizer = load_tokenizer(tokenizer_of or path)
    try:
        model = build()
    except UserError:
        raise
    except Exception as error:
        raise _cannot_load(path, "model", error) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def _check_folder(folder: Path) -> None:
    """Raise UserError unless `folder` has a configuration and whole weights."""
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no config.json; give a Hugging Face checkpoint folder")
    file_of = locate_tensors(folder)
    for file in sorted(set(file_of.values())):
        tensor_headers(file, [name for name, own in file_of.items() if own == file])


def _cannot_load(path: str | Path, what: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    if Path(path).exists():
        return UserError(f"cannot load the {what} of {path}: {reason}; copy the folder again, or correct it")
    return UserError(
        f"{path} is neither a local folder nor a hub model that can be downloaded here; "
        "give a checkpoint folder, or a model name with the network on"
    )


def _several(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
