"""A process of its own that compares two LaTeX answers with math-verify; see `eval.tasks.equivalence`.

Started by its path, so it imports nothing of the lab. One JSON list [reference, answer] a line in, `true` or `false`
a line out. `ready` is written first. The CPU seconds that one comparison may take come as the argument; the kernel
ends the process when they are used up, also in the middle of a long computation in C, which no exception could.
"""

import json
import logging
import resource
import signal
import sys

from math_verify import LatexExtractionConfig, parse, verify


MEMORY = 2 * 1024**3  # bytes of address space; a power tower would take all there is


def main() -> None:
    seconds = float(sys.argv[1])
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    extraction = [LatexExtractionConfig(boxed_match_priority=0)]
    print("ready", flush=True)
    for line in sys.stdin:
        # CPU time and not wall time: a busy machine must not turn right answers into wrong ones.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        reference, answer = (
            parse(f"\\boxed{{{text}}}", extraction_config=extraction, parsing_timeout=None)
            for text in json.loads(line)
        )
        # The order matters: math-verify is not symmetric.
        equal = bool(verify(reference, answer, timeout_seconds=None))
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(equal), flush=True)


if __name__ == "__main__":
    main()
