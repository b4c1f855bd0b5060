"""Measure checkpoints; results go to DIR/results.json.

Each part that is measured is one section of results.json. The file has

    methods        names of all checkpoints, in the order in which they came
    inputs         {section: {"checkpoints": {name: SHA-256 of its files}, "options": {...}, "folders": {name: path}}}
    geometry       norms, cosines and sparsity: see analysis.geometry.updates.update_geometry
    spectra        singular values, ranks and subspaces: see analysis.geometry.spectra.update_spectra
    trajectory     the path through the checkpoints in their order: see analysis.geometry.trajectory.drift
    connectivity   lines between the models: see analysis.behaviour.lines.straight_lines
    layer_lines    the same with one layer moving at a time: see analysis.behaviour.lines.part_lines
    kind_lines     the same with one kind of matrix moving at a time
    plane          a grid on the plane through three models: see analysis.behaviour.plane.plane
    probes         odd and even parts along updates and random directions: see analysis.behaviour.probes.probes
    kl             {checkpoint: {task: {"forward", "reverse"}}}: see analysis.behaviour.kl.kl_drift
    kl_matrices    {"order", "incremental", "cumulative"}: see analysis.behaviour.kl.kl_matrices
    kl_text        {checkpoint: {"forward", "reverse", "perplexity"}}: see analysis.behaviour.free_text.text_kl
    theory         {run of evolution strategies: see analysis.theory.predictions.predict}
    asked          what `analyse` was asked for; its page leaves out everything else
    claims         verdicts over many comparisons, by recipes/claims.py: see analysis.claims.judge.judge
    circuits       {task: {"nodes", "examples", ...}}: see analysis.circuits.change.task_change

and, if recipes/compare.py wrote it, what that recipe adds. Pairs are keyed "a|b". Rewards are shares of 1, losses and
divergences in nats, norms Euclidean; every KL states its direction, estimator, sampling and prompts. A section that
is there already for the same files and options is not measured again.
"""

from analysis.commands import analyse, circuits, clocks, connectivity, geometry, kl, planted, report, table, theory
from eval.command_line import OneLineParser, command_parser
from eval.errors import exit_with_one_line


COMMANDS = (analyse, geometry, connectivity, kl, theory, circuits, planted, report, table, clocks)


def build_parser(prog: str = "python -m analysis") -> OneLineParser:
    return command_parser(prog, __doc__, COMMANDS, allow_abbrev=True)


def main(words: list[str] | None = None, prog: str = "python -m analysis") -> None:
    """words: the command and its options (default: the command line)."""
    arguments = build_parser(prog).parse_args(words)
    arguments.run(arguments)


if __name__ == "__main__":
    exit_with_one_line(main)
