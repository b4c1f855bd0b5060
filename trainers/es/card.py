"""The card of a model that evolution strategies made, and its way to the hub."""

from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, get_token

from eval.errors import UserError
from eval.storage import read_json, read_jsonl, read_yaml_mapping


CARD = """---
library_name: transformers
tags: [evolution-strategies, posttrain-lab]
---

# {name}

[{base}]({base}) post-trained with evolution strategies (arXiv 2509.24372): no gradients, one update per step from the
rewards of {population} members.

- Task: {task}
- Budget: {completions} in {steps} steps
- Seed: {seed}; step size alpha {alpha:g}, standard deviation of a member sigma {sigma:g}
- {evaluation}

Every option is in `config.yaml`. With the starting model, `seeds.jsonl` rebuilds the weights of every step.
"""


def model_card(folder: Path, name: str | None = None) -> str:
    """What the run in `folder` says of itself, as the text of a README.md."""
    config = read_yaml_mapping(folder / "config.yaml")
    results: dict[str, Any] = read_json(folder / "results.json") if (folder / "results.json").exists() else {}
    return CARD.format(
        name=name or folder.name,
        base=config["model"],
        population=config["population"],
        task=config["task"],
        completions=f"{results.get('completions', 0):,} completions",
        steps=results.get("steps", 0),
        seed=config["seed"],
        alpha=config["alpha"],
        sigma=config["sigma"],
        evaluation=_evaluation(folder),
    )


def _evaluation(folder: Path) -> str:
    rows = [row for row in read_jsonl(folder / "evaluations.jsonl") if row["accuracy"] is not None]
    if not rows:
        return "Not evaluated"
    first, last = rows[0], rows[-1]
    return (
        f"Mean reward of greedy answers to {last['total']} validation problems: {first['accuracy']:.3f} after "
        f"{first['step']} steps, {last['accuracy']:.3f} after {last['step']}"
    )


def check_login(token: str | None = None) -> str:
    """The token of a login that the hub takes. Raises `UserError` if there is none."""
    advice = "log in (hf auth login), or leave push_to_hub out"
    token = token or get_token()
    if not token:
        raise UserError(f"push_to_hub needs a login at the hub, and there is none; {advice}")
    try:
        HfApi().whoami(token)
    except Exception as error:  # refused, no network, offline: of several libraries
        raise UserError(f"push_to_hub: the hub does not take the login ({type(error).__name__}); {advice}") from None
    return token


def push_folder(source: Path, run: Path, repository: str, message: str | None, token: str | None) -> str:
    """Push the model in `source` with the card, options and seed log of its run; returns the address."""
    token = check_login(token)
    try:
        place = HfApi().create_repo(repository, exist_ok=True, token=token)
        HfApi().upload_folder(
            repo_id=place.repo_id, folder_path=source, commit_message=message, token=token, ignore_patterns=[".*"]
        )
        for name in ("README.md", "config.yaml", "seeds.jsonl", "results.json"):
            if (run / name).exists():
                HfApi().upload_file(path_or_fileobj=run / name, path_in_repo=name, repo_id=place.repo_id, token=token)
    except Exception as error:  # of several libraries
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"push_to_hub: {repository} was not pushed ({type(error).__name__}: {reason})") from None
    return str(place)
