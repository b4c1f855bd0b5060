"""What rounding makes of an update of evolution strategies: its length, direction, and how many weights it reaches.

The same steps (same noise, same fitness) are made in several ways that differ only in where they round, and each
result is compared with the one that does not round. Only sums over weights are kept, so that updates can be compared
tensor by tensor and a model of any size passes through a fixed amount of memory.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class UpdateSums:
    """Sums over all weights of one update beside its reference, from which everything reported follows.

    Add tensors with `add`; sums of separate parts of a model can be joined by adding two of these.
    """

    weights: float = 0.0
    squared: float = 0.0
    squared_reference: float = 0.0
    product: float = 0.0
    changed: float = 0.0
    changed_reference: float = 0.0
    squared_walk: float = 0.0

    def add(
        self, update: torch.Tensor, reference: torch.Tensor, stored: torch.Tensor, walk: torch.Tensor, share: float = 1
    ) -> None:
        """One tensor's part.

        update: what the way under study made of the tensor, minus what it was. reference: the same without rounding.
        stored: the same as bfloat16 checkpoints would show the reference: both ends rounded. walk: what the way does
        when no update is made. All of one shape, float32. share: how many weights of the model each number stands for.
        """
        self.weights += share * update.numel()
        self.squared += share * _dot(update, update)
        self.squared_reference += share * _dot(reference, reference)
        self.product += share * _dot(update, reference)
        self.changed += share * int((update != 0).sum())
        self.changed_reference += share * int((stored != 0).sum())
        self.squared_walk += share * _dot(walk, walk)

    def __add__(self, other: "UpdateSums") -> "UpdateSums":
        return UpdateSums(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


@dataclass
class PrecisionStudy:
    """Sums by way of rounding and by kind of tensor (embeddings, attention, mlp, norms), filled tensor by tensor."""

    sums: dict[str, dict[str, UpdateSums]] = field(default_factory=dict)
    first_of_shape: dict[torch.Size, torch.Tensor] = field(default_factory=dict)
    cosines: list[float] = field(default_factory=list)

    def at(self, way: str, kind: str) -> UpdateSums:
        return self.sums.setdefault(way, {}).setdefault(kind, UpdateSums())

    def compare_with_first_of_shape(self, update: torch.Tensor) -> None:
        """Take note of the cosine between this tensor's update and that of the first tensor of its shape."""
        first = self.first_of_shape.setdefault(update.shape, update)
        if first is not update:
            self.cosines.append(_dot(first, update) / math.sqrt(_dot(first, first) * _dot(update, update)))

    def same_shape_cosine(self) -> float | None:
        """Mean cosine between the updates of tensors of one shape: about 0 for independent noise, 1 for shared."""
        return sum(self.cosines) / len(self.cosines) if self.cosines else None

    def report(self, nominal_norm: float) -> dict[str, dict[str, dict[str, Any]]]:
        """By way and kind, and for "all" kinds together, the figures of `describe_update`.

        nominal_norm: alpha sqrt(T / N), of one weight.
        """
        figures = {}
        for way, kinds in self.sums.items():
            total = sum(kinds.values(), UpdateSums())
            figures[way] = {"all": describe_update(total, nominal_norm * math.sqrt(total.weights))} | {
                kind: describe_update(sums, nominal_norm * math.sqrt(sums.weights)) for kind, sums in kinds.items()
            }
        return figures


def describe_update(sums: UpdateSums, nominal_norm: float) -> dict[str, Any]:
    """What the sums say.

        norm             Euclidean norm of the update
        nominal_share    the norm over nominal_norm, alpha sqrt(T d / N): what a random walk without rounding has
        norm_ratio       the norm over the reference's
        cosine           with the reference; None if either is zero
        lost_signal      1 minus the length of the update along the reference, in reference lengths
        foreign_share    share of the update's squared length at right angles to the reference: what rounding made
        walk_share       norm of what is left when no update is made, over nominal_norm
        changed          share of the weights that are no longer what they were
        changed_reference  the same for the reference, seen in bfloat16

    The way without rounding has norm_ratio and cosine 1 and foreign_share 0 by definition.
    """
    norm, reference = math.sqrt(sums.squared), math.sqrt(sums.squared_reference)
    along = sums.product / sums.squared_reference if reference else 0.0
    foreign = 1 - sums.product**2 / (sums.squared * sums.squared_reference) if norm and reference else None
    return {
        "weights": sums.weights,
        "norm": norm,
        "nominal_share": norm / nominal_norm,
        "norm_ratio": norm / reference if reference else None,
        "cosine": sums.product / (norm * reference) if norm and reference else None,
        "lost_signal": 1 - along if reference else None,
        "foreign_share": None if foreign is None else max(0.0, foreign),
        "walk_share": math.sqrt(sums.squared_walk) / nominal_norm,
        "changed": sums.changed / sums.weights,
        "changed_reference": sums.changed_reference / sums.weights,
    }


