"""Watchmen in a run: rewards that are wrong raise their alarm, and what an alarm does to training."""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ppo.tiny import count_good, make_policy, make_prompts
from rlhf.checkpoint import checkpoints
from rlhf.errors import StoppedByMonitor, UserError
from rlhf.ppo import PPOTrainer
from rlhf.ppo.monitor import Alarm
from rlhf.scoring import NonFiniteScoreError, ScorerError

MakeTrainer = Callable[..., PPOTrainer]
SETTINGS: dict[str, Any] = {
    "per_device_train_batch_size": 64,
    "local_rollout_forward_batch_size": 64,
    "train_dataset": make_prompts(64),
    "total_episodes": 640,
    "response_length": 12,
    "num_ppo_epochs": 2,
    "monitor_thresholds": {"eos": "off"},  # a random model seldom ends within 12 tokens
}


def alarms_of(trainer: PPOTrainer) -> list[Alarm]:
    found: list[Alarm] = []
    trainer.on_alarm.append(found.append)
    try:
        trainer.train()
    except StoppedByMonitor:
        assert found, "stopped without an alarm"
    return found


def by_length(prompts: Any, completions: list[str], completion_ids: Any, **_: Any) -> list[float]:
    return [float(len(ids)) for ids in completion_ids]


def by_repetition(prompts: Any, completions: list[str], **_: Any) -> list[float]:
    return [5.0 * (1 - len(set(words)) / len(words)) if (words := text.split()) else 0.0 for text in completions]


def constant(prompts: Any, completions: list[str], **_: Any) -> list[float]:
    return [0.5] * len(completions)


def huge(prompts: Any, completions: list[str], **_: Any) -> list[float]:
    return [1e30 if "w2" in text else 0.0 for text in completions]


def not_a_number(prompts: Any, completions: list[str], **_: Any) -> list[float]:
    return [float("nan") if "w2" in text else 0.0 for text in completions]


@torch.no_grad()
def by_gibberish(prompts: Any, completions: Any, prompt_ids: Any, completion_ids: Any, **_: Any) -> list[float]:
    """What the policy found unlikely before training."""
    model, scores = make_policy(), []
    for before, after in zip(prompt_ids, completion_ids, strict=True):
        logprobs = model(torch.tensor([[*before, *after]])).logits[0, len(before) - 1 : -1].log_softmax(-1)
        scores.append(-float(logprobs.gather(1, torch.tensor(after)[:, None]).mean()))
    return scores


@pytest.mark.parametrize(
    ("reward", "alarm", "by"),
    [
        (by_length, "score_by_length", 4),
        (by_repetition, "repetition", 8),
        (constant, "score_spread", 1),
        (huge, "not_finite", 1),
        (not_a_number, "not_finite", 1),
        (by_gibberish, "score_by_surprise", 4),
    ],
)
def test_a_wrong_reward_raises_its_alarm(make_trainer: MakeTrainer, reward: Any, alarm: str, by: int) -> None:
    found = alarms_of(make_trainer(**SETTINGS, reward_funcs=reward, learning_rate=3e-3))
    assert min((each.step for each in found if each.name == alarm), default=None) is not None, found
    assert min(each.step for each in found) <= by


def test_a_reward_that_the_judge_ranks_the_other_way_is_seen_before_training(make_trainer: MakeTrainer) -> None:
    def wrong_sign(prompts: Any, completions: list[str], **_: Any) -> list[float]:
        return [-score for score in count_good(prompts, completions)]

    evaluated = {"eval_dataset": make_prompts(128), "judge": count_good, "eval_on_start": True}
    found = alarms_of(make_trainer(**SETTINGS, **evaluated, reward_funcs=wrong_sign))
    assert (found[0].name, found[0].step) == ("judge_agreement", 0)


