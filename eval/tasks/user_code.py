"""Code of a user, loaded from its file: the current folder is never on the path, so that it shadows nothing.

The folder of the file is not importable either: a `json.py` or `wandb/` that happens to lie there would stand in for a
library's. What several files share is to be installed, or loaded by its path.
"""

import hashlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from eval.errors import UserCodeError, UserError


def load_attribute(reference: str) -> Any:
    """What `file.py:attribute` names. Raises UserError, in one line, for a file or an attribute that is not there.

    Raises UserCodeError, with the user's traceback, if the file itself raises.
    """
    file, _, attribute = reference.rpartition(":")
    if not file.endswith(".py") or not attribute:
        raise UserError(f"{reference!r} names no code; write file.py:name")
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"{reference}: there is no file {path}; check the path")
    module = _module(path.resolve(), reference)
    if not hasattr(module, attribute):
        own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        raise UserError(f"{reference}: {path} has no {attribute!r}; it has {', '.join(own) or 'nothing of its own'}")
    return getattr(module, attribute)


def user_traceback(error: BaseException, below: str) -> str:
    """The traceback of `error` from the first frame outside the file `below` that called the user's code."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename != below]
    lines = ["Traceback (most recent call last, from your code on):\n", *traceback.format_list(own)]
    return "".join([*lines, *traceback.format_exception_only(error)]).rstrip()


def _module(path: Path, reference: str) -> ModuleType:
    """The file as a module under a name that nothing else has; executed once as long as its text stays the same."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UserError(f"{reference}: cannot read {path} ({error.strerror}); check its permissions") from error
    name = f"user_code_{hashlib.sha256(str(path).encode() + text).hexdigest()[:16]}_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # it ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        del sys.modules[name]
        raise UserError(
            f"{reference}: {path.name} imports {error.name!r}, which is not installed (its own folder is not on the "
            "path); install it, or put what it needs into the same file"
        ) from error
    except Exception as error:
        del sys.modules[name]
        message = f"{reference}: {path.name} cannot be loaded ({type(error).__name__}: {error}); correct it"
        raise UserCodeError(message, user_traceback(error, "<frozen importlib._bootstrap_external>")) from error
    return module
