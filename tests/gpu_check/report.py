"""What the check found: a row for each part, what is compared between parts, and a table for the terminal."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.gpu_check.machine import Machine
from tests.gpu_check.processes import cleaned


SCHEMA_VERSION = 1
RAN, FAILED, TIMEOUT, SKIPPED = "ran", "failed", "too long", "cannot run"


@dataclass
class Row:
    """Of a part. reason: why it cannot run here. error: the line that says why it failed. seconds: it took in all."""

    part: str
    status: str
    seconds: float = 0.0
    reason: str = ""
    error: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


def comparisons(rows: list[Row]) -> dict[str, float]:
    """Tokens a second of ES steps over those of plain generation of the same model, where both ran."""
    speed = {row.part: row.figures["tokens_per_second"] for row in rows if "tokens_per_second" in row.figures}
    found = {}
    for part in speed:
        kind, _, shape = part.rpartition(" ")
        if not kind.startswith("es "):
            continue
        for plain in ("hf", "vllm"):
            if (other := speed.get(f"plain {plain} {shape}")) is not None:
                found[f"{part} over plain {plain}"] = speed[part] / other
    return found


def document(machine: Machine, rows: list[Row], date: str) -> dict[str, Any]:
    """gpu-check.json: nothing in it names a host, a user, a path or a secret, and every number is finite or null."""
    return {
        "kind": "gpu-check",
        "schema_version": SCHEMA_VERSION,
        "date": date,
        "machine": cleaned(asdict(machine)),
        "parts": [cleaned(finite(asdict(row))) for row in rows],
        "comparisons": comparisons(rows),
    }


def finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(machine: Machine, rows: list[Row]) -> str:
    """For people."""
    cards = [f"{card['name']}, {card['bytes'] / 1e9:.0f} GB" for card in machine.cards]
    lines = [f"device {machine.device}; {'; '.join(cards) or machine.versions['cpu']}", ""]
    lines.append(f"{'part':16} {'status':11} {'seconds':>7}  figures")
    for row in rows:
        said = row.reason or row.error or ", ".join(figure(*item) for item in row.figures.items() if item[1] != [])
        lines.append(f"{row.part:16} {row.status:11} {row.seconds:7.0f}  {said}".rstrip())
    if compared := comparisons(rows):
        lines += ["", "tokens a second"]
        lines += [f"  {what:32} {share:6.2f}" for what, share in compared.items()]
    counts = {status: sum(row.status == status for row in rows) for status in (RAN, FAILED, TIMEOUT, SKIPPED)}
    lines += ["", ", ".join(f"{count} {status}" for status, count in counts.items() if count)]
    return "\n".join(lines)


def figure(name: str, value: Any) -> str:
    """One figure in words, bytes in GB."""
    words = name.removesuffix("_bytes").replace("_", " ")
    if name.endswith("_bytes"):
        return f"{words} {value / 1e9:.2f} GB"
    if isinstance(value, bool):
        return f"{words}: {'yes' if value else 'NO'}"
    return f"{words} {value:.4g}" if isinstance(value, float) else f"{words} {value}"
