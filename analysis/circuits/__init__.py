"""Which attention heads and MLPs do a task's work: attribution, faithfulness, and transfer between models."""
