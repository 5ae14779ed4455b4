"""For all tests: this folder is on the path (`from tiny import tiny_model`), and nothing asks the network."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from labelled import unlabelled
from postgresql import Server, postgresql_server

from rlhf.tracking import Run

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")
# `make test` runs one process a core; models this small gain nothing from threads within one
os.environ.setdefault("OMP_NUM_THREADS", "1")


STAGES = ("sft", "reward", "ppo_stage", "dpo", "rloo", "evaluation", "pipeline", "demo")
"""Folders whose tests run real stages."""


@pytest.fixture(autouse=True)
def every_result_has_a_name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a stage finds, a report has a name for it: no key of a summary is left to explain itself."""
    if request.path.parent.name not in STAGES:
        yield
        return
    found: set[str] = set()
    finish = Run.finish

    def noted(run: Run, summary: Mapping[str, Any], status: str = "done") -> dict[str, Any]:
        if run.stage != "run":  # which holds the summaries of its stages under their names
            found.update(unlabelled(summary))
        return finish(run, summary, status)

    monkeypatch.setattr(Run, "finish", noted)
    yield
    assert not found, f"rlhf.report.metrics has no label for {sorted(found)}"


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    """A real PostgreSQL server, brought up once."""
    with postgresql_server() as server:
        yield server


@pytest.fixture
def postgresql_url(postgresql: Server) -> str:
    """An empty database, or as good as one."""
    return postgresql.new_schema()
