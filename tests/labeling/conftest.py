"""A label store on SQLite and on a real PostgreSQL, with a clock that the test moves."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from label_tools import Clock

from labeling_app.store import Store


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, home: Path) -> str:
    """An empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{home / 'labels.db'}"
    found: str = request.getfixturevalue("postgresql_url")
    return found


@pytest.fixture
def open_store(home: Path, url: str, clock: Clock) -> Iterator[Callable[..., Store]]:
    """Opens the database as another process would; all are closed at the end."""
    opened: list[Store] = []

    def open_it(**options: Any) -> Store:
        opened.append(Store.open(home, url, **{"clock": clock, **options}))
        return opened[-1]

    yield open_it
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: Callable[..., Store]) -> Store:
    """A store on either database."""
    return open_store()


@pytest.fixture
def local(home: Path, clock: Clock) -> Iterator[Store]:
    """On SQLite only, for what has nothing to do with the database."""
    with Store.open(home, f"sqlite:///{home / 'labels.db'}", clock=clock) as opened:
        yield opened
