"""A script written for TRL 1.12's PPO does here what it did there, one import changed; and docs/migrate-from-trl.md."""

import gc
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ppo.test_parity import ORACLE, REPOSITORY
from ppo.tiny import make_classifier, make_policy, make_prompts, make_tokenizer
from rlhf.ppo import PPOTrainer

SCRIPT = Path(__file__).with_name("trl_script.py")
OLD_IMPORT = "from trl.experimental.ppo import PPOConfig, PPOTrainer\n"
NEW_IMPORT = "from rlhf.ppo import PPOConfig, PPOTrainer\n"
LORA = ["--use_peft", "--lora_r", "2", "--lora_target_modules", "q_proj", "v_proj"]
SETTINGS = """
    --per_device_train_batch_size 4 --gradient_accumulation_steps 2 --num_mini_batches 1 --num_ppo_epochs 1
    --total_episodes 16 --response_length 6 --missing_eos_penalty 1.0 --stop_token eos --kl_estimator k3 --kl_coef 0.1
    --learning_rate 1e-4 --use_cpu True --bf16 False --gradient_checkpointing False --save_strategy steps --save_steps 1
    --eval_strategy steps --eval_steps 1 --num_sample_generations 2
"""
needs_oracle = pytest.mark.skipif(
    not (ORACLE / "trl").is_dir(), reason=f"TRL 1.12.0 is not in {ORACLE}; `make oracle` fetches it"
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("script")
    for name, model in (("sft", make_policy()), ("reward", make_classifier())):
        model.save_pretrained(folder / name)
        make_tokenizer().save_pretrained(folder / name)
    (folder / "prompts.json").write_text("".join(json.dumps(row) + "\n" for row in make_prompts(32)))
    (folder / "theirs.py").write_text(SCRIPT.read_text())
    assert SCRIPT.read_text().count(OLD_IMPORT) == 1
    (folder / "ours.py").write_text(SCRIPT.read_text().replace(OLD_IMPORT, NEW_IMPORT))
    return folder


def run(inputs: Path, script: str, output: Path, *flags: str, **variables: str) -> dict[str, Any]:
    """What the script says at its end."""
    command = [sys.executable, str(inputs / script), "--dataset_name", str(inputs / "prompts.json")]
    command += ["--model_name_or_path", str(inputs / "sft"), "--sft_model_path", str(inputs / "sft")]
    command += ["--reward_model_path", str(inputs / "reward"), "--output_dir", str(output)]
    command += SETTINGS.split()
    command += ["--report_to", "none"] if "--report_to" not in flags else []
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CI": "1"} | variables
    done = subprocess.run(
        [*command, *flags], capture_output=True, text=True, check=False, env=environment, cwd=output.parent
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    result: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    return result


@needs_oracle
@pytest.mark.parametrize("flags", [[], LORA], ids=["full", "lora"])
def test_the_script_does_what_it_did_with_one_import_changed(inputs: Path, tmp_path: Path, flags: list[str]) -> None:
    theirs = run(inputs, "theirs.py", tmp_path / "theirs", *flags, PYTHONPATH=str(ORACLE))
    ours = run(inputs, "ours.py", tmp_path / "ours", *flags, PYTHONPATH=str(REPOSITORY))
    keys = {key for row in theirs["log"] for key in row}
    assert len(keys) == 19 and keys <= set(ours["log"][0])
    assert set(theirs["events"][0]) <= set(next(event for event in ours["events"] if event != "step"))
    assert ours["events"].count("step") == theirs["events"].count("step") == 2
    assert ours["steps"] == theirs["steps"] == [2, 16, 2]
    assert ours["trained"] == theirs["trained"]
    assert ours["checkpoints"] == theirs["checkpoints"] == ["checkpoint-1", "checkpoint-2"]
    # a pickle, in whose place each checkpoint holds training_args.json
    assert set(theirs["files"]) - set(ours["files"]) == {"training_args.bin"}
    assert not any("pad_token" in key for key in set(ours["files"]) - set(theirs["files"]))


def test_the_script_resumes_and_reports_as_any_trainer_does(inputs: Path, tmp_path: Path) -> None:
    run(inputs, "ours.py", tmp_path / "run", PYTHONPATH=str(REPOSITORY))
    script = (inputs / "ours.py").read_text()
    (inputs / "again.py").write_text(script.replace("train()  # resumes here", "train(resume_from_checkpoint=True)"))
    flags = ["--report_to", "wandb", "--total_episodes", "32"]
    variables = {
        "PYTHONPATH": str(REPOSITORY),
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(tmp_path),
        "WANDB_SILENT": "1",
    }
    again = run(inputs, "again.py", tmp_path / "run", *flags, **variables)
    assert again["steps"] == [4, 32, 4]
    assert again["events"].count("step") == 2  # the other two had been made
    assert len(list(tmp_path.glob("wandb/offline-run-*/*.wandb"))) == 1


# ---- docs/migrate-from-trl.md ----


def faults() -> list[tuple[str, str]]:
    """What TRL did, and the test here that fails on it, from the table in the docs."""
    text = (REPOSITORY / "docs" / "migrate-from-trl.md").read_text()
    section = text.split("## What was wrong there", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| ")][1:]
    return [(row[0].strip(), test) for row in rows for test in re.findall(r"`(tests/\S+::test_\w+)`", row[-1])]


def test_every_fault_of_trl_names_a_test_that_is_there() -> None:
    found = faults()
    assert len({fault for fault, _ in found}) >= 24
    for fault, test in found:
        file, name = test.split("::")
        assert re.search(rf"^def {name}\(", (REPOSITORY / file).read_text(), re.MULTILINE), f"{fault}: {test}"


def test_training_leaves_the_garbage_collector_alone(
    make_trainer: Callable[..., PPOTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    trainer = make_trainer(total_episodes=16)
    monkeypatch.setattr(gc, "collect", lambda *_: calls.append(1) or 0)
    trainer.train()
    assert calls == []
    assert importlib.import_module("gc").collect() == 0  # it was this one that was looked at
