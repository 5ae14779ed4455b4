"""What the three training stages share."""

from types import SimpleNamespace

import pytest
import torch
from trl import RewardConfig, SFTConfig

from rlhf.modeling.trainer_config import build_args
from rlhf.training import RunLogger, mean_train_loss, saving_fields


class Recorder:
    """A run and a registry in one."""

    id = "r1"

    def __init__(self):
        self.calls = []

    def log(self, metrics, *, step):
        self.calls.append(("log", step))

    def heartbeat(self, run_id):
        self.calls.append(("heartbeat", run_id))


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr("time.monotonic", lambda: now.seconds)
    return now


def test_once_an_hour_the_registry_hears_that_the_run_lives(clock):
    recorder = Recorder()
    logger = RunLogger(recorder, recorder)
    for step, minutes in enumerate([0, 50, 11, 30, 31]):
        clock.seconds += 60 * minutes
        logger.on_log(None, SimpleNamespace(global_step=step, is_world_process_zero=True), None, logs={"loss": 1.0})
    assert recorder.calls == [
        ("log", 0),
        ("log", 1),
        ("log", 2),
        ("heartbeat", "r1"),
        ("log", 3),
        ("log", 4),
        ("heartbeat", "r1"),
    ]


def test_checkpoints_are_saved_ten_times_and_two_of_them_kept():
    assert saving_fields({}, "epoch") == {"save_strategy": "steps", "save_steps": 0.1, "save_total_limit": 2}


@pytest.mark.parametrize(
    ("trainer", "strategy", "saved"),
    [
        ({}, "epoch", ("epoch", 0.1)),
        ({"eval_steps": 50}, "steps", ("steps", 50)),
        ({"logging_steps": 7}, "steps", ("steps", 7)),
        ({}, "steps", ("steps", None)),
    ],
)
def test_where_the_best_weights_come_back_it_is_saved_when_it_is_evaluated(tmp_path, trainer, strategy, saved):
    for given, stops_early in ((trainer, True), (trainer | {"load_best_model_at_end": True}, False)):
        fields = saving_fields(given, strategy, stops_early)
        assert (fields["save_strategy"], fields.get("save_steps")) == saved
        whole = {"eval_strategy": strategy, "load_best_model_at_end": True} | fields | given
        build_args(SFTConfig, whole, output_dir=str(tmp_path), bf16=False)  # refuses what does not fit together


def test_the_mean_training_loss_counts_every_step_alike():
    history = [{"loss": 4.0, "step": 2}, {"eval_loss": 9.0, "step": 2}, {"loss": 1.0, "step": 3}, {"train_loss": 7.0}]
    assert mean_train_loss(history) == {"train_loss": 3.0}
    assert mean_train_loss([{"eval_loss": 9.0, "step": 2}]) == {}


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator, which bf16 then runs on")
def test_bf16_needs_no_word_about_the_processor_where_it_is_all_there_is(tmp_path):
    assert build_args(RewardConfig, {"bf16": True}, output_dir=str(tmp_path)).use_cpu
