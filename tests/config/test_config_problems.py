"""Everything that is wrong with a config is said at once, each thing with its file, key, value and way out."""

import json
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest

from reward.config import RewardStageConfig
from rlhf.config import load_config
from rlhf.config.trainer_args import OWNED, OWNED_IN, READ_IN
from rlhf.errors import UserError
from rlhf.pipeline.labels_config import LabelsConfig
from rlhf.ppo.stage_config import PPOStageConfig
from sft.config import SFTStageConfig

GOOD = """
model: {ref: ./base}
data: {sources: [{path: rows.jsonl}]}
output: {name: group/sft}
"""


@pytest.fixture
def problems(tmp_path):
    """The problems of `text` as a stage's file, without the file's name where that leads."""

    def find(text, schema=SFTStageConfig, overrides=()):
        path = tmp_path / "stage.yaml"
        path.write_text(text)
        with pytest.raises(UserError) as caught:
            load_config(path, schema, overrides)
        assert all("\n" not in problem for problem in caught.value.problems)
        return [problem.replace(str(path), "FILE") for problem in caught.value.problems]

    return find


def test_a_good_file_loads_with_paths_made_absolute(tmp_path, monkeypatch):
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "stage.yaml").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    config = load_config("configs/stage.yaml", SFTStageConfig)
    assert config.model.ref == str(folder / "base")
    assert config.data.sources[0].path == str(folder / "rows.jsonl")
    config = load_config(
        "configs/stage.yaml", SFTStageConfig, ["model.ref=./base", "data.sources=[{path: rows.jsonl}]", "seed=3"]
    )
    assert config.model.ref == str(tmp_path / "base")
    assert config.data.sources[0].path == str(tmp_path / "rows.jsonl")
    assert config.seed == 3


@pytest.mark.parametrize("ref", ["support/sft", "support/sft@v3", "support/sft@best", "Qwen/Qwen2.5-0.5B-Instruct"])
def test_a_ref_or_a_hub_id_stays_as_it_is(tmp_path, ref):
    (tmp_path / "stage.yaml").write_text(GOOD.replace("./base", ref))
    assert load_config(tmp_path / "stage.yaml", SFTStageConfig).model.ref == ref


def test_a_ref_that_is_a_model_folder_beside_the_file_is_that_folder(tmp_path):
    (tmp_path / "support" / "sft").mkdir(parents=True)
    (tmp_path / "stage.yaml").write_text(GOOD.replace("./base", "support/sft"))
    assert load_config(tmp_path / "stage.yaml", SFTStageConfig).model.ref == "support/sft"
    (tmp_path / "support" / "sft" / "config.json").write_text("{}")
    assert load_config(tmp_path / "stage.yaml", SFTStageConfig).model.ref == str(tmp_path / "support" / "sft")


def test_every_problem_is_said_at_once(problems):
    found = problems(
        """
model: {ref: ./base, dtype: float8, adaptor: {r: 4}}
data: {sources: [{path: rows.jsonl, wieght: 2}], dev_fraction: 1.5}
trainer: {learning_rte: 1e-5, num_train_epochs: many, seed: 3}
output: {name: sft}
lora: true
"""
    )
    assert found == [
        "FILE: model.dtype = 'float8': input should be 'float32', 'bfloat16' or 'float16'",
        "FILE: model.adaptor = {'r': 4}: unknown key; did you mean model.adapter?",
        "FILE: output.name = 'sft': expected `group/name`, such as `support/policy`",
        "FILE: data.sources.0.wieght = 2: unknown key; did you mean data.sources.0.weight?",
        "FILE: data.dev_fraction = 1.5: input should be less than 1",
        "FILE: trainer.learning_rte = 1e-05: unknown key; did you mean trainer.learning_rate?",
        "FILE: trainer.num_train_epochs = 'many': expected float",
        "FILE: trainer.seed = 3: is not set here: set `seed` at the top of the file",
        "FILE: lora = True: unknown key; known here: model, output, seed, data, trainer, early_stopping, tracking",
    ]


def test_what_the_command_line_got_wrong_is_named_so(problems):
    found = problems(
        GOOD + "trainer: {max_steps: x}\n",
        overrides=["model.dtype=f32", "trainer.learning_rate=fast", "data.sources.0.limit=0", "seed=-1"],
    )
    assert sorted(found) == [
        "FILE: trainer.max_steps = 'x': expected int",
        "command line: data.sources.0.limit = 0: input should be greater than 0",
        "command line: model.dtype = 'f32': input should be 'float32', 'bfloat16' or 'float16'",
        "command line: seed = -1: input should be greater than or equal to 0",
        "command line: trainer.learning_rate = 'fast': expected float",
    ]


def test_a_key_in_the_wrong_section_is_shown_its_place(problems):
    found = problems(GOOD + "learning_rate: 1e-5\nr: 8\n")
    assert found == [
        "FILE: learning_rate = 1e-05: unknown key; did you mean trainer.learning_rate?",
        "FILE: r = 8: unknown key; did you mean model.adapter.r?",
    ]


