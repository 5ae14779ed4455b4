import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from tiny import tiny_model

from rlhf.registry import Registry


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    made = {kind: tiny_model(folder / kind, kind) for kind in ("causal", "reward", "encoder")}
    return made | {"chat": tiny_model(folder / "chat", chat=True)}


@pytest.fixture
def rlhf(tmp_path, monkeypatch, capfd):
    """Runs a command in this process, in an empty folder with a home of its own."""
    from rlhf.cli.main import main
    from rlhf.workspace import Workspace

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLHF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(Workspace, "write_report", lambda *_: None)  # has tests of its own, and takes a second

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(*arguments) -> Ended:
        root.handlers[:] = []  # pytest's, in whose presence no others are added
        monkeypatch.setattr(sys, "argv", ["rlhf", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return Ended(ended.value.code or 0, out, err)

    yield run
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def write(tmp_path):
    """Writes a file of the test's folder; rows become JSONL."""

    def put(name, content):
        path = tmp_path / name
        if isinstance(content, list):
            content = "".join(json.dumps(row) + "\n" for row in content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return put


@pytest.fixture
def nothing_published(tmp_path):
    """Checks that the registry is as if nothing had been done."""

    def check() -> None:
        registry = Registry(tmp_path / "home")
        if registry.exists():
            assert registry.artefacts() == []
        assert not [*(tmp_path / "home" / "objects").glob("*")]
        assert not [*(tmp_path / "home" / "staging").glob("*")]

    return check
