"""`posttrain-lab es --config FILE [--key value]`: a recipe through `accelerate launch`."""

import os
import sys

from cli.places import ROOT, recipes
from eval.command_line import OneLineParser
from eval.errors import UserError


def start(name: str, words: list[str]) -> None:
    """Become the recipe's process. words: its options, and --launcher."""
    parser = OneLineParser(prog=f"posttrain-lab {name}", add_help=False, allow_abbrev=False)
    parser.add_argument("--launcher")
    options, passed_on = parser.parse_known_args(words)
    command = launch_command(name, options.launcher or default_launcher(), passed_on)
    # In place of this process, so that signals and the exit status are the recipe's.
    os.execv(command[0], command)


def launch_command(name: str, launcher: str, passed_on: list[str]) -> list[str]:
    """The command that starts recipes/`name`.py. -P: the current folder does not get on the path of imports."""
    launchers = {path.stem: path for path in sorted((ROOT / "accelerate_configs").glob("*.yaml"))}
    if launcher not in launchers:
        raise UserError(f"--launcher {launcher!r} is not one of {', '.join(launchers)}")
    launch = [sys.executable, "-P", "-m", "cli.launcher", "--quiet"]
    return [*launch, "--config_file", str(launchers[launcher]), str(recipes()[name]), *passed_on]


def default_launcher() -> str:
    import torch

    return "single_gpu" if torch.cuda.is_available() else "cpu"
