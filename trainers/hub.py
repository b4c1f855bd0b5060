"""A finished model on the Hugging Face hub, with its card: `push_to_hub`, the same for every method.

The names of the options are transformers'. A login is asked for before any work, and no token is ever written.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, get_token
from huggingface_hub.constants import HF_HUB_OFFLINE
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from eval.errors import UserError
from eval.ownership import MARKER
from trainers.options import option


# What may change between a run and its continuation: where the model goes, not what it is.
HUB_OPTIONS = ("push_to_hub", "hub_model_id", "hub_private_repo", "hub_token")


@dataclass(kw_only=True)
class HubOptions:
    """For the configs of methods that do not have transformers' own."""

    push_to_hub: bool = option(False, "upload the finished model with its card to the Hugging Face hub")
    hub_model_id: str | None = option(
        None, "its repository there, name or owner/name; the run folder's name if not given"
    )
    hub_private_repo: bool | None = option(
        None, "whether a new repository is private; the account's default if not given"
    )
    hub_token: str | None = option(None, "login for it; that of `hf auth login` or HF_TOKEN if not given")


def check_hub(config: Any) -> None:
    """Raise `UserError` if the model of a run with this config could not be pushed at its end."""
    if not getattr(config, "push_to_hub", False):
        return
    try:
        validate_repo_id(repository(config))
    except HFValidationError as error:
        raise UserError(f"hub_model_id: {' '.join(str(error).split())}; give owner/name") from None
    if HF_HUB_OFFLINE:
        raise UserError(
            "push_to_hub needs the network, and HF_HUB_OFFLINE is set; unset it, or write push_to_hub: false"
        )
    token = config.hub_token or get_token()
    advice = "log in (hf auth login), or write push_to_hub: false"
    if not token:
        raise UserError(f"push_to_hub needs a login at the hub, and there is none; {advice}")
    try:
        HfApi().whoami(token)
    except Exception as error:  # refused, no network: of several libraries
        raise UserError(f"push_to_hub: the hub does not take the login ({type(error).__name__}); {advice}") from None


def repository(config: Any) -> str:
    return config.hub_model_id or Path(config.output_dir).absolute().name


def push(folder: Path, config: Any) -> str:
    """Upload model/ of a finished run, and adapter/ if there is one; returns the address. On the main process only.

    Raises `UserError` if the hub refuses; the run itself is complete then.
    """
    hub = HfApi(token=config.hub_token or get_token())
    try:
        place = hub.create_repo(repository(config), private=config.hub_private_repo, exist_ok=True)
        message = "Model and card, from posttrain-lab"
        for name, where in (("model", None), ("adapter", "adapter")):
            if (folder / name).is_dir():
                hub.upload_folder(
                    repo_id=place.repo_id,
                    folder_path=folder / name,
                    path_in_repo=where,
                    commit_message=message,
                    ignore_patterns=[MARKER],
                )
    except Exception as error:  # of several libraries: no network, no right to write, no room
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{folder} is complete, but the hub did not take it ({type(error).__name__}: {reason}); upload it with: "
            f"hf upload {repository(config)} {folder / 'model'}"
        ) from None
    return str(place)
