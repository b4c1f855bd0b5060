"""Where the files of a model are that somebody names: a checkpoint folder, an adapter's, a run's, or on the hub."""

from pathlib import Path

from eval.digests import MODEL_FILES
from eval.errors import UserError


def model_folder(name: str) -> Path:
    """The folder of a model: itself, `model/` in the folder of a run, or the downloaded files of a hub model.

    Raises UserError if it is neither here nor on the hub.
    """
    place = Path(name).expanduser()
    if place.is_dir():
        is_model = any((place / file).is_file() for file in ("config.json", "adapter_config.json"))
        return place / "model" if not is_model and (place / "model").is_dir() else place
    if place.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"there is no checkpoint folder {name}; check the path")
    # Here, because a command that reads folders should not wait for the hub's client.
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=[*MODEL_FILES]))
    except Exception as error:  # no such model, no network, offline: of several libraries
        raise UserError(
            f"{name} is neither a local folder nor a hub model that can be downloaded here ({type(error).__name__}); "
            "give a checkpoint folder, or a model name with the network on"
        ) from None
