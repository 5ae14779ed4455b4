"""Every kind of wrong input: one clear line, exit code 2, no traceback, nothing in the registry."""

import json

import pytest

from rlhf.registry import Registry

SFT = """
model: {ref: MODEL}
data: {sources: [{path: rows.jsonl}]}
trainer: {max_steps: 1, per_device_train_batch_size: 4, activation_checkpointing: false}
output: {name: tiny/sft, alias: best}
tracking: {wandb: off}
"""
REWARD = """
model: {ref: MODEL}
data: {sources: [{path: rows.jsonl}]}
trainer: {max_steps: 1, per_device_train_batch_size: 4, activation_checkpointing: false}
centre: {ref: MODEL, num_prompts: 4, max_new_tokens: 4}
output: {name: tiny/reward}
tracking: {wandb: off}
"""
PPO = """
model: {ref: MODEL}
reward: [{function: "judge_of_this_test.py:score"}]
data: {sources: [{path: rows.jsonl}]}
trainer: {total_episodes: 4, per_device_train_batch_size: 4, num_ppo_epochs: 1, response_length: 4,
          activation_checkpointing: false}
output: {name: tiny/policy, alias: best}
tracking: {wandb: off}
"""
GOOD = {
    "sft": [{"prompt": f"p{n}", "completion": "c"} for n in range(8)],
    "reward": [{"prompt": f"p{n}", "chosen": "good", "rejected": "bad"} for n in range(8)],
    "ppo": [{"prompt": f"p{n}"} for n in range(8)],
}
TEXTS = {"sft": SFT, "reward": REWARD, "ppo": PPO}
STAGES = ("sft", "reward", "ppo")


@pytest.fixture
def run(rlhf, write, models):
    """Runs a stage on its good rows, unless a test says otherwise."""

    def stage(name, *overrides, rows=None, text=None, model="causal"):
        write("rows.jsonl", GOOD[name] if rows is None else rows)
        write("judge_of_this_test.py", "def score(prompts, completions):\n    return [0.0] * len(prompts)\n")
        write("stage.yaml", (text or TEXTS[name]).replace("MODEL", str(models.get(model, model))))
        return rlhf(name, "stage.yaml", *overrides, "--json")

    return stage


@pytest.fixture
def refused(run, nothing_published):
    """Runs a stage that is to be refused; returns what was said, without `error: `."""

    def stage(*args, **kwargs):
        ended = run(*args, **kwargs)
        assert ended.code == 2, ended.err
        assert ended.out == "" and "Traceback" not in ended.err
        nothing_published()
        return [line.removeprefix("error: ") for line in ended.errors]

    return stage


@pytest.mark.parametrize("stage", STAGES)
def test_good_input_is_not_refused(run, stage):
    ended = run(stage)
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["status"] == "done"


@pytest.mark.parametrize("stage", STAGES)
def test_an_unknown_key(refused, stage):
    assert refused(stage, text=TEXTS[stage] + "modle: 1\n") == [
        "stage.yaml: modle = 1: unknown key; did you mean model?"
    ]
    assert refused(stage, "trainer.learning_rat=1") == [
        "command line: trainer.learning_rat = 1: unknown key; did you mean trainer.learning_rate?"
    ]


@pytest.mark.parametrize("stage", STAGES)
def test_a_wrong_type(refused, stage):
    assert refused(stage, "seed=x", "trainer.learning_rate=fast") == [
        "command line: seed = 'x': input should be a valid integer, unable to parse string as an integer",
        "command line: trainer.learning_rate = 'fast': expected float",
    ]


def test_a_missing_config(rlhf, write, nothing_published):
    write("stage.yaml", "a: 1\n")
    ended = rlhf("sft", "stag.yaml")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == "error: stag.yaml: no such file; did you mean stage.yaml?\n"
    nothing_published()


@pytest.mark.parametrize("stage", STAGES)
def test_missing_data(refused, stage, tmp_path):
    (problem,) = refused(stage, "data.sources.0.path=row.jsonl")
    assert str(tmp_path / "row.jsonl") in problem and "rows.jsonl" in problem


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("content", [b"", b"\n\n"], ids=["no bytes", "blank lines"])
def test_an_empty_data_set(refused, stage, content):
    (problem,) = refused(stage, rows=content)
    assert "rows.jsonl: is empty" in problem


