"""How much memory a run will take on every process, from the model's configuration alone and before it is loaded."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from eval.errors import UserError
from eval.rollout.base import adapter_rank
from eval.rollout.loading import load_config
from trainers.es.noise import Noise


# Tokens of a prompt that a plan reckons with where there is no tokenizer.
PROMPT_TOKENS = 256
# Of a device's memory: the rest is for the runtime's own buffers and for what allocation wastes.
USABLE = 0.92
GB = 1e9
# What grows with every member evaluated at once, besides activations.
PER_MEMBER = ("dense members", "adapters", "KV cache")
# What vLLM is allowed in one forward pass, on any device.
VLLM_TOKENS, VLLM_COMPLETIONS = 8192, 1024
# Adapter slots, at most: more members take turns in them.
VLLM_SLOTS = 128
# Advice does not go below as many prompts at once.
FEWEST_PROMPTS = 8
LOW_RANK = "noise: low_rank, rank: 1, rest: frozen"


@dataclass(frozen=True)
class Demand:
    """What decides the memory of a run besides the model.

    members: evaluated by this process at once, at most. prompts, samples: given to a member at once, and completions
        of each. prompt_tokens: of the longest prompt.
    engine: "hf" or "vllm". engine_bytes: per weight in it, 4 or 2.
    population_bytes: what members evaluated in one batch may take; with vllm its memory for keys and values.
    rank, rest: the noise's; 0 and "dense" for members that differ from the centre in every number. vectors: the search
        is over vectors of this rank (see `trainers.es.subspace`), whose members change matrices only.
    master_on_cpu: the float32 weights and the starting weights lie in the machine's memory. host_apart: that is other
        memory than the device's, which it is not where the device is a CPU.
    sampled: temperature above 0.
    """

    members: int
    prompts: int
    samples: int
    prompt_tokens: int
    max_new_tokens: int
    engine_bytes: int
    population_bytes: int
    rank: int = 0
    rest: str = "dense"
    vectors: bool = False
    master_on_cpu: bool = False
    host_apart: bool = True
    sampled: bool = False
    engine: str = "hf"


@dataclass(frozen=True)
class Plan:
    """Bytes by what they are for, on the device that computes and in the machine's memory.

    together: members evaluated in one batch. rows: completions in it.
    """

    device: dict[str, int]
    host: dict[str, int]
    together: int
    rows: int

    @property
    def device_bytes(self) -> int:
        return sum(self.device.values())

    @property
    def host_bytes(self) -> int:
        return sum(self.host.values())


@dataclass(frozen=True)
class ModelShape:
    """What a plan needs of a model: its configuration, and every parameter's name and shape, tied weights once.

    only: names of the parameters that are searched; None for all of them.
    """

    config: PretrainedConfig
    shapes: dict[str, torch.Size]
    only: frozenset[str] | None = None

    @classmethod
    def of(cls, config: PretrainedConfig) -> "ModelShape":
        """Builds the model without memory for its weights."""
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        return cls(config, {name: parameter.shape for name, parameter in model.named_parameters()})

    @property
    def parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes.values())

    @property
    def searched(self) -> dict[str, torch.Size]:
        """The shapes of the parameters that are searched."""
        return {name: shape for name, shape in self.shapes.items() if self.only is None or name in self.only}


def model_shape(path: str) -> ModelShape:
    """That of a checkpoint folder or hub model, from its configuration. Raises `UserError` if there is none."""
    if not Path(path).exists() and (path.startswith((".", "/")) or path.count("/") > 1):
        raise UserError(f"there is no checkpoint folder {path}; check the path")
    config = load_config(path)
    try:
        return ModelShape.of(config)
    # Of many kinds, from transformers' own checks and from torch: heads that do not divide, a negative width.
    except Exception as error:
        raise UserError(
            f"the config.json of {path} describes no model that can be built: {' '.join(str(error).split())[:300]}; "
            "copy the folder again, or correct it"
        ) from error


def plan_memory(model: ModelShape, demand: Demand) -> Plan:
    """What a run allocates on one process at its peak."""
    engine, together, rows = (_vllm_engine if demand.engine == "vllm" else _hf_engine)(model, demand)
    noisy = noisy_parameters(model, demand)
    # What is frozen is the same tensor in both.
    master = {
        "master": 4 * sum(math.prod(shape) for shape in model.searched.values()),
        "starting weights": 4 * sum(noisy.values()),
    }
    on_host = demand.master_on_cpu and demand.host_apart
    # One tensor at a time: noise, sum, and the weight beside them; or the check, where the master lies, that all of a
    # tensor is finite.
    largest = max(math.prod(shape) for shape in model.searched.values())
    noise = {"noise": max(12 * max(noisy.values()), 0 if on_host else 7 * largest)}
    return Plan(({} if on_host else master) | noise | engine, master if on_host else {}, together, rows)


def _hf_engine(model: ModelShape, demand: Demand) -> tuple[dict[str, int], int, int]:
    """Bytes in the Hugging Face engine, members evaluated in one batch, and completions in it."""
    dense, adapter = member_numbers(model, demand)
    completions = demand.prompts * demand.samples
    cache = completions * completion_cache(model, demand)
    overlay = (dense + adapter) * demand.engine_bytes
    # As the engine does it: as many as fit, in groups of about equal size.
    at_once = max(1, demand.population_bytes // (overlay + cache))
    together = -(-demand.members // -(-demand.members // at_once))
    rows = together * completions
    device = {
        "pristine copy": model.parameters * demand.engine_bytes,
        "dense members": together * dense * demand.engine_bytes,
        "adapters": together * adapter * demand.engine_bytes,
        "KV cache": together * cache,
        "activations and logits": activations(model, demand, rows * demand.prompt_tokens, rows),
    }
    return device, together, rows


def _vllm_engine(model: ModelShape, demand: Demand) -> tuple[dict[str, int], int, int]:
    """The same of vLLM. Members that are not low-rank are written into its weights one after the other."""
    _, adapter = member_numbers(model, demand)
    together = min(VLLM_SLOTS, demand.members) if demand.rank else 1
    rows = min(VLLM_COMPLETIONS, together * demand.prompts * demand.samples)
    matrices = sum(math.prod(shape) for shape in model.shapes.values() if len(shape) == 2)
    slots = together * adapter // demand.rank * adapter_rank(demand.rank) if demand.rank else 0
    tokens = min(VLLM_TOKENS, rows * demand.prompt_tokens)
    device = {
        "pristine copy": model.parameters * demand.engine_bytes,
        "vLLM's weights": model.parameters * demand.engine_bytes,
        # On a CPU vLLM computes with a copy of each matrix in another layout.
        "packed matrices": 0 if demand.host_apart else matrices * demand.engine_bytes,
        "adapters": slots * demand.engine_bytes,
        "KV cache": demand.population_bytes,
        "activations and logits": activations(model, demand, tokens, rows),
    }
    return device, together, rows


def member_numbers(model: ModelShape, demand: Demand) -> tuple[int, int]:
    """How many numbers a member has of its own in dense overlays, and how many in low-rank factors."""
    noise = Noise(rank=demand.rank, rest="frozen" if demand.vectors else demand.rest)
    dense = adapter = 0
    for name, shape in model.searched.items():
        kind = noise.kind(name, torch.empty(shape, device="meta"))
        if kind == "low_rank":
            adapter += demand.rank * sum(shape)
        elif kind == "dense":
            dense += math.prod(shape)
    return dense, adapter


def noisy_parameters(model: ModelShape, demand: Demand) -> dict[str, int]:
    """The sizes of the parameters that a run changes, by name."""
    noise = Noise(rank=demand.rank, rest=demand.rest)
    return {
        name: math.prod(shape)
        for name, shape in model.searched.items()
        if demand.vectors or noise.kind(name, torch.empty(shape, device="meta")) != "frozen"
    }


def completion_cache(model: ModelShape, demand: Demand) -> int:
    """Bytes of the keys and values of one completion of full length and its prompt."""
    config = model.config
    heads = config.num_key_value_heads * head_dimension(config)
    per_token = 2 * config.num_hidden_layers * heads * demand.engine_bytes
    return (demand.prompt_tokens + demand.max_new_tokens) * per_token


def head_dimension(config: PretrainedConfig) -> int:
    """Width of an attention head, which not every configuration names."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def activations(model: ModelShape, demand: Demand, tokens: int, rows: int) -> int:
    """Bytes at the widest moment of a forward pass of so many tokens, and for the choice of so many next ones."""
    config = model.config
    # Of the pass: the residual stream twice, and the MLP's gate, up and product.
    prefill = tokens * (2 * config.hidden_size + 3 * config.intermediate_size) * demand.engine_bytes
    # Of each row's last token: as the model gives them and in float32; if sampled, with noise made in 64 bits.
    logits = rows * config.vocab_size * (demand.engine_bytes + 4 + (40 if demand.sampled else 0))
    return max(prefill, logits)


