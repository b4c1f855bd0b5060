"""Post-train language models with evolution strategies and with GRPO, and compare the two solutions."""

import sys
from difflib import get_close_matches

from cli import configs, doctor, recipe, tasks, verify
from cli.places import ROOT, first_line, recipes
from eval.command_line import command_name, command_parser
from eval.errors import UserError, exit_with_one_line


ANALYSIS = ("geometry", "connectivity", "kl", "theory", "planted", "clocks", "table", "report")
EVAL = ("score", "evaluate", "perplexity", "holdouts")
OWN = {command_name(module): module for module in (verify, tasks, configs, doctor)}


def main() -> None:
    name, *words = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h"):
        print(overview())
    elif name in recipes():
        recipe.start(name, words)
    elif name in ANALYSIS:
        from analysis.__main__ import main as analysis

        analysis([name, *words], prog="posttrain-lab")
    elif name in EVAL:
        from eval.__main__ import main as evaluation

        evaluation([name, *words], prog="posttrain-lab")
    elif name in OWN:
        arguments = command_parser("posttrain-lab", "", OWN.values(), allow_abbrev=False).parse_args([name, *words])
        arguments.run(arguments)
    else:
        close = get_close_matches(name, [*recipes(), *ANALYSIS, *EVAL, *OWN], n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UserError(f"unknown command {name!r}{hint}; `posttrain-lab --help` lists them")


def overview() -> str:
    """Every command with the first line of the file that does it."""
    groups = {
        "train and compare (--launcher NAME of accelerate_configs/; else single_gpu or cpu)": recipes(),
        "measure what is finished": {name: ROOT / "analysis" / "commands" / f"{name}.py" for name in ANALYSIS},
        "score": {name: ROOT / "eval" / "commands" / f"{name}.py" for name in EVAL},
        "look around": {name: ROOT / "cli" / f"{name}.py" for name in OWN},
    }
    lines = ["usage: posttrain-lab COMMAND [options]", "", str(__doc__)]
    for heading, files in groups.items():
        lines += ["", f"{heading}:", *(f"  {name:16} {first_line(path)}" for name, path in files.items())]
    return "\n".join([*lines, "", "posttrain-lab COMMAND --help explains every option of a command."])


def run() -> None:
    """The console script."""
    exit_with_one_line(main)


if __name__ == "__main__":
    run()
