"""`posttrain-lab es --config FILE [--key value]`: a recipe through `accelerate launch`."""

import os
import sys

from cli import options
from cli.places import launchers, recipes
from eval.errors import UserError


# Any of them, and there may be a GPU: of CUDA, of Windows' Linux, of ROCm.
GPU_FILES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


def start(name: str, words: list[str]) -> None:
    """Become the recipe's process. words: its options, and --launcher.

    Where the listing is that of the installed libraries, it explains the options, and an unknown one ends here and not
    after the seconds that the recipe takes to import.
    """
    known = options.is_current()
    if known and ("--help" in words or "-h" in words):
        print(options.recipe_parser(name).format_help(), end="")
        return
    launcher, passed_on = without_launcher(words)
    if known:
        options.check_flags(name, passed_on)
    command = launch_command(name, launcher or default_launcher(), passed_on)
    # In place of this process, so that signals and the exit status are the recipe's.
    os.execv(command[0], command)


def without_launcher(words: list[str]) -> tuple[str | None, list[str]]:
    """What --launcher names, and the other words."""
    launcher, others = None, []
    remaining = iter(words)
    for word in remaining:
        if word == "--launcher":
            launcher = next(remaining, "")
        elif word.startswith("--launcher="):
            launcher = word.partition("=")[2]
        else:
            others.append(word)
    return launcher, others


def launch_command(name: str, launcher: str, passed_on: list[str]) -> list[str]:
    """The command that starts recipes/`name`.py. -P: the current folder does not get on the path of imports."""
    if launcher not in launchers():
        raise UserError(f"--launcher {launcher!r} is not one of {', '.join(launchers())}")
    launch = [sys.executable, "-P", "-m", "cli.launcher", "--quiet"]
    return [*launch, "--config_file", str(launchers()[launcher]), str(recipes()[name]), *passed_on]


def default_launcher() -> str:
    """cpu, or single_gpu where torch sees a GPU."""
    if sys.platform.startswith("linux") and not any(map(os.path.exists, GPU_FILES)):
        return "cpu"  # known without the seconds that torch takes to import
    import torch

    return "single_gpu" if torch.cuda.is_available() else "cpu"
