"""Seconds and memory of `update_geometry` on a large checkpoint, beside a plain read of the same files.

    python -m tests.benchmarks.geometry_stream [--parameters 1.2e9] [--repeats 3] [--folder DIR]

Writes two random bfloat16 checkpoints with the shapes of Llama-3.2-1B (fewer layers and a smaller vocabulary for fewer
parameters) in shards of some 500 MB to a temporary folder, base and base plus noise, and deletes them at the end. Each
round then times, one after the other,

    read      every shard of both folders from beginning to end into one buffer of 16 MB
    geometry  `update_geometry` of the two folders, with a tensor for each of a few threads

first with the files dropped from the page cache before each ("cold": the disk takes part), then with the files in it
("warm": only memory and processor do). Medians are printed. "warm" is the harder comparison, and the one that stays
the same on another disk; files larger than the free memory are never warm.

Peak memory is the process's highest resident size (`ru_maxrss`) after the rounds, less that before the first; another
process writes the files. Pages of the page cache that no process maps are not in it. "of its own" is sampled during
the rounds from RssAnon in /proc/self/status: memory that the system cannot take back.
"""

import argparse
import json
import math
import multiprocessing
import os
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from analysis.geometry.updates import update_geometry


HIDDEN, INTERMEDIATE, KEY_VALUE, VOCABULARY, LAYERS = 2048, 8192, 512, 128_256, 16  # Llama-3.2-1B, tied embeddings
SHARD_SCALARS = 250_000_000


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parameters", type=float, default=1.2e9, help="of each checkpoint, about (default: 1.2e9)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; medians are printed (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made (default: the system's)")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        base, moved = Path(folder, "base"), Path(folder, "moved")
        tensors = shapes(arguments.parameters)
        writer = multiprocessing.get_context("spawn").Process(target=write_checkpoints, args=(base, moved, tensors))
        writer.start()
        writer.join()
        if writer.exitcode != 0:
            raise SystemExit("the checkpoints could not be written")
        files = sorted(base.glob("*.safetensors")) + sorted(moved.glob("*.safetensors"))
        size = sum(file.stat().st_size for file in files)
        scalars = sum(math.prod(shape) for shape in tensors.values())
        print(
            f"{scalars:,} parameters, 2 x {size / 2e9:.2f} GB in {len(files)} shards, "
            f"medians of {arguments.repeats} rounds",
            flush=True,
        )
        before = peak_resident()
        with OwnMemory() as own:
            for temperature in ("cold", "warm"):
                seconds = measure(base, moved, files, temperature == "cold", arguments.repeats)
                report(temperature, seconds, size, scalars)
        print(
            f"peak resident memory above the start: {(peak_resident() - before) / 1e9:.2f} GB with "
            f"mapped files, {own.peak / 1e9:.2f} GB of its own"
        )


def shapes(parameters: float) -> dict[str, tuple[int, ...]]:
    """Llama-3.2-1B's tensors, with so many layers and so large a vocabulary that they hold about `parameters`."""
    layer = {
        "self_attn.q_proj": (HIDDEN, HIDDEN),
        "self_attn.k_proj": (KEY_VALUE, HIDDEN),
        "self_attn.v_proj": (KEY_VALUE, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HIDDEN),
        "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
        "mlp.up_proj": (INTERMEDIATE, HIDDEN),
        "mlp.down_proj": (HIDDEN, INTERMEDIATE),
        "input_layernorm": (HIDDEN,),
        "post_attention_layernorm": (HIDDEN,),
    }
    of_one_layer = sum(math.prod(shape) for shape in layer.values())
    share = parameters / (LAYERS * of_one_layer + VOCABULARY * HIDDEN)
    layers = max(1, round(share * LAYERS))
    vocabulary = max(1, round((parameters - layers * of_one_layer) / HIDDEN))
    tensors = {"model.embed_tokens.weight": (vocabulary, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for number in range(layers):
        tensors |= {f"model.layers.{number}.{name}.weight": shape for name, shape in layer.items()}
    return tensors


def write_checkpoints(base: Path, moved: Path, tensors: dict[str, tuple[int, ...]]) -> None:
    """Two checkpoints, of independent normal weights and of these plus noise, shard by shard."""
    generator = torch.Generator().manual_seed(0)
    shards: list[list[str]] = [[]]
    for name, shape in tensors.items():
        filled = sum(math.prod(tensors[other]) for other in shards[-1])
        if shards[-1] and filled + math.prod(shape) > SHARD_SCALARS:
            shards.append([])
        shards[-1].append(name)
    files = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    for folder in (base, moved):
        folder.mkdir()
        weight_map = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        index = {"weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    for file, names in zip(files, shards, strict=True):
        values = {name: 0.02 * torch.randn(tensors[name], generator=generator, dtype=torch.bfloat16) for name in names}
        save_file(values, base / file)
        for name, value in values.items():
            value.add_(torch.randn(tensors[name], generator=generator, dtype=torch.bfloat16), alpha=1e-3)
        save_file(values, moved / file)


def measure(base: Path, moved: Path, files: list[Path], cold: bool, repeats: int) -> dict[str, float]:
    """Median seconds of each way."""
    ways: dict[str, Callable[[], object]] = {
        "read": lambda: read(files),
        "geometry": lambda: update_geometry(base, {"moved": moved}),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    if not cold:
        read(files)
    for _ in range(repeats):
        for name, way in ways.items():
            if cold:
                drop_from_page_cache(files)
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def report(temperature: str, seconds: dict[str, float], size: int, scalars: int) -> None:
    print(
        f"{temperature}: read {seconds['read']:.2f} s ({size / seconds['read'] / 1e9:.2f} GB/s), "
        f"geometry {seconds['geometry']:.2f} s ({seconds['geometry'] / scalars * 1e9:.2f} ns per parameter), "
        f"geometry / read {seconds['geometry'] / seconds['read']:.2f}",
        flush=True,
    )


def read(files: list[Path]) -> None:
    buffer = bytearray(2**24)
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def drop_from_page_cache(files: list[Path]) -> None:
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)  # only pages that are on the disk can be dropped
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def peak_resident() -> int:
    """Bytes; Linux counts in KiB."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class OwnMemory:
    """The highest anonymous resident memory while the context is open, above that at its start, in bytes."""

    def __enter__(self) -> "OwnMemory":
        self.start, self.peak, self.ended = self._now(), 0, threading.Event()
        self.sampler = threading.Thread(target=self._sample)
        self.sampler.start()
        return self

    def __exit__(self, *_) -> None:
        self.ended.set()
        self.sampler.join()

    def _sample(self) -> None:
        while not self.ended.wait(0.02):
            self.peak = max(self.peak, self._now() - self.start)

    def _now(self) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


if __name__ == "__main__":
    main()
