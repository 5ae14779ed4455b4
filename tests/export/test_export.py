"""Exports that load in a fresh process, compute what the registry's model computes, and appear in one step."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from tiny import tiny_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from rlhf.errors import UserError
from rlhf.export.export import export_model
from rlhf.export.folders import replaced
from rlhf.modeling import find_model, load_causal_lm, load_reward_model, save_model
from rlhf.registry import Registry

# PEFT asks for a property by its old name
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

TEXT = torch.tensor([[40, 41, 42, 43, 60, 61]])


def with_adapter(model, tokenizer, task, folder, base_ref, seed=7):
    """Attach a LoRA whose B is not zero, save it; returns the model's logits with it on."""
    torch.manual_seed(seed)
    modules_to_save = ["score"] if task == "SEQ_CLS" else None
    config = LoraConfig(task_type=task, r=2, target_modules="all-linear", modules_to_save=modules_to_save)
    model = get_peft_model(model, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "modules_to_save" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    save_model(model, tokenizer, folder, base_ref=base_ref)
    with torch.no_grad():
        return model.eval()(TEXT).logits


class World:
    """A base, an SFT and a PPO policy that are adapters on it, and a reward model trained on simulated judgements."""

    def __init__(self, folder: Path) -> None:
        self.registry = Registry(folder / "home")
        base_folder = tiny_model(folder / "base", seed=1)
        self.base_folder = base_folder
        base = self.registry.publish(base_folder, kind="base", name="base/tiny")
        self.tokenizer = AutoTokenizer.from_pretrained(base_folder)
        rows = folder / "rows.jsonl"
        rows.write_text('{"prompt": "a"}\n')
        data = self.registry.publish(
            rows,
            kind="dataset",
            name="tiny/sft-data",
            metadata={"num_train": 4200, "num_dev": 300, "hub_datasets": ["owner/replies"]},
        )
        # SFT: an adapter on the base
        with_adapter(self.model(base_folder), self.tokenizer, "CAUSAL_LM", folder / "sft", base.ref)
        sft = self.registry.publish(
            folder / "sft",
            kind="sft",
            name="tiny/sft",
            parents=[("base", base), ("data", data)],
            metadata={"metrics": {"eval_loss": 1.25, "perplexity": 3.49}},
        )
        judged = {
            "annotators": [
                {"name": "Beatrix", "num_judgements": 700, "num_held_out": 0},
                {"name": "ben", "num_judgements": 800},
                {"name": "rule", "num_judgements": 90, "num_held_out": 90},
            ],
            "simulated": True,
        }
        rows.write_text('{"prompt": "b"}\n')
        preferences = self.registry.publish(rows, kind="preferences", name="tiny/preferences", metadata=judged)
        # The reward model: whole, with an offset
        tiny_model(folder / "reward", "reward", seed=2)
        (folder / "reward" / "reward.json").write_text('{"score_offset": 0.25, "max_length": 64}')
        reward = self.registry.publish(
            folder / "reward",
            kind="reward",
            name="tiny/reward",
            parents=[("base", sft), ("preferences", preferences)],
            metadata={"metrics": {"accuracy": 0.875, "accuracy_ci": [0.83, 0.91]}},
        )
        # The policy: an adapter on the SFT adapter
        merged = load_causal_lm(find_model("tiny/sft", self.registry))
        self.policy_logits = with_adapter(merged, self.tokenizer, "CAUSAL_LM", folder / "policy", sft.ref, seed=8)
        self.policy = self.registry.publish(
            folder / "policy",
            kind="policy",
            name="tiny/policy",
            parents=[("base", sft), ("data", data), ("reward", reward)],
            metadata={
                "metrics": {"score_before": -0.8, "score_after": 1.7, "kl": 4.1},
                "scorers": [
                    {"ref": reward.ref, "weight": 1.0},
                    {"function": f"{folder}/rules.py:brevity", "sha256": "ab" * 32, "weight": 0.2},
                ],
            },
        )
        rows.write_text('{"prompt": "c"}\n')
        metrics = {"win_rate": 0.94, "win_rate_ci": [0.91, 0.97], "num_prompts": 200, "judge": "rubric", "kl": 4.3}
        self.registry.publish(
            rows,
            kind="report",
            name="tiny/eval",
            parents=[("candidate", self.policy), ("baseline", sft)],
            metadata={"metrics": metrics, "confidence": 0.95},
        )

    @staticmethod
    def model(folder):
        return AutoModelForCausalLM.from_pretrained(folder)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"))


def logits(folder, auto=AutoModelForCausalLM):
    with torch.no_grad():
        return auto.from_pretrained(folder).eval()(TEXT).logits


def snippet(folder):
    """The card's example, pointed at where the folder lies."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert f"folder = {folder.name!r}" in code
    return code.replace(f"folder = {folder.name!r}", f"folder = {str(folder)!r}")


def in_fresh_process(code, elsewhere):
    """What `code` prints, run where nothing of the project is."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("RLHF", "PYTHONPATH"))}
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=elsewhere, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_merged_policy_computes_what_the_adapters_did(world, tmp_path):
    result = export_model("tiny/policy", tmp_path / "aligned", registry=world.registry)
    folder = Path(result["path"])
    assert torch.allclose(logits(folder), world.policy_logits, atol=1e-4)
    assert not torch.allclose(logits(world.base_folder), world.policy_logits, atol=1e-2)
    assert sorted(path.name for path in folder.iterdir()) == sorted([*result["sha256"], "export.json"])
    assert "adapter_config.json" not in result["sha256"]
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {(folder / "README.md").stat().st_mode & 0o777}
    assert (result["kind"], result["dtype"], result["format"]) == ("policy", "float32", "merged")
    assert result["num_parameters"] == AutoModelForCausalLM.from_pretrained(folder).num_parameters()
    assert result["bytes"] == sum((folder / name).stat().st_size for name in result["sha256"])


def test_a_whole_model_stays_what_it_is(world, tmp_path):
    export_model("base/tiny", tmp_path / "out", registry=world.registry)
    assert torch.equal(logits(tmp_path / "out"), logits(world.base_folder))


def test_the_cards_example_runs_in_a_fresh_process(world, tmp_path):
    export_model("tiny/policy", tmp_path / "aligned", registry=world.registry)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = snippet(tmp_path / "aligned")
    check = f"""
import torch
print("sum", model(torch.tensor({TEXT.tolist()})).logits.sum().item())
"""
    printed = in_fresh_process(code + check, elsewhere)
    assert float(printed.rpartition("sum ")[2]) == pytest.approx(world.policy_logits.sum().item(), abs=1e-2)
    assert not list(elsewhere.iterdir())


def test_a_conversational_models_example_speaks_through_its_template(tmp_path):
    registry = Registry(tmp_path / "home")
    export_model(str(tiny_model(tmp_path / "chat", chat=True)), tmp_path / "out", registry=registry)
    code = snippet(tmp_path / "out")
    assert "apply_chat_template" in code
    exec(compile(code, "card", "exec"), {})


def test_a_reward_model_keeps_its_scores_and_its_offset(world, tmp_path, capsys):
    result = export_model("tiny/reward", tmp_path / "reward", registry=world.registry)
    folder = Path(result["path"])
    assert json.loads((folder / "reward.json").read_text())["score_offset"] == 0.25
    model, offset = load_reward_model(find_model(str(folder), world.registry))
    original, _ = load_reward_model(find_model("tiny/reward", world.registry))
    with torch.no_grad():
        assert torch.equal(model(TEXT).logits, original(TEXT).logits)
    exec(compile(snippet(folder), "card", "exec"), {})
    ids = world.tokenizer("Hello Good day.</s>", return_tensors="pt").input_ids
    with torch.no_grad():
        assert float(capsys.readouterr().out) == pytest.approx(original(ids).logits.item() - offset, abs=1e-5)


@pytest.mark.parametrize("kind", ["reward", "encoder"])
def test_a_reward_adapter_is_merged_with_its_head(tmp_path, kind):
    registry = Registry(tmp_path / "home")
    tiny_model(tmp_path / "base", kind, seed=3)
    base = registry.publish(tmp_path / "base", kind="base", name="base/tiny")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=1)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    torch.manual_seed(0)
    head = "classifier" if kind == "encoder" else "score"
    model = get_peft_model(
        model, LoraConfig(task_type="SEQ_CLS", r=2, target_modules="all-linear", modules_to_save=[head])
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "modules_to_save" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    save_model(model, tokenizer, tmp_path / "reward", base_ref=base.ref)
    registry.publish(tmp_path / "reward", kind="reward", name="tiny/reward", parents=[("base", base)])
    export_model("tiny/reward", tmp_path / "out", registry=registry)
    with torch.no_grad():
        expected = model.eval()(TEXT).logits
    assert torch.allclose(logits(tmp_path / "out", AutoModelForSequenceClassification), expected, atol=1e-4)


def test_an_adapter_by_itself_goes_on_the_merged_base(world, tmp_path):
    result = export_model("tiny/policy", tmp_path / "adapter", registry=world.registry, format="adapter")
    assert "model.safetensors" not in result["sha256"]
    export_model("tiny/sft", tmp_path / "base", registry=world.registry)
    code = snippet(tmp_path / "adapter")
    assert "tiny/sft@v1, exported as merged" in code
    names: dict = {}
    exec(compile(code.replace("base = 'base'", f"base = {str(tmp_path / 'base')!r}"), "card", "exec"), names)
    with torch.no_grad():
        found = names["model"].eval()(TEXT).logits
    assert torch.allclose(found, world.policy_logits, atol=1e-4)


def test_the_weights_can_be_written_in_another_precision(world, tmp_path):
    result = export_model("tiny/policy", tmp_path / "half", registry=world.registry, dtype="bfloat16")
    assert result["dtype"] == "bfloat16"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "half").dtype == torch.bfloat16
    whole = export_model("tiny/policy", tmp_path / "whole", registry=world.registry)
    size = "model.safetensors"
    assert (tmp_path / "half" / size).stat().st_size < 0.6 * (Path(whole["path"]) / size).stat().st_size


