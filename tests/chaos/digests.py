"""What a run left, without what a clock or a machine decides: the same for two runs that are the same."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any


# Times, what is measured of the machine, and where the run lies.
OF_THE_MACHINE = re.compile(
    r"second|_time|time_|runtime|per_second|memory|environment|command|output_dir|earlier_starts|completions_per|"
    # A measurement keeps the digests of the finished runs that it was made of, and those hold their times.
    r"tokens_per|minutes|^trainings$"
)
# Of the digests in results.json: the configuration has the run's folder, the logs have times.
OF_CONTENT = ("models", "data")
LOGS = ("metrics.jsonl", "evaluations.jsonl", "seeds.jsonl", "validation.jsonl", "results.json", "chain.json")


def digests(run: Path) -> dict[str, str]:
    """SHA-256 of each file of weights, by path in the run, and of each log without times."""
    found = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if any(part.startswith(".") for part in path.relative_to(run).parts):
            continue
        if path.suffix == ".safetensors":
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.name in LOGS:
            text = path.read_text(encoding="utf-8")
            rows = (
                [json.loads(line) for line in text.split("\n") if line]
                if path.suffix == ".jsonl"
                else json.loads(text)
            )
            kept = json.dumps(_kept(rows, str(run)), sort_keys=True)
            found[name] = hashlib.sha256(kept.encode()).hexdigest()
    return found


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Files that are not the same in both, or only in one."""
    return sorted(name for name in one | other if one.get(name) != other.get(name))


def _kept(value: Any, run: str) -> Any:
    if isinstance(value, dict):
        kept = (
            value | {"digests": {name: value["digests"].get(name) for name in OF_CONTENT}}
            if "digests" in value
            else value
        )
        return {key: _kept(entry, run) for key, entry in kept.items() if not OF_THE_MACHINE.search(key)}
    if isinstance(value, list):
        return [_kept(entry, run) for entry in value]
    return value.replace(run, "RUN") if isinstance(value, str) else value
