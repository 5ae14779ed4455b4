"""PPO against an ensemble of reward models: one artefact of M members, or a list of M models; both are the same."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import tiny_model

from ppo.tiny import count_good, make_classifier, make_prompts, make_tokenizer
from rlhf.config import AdapterSection, ModelSection
from rlhf.errors import UserError
from rlhf.modeling import find_model, load_tokenizer, new_reward_model
from rlhf.ppo import PPOTrainer
from rlhf.ppo.experience import score
from rlhf.ppo.monitor import Alarm
from rlhf.ppo.samples import complete
from rlhf.registry import Registry
from rlhf.scoring import Ensemble, RewardModelScorer

MakeTrainer = Callable[..., PPOTrainer]


def an_ensemble(kind: Any = "mean", coef: float = 1.0, offset: Any = (0.5, 1.0, 1.5)) -> RewardModelScorer:
    model = make_classifier(num_labels=3)
    offsets = list(offset) if isinstance(offset, tuple) else offset
    combine = Ensemble(kind, coef)
    return RewardModelScorer(model, make_tokenizer(), "reward", offset=offsets, combine=combine, append_eos=False)


def its_members(whole: RewardModelScorer) -> list[RewardModelScorer]:
    """The same as a list of models of one output."""
    members = []
    for i in range(3):
        model = make_classifier()
        state: dict[str, Any] = copy.deepcopy(whole.model.state_dict())
        model.load_state_dict(state | {"score.weight": state["score.weight"][i : i + 1]})
        offset = 0.5 * (i + 1)
        members.append(RewardModelScorer(model, make_tokenizer(), f"m{i}", offset=offset, append_eos=False))
    return members


def first_update(trainer: PPOTrainer) -> dict[str, float]:
    trainer.train()
    return next(log for log in trainer.state.log_history if "objective/scores" in log)


@pytest.mark.parametrize("kind", ["mean", "worst", "mean_minus_std"])
def test_an_artefact_of_three_members_is_a_list_of_three_models(make_trainer: MakeTrainer, kind: str) -> None:
    settings: dict[str, Any] = {"reward_ensemble_coef": 0.5, "total_episodes": 8, "critic_init": "policy"}
    whole = an_ensemble()
    one = first_update(make_trainer(reward_funcs=whole, reward_ensemble=kind, **settings))
    parts = [*its_members(whole)]
    many = first_update(make_trainer(reward_funcs=parts, reward_ensemble=kind, **settings))
    for key in ("objective/scores", "objective/score_std", "objective/score_ensemble_std", "objective/rlhf_reward"):
        assert one[key] == pytest.approx(many[key], abs=1e-5), key
    assert one["objective/score_ensemble_std"] > 0
    for i in range(3):
        assert one[f"objective/scores/reward/{i}"] == pytest.approx(many[f"objective/scores/m{i}"], abs=1e-5)
    members = [one[f"objective/scores/reward/{i}"] for i in range(3)]
    assert one["objective/scores/reward"] == pytest.approx(sum(members) / 3, abs=1e-5)


def test_the_artefact_says_how_it_is_combined_and_the_config_overrides_it(make_trainer: MakeTrainer) -> None:
    lowest = an_ensemble("worst")
    trainer = make_trainer(reward_funcs=lowest)
    rollout = trainer.collect(trainer.prompts.batch(range(8)))
    own, each = score(rollout, trainer.scorer, trainer.args, trainer.sampling)
    members = torch.stack([each[f"reward/{i}"] for i in range(3)])
    assert torch.equal(own, members.amin(0))
    over = make_trainer(reward_funcs=lowest, reward_ensemble="mean_minus_std", reward_ensemble_coef=2.0)
    expected = members.mean(0) - 2 * members.std(0, correction=0)
    torch.testing.assert_close(over.scorer.combine(each), expected)


def test_an_ensemble_a_model_and_a_function_make_one_score(make_trainer: MakeTrainer) -> None:
    """reward_ensemble pools the artefact's members with the other model; the function is added to that."""
    whole, other = an_ensemble("worst"), its_members(an_ensemble())[0]
    trainer = make_trainer(
        reward_funcs=[whole, other, count_good], reward_weights=[1.0, 2.0, 0.5], reward_ensemble="mean"
    )
    columns = {f"reward/{i}": torch.tensor([float(i)]) for i in range(3)}
    each = columns | {"reward": torch.tensor([1.0]), "m0": torch.tensor([4.5]), "count_good": torch.tensor([10.0])}
    assert trainer.scorer.combine(each).tolist() == [(0 + 1 + 2 + 9) / 4 + 5]
    assert trainer.scorer.spread(each).tolist() == [pytest.approx((50 / 4) ** 0.5)]  # type: ignore[union-attr]
    assert trainer.scorer.shares == {"reward": 0.75, "m0": 0.5, "count_good": 0.5}
    apart = make_trainer(reward_funcs=[whole, other, count_good], reward_weights=[1.0, 2.0, 0.5])
    assert apart.scorer.combine(each).tolist() == [0 + 9 + 5]  # the artefact's own way: the worst
    assert apart.scorer.spread(each).tolist() == [pytest.approx((2 / 3) ** 0.5)]  # type: ignore[union-attr]
    assert apart.scorer.shares == {"reward": 1.0, "m0": 2.0, "count_good": 0.5}


