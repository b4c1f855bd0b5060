"""What runs inside vLLM: weights by Hugging Face name, members in adapter slots, and addressed sampling noise.

vLLM is imported here at the top; import this module only where it is installed.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from vllm import SamplingParams
from vllm.lora.layers import BaseLayerWithLoRA
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from eval.rollout.base import LowRankMember, Member
from eval.rollout.noise import gumbel


class MemberWorker:
    """Methods that vLLM mixes into its worker (`worker_extension_cls`); they are called through `collective_rpc`.

    The model's own parameters are a working copy. What is pristine stands beside it, by Hugging Face name, and every
    edit of the working copy starts from there.
    """

    model_runner: Any  # vLLM's own, of the worker that this is mixed into

    def map_weights(self, shapes: dict[str, torch.Size]) -> None:
        """Find the parameters of these Hugging Face names and keep what they hold as pristine."""
        model = self.model_runner.get_model()
        self.views = parameter_views(model, shapes)
        self.pristine = {name: view.clone() for name, view in self.views.items()}
        self.adapters = adapter_layers(model)

    def pristine_weights(self) -> dict[str, torch.Tensor]:
        return self.pristine

    @torch.no_grad()
    def write_pristine(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        for name, weight in weights:
            self.pristine[name].copy_(weight)
        self.restore()

    @torch.no_grad()
    def write_member(self, member: Member) -> None:
        """The working copy becomes pristine plus the member's delta, formed in float32 and rounded once."""
        for name, view in self.views.items():
            pristine = self.pristine[name]
            view.copy_(pristine.float() + member.delta(name, pristine))
        self.follow_edit()

    @torch.no_grad()
    def restore(self) -> None:
        for name, view in self.views.items():
            view.copy_(self.pristine[name])
        self.follow_edit()

    def follow_edit(self) -> None:
        """Must be called after the working copy was written."""
        if current_platform.is_cpu():
            from eval.rollout.vllm_cpu import repack

            repack(self.model_runner.get_model())

    def open_slots(self, requests: Sequence[LoRARequest], rank: int) -> None:
        """Register a zero adapter for every slot, so that none is looked for on disk or moved to another slot."""
        manager = self.model_runner.lora_manager
        with manager.dummy_lora_cache():
            for request in requests:
                manager.add_dummy_lora(request, rank)
                manager._adapter_manager.activate_adapter(request.lora_int_id)
        for layer, _ in self.adapters:
            for slot in range(len(requests)):
                layer.reset_lora(slot)
        # They stay where they are; vLLM would look each of them up again at every step.
        manager._apply_adapters = lambda requests: None

    @torch.no_grad()
    def write_slots(self, members: Sequence[LowRankMember]) -> None:
        """The adapters in the first slots become these members' factors, in place."""
        rank = members[0].rank
        for layer, names in self.adapters:
            for part, name in enumerate(names):
                factors = [member.factors(name, self.pristine[name]) for member in members]
                a, b = (torch.stack(side) for side in zip(*factors, strict=True))  # [members, out | in, rank]
                # vLLM calls the factor of the input A and that of the output B, and has the rank first in A.
                layer.lora_a_stacked[part][: len(members), 0, :rank].copy_(b.transpose(1, 2))
                layer.lora_a_stacked[part][: len(members), 0, rank:] = 0  # what members of a higher rank left
                layer.lora_b_stacked[part][: len(members), 0, :, :rank].copy_(a)


def parameter_views(model: Any, shapes: dict[str, torch.Size]) -> dict[str, torch.Tensor]:
    """Views of a vLLM model's parameters by Hugging Face name, writable in place.

    model: one of vLLM's, with its `packed_modules_mapping`. shapes: of all parameters of the Hugging Face model. Fused
    parameters (query, key and value; gate and up) are cut into their parts, the rows that pad a vocabulary are left
    out. Raises RuntimeError unless every name has a view of
    its shape and every parameter a name: vLLM keeps packed or quantized weights in other places, where an edit would
    change nothing.
    """
    views = {}
    for name, parameter in model.named_parameters():
        path, kind = name.replace(".base_layer", "").rsplit(".", 1)  # adapters wrap a layer in another
        parent, _, leaf = path.rpartition(".")
        parts = model.packed_modules_mapping.get(leaf)
        if parts is None:
            rows = shapes[f"{path}.{kind}"][0] if f"{path}.{kind}" in shapes else None
            views[f"{path}.{kind}"] = parameter.data[:rows]
        else:
            sizes = model.get_submodule(name.rpartition(".")[0]).output_sizes
            for part, view in zip(parts, parameter.data.split(sizes), strict=True):
                views[f"{parent}.{part}.{kind}"] = view
    wrong = [
        name for name in views.keys() | shapes.keys() if name not in views or views[name].shape != shapes.get(name)
    ]
    if wrong:
        raise RuntimeError(f"vLLM holds {', '.join(sorted(wrong))} in another form than the checkpoint")
    return {name: views[name] for name in shapes}


def adapter_layers(model: Any) -> list[tuple[BaseLayerWithLoRA, list[str]]]:
    """The layers with room for adapters, each with the Hugging Face names of the weights that it holds, in order."""
    layers = []
    for path, module in model.named_modules():
        if isinstance(module, BaseLayerWithLoRA):
            parent, _, leaf = path.rpartition(".")
            parts = model.packed_modules_mapping.get(leaf, [leaf])
            layers.append((module, [f"{parent}.{part}.weight" for part in parts]))
    return layers


class AddressedSampling(LogitsProcessor):
    """Samples with the noise of `eval.rollout.noise`, so that a completion depends on its address, not on its batch.

    A request carries its key and temperature in `extra_args` and is otherwise greedy: the argmax of the scaled logits
    plus addressed Gumbel noise is an exact sample, the same that the Hugging Face engine draws.
    """

    def __init__(self, vllm_config, device: torch.device, is_pin_memory: bool):
        self.device = device
        self.rows: dict[int, tuple[int, float, list[int]]] = {}  # row of the batch -> key, temperature, tokens so far

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if process_dict_updates(self.rows, batch_update, _sampled_row):
            self.index = torch.tensor(list(self.rows), device=self.device)
            keys, temperatures, self.outputs = zip(*self.rows.values(), strict=True) if self.rows else ((), (), ())
            self.keys = torch.tensor(keys, dtype=torch.int64, device=self.device)
            self.temperatures = torch.tensor(temperatures, device=self.device)[:, None]

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        if self.rows:
            positions = torch.tensor([len(tokens) for tokens in self.outputs], device=self.device)
            scaled = logits[self.index] / self.temperatures
            logits[self.index] = scaled + gumbel(self.keys, positions, logits.shape[-1])
        return logits


def _sampled_row(
    params: SamplingParams, prompt_ids: list[int] | None, output_ids: list[int]
) -> tuple[int, float, list[int]] | None:
    if not params.extra_args:
        return None
    return params.extra_args["key"], params.extra_args["temperature"], output_ids