def test_a_win_rate_by_the_training_reward_is_called_what_it_is(world, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "d"}\n')
    metrics = {"win_rate": 0.99, "num_prompts": 50, "judge": "reward", "judge_is_training_reward": True}
    world.registry.publish(
        tmp_path / "rows.jsonl",
        kind="report",
        name="tiny/own-judge",
        parents=[("candidate", world.policy)],
        metadata={"metrics": metrics},
    )
    export_model("tiny/policy", tmp_path / "aligned", registry=world.registry)
    card = (tmp_path / "aligned" / "README.md").read_text()
    assert "on 50 held-out prompts, judge: reward (**what it was trained on**: this does not say" in card
    assert card.count("it was trained on**") == 1


def test_the_card_names_every_ancestor_and_what_was_measured(world, tmp_path):
    export_model("tiny/policy", tmp_path / "aligned", registry=world.registry)
    card = (tmp_path / "aligned" / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "license": "unknown",
        "datasets": ["owner/replies"],
        "tags": ["rlhf", "ppo"],
    }
    day = f"{world.policy.created_at:%Y-%m-%d}"
    assert f"- **policy, optimised with PPO** `tiny/policy@v1`, `{world.policy.digest[:12]}`, {day}\n" in card
    assert "\n  - base: **supervised fine-tuning** `tiny/sft@v1`" in card
    assert "\n    - base: **the base model** `base/tiny@v1`" in card
    assert "\n  - reward: **reward model** `tiny/reward@v1`" in card
    assert "4,200 rows and 300 held out" in card
    assert "1,500 judgements by 2 **simulated** annotators (a program, not people)" in card
    assert "90 held-out judgements by 1 **simulated** annotators (a program, not people)" in card
    assert "| `tiny/reward@v1` | accuracy on held-out pairs | 0.875 (95% interval 0.830 to 0.910) |" in card
    assert (
        "| `tiny/policy@v1` | win rate over `tiny/sft@v1` on 200 held-out prompts, judge: rubric "
        "| 0.94 (95% interval 0.910 to 0.970) |"
    ) in card
    assert "KL divergence from `tiny/sft@v1`, nats per sequence | 4.3 |" in card
    assert "Nothing here says that people would prefer what it does." in card
    assert "Beatrix" not in card  # people are counted, not named


