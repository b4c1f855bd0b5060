"""A population of 1,024 members of rank 1: its memory against one model's, its speed against 64 members'; on Linux.

    python -m tests.benchmarks.population [--model smollm2-135m] [--population 1024] [--population_gb 0.25]

Three processes: one that loads the model in float32 and answers the prompt ("one model"), and ES with 64 and with
--population members, one prompt, 4 new tokens, so that making the members weighs as much as it can. Members are made
and evaluated in portions that fit into --population_gb. Printed are resident bytes at the peak, and completions a
second of a step. 2 minutes alone on 2 cores with SmolLM2-135M.
"""

import argparse
import statistics
from pathlib import Path

from eval.storage import write_json
from tests.benchmarks.drivers.training import measure
from tests.benchmarks.es_memory import LOW_RANK
from trainers.es.memory import size_text


FEW = 64
RUN = LOW_RANK | {
    "task": "short_sum",
    "prompts_per_step": 1,
    "train_size": 64,
    "max_new_tokens": 4,
    "eval_every": 0,
    "save_every": 1000,
    "sigma": 0.005,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m", help="checkpoint folder or name")
    parser.add_argument("--population", type=int, default=1024, help="members of the large population")
    parser.add_argument("--population_gb", type=float, default=0.25, help="memory for the members of a portion")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"], help="of the engine")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--output", help="file for the figures, as JSON")
    arguments = parser.parse_args()
    run = RUN | {
        "model": arguments.model,
        "engine_dtype": arguments.dtype,
        "population_gb": arguments.population_gb,
    }
    print(f"{arguments.model}, {arguments.threads} threads, members in portions of {arguments.population_gb} GB")
    print(f"{'':16}{'peak':>12}{'of one model':>14}{'seconds a step':>16}{'completions/s':>15}")
    _, one = measure("model", [run], arguments.threads)
    print(f"{'one model':16}{size_text(one):>12}", flush=True)
    rows = {}
    for members, steps in ((FEW, 4), (arguments.population, 1)):
        [seconds], peak = measure("es", [run | {"population": members, "steps": steps}], arguments.threads)
        # The first of several steps warms up; of a long one, that is little.
        step = statistics.median(seconds[1:] or seconds)
        rows[members] = {"peak": peak, "seconds": step, "completions_per_second": members / step}
        name = f"{members:,} members"
        print(f"{name:16}{size_text(peak):>12}{peak / one:14.2f}{step:16.1f}{members / step:15.2f}", flush=True)
    share = rows[arguments.population]["completions_per_second"] / rows[FEW]["completions_per_second"]
    print(f"completions a second against {FEW} members: {share:.3f}")
    if arguments.output:
        write_json(Path(arguments.output), {"model": arguments.model, "one_model": one, "populations": rows})


if __name__ == "__main__":
    main()
