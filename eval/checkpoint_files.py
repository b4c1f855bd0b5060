"""Which file of a checkpoint folder holds which tensor: one answer for loading a model and for reading its weights.

It is transformers' own: `model.safetensors` if it is there, else the shards that `model.safetensors.index.json` names.
A folder saved first in shards and then again as one file has a stale index, which nobody reads.
"""

import json
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from eval.errors import UserError


SINGLE_FILE = "model.safetensors"
SHARD_INDEX = "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
# Buffers that older libraries stored: computed from the configuration, ignored on loading, and no parameters.
BUFFERS = re.compile(
    r"(?:^|\.)(?:rotary_emb\.(?:inv_freq|cos_cached|sin_cached)|attn\.(?:masked_)?bias|position_ids)$"
)
# A header longer than this is no checkpoint's; safetensors has the same limit.
LONGEST_HEADER = 100_000_000


def locate_tensors(folder: Path) -> dict[str, Path]:
    """{parameter name: the file that holds it}, buffers left out. Raises UserError if the folder holds no weights."""
    folder = Path(folder)
    if (folder / SINGLE_FILE).is_file():
        names = tensor_names(folder / SINGLE_FILE)
        return {name: folder / SINGLE_FILE for name in names if not BUFFERS.search(name)}
    if (folder / SHARD_INDEX).is_file():
        weight_map = _weight_map(folder / SHARD_INDEX)
        missing = sorted(shard for shard in set(weight_map.values()) if not (folder / shard).is_file())
        if missing:
            raise UserError(f"{folder} lacks the shard {missing[0]} that its {SHARD_INDEX} names; copy it again")
        return {name: folder / shard for name, shard in weight_map.items() if not BUFFERS.search(name)}
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give a checkpoint folder with {SINGLE_FILE}")
    if is_adapter(folder):
        raise UserError(
            f"{folder} is an adapter, and a whole model is needed here; merge it into its base first (PEFT's "
            "merge_and_unload, then save_pretrained). The measures of `python -m analysis` take adapters as they are"
        )
    pickled = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
    other = f" ({pickled[0]} is not read: load the model and save it again)" if pickled else ""
    raise UserError(
        f"{folder} holds no weights: neither {SINGLE_FILE} nor {SHARD_INDEX} is there{other}; give a folder written "
        "by save_pretrained"
    )


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no whole model."""
    folder = Path(folder)
    return (folder / ADAPTER_CONFIG).is_file() and not any(
        (folder / name).is_file() for name in (SINGLE_FILE, SHARD_INDEX)
    )


def open_tensors(file: Path) -> Any:
    """`safetensors.safe_open` on the CPU. Raises UserError, naming the file, if it is truncated or no such file."""
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError, ValueError, MemoryError) as error:
        raise UserError(f"{file} is damaged ({_one_line(error)}); copy or save it again") from error


def tensor_names(file: Path) -> list[str]:
    """Names of all tensors of one file, in its order."""
    with open_tensors(file) as opened:
        return list(opened.keys())


def tensor_headers(file: Path, names: list[str]) -> dict[str, tuple[tuple[int, ...], str, int]]:
    """(shape, type as safetensors names it, position of the first byte in the file) of each of these tensors.

    A file begins with the length of a JSON header, in 8 bytes; positions in it count from its end. Raises UserError if
    the file is damaged or lacks one of them.
    """
    absent = sorted(set(names) - set(tensor_names(file)))  # which checks that the file is whole
    if absent:
        raise UserError(f"{file} lacks {absent[0]}, which {SHARD_INDEX} says it holds; copy the folder again")
    with open(file, "rb") as raw:
        length = int.from_bytes(raw.read(8), "little")
        header = json.loads(raw.read(min(length, LONGEST_HEADER)))
    return {
        name: (tuple(header[name]["shape"]), header[name]["dtype"], 8 + length + header[name]["data_offsets"][0])
        for name in names
    }


def _weight_map(index: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8-sig"))["weight_map"]
        return {str(name): str(shard) for name, shard in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{index} is damaged ({_one_line(error)}); copy or save it again") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