def test_the_card_names_every_scorer_and_claims_no_judgements_where_there_are_none(world, tmp_path):
    export_model("tiny/policy", tmp_path / "aligned", registry=world.registry)
    card = (tmp_path / "aligned" / "README.md").read_text()
    assert "\n  - rewarded by: `tiny/reward@v1`, weight 1\n" in card
    assert "\n  - rewarded by: function `rules.py:brevity`, weight 0.2, `abababababab`\n" in card
    assert (
        "tuned to what `tiny/reward@v1`, trained on the judgements above and the function `rules.py:brevity` gave "
        "high scores and to nothing else"
    ) in card
    scorers = json.loads((tmp_path / "aligned" / "export.json").read_text())["scorers"]
    assert scorers[1] == {"function": "rules.py:brevity", "sha256": "ab" * 32, "weight": 0.2}
    world.registry.publish(
        world.base_folder,
        kind="policy",
        name="tiny/by-rule",
        metadata={"scorers": [{"function": "rules.py:brevity", "sha256": None, "weight": 1.0}]},
    )
    export_model("tiny/by-rule", tmp_path / "ruled", registry=world.registry)
    card = (tmp_path / "ruled" / "README.md").read_text()
    assert "tuned to what the function `rules.py:brevity` gave high scores" in card
    assert "judgements" not in card