def test_what_members_disagree_by_stands_beside_each_sample(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(reward_funcs=an_ensemble(), eval_dataset=make_prompts(4))
    samples = complete(trainer, trainer.prompts.batch(range(4)), temperature=0.0)
    each = trainer.scorer.score_each(trainer.prompts.batch(range(4)).texts, [sample.text for sample in samples])
    assert [sample.spread for sample in samples] == trainer.scorer.spread(each).tolist()  # type: ignore[union-attr]
    shown: list[dict[str, Any]] = []
    trainer.on_samples.append(shown.extend)
    trainer.generate_completions()
    assert all(row["ensemble std"] > 0 for row in shown) and len(shown) == 4


def test_growing_disagreement_raises_the_alarm(make_trainer: MakeTrainer) -> None:
    monitor = make_trainer(reward_funcs=an_ensemble(), monitor="warn").monitor
    alarms: list[Alarm] = []
    for step in range(128):  # 8 completions each: the start is a mean over 256, and so is what is compared with it
        spread = 0.5 if step < 64 else 5.0
        alarms += monitor.observe({"objective/score_ensemble_std": spread}, step)
    assert {alarm.name for alarm in alarms} == {"ensemble_std"} and alarms[-1].level == 2


@pytest.mark.parametrize("critic", ["separate", "adapter", "head", "shared"])
@pytest.mark.parametrize("kind", ["mean", "worst"])
def test_a_critic_begins_as_the_mean_of_the_heads(make_trainer: MakeTrainer, critic: str, kind: str) -> None:
    ensemble = an_ensemble(kind)
    init = "policy" if critic == "shared" else "reward"
    trainer = make_trainer(reward_funcs=ensemble, critic=critic, critic_init=init, reward_at="eos")
    rollout = trainer.collect(trainer.prompts.batch(range(8)))
    if critic != "shared":
        rows = zip(rollout.prompts.ids, rollout.completion_ids, rollout.lengths.tolist(), strict=True)
        before_the_last = [torch.cat([prompt, ids[: length - 1]]) for prompt, ids, length in rows]
        expected = ensemble.member_scores_of_ids(before_the_last).mean(1)
        last = rollout.lengths[:, None] - 1
        torch.testing.assert_close(rollout.values.gather(1, last)[:, 0], expected, atol=1e-5, rtol=0)
    trainer.train()
    assert trainer.state.global_step == 2


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"critic_init": "reward"},
            "critic_init: found 'reward', but judge is an ensemble of adapters, and no one",
        ),
        (
            {"critic": "head"},
            "critic: found 'head', but judge is an ensemble of adapters, and no",
        ),
        ({}, None),
        ({"critic": "adapter"}, None),
    ],
)
def test_no_critic_begins_as_an_ensemble_of_adapters(
    make_trainer: MakeTrainer, tmp_path: Any, settings: dict[str, Any], line: str | None
) -> None:
    source = find_model(str(tiny_model(tmp_path / "start")), Registry(tmp_path / "home"))
    section = ModelSection(ref="start", adapter=AdapterSection(r=2))
    model = new_reward_model(source, section, seed=1, num_outputs=3, members="adapters")
    judge = RewardModelScorer(model, load_tokenizer(source), "judge", combine=Ensemble("mean_minus_std"))
    if line:
        with pytest.raises(UserError, match=line):
            make_trainer(reward_funcs=judge, **settings)
    else:
        trainer = make_trainer(reward_funcs=judge, **settings)
        assert first_update(trainer)["objective/score_ensemble_std"] > 0


def test_a_reward_model_of_several_outputs_says_how_they_are_combined(make_trainer: MakeTrainer) -> None:
    with pytest.raises(UserError, match=r"reward_model: a reward model has one output, this .* has 3; load it as"):
        make_trainer(reward_model=make_classifier(num_labels=3))
    with pytest.raises(UserError, match="judge: 2 offsets for 3 members; give one for each"):
        RewardModelScorer(
            make_classifier(num_labels=3), make_tokenizer(), "judge", offset=[1.0, 2.0], combine=Ensemble("mean")
        )
    with pytest.raises(UserError, match="judge: an ensemble has two or more members, and this model has 1 output"):
        RewardModelScorer(make_classifier(), make_tokenizer(), "judge", combine=Ensemble("mean"))
