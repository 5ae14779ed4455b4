"""`train_dpo` on tiny models: what people preferred is learned, from log 2 on, and what goes wrong is said in time."""

import json
import math
import random
import signal

import pytest
import torch
from tiny import tiny_model

from rlhf import checkpoint
from rlhf.config import load_config
from rlhf.dpo.data import to_dataset, to_pairs
from rlhf.dpo.stage import train_dpo
from rlhf.dpo.stage_config import DPOStageConfig
from rlhf.dpo.trainer import PairWeightedDPOTrainer
from rlhf.errors import Interrupted, StoppedByMonitor, UserError
from rlhf.modeling import find_model, load_causal_lm, load_tokenizer
from rlhf.records import Preference, Ranking, write_jsonl
from rlhf.scoring import RewardModelScorer
from rlhf.tracking import read_metrics
from rlhf.training import StopOnSignal
from rlhf.workspace import Workspace

TEXT = """
model: {ref: MODEL}
data: {sources: [{path: pairs.jsonl}], dev_fraction: 0.25}
trainer:
  num_train_epochs: 2
  per_device_train_batch_size: 8
  learning_rate: 1e-2
  activation_checkpointing: false
  logging_steps: 1
output: {name: tiny/policy, alias: candidate}
tracking: {wandb: off}
"""


def preferences(number=48):
    """Small letters are preferred to capital ones."""
    draw = random.Random(5)
    words = ["".join(draw.choices("abcdefgh", k=5)) for _ in range(number)]
    return [{"prompt": f"Q{n}: ", "chosen": word, "rejected": word.upper()} for n, word in enumerate(words)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "causal": tiny_model(folder / "causal", seed=3),
        "chat": tiny_model(folder / "chat", chat=True),
        "reward": tiny_model(folder / "reward", "reward"),
        "scores_chat": tiny_model(folder / "scores_chat", "reward", chat=True),
    }


@pytest.fixture
def dpo(tmp_path, models, monkeypatch):
    workspace = Workspace.open(tmp_path / "home", progress=False)

    def run(*overrides, rows=None, model="causal", run_id=None, report=False):
        if not report:
            monkeypatch.setattr(Workspace, "write_report", lambda *_: None)
        write_jsonl(tmp_path / "pairs.jsonl", preferences() if rows is None else rows)
        (tmp_path / "dpo.yaml").write_text(TEXT.replace("MODEL", str(models[model])))
        config = load_config(tmp_path / "dpo.yaml", DPOStageConfig, overrides)
        return train_dpo(config, workspace.within(run_id=run_id))

    run.workspace = workspace
    run.folder = tmp_path
    return run


def problem_of(dpo, *args, **kwargs):
    with pytest.raises(UserError) as caught:
        dpo(*args, **kwargs)
    assert all("\n" not in problem for problem in caught.value.problems)
    assert dpo.workspace.registry.artefacts() == []
    return " | ".join(caught.value.problems)


def losses(dpo, summary):
    return [row["loss"] for row in read_metrics(dpo.workspace.home / "runs" / summary["run"]) if "loss" in row]


