"""Several processes at once, and processes that die."""

import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from rlhf.registry import Registry

Folder = Callable[..., Path]

PUBLISH = """
import json, sys
from pathlib import Path
from rlhf.registry import Registry
home, url, sources, who = sys.argv[1:]
for i in range(4):
    source = Path(sources, f"{who}-{i}")
    source.mkdir()
    (source / "config.json").write_text(json.dumps([who, i]))
    print(Registry(home, url).publish(source, kind="policy", name="g/p", alias="candidate").version)
"""

DIE = """
import os, signal, sys
from pathlib import Path
from rlhf.registry import Registry, objects, publishing
home, url, source, moment = sys.argv[1:]
def die(*args):
    os.kill(os.getpid(), signal.SIGKILL)
registry = Registry(home, url)
registry.artefacts()
if moment == "copied":
    objects._write = die
elif moment == "staged":
    objects.ObjectStore.put = die
elif moment == "renamed":
    publishing.add = die
elif moment == "written":
    publishing.set_alias = die
registry.publish(Path(source), kind="policy", name="g/p", alias="candidate")
"""

MOVE = """
import sys
from rlhf.registry import AliasMoved, Registry
home, url, version = sys.argv[1:]
try:
    Registry(home, url).move_alias("g/p", "production", int(version), expected=1)
except AliasMoved:
    sys.exit(3)
"""

RUN = """
import sys
from rlhf.registry import Registry
registry = Registry(*sys.argv[1:])
registry.start_run("r1", ["rlhf", "ppo"])
registry.open("g/p@v1")
print("ready", flush=True)
sys.stdin.read()
"""


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_publishers_at_the_same_time_get_versions_without_gaps_or_repeats(home: Path, url: str, tmp_path: Path) -> None:
    processes = [start(PUBLISH, home, url, tmp_path, who) for who in "abc"]  # on a database that none has made
    versions = [[int(line) for line in process.communicate(timeout=60)[0].split()] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sorted(version for own in versions for version in own) == list(range(1, 13))
    assert all(own == sorted(own) for own in versions)
    registry = Registry(home, url)
    assert len(registry.artefacts()) == 12
    assert all(registry.verify(artefact) == [] for artefact in registry.artefacts())
    assert registry.resolve("g/p@candidate").version == 12


def test_of_two_who_move_an_alias_at_the_same_time_one_is_told(registry: Registry, url: str, folder: Folder) -> None:
    for _ in range(3):
        registry.publish(folder(), kind="policy", name="g/p")
    registry.move_alias("g/p", "production", 1)
    processes = [start(MOVE, registry.home, url, version) for version in (2, 3)]
    for process in processes:
        process.communicate(timeout=60)
    assert sorted(process.returncode for process in processes) == [0, 3]
    winner = 2 if processes[0].returncode == 0 else 3
    assert registry.resolve("g/p@production").version == winner


@pytest.mark.parametrize("moment", ["copied", "staged", "renamed", "written"])
def test_a_publisher_that_is_killed_leaves_nothing_half_visible(
    registry: Registry, url: str, folder: Folder, moment: str
) -> None:
    before = registry.publish(folder(), kind="policy", name="g/p", alias="candidate")
    source = folder()
    process = start(DIE, registry.home, url, source, moment)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert [artefact.ref for artefact in registry.artefacts()] == ["g/p@v1"]
    assert registry.resolve("g/p@candidate") == before

    left = [path for place in ("objects", "staging") for path in (registry.home / place).iterdir()]
    left.remove(before.path)
    assert len(left) == 1
    assert registry.gc().garbage == (), "a publisher may just be about to finish this"
    plan = registry.gc(dry_run=False, grace=timedelta(0))
    assert [garbage.path for garbage in plan.garbage] == left
    assert not left[0].exists()

    after = registry.publish(source, kind="policy", name="g/p", alias="candidate")
    assert after.ref == "g/p@v2"
    assert registry.open("g/p@candidate") == after.path


def test_what_a_dead_publisher_left_in_place_is_taken_over(registry: Registry, url: str, folder: Folder) -> None:
    source = folder()
    start(DIE, registry.home, url, source, "renamed").communicate(timeout=60)
    assert registry.publish(source, kind="policy", name="g/p").ref == "g/p@v1"
    assert registry.verify("g/p") == []


def test_a_run_at_work_holds_what_it_opened(registry: Registry, url: str, folder: Folder) -> None:
    for _ in range(2):
        registry.publish(folder(), kind="policy", name="g/p")
    process = start(RUN, registry.home, url)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert registry.gc(grace=timedelta(0)).kept[0].why == ("run r1 is at work",)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert registry.gc(grace=timedelta(0)).kept[0].why == ("run r1 can be resumed",)
    registry.start_run("r1", ["rlhf", "ppo"])
    assert registry.gc(grace=timedelta(0)).kept[0].why == ("run r1 is at work",)
    registry.finish_run("r1", "done")
    assert [artefact.ref for artefact in registry.gc(grace=timedelta(0)).delete] == ["g/p@v1"]


def test_importing_the_registry_is_light() -> None:
    program = "import sys, rlhf.cli.models; print(*sys.modules); import rlhf.registry; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    command_line, registry = (set(line.split()) for line in done.stdout.splitlines())
    assert "sqlalchemy" not in command_line
    assert "rich.table" not in command_line
    assert {"torch", "transformers", "trl", "alembic", "psycopg"} & registry == set()
