"""SHA-256 of what a number was measured on: weights, configuration, data. results.json keeps them as `digests`.

config   of config.yaml, as `sha256sum config.yaml` prints it
models   {name: of the weights, configuration and tokenizer of its folder, see `folder_digest`}
data     {task and split: of its rows, see `rows_digest`}
files    of a training: {name: of its logs}
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


# What a model computes depends on these files of its folder.
MODEL_FILES = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*config.json",
    "tokenizer*",
    "chat_template*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
# Of a run folder: what was logged, and the strings of a run on a rule.
RUN_FILES = (
    "metrics.jsonl",
    "evaluations.jsonl",
    "validation.jsonl",
    "seeds.jsonl",
    "fitness.jsonl",
    "data.safetensors",
)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, read piece by piece."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(folder: Path) -> str:
    """SHA-256 over the names and contents of the files that `MODEL_FILES` matches.

    It is that of what `sha256sum FILE ...` prints for them in the order of their names.
    """
    from eval.rollout.gguf import local_model_name  # here, because that module needs this one

    folder = Path(local_model_name(folder))
    files = sorted({file for pattern in MODEL_FILES for file in folder.glob(pattern)})
    listing = "".join(f"{file_digest(file)}  {file.name}\n" for file in files)
    return hashlib.sha256(listing.encode()).hexdigest()


def model_digest(model: str | Path) -> str:
    """Of a checkpoint folder, or of the files of a hub model as they were downloaded; its name where they are not."""
    from eval.rollout.gguf import local_model_name  # see `folder_digest`

    model = local_model_name(model)
    if Path(model).is_dir():
        return folder_digest(Path(model))
    # Here, because a command that compares two folders should not wait for the hub's client.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return folder_digest(Path(snapshot_download(str(model), local_files_only=True)))
    except (HFValidationError, LocalEntryNotFoundError):
        return str(model)


def rows_digest(rows: Iterable[Any]) -> str:
    """SHA-256 over the rows of a task in their order: prompt, reference and every other column that a score may read.

    A row is one line of JSON with its keys sorted, so that neither the order of the columns nor the library that holds
    them counts.
    """
    digest = hashlib.sha256()
    for row in rows:
        line = json.dumps(dict(row), sort_keys=True, ensure_ascii=True, default=str)
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def data_digests(sizes: Iterable[tuple[str, int]], split: str, seed: int) -> dict[str, str]:
    """{"countdown, 500 rows of test": digest} for each (task, how many of its rows were measured on)."""
    # Here, because a command that only reads files should not wait for the libraries of the tasks.
    from eval.tasks import get_task, task_name

    digests = {}
    for name, size in dict.fromkeys(sizes):
        rows = get_task(name).load(split, size, seed)
        digests[f"{task_name(name)}, {len(rows)} rows of {split}"] = rows_digest(rows)
    return digests


def run_digests(folder: Path, models: Mapping[str, str | Path], data: Mapping[str, str]) -> dict[str, Any]:
    """The `digests` of a finished training or study in `folder`. models: {name: folder or hub name}."""
    return {
        "config": file_digest(folder / "config.yaml"),
        "models": {name: model_digest(model) for name, model in models.items()},
        "data": dict(data),
        "files": {name: file_digest(folder / name) for name in RUN_FILES if (folder / name).is_file()},
    }
