"""Our updates against those of TRL 1.12.0, run in a subprocess: same weights, same completions, fp32.

Looked for in $RLHF_TRL_ORACLE or <repository>/.oracle; `make oracle` puts it there.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ppo.tiny import EOS, PAD, completion_mask, make_classifier, make_policy, make_tokenizer
from rlhf.generation import SampledTokens
from rlhf.ppo import PPOConfig, PPOTrainer, experience
from rlhf.ppo.optimizing import make_steps
from rlhf.ppo.update import Experience

REPOSITORY = Path(__file__).resolve().parents[2]
ORACLE = Path(os.environ.get("RLHF_TRL_ORACLE", REPOSITORY / ".oracle"))
BATCH, LENGTH, SEED = 12, 8, 3
CASES: dict[str, dict[str, Any]] = {
    "eos_early": {"stop_token": "eos", "missing_eos_penalty": 1.0},
    "forced_length": {},
    "k3_whitened_rewards": {"stop_token": "eos", "kl_estimator": "k3", "whiten_rewards": True},
    "three_passes": {"stop_token": "eos", "num_ppo_epochs": 3, "adam_epsilon": 1e-3},
    "discounted": {"stop_token": "eos", "gamma": 0.9, "lam": 0.8, "cliprange_value": 0.05},
    "three_updates": {"total_episodes": 3 * 12, "num_ppo_epochs": 2, "num_mini_batches": 1, "adam_epsilon": 1e-5},
}

pytestmark = pytest.mark.skipif(
    not (ORACLE / "trl").is_dir(), reason=f"TRL 1.12.0 is not in {ORACLE}; `make oracle` fetches it"
)


def write_case(folder: Path, changes: dict[str, Any]) -> None:
    """Four different models, a tokenizer, prompts of different lengths, and the settings both sides share."""
    torch.manual_seed(SEED)
    models = {
        "policy": make_policy(1),
        "ref": make_policy(2),
        "reward": make_classifier(3),
        "value": make_classifier(4),
    }
    for name in ("policy", "ref"):
        with torch.no_grad():
            # The pad token comes seldom, for a sampled one ends a completion in TRL; EOS comes often.
            models[name].lm_head.weight *= 2
            models[name].lm_head.weight[PAD] = 0
            models[name].lm_head.weight[EOS] *= 1.5
    tokenizer = make_tokenizer()
    for name, model in models.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    prompts = [[3 + (5 * i + j) % 29 for j in range(1 + i % 5)] + [3 + i] for i in range(BATCH)]
    settings = {
        "per_device_train_batch_size": BATCH,
        "gradient_accumulation_steps": 1,
        "num_mini_batches": 1,
        "total_episodes": BATCH,
        "num_ppo_epochs": 1,
        "response_length": LENGTH,
        "temperature": 0.9,
        "kl_coef": 0.1,
        "learning_rate": 1e-3,
        "seed": SEED,
        "num_sample_generations": 0,
        "bf16": False,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "max_grad_norm": 0.0,  # TRL never clips
    } | changes
    (folder / "case.json").write_text(json.dumps({"settings": settings, "prompts": prompts}))


@pytest.fixture(scope="module")
def oracle_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One folder for each case, with what the oracle computed; one process for all, as importing it takes longest."""
    folders = {case: tmp_path_factory.mktemp(case) for case in CASES}
    for case, folder in folders.items():
        write_case(folder, CASES[case])
    environment = os.environ | {"PYTHONPATH": str(ORACLE), "CI": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    worker = Path(__file__).with_name("oracle_worker.py")
    command = [sys.executable, worker, *folders.values()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folders


def build_ours(folder: Path, prompts: list[list[int]]) -> PPOTrainer:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    settings = json.loads((folder / "case.json").read_text())["settings"]
    return PPOTrainer(
        args=PPOConfig(output_dir=str(folder / "ours"), reward_at="trl", **settings),
        processing_class=AutoTokenizer.from_pretrained(folder / "policy", padding_side="left"),
        model=AutoModelForCausalLM.from_pretrained(folder / "policy"),
        ref_model=AutoModelForCausalLM.from_pretrained(folder / "ref"),
        reward_model=AutoModelForSequenceClassification.from_pretrained(folder / "reward"),
        value_model=AutoModelForSequenceClassification.from_pretrained(folder / "value"),
        train_dataset=Dataset.from_dict({"input_ids": prompts}),
    )


@pytest.mark.parametrize("case", CASES)
def test_updates_agree_with_trl_1_12(case: str, oracle_runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = oracle_runs[case]
    oracle: list[dict[str, Any]] = torch.load(folder / "oracle.pt", weights_only=True)
    assert len(oracle) == (3 if case == "three_updates" else 1)
    prompts = json.loads((folder / "case.json").read_text())["prompts"]
    trainer = build_ours(folder, prompts)

    # The oracle's completions in the oracle's order.
    orders, samples = [], []
    for update in oracle:
        orders.append([prompts.index([i for i in row.tolist() if i != PAD]) for row in update["queries"]])
        ids = update["responses"]
        mask, ended = completion_mask(ids, trainer.sampling.stop_ids)
        assert torch.equal(mask, ~update["padding_mask"]), "the oracle sampled a pad token; choose another SEED"
        if trainer.args.stop_token is None:
            assert bool(mask.all())
        else:
            assert 2 <= int((mask.sum(1) < LENGTH).sum()) <= BATCH - 2
        samples.append(SampledTokens(ids, mask, ended))
    given = iter(samples)
    monkeypatch.setattr(experience, "sample_tokens", lambda *_, **__: next(given))
    monkeypatch.setattr(trainer.order, "rows", lambda batch: orders[batch])
    seen: list[Experience] = []

    def spy(trainer_: PPOTrainer, experience_: Experience, *rest: Any) -> list[torch.Tensor]:
        seen.append(experience_)
        return make_steps(trainer_, experience_, *rest)

    monkeypatch.setattr("rlhf.ppo.trainer.make_steps", spy)
    logged: list[dict[str, float]] = []
    monkeypatch.setattr(trainer, "log", lambda metrics, *_: logged.append(dict(metrics)))
    trainer.train()

    for number, (ours, theirs) in enumerate(zip(seen, oracle, strict=True)):
        # Adam's steps carry the last digits of one update into the next.
        compare(ours, theirs, logged[number], tolerance=1e-5 if number == 0 else 1e-4)


def compare(ours: Experience, oracle: dict[str, Any], metrics: dict[str, float], tolerance: float) -> None:
    """One update of ours against the oracle's."""
    rollout = ours.rollout
    mask, value_mask = ~oracle["padding_mask"], ~oracle["padding_mask_p1"]
    assert torch.equal(rollout.value_mask, value_mask)
    for name, mine, theirs, cells in (
        ("logprobs", rollout.logprobs, oracle["logprobs"], mask),
        ("ref_logprobs", rollout.ref_logprobs, oracle["ref_logprobs"], mask),
        ("kl", rollout.logprobs - rollout.ref_logprobs, oracle["logprobs"] - oracle["ref_logprobs"], mask),
        ("values", rollout.values, oracle["values"], value_mask),
        ("returns", ours.returns, oracle["returns"], value_mask),
        ("advantages", ours.advantages, oracle["advantages"], mask),
    ):
        torch.testing.assert_close(
            mine[cells], theirs[cells], atol=tolerance, rtol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )
    expected = oracle["metrics"]
    for key in (
        "loss/policy_avg",
        "loss/value_avg",
        "objective/kl",
        "objective/entropy",
        "objective/non_score_reward",
        "objective/rlhf_reward",
        "objective/scores",
        "val/num_eos_tokens",
        "policy/clipfrac_avg",
        "val/clipfrac_avg",
        "lr",
        "episode",
    ):
        assert metrics[key] == pytest.approx(expected[key], abs=tolerance, rel=tolerance), key
    assert set(expected) <= set(metrics)
