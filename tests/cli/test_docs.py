"""Every command in the shell blocks of these pages works, in the order in which it stands there."""

import re
import shlex
from io import StringIO
from pathlib import Path

import pytest
from tiny import tiny_model

from rlhf.registry import Registry

DOCS = Path(__file__).parents[2] / "docs"
SFT = """
model: {ref: base}
data: {sources: [{path: rows.jsonl}]}
output: {name: support/sft}
"""


def commands(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield from (shlex.split(line, comments=True) for line in block.splitlines() if line.strip())


@pytest.fixture
def project(tmp_path, write, monkeypatch):
    """What the pages take for granted: rows, a config, two models."""
    registry = Registry(tmp_path / "home")
    base = registry.publish(tiny_model(tmp_path / "sft", context=256), kind="sft", name="support/sft")
    adapter = with_adapter(tmp_path / "sft", tmp_path / "adapted", base.ref)
    registry.publish(adapter, kind="policy", name="support/policy", parents=[("base", base)])
    write("prompts.jsonl", [{"prompt": f"p{n}"} for n in range(20)])
    write("rows.jsonl", [{"prompt": f"p{n}", "completion": "c"} for n in range(20)])
    write("sft.yaml", SFT)
    monkeypatch.setattr("sys.stdin", StringIO("Hello\n"))


def with_adapter(model, folder, base):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rlhf.modeling import save_model

    whole = AutoModelForCausalLM.from_pretrained(model)
    adapted = get_peft_model(whole, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    save_model(adapted, AutoTokenizer.from_pretrained(model), folder, base_ref=base)
    return folder


@pytest.mark.parametrize(("page", "count"), [("data.md", 2), ("export.md", 4), ("config.md", 5)])
def test_every_command_of_the_page_works(rlhf, project, page, count):
    shown = [words for words in commands(page) if words[1] != "ppo"]  # that one has tests of its own
    assert len(shown) == count
    for program, *arguments in shown:
        assert program == "rlhf"
        ended = rlhf(*arguments)
        assert ended.code == 0, f"{arguments}: {ended.err}"
