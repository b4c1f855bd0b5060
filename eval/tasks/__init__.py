"""Tasks by name. A task of your own is a mapping with `data` and `reward`, a .yaml file that holds one, or an object:
"file.py:attribute", or "package.module:attribute" of an installed package.
"""

import importlib
import json
from collections import ChainMap
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import yaml

from eval.errors import UserError
from eval.tasks.arithmetic import Arithmetic
from eval.tasks.base import Score, Task
from eval.tasks.boolq import BoolQ
from eval.tasks.conciseness import Conciseness
from eval.tasks.countdown import Countdown
from eval.tasks.countdown_hub import CountdownHub
from eval.tasks.four_choice import FourChoice
from eval.tasks.gsm8k import GSM8K
from eval.tasks.gsm8k_small import GSM8KSmall
from eval.tasks.hendrycks_math import HendrycksMath
from eval.tasks.largest_number import LargestNumber
from eval.tasks.last_word import LastWord
from eval.tasks.longest_word import LongestWord
from eval.tasks.mixture import Mixture
from eval.tasks.own import DEFAULTS, DIGEST, OwnTask, default_name, own_task, reward_entries, say
from eval.tasks.reasoning_gym import PREFIX, ReasoningGym
from eval.tasks.sciknoweval import SciKnowEvalChemistry
from eval.tasks.short_countdown import ShortCountdown
from eval.tasks.short_sum import ShortSum
from eval.tasks.user_code import load_attribute
from eval.tasks.word_count import WordCount
from eval.tasks.yes_no import YesNo


__all__ = [
    "BUILT_IN",
    "PAPER_TASKS",
    "SMALL_TASKS",
    "TASKS",
    "OwnSpec",
    "OwnTask",
    "Score",
    "Task",
    "TaskSpec",
    "get_task",
    "is_own",
    "known_names",
    "own_data",
    "own_mapping",
    "task_name",
    "task_spec",
]

# How a task is named: by a name, or by a mapping of `eval.tasks.own.DEFAULTS` and `data`.
TaskSpec = str | Mapping[str, Any]


# The offline tasks that the tiny models can do.
TASKS: dict[str, Task] = {task.name: task for task in (Countdown(), Arithmetic(), FourChoice(), YesNo())}

# The papers' tasks, for models that have read more than the tiny ones.
PAPER_TASKS: dict[str, Task] = {
    task.name: task
    for task in (CountdownHub(), HendrycksMath(), SciKnowEvalChemistry(), BoolQ(), GSM8K(), Conciseness())
}

SHORT = (LastWord(), LongestWord(), WordCount(), LargestNumber(), ShortSum(), ShortCountdown())
# For instruct models of a hundred million parameters: short prompts, no form but the bare answer, graded.
SMALL_TASKS: dict[str, Task] = {task.name: task for task in (*SHORT, Mixture("short_answers", SHORT), GSM8KSmall())}

# In this order: a ChainMap goes through its last mapping first.
BUILT_IN: Mapping[str, Task] = ChainMap(SMALL_TASKS, PAPER_TASKS, TASKS)


class OwnSpec(str):
    """The name of a task of one's own, which knows what the task is made of.

    It goes wherever a name goes (keys, files, JSON), and `get_task` opens it. mapping: all of its keys, with digests.
    """

    mapping: dict[str, Any]

    def __new__(cls, mapping: Mapping[str, Any]) -> "OwnSpec":
        spec = super().__new__(cls, mapping["name"])
        spec.mapping = dict(mapping)
        return spec

    def __reduce__(self):
        return OwnSpec, (self.mapping,)


# What makes an object a task, see `eval.tasks.base.Task`.
MEMBERS = ("name", "load", "score")


def known_names() -> str:
    """Every way to name a task, for --help and for messages."""
    return f"{', '.join(BUILT_IN)}, {PREFIX}NAME, own.yaml, file.py:TASK, or package.module:attribute"