def test_an_evaluation_of_other_prompts_is_not_watched(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(eval_dataset={"near": make_prompts(8), "far": make_prompts(4)}, judge=count_good)
    before = trainer.monitor.state_dict()
    trainer.evaluate(make_prompts(5))
    trainer.evaluate("far")
    trainer.evaluate(metric_key_prefix="test")
    assert trainer.monitor.state_dict() == before
    trainer.evaluate()
    assert sorted(trainer.monitor.state_dict()["judged"]) == ["far", "near"]


@pytest.mark.parametrize("seed", range(3))
def test_a_clean_run_raises_none(make_trainer: MakeTrainer, seed: int) -> None:
    def variety(prompts: Any, completions: list[str], **_: Any) -> list[float]:
        return [len(set(text.split())) / max(len(text.split()), 1) + ("w2" in text) for text in completions]

    evaluated = {"eval_dataset": make_prompts(64), "judge": count_good, "eval_strategy": "steps", "eval_steps": 5}
    assert alarms_of(make_trainer(**SETTINGS, **evaluated, reward_funcs=variety, seed=seed, learning_rate=3e-4)) == []


def test_an_alarm_is_told_on_the_console_and_counted_in_the_metrics(
    make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(**SETTINGS, reward_funcs=constant)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert "alarm: update 1: score_spread: standard deviation of a batch's scores" in caplog.text
    assert "likely causes: (1) the scorer gives every completion the same" in caplog.text
    assert "to try: (1) call the scorer by hand" in caplog.text
    assert trainer.state.log_history[0]["monitor/alarms"] == 1


def test_off_is_quiet(make_trainer: MakeTrainer) -> None:
    assert alarms_of(make_trainer(**SETTINGS, reward_funcs=constant, monitor="off")) == []


LATE = {
    "save_strategy": "steps",
    "save_steps": 1,
    "monitor_thresholds": dict.fromkeys(("eos", "distinct_2", "repetition", "entropy", "clipfrac", "approxkl"), "off")
    | {"kl": {"warn": 0.2, "stop": 0.5, "stop_count": 1}},
    "learning_rate": 3e-3,
    "kl_coef": 0.01,
}


def test_stop_ends_training_after_the_update_and_the_last_good_checkpoint_stays(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    trainer = make_trainer(**(SETTINGS | LATE), monitor="stop", save_total_limit=1)
    with pytest.raises(
        StoppedByMonitor, match=r"kl: KL from the reference, nats per sequence is .* \(stops above 0.5\)"
    ):
        trainer.train()
    kept = [int(folder.name.rpartition("-")[2]) for folder in checkpoints(tmp_path / "run")]
    first_alarm = next(row["step"] for row in trainer.state.log_history if row["monitor/alarms"])
    assert kept == [first_alarm - 1, trainer.state.global_step]  # the newest, and the last without an alarm


def test_a_rollback_goes_on_from_the_last_good_checkpoint_with_smaller_steps(
    make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(**(SETTINGS | LATE), monitor="rollback", max_rollbacks=1, lr_scheduler_type="constant")
    found: list[Alarm] = []
    trainer.on_alarm.append(found.append)
    with pytest.raises(StoppedByMonitor, match="after 1 rollbacks"):
        trainer.train()
    back = next(alarm for alarm in found if alarm.name == "rollback")
    first = next(alarm for alarm in found if alarm.name == "kl")
    assert back.step == first.step - 1
    assert back.seen.startswith(f"rollback 1 of 1: on from checkpoint-{back.step} instead of update")
    rows = [row for row in trainer.state.log_history if "lr" in row]
    before, after = ([row for row in rows if (row["step"] > back.step) == late] for late in (False, True))
    assert {row["lr"] for row in before} == {3e-3}
    assert {row["lr"] for row in after} == {1.5e-3}
    assert {row["objective/kl_coef"] for row in after} == {0.02}


def test_a_run_that_is_taken_back_can_end_well(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    calls: list[int] = []

    def huge_once(prompts: Any, completions: list[str], **_: Any) -> list[float]:
        calls.append(len(completions))
        return [1e7 if len(calls) == 4 else score for score in count_good(prompts, completions)]

    trainer = make_trainer(**SETTINGS, reward_funcs=huge_once, monitor="rollback")
    found = alarms_of(trainer)
    assert [(alarm.name, alarm.step) for alarm in found] == [("score_spread", 4), ("score_size", 4), ("rollback", 0)]
    assert trainer.state.global_step == 10
    assert trainer.monitor.rollbacks == 1
    assert [folder.name for folder in checkpoints(tmp_path / "run")] == ["checkpoint-0"]  # nothing else was asked for
    assert next(row["lr"] for row in trainer.state.log_history if "lr" in row) == 5e-4
    trainer.train()  # another run, to which nothing has happened yet
    assert trainer.monitor.rollbacks == 0
    first = trainer.state.log_history[0]
    assert (first["lr"], first["objective/kl_coef"]) == (1e-3, 0.05)


def test_a_rollback_is_in_the_checkpoint_that_is_gone_on_from(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    calls: list[int] = []

    def huge_then_gone(prompts: Any, completions: list[str], **_: Any) -> list[float]:
        calls.append(len(completions))
        if len(calls) == 4:
            raise KeyboardInterrupt  # as good as killed: nothing is saved
        return [1e7 if len(calls) == 3 else score for score in count_good(prompts, completions)]

    settings = SETTINGS | {"monitor": "rollback", "save_strategy": "steps", "save_steps": 1, "learning_rate": 2e-3}
    first = make_trainer(**settings, lr_scheduler_type="constant", reward_funcs=huge_then_gone)
    with pytest.raises(KeyboardInterrupt):
        first.train()
    assert [folder.name for folder in first.own_checkpoints] == ["checkpoint-0", "checkpoint-1", "checkpoint-2"]
    assert checkpoints(tmp_path / "run") == first.own_checkpoints
    resumed = make_trainer(**settings, lr_scheduler_type="constant")
    resumed.train(resume_from_checkpoint=True)
    assert resumed.monitor.rollbacks == 1
    rows = [row for row in resumed.state.log_history if "lr" in row]
    assert [row["lr"] for row in rows] == [2e-3] * 2 + [1e-3] * 8
    assert [row["objective/kl_coef"] for row in rows] == [0.05] * 2 + [0.1] * 8


def test_rolling_back_from_a_nan_leaves_no_trace_of_it(make_trainer: MakeTrainer) -> None:
    calls: list[int] = []

    def nan_once(prompts: Any, completions: list[str], **_: Any) -> list[float]:
        calls.append(len(completions))
        return [float("nan") if len(calls) == 3 else score for score in count_good(prompts, completions)]

    trainer = make_trainer(**SETTINGS, reward_funcs=nan_once, monitor="rollback", save_strategy="steps", save_steps=1)
    assert [(alarm.name, alarm.step) for alarm in alarms_of(trainer)] == [("not_finite", 3), ("rollback", 2)]
    assert trainer.state.global_step == 10


def test_a_nan_goes_back_to_what_was_saved_for_at_the_same_state_it_would_come_again(make_trainer: MakeTrainer) -> None:
    saved = {"monitor": "rollback", "save_strategy": "steps", "save_steps": 2}
    trainer = make_trainer(**SETTINGS, **saved, reward_funcs=Fails(at=4, answer=float("nan")))
    assert [(alarm.name, alarm.step) for alarm in alarms_of(trainer)] == [("not_finite", 4), ("rollback", 2)]


def test_a_nan_after_the_last_rollback_costs_no_update(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_trainer(monitor="rollback", max_rollbacks=0, total_episodes=32, reward_funcs=Fails(3, float("nan")))
    with pytest.raises(NonFiniteScoreError, match=r"(?s)nothing is lost: .*checkpoint-2\n  after 0 rollbacks"):
        trainer.train()
    assert [folder.name for folder in checkpoints(tmp_path / "run")] == ["checkpoint-0", "checkpoint-2"]


@pytest.mark.parametrize("mode", ["stop", "rollback"])
def test_an_alarm_of_an_evaluation_at_the_last_epochs_end_stops(make_trainer: MakeTrainer, mode: str) -> None:
    def against(prompts: Any, completions: list[str], **_: Any) -> list[float]:
        return [-score for score in count_good(prompts, completions)]

    at_once = {"judge_agreement": {"warn": 5.0, "stop": 5.0, "stop_count": 1}}
    evaluated = {"eval_dataset": make_prompts(16), "judge": against, "eval_strategy": "epoch"}
    trainer = make_trainer(**evaluated, monitor=mode, max_rollbacks=0, monitor_thresholds=at_once)
    with pytest.raises(StoppedByMonitor, match="judge_agreement: rank correlation of score and held-out judge"):
        trainer.train()
    assert trainer.state.global_step == 2  # of two updates


# ---- Scorers that fail ----


AWAY = ConnectionError("the server is away")


class Fails:
    """count_good, but for one call, which raises, or gives `answer` for the first completion."""

    __name__ = "fails"

    def __init__(self, at: int, answer: Any = AWAY) -> None:
        self.calls, self.at, self.answer = 0, at, answer

    def __call__(self, prompts: Any, completions: list[str], **_: Any) -> list[float]:
        self.calls += 1
        if self.calls != self.at:
            return count_good(prompts, completions)
        if isinstance(self.answer, Exception):
            raise self.answer
        return [self.answer, *count_good(prompts, completions)[1:]]


def assert_same_run(straight: PPOTrainer, resumed: PPOTrainer) -> None:
    ours, theirs = straight.model.state_dict(), resumed.model.state_dict()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert straight.monitor.state_dict() == resumed.monitor.state_dict()
    assert straight.shaper.state_dict() == resumed.shaper.state_dict()


@pytest.mark.parametrize("shape", ["none", "running"])
def test_a_scorer_that_fails_costs_no_update(make_trainer: MakeTrainer, tmp_path: Path, shape: str) -> None:
    settings = {"total_episodes": 32, "score_normalization": shape}
    straight = make_trainer(**settings, output_dir=str(tmp_path / "straight"))
    straight.train()
    with pytest.raises(ScorerError, match=r"(?s)fails: raised ConnectionError: .*nothing is lost: .*checkpoint-2"):
        make_trainer(**settings, reward_funcs=Fails(at=3)).train()
    torch.manual_seed(99)
    resumed = make_trainer(**settings)
    resumed.train(resume_from_checkpoint=True)
    assert_same_run(straight, resumed)


@pytest.mark.parametrize("answer", [float("nan"), None])
def test_a_score_that_is_no_number_costs_no_update(make_trainer: MakeTrainer, tmp_path: Path, answer: Any) -> None:
    straight = make_trainer(total_episodes=32, output_dir=str(tmp_path / "straight"))
    straight.train()
    said = r"(?s)reward function fails: score of row 0 of the batch is nan .*nothing is lost: .*checkpoint-2"
    with pytest.raises(NonFiniteScoreError, match=said):
        make_trainer(total_episodes=32, reward_funcs=Fails(3, answer)).train()
    torch.manual_seed(99)
    resumed = make_trainer(total_episodes=32)
    resumed.train(resume_from_checkpoint=True)
    assert_same_run(straight, resumed)


@pytest.mark.parametrize("answer", [AWAY, None])
def test_a_scorer_that_fails_on_the_sample_table_costs_no_update(
    make_trainer: MakeTrainer, tmp_path: Path, answer: Any
) -> None:
    settings = {"total_episodes": 32, "eval_dataset": make_prompts(3), "num_sample_generations": 10}
    straight = make_trainer(**settings, output_dir=str(tmp_path / "straight"))
    straight.train()
    with pytest.raises((ScorerError, NonFiniteScoreError), match=r"nothing is lost: .*checkpoint-2"):
        make_trainer(**settings, reward_funcs=Fails(4, answer)).train()  # update, table, update, table
    torch.manual_seed(99)
    resumed = make_trainer(**settings)
    resumed.train(resume_from_checkpoint=True)
    assert_same_run(straight, resumed)


def test_a_judge_that_gives_no_number_is_an_alarm_and_no_end(make_trainer: MakeTrainer) -> None:
    settings: dict[str, Any] = {"eval_dataset": make_prompts(4), "eval_strategy": "steps", "eval_steps": 1}
    settings |= {"save_strategy": "steps", "save_steps": 1, "total_episodes": 32, "monitor": "stop"}
    settings |= {"load_best_model_at_end": True, "metric_for_best_model": "objective/judge"}
    trainer = make_trainer(**settings, judge=Fails(2, None), per_device_eval_batch_size=4)
    found = [(alarm.name, alarm.level, alarm.step) for alarm in alarms_of(trainer) if "judge" in alarm.name]
    assert found == [("judge_not_finite", 1, 2)]
    rows = [row for row in trainer.state.log_history if "eval_objective/judge" in row]
    for key in ("eval_objective/judge", "eval_objective/judge_se", "eval_objective/judge_corr"):
        assert [math.isnan(row[key]) for row in rows] == [False, True, False, False]
    assert all(math.isfinite(row["eval_objective/scores"]) for row in rows)
    judged = {row["step"]: row["eval_objective/judge"] for row in rows if row["step"] != 2}
    assert trainer.state.best_metric == max(judged.values())
    assert trainer.monitor.state_dict()["judged"][""]["step"] == 4


def test_a_scorer_that_fails_at_once_is_the_users_error(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fails: raised ConnectionError"):
        make_trainer(reward_funcs=Fails(at=1)).train()
    assert not checkpoints(tmp_path / "run")


def test_a_scorer_that_fails_in_an_evaluation_costs_no_update(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    evaluated = {"eval_dataset": make_prompts(4), "eval_strategy": "steps", "eval_steps": 1}
    with pytest.raises(ScorerError, match="nothing is lost"):
        make_trainer(**evaluated, total_episodes=32, judge=Fails(at=2)).train()
    assert [folder.name for folder in checkpoints(tmp_path / "run")] == ["checkpoint-2"]


def test_an_evaluation_that_failed_is_made_on_resuming(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"eval_dataset": make_prompts(4), "eval_strategy": "steps", "eval_steps": 1}
    settings |= {"total_episodes": 32, "load_best_model_at_end": True, "save_strategy": "steps", "save_steps": 1}
    straight = make_trainer(**settings, judge=count_good, output_dir=str(tmp_path / "straight"))
    straight.train()
    with pytest.raises(ScorerError, match="nothing is lost"):
        make_trainer(**settings, judge=Fails(at=2)).train()
    resumed = make_trainer(**settings, judge=count_good)
    resumed.train(resume_from_checkpoint=True)

    def evaluated(trainer: PPOTrainer) -> list[tuple[int, float]]:
        key = "eval_objective/judge"
        return [(row["step"], row[key]) for row in trainer.state.log_history if key in row]

    assert evaluated(resumed) == evaluated(straight)
    assert [step for step, _ in evaluated(resumed)] == [1, 2, 3, 4]
    assert resumed.monitor.state_dict() == straight.monitor.state_dict()
    assert resumed.state.best_global_step == straight.state.best_global_step
    ours, theirs = straight.model.state_dict(), resumed.model.state_dict()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    again = make_trainer(**settings, judge=count_good)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert evaluated(again) == evaluated(straight)  # once made, it is not made again


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda prompts: [], "takes no `completions`; define it as"),
        (lambda texts: [], "takes no `completions` and no `prompts`"),
        (lambda prompts, completions, target: [], "needs `target`, and the prompts have no such column"),
    ],
)
def test_a_function_that_cannot_be_called_is_refused_before_the_first_rollout(
    make_trainer: MakeTrainer, function: Any, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make_trainer(reward_funcs=function)


def test_the_judge_is_reported_and_can_choose_the_best_model(make_trainer: MakeTrainer) -> None:
    evaluated = {"eval_dataset": make_prompts(8), "eval_strategy": "steps", "eval_steps": 1, "save_steps": 1}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "objective/judge", "save_strategy": "steps"}
    trainer = make_trainer(**evaluated, **best, judge=count_good, reward_funcs=by_length, learning_rate=1e-2)
    trainer.train()
    judged = [row["eval_objective/judge"] for row in trainer.state.log_history if "eval_objective/judge" in row]
    assert len(judged) == 2
    assert trainer.state.best_metric == max(judged)
    with pytest.raises(UserError, match="judge: it judges held-out prompts, and there are none"):
        make_trainer(judge=count_good)
    with pytest.raises(UserError, match="metric_for_best_model: 'objective/judge' is not among"):
        make_trainer(**evaluated, **best)


def test_stop_strings_end_a_completion_and_count_as_ended(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(stop_strings=["w2", "w7"], response_length=12)
    rollout = trainer.collect(trainer.prompts.batch(range(16)))
    texts = trainer.processing_class.batch_decode(rollout.completion_ids, skip_special_tokens=True)
    for text, ended in zip(texts, rollout.ended.tolist(), strict=True):
        words = text.split()
        assert not {"w2", "w7"} & set(words[:-1])
        assert ended or not {"w2", "w7"} & set(words)
    assert any(text.split()[-1:] in (["w2"], ["w7"]) for text in texts)
    trainer.train()


def test_scores_are_scaled_by_those_of_the_reference(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(**(SETTINGS | {"total_episodes": 64}), score_normalization="reference", learning_rate=1e-9)
    trainer.train()
    row = trainer.state.log_history[0]
    assert abs(row["objective/shaped_scores"]) < 0.5
    assert row["objective/scores"] == pytest.approx(row["objective/scores/count_good"])
