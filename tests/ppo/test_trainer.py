from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from threads import torch_threads
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Gemma2Config,
    Gemma2ForCausalLM,
    TrainerCallback,
    TrainerControl,
    TrainerState,
)

from ppo.tiny import (
    CHAT_TEMPLATE,
    EOS,
    PAD,
    WORDS,
    count_good,
    make_classifier,
    make_policy,
    make_prompts,
    make_tokenizer,
)
from rlhf.errors import StoppedByMonitor, UserError
from rlhf.generation import SampledTokens
from rlhf.ppo import PPOTrainer, experience, forward
from rlhf.ppo.evaluation import reference_scores
from rlhf.ppo.experience import score
from rlhf.ppo.losses import masked_whiten, score_positions
from rlhf.ppo.metrics import EVALUATION_KEYS
from rlhf.ppo.models import PolicyAndValue
from rlhf.ppo.rollout import Rollout
from rlhf.ppo.samples import show_samples
from rlhf.ppo.update import Experience, accumulate_gradients
from rlhf.scoring import FunctionScorer, NonFiniteError, WeightedScorer

# peft reads a name of transformers that is on its way out.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
LORA = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
MakeTrainer = Callable[..., PPOTrainer]


def history(trainer: PPOTrainer, key: str) -> list[float]:
    return [row[key] for row in trainer.state.log_history if key in row]


