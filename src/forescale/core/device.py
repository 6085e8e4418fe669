"""The machine: which device to use, how fast its matrix products are, how much memory was used."""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def pick_device() -> torch.device:
    """The accelerator of this process if there is one, else the CPU."""
    import torch

    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def accelerators() -> int:
    """How many accelerators there are, asked without keeping one busy."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def cpus() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def matmul_peak(device: torch.device, bfloat16: bool, seconds: float = 1.0) -> float:
    """The best matrix-product rate seen here, in FLOP/s, in bfloat16 or float32.

    Several sizes, each timed until `seconds` are spent on all; the maximum counts, so that noise cannot flatter utilisation.
    """
    import torch

    dtype = torch.bfloat16 if bfloat16 else torch.float32
    sizes = (4096, 8192) if device.type == "cuda" else (512, 1024, 1536)
    best = 0.0
    for size in sizes:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        a @ b
        end = time.perf_counter() + seconds / len(sizes)
        while time.perf_counter() < end:
            if device.type == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            a @ b
            if device.type == "cuda":
                torch.cuda.synchronize()
            best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def reset_peak_memory(device: torch.device) -> None:
    """Starts the count of `peak_memory_bytes` anew, where the system lets one: a worker makes one stage after another."""
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory this process has held since the last reset: on the accelerator if it uses one, else its resident set."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@functools.cache
def has_compiler() -> bool:
    """Whether torch.compile can build CPU kernels here."""
    return any(shutil.which(name) for name in filter(None, (os.environ.get("CXX"), "g++", "clang++", "c++")))


@functools.cache
def has_bfloat16_units() -> bool:
    """Whether this CPU has instructions for bfloat16 products (AMX, AVX512-BF16); without them bfloat16 is slower than float32."""
    import torch

    # Private in torch 2.11 to 2.13, and the only way to ask; a torch without them trains in float32.
    asks = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return any(bool(ask and ask()) for ask in asks)


def worker_environment(threads: int) -> dict[str, str]:
    """Environment for a training process: thread counts, and glibc told to keep memory rather than give it back at every step.

    Page faults on returned memory cost a fifth of the time at small widths (docs/log.md).
    """
    counts = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    keep = {
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
        "MALLOC_TOP_PAD_": str(64 << 20),
    }
    return {**os.environ, **counts, **keep, "TOKENIZERS_PARALLELISM": "false"}
