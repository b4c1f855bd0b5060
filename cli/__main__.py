"""Post-train language models with evolution strategies and with GRPO, and compare the two solutions."""

import sys
from difflib import get_close_matches

from cli import completion, configs, doctor, recipe, tasks, verify
from cli.places import ROOT, commands, first_line, recipes
from eval.command_line import command_name, command_parser
from eval.errors import UserError, exit_with_one_line


ANALYSIS = tuple(commands("analysis"))
EVAL = tuple(commands("eval"))
OWN = {command_name(module): module for module in (verify, tasks, configs, doctor, completion)}
ALIASES = {"eval": "evaluate"}
# With nothing to say they have something to do; another command alone explains itself.
COMPLETE_ALONE = ("tasks", "configs", "doctor")


def main() -> None:
    """Exit status 0 for help that was asked for, 2 for that of a command that was typed without what it needs."""
    name, *words = sys.argv[1:] or ["--help"]
    name = ALIASES.get(name, name)
    if name in ("--help", "-h"):
        print(overview())
    elif name == completion.HIDDEN:
        completion.print_candidates(words, names())
    elif name not in names():
        close = get_close_matches(name, names(), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UserError(f"unknown command {name!r}{hint}; `posttrain-lab --help` lists them")
    elif not words and name not in COMPLETE_ALONE:
        try:
            start(name, ["--help"])
        except SystemExit:
            pass
        sys.exit(2)
    else:
        start(name, words)


def names() -> list[str]:
    return [*recipes(), *ANALYSIS, *EVAL, *OWN, *ALIASES]


def start(name: str, words: list[str]) -> None:
    if name in recipes():
        recipe.start(name, words)
    elif name in ANALYSIS:
        from analysis.__main__ import main as analysis

        analysis([name, *words], prog="posttrain-lab")
    elif name in EVAL:
        from eval.__main__ import main as evaluation

        evaluation([name, *words], prog="posttrain-lab")
    else:
        arguments = command_parser("posttrain-lab", "", OWN.values(), allow_abbrev=False).parse_args([name, *words])
        arguments.run(arguments)


def overview() -> str:
    """Every command with the first line of the file that does it."""
    groups = {
        "train and compare (--launcher NAME of accelerate_configs/; else single_gpu or cpu)": recipes(),
        "measure what is finished": commands("analysis"),
        "score": commands("eval"),
        "look around": {name: ROOT / "cli" / f"{name}.py" for name in OWN},
    }
    lines = ["usage: posttrain-lab COMMAND [options]", "", str(__doc__)]
    for heading, files in groups.items():
        lines += ["", f"{heading}:", *(f"  {name:16} {first_line(path)}" for name, path in files.items())]
    aliases = ", ".join(f"{alias} is {name}" for alias, name in ALIASES.items())
    ending = f"posttrain-lab COMMAND --help explains every option of a command. {aliases}."
    return "\n".join([*lines, "", ending])


def run() -> None:
    """The console script."""
    exit_with_one_line(main)


if __name__ == "__main__":
    run()