def test_what_is_preferred_is_learned_from_log_2_on(dpo, models):
    summary = dpo("trainer.eval_on_start=true", report=True)
    assert summary["artefact"] == "tiny/policy@v1" and summary["status"] == "done"
    rows = read_metrics(dpo.workspace.home / "runs" / summary["run"])
    before = next(row for row in rows if "eval_loss" in row)
    assert before["step"] == 0 and before["eval_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert losses(dpo, summary)[0] == pytest.approx(math.log(2), abs=1e-6)
    assert summary["accuracy"] > 0.9 and summary["eval_loss"] < 0.5
    low, high = summary["accuracy_ci"]
    assert low <= summary["accuracy"] <= high
    assert summary["num_train_pairs"] + summary["num_pairs"] == 48
    last = [row for row in rows if "eval_rewards/accuracies" in row][-1]
    assert last["eval_rewards/accuracies"] == pytest.approx(summary["accuracy"])
    assert last["eval_rewards/margins"] == pytest.approx(summary["margin"], rel=1e-4)

    registry = dpo.workspace.registry
    artefact = registry.resolve("tiny/policy@candidate", kinds=["policy"])
    assert [parent.role for parent in artefact.parents] == ["base", "preferences"]
    assert artefact.metadata["method"] == "dpo"
    before_, after = (
        load_causal_lm(find_model(ref, registry)).lm_head.weight for ref in (str(models["causal"]), artefact.ref)
    )
    assert not torch.equal(before_, after)
    assert "tiny/policy@v1" in (dpo.workspace.home / "runs" / summary["run"] / "report.html").read_text()


def test_all_pairs_of_a_ranking_are_learned_from_and_weights_are_said_not_to_be_heard(dpo, caplog):
    rows = [
        {"prompt": f"Q{n}", "completions": ["aa", "bb", "CC", "DD"], "tiers": [[0], [1, 2], [3]], "annotator": "ana"}
        for n in range(15)
    ]
    rows.append({"prompt": "Q15", "chosen": "a", "rejected": "B", "margin": 2.0})
    summary = dpo("data.dev_fraction=0", "trainer.max_steps=1", rows=rows)
    assert summary["num_train_pairs"] == 15 * 5 + 1
    assert "the pairs weigh between 0.167 and 1, and DPO's loss counts every pair alike" in caplog.text
    assert "1 of 76 pairs have a margin, which DPO's loss does not read" in caplog.text
    registry = dpo.workspace.registry
    judged = registry.resolve("tiny/policy-data", kinds=["preferences"])
    assert judged.metadata["annotators"] == [{"name": "ana", "num_judgements": 15}]


def test_rankings_without_an_order_are_counted_and_said(dpo, caplog):
    ties = [{"prompt": f"T{n}", "completions": ["aa", "bb"], "tiers": [[0, 1]]} for n in range(3)]
    summary = dpo("data.dev_fraction=0", "trainer.max_steps=1", rows=[*preferences(8), *ties])
    assert (summary["num_train_pairs"], summary["num_without_order"]) == (8, 3)
    assert "3 rankings place no completion above another one, and were left out" in caplog.text


def test_with_lora_the_reference_is_the_base_and_the_policy_an_adapter_on_it(dpo, models):
    registry = dpo.workspace.registry
    registry.publish(models["causal"], kind="sft", name="tiny/sft")
    summary = dpo("model={ref: tiny/sft, adapter: {r: 4}}", "trainer.learning_rate=5e-2")
    assert losses(dpo, summary)[0] == pytest.approx(math.log(2), abs=1e-6)
    assert summary["accuracy"] > 0.9
    source = find_model("tiny/policy", registry, kinds=["policy"])
    assert source.is_adapter and source.base.ref == "tiny/sft@v1"
    assert [path.name for path in source.folder.glob("**/adapter_config.json")] == ["adapter_config.json"]
    load_causal_lm(source)
    # an adapter is gone on from as the whole model that it is: the reference has it too
    again = dpo("model.ref=tiny/policy", "output.name=tiny/again", "trainer.max_steps=2")
    assert losses(dpo, again)[0] == pytest.approx(math.log(2), abs=1e-6)
    from rlhf.export.export import export_model

    export_model("tiny/policy", dpo.folder / "out", registry=registry)
    card = (dpo.folder / "out" / "README.md").read_text()
    assert "with DPO" in card and "- dpo" in card and "PPO" not in card


def break_off(dpo, monkeypatch, *overrides, step):
    """A run that gets a signal at this step."""
    original = StopOnSignal.on_step_end

    def at_that_step(self, args, state, control, **kwargs):
        if state.global_step == step:
            self._note(signal.SIGTERM, None)
        return original(self, args, state, control, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(StopOnSignal, "on_step_end", at_that_step)
        with pytest.raises(Interrupted, match=f"at step {step}"):
            dpo(*overrides, run_id="broken-off")
    return dpo.workspace.home / "runs" / "broken-off"


@pytest.mark.parametrize("adapter", [(), ("model.adapter={r: 4}",)], ids=["whole", "LoRA"])
def test_a_run_that_is_resumed_is_the_run_that_was_not_interrupted(dpo, monkeypatch, adapter):
    whole = dpo(*adapter)
    again = (*adapter, "output.name=tiny/again")
    run = break_off(dpo, monkeypatch, *again, step=6)
    assert json.loads((run / "summary.json").read_text())["status"] == "interrupted"
    assert checkpoint.latest_intact(run / "checkpoints").name == "checkpoint-6"
    resumed = dpo(*again, run_id="broken-off")
    assert {key: resumed[key] for key in ("eval_loss", "accuracy", "train_loss")} == {
        key: whole[key] for key in ("eval_loss", "accuracy", "train_loss")
    }
    registry = dpo.workspace.registry
    assert registry.resolve("tiny/policy").digest == registry.resolve("tiny/again").digest


@pytest.mark.parametrize("chat", [False, True])
def test_texts_are_read_as_the_reward_stage_reads_them(models, chat):
    prompt = [{"role": "user", "content": "Hi"}] if chat else "Hi "
    pairs, _ = to_pairs(
        [
            Preference(prompt=prompt, chosen="good", rejected="bad"),
            Ranking(prompt=prompt, completions=["one</s>", "two"], tiers=[[0], [1]]),
        ]
    )
    source = find_model(str(models["chat" if chat else "causal"]), None)
    tokenizer = load_tokenizer(source)
    reads = RewardModelScorer(load_scorer(models["scores_chat" if chat else "reward"]), tokenizer)
    rows = PairWeightedDPOTrainer._prepare_dataset(
        _bare(tokenizer), to_dataset(pairs, tokenizer), tokenizer, _bare(tokenizer).args, "train"
    )
    for row, pair in zip(rows, pairs, strict=True):
        told = prompt
        for side in ("chosen", "rejected"):
            assert row["prompt_ids"] + row[f"{side}_ids"] == reads.encode(told, getattr(pair, side))


def load_scorer(folder):
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(folder)


def _bare(tokenizer):
    from types import SimpleNamespace

    args = SimpleNamespace(dataset_num_proc=None, max_length=None, truncation_mode="keep_start")
    return SimpleNamespace(_tokenizer=tokenizer, args=args)


def test_conversations_are_trained_on_and_what_is_cut_is_counted(dpo, caplog):
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Q{n}"}],
            "chosen": "yes" * (1 + 20 * (n == 3)),
            "rejected": [{"role": "assistant", "content": "no"}],
        }
        for n in range(12)
    ]
    summary = dpo("trainer.max_length=60", "data.dev_fraction=0", "trainer.max_steps=1", rows=rows, model="chat")
    assert summary["num_truncated"] == 1
    rows = [*preferences(), {"prompt": "x" * 95, "chosen": "a", "rejected": "b"}]
    summary = dpo("data.dev_fraction=0", "trainer.max_steps=1", rows=rows, run_id="dropped")
    assert summary["num_train_pairs"] == 49 and summary["num_truncated"] == 2
    rows[-1]["prompt"] = "x" * 96
    summary = dpo("data.dev_fraction=0", "trainer.max_steps=1", rows=rows, run_id="dropped-2")
    assert summary["num_train_pairs"] == 48 and "1 of 49 pairs left out: the prompt alone fills" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "what"),
    [
        (["model.ref=tiny/gone"], "model.ref = 'tiny/gone': not in the registry"),
        (["trainer.beta=much"], "trainer.beta = 'much': expected float"),
        (["trainer.bta=0.1"], "trainer.bta = 0.1: unknown key; did you mean trainer.beta?"),
        (["trainer.loss_type=[sigmod]"], "trainer.loss_type = ['sigmod']: expected one of sigmoid, hinge, ipo"),
        (["trainer.truncation_mode=keep_ends"], "expected one of keep_start, keep_end; did you mean keep_end"),
        (["trainer.max_length=200"], "trainer.max_length = 200: "),
        (["model.dropout=0.1"], "model.dropout = 0.1: DPOConfig takes all dropout out of the model"),
        (["early_stopping={}", "data.dev_fraction=0"], "early_stopping: there are no held-out rows"),
        (["trainer.pad_token=x"], "trainer.pad_token = 'x': is not set here"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_published(dpo, overrides, what):
    assert what in problem_of(dpo, *overrides)


def test_data_that_cannot_be_compared_is_named(dpo):
    tied = [{"prompt": f"Q{n}", "completions": ["a", "b"], "tiers": [[0, 1]]} for n in range(4)]
    assert "places one completion above another" in problem_of(dpo, rows=tied)
    chats = [{"prompt": [{"role": "user", "content": "Q"}], "chosen": "a", "rejected": "b"}]
    assert "has no chat template" in problem_of(dpo, "data.dev_fraction=0", rows=chats)
    assert "are mixed" in problem_of(dpo, "data.dev_fraction=0", rows=[*chats, *preferences(4)], model="chat")
    one, two = ([{"role": "user", "content": text}] for text in ("x", "y"))
    answer = [{"role": "assistant", "content": "a"}]
    turns = [{"prompt": one, "chosen": [*answer, *one, *answer], "rejected": [*answer, *two, *answer]}]
    assert "come after different turns" in problem_of(dpo, "data.dev_fraction=0", rows=turns, model="chat")


def test_a_loss_that_is_no_number_stops_training_and_the_last_good_policy_is_published(dpo, monkeypatch):
    original = PairWeightedDPOTrainer.compute_loss

    def broken(self, *args, **kwargs):
        loss = original(self, *args, **kwargs)
        return loss * math.nan if self.model.training and self.state.global_step == 6 and not stopped else loss

    stopped = []
    monkeypatch.setattr(PairWeightedDPOTrainer, "compute_loss", broken)
    noted = StoppedByMonitor.__init__
    monkeypatch.setattr(
        StoppedByMonitor, "__init__", lambda self, *args: (stopped.append(1), noted(self, *args))[1], raising=False
    )
    with pytest.raises(StoppedByMonitor, match="step 7: the largest gradient is nan"):
        dpo("trainer.save_steps=2")
    artefact = dpo.workspace.registry.resolve("tiny/policy-stopped", kinds=["policy"])
    assert "weights of checkpoint-6" in artefact.metadata["stopped"]