def kind_of(name: str) -> str:
    """The group that a Hugging Face parameter is reported with."""
    if "norm" in name:
        return "norms"
    if "embed_tokens" in name or "lm_head" in name:
        return "embeddings"
    return "attention" if "self_attn" in name else "mlp"


def artefacts(ways: dict[str, dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """How much each rounding makes, from the figures of `describe_update` by way.

    Each artefact is the difference between two ways that differ in it alone:

        restoring by subtraction    released            - exact_restore
        one addition per member     exact_restore       - fp32_sum
        no master                   fp32_sum            - fp32_master
        rounding at random          stochastic_rounding - fp32_sum

    in norm (as a share of nominal), cosine with the reference, and share of weights changed. The first three add up to
    what the released loop makes of the update; the last is what the cheapest remedy changes.
    """
    pairs = {
        "restoring by subtraction": ("released", "exact_restore"),
        "one addition per member": ("exact_restore", "fp32_sum"),
        "no master": ("fp32_sum", "fp32_master"),
        "rounding at random": ("stochastic_rounding", "fp32_sum"),
    }
    return {
        artefact: {
            key: None if ways[a][key] is None or ways[b][key] is None else ways[a][key] - ways[b][key]
            for key in ("nominal_share", "cosine", "changed")
        }
        for artefact, (a, b) in pairs.items()
    }


def markdown(results: dict[str, dict[str, Any]]) -> str:
    """The figures as tables, one per model and kind of noise.

    results: by model, by noise ("independent", "shared"), {"ways", "artefacts", "same_shape_cosine",
    "effective_dimension", "parameters"}.
    """
    lines = ["# Rounding in evolution strategies", "", *NOTES, ""]
    for model, noises in results.items():
        for noise, study in noises.items():
            lines += [f"## {model}, {noise} noise", ""]
            lines += [
                f"Independent directions in a perturbation: {study['effective_dimension']:,.0f} of "
                f"{study['parameters']:,}. Cosine between the updates of tensors of one shape: "
                f"{_number(study['same_shape_cosine'])}.",
                "",
            ]
            lines += [f"| way | {' | '.join(COLUMNS.values())} |", "|---" * (len(COLUMNS) + 1) + "|"]
            for way, kinds in study["ways"].items():
                for kind in ("all", "norms"):
                    if kind in kinds:
                        name = way if kind == "all" else f"{way}, norms only"
                        lines.append(f"| {name} | " + " | ".join(_number(kinds[kind][key]) for key in COLUMNS) + " |")
            lines += ["", "| artefact | of the norm | of the cosine | of the weights changed |", "|---|---|---|---|"]
            lines += [
                f"| {artefact} | " + " | ".join(_number(value, "+.3f") for value in parts.values()) + " |"
                for artefact, parts in study["artefacts"].items()
            ]
            lines.append("")
    return "\n".join(lines)


COLUMNS = {
    "nominal_share": "norm / nominal",
    "cosine": "cosine with fp32 master",
    "lost_signal": "lost along it",
    "foreign_share": "share at right angles",
    "walk_share": "norm without any update",
    "changed": "weights changed",
}
NOTES = (
    "Each way makes the same steps and rounds where its name says. Nominal is alpha sqrt(T d / N), the norm of a walk",
    'without rounding. "Lost along it" is the part of the unrounded update that is missing, "at right angles" the',
    "part of the rounded update's squared length that is not along it.",
)


def _number(value: float | None, spec: str = ".3f") -> str:
    return "none" if value is None else format(value, spec)


def _dot(a: torch.Tensor, b: torch.Tensor, block: int = 2**22) -> float:
    """Inner product, summed in float64 a block at a time."""
    a, b = a.reshape(-1), b.reshape(-1)
    return sum(float(x.double() @ y.double()) for x, y in zip(a.split(block), b.split(block), strict=True))
