"""Whether our rewards lie within TRL's own seed-to-seed band: `python -m benchmarks.ppo.band HOME`.

HOME is that of a finished `rlhf demo`. TRL 1.12 and ours, the same algorithm and settings in fp32 from the same
weights, each with several seeds, taking turns; a seed means other prompts and samples on each side. Printed for each
update: mean, standard deviation and range of TRL's seeds, our mean, and by how many standard errors the means differ.
Even of one and the same trainer the mean of some seeds is now and then outside the range of others: how often is
counted over every way to deal the curves out to the two sides.
"""

import itertools
import json
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.ppo.demo_run import ORACLE, SAME_ALGORITHM, Spec, start
from benchmarks.ppo.learning import NATURAL, Curve

ENDINGS: dict[str, dict[str, Any]] = {"forced": {"response_length": 16}, "natural": NATURAL}
"""forced: all completions have 16 tokens, half of what the demo's have by themselves; one in seven holds an EOS, none a
pad token, which TRL takes for the end."""
BATCH = 64


def main(
    home: Annotated[Path, typer.Argument(help="RLHF_HOME of a finished `rlhf demo`.")],
    ending: Annotated[str, typer.Option(help="forced or natural length of completions.")] = "forced",
    seeds: Annotated[int, typer.Option(help="Seeds 0, 1, ... of each side.")] = 5,
    updates: Annotated[int, typer.Option(help=f"Of {BATCH} episodes each.")] = 24,
    json_path: Annotated[Path | None, typer.Option("--json", help="Where curves go; those in it are not run.")] = None,
) -> None:
    """Print a line an update, for score and for KL, and how often our mean was within the band."""
    if not (ORACLE / "trl").is_dir():
        raise SystemExit("TRL 1.12.0 is not there: run `make oracle` first")
    known: dict[str, Curve] = json.loads(json_path.read_text()) if json_path and json_path.exists() else {}
    curves: dict[str, list[Curve]] = {"TRL": [], "ours": []}
    for seed in range(seeds):
        for side, found in curves.items():
            key = f"{ending} {side} seed {seed}, {updates} updates"
            if key not in known:
                own = {"bf16": False} if side == "TRL" else SAME_ALGORITHM
                settings = ENDINGS[ending] | own
                known[key] = start(Spec(str(home.resolve()), side == "TRL", seed, updates, BATCH, settings))
                if json_path:
                    json_path.write_text(json.dumps(known) + "\n")
            found.append(known[key])
            last = known[key][-1]
            print(f"{key}: score {last['scores']:.2f}, KL {last['kl']:.2f}, {last['cpu']:.0f} s", flush=True)
    for signal in ("scores", "kl"):
        show(signal, *([[row[signal] for row in curve] for curve in found] for found in curves.values()))


def show(signal: str, theirs: list[list[float]], ours: list[list[float]]) -> None:
    """The table of one signal, [seed][update] on each side."""
    print(f"\n{signal}\nupdate  TRL mean    sd  lowest  highest   ours   sd  standard errors apart")
    is_inside = inside(theirs, ours)
    for update, (band, found) in enumerate(zip(zip(*theirs, strict=True), zip(*ours, strict=True), strict=True), 1):
        print(
            f"{update:6}{statistics.mean(band):10.3f}{statistics.stdev(band):6.3f}{min(band):8.3f}{max(band):9.3f}"
            f"{statistics.mean(found):7.3f}{statistics.stdev(found):6.3f}{apart(band, found):+8.1f}"
            f"{'' if is_inside[update - 1] else '  outside'}"
        )
    whole = [[statistics.mean(curve) for curve in side] for side in (theirs, ours)]
    over_all = [f"{statistics.mean(side):.3f} ({min(side):.3f} to {max(side):.3f})" for side in whole]
    dealt = sorted(sum(inside(*halves)) for halves in deals(theirs + ours, len(theirs)))
    print(
        f"our mean within TRL's range in {sum(is_inside)} of {len(is_inside)} updates; were the sides the same trainer:"
    )
    print(f"{statistics.mean(dealt):.1f} on average, {dealt[len(dealt) // 20]} or fewer in 1 of 20")
    print(f"mean over all updates: TRL {over_all[0]}, ours {over_all[1]}, {apart(*whole):+.1f} standard errors apart")


def inside(theirs: list[list[float]], ours: list[list[float]]) -> list[bool]:
    """For each update, whether the mean of `ours` is between the lowest and the highest of `theirs`."""
    sides = zip(zip(*theirs, strict=True), zip(*ours, strict=True), strict=True)
    return [min(band) <= statistics.mean(found) <= max(band) for band, found in sides]


def deals(curves: list[list[float]], number: int) -> Iterator[tuple[list[list[float]], list[list[float]]]]:
    """Every way to deal `curves` out to a side of `number` and the other."""
    for chosen in itertools.combinations(range(len(curves)), number):
        rest = [curve for place, curve in enumerate(curves) if place not in chosen]
        yield [curves[place] for place in chosen], rest


def apart(first: tuple[float, ...] | list[float], second: tuple[float, ...] | list[float]) -> float:
    """By how many standard errors of their difference the mean of `second` is above that of `first` (Welch)."""
    error = math.hypot(*(statistics.stdev(side) / math.sqrt(len(side)) for side in (first, second)))
    return (statistics.mean(second) - statistics.mean(first)) / error


if __name__ == "__main__":
    typer.run(main)