BAD_ROWS = {
    "no prompt": ({"completion": "c", "chosen": "a", "rejected": "b"}, "prompt"),
    "empty prompt": ({"prompt": "  ", "completion": "c", "chosen": "a", "rejected": "b"}, "`prompt` is empty"),
    "not a text": ({"prompt": 5, "completion": "c", "chosen": "a", "rejected": "b"}, "`prompt`"),
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("case", BAD_ROWS)
def test_rows_without_a_prompt(refused, run, tmp_path, stage, case):
    row, what = BAD_ROWS[case]
    problems = refused(stage, rows=[row] * 3)
    assert "rows.jsonl: 3 of 3 rows cannot be used" in problems[0]
    assert any("rows.jsonl:1" in problem and what in problem for problem in problems)

    ended = run(stage, rows=[*GOOD[stage], row])
    assert ended.code == 0, ended.err
    summary = json.loads(ended.out)
    assert summary["num_set_aside"] == 1
    assert "1 rows set aside" in ended.err and "rows.jsonl:9" in " ".join(ended.err.split())
    (line,) = (tmp_path / "home" / "runs" / summary["run"] / "set_aside.jsonl").read_text().splitlines()
    assert json.loads(line)["line"] == 9 and what in json.loads(line)["what"]


@pytest.mark.parametrize("stage", STAGES)
def test_invalid_utf_8(refused, run, stage):
    bad = b'{"prompt": "caf\xe9"}\n'
    problems = refused(stage, rows=bad * 2)
    assert any("rows.jsonl:1: is not UTF-8 (byte 15 of the line)" in problem for problem in problems)
    good = "".join(json.dumps(row) + "\n" for row in GOOD[stage]).encode()
    ended = run(stage, rows=good + bad)
    assert ended.code == 0 and json.loads(ended.out)["num_set_aside"] == 1


def test_a_config_that_is_not_utf_8(rlhf, write, nothing_published):
    write("stage.yaml", b"model: caf\xe9\n")
    ended = rlhf("sft", "stage.yaml")
    assert (ended.code, ended.err) == (2, "error: stage.yaml: is not UTF-8 (byte 10); save it as UTF-8\n")
    nothing_published()


@pytest.mark.parametrize("label", ["weight", "margin"])
def test_a_label_that_is_not_a_number(refused, run, label):
    bad = f'{{"prompt": "p", "chosen": "a", "rejected": "b", "{label}": NaN}}\n'.encode()
    problems = refused("reward", rows=bad)
    assert any("rows.jsonl:1" in problem and f"`{label}`" in problem and "finite" in problem for problem in problems)
    good = "".join(json.dumps(row) + "\n" for row in GOOD["reward"]).encode()
    ended = run("reward", rows=good + bad)
    assert ended.code == 0 and json.loads(ended.out)["num_set_aside"] == 1


def test_a_prompt_longer_than_the_context(refused, run):
    long = "x" * 200
    (problem,) = refused("sft", rows=[{"prompt": long, "completion": "c"}] * 2)
    assert problem.startswith("data: every prompt alone fills trainer.max_length = 96 tokens")
    (problem,) = refused("ppo", rows=[{"prompt": long}])
    assert "the prompt has 200 tokens, at most 92 fit; lower trainer.response_length" in problem
    (problem,) = refused("reward", rows=[{"prompt": long, "chosen": "a", "rejected": "b"}])
    assert problem.startswith("centre.max_new_tokens = 4: no prompt leaves")

    ended = run("sft", rows=[*GOOD["sft"], {"prompt": long, "completion": "c"}])
    assert ended.code == 0 and "1 of 9 rows left out: the prompt alone fills max_length = 96" in ended.err
    ended = run("ppo", rows=[*GOOD["ppo"], {"prompt": long}])
    assert ended.code == 0 and json.loads(ended.out)["num_set_aside"] == 1
    assert "1 rows set aside" in ended.err
    ended = run("reward", rows=[*GOOD["reward"], {"prompt": long, "chosen": "a", "rejected": "b"}])
    assert ended.code == 0 and json.loads(ended.out)["num_truncated"] == 2


@pytest.mark.parametrize("stage", STAGES)
def test_an_unknown_ref(refused, stage):
    (problem,) = refused(stage, "model.ref=tiny/gone")
    assert problem.startswith(
        "model.ref = 'tiny/gone': not in the registry, not a folder, and the Hub cannot be reached"
    )


@pytest.mark.parametrize("stage", STAGES)
def test_a_hub_id_without_a_network(refused, stage):
    (problem,) = refused(stage, "model.ref=HuggingFaceTB/SmolLM2-135M")
    assert "the Hub cannot be reached" in problem and "give a local folder" in problem


def test_a_data_set_of_the_hub_without_a_network(refused):
    (problem,) = refused("sft", "data.sources.0.path=Anthropic/hh-rlhf")
    assert problem.startswith("Anthropic/hh-rlhf: ")


def test_a_ref_of_the_wrong_kind(run, models, tmp_path):
    registry = Registry(tmp_path / "home")
    registry.publish(models["reward"], kind="reward", name="tiny/judge")
    registry.publish(models["causal"], kind="sft", name="tiny/writer")
    cases = (("sft", "model.ref=tiny/judge"), ("ppo", "model.ref=tiny/judge"), ("ppo", "reward=[{ref: tiny/writer}]"))
    for stage, override in cases:
        ended = run(stage, override)
        assert ended.code == 2 and len(ended.errors) == 1 and "Traceback" not in ended.err
        assert "= 'tiny/" in ended.errors[0] and "@v1: is of kind " in ended.errors[0]
    assert len(registry.artefacts()) == 2


@pytest.mark.parametrize("stage", STAGES)
def test_where_nothing_can_be_published_nothing_is_trained(refused, run, models, tmp_path, stage):
    assert refused(stage, "output.alias=v2", "output.name=tiny/a b") == [
        "command line: output.name = 'tiny/a b': not a registry name; write group/name (for example support/sft) out "
        "of letters, digits, '.', '_' and '-', each part starting with a letter or digit, 200 characters at most",
        "command line: output.alias = 'v2': not a version (v1, v2, ...), and an alias must not look like one",
    ]
    registry = Registry(tmp_path / "home")
    for number, name in enumerate(("tiny/out", "tiny/out-data", "tiny/out-stopped")):
        registry.publish(models["causal"], kind="base", name=name)
        ended = run(stage, "output.name=tiny/out")
        assert ended.code == 2 and "Traceback" not in ended.err
        assert [problem.partition(";")[0] for problem in ended.errors] == [
            f"error: output.name: {taken}: holds artefacts of kind base"
            for taken in ("tiny/out", "tiny/out-data", "tiny/out-stopped")[: number + 1]
        ]
    assert not (tmp_path / "home" / "runs").exists()


def test_a_tokenizer_without_an_end_token(refused, tmp_path):
    folder = changed_tokenizer(tmp_path, "eos_token")
    for stage in STAGES:
        (problem,) = refused(stage, model=str(folder))
        assert "the tokenizer has no end-of-sequence token" in problem and '"eos_token"' in problem


def test_a_tokenizer_without_a_padding_token_gets_one(run, tmp_path):
    folder = changed_tokenizer(tmp_path, "pad_token")
    for stage in STAGES:
        ended = run(stage, model=str(folder))
        assert ended.code == 0, ended.err


def changed_tokenizer(tmp_path, without):
    from tiny import tiny_model

    folder = tiny_model(tmp_path / "changed")
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config.pop(without)
    path.write_text(json.dumps(config))
    return folder


def test_two_chat_templates(refused, write):
    write("other.jinja", "{{ messages }}")
    rows = [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}]
    (problem,) = refused("sft", "trainer.chat_template_path=other.jinja", rows=rows, model="chat")
    assert problem.startswith("trainer.chat_template_path = ") and "they differ" in problem


def test_conversations_without_a_chat_template(refused):
    messages = [{"role": "user", "content": "q"}]
    (problem,) = refused("sft", rows=[{"messages": [*messages, {"role": "assistant", "content": "a"}]}])
    assert "no chat template; set trainer.chat_template_path" in problem
    (problem,) = refused("ppo", rows=[{"prompt": messages}])
    assert "chat template" in problem
    (problem,) = refused("reward", rows=[{"prompt": messages, "chosen": "a", "rejected": "b"}])
    assert "chat template" in problem


def test_a_run_to_resume_that_is_not_there(rlhf, run, nothing_published):
    run("sft")
    ended = rlhf("sft", "stage.yaml", "--resume", "no-such-run")
    assert ended.code == 2 and "there is no such run" in ended.errors[0]
    ended = rlhf("sft", "stage.yaml", "--resume", "../..")
    assert ended.code == 2 and len(ended.errors) == 1
