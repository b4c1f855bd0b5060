"""What the documents say can be typed, is parsed by what it is typed to; what they point to is there."""

import argparse
import ast
import importlib
import importlib.util
import pkgutil
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser
from transformers import TrainingArguments

from analysis.__main__ import build_parser as analysis_parser
from cli.__main__ import ALIASES, ANALYSIS, EVAL, OWN
from cli.places import recipes
from eval.__main__ import build_parser as eval_parser
from eval.command_line import command_parser
from tests.recipe_files import ROOT, load_script
from trainers.arguments import parse
from trainers.es.replay import build_parser as replay_parser


PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md", "examples/notebooks/README.md"]
PAGES += sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))
ROOMS = ("recipes", "trainers", "eval", "analysis", "cli", "tests", "docs", "examples", "accelerate_configs")
# What stands for something of the reader's.
PLACEHOLDERS = {
    "DIR": "recipes/tiny/models/llama-small",
    "FILE": "recipes/tiny/es.yaml",
    "TASK": "countdown",
    "ADDRESS": "127.0.0.1",
    "COMMAND": "geometry",
    "RUN": "runs/tiny/es",
    "NAME": "countdown",
    "2N": "2",
    "N": "1",
}
COMMANDS = ("posttrain-lab", "accelerate", "python", "make", "pip")


