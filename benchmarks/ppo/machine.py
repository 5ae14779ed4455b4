"""What the machine can do, measured in the same run, and whether anything else runs on it."""

import os
import time
from dataclasses import dataclass

import torch

MAX_LOAD = 0.6
"""Processes that may be running beside the benchmark, by /proc/loadavg's last minute."""


@dataclass(frozen=True)
class Roof:
    """Best rates of this machine."""

    fp32: float
    """GFLOP/s of matrix products."""
    bf16: float
    bandwidth: float
    """GB/s, reading and writing."""

    def __str__(self) -> str:
        return f"fp32 {self.fp32:.0f} GFLOP/s, bf16 {self.bf16:.0f} GFLOP/s, memory {self.bandwidth:.0f} GB/s"


def measure() -> Roof:
    """The best of some repeats, at the sizes that training has."""
    return Roof(_products(torch.float32), _products(torch.bfloat16), _bandwidth())


def busy() -> str | None:
    """Why this is no time to measure; None if it is."""
    load = os.getloadavg()[0]
    return f"load {load:.1f} in the last minute" if load > MAX_LOAD else None


def _products(dtype: torch.dtype, repeats: int = 40) -> float:
    left, right = torch.randn(2048, 1024).to(dtype), torch.randn(1024, 1024).to(dtype)
    return 2 * 2048 * 1024 * 1024 / _best(lambda: left @ right, repeats) / 1e9


def _bandwidth(repeats: int = 10) -> float:
    numbers = torch.zeros(64 * 2**20)
    return 2 * numbers.nbytes / _best(lambda: numbers.add_(1.0), repeats) / 1e9


def _best(work: object, repeats: int) -> float:
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        work()  # type: ignore[operator]
        best = min(best, time.perf_counter() - start)
    return best
