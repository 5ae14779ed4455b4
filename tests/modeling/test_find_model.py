"""What a ref means: a registry artefact, a folder, a Hub model; and what is said when it is none of them."""

import json

import pytest
from huggingface_hub.utils import filter_repo_objects
from tiny import tiny_model

from rlhf.errors import UserError
from rlhf.modeling import find_model
from rlhf.registry import Registry, objects


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture
def registry(tmp_path):
    return Registry(tmp_path / "home")


def problem_of(*args, **kwargs):
    with pytest.raises(UserError) as caught:
        find_model(*args, **kwargs)
    assert all("\n" not in problem for problem in caught.value.problems)
    return caught.value.problems


def test_a_folder_is_a_base_and_is_taken_in_when_it_is_published(base, registry, monkeypatch):
    found = find_model(str(base), registry)
    assert (found.folder, found.artefact, found.kind, found.is_adapter) == (base, None, "base", False)
    assert registry.artefacts() == []
    published = found.publish(registry)
    assert (published.ref, published.kind) == ("base/base@v1", "base")
    assert {file["path"] for file in registry.files(published)} >= {"config.json", "model.safetensors"}
    assert found.publish(registry).ref == "base/base@v1"
    monkeypatch.chdir(base.parent)
    assert find_model("base", registry).folder == base
    assert find_model("./base", registry).folder == base


def test_a_ref_is_the_version_it_stands_for(base, registry):
    first = registry.publish(base, kind="sft", name="group/sft", alias="best")
    registry.publish(base, kind="sft", name="group/sft", metadata={"second": True})
    assert find_model("group/sft", registry).ref == "group/sft@v2"
    for ref in ("group/sft@v1", "group/sft@best"):
        found = find_model(ref, registry)
        assert (found.ref, found.kind, found.folder) == ("group/sft@v1", "sft", first.path)
        assert found.publish(registry) == found.artefact


def test_a_ref_of_the_wrong_kind(base, registry):
    registry.publish(base, kind="reward", name="group/reward")
    (problem,) = problem_of("group/reward", registry, ("base", "sft"))
    assert problem.startswith("model.ref = 'group/reward': ")
    assert "reward" in problem.partition(": ")[2] and "base" in problem and "sft" in problem


def test_a_version_that_is_not_there(base, registry):
    registry.publish(base, kind="sft", name="group/sft")
    assert "v1" in problem_of("group/sft@v7", registry)[0]
    assert "did you mean" in problem_of("grop/sft@v1", registry)[0]


def test_a_name_that_is_nowhere_shows_what_was_meant(base, registry):
    registry.publish(base, kind="sft", name="group/sft")
    problems = problem_of("group/stf", registry, key="candidate")
    assert problems[0].startswith("candidate = 'group/stf': not in the registry, not a folder, and the Hub cannot be")
    assert "did you mean group/sft?" in " ".join(problems)


def test_a_hub_id_without_a_network(registry):
    problems = problem_of("nobody/no-such-model", registry)
    assert problems[0].startswith("model.ref = 'nobody/no-such-model': not in the registry, not a folder, and the Hub")
    assert "the Hub cannot be reached; give a local folder, or download it first" in problems[0]


@pytest.mark.parametrize(
    ("ref", "what"),
    [
        ("./gone", "no such folder"),
        ("/nowhere/at/all", "no such folder"),
        ("a/b/c", "no such folder, and neither a registry name nor a Hub id"),
        ("not an id!", "neither in the registry, nor a folder, nor a Hub id"),
    ],
)
def test_a_folder_that_is_not_there(registry, ref, what):
    assert what in problem_of(ref, registry)[0]


def test_a_folder_without_a_model(registry, tmp_path):
    assert "holds no model (neither config.json nor adapter_config.json)" in problem_of(str(tmp_path), registry)[0]


def test_an_adapter_folder_leads_to_its_base(base, registry, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").touch()
    config = adapter / "adapter_config.json"
    config.write_text(json.dumps({"base_model_name_or_path": str(base)}))
    found = find_model(str(adapter), registry)
    assert found.is_adapter and found.base.folder == base
    config.write_text(json.dumps({"base_model_name_or_path": str(tmp_path / "gone")}))
    assert "base_model_name_or_path = " in problem_of(str(adapter), registry)[0]
    config.write_text("{}")
    assert "which model is the adapter for?" in problem_of(str(adapter), registry)[0]


def test_damage_on_disk_is_seen_before_anything_is_loaded(base, registry):
    artefact = registry.publish(base, kind="sft", name="group/sft")
    weights = artefact.path / "model.safetensors"
    weights.chmod(0o644)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    problems = problem_of("group/sft", registry)
    assert any("model.safetensors" in problem for problem in problems)
    assert any("is damaged on disk" in problem for problem in problems)


def test_weights_that_are_pickles_are_refused_at_once(base, registry, tmp_path):
    for config, weights in (("config.json", "pytorch_model.bin"), ("adapter_config.json", "adapter_model.bin")):
        folder = tmp_path / weights.removesuffix(".bin")
        folder.mkdir()
        (folder / config).write_text(json.dumps({"base_model_name_or_path": str(base)}))
        (folder / weights).touch()
        (problem,) = problem_of(str(folder), registry)
        assert problem.startswith(f"model.ref = '{folder}': holds no *.safetensors (only {weights}); convert it once")


def test_of_a_folder_the_model_is_taken_in_and_copied_once(base, registry, tmp_path, monkeypatch):
    folder = tmp_path / "checkpoint-10"
    folder.mkdir()
    for file in base.iterdir():
        (folder / file.name).symlink_to(file)  # as in the Hub's cache
    for name in ("manifest.json", "optimizer.pt", "rng_state.pth"):
        (folder / name).write_text("{}")
    copied = []
    copy = objects._copy
    monkeypatch.setattr(objects, "_copy", lambda *given: (copied.append(given[2]), copy(*given))[1])
    monkeypatch.setattr("shutil.copy2", lambda *given: pytest.fail(f"copied besides: {given}"))
    published = find_model(str(folder), registry).publish(registry)
    assert sorted(copied) == sorted(file.name for file in base.iterdir())
    assert find_model(published.ref, registry).ref == "base/checkpoint-10@v1"


def test_weights_that_lie_there_twice_are_taken_once(tmp_path, monkeypatch):
    asked = {}

    def snapshot_download(hub_id, **options):
        asked.update(options)
        return str(tiny_model(tmp_path / "hub"))

    monkeypatch.setattr("rlhf.modeling.sources.snapshot_download", snapshot_download)
    find_model("mistral/tiny", Registry(tmp_path / "home"))
    files = ["config.json", "model.safetensors", "consolidated.safetensors", "tokenizer.model", "original/params.json"]
    wanted = filter_repo_objects(
        files, allow_patterns=asked["allow_patterns"], ignore_patterns=asked["ignore_patterns"]
    )
    assert list(wanted) == ["config.json", "model.safetensors", "tokenizer.model"]

    folder = tiny_model(tmp_path / "local")
    (folder / "consolidated.safetensors").write_bytes(b"a second copy")
    registry = Registry(tmp_path / "home")
    artefact = find_model(str(folder), registry).publish(registry)
    assert not (registry.open(artefact) / "consolidated.safetensors").exists()
