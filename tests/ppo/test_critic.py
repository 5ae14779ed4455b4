"""The kinds of critic: what they begin with, what they train, what they leave alone."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import TrainerCallback

from ppo.tiny import PAD, count_good, make_classifier, make_policy, make_prompts, make_tokenizer
from rlhf.errors import UserError
from rlhf.modeling import AdapterRewardModel, AdapterStack, adapters_at_work, weight_bytes
from rlhf.ppo import PPOTrainer, forward
from rlhf.ppo.critic import CRITIC_ADAPTER, AdapterCritic, SharedCritic, _critic_from_reward_model
from rlhf.ppo.forward import trunk_of
from rlhf.ppo.head_critic import HeadCritic
from rlhf.ppo.losses import gae
from rlhf.ppo.rollout import Rollout, TokenBatch
from rlhf.scoring import RewardModelScorer

# peft reads a name of transformers that is on its way out.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
LORA = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
WIDE = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
MakeTrainer = Callable[..., PPOTrainer]
KINDS: dict[str, dict[str, Any]] = {
    "separate": {},
    "shared": {"critic": "shared"},
    "adapter": {"critic": "adapter"},
    "separate, LoRA": {"peft_config": LORA},
    "shared, LoRA": {"critic": "shared", "peft_config": LORA},
    "adapter, LoRA": {"critic": "adapter", "peft_config": LORA},
}
ON_REWARD_MODEL = {"reward_model": make_classifier(), "reward_weights": [0.01, 1.0]}
HEADS: dict[str, dict[str, Any]] = {
    "head": {"critic": "head", **ON_REWARD_MODEL},
    "head, LoRA": {"critic": "head", "peft_config": LORA, **ON_REWARD_MODEL},
}
ALL_KINDS = KINDS | HEADS


def history(trainer: PPOTrainer, key: str) -> list[float]:
    return [row[key] for row in trainer.state.log_history if key in row]


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def changed(model: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


def shake(model: nn.Module, mark: str, seed: int = 0) -> nn.Module:
    """Stand in for training: every weight with `mark` in its name moves."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if mark in name:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def reward_model_on(policy: Any, name: str = "judge") -> AdapterRewardModel:
    """A reward model that is an adapter of the policy's base, with a head of its own."""
    policy.add_adapter(name, LORA)
    shake(policy, f".{name}.", seed=5)
    classifier = make_classifier(pad_token_id=PAD)
    classifier.model = policy.get_base_model().model
    policy.set_adapter("default")
    return AdapterRewardModel(AdapterStack(policy, [name]), classifier, ["score"])


def before_the_last_token(rollout: Rollout) -> list[list[int]]:
    """Each prompt with its completion but for the last token: what the last value is a value of."""
    rows = zip(rollout.prompts.ids, rollout.completion_ids, rollout.lengths.tolist(), strict=True)
    return [torch.cat([prompt, ids[: length - 1]]).tolist() for prompt, ids, length in rows]


def last_values(rollout: Rollout) -> torch.Tensor:
    """[B], before each completion's last token."""
    return rollout.values.gather(1, rollout.lengths[:, None] - 1)[:, 0]


# ---- What a critic begins with ----


def test_a_critic_made_of_a_reward_model_begins_with_the_scores_that_ppo_sees() -> None:
    reward_model = make_classifier()
    judge = RewardModelScorer(reward_model, make_tokenizer(), offset=3.0)
    hidden = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    raw = reward_model.score(hidden)
    critic = _critic_from_reward_model(judge, 0.5)
    torch.testing.assert_close(critic.score(hidden), 0.5 * (raw - 3.0))
    with torch.no_grad():
        critic.score.weight.zero_()
    torch.testing.assert_close(reward_model.score(hidden), raw)  # a copy


