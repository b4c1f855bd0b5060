"""Evolution strategies on weights: `ESTrainer` with its `ESConfig`, and what they are made of."""

from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from trainers.es.config import ESConfig
    from trainers.es.trainer import ESTrainer

__all__ = ["ESConfig", "ESTrainer"]


def __getattr__(name: str) -> Any:
    """The two classes when they are asked for: a module of this package alone should not wait for all libraries."""
    if name == "ESConfig":
        from trainers.es.config import ESConfig

        return ESConfig
    if name == "ESTrainer":
        from trainers.es.trainer import ESTrainer

        return ESTrainer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
