"""`make bench`: episodes per second of our PPO beside TRL 1.12's, doing the same work.

Same random weights, prompts, batch plan and forced completion length; fp32; separate processes in the order A B B A;
the median of the updates after the first. What the machine can do at all (fp32 matrix products) is measured before
and after, and a machine whose speed changed in between is called noisy.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import typer

ROOT = Path(__file__).resolve().parent.parent
ORACLE = Path(os.environ.get("RLHF_TRL_ORACLE", ROOT / ".oracle"))
ARMS = {"A": "TRL 1.12.0", "B": "ours, the same algorithm"}


def gemm_roof(size: int = 1024, repeats: int = 20) -> float:
    """GFLOP/s of fp32 matrix products, the best of `repeats`."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e9


def run_arm(arm: str, updates: int) -> dict[str, float]:
    """Run one arm in a process of its own; returns its figures."""
    env = dict(os.environ)
    if arm == "A":
        env["PYTHONPATH"] = str(ORACLE)
    command = [sys.executable, str(ROOT / "benchmarks" / "ppo_arm.py"), arm, str(updates)]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{ARMS[arm]} failed:\n{done.stderr[-3000:]}")
    figures: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def main(updates: int = typer.Option(6, help="Updates per process; the first is not counted.")) -> None:
    """Print one line a process, then the ratio of the medians."""
    if not (ORACLE / "trl").is_dir():
        raise SystemExit("TRL 1.12.0 is not there: run `make oracle` first")
    roof = gemm_roof()
    print(f"fp32 roof {roof:.0f} GFLOP/s, {torch.get_num_threads()} threads")
    runs: dict[str, list[dict[str, float]]] = {"A": [], "B": []}
    for arm in "ABBA":
        figures = run_arm(arm, updates)
        runs[arm].append(figures)
        print(f"{arm} {ARMS[arm]:26} {figures['episodes_per_second']:6.2f} episodes/s   {figures['rss_mib']:6.0f} MiB")
    after = gemm_roof()
    if abs(after / roof - 1) > 0.15:
        print(f"the machine was not quiet (roof {roof:.0f} before, {after:.0f} after): do not quote these figures")
    median = {arm: statistics.median(run["episodes_per_second"] for run in found) for arm, found in runs.items()}
    memory = {arm: statistics.median(run["rss_mib"] for run in found) for arm, found in runs.items()}
    print(f"B over A: {median['B'] / median['A']:.2f}x episodes/s, {memory['B'] / memory['A']:.2f}x peak memory")


if __name__ == "__main__":
    typer.run(main)
