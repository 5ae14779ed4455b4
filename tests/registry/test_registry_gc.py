import os
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhf import db
from rlhf.errors import UserError
from rlhf.registry import Registry, gc, objects, runs, schema

Folder = Callable[..., Path]
NOW = timedelta(0)


def _age(path: Path, hours: float) -> None:
    then = datetime.now().timestamp() - 3600 * hours
    for inner in (*path.rglob("*"), path):
        os.utime(inner, (then, then))


def test_what_nothing_leads_to_goes_and_the_rest_stays(registry: Registry, folder: Folder) -> None:
    old_base = registry.publish(folder(), kind="base", name="g/base")
    sft = registry.publish(folder(), kind="sft", name="g/sft", parents=[("base", old_base)])
    new_base = registry.publish(folder(), kind="base", name="g/base")
    lost = registry.publish(folder(), kind="policy", name="g/p", parents=[("ref", sft)])
    chosen = registry.publish(folder(), kind="policy", name="g/p", alias="production")
    newest = registry.publish(folder(), kind="policy", name="g/p")

    plan = registry.gc(grace=NOW)
    assert not plan.deleted
    assert {kept.artefact.ref: kept.why for kept in plan.kept} == {
        old_base.ref: ("base of g/sft@v1",),
        new_base.ref: ("alias latest",),
        sft.ref: ("alias latest",),
        chosen.ref: ("alias production",),
        newest.ref: ("alias latest",),
    }
    assert [artefact.ref for artefact in plan.delete] == [lost.ref]
    assert [garbage.path for garbage in plan.garbage] == [lost.path]
    assert plan.num_bytes == sum(file.stat().st_size for file in lost.path.iterdir())
    assert registry.verify(lost) == [], "only said, not done"

    done = registry.gc(dry_run=False, grace=NOW)
    assert done.deleted
    assert (done.delete, done.garbage) == (plan.delete, plan.garbage)
    assert not lost.path.exists()
    assert list((registry.home / "staging").iterdir()) == []
    assert registry.find("g/p@v1") is None
    with pytest.raises(UserError, match=r"g/p@v1: deleted by gc on 20\d\d-\d\d-\d\d; known versions and aliases"):
        registry.resolve("g/p@v1")
    for artefact in (old_base, new_base, sft, chosen, newest):
        assert registry.open(artefact) == artefact.path
    assert registry.gc(dry_run=False, grace=NOW).delete == ()
    assert registry.publish(folder(), kind="policy", name="g/p").version == 4


def test_content_that_another_version_has_too_stays(registry: Registry, folder: Folder) -> None:
    first = registry.publish(folder({"a.json": 1}), kind="policy", name="g/p")
    registry.publish(folder({"a.json": 2}), kind="policy", name="g/p")
    registry.publish(folder({"a.json": 1}), kind="policy", name="g/other")
    done = registry.gc(dry_run=False, grace=NOW)
    assert ([artefact.ref for artefact in done.delete], done.garbage) == (["g/p@v1"], ())
    assert registry.open("g/other") == first.path


def test_what_was_deleted_can_be_published_again(registry: Registry, folder: Folder) -> None:
    first = registry.publish(folder({"a.json": 1}), kind="policy", name="g/p")
    registry.publish(folder({"a.json": 2}), kind="policy", name="g/p")
    registry.gc(dry_run=False, grace=NOW)
    again = registry.publish(folder({"a.json": 1}), kind="policy", name="g/p")
    assert (again.version, again.digest) == (3, first.digest)
    assert registry.open("g/p") == again.path