def device_memory(device: torch.device, processes: int) -> int:
    """Bytes that each of some processes on this machine may use: all of its GPU, or a share of what memory is left."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return host_memory(processes)


def host_memory(processes: int) -> int:
    """Bytes of this machine's free memory for each of so many processes on it."""
    return psutil.virtual_memory().available // processes


def require_memory(model: ModelShape, demand: Demand, available: int) -> Plan:
    """The plan, if it fits into `available` bytes; otherwise a `UserError` with settings that would make it fit."""
    plan = plan_memory(model, demand)
    usable = USABLE * available
    if plan.device_bytes <= usable:
        return plan
    largest = max(plan.device, key=lambda part: plan.device[part])
    advice = f"no setting here makes it fit; it takes a device with {size_text(plan.device_bytes / USABLE)}"
    for settings, other in ways_to_shrink(model, demand, usable):
        if plan_memory(model, other).device_bytes <= usable:
            advice = f"set {settings}"
            break
    raise UserError(
        f"this run takes {size_text(plan.device_bytes)} on each process, {size_text(plan.device[largest])} of it for "
        f"{largest}, but {size_text(usable)} of {size_text(available)} can be used; {advice}"
    )


def ways_to_shrink(model: ModelShape, demand: Demand, usable: float) -> Iterator[tuple[str, Demand]]:
    """Settings that take less memory, those first that cost least: how much at once, then where and how it is kept.

    Each comes as the text for a YAML file and the demand with it. The last of them also changes what is computed.
    """
    yield from _fewer_at_once(model, demand, usable, [])
    settings = []
    if not demand.master_on_cpu and demand.host_apart:
        settings.append("master_on_cpu: true")
        demand = replace(demand, master_on_cpu=True)
        yield from _fewer_at_once(model, demand, usable, settings)
    if demand.engine_bytes == 4:
        settings.append("engine_dtype: bfloat16")
        demand = replace(demand, engine_bytes=2)
        yield from _fewer_at_once(model, demand, usable, settings)
    if not demand.rank and demand.engine == "hf":
        settings.append(LOW_RANK)
        yield from _fewer_at_once(model, replace(demand, rank=1, rest="frozen"), usable, settings)


