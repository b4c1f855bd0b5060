"""Every YAML of recipes/ with random mutations: accepted or refused in one line, never another exception."""

import random
import re
import warnings
from pathlib import Path
from typing import Any

import yaml
from transformers import TrainingArguments

from eval.errors import UserError
from tests.chaos.findings import Report
from tests.recipe_files import ROOT, load_script, recipe_yamls, script_of
from trainers.arguments import as_flat_dict, parse, read_yaml


VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    3,
    10**30,
    -(10**30),
    0.0,
    -0.5,
    1e-300,
    1e300,
    float("nan"),
    float("inf"),
    "",
    " ",
    "text",
    "null",
    "1e3",
    "~",
    "\x85",
    "\ud800",
    "a" * 10_000,
    "$x_2$",
    "../..",
    "/",
    "os:system",
    "line\nbreak",
    [],
    [[]],
    [None],
    ["es", "es"],
    [{}],
    {},
    {"a": {"b": {"c": 1}}},
    {1: 2},
    [1, "two", None, 3.5],
    "2026-11-25",
    "0x10",
)
TEXTS = (
    "",
    "-",
    "[",
    "{",
    "a: b: c",
    "- a\n- b",
    "\t",
    "a: *unknown",
    "&a [*a]",
    "? [a]\n: b",
    "!!python/object:os.system x",
    "a: 1\na: 2",
    "\ufeffoutput_dir: x",
    "%YAML 9.9",
    "[" * 3000,
    "base: nothing.yaml",
    "base: [1]",
    "key: !!binary x",
)


def configs(report: Report, folder: Path, count: int, seed: int) -> None:
    """`count` mutations over all files, read as their script reads them, and written and read back where accepted."""
    folder.mkdir(parents=True)
    generator = random.Random(seed)
    paths = recipe_yamls()
    accepted = 0
    warnings.simplefilter("ignore")
    for number in range(count):
        if report.left < 1:
            report.note("ended after", number)
            break
        path = paths[number % len(paths)]
        text, said = mutated_text(path, generator)
        given = folder / "given.yaml"
        given.write_bytes(text.encode("utf-8", "surrogatepass"))
        accepted += read(report, script_of(path), given, f"{path} with {said}")
    report.note("accepted", accepted)


def read(report: Report, script: str, given: Path, said: str) -> bool:
    """Whether the configuration is accepted. Anything but that and a one-line refusal is a finding."""
    types = load_script(script).CONFIG_TYPES
    arguments = ["--config", str(given)]
    if any(issubclass(type_, TrainingArguments) for type_ in types):
        arguments += ["--use_cpu", "true"]
    try:
        configs = parse(*types, arguments=arguments)
        as_flat_dict(*configs)
    except UserError as error:
        lines = str(error).strip()
        report.case(bool(lines), f"{said}: refused without a word")
        return False
    except (Exception, SystemExit) as error:  # whatever it is, it is a finding
        report.case(False, f"{said}: {type(error).__name__} {str(error)[:160]}")
        return False
    report.case(True)
    return True


def mutated_text(path: str, generator: random.Random) -> tuple[str, str]:
    """The file's text after one to three changes of its values, or a change of its text; and what was changed."""
    if generator.random() < 0.2:
        text = (ROOT / path).read_text(encoding="utf-8")
        at, piece = generator.randrange(len(text)), generator.choice(TEXTS)
        kind = generator.choice(("instead", "inserted", "cut"))
        changed = {"instead": piece, "inserted": text[:at] + piece + text[at:], "cut": text[:at]}[kind]
        return changed, f"{kind} {piece[:30]!r} at {at}"
    values = read_yaml(ROOT / path)
    said = [mutate(values, generator) for _ in range(generator.randint(1, 3))]
    text = yaml.dump(values, sort_keys=False, allow_unicode=False)
    return text, ", ".join(said)


def mutate(values: dict[str, Any], generator: random.Random) -> str:
    """Change one thing in the mapping or in one of those within it."""
    if not values:
        values["output_dir"] = generator.choice(VALUES)
        return "output_dir alone"
    key = generator.choice(list(values))
    inner = values[key]
    if isinstance(inner, list) and inner and isinstance(inner[0], dict) and generator.random() < 0.6:
        return f"{key}[].{mutate(generator.choice(inner), generator)}"
    if isinstance(inner, dict) and inner and generator.random() < 0.6:
        return f"{key}.{mutate(inner, generator)}"
    kind = generator.random()
    if kind < 0.1:
        del values[key]
        return f"without {key}"
    if kind < 0.2:
        other = re.sub(r".$", generator.choice(["", "x", "_"]), str(key))
        values[other] = values.pop(key)
        return f"{key} called {other}"
    values[key] = generator.choice(VALUES)
    return f"{key} = {values[key]!r:.60}"
