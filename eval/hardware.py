"""What this machine's processors can do."""

from typing import Any


# Of /proc/cpuinfo: processors that multiply bfloat16 themselves.
BFLOAT16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")


def cpu_flags() -> set[str]:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            lines = [line for line in file if line.startswith(("flags", "Features"))]
    except OSError:
        return set()
    return set(lines[0].partition(":")[2].split()) if lines else set()


def multiplies_bfloat16(device: Any) -> bool:
    """Whether a `torch.device` does so in hardware; emulated it is slower than float32. Of "cpu" without torch."""
    if str(device).partition(":")[0] == "cpu":
        return not cpu_flags().isdisjoint(BFLOAT16_FLAGS)
    import torch

    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
