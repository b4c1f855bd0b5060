"""Tokens, keys and passwords are never written: what is one, and how a text or an option goes without."""

import os
import re
from collections.abc import Mapping
from typing import Any


HIDDEN = "***"
# A name that ends so is that of a secret: hub_token, WANDB_API_KEY, password.
_NAME = r"[\w-]*(?:token|key|secret|password|passwd)"
_IS_SECRET = re.compile(_NAME, re.IGNORECASE)
# The words that a tokenizer begins, ends and pads with.
_OF_TOKENIZERS = re.compile(r"(?:bos|eos|pad|unk|sep|cls|mask|image|audio|video)_token", re.IGNORECASE)
# `--hub_token X` is two words of a command; these are one: --hub_token=X, {hub_token: X}, HF_TOKEN=X.
_WITH_VALUE = re.compile(rf"({_NAME}[\"']?\s*[:=]\s*)(\"[^\"]*\"|'[^']*'|[^\s,}}\]&\"']+)", re.IGNORECASE)
# Access tokens as services write them: Hugging Face, OpenAI and others, GitHub, GitLab.
_SHAPES = re.compile(r"\b(?:hf_|api_org_|sk-|ghp_|gho_|github_pat_|glpat-)[\w-]{16,}")
# A shorter value of a variable may stand anywhere by chance.
SHORTEST_VALUE = 8


def is_secret(name: Any) -> bool:
    """Whether an option or environment variable of this name holds a token, key, secret or password."""
    if not isinstance(name, str) or _OF_TOKENIZERS.fullmatch(name):
        return False
    return _IS_SECRET.fullmatch(name) is not None


def without_secrets(value: Any) -> Any:
    """A value as YAML holds it, without the entries of mappings, at any depth, that are a secret's, given or not."""
    if isinstance(value, Mapping):
        return {
            key: without_secrets(item)
            for key, item in value.items()
            if not (is_secret(key) and isinstance(item, str | None))
        }
    if isinstance(value, list | tuple):
        return [without_secrets(item) for item in value]
    return value


def hide_in_command(words: list[str]) -> list[str]:
    """The words of a command with *** in place of secrets: options named so, and values of variables named so."""
    hidden, next_is_secret = [], False
    for word in words:
        if next_is_secret and not word.startswith("--"):
            hidden.append(HIDDEN)
            next_is_secret = False
            continue
        next_is_secret = word.startswith("-") and "=" not in word and is_secret(word.lstrip("-"))
        hidden.append(hide(word))
    return hidden


def hide(text: str) -> str:
    """`text` with *** in place of the secrets that can be told in it."""
    for name, value in os.environ.items():
        if is_secret(name) and len(value) >= SHORTEST_VALUE:
            text = text.replace(value, HIDDEN)
    return _SHAPES.sub(HIDDEN, _WITH_VALUE.sub(rf"\1{HIDDEN}", text))
