"""The products of tokens with their adapters, in every order in which a batch may have them."""

import importlib.util

import pytest
import torch


if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed (make test installs it on Linux on x86-64)", allow_module_level=True)

from vllm.lora.layers import LoRAMapping  # noqa: E402
from vllm.platforms import current_platform  # noqa: E402

from eval.rollout.vllm_cpu import LONG, MemberProducts  # noqa: E402


pytestmark = pytest.mark.vllm
# Ids of the tokens' adapters, 0 for none.
BATCHES = {
    "equal blocks": [1, 1, 2, 2, 4, 4],
    "equal blocks in any order": [4, 1, 3, 2, 1, 4],
    "long blocks": [2] * (2 * LONG) + [4] * LONG + [1] * LONG,
    "long blocks with none": [0] * LONG + [3] * (2 * LONG) + [0] * LONG,
    "mixed": [1, 1, 2, 4, 4, 4, 1],
    "mixed with none": [1, 1, 0, 4, 4, 0, 1],
    "one": [3] * 5,
    "none": [0] * 5,
}


@pytest.mark.skipif(not current_platform.is_cpu(), reason="vLLM here is not its CPU build")
@pytest.mark.parametrize("rank", (1, 3))
@pytest.mark.parametrize("ids", BATCHES.values(), ids=BATCHES.keys())
def test_every_token_gets_its_adapter(ids, rank):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(len(ids), 16, generator=generator)
    y = torch.randn(len(ids), 30, generator=generator)
    slices = (10, 20)
    b = [torch.randn(4, 1, rank, 16, generator=generator) for _ in slices]
    a = [torch.randn(4, 1, size, rank, generator=generator) for size in slices]
    slot_of = {1: 2, 2: 0, 3: 3, 4: 1}
    expected = y.clone()
    for row, adapter in enumerate(ids):
        if adapter:
            slot = slot_of[adapter]
            expected[row] += 2 * torch.cat([a[part][slot, 0] @ (b[part][slot, 0] @ x[row]) for part in range(2)])
    products = MemberProducts(64, 64, "cpu")
    products.update_metadata(LoRAMapping(tuple(ids), tuple(ids), is_prefill=True), [2, 4, 1, 3], 5, 100)
    for _ in range(2):  # two layers of one step
        out = y.clone()
        products.add_lora_linear(out, x, tuple(b), tuple(a), 2.0, slices)
        torch.testing.assert_close(out, expected)
