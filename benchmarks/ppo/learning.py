"""What each arm learns: `python -m benchmarks.ppo.learning HOME`, HOME being that of a finished `rlhf demo`.

PPO from the demo's SFT model with its reward model, the same prompts and settings, several seeds; each run in a process
of its own on one thread, the arms taking turns. Reports score, KL and the known rubric at equal episodes and at equal
time. Time is the process's own processor time, which other jobs on the machine hardly change; the wall's stands beside.
"""

import json
import math
import statistics
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.ppo.demo_run import ORACLE, SAME_ALGORITHM, Spec, start

ARMS: dict[str, dict[str, Any]] = {
    "A": {"bf16": False},
    "B": SAME_ALGORITHM,
    "B16": SAME_ALGORITHM | {"bf16": True},
    "C": {"bf16": True, "critic": "head"},
    "C32": {"bf16": False, "critic": "head"},
    "L": {"bf16": True, "critic": "adapter", "critic_init": "reward"},
    "L1": {"bf16": True, "critic": "adapter", "critic_init": "reward", "critic_learning_rate": 1.5e-4},
    "S": {"bf16": True, "critic": "shared"},
}
"""A: TRL 1.12. B: ours, the same algorithm in fp32; B16: in bf16. C: ours with a small network on the frozen reward
model as critic, in bf16; C32: in fp32. L: the critic as an adapter on the reward model; L1: at the policy's learning
rate. S: the critic on the policy's trunk."""
NATURAL = {"response_length": 64, "stop_token": "eos", "missing_eos_penalty": 1.0}
BATCH = 64
TAIL = 4
"""Updates over which score and KL are averaged, and from one judgement by the rubric to the next."""
KEYS = ("scores", "kl", "rubric")
Curve = list[dict[str, float]]


def main(
    home: Annotated[Path, typer.Argument(help="RLHF_HOME of a finished `rlhf demo`.")],
    arms: Annotated[str, typer.Option(help="Of: " + ", ".join(ARMS))] = "A,B,C",
    seeds: Annotated[int, typer.Option(help="Seeds 0, 1, ...")] = 3,
    updates: Annotated[int, typer.Option(help=f"Of {BATCH} episodes each; a multiple of {TAIL}.")] = 24,
    json_path: Annotated[Path | None, typer.Option("--json", help="Where curves go; those in it are not run.")] = None,
) -> None:
    """Print a line a run, then the arms at equal episodes and at equal time."""
    names = arms.split(",")
    if "A" in names and not (ORACLE / "trl").is_dir():
        raise SystemExit("TRL 1.12.0 is not there: run `make oracle` first")
    known: dict[str, Curve] = json.loads(json_path.read_text()) if json_path and json_path.exists() else {}
    curves: dict[str, list[Curve]] = {arm: [] for arm in names}
    for seed in range(seeds):
        for arm in [*names[seed % len(names) :], *names[: seed % len(names)]]:
            key = f"{arm} seed {seed}, {updates} updates"
            if key not in known:
                spec = Spec(str(home.resolve()), arm == "A", seed, updates, BATCH, NATURAL | ARMS[arm], TAIL)
                known[key] = start(spec)
                if json_path:
                    json_path.write_text(json.dumps(known) + "\n")
            curves[arm].append(known[key])
            print(f"{key}: {_line(known[key])}", flush=True)
    for update in range(TAIL, updates + 1, TAIL):
        print(f"\nafter {update * BATCH} episodes (update {update})")
        for arm, found in curves.items():
            print(f"{arm:4}{_row([by_update(curve, update) for curve in found])}")
    end = min(curve[-1]["cpu"] for found in curves.values() for curve in found)
    for share in (0.25, 0.5, 0.75, 1.0):
        print(f"\nafter {share * end:.1f} s of processor time")
        for arm, found in curves.items():
            print(f"{arm:4}{_row([by_time(curve, share * end) for curve in found])}")


def by_update(curve: Curve, update: int) -> dict[str, float]:
    """Score and KL over the last TAIL updates up to `update`, rubric and clocks at it; NaN where there is none yet."""
    rows = [row for row in curve if row["update"] <= update]
    tail = [row for row in rows if row["update"] > max(update - TAIL, 0)]
    judged = [row["rubric"] for row in rows if "rubric" in row]
    return {
        "scores": statistics.mean(row["scores"] for row in tail) if tail else math.nan,
        "kl": statistics.mean(row["kl"] for row in tail) if tail else math.nan,
        "rubric": judged[-1] if judged else math.nan,
        "updates": rows[-1]["update"],
        "cpu": rows[-1]["cpu"],
        "wall": rows[-1]["wall"],
    }


def by_time(curve: Curve, seconds: float) -> dict[str, float]:
    """`by_update` for the last update that was done in so many seconds of processor time."""
    return by_update(curve, int(max(row["update"] for row in curve if row["cpu"] <= seconds)))


def _row(found: list[dict[str, float]]) -> str:
    """Means over seeds, and the single seeds of score, KL and rubric."""
    shown = [f"{key} {_mean(found, key):.2f} ({' '.join(f'{one[key]:.2f}' for one in found)})" for key in KEYS]
    shown.append(
        f"update {_mean(found, 'updates'):.1f}, {_mean(found, 'cpu'):.1f} s, wall {_mean(found, 'wall'):.1f} s"
    )
    return "  ".join(shown)


def _mean(found: list[dict[str, float]], key: str) -> float:
    return statistics.mean(one[key] for one in found)


def _line(curve: Curve) -> str:
    return ", ".join(f"{key} {value:.3f}" for key, value in by_update(curve, int(curve[-1]["update"])).items())


if __name__ == "__main__":
    typer.run(main)
