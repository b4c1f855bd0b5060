"""Verify a finished training: its files against their digests, and a run of evolution strategies by making it again.

python -m trainers.verify RUN [--steps N]

One line for each check, and status 1 if one of them failed. A run of evolution strategies is replayed from its log,
and N of its steps are made again with their completions. Other trainings keep no such log: of them the files are
compared with the digests in results.json. With other versions of the libraries, or on another machine, an unchanged
run may come out different; what differs is said first. docs/determinism.md says what is promised.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import yaml

from eval.command_line import OneLineParser, at_least
from eval.digests import RUN_FILES, file_digest, model_digest
from eval.errors import UserError, exit_with_one_line
from eval.results_file import kind_of, read_results_file
from eval.storage import read_json, read_yaml_mapping
from trainers.arguments import from_yaml
from trainers.es.config import ESConfig
from trainers.es.objects import Objects
from trainers.es.verify import Check, verify_es
from trainers.run_folder import PACKAGES, describe_environment


def build_parser(prog: str = "python -m trainers.verify") -> OneLineParser:
    layout = argparse.RawDescriptionHelpFormatter
    parser = OneLineParser(prog=prog, description=__doc__, formatter_class=layout, allow_abbrev=False)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished training")
    parser.add_argument(
        "--steps",
        type=at_least(1),
        default=3,
        help="steps of evolution strategies that are made again with their completions (default: %(default)s)",
    )
    return parser


def main(words: list[str] | None = None, prog: str = "python -m trainers.verify") -> None:
    """words: the options (default: the command line). Leaves with status 1 if a check failed."""
    arguments = build_parser(prog).parse_args(words)
    failed = 0
    for what, wrong in verify(arguments.run, arguments.steps):
        print(f"ok     {what}" if wrong is None else f"WRONG  {what}: {wrong}", flush=True)
        failed += wrong is not None
    print(f"{arguments.run}: {f'{failed} checks failed' if failed else 'verified'}")
    sys.exit(int(failed > 0))


def verify(run: Path, steps: int) -> Iterator[Check]:
    """The checks of a run. Raises UserError if it is no finished training."""
    results = finished_training(run)
    environment = read_json(run / "environment.json")
    if changes := changed_environment(environment):
        print(f"note: bits may differ, because {'; '.join(changes)}")
    method = results.get("method", "rules" if "rule" in results else "pretrain")
    if method != "es":
        print(f"a run of {method} keeps no log to replay: its files are compared with their digests")
    yield from file_checks(run, results)
    if given := objects_of(run):
        print(f"steps cannot be made again: {', '.join(given)} were objects of a Python script")
    elif method == "es":
        # Sums of many numbers depend on how many threads share them.
        torch.set_num_threads(environment["torch_threads"])
        (config,) = from_yaml(run / "config.yaml", (ESConfig,), {"output_dir": str(run), "report_to": "none"})
        yield from verify_es(config, run, steps)


def objects_of(run: Path) -> list[str]:
    """What a run of `ESTrainer` was given that only its script has."""
    config = read_yaml_mapping(run / "config.yaml")
    return [one.name for one in fields(Objects) if config.get(one.name) is not None]


def finished_training(run: Path) -> dict[str, Any]:
    """Its results.json. Raises UserError for what is none, naming the trainings of a study."""
    if not (run / "results.json").is_file():
        raise UserError(f"{run} has no results.json: it is no finished training; start its command again to finish it")
    results = read_results_file(run / "results.json")
    if kind_of(results) != "training":
        trainings = sorted(str(file.parent) for file in run.glob("*/**/results.json"))
        named = f", such as {trainings[0]}" if trainings else ""
        raise UserError(f"{run} is a study ({kind_of(results)}), not a training; verify one of its trainings{named}")
    return results


def file_checks(run: Path, results: dict[str, Any]) -> Iterator[Check]:
    """config.yaml, the models and the logs against the digests in results.json."""
    digests = results.get("digests")
    if digests is None:
        yield "results.json has digests", "it has none; it was written by an older version"
        return
    files = {"config.yaml": digests["config"], **{name: digests["files"].get(name) for name in RUN_FILES}}
    for name, expected in files.items():
        if expected is not None or (run / name).is_file():
            yield f"{name} is the file that was measured", compared(expected, run / name)
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    for name, expected in digests["models"].items():
        model = config["model"] if name == "start" else run / name
        yield f"the files of {model} are those that were measured", compared(expected, model)


def compared(expected: str | None, file: Path | str) -> str | None:
    """What is wrong with a file, or with the folder of a model; None if it has this digest."""
    if isinstance(file, Path) and not file.exists():
        return "it is not there"
    # A model to start from is a name, which may be that of a GGUF file.
    found = model_digest(file) if isinstance(file, str) or file.is_dir() else file_digest(file)
    if found == expected:
        return None
    return f"SHA-256 is {found[:16]}..., and results.json has {'none' if expected is None else expected[:16] + '...'}"


def changed_environment(then: dict[str, Any]) -> list[str]:
    """What differs here from where the run was made, of all that bits depend on."""
    now = describe_environment()
    changes = [
        f"{name} was {then['packages'].get(name)} and is {now['packages'].get(name)}"
        for name in PACKAGES
        if then["packages"].get(name) != now["packages"].get(name)
    ]
    return changes + [
        f"{key} was {then.get(key)} and is {now[key]}" for key in ("cpu", "device") if then.get(key) != now[key]
    ]


if __name__ == "__main__":
    exit_with_one_line(main)