@pytest.mark.parametrize("kind", KINDS)
def test_a_critic_made_of_the_policy_begins_at_zero(make_trainer: MakeTrainer, kind: str) -> None:
    trainer = make_trainer(critic_init="policy", reward_model=make_classifier(), **KINDS[kind])
    rollout = trainer.collect(trainer.prompts.batch(range(8)))
    assert float(rollout.values.abs().max()) == 0.0


def test_the_shared_critic_reads_what_the_output_layer_reads(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(critic="shared")
    with torch.no_grad():
        trainer.value_model.score.weight.normal_(generator=torch.Generator().manual_seed(0))
    rollout = trainer.collect(trainer.prompts.batch(range(8)))
    for i in range(8):
        n = int(rollout.lengths[i])
        ids = torch.cat([rollout.prompts.ids[i], rollout.completion_ids[i, :n]])[None]
        with torch.no_grad():
            hidden = trainer.policy_model.model(input_ids=ids).last_hidden_state[0, -n - 1 : -1]
        torch.testing.assert_close(rollout.values[i, :n], trainer.value_model.score(hidden)[:, 0])


def test_the_head_of_a_given_critic_computes_in_float32_under_bf16_too(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(value_model=make_classifier(), bf16=True)
    rollout = trainer.collect(trainer.prompts.batch(range(8)))
    values = rollout.values[rollout.mask]
    assert values.dtype == torch.float32
    assert float((values == values.bfloat16().float()).float().mean()) < 0.1


def test_the_shared_critic_s_values_come_of_the_policy_s_own_pass(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(critic="shared", local_rollout_forward_batch_size=8)
    with torch.no_grad():
        trainer.value_model.score.weight.normal_(generator=torch.Generator().manual_seed(0))
    passes: list[nn.Module] = []
    packed_hidden = forward.packed_hidden

    def counted(trunk: nn.Module, tokens: Any) -> torch.Tensor | None:
        passes.append(trunk)
        return packed_hidden(trunk, tokens)

    monkeypatch.setattr(forward, "packed_hidden", counted)
    rollout = trainer.collect(trainer.prompts.batch(range(8)))
    of_each = [sum(trunk is trunk_of(model) for trunk in passes) for model in (trainer.policy_model, trainer.ref_model)]
    assert of_each[0] == of_each[1] > 0
    assert bool((rollout.values[rollout.mask] != 0).all())


def test_an_adapter_critic_can_begin_as_the_reward_model_s_adapter(make_trainer: MakeTrainer) -> None:
    policy = get_peft_model(make_policy(), LORA)
    judge = reward_model_on(policy)
    scorer = RewardModelScorer(judge, make_tokenizer(), offset=1.5)
    trainer = make_trainer(
        model=policy, reward_funcs=scorer, reward_weights=[2.0], critic="adapter", critic_init="reward"
    )
    rollout = trainer.collect(trainer.prompts.batch(range(8)))
    torch.testing.assert_close(last_values(rollout), 2.0 * scorer.score_ids(before_the_last_token(rollout)))
    # the critic moves, the judge does not
    before = snapshot(trainer.policy_model)
    head = judge.score.weight.clone()
    trainer.train()
    moved = changed(trainer.policy_model, before)
    assert {name.split(".")[-2] for name in moved} == {"default", "critic"}
    assert torch.equal(judge.score.weight, head)


def test_a_separate_critic_can_begin_as_a_reward_model_that_is_an_adapter(make_trainer: MakeTrainer) -> None:
    policy = get_peft_model(make_policy(), LORA)
    judge = reward_model_on(policy)
    trainer = make_trainer(model=policy, reward_funcs=RewardModelScorer(judge, make_tokenizer()))
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(trainer.value_model(input_ids=ids).logits, judge(input_ids=ids).logits)
    assert adapters_at_work(policy) == ["default"]
    assert weight_bytes([trainer.value_model, policy]) == weight_bytes([trainer.value_model]) + weight_bytes([policy])


@pytest.mark.parametrize("kind", ["separate", "adapter", "head"])
@pytest.mark.parametrize("scale", ["running", "reference"])
def test_a_critic_made_of_a_reward_model_begins_on_the_scale_of_the_scores_that_are_paid(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, kind: str, scale: str
) -> None:
    trainer = make_trainer(
        total_episodes=8,
        learning_rate=1e-30,
        critic_learning_rate=1e-30,
        reward_funcs=RewardModelScorer(make_classifier(), make_tokenizer(), offset=3.0, append_eos=False),
        score_normalization=scale,
        critic=kind,
    )
    rollouts: list[Rollout] = []
    collect = trainer.collect

    def kept(prompts: Any) -> Rollout:
        rollouts.append(collect(prompts))
        return rollouts[-1]

    monkeypatch.setattr(trainer, "collect", kept)
    used: list[torch.Tensor] = []

    def spy(rewards: torch.Tensor, values: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
        used.append(values)
        return gae(rewards, values, *rest)

    monkeypatch.setattr("rlhf.ppo.trainer.gae", spy)
    trainer.train()
    rollout, scorer, moments = rollouts[0], trainer.scorer.scorers[0], trainer.shaper.moments
    assert moments.mean == pytest.approx(-3.0, abs=2.0)
    after = trainer.collect(rollout.prompts)
    for values, found in ((used[0], rollout), (after.values, after)):  # scored as PPO pays it
        expected = moments.scale(scorer.score_ids(before_the_last_token(found)))
        torch.testing.assert_close(last_values(replace(found, values=values)), expected, atol=1e-4, rtol=1e-4)


def test_a_head_critic_reads_the_frozen_reward_model_and_begins_with_its_scores(make_trainer: MakeTrainer) -> None:
    reward_model = make_classifier()
    before = snapshot(reward_model)
    scorer = RewardModelScorer(reward_model, make_tokenizer(), offset=1.5, append_eos=False)
    trainer = make_trainer(reward_funcs=scorer, reward_weights=[2.0], critic="head", total_episodes=24)
    rollout = trainer.collect(trainer.prompts.batch(range(8)))
    torch.testing.assert_close(last_values(rollout), 2.0 * scorer.score_ids(before_the_last_token(rollout)))
    head = snapshot(trainer.value_model)
    trainer.train()
    assert changed(reward_model, before) == set()
    assert changed(trainer.value_model, head) == set(head)


def test_a_head_critic_reads_a_reward_model_that_is_an_adapter_of_the_policy_s_base(make_trainer: MakeTrainer) -> None:
    policy = get_peft_model(make_policy(), LORA)
    judge = reward_model_on(policy)
    scorer = RewardModelScorer(judge, make_tokenizer(), append_eos=False)
    trainer = make_trainer(model=policy, reward_funcs=scorer, critic="head", total_episodes=24)
    trainer.train()
    assert adapters_at_work(trainer.policy_model) == ["default"]
    assert weight_bytes([trainer.value_model]) < weight_bytes([make_policy()]) / 4


def test_what_a_head_critic_reads_is_computed_once_a_rollout(make_trainer: MakeTrainer) -> None:
    reads: list[int] = []
    trainer = make_trainer(critic="head", reward_model=make_classifier(), reward_funcs=None, num_ppo_epochs=3)
    read = HeadCritic.read

    def counted(critic: HeadCritic, batch: TokenBatch) -> torch.Tensor:
        reads.append(len(batch.rows))
        return read(critic, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HeadCritic, "read", counted)
        trainer.train()
    assert sum(reads) == trainer.args.total_episodes


# ---- What is trained ----


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_every_kind_learns(make_trainer: MakeTrainer, kind: str) -> None:
    trainer = make_trainer(
        per_device_train_batch_size=32,
        total_episodes=32 * 25,
        train_dataset=make_prompts(32),
        learning_rate=2e-2 if "LoRA" in kind else 3e-3,
        kl_coef=0.03,
        lr_scheduler_type="constant",
        **ALL_KINDS[kind] | ({"peft_config": WIDE} if "LoRA" in kind else {}),
    )
    trainer.train()
    scores, explained = history(trainer, "objective/scores"), history(trainer, "val/explained_variance")
    assert sum(scores[-3:]) / 3 > sum(scores[:3]) / 3 + 0.2
    assert sum(explained[-5:]) / 5 > 0.1


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_policy_and_critic_have_no_parameter_in_common(make_trainer: MakeTrainer, kind: str) -> None:
    trainer = make_trainer(**ALL_KINDS[kind])
    policy, critic = trainer.model.parts()
    assert not set(map(id, policy)) & set(map(id, critic))
    trained = {id(p) for p in trainer.model.parameters() if p.requires_grad}
    assert trained == {id(p) for p in (*policy, *critic) if p.requires_grad}
    assert all(p.requires_grad for p in critic)
    assert {p.dtype for p in critic} == {torch.float32}


@pytest.mark.parametrize("kind", ["shared", "adapter, LoRA"])
def test_gradients_are_clipped_for_each_part(make_trainer: MakeTrainer, kind: str) -> None:
    rates = {"learning_rate": 1.0, "critic_learning_rate": 1.0}
    trainer = make_trainer(total_episodes=8, num_ppo_epochs=1, max_grad_norm=1e-3, optim="sgd", **rates, **KINDS[kind])
    before = [[p.detach().clone() for p in part] for part in trainer.model.parts()]
    trainer.train()
    for part, old in zip(trainer.model.parts(), before, strict=True):
        step = sum(float((p.detach() - o).pow(2).sum()) for p, o in zip(part, old, strict=True)) ** 0.5
        assert step == pytest.approx(1e-3, rel=1e-2)


def test_the_value_gradient_that_goes_into_a_shared_trunk_can_be_scaled(make_trainer: MakeTrainer) -> None:
    def trunk_gradient(share: float) -> torch.Tensor:
        trainer = make_trainer(critic="shared", critic_trunk_gradient=share)
        nn.init.ones_(trainer.value_model.score.weight)
        rollout = trainer.collect(trainer.prompts.batch(range(8)))
        from rlhf.generation import SampledTokens
        from rlhf.ppo.rollout import token_batches

        tokens = SampledTokens(rollout.completion_ids, rollout.mask, rollout.ended)
        (batch,) = token_batches(rollout.prompts, tokens, range(8), 8, PAD, "eos")
        values = trainer.model.values(batch)
        torch.testing.assert_close(values, rollout.values[batch.rows], atol=1e-5, rtol=1e-5)  # whatever the share
        values.sum().backward()
        assert trainer.value_model.score.weight.grad is not None
        gradient = trainer.policy_model.model.layers[0].mlp.up_proj.weight.grad
        return torch.zeros(()) if gradient is None else gradient

    whole = trunk_gradient(1.0)
    assert float(whole.abs().max()) > 0
    torch.testing.assert_close(trunk_gradient(0.25), 0.25 * whole)
    assert float(trunk_gradient(0.0).abs().max()) == 0.0


@pytest.mark.parametrize("kind", ["adapter", "adapter, LoRA", "adapter, on the reward model"])
def test_the_critic_s_activations_are_recomputed_and_give_the_same_weights(
    make_trainer: MakeTrainer, kind: str
) -> None:
    results, calls = [], []
    for enabled in (False, True):
        if "reward model" in kind:
            # Of the scorers, a reward model may come with dropout.
            judge = RewardModelScorer(make_classifier(attention_dropout=0.5), make_tokenizer())
            trainer = make_trainer(
                total_episodes=16, gradient_checkpointing=enabled, critic="adapter", reward_funcs=judge
            )
        else:
            trainer = make_trainer(total_episodes=16, gradient_checkpointing=enabled, **KINDS[kind])
        at_work: list[bool] = []
        host = trainer.value_model.stack.host
        layer = trunk_of(host).layers[0].mlp
        layer.register_forward_pre_hook(
            lambda *_, at_work=at_work, host=host: at_work.append(CRITIC_ADAPTER in adapters_at_work(host))
        )
        trainer.train()
        results.append(snapshot(trainer.model))
        calls.append(sum(at_work))
    assert calls[1] == calls[0] + 2 * 2  # one more forward of the critic for each of 2 updates x 2 passes
    for name, tensor in results[0].items():
        torch.testing.assert_close(results[1][name], tensor, atol=1e-5, rtol=1e-4)


def test_activations_are_recomputed_under_the_adapter_that_was_at_work(make_trainer: MakeTrainer) -> None:
    kwargs = {"gradient_checkpointing": True, "total_episodes": 8, **KINDS["adapter, LoRA"]}
    results = []
    for given in (None, {"preserve_rng_state": False}):
        trainer = make_trainer(gradient_checkpointing_kwargs=given, **kwargs)
        trainer.train()
        results.append(snapshot(trainer.model))
    for name, tensor in results[0].items():
        torch.testing.assert_close(results[1][name], tensor, atol=1e-5, rtol=1e-4)
    with pytest.raises(UserError, match="use_reentrant = true recomputes without knowing which adapter"):
        make_trainer(gradient_checkpointing_kwargs={"use_reentrant": True}, **kwargs).train()


# ---- Warm-up ----


class Watch(TrainerCallback):
    """Whether the policy, and what of the critic, has moved after each update."""

    def __init__(self) -> None:
        self.moved: list[tuple[bool, bool]] = []
        self.episodes: list[int] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.before = [[p.detach().clone() for p in part] for part in model.parts()]

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        policy, critic = (
            any(not torch.equal(p, old) for p, old in zip(part, before, strict=True))
            for part, before in zip(model.parts(), self.before, strict=True)
        )
        self.moved.append((policy, critic))
        self.episodes.append(state.episode)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_the_policy_stays_as_it_is_to_the_bit_while_the_critic_warms_up(make_trainer: MakeTrainer, kind: str) -> None:
    watch = Watch()
    trainer = make_trainer(
        total_episodes=32, critic_warmup_updates=2, weight_decay=0.1, callbacks=[watch], **ALL_KINDS[kind]
    )
    trainer.train()
    assert watch.moved == [(False, True), (False, True), (True, True), (True, True)]
    assert watch.episodes == [8, 16, 24, 32]  # what it sampled for the warm-up counts
    assert history(trainer, "objective/kl")[:3] == [0.0, 0.0, 0.0]
    assert history(trainer, "policy/grad_norm")[:2] == [0.0, 0.0]
    assert all(p.requires_grad for p in trainer.model.parts()[1])


def test_the_kl_controller_waits_for_the_policy(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(
        total_episodes=32, critic_warmup_updates=2, kl_controller="adaptive", kl_target=100.0, kl_horizon=8
    )
    trainer.train()
    assert history(trainer, "objective/kl_coef") == pytest.approx([0.05, 0.05, 0.05, 0.05 * 0.8])


# ---- Memory and files ----


def test_a_policy_its_critic_its_judge_and_its_reference_have_one_base(make_trainer: MakeTrainer) -> None:
    base = weight_bytes([make_policy()])
    policy = get_peft_model(make_policy(), LORA)
    adapter = weight_bytes([policy]) - base
    judge = reward_model_on(policy)
    shake(policy, ".default.")
    trainer = make_trainer(model=policy, reward_funcs=RewardModelScorer(judge, make_tokenizer()), critic="adapter")
    assert sorted(trainer.policy_model.peft_config) == ["critic", "default", "judge", "reference"]
    head = 16 * 4
    assert trainer.ref_model is None
    assert weight_bytes([trainer.model, judge]) == base + 4 * adapter + 2 * head
    trainer.train()
    assert adapters_at_work(trainer.policy_model) == ["default"]
    assert history(trainer, "objective/kl")[0] == 0.0


def test_a_full_policy_s_adapter_critic_is_carried_by_the_frozen_reference(make_trainer: MakeTrainer) -> None:
    policy = weight_bytes([make_policy()])
    trainer = make_trainer(total_episodes=24, critic="adapter")
    assert isinstance(trainer.value_model, AdapterCritic)
    critic = sum(p.numel() for p in trainer.value_model.parameters()) * 4
    assert weight_bytes([trainer.model, trainer.ref_model]) == 2 * policy + critic
    trainer.train()
    assert history(trainer, "objective/kl")[0] == 0.0
    with trainer.reference.active() as reference, torch.no_grad():
        ids = torch.tensor([[5, 6, 7, 8]])
        assert torch.equal(reference(input_ids=ids).logits, make_policy()(input_ids=ids).logits)


@pytest.mark.parametrize("peft_config", [None, LORA], ids=["full", "LoRA"])
def test_an_adapter_critic_can_be_carried_by_the_reward_model(make_trainer: MakeTrainer, peft_config: Any) -> None:
    plain = make_classifier()
    trainer = make_trainer(
        total_episodes=24, reward_model=make_classifier(), reward_funcs=None, critic="adapter", peft_config=peft_config
    )
    ids = [[5, 6, 7, 8], [9, 10, 11]]
    first = RewardModelScorer(plain, make_tokenizer()).score_ids(ids)
    scorer = trainer.scorer.scorers[0]
    assert torch.equal(scorer.score_ids(ids), first)
    # values begin as scores
    rollout = trainer.collect(trainer.prompts.batch(range(8)))
    row = torch.cat([rollout.prompts.ids[0], rollout.completion_ids[0, : int(rollout.lengths[0]) - 1]]).tolist()
    torch.testing.assert_close(rollout.values[0, int(rollout.lengths[0]) - 1], scorer.score_ids([row])[0])
    critic = sum(p.numel() for p in trainer.value_model.parameters()) * 4
    assert weight_bytes([trainer.reward_model, trainer.value_model]) == weight_bytes([plain]) + critic
    before = [p.detach().clone() for p in trainer.value_model.parameters()]
    trainer.train()
    assert any(not torch.equal(p, old) for p, old in zip(trainer.value_model.parameters(), before, strict=True))
    assert torch.equal(scorer.score_ids(ids), first)  # the judge is what it was


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_what_is_exported_has_no_trace_of_the_critic(make_trainer: MakeTrainer, tmp_path: Path, kind: str) -> None:
    from safetensors.torch import load_file

    trainer = make_trainer(total_episodes=16, **ALL_KINDS[kind])
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    assert not [path for path in (tmp_path / "saved").iterdir() if path.is_dir()]
    (path,) = (tmp_path / "saved").glob("*.safetensors")
    plain = get_peft_model(make_policy(), LORA) if "LoRA" in kind else make_policy()
    plain.save_pretrained(str(tmp_path / "plain"))
    (expected,) = (tmp_path / "plain").glob("*.safetensors")
    assert path.name == expected.name
    assert set(load_file(path)) == set(load_file(expected))


# ---- What cannot be ----


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"critic": "trunk"}, "critic: found 'trunk'; use separate, shared, adapter or head"),
        ({"critic_init": "zero"}, "critic_init: found 'zero'; use reward or policy"),
        ({"critic": "head"}, "critic: found 'head', which reads the reward model, but no reward model is a decoder"),
        ({"critic": "head", "critic_init": "policy"}, "critic_init: found 'policy'; a head is one on the reward model"),
        ({"critic": "shared", "critic_init": "reward"}, "a shared critic starts as a head on the policy's trunk"),
        (
            {"critic_trunk_gradient": 0.5},
            "critic_trunk_gradient: found 0.5; only a shared critic has its trunk in common",
        ),
        (
            {"critic": "shared", "critic_trunk_gradient": 2.0},
            "critic_trunk_gradient: found 2.0; give a number from 0 to 1",
        ),
        ({"critic_warmup_updates": -1}, "critic_warmup_updates: found -1"),
        (
            {"critic_warmup_updates": 2},
            r"critic_warmup_updates: 2 of the run's 2 updates \(16 episodes in batches of 8\) leave none",
        ),
        (
            {"critic": "shared", "value_model": make_classifier()},
            "value_model: given together with critic = 'shared'",
        ),
        (
            {"critic_init": "policy", "value_model": make_classifier()},
            "value_model: given together with critic_init = 'policy'",
        ),
        ({"critic_init": "reward"}, "critic_init: found 'reward', but no reward model is a decoder with the policy's"),
        (
            {"critic_init": "reward", "critic": "adapter", "peft_config": LORA},
            "critic_init: found 'reward', but no reward model is a decoder with the policy's tokenizer",
        ),
        ({"value_model": make_classifier(vocab_size=20)}, "value_model: its vocabulary of 20 tokens is smaller"),
        ({"value_model": make_policy()}, "value_model: LlamaForCausalLM has no `score` head"),
        ({"value_model": make_classifier(num_labels=2)}, "value_model: it has 2 outputs; load it with num_labels=1"),
        (
            {"reward_model": make_policy()},
            "reward_model: a reward model has one output, this LlamaForCausalLM has",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_sampled(
    make_trainer: MakeTrainer, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make_trainer(**changes)
    assert all("\n" not in problem for problem in caught.value.problems)


def test_a_policy_whose_adapter_has_the_critic_s_name_is_refused(make_trainer: MakeTrainer) -> None:
    policy = get_peft_model(make_policy(), LORA, adapter_name="critic")
    with pytest.raises(UserError, match="its adapter 'critic' has the name of the critic's; give it another"):
        make_trainer(model=policy, critic="adapter")


def test_a_trainer_of_its_own_leaves_the_models_it_was_given_alone(make_trainer: MakeTrainer) -> None:
    reference = make_policy()
    before = copy.deepcopy(reference.state_dict())
    trainer = make_trainer(ref_model=reference, critic="shared")
    trainer.train()
    assert isinstance(trainer.value_model, SharedCritic)
    assert changed(reference, before) == set()
    assert count_good([], ["w2"]) == [1 / 6]


def test_demonstrations_wait_for_the_warm_up_too(make_trainer: MakeTrainer) -> None:
    watch = Watch()
    trainer = make_trainer(
        total_episodes=24,
        critic_warmup_updates=1,
        ptx_coef=1.0,
        ptx_dataset=[{"prompt": "w1 w2", "completion": " w3"}] * 4,
        callbacks=[watch],
    )
    trainer.train()
    assert watch.moved == [(False, True), (True, True), (True, True)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_critic_can_have_a_learning_rate_of_its_own(make_trainer: MakeTrainer, kind: str) -> None:
    given = {} if "shared" in kind else {"critic_learning_rate": 1e-2}  # a shared one has ten times the policy's
    trainer = make_trainer(total_episodes=16, learning_rate=1e-3, **given, **KINDS[kind])
    rates: list[tuple[set[float], set[float]]] = []

    class Rates(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
            rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
            parts = ([p for p in part if p.requires_grad] for part in trainer.model.parts())
            policy, critic = ({rate[id(p)] for p in part} for part in parts)
            rates.append((policy, critic))

    trainer.add_callback(Rates())
    trainer.train()
    assert rates == [({5e-4}, {5e-3}), ({0.0}, {0.0})]
    assert history(trainer, "lr") == pytest.approx([1e-3, 5e-4])