def test_what_is_missing_is_named(problems):
    assert problems("seed: 1\n") == ["FILE: model: is missing", "FILE: output: is missing", "FILE: data: is missing"]
    assert problems("model: {}\noutput: {name: a/b}\ndata: {sources: []}\n") == [
        "FILE: model.ref: is missing",
        "FILE: data.sources = []: list should have at least 1 item after validation, not 0",
    ]


def test_a_section_that_is_no_mapping(problems):
    found = problems(GOOD + "trainer: 5\n")
    assert found == ["FILE: trainer = 5: expected a mapping, `key: value` lines"]
    found = problems(GOOD.replace("{ref: ./base}", "./base"))
    assert found == ["FILE: model = './base': expected a mapping, `key: value` lines"]


@pytest.mark.parametrize(
    ("trainer", "what"),
    [
        ("{learning_rate: '1e-5'}", "trainer.learning_rate = '1e-5': expected float"),
        ("{learning_rate: true}", "trainer.learning_rate = True: expected float"),
        ("{num_train_epochs: null}", "trainer.num_train_epochs = None: expected float"),
        ("{packing: 1}", "trainer.packing = 1: expected bool"),
        ("{bf16: yes}", "trainer.bf16 = 'yes': expected bool or nothing (null)"),
        ("{max_steps: 1.5}", "trainer.max_steps = 1.5: expected int"),
        ("{output_dir: x}", "trainer.output_dir = 'x': is not set here: the run folder has its place"),
        ("{report_to: wandb}", "trainer.report_to = 'wandb': is not set here: set `tracking`"),
        ("{trust_remote_code: true}", "trainer.trust_remote_code = True: is not set here"),
        ("{lr_scheduler_type: cosin}", "did you mean cosine?"),
        ("{eval_strategy: epochs}", "expected one of epoch, no, steps; did you mean epoch?"),
        ("{kl_coef: 0.1}", "trainer.kl_coef = 0.1: unknown key"),
    ],
)
def test_trainer_fields_are_checked_without_their_class(problems, trainer, what):
    found = problems(GOOD + f"trainer: {trainer}\n")
    assert len(found) == 1 and what in found[0], found


def test_trainer_fields_that_are_right_go_through(tmp_path):
    (tmp_path / "stage.yaml").write_text(
        GOOD + "trainer: {learning_rate: 1e-5, num_train_epochs: 2, warmup_steps: 0.1, lr_scheduler_type: cosine,"
        " max_length: null, chat_template_path: chat.jinja, lr_scheduler_kwargs: {num_cycles: 2}}\n"
    )
    (tmp_path / "chat.jinja").write_text("{{ messages }}")
    trainer = load_config(tmp_path / "stage.yaml", SFTStageConfig).trainer
    assert trainer == {
        "learning_rate": 1e-5,
        "num_train_epochs": 2,
        "warmup_steps": 0.1,
        "lr_scheduler_type": "cosine",
        "max_length": None,
        "chat_template_path": str(tmp_path / "chat.jinja"),
        "lr_scheduler_kwargs": {"num_cycles": 2},
    }
    assert type(trainer["lr_scheduler_type"]) is str


def test_a_reward_is_a_model_or_a_function(problems):
    text = GOOD + "reward: [{ref: a/b, function: 'm:f'}, {}, {function: nothing}]\n"
    found = problems(text, PPOStageConfig)
    assert [problem.split(":")[1].split("=")[0].strip() for problem in found] == ["reward.0", "reward.1", "reward.2"]
    assert "reward = []" in problems(GOOD + "reward: []\n", PPOStageConfig)[0]


def test_a_config_is_frozen_and_is_written_out_as_plain_values(tmp_path):
    (tmp_path / "stage.yaml").write_text(GOOD + "centre: {ref: a/sft}\n")
    config = load_config(tmp_path / "stage.yaml", RewardStageConfig)
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3
    again = tmp_path / "again.yaml"
    again.write_text(json.dumps(config.model_dump(mode="json")))
    assert load_config(again, RewardStageConfig) == config


def test_a_long_value_is_cut(problems):
    found = problems(GOOD + f"extra: {'x' * 500}\n")
    assert "…" in found[0] and len(found[0]) < 250


