"""For all tests: this folder is on the path (`from tiny import tiny_model`), and nothing asks the network."""

import os
from collections.abc import Iterator

import pytest
from postgresql import Server, postgresql_server

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")
# `make test` runs one process a core; models this small gain nothing from threads within one
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    """A real PostgreSQL server, brought up once."""
    with postgresql_server() as server:
        yield server


@pytest.fixture
def postgresql_url(postgresql: Server) -> str:
    """An empty database, or as good as one."""
    return postgresql.new_schema()
