"""A registry on SQLite and on a real PostgreSQL that is brought up for the tests; every test runs on both."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.registry import Registry

Files = dict[str, object]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, or on the server an empty schema, which is quicker made."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'home' / 'registry.db'}"
    found: str = request.getfixturevalue("postgresql_url")
    return found


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def registry(home: Path, url: str) -> Registry:
    return Registry(home, url)


@pytest.fixture
def local(home: Path) -> Registry:
    """On SQLite only, for what has nothing to do with the database."""
    return Registry(home, f"sqlite:///{home / 'registry.db'}")


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder out of `{relative path: content}`; bytes as they are, anything else as JSON."""
    count = 0

    def make(files: Files | None = None) -> Path:
        nonlocal count
        count += 1
        made = tmp_path / f"source{count}"
        made.mkdir()
        for name, content in (files if files is not None else {"config.json": {"count": count}}).items():
            path = made / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return made

    return make
