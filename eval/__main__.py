"""Score completions, or evaluate a model."""

from eval.command_line import OneLineParser, command_parser
from eval.commands import evaluate, holdouts, perplexity, score
from eval.errors import exit_with_one_line


COMMANDS = (score, evaluate, perplexity, holdouts)


def build_parser(prog: str = "python -m eval") -> OneLineParser:
    return command_parser(prog, __doc__, COMMANDS, allow_abbrev=False)


def main(words: list[str] | None = None, prog: str = "python -m eval") -> None:
    """words: the command and its options (default: the command line)."""
    arguments = build_parser(prog).parse_args(words)
    arguments.run(arguments)


if __name__ == "__main__":
    exit_with_one_line(main)
