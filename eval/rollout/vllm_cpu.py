"""Changes to vLLM's CPU backend, in force while an engine is built: weights that can be edited, and grouped adapters.

vLLM repacks linear weights when it loads them and leaves empty parameters behind: edits in place change nothing, and
reloading weights gives wrong answers. Here the parameters stay, and what was packed is packed again after an edit. And
its adapters are applied by gathering, for every token, a copy of its adapter.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from vllm.lora.layers import LoRAMapping
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.model_executor.layers import utils as layer_utils
from vllm.platforms import current_platform
from vllm.triton_utils import dispatcher


PACK = layer_utils.dispatch_cpu_unquantized_gemm
# Tokens in a block from which a product of its own pays.
LONG = 24


@contextmanager
def editable_cpu_engine() -> Iterator[None]:
    """Engines built inside the block keep their parameters beside packed ones, and apply adapters by `MemberProducts`.

    After an edit of the parameters, `repack` must follow.
    """
    platform: Any = type(current_platform)
    wrapper = platform.get_punica_wrapper
    set_num_threads, rebind = torch.set_num_threads, dispatcher._rebind_kernels
    dispatcher._rebind_kernels = _without_llvmlite(rebind)
    layer_utils.dispatch_cpu_unquantized_gemm = lambda layer, remove_weight: PACK(layer, remove_weight=False)
    platform.get_punica_wrapper = classmethod(lambda cls: f"{__name__}.MemberProducts")
    try:
        yield
    finally:
        layer_utils.dispatch_cpu_unquantized_gemm = PACK
        platform.get_punica_wrapper = wrapper
        dispatcher._rebind_kernels = rebind
        torch.set_num_threads = set_num_threads  # the worker replaces it by one that does nothing


def repack(model: torch.nn.Module) -> None:
    """Bring what vLLM computes with up to date with the parameters: about 0.15 ms and a copy of the weight a layer."""
    for module in model.modules():
        if "cpu_linear" in vars(module):
            PACK(module, remove_weight=False)


def _without_llvmlite(rebind: Callable[[list], None]) -> Callable[[list], None]:
    """The same scan of all imported modules, but for the one it fails on, with the attribute that has every name."""

    def scan(overrides: list) -> None:
        hidden = sys.modules.pop("llvmlite.binding.ffi", None)
        try:
            rebind(overrides)
        finally:
            if hidden is not None:
                sys.modules["llvmlite.binding.ffi"] = hidden

    return scan


class MemberProducts(PunicaWrapperCPU):
    """Adapters by products of blocks of tokens instead of a gathered copy per token.

    A token x [in] with the factors b [rank, in] and a [out, rank] of its adapter gets a b x. Tokens of one adapter
    mostly stand side by side, and how far they do decides how this is computed:

        in blocks of equal length   one batched product for all of them: a population that starts to decode
        in long blocks              a product for each: prompts
        mixed                       products with the factors of all adapters side by side, set to zero between the two
                                    outside the token's own: a population of which some completions are finished
    """

    def update_metadata(
        self, mapping: LoRAMapping, lora_index_to_id: list[int | None], max_loras: int, vocab_size: int, **kwargs
    ) -> None:
        """Called once a step. mapping.index_mapping: [tokens], the id of each token's adapter, 0 for none."""
        slot_of = {adapter: slot for slot, adapter in enumerate(lora_index_to_id) if adapter is not None}
        ids = np.array(mapping.index_mapping, dtype=np.int64)
        ends = [*(np.flatnonzero(np.diff(ids)) + 1).tolist(), len(ids)]
        starts = [0, *ends[:-1]]
        adapters = ids[starts].tolist()
        self.tokens, self.no_lora = len(ids), not any(adapters)
        self.blocks = [
            (slot_of[adapter], slice(start, end))
            for adapter, start, end in zip(adapters, starts, ends, strict=True)
            if adapter
        ]
        self.equal = all(adapters) and len({end - start for start, end in zip(starts, ends, strict=True)}) == 1
        self.long = len(ids) >= LONG * len(starts)
        self.slots = torch.tensor([slot for slot, _ in self.blocks], dtype=torch.int64)
        self.mask = None  # made when it is needed; all layers have the same rank and dtype

    def _own(self, rank: int, dtype: torch.dtype) -> torch.Tensor:
        """[tokens, adapters * rank], 1 where a column belongs to the token's adapter, else 0.

        The adapters are `self.slots`, from now on each once.
        """
        if self.mask is None:
            self.slots = self.slots.unique()
            slots = torch.full((self.tokens,), -1)
            for slot, tokens in self.blocks:
                slots[tokens] = slot
            self.mask = (slots[:, None] == self.slots).to(dtype).repeat_interleave(rank, dim=1)
        return self.mask

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **kwargs,
    ) -> None:
        """y [tokens, out] += each token's adapter on x [tokens, in], one slice of the outputs after the other.

        lora_a_stacked, lora_b_stacked: [slots, 1, rank, in] and [slots, 1, slice, rank] for each slice.
        """
        if self.no_lora:
            return
        start = 0
        for b, a, size in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
            self._add(y[:, start : start + size], x, a[:, 0].transpose(1, 2), b[:, 0], scale)
            start += size

    def _add(self, y: torch.Tensor, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float) -> None:
        """y [tokens, slice] += a b x; a [slots, rank, slice], b [slots, rank, in]."""
        if self.equal:
            thin = torch.bmm(x.view(len(self.slots), -1, x.shape[1]), b[self.slots].transpose(1, 2))
            y.unflatten(0, (len(self.slots), -1)).baddbmm_(thin, a[self.slots], alpha=scale)
        elif self.long:
            for slot, tokens in self.blocks:
                y[tokens].addmm_(x[tokens] @ b[slot].T, a[slot], alpha=scale)
        else:
            own = self._own(b.shape[1], x.dtype)
            thin = (x @ b[self.slots].flatten(0, 1).T).mul_(own)
            y.addmm_(thin, a[self.slots].flatten(0, 1), alpha=scale)
