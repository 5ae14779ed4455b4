import subprocess
from importlib import metadata

import pytest

import rlhf
from rlhf.tracking.environment import command_line, environment, packages, redact


def test_versions_are_those_installed():
    found = packages()
    assert found["pydantic"] == metadata.version("pydantic")
    assert found["wandb"] == metadata.version("wandb")


def test_the_environment_names_commit_and_whether_it_is_changed(tmp_path, monkeypatch):
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        done = subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    monkeypatch.chdir(tmp_path)
    assert environment()["git"] is None
    git("init", "-q")
    (tmp_path / "sft.yaml").write_text("a: 1\n")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    commit = git("rev-parse", "HEAD")
    assert environment()["git"] == {"commit": commit, "dirty": False}
    (tmp_path / "sft.yaml").write_text("a: 2\n")
    found = environment()
    assert found["git"] == {"commit": commit, "dirty": True}
    assert found["rlhf"]["version"] == rlhf.__version__
    assert found["cpu"]["cores"] >= 1


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["/usr/bin/rlhf", "ppo", "a.yaml", "trainer.kl_coef=0.1"], "rlhf ppo a.yaml trainer.kl_coef=0.1"),
        (
            ["rlhf", "trainer.hub_token=abc", "data.max_prompt_tokens=64"],
            "rlhf trainer.hub_token=*** data.max_prompt_tokens=64",
        ),
        (["rlhf", "--token", "abc", "x"], "rlhf --token *** x"),
        (["rlhf", "--token=abc"], "rlhf --token=***"),
        (["rlhf", "chat", "two words"], "rlhf chat 'two words'"),
        (["rlhf", "hf_abcdefghijklmnopqrstuv"], "rlhf ***"),
    ],
)
def test_the_command_is_shown_as_typed_without_its_secrets(arguments, shown):
    assert command_line(arguments) == shown


def test_redact_keeps_what_is_no_secret():
    config = {
        "pad_token": "<pad>",
        "api_key": "",
        "password": None,
        "list": [{"api_key": "k"}],
        "sk": "sk-short",
    }
    assert redact(config) == {
        "pad_token": "<pad>",
        "api_key": "",
        "password": None,
        "list": [{"api_key": "***"}],
        "sk": "sk-short",
    }
