"""What the three training stages share."""

from types import SimpleNamespace

import pytest

from rlhf import training
from rlhf.training import RunLogger


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
    monkeypatch.setattr(training.time, "monotonic", lambda: now.seconds)
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