def test_a_folder_in_place_of_a_file(tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        load_config(Path(tmp_path), SFTStageConfig)


@pytest.mark.parametrize(
    ("config", "overrides", "what"),
    [
        (SFTStageConfig, ["model.quantization=4bit"], "quantized weights cannot be trained; set `adapter`"),
        (SFTStageConfig, ["model.quantization=4bit", "model.adapter={r: 4}"], None),
        (
            PPOStageConfig,
            ["model.quantization=8bit", "model.adapter={r: 4}", "reward=[{ref: a/b}]"],
            "model.quantization = '8bit': PPO copies the model",
        ),
        (
            LabelsConfig,
            ["model.quantization=4bit", "model.adapter={r: 4}", "annotators={function: 'a:b'}"],
            "model.quantization: is for training under an adapter",
        ),
    ],
)
def test_quantization_is_for_the_frozen_base_of_an_adapter(tmp_path, config, overrides, what):
    file = tmp_path / "stage.yaml"
    file.write_text("model: {ref: a/b}\ndata: {sources: [{path: rows.jsonl}]}\noutput: {name: c/d}\n")
    if what is None:
        assert load_config(file, config, overrides).model.quantization == "4bit"
        return
    with pytest.raises(UserError) as caught:
        load_config(file, config, overrides)
    assert what in caught.value.problems[0]


@pytest.mark.parametrize(
    ("section", "key"),
    [("{ref: a/b, dropout: 0.1}", "model.dropout"), ("{ref: a/b, adapter: {dropout: 0.1}}", "model.adapter.dropout")],
)
def test_dropout_that_ppo_would_turn_off_is_refused(problems, tmp_path, section, key):
    text = GOOD.replace("{ref: ./base}", section)
    [problem] = problems(text + "reward: [{ref: a/b}]\n", PPOStageConfig)
    assert problem.startswith(f"FILE: {key} = 0.1: ") and "leave it out" in problem
    (tmp_path / "stage.yaml").write_text(text)
    assert load_config(tmp_path / "stage.yaml", SFTStageConfig)
    without = text.replace("dropout: 0.1", "dropout: 0.0") + "reward: [{ref: a/b}]\n"
    (tmp_path / "stage.yaml").write_text(without)
    assert load_config(tmp_path / "stage.yaml", PPOStageConfig)


@pytest.mark.parametrize(
    ("schema", "field", "where"),
    [
        (RewardStageConfig, "chat_template_path=x.jinja", "give it one in `rlhf sft`"),
        (RewardStageConfig, "pad_token=x", "in the tokenizer_config.json of the model"),
        (RewardStageConfig, "dataset_num_proc=4", "in one process"),
        (PPOStageConfig, "batch_size=64", "follows from per_device_train_batch_size"),
        (PPOStageConfig, "reward_weights=[1.0]", "set `weight` beside each scorer"),
    ],
)
def test_trainer_fields_that_nothing_reads_are_refused_and_lead_to_what_is_read(tmp_path, schema, field, where):
    file = tmp_path / "stage.yaml"
    file.write_text("model: {ref: a/b}\ndata: {sources: [{path: rows.jsonl}]}\noutput: {name: c/d}\n")
    overrides = [f"trainer.{field}"] + (["reward=[{ref: a/b}]"] if schema is PPOStageConfig else [])
    with pytest.raises(UserError) as caught:
        load_config(file, schema, overrides)
    [problem] = caught.value.problems
    assert "is not set here: " in problem and where in problem
    assert load_config(file, SFTStageConfig, ["trainer.dataset_num_proc=4", "trainer.pad_token=x"]).trainer


def test_what_every_stage_sets_itself_is_not_set_beside_it(problems):
    from rlhf.training import owned_args

    given = {"bf16": True, "dataloader_pin_memory": True}  # the defaults for a machine, which give way
    assert owned_args(SimpleNamespace(checkpoints=Path("x"), id="x"), 0, given).keys() <= OWNED.keys()
    [problem] = problems(GOOD + "trainer: {logging_nan_inf_filter: true}\n")
    assert problem.endswith("is not set here: a loss that is no number is logged as it is, and stops training")


def test_ppo_takes_the_fields_that_its_loop_reads_and_no_others(problems, tmp_path):
    text = GOOD + "reward: [{ref: a/b}]\n"
    unread = {"torch_compile": True, "auto_find_batch_size": True, "fsdp": "full_shard", "dataloader_drop_last": True}
    assert problems(text + f"trainer: {json.dumps(unread)}\n", PPOStageConfig) == [
        f"FILE: trainer.{name} = {value!r}: PPO's loop does not read it; leave it out" for name, value in unread.items()
    ]
    [typo] = problems(text + "trainer: {torch_compil: true, }\n", PPOStageConfig)
    assert typo == "FILE: trainer.torch_compil = True: unknown key"
    assert "did you mean trainer.temperature?" in problems(text + "trainer: {temprature: 1}\n", PPOStageConfig)[0]
    read = {"weight_decay": 0.1, "optim": "adamw_torch", "data_seed": 3, "kl_target": 4.0, "push_to_hub": False}
    (tmp_path / "stage.yaml").write_text(text + f"trainer: {json.dumps(read)}\n")
    assert load_config(tmp_path / "stage.yaml", PPOStageConfig).trainer == read


def test_what_ppo_declares_itself_it_reads_or_says_where_it_is_set():
    from transformers import TrainingArguments

    from rlhf.ppo.config import PPOConfig
    from rlhf.trl_compat import BaseConfig

    theirs = {field.name for base in (TrainingArguments, BaseConfig) for field in fields(base)}
    own = {field.name for field in fields(PPOConfig)} - theirs
    assert own <= READ_IN["PPOConfig"] | OWNED.keys() | OWNED_IN["PPOConfig"].keys()
    assert not READ_IN["PPOConfig"] & (OWNED.keys() | OWNED_IN["PPOConfig"].keys())
    assert READ_IN["PPOConfig"] <= {field.name for field in fields(PPOConfig)}
