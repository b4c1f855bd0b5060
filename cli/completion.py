"""The completion of commands, options and names, for bash and zsh.

    eval "$(posttrain-lab completion bash)"     in ~/.bashrc; likewise zsh in ~/.zshrc

The shell asks `posttrain-lab` itself at every tab, which answers from files and imports no library.
"""

import argparse
import importlib

from cli import options
from cli.places import ROOT, configs, launchers, recipes


# The command that the shell types.
HIDDEN = "--candidates"
BASH = """\
_posttrain_lab() {
    local IFS=$'\\n'
    COMPREPLY=($(posttrain-lab --candidates "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _posttrain_lab posttrain-lab
"""
ZSH = """\
#compdef posttrain-lab
_posttrain_lab() {
    local -a candidates
    candidates=("${(@f)$(posttrain-lab --candidates "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ -n "${candidates[1]}" ]]; then compadd -- "${candidates[@]}"; else _files; fi
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _posttrain_lab posttrain-lab
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH}
# What stands first after these commands.
ACTIONS = {"tasks": ("list", "describe", "show"), "configs": ("list", "copy", "validate"), "completion": SCRIPTS}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=tuple(SCRIPTS), help="whose script is printed")


def run(arguments: argparse.Namespace) -> None:
    print(SCRIPTS[arguments.shell], end="")


def print_candidates(words: list[str], names: list[str]) -> None:
    """One a line. words: those after `posttrain-lab`, the last one unfinished. names: of all commands."""
    *typed, begun = words or [""]
    for candidate in candidates(typed, begun, names):
        print(candidate)


def candidates(typed: list[str], begun: str, names: list[str]) -> list[str]:
    """What may stand in place of `begun`. None: a file, which the shell completes itself."""
    if not typed:
        found = [*names, "--help"]
    else:
        found = values(typed[0], typed[1:]) if not begun.startswith("-") else flags(typed[0])
        # Dashes and underscores in the name of an option are the same.
        begun = next((one for one in found if one.replace("_", "-").startswith(begun)), begun)[: len(begun)]
    return sorted(candidate for candidate in found if candidate.startswith(begun))


def flags(command: str) -> list[str]:
    if command in recipes():
        return options.flags(command)
    if command in options.listing()["commands"]:
        return options.listing()["commands"][command]
    parser = argparse.ArgumentParser()
    if (ROOT / "cli" / f"{command}.py").exists():
        importlib.import_module(f"cli.{command}").add_options(parser)
    return [flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")]


def values(command: str, typed: list[str]) -> list[str]:
    """Names that may stand next, by the word before them."""
    before = typed[-1].replace("-", "_").removeprefix("__") if typed else ""
    if command in ("tasks", "configs", "completion"):
        if not typed:
            return list(ACTIONS[command])
        if command == "tasks" and before in ("describe", "show"):
            return list(options.listing()["tasks"])
        return list(configs()) if before == "copy" else []
    if before == "launcher" and command in recipes():
        return list(launchers())
    if before in ("task", "tasks", "test_tasks", "further_tasks"):
        return list(options.listing()["tasks"])
    if command in recipes():
        choices = [one.get("choices", []) for one in options.listing()["recipes"][command] if one["name"] == before]
        return choices[0] if choices else []
    return []
