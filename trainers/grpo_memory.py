"""How much memory GRPO will take on a process, from the model's configuration alone: as `trainers.es.memory` has it.

The peak lies where the backward pass begins, with every layer's activations kept and the logits of some tokens beside
them, or where it ends, with every gradient there. Activations are those of Llama, Qwen and Mistral layers as
transformers has them, with scaled dot-product attention under a mask. Without the shards of ZeRO and FSDP.
"""

import math
from dataclasses import dataclass

from trainers.es.memory import ModelShape, Plan, head_dimension
from trainers.grpo import GRPOArguments, GRPOConfig


FULL, HALF = 4, 2  # bytes of a number
# TRL computes the logits of training in tiles of so many tokens and words of the vocabulary (trl/kernels).
TILE = (4096, 32768)
# Of each number of a tile where no Triton kernel does it: five tensors in float32 at once, a product of two, a mask.
BESIDE_TILE = 29


@dataclass(frozen=True)
class GRPODemand:
    """What decides the memory of a run besides the model.

    rows: completions of one forward and backward pass. generated: completions generated at once. prompt_tokens: of the
        longest prompt.
    half: products in bfloat16 (autocast), the weights in float32. checkpointing: only each layer's input is kept, and
        the rest computed again.
    lora_rank: 0 if all parameters are trained. lora_targets: names of the modules with adapters; None for all linear
        layers but the head.
    triton: the device is a GPU, whose kernels work inside a tile of logits.
    """

    rows: int
    generated: int
    prompt_tokens: int
    max_new_tokens: int
    half: bool = False
    checkpointing: bool = False
    lora_rank: int = 0
    lora_targets: tuple[str, ...] | None = None
    triton: bool = False

    @property
    def tokens(self) -> int:
        """Of one forward and backward pass, padding included."""
        return self.rows * (self.prompt_tokens + self.max_new_tokens)


def grpo_demand(arguments: GRPOArguments, config: GRPOConfig, prompt_tokens: int) -> GRPODemand:
    """That of a run's options, for each of its processes."""
    steps = config.steps_per_generation or 1
    targets = arguments.lora_target_modules
    return GRPODemand(
        rows=config.per_device_train_batch_size,
        generated=config.per_device_train_batch_size * steps,
        prompt_tokens=prompt_tokens,
        max_new_tokens=config.max_completion_length or 0,
        half=bool(config.bf16),
        checkpointing=bool(config.gradient_checkpointing),
        lora_rank=arguments.lora_rank,
        lora_targets=None if targets is None else tuple(targets),
        triton=config.device.type == "cuda",
    )


def plan_grpo_memory(model: ModelShape, demand: GRPODemand) -> Plan:
    """What a run allocates on one process at its peak, with transformers as the engine."""
    trained = adapter_parameters(model, demand) if demand.lora_rank else model.parameters
    weights = model.parameters + (trained if demand.lora_rank else 0)
    # Of each the backward pass keeps the copy that autocast has made.
    matrices = sum(math.prod(shape) for shape in model.shapes.values() if len(shape) == 2)
    gradients = FULL * trained
    # What is kept makes room for gradients layer by layer.
    kept = max(kept_activations(model, demand) + tile_of_logits(model, demand), generation_cache(model, demand))
    device = {
        "weights": FULL * weights,
        "optimizer's moments": 2 * FULL * trained,
        "weights in bfloat16": HALF * matrices if demand.half else 0,
        "gradients": gradients,
        "activations and logits": max(0, kept - gradients),
    }
    return Plan(device, {}, 1, demand.rows)


def adapter_parameters(model: ModelShape, demand: GRPODemand) -> int:
    """Of LoRA's two matrices beside each adapted one."""
    return sum(
        demand.lora_rank * sum(shape) for name, shape in model.shapes.items() if _is_adapted(name, shape, demand)
    )


def _is_adapted(name: str, shape: tuple[int, ...], demand: GRPODemand) -> bool:
    module = name.removesuffix(".weight").split(".")[-1]
    if len(shape) != 2 or module in ("embed_tokens", "lm_head"):
        return False
    return demand.lora_targets is None or module in demand.lora_targets


def kept_activations(model: ModelShape, demand: GRPODemand) -> int:
    """Bytes that the forward pass keeps for the backward pass."""
    layers = model.config.num_hidden_layers
    if demand.checkpointing:
        # The inputs of all layers, and one layer's own while it is computed again.
        return demand.tokens * (layers * FULL * model.config.hidden_size + bytes_of_a_layer(model, demand))
    return demand.tokens * layers * bytes_of_a_layer(model, demand)


def bytes_of_a_layer(model: ModelShape, demand: GRPODemand) -> int:
    """Kept for one token by one layer.

    The two norms keep their input and, if their weights are trained, what they normalised, in float32. Attention keeps
    its queries, keys and values (repeated for each query head, because of the mask), its output, a row of the mask;
    the MLP its gate before and after the activation, the other half, and their product. The inputs of the products
    after a norm are kept once, but under autocast each has a copy of its own, and so has an adapter's.
    """
    config = model.config
    product = HALF if demand.half else FULL
    width, middle = config.hidden_size, config.intermediate_size
    attended = config.num_attention_heads * head_dimension(config)
    norms = 2 * width * FULL * (1 if demand.lora_rank else 2)
    inputs = (5 if demand.half else 2) * width * product
    if demand.half and demand.lora_rank:
        inputs += attended * product
    attention = (4 * attended + demand.prompt_tokens + demand.max_new_tokens) * product
    return norms + inputs + attention + 4 * middle * product


def tile_of_logits(model: ModelShape, demand: GRPODemand) -> int:
    """Bytes for the logits of training that exist at once, and for their gradient."""
    numbers = min(demand.tokens, TILE[0]) * min(model.config.vocab_size, TILE[1])
    return numbers * ((HALF if demand.half else FULL) + (0 if demand.triton else BESIDE_TILE))


def generation_cache(model: ModelShape, demand: GRPODemand) -> int:
    """Bytes of the keys and values of a generation, which transformers copies for each new token."""
    config = model.config
    per_token = 2 * config.num_key_value_heads * head_dimension(config) * FULL
    tokens = demand.generated * (demand.prompt_tokens + demand.max_new_tokens)
    return math.ceil(tokens * per_token * (config.num_hidden_layers + 1))
