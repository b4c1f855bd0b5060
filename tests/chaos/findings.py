"""What a part has to say: findings while it runs, and a row of the table at its end."""

import time
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Report:
    """A part's row. tried: how many cases. failed: how many were not right. notes: counts worth a line, by name."""

    part: str
    deadline: float
    tried: int = 0
    failed: int = 0
    skipped: str = ""
    seconds: float = 0.0
    notes: dict[str, Any] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)

    def case(self, right: bool, finding: str = "") -> None:
        """Count a case; one that is not right is printed, each finding once."""
        self.tried += 1
        self.failed += not right
        if not right and finding not in self.findings:
            self.findings.append(finding)
            # A lone surrogate of a finding cannot be printed as it is.
            line = " ".join(finding.split()).encode("utf-8", "backslashreplace").decode()
            print(f"{self.part}: {line[:400]}", flush=True)

    def note(self, name: str, value: Any) -> None:
        self.notes[name] = value

    @property
    def left(self) -> float:
        """Seconds until the part must end."""
        return self.deadline - time.monotonic()

    def row(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if key != "deadline"}


def table(reports: list[Report]) -> str:
    """One line for each part."""
    lines = [f"{'part':<12} {'tried':>7} {'failed':>7} {'seconds':>8}"]
    for report in reports:
        said = report.skipped or ", ".join(f"{name} {value}" for name, value in report.notes.items())
        lines.append(f"{report.part:<12} {report.tried:>7} {report.failed:>7} {report.seconds:>8.0f}  {said}")
    return "\n".join(lines)
