import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.errors import UserError
from rlhf.registry import AliasMoved, Registry

Folder = Callable[..., Path]
SAFETENSORS_HEADER = json.dumps({"w": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
SAFETENSORS = len(SAFETENSORS_HEADER).to_bytes(8, "little") + SAFETENSORS_HEADER + b"abcd"


def test_what_is_published_can_be_opened(registry: Registry, folder: Folder) -> None:
    source = folder({"config.json": {"a": 1}, "model.safetensors": SAFETENSORS, "sub/notes.txt": b"x"})
    artefact = registry.publish(source, kind="sft", name="support/sft", metadata={"eval_loss": 1.5})
    assert artefact.ref == "support/sft@v1"
    assert artefact.aliases == ("latest",)
    opened = registry.open("support/sft", kinds=["sft"])
    assert opened == artefact.path
    assert (opened / "model.safetensors").read_bytes() == SAFETENSORS
    assert (opened / "sub" / "notes.txt").read_bytes() == b"x"
    assert registry.resolve("support/sft@v1") == artefact
    assert registry.resolve("support/sft").metadata == {"eval_loss": 1.5}
    assert source.exists()


def test_the_digest_is_the_sha256_of_the_manifest(local: Registry, folder: Folder) -> None:
    artefact = local.publish(folder({"a.txt": b"hello"}), kind="dataset", name="g/d")
    assert (artefact.path / "manifest.json").read_text() == (
        '{"files":[{"path":"a.txt","sha256":'
        '"2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824","size":5}],"format":1}'
    )
    assert artefact.digest == "91cf71d0db4bfaabe6847dc88b37b21949afc3d5c0d2027c4af6a026afe8598f"
    assert artefact.path.name == artefact.digest
    assert local.files(artefact) == json.loads((artefact.path / "manifest.json").read_text())["files"]


def test_published_files_cannot_be_written_by_mistake(local: Registry, folder: Folder) -> None:
    artefact = local.publish(folder(), kind="sft", name="g/sft")
    for file in artefact.path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) & 0o222 == 0


def test_one_file_can_be_published(local: Registry, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "hi"}\n')
    artefact = local.publish(file, kind="dataset", name="g/prompts")
    assert (artefact.path / "prompts.jsonl").read_text() == '{"prompt": "hi"}\n'


def test_versions_count_up_by_name(registry: Registry, folder: Folder) -> None:
    assert registry.publish(folder(), kind="sft", name="g/a").version == 1
    assert registry.publish(folder(), kind="sft", name="g/a").version == 2
    assert registry.publish(folder(), kind="sft", name="g/b").version == 1
    assert registry.resolve("g/a").version == 2
    assert registry.resolve("g/a@v1").aliases == ()


def test_the_same_content_is_one_object(registry: Registry, folder: Folder) -> None:
    first = registry.publish(folder({"a.json": 1}), kind="sft", name="g/a")
    second = registry.publish(folder({"a.json": 1}), kind="policy", name="g/b")
    assert first.digest == second.digest
    assert [path.name for path in (registry.home / "objects").iterdir()] == [first.digest]
    assert list((registry.home / "staging").iterdir()) == []


def test_the_same_again_makes_no_new_version(registry: Registry, folder: Folder) -> None:
    base = registry.publish(folder({"a.json": 0}), kind="base", name="g/base")
    same = {"kind": "sft", "name": "g/sft", "metadata": {"loss": 0.1}, "parents": [("base", base)]}
    first = registry.publish(folder({"a.json": 1}), **same)
    again = registry.publish(folder({"a.json": 1}), **same, alias="candidate")
    assert again.ref == first.ref == "g/sft@v1"
    assert again.aliases == ("latest", "candidate")
    assert registry.publish(folder({"a.json": 1}), **(same | {"metadata": {}})).version == 2
    assert registry.publish(folder({"a.json": 1}), **(same | {"metadata": {}, "parents": []})).version == 3
    assert registry.publish(folder({"a.json": 2}), **(same | {"metadata": {}, "parents": []})).version == 4
    back = registry.publish(folder({"a.json": 1}), **same)
    assert back.version == 5, "latest must stand at what was published last"


def test_an_object_can_be_published_again_under_another_name(local: Registry, folder: Folder) -> None:
    first = local.publish(folder(), kind="sft", name="g/a")
    assert local.publish(local.open(first), kind="policy", name="g/b").digest == first.digest


def test_an_object_of_one_registry_can_be_published_by_another(local: Registry, folder: Folder, tmp_path: Path) -> None:
    theirs = local.publish(folder(), kind="sft", name="g/a")
    assert Registry(tmp_path / "other").publish(theirs.path, kind="sft", name="g/a").digest == theirs.digest


def test_a_copy_that_fails_leaves_nothing_and_says_why(
    local: Registry, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="staging: No space left on device; nothing was published"):
            local.publish(folder(), kind="sft", name="g/a")
    assert local.artefacts() == []
    assert list((local.home / "staging").iterdir()) == []


def test_a_name_holds_one_kind(registry: Registry, folder: Folder) -> None:
    registry.publish(folder(), kind="sft", name="g/a")
    with pytest.raises(UserError, match="g/a: holds artefacts of kind sft; publish a reward under another name"):
        registry.publish(folder(), kind="reward", name="g/a")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"pytorch_model.bin": b"x"}, "pytorch_model.bin: may run code when it is loaded"),
        ({"training_args.bin": b"x"}, "save weights as safetensors"),
        ({"optimizer.pt": b"x"}, "optimizer.pt: may run code"),
        ({"x.PKL": b"x"}, "may run code"),
        ({"x.pkl.gz": b"x"}, "may run code"),
        ({"script.py": b"x"}, "artefacts hold only .csv"),
        ({".gitattributes": b"x"}, "artefacts hold only"),
        ({"innocent.json": b"\x80\x04\x95"}, "is a pickle or a zip archive in spite of its name"),
        ({"innocent.txt": b"PK\x03\x04"}, "is a pickle or a zip archive"),
        ({"manifest.json": b"{}"}, "the registry writes a file of this name"),
        ({"model.safetensors": SAFETENSORS[:-1]}, "has 71 bytes and its header says 72"),
        ({"model.safetensors": b"abc"}, "is not a whole safetensors file"),
        ({"model.safetensors": (4).to_bytes(8, "little") + b"nope"}, "its header is not readable"),
        ({"a\nb.txt": b""}, "cannot be printed"),
        ({}, "holds no files"),
    ],
)
def test_what_no_artefact_may_hold_is_refused(
    local: Registry, folder: Folder, files: dict[str, bytes], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        local.publish(folder(files), kind="sft", name="g/a")
    assert local.artefacts() == []
    assert not (local.home / "objects").exists()


def test_everything_that_is_refused_is_named_at_once(local: Registry, folder: Folder) -> None:
    with pytest.raises(UserError) as caught:
        local.publish(folder({"a.bin": b"", "b.pt": b"", "c.json": 1}), kind="sft", name="g/a")
    assert len(caught.value.problems) == 2


def test_links_are_refused(local: Registry, folder: Folder, tmp_path: Path) -> None:
    source = folder()
    (source / "link.json").symlink_to(source / "config.json")
    (source / "folder").symlink_to(tmp_path)
    with pytest.raises(UserError) as caught:
        local.publish(source, kind="sft", name="g/a")
    assert [problem.split(": ")[1] for problem in caught.value.problems] == 2 * [
        "is a link; put the file itself there (cp -L)"
    ]


def test_what_is_no_plain_file_is_refused(local: Registry, folder: Folder) -> None:
    source = folder()
    os.mkfifo(source / "pipe.json")
    with pytest.raises(UserError, match=r"pipe\.json: is not a plain file"):
        local.publish(source, kind="sft", name="g/a")


def test_a_missing_source_is_named(local: Registry, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such file or folder"):
        local.publish(tmp_path / "nowhere", kind="sft", name="g/a")


def test_metadata_that_json_cannot_hold_is_named(local: Registry, folder: Folder) -> None:
    with pytest.raises(UserError, match=r"g/a: metadata 'loss' = nan cannot be stored"):
        local.publish(folder(), kind="sft", name="g/a", metadata={"loss": float("nan")})


def test_an_unknown_kind_is_answered_with_a_near_one(local: Registry, folder: Folder) -> None:
    with pytest.raises(UserError, match="g/a: 'polcy' is no kind of artefact; did you mean policy"):
        local.publish(folder(), kind="polcy", name="g/a")  # type: ignore[arg-type]


def test_an_unknown_parent_leaves_nothing_behind(registry: Registry, folder: Folder) -> None:
    with pytest.raises(UserError, match="g/bse: no artefact is called g/bse"):
        registry.publish(folder(), kind="sft", name="g/a", parents=[("base", "g/bse")])
    assert registry.artefacts() == []
    assert not (registry.home / "objects").exists()


def test_an_adapter_points_to_its_base_by_digest(registry: Registry, folder: Folder) -> None:
    base = registry.publish(folder(), kind="base", name="g/base")
    source = folder({"adapter_config.json": {"base_model_name_or_path": "g/base@v1"}})
    adapter = registry.publish(source, kind="sft", name="g/a", parents=[("base", base)], metadata={"r": 8})
    assert adapter.metadata == {"r": 8, "base_digest": base.digest}
    assert registry.base_of(adapter) == registry.base_of("g/a") == base
    with pytest.raises(UserError, match="g/base@v1: has no base; only adapters have one"):
        registry.base_of(base)


def test_an_adapter_without_base_or_with_a_local_path_is_refused(local: Registry, folder: Folder) -> None:
    base = local.publish(folder(), kind="base", name="g/base")
    with pytest.raises(UserError, match="one parent in the role `base`; 0 were given"):
        local.publish(folder({"adapter_config.json": {}}), kind="sft", name="g/a")
    for path in ("/home/me/base", "../base", "~/base"):
        source = folder({"adapter_config.json": {"base_model_name_or_path": path}})
        with pytest.raises(UserError, match="is a path on this machine"):
            local.publish(source, kind="sft", name="g/a", parents=[("base", base)])
    assert [artefact.ref for artefact in local.artefacts()] == ["g/base@v1"]
    assert list((local.home / "staging").iterdir()) == []


def test_refs_that_lead_nowhere_are_answered_with_what_was_meant(registry: Registry, folder: Folder) -> None:
    registry.publish(folder(), kind="policy", name="support/policy", alias="candidate")
    for ref, answer in {
        "support/polcy": "no artefact is called support/polcy; did you mean support/policy?",
        "support/policy@candidat": "support/policy has no candidat; did you mean candidate?",
        "support/policy@v7": "support/policy has no v7; known versions and aliases: latest, candidate, v1",
    }.items():
        with pytest.raises(UserError, match=answer.replace("?", r"\?")):
            registry.resolve(ref)
        assert registry.find(ref) is None
    assert registry.find("not a ref") is None
    assert registry.find("support/policy@candidate") == registry.resolve("support/policy")


def test_the_wrong_kind_is_named_with_the_right_ones(registry: Registry, folder: Folder) -> None:
    registry.publish(folder(), kind="sft", name="g/a")
    with pytest.raises(UserError, match="g/a@v1: is of kind sft; expected reward or policy"):
        registry.open("g/a", kinds=["reward", "policy"])


def test_artefacts_are_listed_by_prefix_and_kind(registry: Registry, folder: Folder) -> None:
    for name, kind in (("b/x", "sft"), ("a/x", "sft"), ("a/y", "reward"), ("a_/z", "sft")):
        registry.publish(folder(), kind=kind, name=name)  # type: ignore[arg-type]
    registry.publish(folder(), kind="sft", name="a/x")
    refs = [artefact.ref for artefact in registry.artefacts()]
    assert sorted(refs) == ["a/x@v1", "a/x@v2", "a/y@v1", "a_/z@v1", "b/x@v1"]
    assert refs.index("a/x@v1") + 1 == refs.index("a/x@v2")
    assert [artefact.ref for artefact in registry.artefacts("a_")] == ["a_/z@v1"]
    assert [artefact.ref for artefact in registry.artefacts(kind="reward")] == ["a/y@v1"]


def test_an_alias_moves_only_from_where_it_is_believed_to_stand(registry: Registry, folder: Folder) -> None:
    for _ in range(3):
        registry.publish(folder(), kind="policy", name="g/p")
    assert registry.move_alias("g/p", "production", 1, expected=None).ref == "g/p@v1"  # type: ignore[union-attr]
    registry.move_alias("g/p", "production", "v2", expected=1)
    with pytest.raises(AliasMoved, match="g/p@production: stands at v2 now, expected at v1") as caught:
        registry.move_alias("g/p", "production", 3, expected=1)
    assert caught.value.found == 2
    with pytest.raises(AliasMoved, match="stands at v2 now, expected not to exist"):
        registry.move_alias("g/p", "production", 3, expected=None)
    with pytest.raises(AliasMoved, match="g/p@other: does not exist now, expected at v1"):
        registry.move_alias("g/p", "other", 3, expected=1)
    assert registry.resolve("g/p@production").version == 2
    registry.move_alias("g/p", "production", "latest")
    registry.move_alias("g/p", "shadow", "production")
    assert registry.resolve("g/p").aliases == ("latest", "production", "shadow")
    assert registry.move_alias("g/p", "shadow", None) is None
    assert registry.find("g/p@shadow") is None
    with pytest.raises(UserError, match="g/p has no shadow"):
        registry.move_alias("g/p", "shadow", None)


def test_an_alias_must_stand_somewhere(registry: Registry, folder: Folder) -> None:
    registry.publish(folder(), kind="policy", name="g/p")
    with pytest.raises(UserError, match="g/p has no v2"):
        registry.move_alias("g/p", "production", 2)
    with pytest.raises(UserError, match="'latest': always stands at the newest version"):
        registry.move_alias("g/p", "latest", 1)
    with pytest.raises(UserError, match="no artefact is called g/q"):
        registry.move_alias("g/q", "production", 1)


def test_one_flipped_bit_is_found_and_published_again_is_healed(registry: Registry, folder: Folder) -> None:
    source = folder({"model.safetensors": SAFETENSORS, "config.json": {}})
    artefact = registry.publish(source, kind="sft", name="g/a")
    assert registry.verify("g/a") == []
    file = artefact.path / "model.safetensors"
    file.chmod(0o644)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert [problem.split(": ")[1][:15] for problem in registry.verify("g/a")] == ["changed (sha256"]
    with pytest.raises(UserError, match=r"g/a@v1: is damaged on disk; publish it again") as caught:
        registry.open("g/a")
    assert caught.value.problems[0].startswith(f"{file}: changed")
    assert registry.publish(source, kind="sft", name="g/a").ref == "g/a@v1"
    assert registry.open("g/a") == artefact.path


def test_missing_extra_and_cut_files_are_named(local: Registry, folder: Folder) -> None:
    artefact = local.publish(folder({f"{name}.txt": b"12345" for name in "abcd"}), kind="sft", name="g/a")
    (artefact.path / "a.txt").unlink()
    (artefact.path / "b.txt").chmod(0o644)
    (artefact.path / "b.txt").write_bytes(b"123")
    (artefact.path / "c.txt").unlink()
    (artefact.path / "c.txt").symlink_to("/etc/hostname")
    (artefact.path / "new.txt").write_bytes(b"")
    assert local.verify(artefact) == [
        f"{artefact.path}/a.txt: missing (5 bytes)",
        f"{artefact.path}/b.txt: has 3 bytes, should have 5",
        f"{artefact.path}/c.txt: is a link, should be a file of 5 bytes",
        f"{artefact.path}/new.txt: not in the manifest",
    ]


def test_a_changed_or_missing_manifest_is_found(local: Registry, folder: Folder) -> None:
    artefact = local.publish(folder(), kind="sft", name="g/a")
    manifest = artefact.path / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text("{}")
    assert local.verify(artefact)[0].startswith(f"{manifest}: changed (sha256 44136fa355b3678a")
    manifest.unlink()
    assert local.verify(artefact) == [f"{manifest}: missing"]


def test_lineage_goes_back_to_the_annotators(registry: Registry, folder: Folder) -> None:
    base = registry.publish(folder(), kind="base", name="g/base")
    sft = registry.publish(folder(), kind="sft", name="g/sft", parents=[("base", base)])
    judges = {"annotators": [{"name": "ann", "num_judgements": 12}], "simulated": True}
    labels = registry.publish(folder(), kind="preferences", name="g/labels", metadata=judges, parents=[("model", sft)])
    reward = registry.publish(
        folder(), kind="reward", name="g/reward", parents=[("preferences", labels), ("base", sft)]
    )
    policy = registry.publish(
        folder(), kind="policy", name="g/policy", parents=[("ref", sft), ("reward", "g/reward")], run_id="r1"
    )
    assert [(parent.role, parent.ref, parent.kind) for parent in policy.parents] == [
        ("ref", "g/sft@v1", "sft"),
        ("reward", "g/reward@v1", "reward"),
    ]
    root = registry.lineage("g/policy")
    assert {node.artefact.ref for node in root.walk()} == {
        artefact.ref for artefact in (base, sft, labels, reward, policy)
    }
    assert root.artefact.run_id == "r1"
    of_reward = root.children[1]
    assert (of_reward.role, of_reward.artefact) == ("reward", reward)
    assert of_reward.children[0].annotators == [{"name": "ann", "num_judgements": 12}]
    assert of_reward.children[0].simulated
    assert of_reward.children[1].repeated
    as_json = root.as_dict()
    assert as_json["parents"][0]["parents"][0]["ref"] == "g/base@v1"
    assert as_json["parents"][1]["parents"][0]["annotators"] == [{"name": "ann", "num_judgements": 12}]
    assert as_json["parents"][1]["parents"][1]["repeated"] is True


def test_home_and_database_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLHF_HOME", str(tmp_path / "there"))
    monkeypatch.setenv("RLHF_DATABASE_URL", f"sqlite:///{tmp_path}/elsewhere.db")
    registry = Registry()
    assert not registry.exists()
    assert list(tmp_path.iterdir()) == [], "nothing is made before the first call"
    assert registry.artefacts() == []
    assert registry.home == tmp_path / "there"
    assert (tmp_path / "elsewhere.db").exists()
    assert registry.exists()
    monkeypatch.delenv("RLHF_HOME")
    monkeypatch.delenv("RLHF_DATABASE_URL")
    monkeypatch.chdir(tmp_path)
    Registry().artefacts()
    assert (tmp_path / ".rlhf" / "registry.db").exists()


def test_the_home_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RLHF_DATABASE_URL", raising=False)
    home = tmp_path / "what? 100%41 #1 @home"
    registry = Registry(home)
    assert registry.artefacts() == []
    assert (home / "registry.db").exists()
    assert registry.exists()
