"""`rlhf eval` from the command line."""

import json
import re
import shlex
from pathlib import Path

import pandas as pd
from tiny import tiny_model

from rlhf.registry import Registry

PAGE = Path(__file__).parents[2] / "docs" / "evaluation.md"
TEXTS = ["yes", "no, never", "perhaps so", "I do not know", "ask somebody else"]
PAIRS = [
    {"prompt": f"Is {n} odd?", "chosen": TEXTS[n % 5], "rejected": TEXTS[(n + 1) % 5], "annotator": f"a{n % 2}"}
    for n in range(24)
]


def publish(tmp_path, models):
    registry = Registry(tmp_path / "home")
    sft = registry.publish(models["causal"], kind="sft", name="tiny/sft")
    reward = registry.publish(models["reward"], kind="reward", name="tiny/reward")
    policy = tiny_model(tmp_path / "policy", seed=3)
    registry.publish(policy, kind="policy", name="tiny/policy", parents=[("base", sft), ("reward", reward)])


def test_a_file_of_preferences_alone_measures_the_reward_model(rlhf, write, models, tmp_path):
    publish(tmp_path, models)
    write("unseen.jsonl", PAIRS)
    ended = rlhf("eval", "unseen.jsonl", "num_bootstrap=200", "tracking.wandb=off", "--json")
    assert ended.code == 0, ended.err
    assert "measuring tiny/reward@v1, the newest reward model\n" in ended.err
    summary = json.loads(ended.out)
    assert (summary["model"], summary["num_pairs"], summary["status"]) == ("tiny/reward@v1", 24, "done")
    assert list(summary["groups"]["annotator"]) == ["a0", "a1"]
    table = rlhf("eval", "reward", "unseen.jsonl", "num_bootstrap=200", "tracking.wandb=off", "--model", "tiny/reward")
    assert table.code == 0, table.err
    assert table.out.splitlines()[0].split()[0] == "annotator"


def test_a_file_of_prompts_alone_compares_the_policy_with_its_sft_model(rlhf, write, models, tmp_path):
    publish(tmp_path, models)
    write("unseen.csv", "prompt\n" + "".join(f"Is {n} odd?\n" for n in range(6)))
    quick = ("num_bootstrap=200", "tracking.wandb=off", "generation.max_new_tokens=4", "--json")
    ended = rlhf("eval", "unseen.csv", *quick)
    assert ended.code == 0, ended.err
    summary = json.loads(ended.out)
    assert (summary["candidate"], summary["baseline"]) == ("tiny/policy@v1", "tiny/sft@v1")
    assert (summary["judge_is_training_reward"], summary["num_prompts"]) == (True, 6)
    itself = ("--baseline", "tiny/policy", "--judge", "tiny/reward", "generation.temperature=0")
    ended = rlhf("eval", "policy", "unseen.csv", *quick, *itself)
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["win_rate"] == 0.5


def test_what_falls_short_ends_with_3_after_its_summary(rlhf, write, models, tmp_path):
    publish(tmp_path, models)
    write("unseen.jsonl", PAIRS)
    short = ("num_bootstrap=200", "tracking.wandb=off", "require={accuracy: 1.0, ece: 0.1}")
    ended = rlhf("eval", "unseen.jsonl", *short, "--json")
    assert ended.code == 3
    summary = json.loads(ended.out)
    assert summary["status"] == "stopped"
    lines = [line for line in ended.err.splitlines() if line.startswith("stopped: ")]
    assert len(lines) == 2
    assert lines[0].startswith("stopped: require.accuracy: accuracy is 0.")
    assert lines[1].startswith("stopped: require.ece: ece could not be measured: 24 pairs of 24 prompts are too few")
    assert "Stopped" in rlhf("eval", "unseen.jsonl", *short).out


def test_mistakes_are_one_line_each(rlhf, write, models, tmp_path):
    write("unseen.jsonl", PAIRS)
    write("eval.yaml", "model: tiny/reward\ndata: {sources: [{path: unseen.jsonl}]}\n")
    assert rlhf("eval", "unseen.jsonl").errors == [
        "error: the registry has no reward model to evaluate: train one with `rlhf reward`, or name one with --model"
    ]
    assert rlhf("eval", "reward", "eval.yaml", "--model", "x").errors == [
        "error: --model x: goes with a data file; in eval.yaml the models have their keys"
    ]
    assert "No such command 'polcy'" in rlhf("eval", "polcy").err
    (missing,) = rlhf("eval", "nosuch.jsonl").errors
    assert "nosuch.jsonl: no such file" in missing
    publish(tmp_path, models)
    (unknown,) = rlhf("eval", "unseen.jsonl", "batch_sice=2").errors
    assert unknown == "error: command line: batch_sice = 2: unknown key; did you mean batch_size?"


def test_the_commands_of_the_page_work(rlhf, write, models, tmp_path):
    publish(tmp_path, models)
    Registry(tmp_path / "home").publish(models["encoder"], kind="reward", name="tiny/judge")
    write("unseen.jsonl", PAIRS)
    table = pd.DataFrame(PAIRS).assign(source="web")
    table.to_csv(tmp_path / "unseen.csv", index=False)
    table[["prompt"]].to_parquet(tmp_path / "prompts.parquet")
    section = PAGE.read_text(encoding="utf-8").partition("## A file and nothing else")[2]
    (block,) = re.findall(r"^```sh\n(.*?)^```", section.partition("\n## ")[0], re.MULTILINE | re.DOTALL)
    shown = [shlex.split(line)[1:] for line in block.replace("support/", "tiny/").splitlines()]
    assert [words[1] for words in shown] == ["unseen.jsonl", "reward", "policy"]
    for words in shown:
        quick = ("generation.max_new_tokens=4",) if words[1] == "policy" else ("require.accuracy=0",)
        ended = rlhf(*words, *quick, "num_bootstrap=200", "tracking.wandb=off")
        assert ended.code == 0, ended.err