def test_no_path_of_this_machine_is_written(world, tmp_path):
    """Neither of the registry's folder nor of where the export was made."""
    export_model("tiny/policy", tmp_path / "aligned", registry=world.registry)
    export_model(str(world.base_folder), tmp_path / "local", registry=world.registry)
    adapter = tmp_path / "local-adapter"
    with_adapter(world.model(world.base_folder), world.tokenizer, "CAUSAL_LM", adapter, str(world.base_folder))
    export_model(str(adapter), tmp_path / "adapter", registry=world.registry, format="adapter")
    folders = [tmp_path / name for name in ("aligned", "local", "adapter")]
    for file in [file for folder in folders for file in folder.iterdir()]:
        content = file.read_bytes()
        assert str(tmp_path).encode() not in content, file
        assert str(world.base_folder.parent).encode() not in content, file


def test_an_earlier_export_is_replaced(world, tmp_path):
    target = tmp_path / "aligned"
    export_model("tiny/sft", target, registry=world.registry)
    export_model("tiny/policy", target, registry=world.registry)
    assert json.loads((target / "export.json").read_text())["ref"] == "tiny/policy@v1"
    assert torch.allclose(logits(target), world.policy_logits, atol=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["aligned"]


def test_what_is_no_earlier_export_is_left_alone(world, tmp_path):
    thesis = tmp_path / "mine" / "thesis.txt"
    thesis.parent.mkdir()
    thesis.write_text("years of work")
    with pytest.raises(UserError, match="is not empty and holds no earlier export"):
        export_model("tiny/sft", thesis.parent, registry=world.registry)
    assert thesis.read_text() == "years of work"
    export_model("tiny/sft", thesis.parent, registry=world.registry, overwrite=True)
    assert not thesis.exists()


def test_folders_that_must_stay_are_never_replaced(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    registry = world.registry
    for target, says in [
        (tmp_path, "would replace"),
        (registry.home.parent, "would replace"),
        (registry.home, "would replace"),
        (registry.home / "objects" / "new", "which is the registry"),
    ]:
        with pytest.raises(UserError, match=says):
            export_model("tiny/sft", target, registry=registry, overwrite=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file; name a folder"):
        export_model("tiny/sft", tmp_path / "file", registry=registry, overwrite=True)


@pytest.mark.parametrize(
    ("ref", "options", "says"),
    [
        ("tiny/polcy", {}, "tiny/polcy"),
        ("tiny/eval", {}, "is of kind report"),
        ("base/tiny", {"format": "adapter"}, "is a whole model, without an adapter; export it as merged"),
        ("tiny/sft", {"format": "adapter", "dtype": "float16"}, "an adapter is exported as it is stored"),
    ],
)
def test_what_cannot_be_exported_leaves_nothing(world, tmp_path, ref, options, says):
    with pytest.raises(UserError, match=says):
        export_model(ref, tmp_path / "out", registry=world.registry, **options)
    assert not list(tmp_path.iterdir())


def test_an_error_on_the_way_leaves_the_earlier_export(world, tmp_path, monkeypatch):
    export_model("tiny/sft", tmp_path / "out", registry=world.registry)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr("rlhf.export.export.model_card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_model("tiny/policy", tmp_path / "out", registry=world.registry)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


KILLED = """
import os, signal, sys
from pathlib import Path
from rlhf.export.folders import replaced
with replaced(Path(sys.argv[1])) as folder:
    (folder / "model.safetensors").write_bytes(b"half a mod")
    (folder / "sub").mkdir()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("earlier", [False, True])
def test_a_killed_export_leaves_no_half_folder(world, tmp_path, earlier):
    target = tmp_path / "aligned"
    if earlier:
        export_model("tiny/sft", target, registry=world.registry)
    code = textwrap.dedent(KILLED)
    died = subprocess.run([sys.executable, "-c", code, str(target)], cwd=Path(__file__).parents[2])
    assert died.returncode == -signal.SIGKILL
    assert target.exists() == earlier
    if earlier:
        assert json.loads((target / "export.json").read_text())["ref"] == "tiny/sft@v1"
    export_model("tiny/policy", target, registry=world.registry)
    assert torch.allclose(logits(target), world.policy_logits, atol=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["aligned"]


def test_without_an_exchange_of_names_the_folder_is_replaced_too(tmp_path, monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: object())
    target = tmp_path / "out"
    for content in ("one", "two"):
        with replaced(target) as folder:
            (folder / "file").write_text(content)
    assert (target / "file").read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_two_exports_to_one_place_do_not_mix(tmp_path):
    with replaced(tmp_path / "out") as folder:
        with pytest.raises(UserError, match="another process is exporting to it"), replaced(tmp_path / "out"):
            pass
        (folder / "file").write_text("first")
    assert (tmp_path / "out" / "file").read_text() == "first"
