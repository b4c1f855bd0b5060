"""Libraries for evolution strategies on language models, and plain TRL, beside the lab, in one run.

    python -m tests.benchmarks.peers [--parts es grpo accuracy] [--threads 2] [--steps 3] [--output runs/peers]

Each library is installed, pinned, from the package registry into a virtual environment of its own (under --output and
kept there) and driven by its documented interface from tests/benchmarks/drivers, whose docstrings say what is timed;
one that does not install or run is left out with the reason. Of the three parts,

    es          a step of 64 members, greedy, every completion exactly 40 tokens long, on the same model and prompts in
                float32: eggroll-es, torcheggroll, the published loop written by us, the lab, and plain `generate`
    grpo        steps of 512 completions: TRL's trainer in a plain script, and the recipe
    accuracy    completions, tokens and seconds until the greedy accuracy on 200 validation problems of Countdown
                reaches the one that ES of recipes/tiny ends with; trainings that are finished are not made again

A table is printed, and the figures are written to --output/peers.json. With the environments made: 5 minutes for es, 2
for grpo and 4 for accuracy, alone on 2 cores.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eval.rollout.chat import prompt_ids
from eval.rollout.loading import load_tokenizer
from eval.storage import read_jsonl, write_json
from tests.benchmarks.drivers.shared import Job
from tests.benchmarks.drivers.with_lab import STEPS, countdown_prompts
from tests.benchmarks.estrainer import grpo_runs, rounds
from tests.recipe_files import ROOT
from trainers.es.memory import size_text


MODEL = "recipes/tiny/models/llama-small"
LENGTH, SIGMA, ALPHA = 40, 0.01, 0.01
PROMPTS = (64, 8)
# With them in each environment; the versions of what they need besides are those of constraints.txt.
BESIDE = ("torch==2.13.0", "transformers==5.17.0")
GRPO_COMPLETIONS = 512  # of a step of recipes/tiny/grpo.yaml
# Evaluated every two steps, because GRPO needs few of them.
TRAININGS = {
    "es": ("recipes/es.py", "recipes/tiny/es.yaml", "--eval_every=5"),
    "grpo": ("recipes/grpo.py", "recipes/tiny/grpo.yaml", "--max_steps=40", "--eval_every=2"),
}


@dataclass(frozen=True)
class Peer:
    """A library: what pip installs, and the module that drives it in its environment."""

    requirement: str
    driver: str


PEERS = {
    "eggroll-es": Peer("eggroll-es==0.2.0", "tests.benchmarks.drivers.with_eggroll_es"),
    "torcheggroll": Peer("torcheggroll==0.2.0", "tests.benchmarks.drivers.with_torcheggroll"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS, help="which comparisons")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of each process")
    parser.add_argument("--steps", type=int, default=3, help="timed steps, after one that warms up; medians")
    parser.add_argument("--members", type=int, default=64, help="members of a population, an even number")
    parser.add_argument("--output", default="runs/peers", help="folder for environments, trainings and peers.json")
    arguments = parser.parse_args()
    output = Path(arguments.output).resolve()
    output.mkdir(parents=True, exist_ok=True)
    path = output / "peers.json"
    figures = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for part in arguments.parts:
        figures[part] = PARTS[part](output, arguments) | {"threads": arguments.threads}
        write_json(path, figures)
    print(f"figures: {path}")


# --- Evolution strategies ---


def compare_es(output: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    pythons, reasons = {}, {}
    for name, peer in PEERS.items():
        try:
            pythons[name] = environment(output / "environments" / name, peer.requirement)
        except RuntimeError as error:
            reasons[name] = str(error)
    rows: list[dict[str, Any]] = []
    print(f"{MODEL}, {arguments.members} members, {LENGTH} tokens, {arguments.threads} threads")
    print(f"{'way of an ES step':24}{'prompts':>8}{'seconds':>10}{'completions/s':>15}{'of generate':>13}{'peak':>12}")
    for prompts in PROMPTS:
        job = job_of(prompts, arguments.members, arguments.steps, arguments.threads)
        commands = {way: [sys.executable, "-m", "tests.benchmarks.drivers.with_lab", "{job}", way] for way in STEPS}
        commands |= {name: [str(pythons[name]), "-m", PEERS[name].driver, "{job}"] for name in pythons}
        reference = None
        for name in ("generate", *(way for way in commands if way != "generate")):
            try:
                measured = drive(commands[name], job)
            except RuntimeError as error:
                reasons[name] = str(error)
                continue
            seconds = statistics.median(measured["seconds"])
            speed = arguments.members * prompts / seconds
            reference = reference or speed
            rows.append({"way": name, "prompts": prompts, "completions_per_second": speed, **measured})
            print(
                f"{name:24}{prompts:8}{seconds:10.2f}{speed:15.0f}{speed / reference:13.2f}"
                f"{size_text(measured['peak'] or 0):>12}",
                flush=True,
            )
    for name, reason in reasons.items():
        print(f"{name}: left out: {reason}")
    return {"members": arguments.members, "length": LENGTH, "rows": rows, "left_out": reasons}


def environment(folder: Path, requirement: str) -> Path:
    """The Python of an environment with this requirement in it. Raises `RuntimeError`, with the reason, without it."""
    python, installed = folder / "bin" / "python", folder / "installed.txt"
    wanted = " ".join((requirement, *BESIDE))
    if installed.exists() and installed.read_text(encoding="utf-8") == wanted:
        return python
    constraints = ["-c", str(ROOT / "constraints.txt")]
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", *constraints, requirement, *BESIDE],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{requirement} does not install: {last_line(done.stderr)}")
    installed.write_text(wanted, encoding="utf-8")
    return python


def job_of(prompts: int, members: int, steps: int, threads: int) -> Job:
    model = str(ROOT / MODEL)
    tokens = prompt_ids(load_tokenizer(model), countdown_prompts(prompts))
    return Job(model, tokens, LENGTH, members, steps, threads, SIGMA, ALPHA)


def drive(command: list[str], job: Job) -> dict[str, Any]:
    """What a driver answers to the job. Raises `RuntimeError` with its last line if it fails."""
    with tempfile.TemporaryDirectory(prefix="posttrain-lab-peers-") as folder:
        path = Path(folder) / "job.json"
        path.write_text(json.dumps(asdict(job)), encoding="utf-8")
        words = [str(path) if word == "{job}" else word for word in command]
        variables = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(job.threads)}
        done = subprocess.run(words, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"it ended with {done.returncode}: {last_line(done.stderr)}")
    return json.loads(done.stdout.splitlines()[-1])


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1][:300] if text.strip() else "it says nothing"


# --- GRPO ---


def compare_grpo(_: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="posttrain-lab-peers-") as folder:
        runs = grpo_runs(Path(folder), arguments.steps + 1)
        measured = rounds(Path(folder), runs, [("grpo", "grpo plain")], 1, arguments.threads)
    rows = []
    for name, [(seconds, process)] in measured.items():
        speed = GRPO_COMPLETIONS * (arguments.steps + 1) / seconds
        rows.append({"way": name, "seconds": seconds, "process": process, "completions_per_second": speed})
        print(f"{name:12} {speed:8.0f} completions/s, {seconds:.1f} s for {arguments.steps + 1} steps", flush=True)
    return {"rows": rows, "completions_per_step": GRPO_COMPLETIONS}


# --- Completions to an accuracy ---


def compare_accuracy(output: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    folders = {name: output / "accuracy" / name for name in TRAININGS}
    for name, folder in folders.items():
        train(name, folder, arguments.threads)
    last = read_jsonl(folders["es"] / "evaluations.jsonl")[-1]
    target, rows = last["accuracy"], {name: reached(folder, last["accuracy"]) for name, folder in folders.items()}
    low, high = last["low"], last["high"]
    print(f"until the accuracy that ES ends with, {target:.1%} ({low:.1%} to {high:.1%}, {last['total']} problems):")
    for name, row in rows.items():
        if row is None:
            print(f"{name:6} never")
            continue
        print(
            f"{name:6}{row['completions']:8,} completions ({row['accuracy']:.1%}; at {row['before']:,} not yet), "
            f"{row['tokens']:,} tokens, {row['seconds']:.0f} s of training"
        )
    return {"target": target, "low": low, "high": high, "total": last["total"], "reached": rows}


def train(name: str, folder: Path, threads: int) -> None:
    """A run that is finished returns at once."""
    script, config, *options = TRAININGS[name]
    command = [sys.executable, script, "--config", config, *options, f"--output_dir={folder}"]
    variables = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name} failed: {last_line(done.stderr)}")


def reached(run: Path, target: float) -> dict[str, Any] | None:
    """The first evaluation of a run folder that reaches the target, and what was spent until then; None if none does.

    before: completions at the evaluation before it, which had not reached it yet.
    """
    spent = {row["step"]: row for row in read_jsonl(run / "metrics.jsonl")}
    before = 0
    for row in read_jsonl(run / "evaluations.jsonl"):
        if row["accuracy"] >= target:
            step = spent.get(row["step"], {"tokens": 0, "seconds": 0.0})
            kept = {key: row[key] for key in ("step", "completions", "accuracy", "low", "high")}
            return kept | {"before": before, "tokens": step["tokens"], "seconds": step["seconds"]}
        before = row["completions"]
    return None


PARTS = {"es": compare_es, "grpo": compare_grpo, "accuracy": compare_accuracy}


if __name__ == "__main__":
    main()
