import json
import logging
from pathlib import Path

import pytest

from rlhf.checkpoint import (
    MANIFEST,
    BrokenCheckpointError,
    atomic_folder,
    checkpoints,
    latest_intact,
    rotate,
    seal,
    verify,
)


def write(root: Path, step: int, content: str = "weights") -> Path:
    target = root / f"checkpoint-{step}"
    with atomic_folder(target) as folder:
        (folder / "model.bin").write_text(f"{content} {step}")
        (folder / "adapter").mkdir()
        (folder / "adapter" / "config.json").write_text("{}")
    return target


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_saved_folder_has_a_manifest_of_all_its_files_and_verifies(tmp_path: Path) -> None:
    target = write(tmp_path, 1)
    manifest = json.loads((target / MANIFEST).read_text())
    assert sorted(manifest["files"]) == ["adapter/config.json", "model.bin"]
    assert manifest["files"]["adapter/config.json"] == {
        "size": 2,
        # sha256 of "{}"
        "sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    }
    verify(target)


def test_a_save_that_fails_leaves_nothing_and_the_old_folder_as_it_was(tmp_path: Path) -> None:
    target = write(tmp_path, 1, "old")
    with pytest.raises(OSError, match="disk full"), atomic_folder(target) as folder:
        (folder / "model.bin").write_text("half")
        raise OSError("disk full")
    assert names(tmp_path) == ["checkpoint-1"]
    assert (target / "model.bin").read_text() == "old 1"


def test_what_a_killed_save_left_is_cleared_away_by_the_next(tmp_path: Path) -> None:
    remnant = tmp_path / ".checkpoint-1.0a1b2c3d.tmp"
    remnant.mkdir()
    (remnant / "model.bin").write_text("half")
    assert latest_intact(tmp_path) is None
    write(tmp_path, 1)
    assert names(tmp_path) == ["checkpoint-1"]


def test_saving_again_replaces_the_folder(tmp_path: Path) -> None:
    write(tmp_path, 1, "old")
    target = write(tmp_path, 1, "new")
    assert names(tmp_path) == ["checkpoint-1"]
    assert (target / "model.bin").read_text() == "new 1"
    verify(target)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.bin").unlink(), "model.bin is missing"),
        (lambda folder: (folder / "model.bin").write_text("short"), "model.bin has 5 bytes instead of 9"),
        (lambda folder: (folder / "model.bin").write_text("weightS 1"), "model.bin has changed since it was saved"),
        (lambda folder: (folder / MANIFEST).unlink(), "the save was not finished"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "manifest.json cannot be read"),
        (lambda folder: (folder / MANIFEST).write_text('{"files": []}'), "manifest.json cannot be read"),
    ],
)
def test_damage_is_found_and_named(tmp_path: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    target = write(tmp_path, 1)
    damage(target)
    with pytest.raises(BrokenCheckpointError, match=message):
        verify(target)


def test_the_latest_intact_one_is_found_past_broken_newer_ones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (2, 10, 9):
        write(tmp_path, step)
    (tmp_path / "checkpoint-10" / "model.bin").write_text("")
    (tmp_path / "checkpoint-11").mkdir()
    with caplog.at_level(logging.WARNING):
        assert latest_intact(tmp_path) == tmp_path / "checkpoint-9"
    assert [record.args[0].name for record in caplog.records] == ["checkpoint-11", "checkpoint-10"]  # type: ignore[index, union-attr]


def test_there_is_no_latest_one_in_an_empty_or_missing_folder(tmp_path: Path) -> None:
    assert latest_intact(tmp_path) is None
    assert latest_intact(tmp_path / "nowhere") is None


def test_rotation_keeps_the_newest_by_step_and_the_best(tmp_path: Path) -> None:
    for step in (100, 20, 9, 30):
        write(tmp_path, step)
    rotate(tmp_path, 2, keep=tmp_path / "checkpoint-9")
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-100"]
    rotate(tmp_path, 1)
    assert names(tmp_path) == ["checkpoint-100"]


@pytest.mark.parametrize("limit", [None, 0, 5])
def test_rotation_without_a_limit_or_below_it_deletes_nothing(tmp_path: Path, limit: int | None) -> None:
    write(tmp_path, 1)
    write(tmp_path, 2)
    rotate(tmp_path, limit)
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2"]


def test_a_folder_written_by_someone_else_can_be_sealed(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-5"
    folder.mkdir()
    (folder / "optimizer.pt").write_bytes(b"\0" * 10)
    seal(folder)
    assert latest_intact(tmp_path) == folder
    (folder / "optimizer.pt").write_bytes(b"\0" * 9 + b"\1")
    assert latest_intact(tmp_path) is None
