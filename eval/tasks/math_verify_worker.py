"""A process of its own that compares two LaTeX answers with math-verify; see `eval.tasks.equivalence`.

Started by its path, so it imports nothing of the lab. One JSON list [reference, answer] a line in; `true`, `false` or
`null` (undecided) a line out. `ready` is written first. The CPU seconds that one comparison may take come as the
argument; the kernel ends the process when they are used up, also in the middle of a long computation in C, which no
exception could. Comparisons therefore happen in a forked child: when it is ended, the parent, which has imported
everything, answers `null` and forks the next.
"""

import json
import logging
import os
import resource
import signal
import sys
from typing import Any, cast

import sympy
from math_verify import LatexExtractionConfig, parse, verify


MEMORY = 2 * 1024**3  # bytes of address space; a power tower would take all there is
EXTRACTION = [LatexExtractionConfig(boxed_match_priority=0)]
DIGITS = 40
# What builds the parser's tables and loads sympy's parts, once, before the first fork.
WARM_UP = (("\\frac{1}{2}", "0.5"), ("x^2+2x+1", "(x+1)^2"), ("\\sqrt{8}", "2\\sqrt{2}"), ("(1,\\pi)", "(1,\\pi)"))
# Values for symbols: two expressions that agree here to all digits are the same but for a conspiracy.
PROBES = [sympy.Rational(numerator, 97) for numerator in (131, 157, 199, 241, 293, 337, 389, 431)]


def main() -> None:
    seconds = float(sys.argv[1])
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for pair in WARM_UP:
        compare(*pair)
    print("ready", flush=True)
    while True:
        child = os.fork()
        if child == 0:
            serve(seconds)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) == 0:
            return
        print("null", flush=True)


def serve(seconds: float) -> None:
    """Answer until the end of the input. Unbuffered: a line that the child had read ahead would die with it."""
    while line := read_line():
        # CPU time and not wall time: a busy machine must not turn right answers into wrong ones.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        reference, answer = json.loads(line)
        equal = compare(reference, answer)
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(equal), flush=True)


def read_line() -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            return b""
        line += byte
    return line


def compare(reference: str, answer: str) -> bool:
    gold, given = (_parse(f"\\boxed{{{text}}}") for text in (reference, answer))
    # The order matters: math-verify is not symmetric.
    if not verify(gold, given, timeout_seconds=cast(int, None)):
        return False
    # math-verify compares numbers to six decimals. That is right where the reference itself was rounded.
    return "." in reference or not gold or not given or bool(exactly_equal(gold[0], given[0]))


def _parse(text: str) -> list[Any]:
    # No limit of its own, which is an alarm: the kernel's is enough.
    return parse(text, extraction_config=EXTRACTION, parsing_timeout=cast(int, None))


def exactly_equal(one: Any, other: Any) -> bool:
    """Whether two objects that math-verify takes for equal have equal numbers; True where nothing can be compared."""
    if isinstance(one, sympy.MatrixBase) and isinstance(other, sympy.MatrixBase):
        return one.shape == other.shape and all(map(exactly_equal, one.flat(), other.flat()))
    if isinstance(one, sympy.FiniteSet) and isinstance(other, sympy.FiniteSet):
        return all(any(exactly_equal(a, b) for b in other) for a in one)
    if isinstance(one, sympy.Tuple | sympy.Interval | sympy.Union) and type(one) is type(other):
        return len(one.args) == len(other.args) and all(map(exactly_equal, one.args, other.args))
    if isinstance(one, sympy.Expr) and isinstance(other, sympy.Expr):
        return _equal_expressions(one, other)
    return True


def _equal_expressions(one: Any, other: Any) -> bool:
    symbols = sorted(one.free_symbols | other.free_symbols, key=str)
    if len(symbols) > len(PROBES):
        return True
    values = dict(zip(symbols, PROBES, strict=False))
    one, other = one.subs(values), other.subs(values)
    if one.is_Rational and other.is_Rational:
        return one == other
    difference, size = sympy.Abs(one - other).evalf(DIGITS), sympy.Abs(one).evalf(DIGITS)
    if not (difference.is_Float or difference == 0) or not (size.is_Float or size == 0):
        return True  # infinite, or not to be evaluated
    return difference <= size * sympy.Float(10) ** (5 - DIGITS // 2)


if __name__ == "__main__":
    main()
