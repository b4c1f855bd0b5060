"""Paths as people type them: `~` is the home folder, in files and after `=` too; no path is no folder."""

import os
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from eval.errors import UserError


# ~, ~/runs, ~name/runs; no other text of an option begins so.
_AT_HOME = re.compile(r"~[\w.-]*(/.*)?", re.DOTALL)
_OUTPUTS = ("--output", "--output_dir")


def expand_home(value: Any) -> Any:
    """A value as YAML holds it, with the user's home folder in every text that begins with `~`."""
    if isinstance(value, str):
        return os.path.expanduser(value) if _AT_HOME.fullmatch(value) else value
    if isinstance(value, list):
        return [expand_home(item) for item in value]
    if isinstance(value, dict):
        return {key: expand_home(item) for key, item in value.items()}
    return value


def expand_words(words: Sequence[str]) -> list[str]:
    """The words of a command with the home folder for `~`, also after `=` as in --output=~/runs and es=~/runs/es.

    Raises `UserError` for an empty path to write to.
    """
    for word, next_word in pairwise([*words, "-"]):
        name, equals, value = word.partition("=")
        if name in _OUTPUTS:
            require_path(value if equals else next_word, name)
    return [_expand_word(word) for word in words]


def require_path(text: str, option: str) -> None:
    """Raise `UserError` if `text` names no folder: an empty path would be the current folder."""
    if not text.strip():
        raise UserError(f"{option} is empty; give the path of a folder")
    if re.match(r"~[\w.-]*(/|$)", os.path.expanduser(text)):
        raise UserError(f"{option} is {text}, but there is no such home folder; write the whole path")


def _expand_word(word: str) -> str:
    name, equals, value = word.partition("=")
    return f"{name}={expand_home(value)}" if equals and value.startswith("~") else expand_home(word)
