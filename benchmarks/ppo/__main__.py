"""`make bench`: our PPO beside TRL 1.12's.

Same random weights, prompts, sampling settings and batch plan, separate processes in the order A B B16 C C B16 B A; the
median of the updates after the first of each process. See docs/performance.md.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.ppo import machine, shapes
from benchmarks.ppo.bounds import bounds

ROOT = Path(__file__).resolve().parents[2]
ORACLE = Path(os.environ.get("RLHF_TRL_ORACLE", ROOT / ".oracle"))
NAMES = {
    "A": "TRL 1.12.0",
    "B": "ours, same algorithm, fp32",
    "B16": "ours, same algorithm, bf16",
    "C": "ours, head critic, bf16",
    "S": "ours, shared critic, bf16",
    "L": "ours, adapter critic, bf16",
    "O": "ours, LoRA, one base, bf16",
}
NOISE = 0.15
"""How far the roof may move between the begin and the end."""


def run_arm(arm: str, size: str, ending: str, updates: int) -> dict[str, Any]:
    """Run one arm in a process of its own; returns what it measured."""
    env = dict(os.environ)
    if arm == "A":
        env["PYTHONPATH"] = str(ORACLE)
    command = [sys.executable, str(ROOT / "benchmarks" / "ppo" / "arm.py"), arm, size, ending, str(updates)]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{NAMES[arm]} failed:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def compare(size: str, ending: str, arms: list[str], updates: int, roof: machine.Roof) -> dict[str, Any]:
    """All arms of one size and way of ending, there and back."""
    shape = shapes.SHAPES[size]
    runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
    for arm in [*arms, *reversed(arms)]:
        runs[arm].append(run_arm(arm, size, ending, updates))
    mean_length = next((run["mean_length"] for found in runs.values() for run in found if run["mean_length"]), None)
    table: dict[str, Any] = {"size": size, "ending": ending, "mean_length": mean_length, "arms": {}}
    for arm, found in runs.items():
        seconds = [second for run in found for second in run["seconds"]]
        phases = [phase for run in found for phase in run["phases"]]
        table["arms"][arm] = {
            "episodes_per_second": shape.batch / statistics.median(seconds),
            "slowest": shape.batch / max(seconds),
            "fastest": shape.batch / min(seconds),
            "num_updates": len(seconds),
            "rss_mib": statistics.median(run["rss_mib"] for run in found),
            "phases": {name: statistics.median(p[name] for p in phases) for name in (phases[0] if phases else {})},
            "bound": bounds(shape, roof, arm, mean_length or shapes.RESPONSE_LENGTH),
        }
    return table


def show(table: dict[str, Any]) -> None:
    """One line an arm, with its ratio to A and its share of the lower bound."""
    length = table["mean_length"]
    print(f"\n{table['size']}, {table['ending']} length" + (f" (mean {length:.0f} tokens)" if length else ""))
    first = table["arms"].get("A")
    for arm, row in table["arms"].items():
        line = f"{arm:4}{NAMES[arm]:28}{row['episodes_per_second']:7.2f} episodes/s"
        line += f" ({row['slowest']:.2f} to {row['fastest']:.2f})  {row['rss_mib']:6.0f} MiB"
        if first and arm != "A":
            ratio = row["episodes_per_second"] / first["episodes_per_second"]
            line += f"  {ratio:.2f}x, memory {row['rss_mib'] / first['rss_mib']:.2f}x"
        print(line)
        print("    " + ", ".join(_share(name, row) for name in row["bound"]))


def _share(name: str, row: dict[str, Any]) -> str:
    """A phase's lower bound, and its share of the time measured where there is one."""
    bound, phases = row["bound"][name], row["phases"]
    spent = phases.get(name)
    if name == "measure" and "rollout" in phases and "generate" in phases:
        spent = phases["rollout"] - phases["generate"] + phases.get("score", 0.0)
    if name == "train" and "train" in phases:
        spent = phases["train"] - phases.get("optimizer", 0.0)
    return (
        f"{name} {spent:.2f} s, bound {bound:.2f} s ({bound / spent:.0%})" if spent else f"{name} bound {bound:.2f} s"
    )


def main(
    sizes: Annotated[str, typer.Option(help="Of: " + ", ".join(shapes.SHAPES))] = "5.8M,40M",
    endings: Annotated[str, typer.Option(help="forced, natural or both.")] = "forced,natural",
    arms: Annotated[str, typer.Option(help="Of: " + ", ".join(NAMES))] = "A,B,B16,C",
    updates: Annotated[int, typer.Option(help="Updates per process; the first is not counted.")] = 4,
    anyway: Annotated[bool, typer.Option("--anyway", help="Measure on a busy machine, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON value behind the tables.")] = False,
) -> None:
    """Compare, and print one table for each size and way of ending."""
    if not (ORACLE / "trl").is_dir():
        raise SystemExit("TRL 1.12.0 is not there: run `make oracle` first")
    reason = machine.busy()
    if reason and not anyway:
        raise SystemExit(f"the machine is not quiet ({reason}): wait, or give --anyway and do not quote the figures")
    roof = machine.measure()
    print(f"roof: {roof}")
    tables = []
    for size in sizes.split(","):
        for ending in endings.split(","):
            tables.append(compare(size, ending, arms.split(","), updates, roof))
            show(tables[-1])
    after = machine.measure()
    print(f"\nroof afterwards: {after}")
    if abs(after.fp32 / roof.fp32 - 1) > NOISE:
        print("the machine was not quiet: do not quote these figures")
    if as_json:
        print(json.dumps(tables))


if __name__ == "__main__":
    typer.run(main)