def get_task(spec: TaskSpec) -> Task:
    """The task that `spec` names: a built-in one, a `reasoning_gym/<generator>`, data of one's own, or an object.

    A mapping is {data, prompt_column, answer_column, reward, system_prompt, name}; a string that ends in `.yaml` is a
    file that holds one, its paths from its own folder on; "file.py:attribute" and "package.module:attribute" are
    objects. Raises UserError for everything else.
    """
    if is_own(spec):
        return _own(own_mapping(spec))
    spec = cast(str, spec)
    if spec in BUILT_IN:
        return BUILT_IN[spec]
    if spec.startswith(PREFIX):
        return ReasoningGym(spec.removeprefix(PREFIX))
    if ":" in spec:
        return _checked_object(spec, _object(spec))
    close = get_close_matches(spec, BUILT_IN, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise UserError(f"unknown task {spec!r}; {hint}known tasks: {known_names()}")


def task_name(spec: TaskSpec) -> str:
    """The short name of a task in files and tables: a string itself, or the `name` of a mapping."""
    return own_mapping(spec)["name"] if is_own(spec) else str(spec)


def task_spec(spec: TaskSpec) -> str:
    """`spec` as configurations hold it: a name as it is; a task of one's own as `OwnSpec`, with its digests."""
    task = _own(own_mapping(spec)) if is_own(spec) else None
    return str(spec) if task is None else OwnSpec(task.source)


def own_data(specs: Iterable[TaskSpec]) -> dict[str, Any]:
    """What results.json says of data and rewards of one's own: {"own_data": {name: {data, reward, sha256, rows}}}.

    Empty where all tasks are built in.
    """
    tasks = {task_name(spec): get_task(spec) for spec in specs if is_own(spec)}
    described = {
        name: {**task.source, "rows": {split: len(rows) for split, rows in task.rows.items()}}
        for name, task in tasks.items()
        if isinstance(task, OwnTask)
    }
    return {"own_data": described} if described else {}


def is_own(spec: TaskSpec) -> bool:
    return isinstance(spec, Mapping | OwnSpec) or spec.endswith(".yaml")


def own_mapping(spec: TaskSpec) -> dict[str, Any]:
    """The keys of a task of one's own, all of them. Raises UserError for unknown keys and wrong types."""
    if isinstance(spec, OwnSpec):
        return dict(spec.mapping)
    place = "task" if isinstance(spec, Mapping) else spec
    given = dict(spec) if isinstance(spec, Mapping) else _read_yaml(Path(spec))
    known = {"data": "", **DEFAULTS, DIGEST: ""}
    for key, value in given.items():
        if key not in known:
            close = get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; it takes {', '.join(known)}"
            raise UserError(f"{place}: unknown key {key!r}{hint}")
        if key != "reward" and not isinstance(value, str):
            raise UserError(f"{place}: {key} is {value!r}; give text")
    if not given.get("data"):
        raise UserError(f"{place} has no data; give a file of rows, or hub/name")
    name = given.get("name") or default_name(given["data"])
    if name in BUILT_IN:
        name = f"own-{name}"
    return {**known, **given, "name": name, "reward": reward_entries(given.get("reward"))}


def _read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a file. Paths in it are taken from the file's folder on."""
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"there is no task file {path}; check the path") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"cannot read the task file {path}: {' '.join(str(error).split())}") from error
    if not isinstance(given, dict):
        raise UserError(f"{path} holds no mapping; write data: and reward:, see docs/own-data.md")
    if isinstance(data := given.get("data"), str) and (path.parent / data).is_file():
        given["data"] = str(path.parent / data)
    given["reward"] = [
        entry | {"reward": str(path.parent / entry["reward"])} if ".py:" in entry["reward"] else entry
        for entry in reward_entries(given.get("reward"))
    ]
    return {"name": path.stem, **given}


def _own(mapping: dict[str, Any]) -> OwnTask:
    """The task, read once as long as its files stay the same. What it has is said when it is read."""
    files = [mapping["data"], *(entry["reward"].rpartition(":")[0] for entry in mapping["reward"])]
    stamps = [
        (path.stat().st_mtime_ns, path.stat().st_size) if (path := Path(file).expanduser()).is_file() else None
        for file in files
    ]
    key = json.dumps([mapping, stamps, str(Path.cwd())], sort_keys=True)
    if key not in _OPENED:
        _OPENED[key] = own_task(**mapping)
        say(_OPENED[key].describe())
    return _OPENED[key]


_OPENED: dict[str, OwnTask] = {}


def _object(spec: str) -> Any:
    """What `file.py:attribute` or `package.module:attribute` names."""
    module_name, attribute = spec.split(":", 1)
    if module_name.endswith(".py"):
        return load_attribute(spec)
    try:
        return vars(importlib.import_module(module_name))[attribute]
    # ValueError, TypeError: no name, half a name, a name that begins with a dot.
    except (ModuleNotFoundError, ValueError, TypeError) as error:
        raise UserError(f"task {spec!r}: cannot import {module_name} ({error}); check the dotted path") from error
    except KeyError as error:
        raise UserError(f"task {spec!r}: {module_name} has no {attribute!r}; check the dotted path") from error


def _checked_object(spec: str, task: Any) -> Task:
    if isinstance(task, type) or not all(hasattr(task, member) for member in MEMBERS):
        raise UserError(
            f"task {spec!r} is {'a class' if isinstance(task, type) else f'a {type(task).__name__}'}, no task: "
            f"an object with {', '.join(MEMBERS)}; name one, such as my_tasks:TASK"
        )
    return task
