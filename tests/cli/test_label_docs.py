"""Every command that docs/labeling.md shows works, in the order in which it stands there."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from tiny import tiny_model

from labeling_app.simulated import answer_queue
from labeling_app.store import Store
from rlhf.cli.label import app
from rlhf.registry import Registry

sys.path.append(str(Path(__file__).parents[1] / "pipeline"))

from chat_server import ChatServer, completion

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "labeling.md").read_text(encoding="utf-8")
REWARD = """
model: {ref: support/sft}
data: {sources: [{path: support/preferences}]}
trainer: {max_steps: 1, per_device_train_batch_size: 4, activation_checkpointing: false}
centre: {ref: support/sft, num_prompts: 2, max_new_tokens: 4}
output: {name: support/reward}
tracking: {wandb: off}
"""


def commands():
    """The lines of the page's shell blocks, without comments."""
    for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        yield from (shlex.split(line, comments=True) for line in block.splitlines() if line.strip())


class Shortest:
    name = "sim-short"

    def judge(self, mode, prompt, responses, presented):
        return [[at] for at in sorted(range(len(responses)), key=lambda at: (len(responses[at]), responses[at]))]


@pytest.fixture
def project(tmp_path, write):
    """What the page takes for granted: a task file, prompts, two models, a config; and the endpoint."""
    registry = Registry(tmp_path / "home")
    for kind, name, seed in (("sft", "support/sft", 0), ("policy", "support/policy", 1)):
        registry.publish(tiny_model(tmp_path / name, seed=seed, context=512), kind=kind, name=name)
    shutil.rmtree(tmp_path / "support")
    write("tasks.jsonl", [{"prompt": f"Why {n}?", "completions": ["a", "bb", "ccc"]} for n in range(5)])
    write("prompts.jsonl", [{"prompt": f"Say {n}"} for n in range(3)])
    write("reward.yaml", REWARD)
    for name in ("labeling.yaml", "labeling-guidelines.md"):
        shutil.copy(ROOT / "configs" / name, tmp_path)
    with open(tmp_path / "labeling.yaml", "a") as config:  # what its last lines show
        config.write("host: 0.0.0.0\npublic_url: https://labels.example.org\n")
    server = ChatServer(lambda number, body: completion("a", "b", "c", "d"))
    yield server
    server.stop()


def test_the_commands_of_the_page_work_in_their_order(rlhf, project, tmp_path, monkeypatch):
    served = []
    monkeypatch.setattr("labeling_app.web.serve.serve", lambda home, config, say: served.append(config))
    for words in commands():
        words = [word.replace("http://127.0.0.1:8000", project.url) for word in words]
        ended = rlhf(*words[1:])
        assert ended.code == 0, (words, ended.err)
        if words[1:3] == ["label", "serve"]:
            with Store.open(tmp_path / "home") as store:
                for queue in ("default", "ab"):
                    answer_queue(store, [Shortest()], queue)
    assert [config.host for config in served] == ["127.0.0.1", "0.0.0.0"]
    assert (tmp_path / "answers" / "pairs" / "train.jsonl").is_file()
    names = {node.artefact.name for node in Registry(tmp_path / "home").lineage("support/reward").walk()}
    assert {"support/preferences", "support/sft", "support/policy"} <= names


def test_the_page_names_every_command_option_and_key():
    import typer

    from labeling_app.settings import LabelingConfig

    group = typer.main.get_command(app)
    told = {name for name in group.commands if f"rlhf label {name}" in PAGE}
    assert told == set(group.commands)
    for command in ("add", "export"):
        options = {option for parameter in group.commands[command].params for option in parameter.opts}
        missing = {option for option in options if option.startswith("--") and option not in PAGE}
        assert missing <= {"--json", "--help", "--limit", "--alias"}, command
    assert {key for key in LabelingConfig.model_fields if f"`{key}`" not in PAGE} == set()
