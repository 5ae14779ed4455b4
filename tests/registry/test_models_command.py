import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rlhf.cli.models import app
from rlhf.errors import UserError
from rlhf.registry import Registry

Folder = Callable[..., Path]


@pytest.fixture(autouse=True)
def _here(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLHF_HOME", str(home))
    monkeypatch.delenv("RLHF_DATABASE_URL", raising=False)
    monkeypatch.setenv("COLUMNS", "200")


def models(*arguments: str, exit_code: int = 0) -> str:
    result: Result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == exit_code, result.output
    return result.stdout


@pytest.fixture
def filled(local: Registry, folder: Folder) -> Registry:
    base = local.publish(folder(), kind="base", name="support/base")
    sft = local.publish(folder(), kind="sft", name="support/sft", parents=[("base", base)])
    judges = {
        "annotators": [
            {"name": "ann [lead]", "num_judgements": 12},
            {"name": "bob", "num_judgements": 5, "num_held_out": 5},
        ],
        "simulated": True,
    }
    labels = local.publish(
        folder(), kind="preferences", name="support/labels", parents=[("model", sft)], metadata=judges
    )
    parents = [("ref", sft), ("preferences", labels)]
    local.publish(folder(), kind="policy", name="support/policy", parents=parents, alias="candidate")
    local.publish(folder(), kind="policy", name="support/policy", parents=parents, metadata={"kl": 4.5})
    return local


def test_ls_lists_what_there_is(filled: Registry) -> None:
    shown = models("ls")
    assert shown.index("support/policy@v1") < shown.index("support/policy@v2") < shown.index("support/sft@v1")
    assert "candidate" in shown
    found = json.loads(models("ls", "support/p", "--kind", "policy", "--json"))
    assert [(artefact["ref"], artefact["aliases"]) for artefact in found] == [
        ("support/policy@v1", ["candidate"]),
        ("support/policy@v2", ["latest"]),
    ]


def test_ls_of_nothing_is_empty_and_makes_nothing(home: Path) -> None:
    assert models("ls", "--json") == "[]\n"
    assert f"No artefacts here: {home}" in models("ls")
    assert not home.exists()
    with pytest.raises(UserError, match="--kind polcy: no such kind; did you mean policy"):
        models("ls", "--kind", "polcy")


def test_other_commands_say_when_there_is_no_registry(home: Path) -> None:
    with pytest.raises(UserError, match=f"{home}: no registry here"):
        models("show", "support/sft")
    assert not home.exists()


def test_looking_for_a_ref_makes_no_home(home: Path) -> None:
    assert Registry(home).find("support/sft") is None
    assert not home.exists()


def test_show_tells_all_of_one_artefact(filled: Registry) -> None:
    shown = models("show", "support/policy")
    assert "support/policy@v2" in shown
    assert "parent (preferences)" in shown
    assert "4.5" in shown
    assert "config.json" in shown
    found = json.loads(models("show", "support/policy@candidate", "--json"))
    assert found["version"] == 1
    assert [(parent["role"], parent["ref"]) for parent in found["parents"]] == [
        ("ref", "support/sft@v1"),
        ("preferences", "support/labels@v1"),
    ]
    assert [file["path"] for file in found["files"]] == ["config.json"]


def test_lineage_shows_the_way_back_to_the_annotators(filled: Registry) -> None:
    lines = [line.lstrip("│├└─ \xa0") for line in models("lineage", "support/policy@candidate").splitlines()]
    assert [line.split("  ")[0] for line in lines] == [
        "support/policy@v1",
        "ref: support/sft@v1",
        "base: support/base@v1",
        "preferences: support/labels@v1",
        "annotator: ann [lead] (simulated), 12 judgements",
        "annotator: bob (simulated), 5 judgements, 5 of them held out",
        "model: support/sft@v1",
    ]
    found = json.loads(models("lineage", "support/policy", "--json"))
    assert found["parents"][1]["annotators"][0] == {"name": "ann [lead]", "num_judgements": 12}


def test_lineage_shows_what_rewarded_a_policy(local: Registry, folder: Folder) -> None:
    scorers = [
        {"ref": "support/reward@v1", "weight": 1.0},
        {"function": "my.py:brevity", "sha256": "12" * 32, "weight": 0.2},
    ]
    local.publish(folder(), kind="policy", name="support/policy", metadata={"scorers": scorers})
    shown = models("lineage", "support/policy")
    assert "rewarded by: support/reward@v1, weight 1\n" in shown
    assert f"rewarded by: function my.py:brevity, weight 0.2, sha256 {'12' * 32}\n" in shown
    assert json.loads(models("lineage", "support/policy", "--json"))["scorers"] == scorers


def test_alias_moves_and_removes(filled: Registry) -> None:
    assert models("alias", "support/policy", "production", "candidate") == (
        "support/policy@production -> support/policy@v1\n"
    )
    moved = models("alias", "support/policy", "production", "v2", "--expect", "v1", "--json")
    assert json.loads(moved) == {"name": "support/policy", "alias": "production", "ref": "support/policy@v2"}
    with pytest.raises(UserError, match="stands at v2 now, expected at v1"):
        models("alias", "support/policy", "production", "v1", "--expect", "v1")
    with pytest.raises(UserError, match="expected not to exist"):
        models("alias", "support/policy", "production", "v1", "--expect", "none")
    with pytest.raises(UserError, match="--expect soon: neither a version"):
        models("alias", "support/policy", "production", "v1", "--expect", "soon")
    with pytest.raises(UserError, match="give the version to move to"):
        models("alias", "support/policy", "production")
    assert models("alias", "support/policy", "production", "--remove") == "support/policy@production is gone\n"
    assert filled.find("support/policy@production") is None


def test_verify_names_what_is_damaged_and_exits_with_2(filled: Registry) -> None:
    assert models("verify") == "5 of 5 artefacts are as they were published\n"
    file = filled.resolve("support/sft").path / "config.json"
    file.unlink()
    shown = models("verify", exit_code=2)
    assert f"support/sft@v1: damaged\n  {file}: missing" in shown
    assert shown.endswith("4 of 5 artefacts are as they were published\n")
    assert models("verify", "support/base") == "1 of 1 artefacts are as they were published\n"
    found = json.loads(models("verify", "support/sft", "--json", exit_code=2))
    assert [len(artefact["problems"]) for artefact in found] == [1]


def test_gc_says_first_and_does_when_told(filled: Registry) -> None:
    filled.move_alias("support/policy", "candidate", None)
    lost = filled.resolve("support/policy@v1")
    assert models("gc").startswith("5 artefacts kept, 0 not, 0 B would be freed")
    shown = models("gc", "--grace-hours", "0")
    assert "would be deleted" in shown
    assert "support/policy@v1" in shown
    assert lost.path.exists()
    done = json.loads(models("gc", "--grace-hours", "0", "--delete", "--json"))
    assert (done["deleted"], done["delete"]) == (True, ["support/policy@v1"])
    assert {"ref": "support/base@v1", "why": ["alias latest", "base of support/sft@v1"]} in done["kept"]
    assert not lost.path.exists()


@pytest.mark.parametrize("command", ["ls", "show", "lineage", "alias", "verify", "gc"])
def test_every_command_has_help(command: str) -> None:
    assert "--json" in models(command, "--help")
    assert command in models("--help")