def page_commands(text: str) -> Iterator[str]:
    """The lines of the code blocks of a Markdown page, and what stands in backquotes within its text."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    for block in blocks:
        yield from lines_of(block)
    rest = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for quoted in re.findall(r"`([^`]+)`", rest):
        yield " ".join(quoted.split())


def lines_of(text: str) -> list[str]:
    """Lines without a comment at their end, those that end with a backslash joined with the next."""
    joined = re.sub(r"\s*\\\n\s*", " ", text)
    return [line.split("  # ")[0].strip() for line in joined.split("\n")]


def source_commands(path: Path) -> Iterator[str]:
    """From the docstrings of a Python file, or from the comments at the top of a YAML file."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        kinds = ast.Module | ast.ClassDef | ast.FunctionDef
        docstrings = [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
        text = "\n".join(docstrings)
    else:
        text = "\n".join(line.lstrip("#").strip() for line in source.split("\n") if line.startswith("#"))
    yield from lines_of(text)
    for quoted in re.findall(r"`([^`]+)`", text):
        yield " ".join(quoted.split())


def is_command(line: str) -> bool:
    """Whether the line is a whole command, and not one with its middle left out or in passing."""
    words = line.split()
    while words and re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    if len(words) < 2 or words[0] not in COMMANDS or "..." in words or "<" in line or line.endswith("."):
        return False
    return words[0] != "accelerate" or (words[1] == "launch" and len(words) > 2)


@cache
def commands() -> list[tuple[str, str]]:
    """(file, command) for every command of the documents, docstrings and headers of YAML files; each once."""
    found = [(page, line) for page in PAGES for line in page_commands((ROOT / page).read_text(encoding="utf-8"))]
    sources = [path for room in ROOMS for path in (ROOT / room).rglob("*") if path.suffix in (".py", ".yaml")]
    sources = [path for path in sources if path != Path(__file__)]
    found += [(str(path.relative_to(ROOT)), line) for path in sorted(sources) for line in source_commands(path)]
    return list(dict.fromkeys((file, line) for file, line in found if is_command(line)))


def words_of(command: str) -> list[str]:
    """The words of a command, with what is optional and with something in every place left to the reader."""
    # [--step N] is optional; inline YAML such as [{name: es}] is none.
    words = shlex.split(re.sub(r"\[(-[^\[\]]*)\]", r"\1", command).replace("--key value", "--seed 1"))
    while re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    words = [word.split("|")[0] if re.fullmatch(r"\w+(\|\w+)+", word) else word for word in words if word != "..."]
    fill = re.compile(rf"(?<![\w])({'|'.join(PLACEHOLDERS)})(?![\w])")
    return [fill.sub(lambda match: PLACEHOLDERS[match[1]], word) for word in words]


def check(command: str) -> None:
    """Raise if what the command is typed to does not take it."""
    name, *words = words_of(command)
    if name == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
        named = [word for word in words if "=" not in word]
        assert set(named) <= set(targets), f"no target {named}"
    elif name == "pip":
        check_extras(words)
    elif name == "posttrain-lab":
        check_own(words)
    elif name == "accelerate":
        arguments = launch_command_parser().parse_args(words[1:])
        assert arguments.config_file is None or (ROOT / arguments.config_file).exists(), arguments.config_file
        check_recipe(arguments.training_script, arguments.training_script_args)
    elif name == "python":
        check_python(words)


def check_extras(words: list[str]) -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for extras in re.findall(r"\.\[([\w,-]+)\]", " ".join(words)):
        assert set(extras.split(",")) <= set(known), extras


def check_own(words: list[str]) -> None:
    if words == [] or "--help" in words:
        return
    name = ALIASES.get(words[0], words[0])
    words = [name, *words[1:]]
    if name in recipes():
        if "--launcher" in words:
            at = words.index("--launcher")
            assert (ROOT / "accelerate_configs" / f"{words[at + 1]}.yaml").exists(), words[at + 1]
            words = words[:at] + words[at + 2 :]
        check_recipe(f"recipes/{name}.py", words[1:])
    elif len(words) == 1 and name in (*ANALYSIS, *EVAL, *OWN):
        pass  # named, not typed
    elif name in ANALYSIS:
        analysis_parser().parse_args(words)
    elif name in EVAL:
        eval_parser().parse_args(words)
    else:
        assert name in OWN, name
        command_parser("posttrain-lab", "", OWN.values(), allow_abbrev=False).parse_args(words)


def check_recipe(script: str, words: list[str]) -> None:
    assert (ROOT / script).exists(), script
    if script.startswith("recipes/") and words:
        types = load_script(script).CONFIG_TYPES
        # They look for the GPU that a recipe with bf16 needs.
        on_cpu = ["--use_cpu", "true"] if any(issubclass(type_, TrainingArguments) for type_ in types) else []
        parse(*types, arguments=[*words, *on_cpu])


def check_python(words: list[str]) -> None:
    if words[0] != "-m":
        check_recipe(words[0], words[1:])
        return
    module, options = words[1], words[2:]
    assert importlib.util.find_spec(module) is not None, module
    parsers = {"analysis": analysis_parser, "eval": eval_parser, "trainers.es.replay": replay_parser}
    # `python -m analysis geometry` names a command, and with options it is typed.
    if module in parsers and len(options) > 1:
        parsers[module]().parse_args(options)
    elif module in ("analysis", "eval") and options:
        assert options[0] in (*ANALYSIS, *EVAL, "circuits"), options[0]
    elif module.startswith("tests.benchmarks."):
        source = (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
        assert [word for word in options if word.startswith("--") and f'"{word}"' not in source] == []


@pytest.mark.slow
def test_commands_are_found_in_every_kind_of_place():
    files = {file for file, _ in commands()}
    assert {"README.md", "CONTRIBUTING.md", "docs/comparison.md", "recipes/es.py", "recipes/tiny/es.yaml"} <= files
    assert len(commands()) > 120
    text = "`posttrain-lab\ntasks` and\n```\nmake check  # why\npython a.py \\\n    --b\n```\n"
    assert list(page_commands(text)) == ["make check", "python a.py --b", "", "posttrain-lab tasks"]
    assert words_of("X=1 python -m a --base DIR [--step N] --part speed|share a=DIR") == (
        "python -m a --base recipes/tiny/models/llama-small --step 1 --part speed a=recipes/tiny/models/llama-small"
    ).split(" ")


@pytest.mark.parametrize(
    "command",
    [
        "make smook",
        "pip install -e '.[maths]'",
        "posttrain-lab es --config recipes/tiny/es.yaml --step 3",
        "posttrain-lab es --config recipes/tiny/es.yaml --launcher gpus",
        "posttrain-lab tasc",
        "python -m analysis kl --base DIR",
        "python -m tests.benchmarks.circuits --model DIR --exmples 3",
        "accelerate launch --config_file accelerate_configs/cup.yaml recipes/es.py --config recipes/tiny/es.yaml",
        "accelerate launch --config_file accelerate_configs/cpu.yaml recipes/es.py --config recipes/tiny/grpo.yaml",
    ],
)
def test_a_wrong_command_is_found(command):
    assert is_command(command)
    with pytest.raises((Exception, SystemExit)):
        check(command)


@pytest.mark.slow
def test_every_command_is_taken_by_what_it_is_typed_to(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(
        argparse.ArgumentParser, "exit", lambda self, status=0, message="": sys.exit(message or status)
    )
    wrong = []
    for file, command in commands():
        if file == "README.md" and "--data rows.jsonl" in command:
            continue  # tests/test_own_folder.py types these, in a folder that has the files
        try:
            check(command)
        except (Exception, SystemExit) as error:
            wrong.append(f"{file}: {command}: {error}")
    assert wrong == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    path = ROOT / page
    links = re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))
    inside = [link.partition("#")[0] for link in links if "://" not in link and not link.startswith("#")]
    assert [link for link in inside if not (path.parent / link).exists()] == []


def test_paths_of_the_repository_that_are_named_exist():
    path = re.compile(rf"(?<![\w./-])(?:{'|'.join(ROOMS)})/[\w./*-]*\w[\w*]*/?(?![\w<])")
    wrong = []
    for page in PAGES:
        if page == "CHANGELOG.md":
            continue  # names what is gone
        for quoted in page_commands((ROOT / page).read_text(encoding="utf-8")):
            wrong += [f"{page}: {name}" for name in path.findall(quoted) if not list(ROOT.glob(name.rstrip("/")))]
    sources = [file for room in ROOMS for file in (ROOT / room).rglob("*") if file.suffix in (".py", ".yaml")]
    for file in sources:
        if file.relative_to(ROOT).parts[0] != "tests":
            for line in source_commands(file):
                for name in path.findall(line):
                    # `recipes/NAME.py` stands for any of them.
                    if not list(ROOT.glob(re.sub(r"(?<=/)`?[A-Z]+`?(?=[./]|$)", "*", name).rstrip("/"))):
                        wrong.append(f"{file.relative_to(ROOT)}: {name}")
    assert wrong == []


@pytest.mark.slow
def test_dotted_names_in_backquotes_exist():
    name = re.compile(rf"(?:{'|'.join(ROOMS)})(?:\.\w+)+")
    wrong = []
    for room in ("trainers", "eval", "analysis", "cli", "recipes"):
        for file in (ROOT / room).rglob("*.py"):
            for quoted in re.findall(r"`([\w.]+)`", file.read_text(encoding="utf-8")):
                if name.fullmatch(quoted) and not exists(quoted):
                    wrong.append(f"{file.relative_to(ROOT)}: {quoted}")
    for page in PAGES:
        quoted = page_commands((ROOT / page).read_text(encoding="utf-8"))
        wrong += [f"{page}: {one}" for one in quoted if name.fullmatch(one) and not exists(one)]
    assert wrong == []


def exists(dotted: str) -> bool:
    try:
        pkgutil.resolve_name(dotted)
    except (ImportError, AttributeError):
        return False
    return True


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 180
