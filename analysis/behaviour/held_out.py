"""On how much held-out data finished models are measured: options that studies share."""

from dataclasses import dataclass, field


@dataclass(kw_only=True)
class HeldOut:
    """Sizes and seeds of what is generated after training."""

    data_seed: int = field(default=0, metadata={"help": "fixes the training, validation and test problems"})
    test_size: int = field(default=200, metadata={"help": "held-out problems per task"})
    max_new_tokens: int = field(default=56, metadata={"help": "longest completion, in training and afterwards"})
    kl_prompts: int = field(default=60, metadata={"help": "prompts per task and direction of the KL"})
    batch_size: int = field(default=200, metadata={"help": "prompts generated at a time after training"})
