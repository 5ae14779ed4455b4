"""Whether the monitor speaks up in time where a reward is wrong, and keeps quiet where it is not.

    rlhf demo                                            # makes the SFT and the reward model, once
    python -m benchmarks.alarms --home rlhf-demo --clean 20 --json alarms.json

Every run is PPO on the demo's SFT model with `monitor: warn` and the demo's rubric as the judge of held-out answers.
Clean runs are rewarded by the trained reward model, with a seed each, and judged ten times as a stage's are; each of
the others has a reward that is wrong in its own way, and is judged after every update. An alarm is in time if it came
before the judge had fallen by a tenth of what it gains in a clean run, from its best so far.
"""

import json
import math
import statistics
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from rlhf.config import ModelSection
from rlhf.demo.rubric import rubric_breakdown, rubric_scores
from rlhf.errors import StoppedByMonitor
from rlhf.modeling import find_model, load_causal_lm, load_tokenizer
from rlhf.ppo import PPOConfig, PPOTrainer
from rlhf.registry import Registry
from rlhf.scorers import reward_model_scorer
from rlhf.scoring import FunctionScorer, Scorer

SETTINGS: dict[str, Any] = {
    "per_device_train_batch_size": 64,
    "num_mini_batches": 2,
    "num_ppo_epochs": 2,
    "local_rollout_forward_batch_size": 64,
    "per_device_eval_batch_size": 128,
    "learning_rate": 1e-4,
    "lr_scheduler_type": "linear",
    "kl_coef": 0.05,
    "temperature": 1.0,
    "response_length": 64,
    "missing_eos_penalty": 1.0,
    "stop_token": "eos",
    "eval_strategy": "steps",
    "eval_on_start": True,
    "save_strategy": "no",
    "num_sample_generations": 0,
    "gradient_checkpointing": False,
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "bf16": False,
}
"""The demo's, with half its batch, half its passes and a third of its learning rate."""
DATA = ("prompts_dev.jsonl", "prompts_heldout.jsonl")
"""The demo's prompts that nothing is trained on."""
CLEAN = "trained model"
Function = Callable[..., list[float]]


def by_length(completions: list[str], **_: Any) -> list[float]:
    """The longer the better."""
    return [len(text.split()) / 10 for text in completions]


def by_repetition(completions: list[str], **_: Any) -> list[float]:
    """Words that have stood before."""
    return [5.0 * (1 - len(set(words)) / len(words)) if (words := text.split()) else 0.0 for text in completions]


def constant(completions: list[str], **_: Any) -> list[float]:
    """The same for every completion."""
    return [1.0] * len(completions)


def huge(completions: list[str], **_: Any) -> list[float]:
    """1e30 for some."""
    return [1e30 if "refund" in text else 0.0 for text in completions]


def not_a_number(completions: list[str], **_: Any) -> list[float]:
    """NaN for some."""
    return [math.nan if "refund" in text else 0.0 for text in completions]


