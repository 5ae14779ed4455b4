"""`train_sft` on tiny models, from the config to the artefact."""

import json
import signal

import pytest
import torch
from safetensors.torch import load_file
from tiny import CHAT_TEMPLATE, CONTEXT, tiny_model
from transformers import AutoModelForCausalLM

from rlhf import checkpoint
from rlhf.config import load_config
from rlhf.errors import Interrupted, StoppedByMonitor, UserError
from rlhf.modeling import find_model, load_causal_lm, load_tokenizer
from rlhf.records import write_jsonl
from rlhf.tracking import read_metrics
from rlhf.training import StopOnSignal
from rlhf.workspace import Workspace
from sft.config import SFTStageConfig
from sft.train import SFTTrainer, train_sft

ROWS = [{"prompt": f"Say {n}:", "completion": " " + "ab" * (4 + n % 3)} for n in range(32)]
TEXT = """
model: {ref: ./base}
data: {sources: [{path: rows.jsonl}], dev_fraction: 0.25}
trainer:
  num_train_epochs: 3
  per_device_train_batch_size: 4
  learning_rate: 1e-2
  gradient_checkpointing: false
  logging_steps: 2
output: {name: tiny/sft, alias: best}
tracking: {wandb: off}
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {"base": tiny_model(folder / "base"), "chat": tiny_model(folder / "chat", chat=True)}


@pytest.fixture
def sft(tmp_path, models):
    """Runs the stage on `rows` with overrides as on the command line; returns its summary and the workspace."""
    workspace = Workspace.open(tmp_path / "home", progress=False)

    def run(*overrides, rows=ROWS, model="base", run_id=None):
        write_jsonl(tmp_path / "rows.jsonl", rows)
        (tmp_path / "sft.yaml").write_text(TEXT.replace("./base", str(models[model])))
        config = load_config(tmp_path / "sft.yaml", SFTStageConfig, overrides)
        return train_sft(config, workspace.within(run_id=run_id))

    run.workspace = workspace
    return run


def problem_of(sft, *overrides, **kwargs):
    with pytest.raises(UserError) as caught:
        sft(*overrides, **kwargs)
    (problem,) = caught.value.problems
    assert "\n" not in problem
    assert sft.workspace.registry.artefacts() == []
    assert not list((sft.workspace.home / "objects").glob("*"))
    return problem


def test_from_a_file_to_an_artefact(sft):
    summary = sft()
    assert summary["status"] == "done" and summary["artefact"] == "tiny/sft@v1"
    assert summary["eval_loss"] < summary["eval_loss_before"] - 1
    assert summary["perplexity"] == pytest.approx(torch.tensor(summary["eval_loss"]).exp().item(), rel=1e-4)
    assert summary["token_accuracy"] > 0.3
    assert summary["num_train"] + summary["num_dev"] == 32 and summary["num_dev"] > 0

    run = sft.workspace.home / "runs" / summary["run"]
    assert json.loads((run / "summary.json").read_text()) == summary
    rows = read_metrics(run)
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) >= 4 and losses[-1] < losses[0] - 1
    assert all({"time", "stage", "step"} <= set(row) for row in rows)
    assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)
    assert [row["held_out/eval_loss"] for row in rows if "held_out/eval_loss" in row][-1] == pytest.approx(
        summary["eval_loss"], abs=1e-5
    )
    page = (run / "report.html").read_text()
    assert "tiny/sft@v1" in page and "base/base@v1" in page
    assert list((run / "curves").glob("*.png"))
    assert not (run / "checkpoints").exists()

    registry = sft.workspace.registry
    artefact = registry.resolve("tiny/sft@best", kinds=["sft"])
    assert [(parent.role, parent.ref) for parent in artefact.parents] == [
        ("base", "base/base@v1"),
        ("data", "tiny/sft-data@v1"),
    ]
    assert artefact.metadata["metrics"]["eval_loss"] == pytest.approx(summary["eval_loss"], rel=1e-4)
    assert artefact.run_id == summary["run"]
    data = registry.open("tiny/sft-data")
    num_rows = {name: len((data / f"{name}.jsonl").read_text().splitlines()) for name in ("train", "dev")}
    assert num_rows == {"train": summary["num_train"], "dev": summary["num_dev"]}
    assert AutoModelForCausalLM.from_pretrained(artefact.path).config.vocab_size == 258
    assert {path.suffix for path in artefact.path.iterdir() if path.is_file()} <= {".json", ".safetensors", ".jinja"}


def test_the_same_seed_gives_the_same_weights(sft, models):
    def weights(summary):
        return load_causal_lm(find_model(summary["artefact"], sft.workspace.registry)).state_dict()

    short = "trainer.max_steps=2"
    first, second = weights(sft("seed=3", short)), weights(sft("seed=3", short, "output.name=tiny/again"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = weights(sft("seed=4", short, "output.name=tiny/other"))
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_with_lora_the_artefact_is_an_adapter_on_the_base(sft, models):
    summary = sft("model.adapter={r: 4}", "trainer.learning_rate=5e-2")
    assert summary["eval_loss"] < summary["eval_loss_before"]
    source = find_model("tiny/sft", sft.workspace.registry)
    assert source.is_adapter and source.base.ref == "base/base@v1"
    assert source.artefact.metadata["base_digest"] == source.base.artefact.digest
    assert not (source.folder / "model.safetensors").exists()


def test_a_stage_can_start_from_an_artefact(sft):
    sft("trainer.max_steps=1")
    summary = sft("model.ref=tiny/sft@best", "output={name: tiny/second}", "trainer.max_steps=1")
    artefact = sft.workspace.registry.resolve(summary["artefact"])
    assert artefact.parents[0].ref == "tiny/sft@v1"


def test_plain_text_and_packing(sft):
    rows = [{"text": f"once {n} upon a time"} for n in range(32)]
    whole = sft("trainer.num_train_epochs=1", rows=rows)
    packed = sft("trainer.packing=true", "trainer.num_train_epochs=1", "trainer.max_length=64", rows=rows)
    steps = [
        max(row["step"] for row in read_metrics(sft.workspace.home / "runs" / one["run"])) for one in (whole, packed)
    ]
    assert steps[1] < steps[0]
    assert packed["eval_loss"] < packed["eval_loss_before"]


def test_conversations_go_through_the_chat_template(sft, monkeypatch):
    seen = capture_batches(monkeypatch)
    rows = [
        {"messages": [{"role": "user", "content": f"Q{n}"}, {"role": "assistant", "content": "abab"}]}
        for n in range(16)
    ]
    summary = sft("trainer.num_train_epochs=1", "data.dev_fraction=0", rows=rows, model="chat")
    assert "eval_loss" not in summary and summary["num_dev"] == 0
    tokenizer, batch = seen[0]
    assert tokenizer.decode(batch["input_ids"][0]).startswith("<user>Q")
    folder = find_model("tiny/sft", sft.workspace.registry).folder
    text = (folder / "chat_template.jinja").read_text() if (folder / "chat_template.jinja").exists() else ""
    assert CHAT_TEMPLATE in text or CHAT_TEMPLATE in json.loads((folder / "tokenizer_config.json").read_text()).get(
        "chat_template", ""
    )


def capture_batches(monkeypatch):
    from trl import SFTTrainer

    seen = []
    original = SFTTrainer.compute_loss

    def compute_loss(self, model, inputs, **kwargs):
        seen.append((self.processing_class, {name: value.clone() for name, value in inputs.items()}))
        return original(self, model, inputs, **kwargs)

    monkeypatch.setattr(SFTTrainer, "compute_loss", compute_loss)
    return seen


@pytest.mark.parametrize(
    ("row", "model", "learned"),
    [
        ({"prompt": "Say:", "completion": " yes"}, "base", " yes</s>"),
        (
            {"prompt": [{"role": "user", "content": "Hi"}], "completion": [{"role": "assistant", "content": "yes"}]},
            "chat",
            "yes</s>",
        ),
        ({"text": "all of it"}, "base", "all of it</s>"),
    ],
    ids=["completion", "conversation", "text"],
)
def test_only_the_completion_is_learned(sft, monkeypatch, row, model, learned):
    seen = capture_batches(monkeypatch)
    sft("trainer.max_steps=1", "data.dev_fraction=0", "data.cleaning.dedupe=none", rows=[row] * 4, model=model)
    tokenizer, batch = seen[0]
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        counted = labels != -100
        assert torch.equal(ids[counted], labels[counted])
        assert tokenizer.decode(labels[counted]).strip() == learned.strip()


def test_checkpoints_that_are_asked_for_are_kept(sft):
    summary = sft("trainer.save_total_limit=3", "trainer.save_steps=4", "trainer.max_steps=16")
    saved = checkpoint.checkpoints(sft.workspace.home / "runs" / summary["run"] / "checkpoints")
    assert [folder.name for folder in saved] == ["checkpoint-8", "checkpoint-12", "checkpoint-16"]
    for folder in saved:
        checkpoint.verify(folder)


def test_early_stopping_goes_back_to_the_best_weights(sft):
    keep = "trainer.save_total_limit=2"
    summary = sft("early_stopping={patience: 1}", "trainer.num_train_epochs=30", "trainer.learning_rate=0.3", keep)
    run = sft.workspace.home / "runs" / summary["run"]
    evaluated = {row["step"]: row["eval_loss"] for row in read_metrics(run) if "eval_runtime" in row}
    best = min(evaluated, key=evaluated.__getitem__)
    assert len(evaluated) < 30 and best != max(evaluated)
    saved = load_file(run / "checkpoints" / f"checkpoint-{best}" / "model.safetensors")
    published = load_file(sft.workspace.registry.resolve("tiny/sft").path / "model.safetensors")
    assert all(torch.equal(published[name], saved[name]) for name in saved)


def test_a_bad_row_among_good_ones_is_set_aside_and_said(sft, caplog):
    summary = sft("trainer.num_train_epochs=1", rows=[*ROWS, {"completion": "no prompt"}])
    assert summary["num_set_aside"] == 1 and summary["num_train"] + summary["num_dev"] == 32
    run = sft.workspace.home / "runs" / summary["run"]
    (problem,) = [json.loads(line) for line in (run / "set_aside.jsonl").read_text().splitlines()]
    assert problem["line"] == 33 and problem["path"].endswith("rows.jsonl")


@pytest.mark.parametrize(
    ("overrides", "what"),
    [
        (["trainer.max_length=97"], f"trainer.max_length = 97: .*reads at most {CONTEXT} tokens"),
        (["trainer.max_length=6"], "every prompt alone fills trainer.max_length = 6 tokens"),
        (["early_stopping={}", "data.dev_fraction=0"], "early_stopping: there are no held-out rows"),
        (["model.ref=tiny/gone"], "model.ref = 'tiny/gone': not in the registry"),
        (["data.sources.0.path=./gone.jsonl"], r"gone\.jsonl: "),
        (["trainer.num_train_epochs=0"], "trainer.num_train_epochs = 0: trains no step"),
        (["output.alias=latest"], "output.alias = 'latest': always stands at the newest version"),
        (["trainer.gradient_accumulation_steps=0"], "trainer.gradient_accumulation_steps = 0: expected at least 1"),
        (["trainer.learning_rate=-1"], "trainer.learning_rate = -1: expected at least 0"),
        (["trainer.learning_rate=.nan"], "trainer.learning_rate = nan: expected at least 0"),
        (["trainer.chat_template_path=./gone.jinja"], "chat_template_path = .*gone.jinja': no such file"),
        (["trainer.eval_strategy=steps", "data.dev_fraction=0"], "trainer.eval_strategy = 'steps'"),
        (["trainer.eval_strategy=epoch", "data.dev_fraction=1e-9"], "trainer.eval_strategy = 'epoch'"),
        (["trainer.lr_scheduler_type=nothing"], "lr_scheduler_type"),
        (["trainer.optim=no_such"], "optim"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_published(sft, overrides, what):
    import re

    assert re.search(what, problem_of(sft, *overrides))


LONG = [{"prompt": f"{n}" * 200, "completion": "c"} for n in range(3)]


def test_held_out_rows_without_anything_to_predict_are_said(sft, tmp_path, caplog):
    held_out = ("data.dev_fraction=0", f"data.dev=[{{path: {tmp_path}/dev.jsonl}}]", "trainer.max_steps=1")
    write_jsonl(tmp_path / "dev.jsonl", LONG)
    problem = problem_of(sft, *held_out)
    assert problem.startswith(f"data: every held-out prompt alone fills trainer.max_length = {CONTEXT} tokens")
    write_jsonl(tmp_path / "dev.jsonl", [*LONG, {"prompt": "p", "completion": "c"}])
    assert sft(*held_out)["eval_loss"] > 1
    assert f"3 of 4 held-out rows left out: the prompt alone fills max_length = {CONTEXT}" in caplog.text


@pytest.mark.parametrize(("overrides", "longest"), [([], CONTEXT), (["trainer.max_length=null"], CONTEXT)])
def test_no_text_is_longer_than_the_context(sft, overrides, longest, monkeypatch):
    seen = []
    original = SFTTrainer.compute_loss

    def compute_loss(self, model, inputs, **kwargs):
        seen.append(inputs["input_ids"].shape[1])
        return original(self, model, inputs, **kwargs)

    monkeypatch.setattr(SFTTrainer, "compute_loss", compute_loss)
    rows = [{"prompt": f"p{n}", "completion": "c" * 300} for n in range(4)]
    sft(*overrides, "trainer.max_steps=1", "data.dev_fraction=0", rows=rows)
    assert max(seen) == longest


def test_too_few_rows_to_hold_one_out_is_no_error(sft):
    summary = sft("data.dev_fraction=1e-9", "trainer.num_train_epochs=1")
    assert summary["num_dev"] == 0 and "eval_loss" not in summary


def test_early_stopping_with_nothing_held_out_after_all(sft):
    assert "early_stopping: there are no held-out rows" in problem_of(
        sft, "data.dev_fraction=1e-9", "early_stopping={}"
    )


OTHER_TEMPLATE = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"


def test_a_second_chat_template_is_refused_and_the_same_one_is_not(sft, tmp_path, models):
    rows = [
        {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": f"{n}"}]} for n in range(8)
    ]
    (tmp_path / "other.jinja").write_text(OTHER_TEMPLATE)
    (tmp_path / "same.jinja").write_text(CHAT_TEMPLATE)
    key = "trainer.chat_template_path"
    problem = problem_of(sft, f"{key}={tmp_path}/other.jinja", rows=rows, model="chat")
    assert problem.startswith(f"{key} = ") and "has a chat template of its own, and they differ" in problem
    fast = ("trainer.max_steps=1", "data.dev_fraction=0")
    assert sft(f"{key}={tmp_path}/same.jinja", *fast, rows=rows, model="chat")["status"] == "done"
    assert sft(f"{key}={tmp_path}/other.jinja", *fast, rows=rows)["status"] == "done"
    assert load_tokenizer(find_model("tiny/sft", sft.workspace.registry)).chat_template == OTHER_TEMPLATE
    assert sft(f"{key}={models['chat']}", *fast, rows=rows)["status"] == "done"
    assert load_tokenizer(find_model("tiny/sft", sft.workspace.registry)).chat_template == CHAT_TEMPLATE


def break_off(sft, monkeypatch, *overrides, step):
    """A run that gets a signal at this step."""
    original = StopOnSignal.on_step_end

    def at_that_step(self, args, state, control, **kwargs):
        if state.global_step == step:
            self._note(signal.SIGTERM, None)
        return original(self, args, state, control, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(StopOnSignal, "on_step_end", at_that_step)
        with pytest.raises(Interrupted, match=f"at step {step}"):
            sft(*overrides, run_id="broken-off")
    return sft.workspace.home / "runs" / "broken-off"


def test_a_run_that_is_resumed_is_the_run_that_was_not_interrupted(sft, monkeypatch):
    whole = sft("trainer.num_train_epochs=2")
    again = ("trainer.num_train_epochs=2", "output.name=tiny/again")
    run = break_off(sft, monkeypatch, *again, step=7)
    assert [artefact.ref for artefact in sft.workspace.registry.artefacts("tiny/again")] == []
    assert json.loads((run / "summary.json").read_text())["status"] == "interrupted"
    assert checkpoint.latest_intact(run / "checkpoints").name == "checkpoint-7"
    resumed = sft(*again, run_id="broken-off")
    assert resumed["eval_loss"] == whole["eval_loss"] and resumed["eval_loss_before"] == whole["eval_loss_before"]
    # what was not logged yet when it broke off, one step of two, is not in the mean
    assert resumed["train_loss"] == pytest.approx(whole["train_loss"], rel=0.01)
    steps = [row["step"] for row in read_metrics(run) if "loss" in row]
    assert steps == sorted(set(steps))
    registry = sft.workspace.registry
    assert registry.resolve("tiny/sft").digest == registry.resolve("tiny/again").digest


def test_early_stopping_that_is_resumed_has_not_forgotten_how_long_it_has_waited(sft, monkeypatch):
    options = ("early_stopping={patience: 2}", "trainer.num_train_epochs=30", "trainer.learning_rate=0.3")

    def evaluated(run_id):
        rows = read_metrics(sft.workspace.home / "runs" / run_id)
        return [(row["step"], row["eval_loss"]) for row in rows if "eval_runtime" in row]

    sft(*options, run_id="whole")
    steps = [step for step, _ in evaluated("whole")]
    break_off(sft, monkeypatch, *options, "output.name=tiny/again", step=steps[-2] + 1)  # one in vain, one to go
    sft(*options, "output.name=tiny/again", run_id="broken-off")
    assert evaluated("broken-off") == evaluated("whole")
    registry = sft.workspace.registry
    assert registry.resolve("tiny/sft").digest == registry.resolve("tiny/again").digest


def summary_of(sft, run_id):
    return json.loads((sft.workspace.home / "runs" / run_id / "summary.json").read_text())


def test_weights_that_run_off_are_not_published(sft):
    sft("trainer.max_steps=1")
    for steps in ("trainer.max_steps=4", "trainer.max_steps=1", "trainer.max_steps=1 data.dev_fraction=0"):
        run_id = f"run-{steps.replace(' ', '-').replace('=', '')}"
        with pytest.raises(StoppedByMonitor, match=r"is (nan|inf): .* lower trainer\.learning_rate"):
            sft("trainer.learning_rate=1e30", *steps.split(), run_id=run_id)
        summary = summary_of(sft, run_id)
        assert summary["status"] == "stopped" and "artefact" not in summary  # every checkpoint was ruined
    names = [artefact.ref for artefact in sft.workspace.registry.artefacts("tiny/")]
    assert names == ["tiny/sft@v1", "tiny/sft-data@v1"]


def test_the_last_good_weights_are_published_under_a_name_of_their_own(sft, monkeypatch):
    original = SFTTrainer.compute_loss

    def compute_loss(self, model, inputs, **kwargs):
        loss = original(self, model, inputs, **kwargs)
        return loss * float("nan") if self.state.global_step >= 7 and torch.is_grad_enabled() else loss

    monkeypatch.setattr(SFTTrainer, "compute_loss", compute_loss)
    with pytest.raises(StoppedByMonitor, match="step 8: the largest gradient is nan"):
        sft("trainer.save_steps=3", "trainer.save_total_limit=3", run_id="stopped")
    summary = summary_of(sft, "stopped")
    assert summary["artefact"] == "tiny/sft-stopped@v1" and summary["num_steps"] == 7
    registry = sft.workspace.registry
    artefact = registry.resolve("tiny/sft-stopped")
    assert artefact.metadata["stopped"].endswith("(weights of checkpoint-6)") and artefact.aliases == ("latest",)
    assert registry.find("tiny/sft") is None
    folder = sft.workspace.home / "runs" / "stopped" / "checkpoints" / "checkpoint-6"
    saved, published = (load_file(path / "model.safetensors") for path in (folder, artefact.path))
    assert all(torch.equal(published[name], saved[name]) for name in saved)


def test_the_loss_before_and_after_is_measured_in_the_precision_of_training(sft):
    """With a learning rate of 0 nothing changes between the two."""
    still = ("trainer.learning_rate=0", "trainer.num_train_epochs=1")
    mixed = sft(*still, "trainer.bf16=true", "trainer.use_cpu=true")
    assert mixed["eval_loss_before"] == mixed["eval_loss"]
    assert mixed["eval_loss"] != sft(*still, "output.name=tiny/other")["eval_loss"]


def test_what_trl_refuses_is_one_line(sft):
    assert "trainer: " in problem_of(sft, "trainer.assistant_only_loss=true")


def test_stages_ask_for_one_process_before_they_look_at_anything(sft, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "WORLD_SIZE = 2" in problem_of(sft, "model.ref=not/there")


def test_weights_trained_in_16_bits_are_warned_of(sft, caplog):
    sft("model.dtype=bfloat16", "trainer.max_steps=1")
    assert "trainable weights are stored in 16 bits" in caplog.text


def test_evaluations_in_training_weigh_tokens_as_the_summary_does(sft):
    rows = [{"prompt": f"Say {n}:", "completion": " " + "ab" * (1 + n % 9)} for n in range(28)]
    settings = ("eval_strategy=epoch", "per_device_eval_batch_size=4", "num_train_epochs=1")
    summary = sft(*(f"trainer.{setting}" for setting in settings), rows=rows)
    metrics = read_metrics(sft.workspace.home / "runs" / summary["run"])
    last = [row for row in metrics if "eval_loss" in row][-1]
    assert last["eval_loss"] == pytest.approx(summary["eval_loss"], rel=1e-4)
    assert last["eval_mean_token_accuracy"] == pytest.approx(summary["token_accuracy"], rel=1e-4)
