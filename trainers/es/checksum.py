"""One number for all weights, to find out that two processes no longer hold the same."""

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from eval.errors import UserError
from eval.tasks.generate import hash64
from trainers.es.update import Weights


# Scalars hashed at a time: the int64 copies of a block take 16 bytes each.
BLOCK = 2**24
# Even; 2^64 divided by the golden ratio, as a signed integer.
SPREAD = 0x9E3779B97F4A7C14 - 2**64


def checksum(weights: Weights) -> int:
    """An integer in [0, 2^64) of the bits of float32 weights and their names.

    Per tensor the sum over places of (bits * an odd number that depends on the place), modulo 2^64: any single changed
    value changes it, and integer sums do not depend on the order in which a device adds. All on the weights' device.
    """
    total = 0
    for name, weight in weights.items():
        bits = weight.reshape(-1).view(torch.int32)
        for start in range(0, len(bits), BLOCK):
            block = bits[start : start + BLOCK].long()
            places = torch.arange(start, start + len(block), device=block.device)
            # An odd multiplier spread over 64 bits; products and sum wrap.
            odd = places.mul_(SPREAD).add_(1)
            total += hash64(name, start, int((block * odd).sum()))
    return total % 2**64


def require_equal_weights(accelerator: Accelerator, weights: Weights, step: int) -> None:
    """Raise `UserError` on every process unless all processes hold the same weights, bit for bit."""
    if accelerator.num_processes == 1:
        return
    checksums = gather_object([checksum(weights)])
    for process, value in enumerate(checksums):
        if value != checksums[0]:
            raise UserError(
                f"after step {step} the weights differ between processes: checksum {checksums[0]:016x} on process 0, "
                f"{value:016x} on process {process}; start again from the last checkpoint, with the same model files, "
                "packages and kind of GPU on every machine"
            )
