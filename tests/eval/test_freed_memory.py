import platform
import subprocess
import sys

import pytest
import torch

from tests.recipe_files import ROOT


# Prints how many pages the process took from the kernel in the last four of six passes forward and backward.
MEASURE = """
import resource
import torch
from eval.freed_memory import keep_freed_memory
keep_freed_memory()
torch.set_num_threads(1)
layers = torch.nn.Sequential(*(torch.nn.Linear(256, 256) for _ in range(20)))
def taken():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for number in range(6):
    if number == 2:
        before = taken()
    torch.nn.functional.gelu(layers(torch.ones(8192 + 256 * number, 256))).sum().backward()
print(taken() - before)
"""


def pages(**environment: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **environment},
    )
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or torch.accelerator.is_available(), reason="only with glibc, and on the CPU"
)
def test_freed_memory_is_used_again_but_not_where_the_user_has_chosen():
    assert pages() < pages(MALLOC_TOP_PAD_="0") / 3