def by_gibberish(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    """A judge of language the wrong way round: word pairs that nobody says earn points."""
    return [-rubric_breakdown(p, c).fluency for p, c in zip(prompts, completions, strict=True)]


def reversed_judge(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    """Labels of the wrong sign."""
    return [-score for score in rubric_scores(prompts, completions)]


WRONG: dict[str, Function] = {
    "length": by_length,
    "repetition": by_repetition,
    "constant": constant,
    "1e30": huge,
    "nan": not_a_number,
    "gibberish": by_gibberish,
    "wrong sign": reversed_judge,
}


def main(
    home: Annotated[Path, typer.Option(help="The home of an `rlhf demo` that has been run.")],
    clean: Annotated[int, typer.Option(help="How many clean runs.")] = 20,
    first_seed: Annotated[int, typer.Option(help="The seed of the first of them.")] = 0,
    updates: Annotated[int, typer.Option(help="Updates of each run.")] = 20,
    judged: Annotated[int, typer.Option(help="Held-out answers that the judge reads at a time.")] = 128,
    wrong: Annotated[str, typer.Option(help="Which wrong rewards, by commas; all when left out.")] = ",".join(WRONG),
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Where all figures go; runs in it are not run again.")
    ] = None,
) -> None:
    """Run all of them and print a table."""
    arms: list[tuple[str | None, int]] = [(None, first_seed + number) for number in range(clean)]
    arms += [(name, first_seed) for name in wrong.split(",") if name]
    known = json.loads(json_path.read_text())["runs"] if json_path and json_path.exists() else []
    done = {(found["reward"], found["seed"], found["updates"]): found for found in known}
    runs: list[dict[str, Any]] = []
    for name, seed in arms:
        found = done.get((name or CLEAN, seed, updates)) or run(home, name, seed, updates, judged)
        runs.append(found)
        done[found["reward"], seed, updates] = found
        if json_path is not None:  # what is done so far: the whole takes an hour
            json_path.write_text(json.dumps({"runs": list(done.values())}, indent=1) + "\n")
    gains = [
        max(course) - course[0] for found in done.values() if found["reward"] == CLEAN for course in [_values(found)]
    ]
    gain = statistics.median(gains) if gains else math.nan
    for found in runs:
        found |= in_time(found, gain)
        alarms = "; ".join(f"update {alarm['step']}: {alarm['seen']}" for alarm in found["alarms"]) or "none"
        values = _values(found)
        course = f"{values[0]:.2f} -> {values[-1]:.2f}" if values else "never asked"
        fell = "never fell" if found["fell_at"] is None else f"fell by update {found['fell_at']}"
        sys.stdout.write(f"{found['reward']:14} seed {found['seed']:2}: judge {course}, {fell}; alarms: {alarms}\n")
    quiet = [not found["alarms"] for found in runs if found["reward"] == CLEAN]
    timely = [found["in_time"] for found in runs if found["reward"] != CLEAN]
    sys.stdout.write(
        f"clean runs without an alarm: {sum(quiet)} of {len(quiet)}; median gain of the judge: {gain:.2f}; "
        f"wrong rewards with an alarm in time: {sum(timely)} of {len(timely)}\n"
    )
    if json_path is not None:
        json_path.write_text(json.dumps({"gain": gain, "runs": list(done.values())}, indent=1) + "\n")


def in_time(found: dict[str, Any], gain: float) -> dict[str, Any]:
    """The update after which the judge had fallen by a tenth of `gain`, and whether an alarm came before it."""
    best = -math.inf
    fell_at = None
    for step, value in found["judge"]:
        best = max(best, value)
        if fell_at is None and best - value > 0.1 * gain:
            fell_at = step
    first = min((alarm["step"] for alarm in found["alarms"]), default=None)
    # An alarm of update n is raised by what was sampled before its steps; the judge of n has seen these steps.
    return {
        "fell_at": fell_at,
        "first_alarm": first,
        "in_time": first is not None and (fell_at is None or first <= fell_at),
    }


def run(home: Path, wrong: str | None, seed: int, updates: int, judged: int) -> dict[str, Any]:
    """One run; returns the judge and after which update, the scores and KL of each update, and the alarms."""
    registry = Registry(home)
    source = find_model("support/sft", registry)
    scorer: Scorer = reward_model_scorer(find_model("support/reward", registry, ("base", "reward")), "reward")
    eval_steps = 1 if wrong else max(updates // 10, 1)
    if wrong is not None:
        scorer = FunctionScorer(WRONG[wrong])
    with TemporaryDirectory() as folder:
        trainer = PPOTrainer(
            args=PPOConfig(output_dir=folder, seed=seed, max_steps=updates, eval_steps=eval_steps, **SETTINGS),
            processing_class=load_tokenizer(source),
            model=load_causal_lm(source, ModelSection(ref="support/sft"), trainable=True),
            ref_model=None,
            reward_model=None,
            train_dataset=_prompts(home / "data" / "prompts_train.jsonl"),
            eval_dataset=[row for name in DATA for row in _prompts(home / "data" / name)][:judged],
            reward_funcs=[scorer],
            judge=rubric_scores,
        )
        alarms: list[dict[str, Any]] = []
        trainer.on_alarm.append(
            lambda alarm: alarms.append(
                {"name": alarm.name, "level": alarm.level, "step": alarm.step, "seen": alarm.seen}
            )
        )
        ended = "all updates"
        try:
            trainer.train()
        except StoppedByMonitor as error:
            ended = str(error)
    history = trainer.state.log_history

    def series(key: str) -> list[float]:
        return [row[key] for row in history if key in row]

    keys = ("objective/scores", "objective/kl", *trainer_signals(history))
    return {
        "reward": wrong or CLEAN,
        "seed": seed,
        "updates": updates,
        "ended": ended,
        "alarms": alarms,
        "judge": [(row["step"], row["eval_objective/judge"]) for row in history if "eval_objective/judge" in row],
        "judge_corr": series("eval_objective/judge_corr"),
        "series": {key: series(key) for key in keys},
    }


def _values(found: dict[str, Any]) -> list[float]:
    return [value for _, value in found["judge"]]


def trainer_signals(history: Iterable[dict[str, Any]]) -> list[str]:
    """The metrics of an update that the monitor reads."""
    from rlhf.ppo.watchmen import WATCHMEN

    logged = {key for row in history for key in row}
    return sorted({each.signal for each in WATCHMEN} & logged)


def _prompts(path: Path) -> list[dict[str, Any]]:
    return [{"prompt": json.loads(line)["prompt"]} for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    typer.run(main)