def test_a_gc_that_dies_half_way_is_finished_by_the_next(
    registry: Registry, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = [registry.publish(folder(), kind="policy", name="g/p") for _ in range(3)][:2]

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    for moment in ("set_aside", "remove"):
        with monkeypatch.context() as patched:
            if moment == "set_aside":
                patched.setattr(objects.ObjectStore, "set_aside", die)
            else:
                patched.setattr(gc, "remove", die)
            with pytest.raises(KeyboardInterrupt):
                registry.gc(dry_run=False, grace=NOW)
        assert [artefact.ref for artefact in registry.artefacts()] == ["g/p@v3"]
        assert registry.verify("g/p@v3") == []
    done = registry.gc(dry_run=False)
    assert (done.delete, len(done.garbage)) == ((), 2)
    assert not any(artefact.path.exists() for artefact in lost)
    assert list((registry.home / "staging").iterdir()) == []


def test_the_young_are_left_alone(registry: Registry, folder: Folder) -> None:
    registry.publish(folder(), kind="policy", name="g/p")
    registry.publish(folder(), kind="policy", name="g/p")
    plan = registry.gc()
    assert plan.kept[0].why == ("younger than 1:00:00",)
    assert plan.delete == plan.garbage == ()


def test_leftovers_go_when_they_are_old(local: Registry, folder: Folder) -> None:
    kept = local.publish(folder(), kind="policy", name="g/p")
    orphan = local.home / "objects" / (64 * "a")
    copying = local.home / "staging" / "0123"
    trash = local.home / "staging" / "trash.0123"
    for path in (orphan, copying, trash):
        path.mkdir()
        (path / "a.txt").write_text("12345")
    assert [garbage.path for garbage in local.gc().garbage] == [trash]
    _age(orphan, hours=2)
    _age(copying, hours=2)
    _age(kept.path, hours=2)
    plan = local.gc(dry_run=False)
    assert [(garbage.path, garbage.num_bytes) for garbage in plan.garbage] == [
        (orphan, 5),
        (copying, 5),
        (trash, 5),
    ]
    assert not orphan.exists()
    assert not copying.exists()
    assert not trash.exists()
    assert local.open("g/p") == kept.path


def test_a_copy_that_still_grows_is_left_alone(local: Registry) -> None:
    copying = local.home / "staging" / "0123" / "sub"
    copying.mkdir(parents=True)
    (copying / "a.txt").write_text("")
    _age(copying.parent, hours=2)
    (copying / "a.txt").write_text("more")
    assert local.gc().garbage == ()


def test_an_unfinished_run_holds_what_it_made_and_opened(registry: Registry, folder: Folder, url: str) -> None:
    made = registry.publish(folder(), kind="policy", name="g/p", run_id="r1")
    registry.publish(folder(), kind="policy", name="g/p")
    assert [artefact.ref for artefact in registry.gc(grace=NOW).delete] == [made.ref]
    registry.start_run("r1", ["rlhf", "ppo", "ppo.yaml"])
    assert registry.gc(grace=NOW).kept[0].why == ("run r1 is at work",)
    for status in ("failed", "interrupted"):
        registry.finish_run("r1", status)
        assert registry.gc(grace=NOW).kept[0].why == ("run r1 can be resumed",)
    long_ago = datetime.now(UTC) - runs.RESUMABLE_FOR - timedelta(minutes=1)
    with db.write(db.engine(url)) as connection:
        connection.execute(sa.update(schema.runs).values(heartbeat_at=long_ago))
    assert [artefact.ref for artefact in registry.gc(grace=NOW).delete] == [made.ref]
    registry.heartbeat("r1")
    assert registry.gc(grace=NOW).delete == ()
    registry.start_run("r1")
    registry.start_run("r1")
    registry.open(made)
    registry.open(made)
    for status in ("done", "stopped"):
        registry.finish_run("r1", status)
        assert [artefact.ref for artefact in registry.gc(grace=NOW).delete] == [made.ref]


def test_a_run_holds_what_was_opened_before_it_began(registry: Registry, folder: Folder) -> None:
    opened = registry.publish(folder(), kind="sft", name="g/sft")
    registry.publish(folder(), kind="sft", name="g/sft")
    assert [artefact.ref for artefact in registry.gc(grace=NOW).delete] == [opened.ref]
    registry.start_run("r1")
    registry.hold("r1", [opened, "g/sft@v1"])
    assert registry.gc(grace=NOW).delete == ()
    registry.finish_run("r1", "done")
    registry.gc(dry_run=False, grace=NOW)
    registry.start_run("r2")
    with pytest.raises(UserError, match="g/sft@v1: deleted by gc"):
        registry.hold("r2", [opened])


def test_what_gc_took_from_a_run_is_in_nobody_s_way(registry: Registry, folder: Folder, url: str) -> None:
    old = registry.publish(folder(), kind="sft", name="g/sft")
    registry.start_run("r1")
    registry.hold("r1", [old])
    registry.finish_run("r1", "interrupted")
    new = registry.publish(folder(), kind="sft", name="g/sft")
    with db.write(db.engine(url), "registry") as connection:
        long_ago = datetime.now(UTC) - 2 * runs.RESUMABLE_FOR
        connection.execute(sa.update(schema.runs).values(heartbeat_at=long_ago))
    assert [artefact.ref for artefact in registry.gc(dry_run=False, grace=NOW).delete] == [old.ref]
    with db.read(db.engine(url)) as connection:
        assert connection.execute(sa.select(schema.run_inputs)).all() == []

    registry.start_run("r1")  # taken up again all the same, with what there is now
    registry.hold("r1", [new])
    registry.finish_run("r1", "failed")
    plan = registry.gc(grace=NOW)
    assert [(kept.artefact.ref, kept.why) for kept in plan.kept] == [
        ("g/sft@v2", ("alias latest", "run r1 can be resumed"))
    ]


def test_a_process_that_now_has_the_number_of_one_that_died_is_in_nobody_s_way(registry: Registry, url: str) -> None:
    registry.start_run("r1")
    with db.write(db.engine(url)) as connection:
        connection.execute(sa.update(schema.runs).values(pid=os.getppid()))  # lives, and has nothing to do with it
    registry.start_run("r1")
    registry.finish_run("r1", "done")


def test_a_run_that_was_never_started_cannot_end(registry: Registry) -> None:
    with pytest.raises(UserError, match="run r9: no such run"):
        registry.finish_run("r9", "done")


def test_a_version_deleted_meanwhile_cannot_become_a_parent(registry: Registry, folder: Folder) -> None:
    gone = registry.publish(folder(), kind="sft", name="g/sft")
    registry.publish(folder(), kind="sft", name="g/sft")
    registry.gc(dry_run=False, grace=NOW)
    with pytest.raises(UserError, match="g/sft@v1: deleted by gc"):
        registry.publish(folder(), kind="policy", name="g/p", parents=[("ref", gone)])


artefacts = st.lists(
    st.tuples(
        st.integers(0, 2),  # which name
        st.sets(st.integers(0, 7), max_size=3),  # which of those before are parents
        st.booleans(),  # with an alias
        st.integers(0, 3),  # content: some are the same
    ),
    max_size=8,
)


@given(artefacts)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_gc_deletes_exactly_what_cannot_be_reached(plan: list[tuple[int, set[int], bool, int]]) -> None:
    with tempfile.TemporaryDirectory() as place:
        registry = Registry(Path(place) / "home", f"sqlite:///{place}/registry.db")
        parents: dict[str, set[str]] = {}
        roots: dict[str, str] = {}
        order: list[str] = []
        for number, (name, indices, alias, content) in enumerate(plan):
            source = Path(place) / f"{number}.json"
            file = source.with_name(f"content{content}.json")
            file.write_text(str(content))
            refs = [order[index] for index in sorted(indices) if index < len(order)]
            ref = registry.publish(
                file,
                kind="sft",
                name=f"g/{name}",
                parents=[("base", parent) for parent in refs],
                alias=f"a{number}" if alias else None,
            ).ref
            order.append(ref)
            parents[ref] = set(refs)
            roots[f"g/{name}"] = ref
            if alias:
                roots[f"a{number}"] = ref
        reachable = set(roots.values())
        while grown := {parent for ref in reachable for parent in parents[ref]} - reachable:
            reachable |= grown

        done = registry.gc(dry_run=False, grace=NOW)

        assert {artefact.ref for artefact in done.delete} == set(order) - reachable
        assert {artefact.ref for artefact in registry.artefacts()} == reachable
        assert all(registry.verify(artefact) == [] for artefact in registry.artefacts())
        digests = {artefact.digest for artefact in registry.artefacts()}
        objects = registry.home / "objects"
        assert {path.name for path in objects.iterdir()} == digests if objects.exists() else not digests