def snapshot(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def changed(model: torch.nn.Module, before: dict[str, torch.Tensor]) -> list[str]:
    return [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]


# ---- It learns, and reports what it does ----


def test_the_score_rises(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(
        per_device_train_batch_size=32,
        total_episodes=32 * 30,
        train_dataset=make_prompts(32),
        learning_rate=3e-3,
        kl_coef=0.03,
        lr_scheduler_type="constant",
    )
    trainer.train()
    scores = history(trainer, "objective/scores")
    assert len(scores) == 30
    assert sum(scores[-3:]) / 3 > sum(scores[:3]) / 3 + 0.3
    assert 0 < history(trainer, "objective/kl")[-1] < 25


def test_the_first_minibatch_has_ratio_one_and_the_first_rollout_no_kl(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(total_episodes=8, num_ppo_epochs=1)
    trainer.train()
    assert history(trainer, "val/ratio") == [pytest.approx(1.0, abs=1e-6)]
    assert history(trainer, "val/ratio_var") == [0.0]
    assert history(trainer, "policy/approxkl_avg") == [pytest.approx(0.0, abs=1e-10)]
    assert history(trainer, "objective/kl") == [0.0]


def test_metrics_have_trl_names_and_ours(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(total_episodes=8)
    trainer.train()
    trl = """eps objective/kl objective/entropy objective/non_score_reward objective/rlhf_reward objective/scores
        policy/approxkl_avg policy/clipfrac_avg loss/policy_avg loss/value_avg val/clipfrac_avg policy/entropy_avg
        val/ratio val/ratio_var val/num_eos_tokens lr episode"""
    ours = """objective/kl_coef objective/score_std objective/scores/count_good completions/mean_length
        completions/eos_share policy/grad_norm value/grad_norm val/explained_variance
        time/rollout time/score time/train"""
    assert {*trl.split(), *ours.split()} <= set(trainer.state.log_history[0])


def test_logging_steps_is_obeyed_and_averages(make_trainer: MakeTrainer) -> None:
    every = make_trainer(total_episodes=32)
    every.train()
    second = make_trainer(total_episodes=32, logging_steps=2)
    second.train()
    scores = history(every, "objective/scores")
    assert history(second, "objective/scores") == pytest.approx([sum(scores[:2]) / 2, sum(scores[2:]) / 2])
    assert history(second, "episode") == [16, 32]


def test_the_learning_rate_falls_once_an_update(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(total_episodes=32, num_mini_batches=4)
    trainer.train()
    assert history(trainer, "lr") == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])


def test_whole_length_without_a_stop_token(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(total_episodes=8, stop_token=None)
    trainer.train()
    assert history(trainer, "completions/mean_length") == [6.0]


def test_missing_eos_costs_the_penalty(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(total_episodes=8, missing_eos_penalty=2.0)
    trainer.train()
    row = trainer.state.log_history[0]
    missing = 1 - row["completions/eos_share"]
    assert missing > 0
    assert row["objective/scores"] == pytest.approx(row["objective/scores/count_good"] - 2.0 * missing)


def test_the_adaptive_coefficient_moves(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(total_episodes=24, kl_controller="adaptive", kl_target=100.0, kl_horizon=8)
    trainer.train()
    assert history(trainer, "objective/kl_coef") == pytest.approx([0.05, 0.05 * 0.8, 0.05 * 0.64])


def test_the_reported_kl_is_the_kl_under_every_estimator(make_trainer: MakeTrainer) -> None:
    def evaluated(estimator: str) -> dict[str, float]:
        return make_trainer(
            kl_estimator=estimator, ref_model=make_policy(9), eval_dataset=make_prompts(64), response_length=1
        ).evaluate()

    k1, k2, k3 = (evaluated(estimator) for estimator in ("k1", "k2", "k3"))
    assert k2["eval_objective/kl"] == k1["eval_objective/kl"]
    assert k3["eval_objective/kl"] == pytest.approx(k1["eval_objective/kl"], rel=0.5)  # TRL's figure, unbiased too
    # the penalty is what was asked for
    assert k1["eval_objective/non_score_reward"] == pytest.approx(-0.05 * k1["eval_objective/kl"])
    assert k2["eval_objective/non_score_reward"] != pytest.approx(-0.05 * k2["eval_objective/kl"], rel=0.1)


def test_the_adaptive_coefficient_goes_by_the_kl_under_every_estimator(make_trainer: MakeTrainer) -> None:
    def coefficients(**changes: Any) -> list[float]:
        trainer = make_trainer(kl_horizon=8, ref_model=make_policy(9), kl_controller="adaptive", **changes)
        trainer.train()
        return [*history(trainer, "objective/kl_coef"), *history(trainer, "objective/kl")]

    kl = coefficients()[2]
    for estimator in ("k1", "k2"):
        found = coefficients(kl_estimator=estimator, kl_target=kl / 1.1)
        assert found[:2] == [0.05, pytest.approx(0.05 * 1.1)]


# ---- Optimisation ----


def gradients_by_micro_batch(
    make_trainer: MakeTrainer, size: int, **changes: Any
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    trainer = make_trainer(per_device_train_batch_size=size, gradient_accumulation_steps=8 // size, seed=2, **changes)
    rollout = trainer.collect(trainer.prompts.batch(range(8)))
    assert len(set(rollout.lengths.tolist())) > 2
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(rollout.mask.shape, generator=generator)
    experience = Experience(rollout, masked_whiten(noise, rollout.mask), noise)
    numbers = accumulate_gradients(
        trainer.model,
        experience,
        list(range(8)),
        trainer.args,
        trainer.sampling,
        trainer.autocast,
        lambda loss: loss.backward(),  # type: ignore[no-untyped-call]
    )
    return {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}, numbers


def test_gradient_accumulation_equals_one_large_batch(make_trainer: MakeTrainer) -> None:
    whole, whole_numbers = gradients_by_micro_batch(make_trainer, 8)
    for size, max_tokens in ((1, None), (2, None), (4, None), (8, 5), (8, 20)):
        parts, numbers = gradients_by_micro_batch(make_trainer, size, max_tokens_per_micro_batch=max_tokens)
        torch.testing.assert_close(numbers, whole_numbers, atol=1e-6, rtol=1e-5)
        for name, gradient in whole.items():
            torch.testing.assert_close(parts[name], gradient, atol=1e-6, rtol=1e-4)


def test_a_critic_trained_beside_the_policy_gets_the_gradients_it_gets_together_with_it(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, its_numbers = gradients_by_micro_batch(make_trainer, 4, vf_coef=0.3)
    monkeypatch.setattr(PolicyAndValue, "is_one", True)
    together, numbers = gradients_by_micro_batch(make_trainer, 4, vf_coef=0.3)
    torch.testing.assert_close(its_numbers, numbers, atol=1e-7, rtol=1e-6)
    assert beside.keys() == together.keys()
    for name, gradient in together.items():
        torch.testing.assert_close(beside[name], gradient, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("architecture", ["known", "with a soft cap on its logits"])
def test_shares_of_a_minibatch_side_by_side_give_the_gradients_of_one_after_the_other(
    make_trainer: MakeTrainer, architecture: str
) -> None:
    def found(threads: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        model = make_policy() if architecture == "known" else make_soft_capped()
        assert forward.is_reentrant(model, []) == (architecture == "known")
        with torch_threads(threads):
            return gradients_by_micro_batch(make_trainer, 2, critic="shared", model=model)

    (one, its_numbers), (other, numbers) = found(1), found(2)
    torch.testing.assert_close(its_numbers, numbers, atol=1e-6, rtol=1e-5)
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        torch.testing.assert_close(other[name], gradient, atol=1e-6, rtol=1e-4)


def make_soft_capped() -> Gemma2ForCausalLM:
    """Its own forward is what turns hidden states into logits: a hook on the output layer gives them to it."""
    torch.manual_seed(0)
    sizes = {name: getattr(make_policy().config, name) for name in ("vocab_size", "hidden_size", "intermediate_size")}
    config = Gemma2Config(
        **sizes,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        final_logit_softcapping=2.0,
        attn_implementation="eager",
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=EOS,
    )
    return Gemma2ForCausalLM(config)


def test_gradients_are_clipped_for_policy_and_critic_each(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(total_episodes=8, num_ppo_epochs=1, max_grad_norm=1e-3, optim="sgd", learning_rate=1.0)
    before = snapshot(trainer.policy_model)
    trainer.train()
    steps = [(p - before[name]).pow(2).sum() for name, p in trainer.policy_model.state_dict().items()]
    assert float(sum(steps)) ** 0.5 == pytest.approx(1e-3, rel=1e-3)
    assert history(trainer, "policy/grad_norm")[0] > 1e-2


def test_num_mini_batches_is_the_number_of_optimizer_steps(make_trainer: MakeTrainer) -> None:
    steps: list[int] = []

    class Count(TrainerCallback):
        def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            steps.append(1)

    make_trainer(
        total_episodes=8,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        num_mini_batches=2,
        num_ppo_epochs=3,
        callbacks=[Count()],
    ).train()
    assert len(steps) == 2 * 3


def test_bf16_changes_the_arithmetic_and_not_the_weights(make_trainer: MakeTrainer) -> None:
    seen: set[torch.dtype] = set()
    for bf16, expected in ((True, {torch.bfloat16}), (False, {torch.float32})):
        trainer = make_trainer(total_episodes=8, bf16=bf16)
        trainer.collect(trainer.prompts.batch(range(2)))  # the first pass tries the model out, in fp32
        seen.clear()
        layers = (trainer.policy_model.model.layers[0].mlp.up_proj, trainer.value_model.backbone.layers[0].mlp.up_proj)
        for layer in layers:
            layer.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
        trainer.train()
        assert seen == expected
        assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}


def test_gradient_checkpointing_recomputes_and_gives_the_same_weights(make_trainer: MakeTrainer) -> None:
    results, calls = [], []
    for enabled in (False, True):
        trainer = make_trainer(total_episodes=16, gradient_checkpointing=enabled)
        count = [0]
        layer = trainer.policy_model.model.layers[0].mlp
        layer.register_forward_pre_hook(lambda *_, count=count: count.__setitem__(0, count[0] + 1))
        trainer.train()
        results.append(snapshot(trainer.model))
        calls.append(count[0])
    assert calls[1] == calls[0] + 2 * 2  # one more forward for each of 2 updates x 2 passes
    for name, tensor in results[0].items():
        torch.testing.assert_close(results[1][name], tensor, atol=1e-5, rtol=1e-4)


# ---- Non-finite numbers stop training before the step ----


def test_a_nan_score_stops_before_the_weights_change(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    calls = [0]

    def reward(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        calls[0] += 1
        return [0.1] * 7 + [float("nan") if calls[0] == 2 else 0.1]

    trainer = make_trainer(total_episodes=32, reward_funcs=reward, save_strategy="steps", save_steps=1)
    with pytest.raises(NonFiniteError, match="reward function reward: score of row 7 of the batch is nan"):
        trainer.train()
    from transformers import AutoModelForCausalLM

    good = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "checkpoint-1")
    assert changed(trainer.policy_model, snapshot(good)) == []
    assert issubclass(NonFiniteError, StoppedByMonitor)


def test_a_nan_gradient_stops_before_the_step(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    trainer.policy_model.lm_head.weight.register_hook(lambda grad: grad * float("nan"))
    before = snapshot(trainer.model)
    with pytest.raises(NonFiniteError, match=r"update 1, pass 1: policy/grad_norm is nan"):
        trainer.train()
    assert changed(trainer.model, before) == []


def test_weights_that_run_off_are_not_saved(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_trainer(
        num_ppo_epochs=1,
        learning_rate=3e38,
        weight_decay=10.0,
        optim="sgd",
        max_grad_norm=0.0,
        save_strategy="steps",
        save_steps=1,
    )
    with pytest.raises(NonFiniteError, match=r"update 1: policy\..* is no longer finite; lower learning_rate"):
        trainer.train()
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_a_policy_that_cannot_be_sampled_from_is_named(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    with torch.no_grad():
        trainer.policy_model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="next-token probabilities are not finite"):
        trainer.train()


def test_nan_values_of_the_critic_are_named(make_trainer: MakeTrainer) -> None:
    value_model = make_classifier()
    with torch.no_grad():
        value_model.score.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="the critic's values are not finite in 8 of 8 completions"):
        make_trainer(value_model=value_model).train()


# ---- Callbacks and evaluation ----


def test_a_callback_can_stop_and_save_in_the_middle(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    class SaveAndStop(TrainerCallback):
        def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
            if state.global_step == 2:
                control.should_save = control.should_training_stop = True

    trainer = make_trainer(total_episodes=80, callbacks=[SaveAndStop()])
    result = trainer.train()
    assert result.global_step == trainer.state.global_step == 2
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-2"]


def test_callbacks_see_the_whole_course_of_training(make_trainer: MakeTrainer) -> None:
    events: list[str] = []

    class Record(TrainerCallback):
        def __getattribute__(self, name: str) -> Any:
            if name.startswith("on_") and name != "on_init_end":
                events.append(name)
            return super().__getattribute__(name)

    make_trainer(
        total_episodes=16, num_ppo_epochs=1, callbacks=[Record()], eval_dataset=make_prompts(3), eval_strategy="epoch"
    ).train()
    update = ["on_step_begin", "on_pre_optimizer_step", "on_optimizer_step", "on_step_end", "on_log"]
    assert events == [
        "on_train_begin",
        "on_epoch_begin",
        *update,
        *update,
        "on_epoch_end",
        "on_prediction_step",
        "on_log",
        "on_evaluate",
        "on_log",
        "on_train_end",
    ]


def test_evaluation_reports_and_leaves_training_as_it_was(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    plain = make_trainer(total_episodes=32)
    plain.train()
    evaluated = make_trainer(
        total_episodes=32,
        eval_dataset={"near": make_prompts(5), "far": make_prompts(3)},
        eval_strategy="steps",
        eval_steps=1,
        num_sample_generations=4,
        per_device_eval_batch_size=2,
        eval_on_start=True,
    )
    evaluated.train()
    assert changed(evaluated.model, snapshot(plain.model)) == []
    row = next(row for row in evaluated.state.log_history if "eval_near_objective/scores" in row)
    for name in ("objective/kl", "objective/scores/count_good", "completions/mean_length", "completions/eos_share"):
        assert f"eval_near_{name}" in row
        assert f"eval_far_{name}" in row


def test_evaluating_twice_gives_the_same_numbers(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(eval_dataset=make_prompts(5))
    first, second = trainer.evaluate(), trainer.evaluate()
    for name in first:
        if not name.startswith(("eval_runtime", "eval_samples", "eval_steps")):
            assert first[name] == second[name]
    assert first["eval_objective/kl"] == 0.0
    with pytest.raises(UserError, match="eval_dataset"):
        make_trainer().evaluate()


def test_the_best_model_is_kept_and_loaded_at_the_end(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_trainer(
        total_episodes=32,
        eval_dataset=make_prompts(8),
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="best",
        metric_for_best_model="objective/kl",
        greater_is_better=False,
        load_best_model_at_end=True,
    )
    trainer.train()
    scores = history(trainer, "eval_objective/kl")
    best = 1 + scores.index(min(scores))
    assert trainer.state.best_model_checkpoint == str(tmp_path / "run" / f"checkpoint-{best}")
    assert trainer.evaluate()["eval_objective/kl"] == pytest.approx(min(scores))


EVALUATED = {"eval_strategy": "steps", "eval_steps": 1}


def test_without_a_metric_the_best_model_is_the_one_with_the_highest_score(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(
        total_episodes=32,
        eval_dataset=make_prompts(8),
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        **EVALUATED,
    )
    trainer.train()
    scores = history(trainer, "eval_objective/scores")
    assert trainer.state.best_metric == max(scores)
    assert trainer.evaluate()["eval_objective/scores"] == pytest.approx(max(scores))


@pytest.mark.parametrize("schedule", ["reduce_lr_on_plateau", "greedy"])
def test_a_schedule_that_waits_for_the_score(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, schedule: str
) -> None:
    kwargs = {"patience": 0, "factor": 0.5, "threshold_mode": "abs", "threshold": 0.0} | (
        {"min_lr": 1e-5} if schedule == "greedy" else {}
    )
    trainer = make_trainer(
        total_episodes=32,
        eval_dataset=make_prompts(4),
        lr_scheduler_type=schedule,
        lr_scheduler_kwargs=kwargs,
        **EVALUATED,
    )
    scores = iter([1.0, 2.0, 1.0, 3.0])

    def evaluate(**_: Any) -> dict[str, float]:
        trainer.control.should_evaluate = False
        return {"eval_objective/scores": next(scores)}

    monkeypatch.setattr(trainer, "evaluate", evaluate)
    trainer.train()
    rate = trainer.lr_scheduler.get_last_lr()[0]
    # the third score alone is no improvement; greedy goes up again where there is one
    assert rate == pytest.approx(5e-4 if schedule == "reduce_lr_on_plateau" else 4e-3)


def test_a_metric_that_no_evaluation_reports_is_refused_at_once(make_trainer: MakeTrainer) -> None:
    with pytest.raises(UserError, match=r"metric_for_best_model: 'loss' is not among what .* did you mean"):
        make_trainer(eval_dataset=make_prompts(4), metric_for_best_model="loss", **EVALUATED)
    with pytest.raises(UserError, match=r"did you mean 'objective/kl'"):
        make_trainer(eval_dataset=make_prompts(4), metric_for_best_model="eval_objective/kll", **EVALUATED)
    two = {"near": make_prompts(4), "far": make_prompts(4)}
    with pytest.raises(UserError, match=r"did you mean '(near|far)_objective/scores'"):
        make_trainer(eval_dataset=two, lr_scheduler_type="reduce_lr_on_plateau", **EVALUATED)
    for name in ("near_objective/scores", "eval_far_completions/eos_share", "near_objective/scores/count_good"):
        make_trainer(eval_dataset=two, metric_for_best_model=name, **EVALUATED)


def test_evaluation_reports_what_it_says_it_does(make_trainer: MakeTrainer) -> None:
    found = {name for name in make_trainer(eval_dataset=make_prompts(4)).evaluate() if "/" in name}
    assert found == {f"eval_{name}" for name in (*EVALUATION_KEYS, "objective/scores/count_good")}


def test_the_policy_goes_to_the_hub(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    uploads: list[tuple[str, set[str]]] = []

    def upload(repo_id: str, folder_path: str, **_: Any) -> None:
        uploads.append((repo_id, {path.name for path in Path(folder_path).iterdir()}))

    created = SimpleNamespace(repo_id="me/aligned")
    hub = SimpleNamespace(create_repo=lambda *_, **__: created, upload_folder=upload)
    monkeypatch.setattr("transformers.trainer.hf_api", lambda: hub)
    trainer = make_trainer(total_episodes=8, push_to_hub=True, hub_model_id="me/aligned")
    trainer.train()
    trainer.push_to_hub()
    assert uploads[0][0] == "me/aligned"
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= uploads[0][1]


# ---- Models ----


def test_lora_trains_the_adapter_against_the_base_itself(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_trainer(total_episodes=16, peft_config=LORA)
    assert trainer.ref_model is None
    before = snapshot(trainer.policy_model)
    trainer.train()
    assert history(trainer, "objective/kl")[0] == 0.0
    assert history(trainer, "objective/kl")[1] != 0.0
    assert all("lora_" in name for name in changed(trainer.policy_model, before))
    trainer.save_model(str(tmp_path / "saved"))
    assert {"adapter_model.safetensors", "adapter_config.json"} <= {p.name for p in (tmp_path / "saved").iterdir()}
    assert not (tmp_path / "saved" / "model.safetensors").exists()


def test_a_policy_that_comes_with_a_trained_adapter_is_referred_to_it(make_trainer: MakeTrainer) -> None:
    policy = get_peft_model(make_policy(), LORA)
    with torch.no_grad():
        for name, p in policy.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.5)
    policy.requires_grad_(False)  # as from_pretrained gives it
    trainer = make_trainer(total_episodes=16, model=policy)
    before = snapshot(trainer.policy_model)
    trainer.train()
    assert history(trainer, "objective/kl")[0] == 0.0
    assert history(trainer, "objective/kl")[1] != 0.0
    moved = changed(trainer.policy_model, before)
    assert moved
    assert all(".default." in name for name in moved)


def test_the_reference_adapter_can_be_named(make_trainer: MakeTrainer) -> None:
    policy = get_peft_model(make_policy(), LORA)
    policy.add_adapter("sft", LORA)
    trainer = make_trainer(total_episodes=8, model=policy, ref_adapter_name="sft", model_adapter_name="default")
    trainer.train()
    assert history(trainer, "objective/kl") == [0.0]
    with pytest.raises(UserError, match="no adapter 'other'"):
        make_trainer(model=policy, ref_adapter_name="other")


def test_the_critic_is_a_copy_of_a_reward_model_that_reads_the_same_tokens(make_trainer: MakeTrainer) -> None:
    reward_model = make_classifier()
    trainer = make_trainer(total_episodes=8, reward_model=reward_model, reward_funcs=None)
    assert trainer.value_model is not reward_model
    assert changed(trainer.value_model, snapshot(reward_model)) == []
    before = snapshot(reward_model)
    trainer.train()
    assert changed(reward_model, before) == []
    assert changed(trainer.value_model, before) != []


def test_without_a_reward_model_the_critic_starts_at_zero_on_the_policys_backbone(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(peft_config=LORA)
    rollout = trainer.collect(trainer.prompts.batch(range(8)))
    assert float(rollout.values.abs().max()) == 0.0
    assert torch.equal(trainer.value_model.backbone.embed_tokens.weight, make_policy().model.embed_tokens.weight)


def test_a_reward_model_with_another_tokenizer(make_trainer: MakeTrainer) -> None:
    """An encoder with its own, differently ordered vocabulary."""
    tokenizer = make_tokenizer(["<pad>", "<eos>", "<unk>", *WORDS[:2:-1]])
    tokenizer.padding_side = "right"
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=1
    )
    reward_model = BertForSequenceClassification(config)
    trainer = make_trainer(
        total_episodes=8, reward_model=reward_model, reward_funcs=None, reward_processing_class=tokenizer
    )
    rollout = trainer.collect(trainer.prompts.batch(range(8)))
    scores, _ = score(rollout, trainer.scorer, trainer.args, trainer.sampling)
    with torch.no_grad():
        for i in range(8):
            words = [WORDS[t] for t in rollout.completion_ids[i][rollout.mask[i]].tolist() if t > EOS + 1]
            text = " ".join([str(rollout.prompts.texts[i]), *words, "<eos>"])
            ids = torch.tensor([[tokenizer.vocab[word] for word in text.split()]])
            torch.testing.assert_close(scores[i], reward_model(input_ids=ids).logits[0, 0])
    trainer.train()
    assert history(trainer, "objective/scores/reward_model")


def test_reward_model_and_functions_are_added_with_weights(make_trainer: MakeTrainer) -> None:
    def one(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        return [1.0] * len(completions)

    trainer = make_trainer(
        total_episodes=8, reward_model=make_classifier(), reward_funcs=[count_good, one], reward_weights=[2.0, 3.0, 0.5]
    )
    trainer.train()
    row = trainer.state.log_history[0]
    total = 2 * row["objective/scores/reward_model"] + 3 * row["objective/scores/count_good"] + 0.5
    assert row["objective/scores"] == pytest.approx(total)


def test_a_mix_among_the_reward_functions_is_reported_by_its_parts(make_trainer: MakeTrainer) -> None:
    inner = WeightedScorer([FunctionScorer(count_good), FunctionScorer(lambda prompts, completions: [1.0] * 8, "one")])
    trainer = make_trainer(total_episodes=8, reward_funcs=inner, reward_weights=[2.0])
    trainer.train()
    row = trainer.state.log_history[0]
    assert row["objective/scores"] == pytest.approx(2 * row["objective/scores/count_good"] + 2)
    assert row["objective/scores/one"] == 1.0


# ---- Prompts ----


def test_conversations_are_prompted_under_the_chat_template(make_trainer: MakeTrainer) -> None:
    seen: list[Any] = []

    def reward(prompts: list[Any], completions: list[Any], topic: list[str]) -> list[float]:
        seen.extend(zip(prompts, completions, topic, strict=True))
        return [0.0] * len(prompts)

    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    rows = [{"prompt": [{"role": "user", "content": f"w{i}"}], "topic": f"t{i}"} for i in range(8)]
    trainer = make_trainer(
        total_episodes=8, processing_class=tokenizer, train_dataset=Dataset.from_list(rows), reward_funcs=reward
    )
    assert trainer.prompts.batch([3]).ids[0].tolist() == [3, 6, 4]  # w0 w3 w1
    trainer.train()
    prompt, completion, topic = seen[0]
    assert prompt[0]["role"] == "user"
    assert topic == "t" + prompt[0]["content"][1:]
    assert completion[0]["role"] == "assistant"


def test_a_script_written_for_trl_1_12_runs_with_one_import_changed(tmp_path: Path) -> None:
    from rlhf.ppo import PPOConfig, PPOTrainer  # was: from trl.experimental.ppo import ...

    tokenizer = make_tokenizer()
    policy, ref_policy = make_policy(), make_policy()
    reward_model, value_model = make_classifier(), make_classifier()
    dataset = make_prompts(24)

    def tokenize(element: dict[str, Any]) -> dict[str, Any]:
        outputs = tokenizer(element["prompt"], padding=False)
        return {"input_ids": outputs["input_ids"]}

    train_dataset = dataset.map(tokenize, batched=True, remove_columns=dataset.column_names)
    training_args = PPOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        num_mini_batches=1,
        num_ppo_epochs=1,
        total_episodes=16,
        response_length=6,
        missing_eos_penalty=1.0,
        local_rollout_forward_batch_size=4,
        stop_token="eos",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = PPOTrainer(
        args=training_args,
        processing_class=tokenizer,
        model=policy,
        ref_model=ref_policy,
        reward_model=reward_model,
        value_model=value_model,
        train_dataset=train_dataset,
        eval_dataset=train_dataset.select(range(4)),
        peft_config=None,
    )
    trainer.train()
    trainer.save_model(training_args.output_dir)
    trainer.generate_completions()
    assert training_args.num_total_batches == 2
    assert (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("scored_by", ["reward_model", "reward_funcs"])
def test_a_pad_token_that_has_no_embedding_changes_nothing(make_trainer: MakeTrainer, scored_by: str) -> None:
    made = []
    for pad in ("<pad>", "[PAD]"):
        tokenizer = make_tokenizer()
        tokenizer.bos_token = "<pad>"  # what takes the place of the new one
        tokenizer.add_special_tokens({"pad_token": pad})
        changes: dict[str, Any] = {"processing_class": tokenizer, "model": make_policy()}
        if scored_by == "reward_model":
            changes |= {"reward_model": make_classifier(), "reward_funcs": None}
        for model in (changes["model"], changes.get("reward_model")):
            if model is not None:
                model.config.pad_token_id = tokenizer.pad_token_id
        trainer = make_trainer(eval_dataset=make_prompts(4), **changes)
        trainer.train()
        trainer.generate_completions()
        made.append(history(trainer, "objective/scores") + history(trainer, "loss/policy_avg"))
    assert tokenizer.pad_token_id == 32 == trainer.policy_model.get_input_embeddings().num_embeddings
    assert made[1] == pytest.approx(made[0], abs=1e-6)


def test_padding_that_has_no_embedding_is_taken_off_the_prompts(make_trainer: MakeTrainer) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    padded = Dataset.from_dict({"input_ids": [[32, 32, 7, 8]] * 8})
    trainer = make_trainer(processing_class=tokenizer, train_dataset=padded)
    assert trainer.prompts.batch([0]).ids[0].tolist() == [7, 8]


# ---- What cannot be trained is said at once ----


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_mini_batches": 3}, "num_mini_batches: 3 does not divide the batch of 8"),
        ({"train_dataset": make_prompts(5)}, "train_dataset: 5 prompts do not fill one batch of 8"),
        (
            {"train_dataset": Dataset.from_dict({"text": ["a"]})},
            "it needs a column `prompt` or `input_ids`; found text",
        ),
        ({"train_dataset": Dataset.from_dict({"prompt": ["w1", ""] * 4})}, "train_dataset: row 1 has no prompt"),
        ({"response_length": 64}, "leave no room for a prompt"),
        ({"max_prompt_length": 3}, r"row 2 has 4 tokens"),
        (
            {"train_dataset": Dataset.from_dict({"prompt": ["w1"] * 7 + ["w2 " * 59]})},
            "row 7 has 59 tokens, with 6 new",
        ),
        (
            {"train_dataset": Dataset.from_dict({"input_ids": [[5]] * 7 + [[5, 40]]})},
            "train_dataset: row 7 has the token 40, the model's vocabulary has 32",
        ),
        ({"reward_funcs": None}, "there is nothing to score with"),
        ({"reward_funcs": lambda prompts, completions, **_: [1.0]}, "returned 1 scores for 8 completions"),
        ({"reward_weights": [1.0, 2.0]}, "reward_weights: 2 weights for 1 scorers"),
        ({"stop_token": None, "stop_token_id": 32}, "stop token 32: the model's vocabulary has 32 tokens"),
        ({"reward_model": make_classifier(vocab_size=20)}, "reward_model: its vocabulary of 20 tokens is smaller"),
        ({"value_model": make_classifier(vocab_size=20)}, "value_model: its vocabulary of 20 tokens is smaller"),
        ({"value_model": make_policy()}, "value_model: LlamaForCausalLM has no `score` head"),
        ({"whiten_rewards": True, "num_mini_batches": 2}, "whiten_rewards: minibatches of 4"),
        ({"model_adapter_name": "x"}, "the model has no adapter 'x'"),
        (
            {"train_dataset": Dataset.from_dict({"prompt": [[{"role": "user", "content": "w1"}]] * 8})},
            "no chat template",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused(make_trainer: MakeTrainer, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_trainer(**changes).train()


def test_one_object_in_two_roles_is_refused(make_trainer: MakeTrainer) -> None:
    model, reward_model = make_policy(), make_classifier()
    with pytest.raises(UserError, match="ref_model: it is the same object as model"):
        make_trainer(model=model, ref_model=model)
    with pytest.raises(UserError, match="value_model: it is the same object as reward_model"):
        make_trainer(reward_model=reward_model, value_model=reward_model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kl_estimator": "k4"}, "kl_estimator: found 'k4'"),
        ({"kl_controller": "pid"}, "kl_controller: found 'pid'"),
        ({"kl_target": 0.0}, r"kl_target: found 0.0; give a number above 0"),
        ({"kl_controller": "adaptive", "kl_coef": 0.0}, "kl_coef: found 0.0"),
        ({"stop_token": "eos", "stop_token_id": 3}, "stop_token_id: found 3; set this or stop_token"),
        ({"missing_eos_penalty": -1.0}, "missing_eos_penalty: found -1.0"),
        ({"temperature": 0.0}, "temperature: found 0.0"),
        ({"num_mini_batches": 0}, "num_mini_batches: found 0"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(
    make_trainer: MakeTrainer, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make_trainer(**changes)


def test_a_prompt_that_is_too_long_is_cut_at_its_beginning_if_asked(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(max_prompt_length=2, truncate_prompts=True)
    assert [len(ids) for ids in trainer.prompts.batch(range(4)).ids] == [2, 2, 2, 2]
    assert trainer.prompts.batch([1]).ids[0].tolist() == [5, 6]  # of w1 w2 w3


def test_padding_that_equals_eos_is_told_from_it_by_length(make_trainer: MakeTrainer) -> None:
    tokenizer = make_tokenizer()
    tokenizer.pad_token = "<eos>"
    trainer = make_trainer(processing_class=tokenizer, stop_token=None)
    with torch.no_grad():
        trainer.policy_model.lm_head.weight[EOS] *= 4
    rollout = trainer.collect(trainer.prompts.batch(range(16)))
    assert bool((rollout.completion_ids == EOS).any())
    assert bool(rollout.mask.all())  # no stop token: an EOS is a token like any other
    assert bool((rollout.logprobs != 0).all())


def test_logits_are_made_for_completion_tokens_alone(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = Dataset.from_dict({"prompt": ["w1 " * 40] * 8})
    trainer = make_trainer(total_episodes=8, train_dataset=long)
    numbers: list[int] = []
    measure = forward.packed_logprobs

    def spy(hidden: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
        numbers.append(len(hidden))
        return measure(hidden, *rest)

    monkeypatch.setattr(forward, "packed_logprobs", spy)
    trainer.train()
    assert 0 < max(numbers) <= 8 * 6


def test_where_trl_pays_the_score_does_not_depend_on_the_rows_beside(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(reward_at="trl")
    rollouts = [trainer.collect(trainer.prompts.batch([i])) for i in range(16)]
    found = [(int(r.lengths[0]), int(score_positions(r.mask, "trl")[0]), int(r.value_mask.sum())) for r in rollouts]
    assert {length < 6 for length, _, _ in found} == {True, False}  # some end by themselves, some at the limit
    # one past the end, where the critic is asked too, as long as that is within the limit
    assert found == [(n, min(n, 5), min(n + 1, 6)) for n, _, _ in found]
    trainer.train()


def test_how_far_the_sampler_is_from_what_is_trained_is_reported(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gaps(**changes: Any) -> list[float]:
        trainer = make_trainer(total_episodes=8, **changes)
        trainer.train()
        row = trainer.state.log_history[0]
        return [row[f"sampling/sampling_logp_difference/{name}"] for name in ("mean", "max")]

    assert max(gaps()) < 1e-5
    mean, largest = gaps(bf16=True)
    assert 1e-5 < mean < 0.1
    assert largest > mean
    draw = experience.sample_tokens

    def warmer(*args: Any, **how: Any) -> SampledTokens:
        return draw(*args, **(how | {"temperature": 2.0}))

    monkeypatch.setattr(experience, "sample_tokens", warmer)
    assert gaps()[0] > 0.1


@pytest.mark.parametrize("changes", [{}, {"peft_config": LORA}, {"critic": "shared"}], ids=["full", "LoRA", "shared"])
def test_in_bf16_too_the_first_minibatch_has_ratio_one_to_the_bit(
    make_trainer: MakeTrainer, changes: dict[str, Any]
) -> None:
    trainer = make_trainer(total_episodes=8, num_ppo_epochs=1, bf16=True, **changes)
    trainer.train()
    # the sampling policy is measured by the pass that trains, not by the one that sampled
    assert history(trainer, "val/ratio") == [1.0]
    assert history(trainer, "policy/approxkl_avg") == [0.0]
    assert history(trainer, "sampling/sampling_logp_difference/mean")[0] > 1e-5


def test_samples_are_scored_as_training_scores_them(make_trainer: MakeTrainer) -> None:
    """In bf16 as well: autocast is for what is sampled and trained, and not for who judges it."""
    trainer = make_trainer(bf16=True, reward_model=make_classifier(), reward_funcs=None)
    seen: set[torch.dtype] = set()
    layer = trainer.reward_model.model.layers[0].mlp.up_proj
    layer.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    trainer.train()
    assert seen == {torch.float32}
    seen.clear()
    show_samples(trainer, trainer.prompts.batch(range(8)))
    reference_scores(trainer, trainer.prompts.batch(range(8)))
    assert seen == {torch.float32}


def test_an_evaluation_reports_means_over_rows_whatever_its_batches(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(eval_dataset=make_prompts(5), per_device_eval_batch_size=2, ref_model=make_policy(9))
    rollouts: list[Rollout] = []
    collect = trainer.collect

    def kept(prompts: Any) -> Rollout:
        rollouts.append(collect(prompts))
        return rollouts[-1]

    monkeypatch.setattr(trainer, "collect", kept)
    found = trainer.evaluate()
    assert [len(rollout.mask) for rollout in rollouts] == [2, 2, 1]
    lengths = [float(length) for rollout in rollouts for length in rollout.lengths]
    kl = [float(row) for rollout in rollouts for row in (rollout.logprobs - rollout.ref_logprobs).sum(1)]
    scores = [float(row) for r in rollouts for row in score(r, trainer.scorer, trainer.args, trainer.sampling)[0]]
    by_batch = (sum(kl[:2]) / 2 + sum(kl[2:4]) / 2 + kl[4]) / 3
    assert by_batch != pytest.approx(sum(kl) / 5, abs=1e-3)  # else batches would do as well
    assert found["eval_completions/mean_length"] == pytest.approx(sum(lengths) / 5)
    assert found["eval_objective/kl"] == pytest.approx(sum(kl) / 5, abs=1e-5)
    assert found["eval_objective/scores"] == pytest.approx(sum(scores) / 5)
    assert found["eval_objective/score_std"] == pytest.approx(float(torch.tensor(scores).std(correction=0)))


def test_figures_of_an_evaluation_are_of_all_rows_whatever_its_batches(make_trainer: MakeTrainer) -> None:
    found = []
    for size in (16, 4, 1):
        trainer = make_trainer(
            eval_dataset=make_prompts(16),
            per_device_eval_batch_size=size,
            ref_model=make_policy(9),
            temperature=1e-3,  # so the draws do not depend on what is drawn together
            reward_model=make_classifier(2),
        )
        metrics = trainer.evaluate()
        found.append({name: metrics[f"eval_{name}"] for name in EVALUATION_KEYS})
    assert found[0]["objective/kl_se"] > 0
    assert found[0]["completions/distinct_2"] < 1
    assert found[1] == pytest.approx(found[0], rel=1e-2)
    assert found[2] == pytest.approx(found[0], rel=1e-2)


@pytest.mark.parametrize("kind", ["running", "reference"])
def test_training_twice_begins_twice(make_trainer: MakeTrainer, kind: str) -> None:
    settings = {"kl_controller": "adaptive", "kl_target": 0.001, "kl_horizon": 8, "score_normalization": kind}
    # A learning rate of nearly 0: all that could change is what the run keeps beside the weights.
    trainer = make_trainer(**settings, reward_model=make_classifier(2), reward_funcs=None, learning_rate=1e-12)
    trainer.train()
    first = trainer.state.log_history
    head = trainer.value_model.score.weight.detach().clone()
    trainer.train()
    for key in ("objective/kl_coef", "objective/shaped_scores", "monitor/alarms"):
        again = [row[key] for row in trainer.state.log_history if key in row]
        assert again == pytest.approx([row[key] for row in first if key in row], abs=1e-5)
    if kind == "running":
        assert trainer.shaper.moments.count == 16  # the episodes of one run
    else:  # the scale is the same all the time, and the critic has been put on it once, not twice
        torch.testing.assert_close(trainer.value_model.score.weight.detach(), head)
