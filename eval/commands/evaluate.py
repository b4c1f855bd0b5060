"""Let a model answer the rows of tasks.

Greedily, unless a temperature is given. Writes results.json, with the accuracy of each task and its 95 % interval, and
TASK.jsonl for each task, with every prompt, completion and score; completions/TASK.parquet has them with the columns
of the problems, in TRL's form.
"""

import argparse
import math
from pathlib import Path
from typing import Any

from eval.command_line import at_least, seed
from eval.commands.output import write_jsonl
from eval.commands.own_options import add_own_data_options, own_tasks
from eval.errors import UserError
from eval.folders import check_writable
from eval.ownership import claim_files
from eval.storage import write_json
from eval.tasks import get_task, known_names, own_data
from eval.tasks.base import SPLITS


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", required=True, metavar="DIR", help="Hugging Face checkpoint folder, or the name of a hub model"
    )
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=[],
        metavar="TASK",
        help=f"names of tasks, separated by spaces or commas: {known_names()}",
    )
    add_own_data_options(parser)
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="folder to write to; made if it does not exist"
    )
    parser.add_argument("--size", type=at_least(1), default=500, help="rows of each task (default: %(default)s)")
    parser.add_argument(
        "--seed", type=seed, default=0, help="seed of the rows and of the sampling (default: %(default)s)"
    )
    parser.add_argument(
        "--split", choices=SPLITS, default="test", help="split that the rows come from (default: %(default)s)"
    )
    parser.add_argument(
        "--temperature",
        type=_temperature,
        default=0.0,
        help="sampling temperature; 0 is greedy (default: %(default)s)",
    )
    parser.add_argument(
        "--max_new_tokens",
        type=at_least(1),
        default=128,
        help="tokens after which a completion is cut (default: %(default)s)",
    )
    parser.add_argument(
        "--batch_size",
        type=at_least(1),
        default=512,
        help="prompts answered at once; lower it if memory runs out (default: %(default)s)",
    )
    parser.add_argument(
        "--samples",
        type=at_least(1),
        default=1,
        help="completions of each prompt; several need a temperature and give pass@k (default: %(default)s)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="precision of the model; bfloat16 is faster where the processor has it (default: %(default)s)",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="folder of earlier results; the same weights, task, rows and sampling are then not evaluated again",
    )


def _temperature(text: str) -> float:
    try:
        temperature = float(text)
    except ValueError:
        temperature = math.nan
    if not 0 <= temperature < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is neither 0 nor a positive number")
    return temperature


def run(arguments: argparse.Namespace) -> None:
    """results.json is removed first and written last, so that the records beside it are its own."""
    specs = [name.strip() for entry in arguments.tasks for name in entry.split(",")] + own_tasks(arguments)
    if not specs:
        raise UserError("there is nothing to evaluate on; give --tasks, or --data and --reward of your own")
    tasks = [get_task(spec) for spec in specs]
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise UserError(f"--tasks {' '.join(arguments.tasks)} names a task twice; name each once")
    if arguments.samples > 1 and arguments.temperature == 0:
        raise UserError(f"--samples {arguments.samples} without --temperature would all be the same; give both")
    check_writable(arguments.output, "--output")
    # A reasoning-gym task has a slash in its name.
    records = {name: f"{name.replace('/', '-')}.jsonl" for name in names}
    import torch

    from eval.completions import file_name, write_completions
    from eval.digests import data_digests, file_digest, model_digest
    from eval.harness import evaluate_task
    from eval.rollout.base import Sampling
    from eval.rollout.hf import HFEngine

    engine = HFEngine.from_pretrained(arguments.model, dtype=getattr(torch, arguments.dtype))
    tables = {name: f"completions/{file_name(name)}.parquet" for name in names}
    claim_files(arguments.output, ["results.json", *records.values(), *tables.values()])
    sampling = Sampling(arguments.max_new_tokens, arguments.temperature, arguments.samples, arguments.seed)
    results_file = arguments.output / "results.json"
    results_file.unlink(missing_ok=True)
    results = {
        "model": arguments.model,
        "split": arguments.split,
        "size": arguments.size,
        "seed": arguments.seed,
        "temperature": arguments.temperature,
        "max_new_tokens": arguments.max_new_tokens,
        **({"samples": arguments.samples} if arguments.samples > 1 else {}),
        **({"dtype": arguments.dtype} if arguments.dtype != "float32" else {}),
        "tasks": {},
    }
    for task in tasks:
        result = evaluate_task(
            engine,
            task,
            arguments.split,
            arguments.size,
            arguments.seed,
            sampling,
            arguments.batch_size,
            arguments.cache,
        )
        answers = result.pop("records")
        write_jsonl(arguments.output / records[task.name], answers)
        problems = task.load(arguments.split, arguments.size, arguments.seed).to_list()
        write_completions(arguments.output / tables[task.name], task.name, answers, problems)
        results["tasks"][task.name] = result
    sizes = [(spec, arguments.size) for spec in specs]
    results |= own_data(specs)
    results["digests"] = {
        "models": {"model": model_digest(arguments.model)},
        "data": data_digests(sizes, arguments.split, arguments.seed),
        "files": {table: file_digest(arguments.output / table) for table in tables.values()},
    }
    write_json(results_file, results)
    for name, result in results["tasks"].items():
        print(f"{name:16} {_describe(result)}")
    print(f"results in {results_file}")


def _describe(result: dict[str, Any]) -> str:
    """`accuracy 0.412, 95 % interval 0.370 to 0.456, 500 rows`"""
    if result["low"] is None:
        return f"no interval, {result['total']} rows scored, {result['unscorable']} unscorable"
    reward = f", mean reward {result['reward']:.3f}" if "reward" in result else ""
    differ = f", {result['spread']:.0%} of the rows with different rewards" if "spread" in result else ""
    return (
        f"accuracy {result['accuracy']:.3f}, 95 % interval {result['low']:.3f} to {result['high']:.3f}, "
        f"{result['total']} rows scored, {result['unscorable']} unscorable{reward}{differ}"
    )