def _fewer_at_once(
    model: ModelShape, demand: Demand, usable: float, settings: list[str]
) -> Iterator[tuple[str, Demand]]:
    """The demand, then with fewer members at once, then with fewer and fewer prompts as well.

    vLLM decides by itself how much it does at once, from its memory for keys and values.
    """
    if demand.engine == "vllm":
        yield ", ".join(settings), demand
        room = usable - (plan_memory(model, demand).device_bytes - demand.population_bytes)
        share = math.floor(room / GB * 1000) / 1000
        if FEWEST_PROMPTS * completion_cache(model, demand) <= share * GB < demand.population_bytes:
            fewer = replace(demand, population_bytes=int(share * GB))
            yield ", ".join([*settings, f"population_gb: {share:g}"]), fewer
        return
    prompts = demand.prompts
    while True:
        fewer = replace(demand, prompts=prompts)
        texts = settings if prompts == demand.prompts else [*settings, f"prompts_per_batch: {prompts}"]
        yield ", ".join(texts), fewer
        one = plan_memory(model, replace(fewer, population_bytes=1)).device
        member = sum(one[name] for name in PER_MEMBER)
        # Activations grow with the members too, so that a share of the room is theirs.
        room = usable - (sum(one.values()) - member - one["activations and logits"])
        share = math.floor(room / (1 + one["activations and logits"] / member) / GB * 1000) / 1000
        if share * GB >= member:
            yield ", ".join([*texts, f"population_gb: {share:g}"]), replace(fewer, population_bytes=int(share * GB))
        if prompts <= FEWEST_PROMPTS:
            return
        prompts //= 2


def describe(plan: Plan, demand: Demand, available: int) -> str:
    """The plan as a table for people."""
    lines = [
        f"memory of each process, with prompts of {demand.prompt_tokens} tokens and {plan.together} members at once:"
    ]
    for place, parts in (("on the device", plan.device), ("in the machine's memory", plan.host)):
        if parts:
            lines += [f"  {name:34}{size_text(size):>12}" for name, size in parts.items() if size]
            lines.append(f"  {'together ' + place:34}{size_text(sum(parts.values())):>12}")
    lines.append(f"  {'usable on the device':34}{size_text(USABLE * available):>12} of {size_text(available)}")
    return "\n".join(lines)


def size_text(size: float) -> str:
    return f"{size / GB:.2f} GB" if size >= GB else f"{size / 1e6:.1f} MB"
