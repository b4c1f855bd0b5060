"""Evolution strategies from options alone, as the recipes and studies run them."""

from typing import Any

from trainers.es.config import ESConfig
from trainers.es.trainer import ESTrainer


def train_es(config: ESConfig) -> dict[str, Any]:
    """Train, or finish training (see `ESTrainer`); what is in results.json, empty after a dry run."""
    trainer = ESTrainer(args=config)
    trainer.train()
    return trainer.results
