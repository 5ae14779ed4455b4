import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from datasets import Dataset

from ppo.tiny import CHAT_TEMPLATE, EOS, make_policy, make_tokenizer
from rlhf.errors import UserError
from rlhf.ppo import PPOTrainer
from rlhf.ppo.ptx import PTXData, accumulate_gradients

MakeTrainer = Callable[..., PPOTrainer]
DEMONSTRATIONS = [{"prompt": f"w{i} w{i + 1}", "completion": f" w{i + 2} w{i + 3}"} for i in range(8)]


def encoded(row: dict[str, Any], template: str | None = None) -> tuple[list[int], list[int]]:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    ((ids, labels),) = PTXData([row], tokenizer, seed=0).batch((0, 0, 0), 1)
    return ids.tolist(), labels.tolist()


def test_of_a_pair_the_completion_and_its_end_are_learned() -> None:
    assert encoded({"prompt": "w0 w1", "completion": " w2"}) == ([3, 4, 5, EOS], [-100, -100, 5, EOS])


def test_of_a_text_all_is_learned_and_of_messages_the_last_turn() -> None:
    assert encoded({"text": "w2 w3"}) == ([5, 6, EOS], [5, 6, EOS])
    messages = [{"role": "user", "content": "w2"}, {"role": "assistant", "content": "w4"}]
    ids, labels = encoded({"messages": messages}, CHAT_TEMPLATE)
    assert ids == [3, 5, 3, 7]  # w0 w2 w0 w4
    assert labels == [-100, -100, -100, 7]  # the prompt opens the answer with one token


def test_rows_that_are_no_demonstrations_are_named() -> None:
    with pytest.raises(UserError, match="ptx_dataset: row 1 has prompt; give `prompt` and `completion`"):
        PTXData([DEMONSTRATIONS[0], {"prompt": "w1"}], make_tokenizer(), seed=0)
    with pytest.raises(UserError, match="ptx_dataset: it has no rows"):
        PTXData([], make_tokenizer(), seed=0)


def test_the_rows_of_a_step_are_a_function_of_seed_and_step() -> None:
    data = PTXData(DEMONSTRATIONS, make_tokenizer(), seed=3)

    def rows(*at: int) -> list[list[int]]:
        return [ids.tolist() for ids, _ in data.batch(at, 4)]

    assert rows(0, 1, 0) == rows(0, 1, 0)
    assert rows(0, 1, 0) != rows(1, 1, 0)
    assert len(data.batch((0, 0, 0), 99)) == 8


def test_the_gradient_is_that_of_the_mean_loss_however_rows_are_cut() -> None:
    rows = PTXData(DEMONSTRATIONS, make_tokenizer(), seed=0).batch((0, 0, 0), 5)
    found = []
    for size in (1, 5):
        policy = make_policy()
        loss = accumulate_gradients(policy, rows, 2.0, size, contextlib.nullcontext, torch.Tensor.backward)
        found.append((loss, policy.lm_head.weight.grad))
    torch.testing.assert_close(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1])
    policy = make_policy()
    losses = []
    for ids, labels in rows:
        logprobs = policy(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)
        learned = labels[1:] != -100
        losses.append(-logprobs[learned].gather(1, labels[1:][learned][:, None]))
    mean = torch.cat(losses).mean()
    (2.0 * mean).backward()
    torch.testing.assert_close(found[0][0], mean.detach())
    torch.testing.assert_close(found[0][1], policy.lm_head.weight.grad)


def test_ptx_keeps_what_was_taught(make_trainer: MakeTrainer) -> None:
    def final_loss(coef: float) -> float:
        given = {"ptx_coef": coef, "ptx_dataset": Dataset.from_list(DEMONSTRATIONS)} if coef else {}
        trainer = make_trainer(total_episodes=64, learning_rate=1e-2, **given)
        trainer.train()
        if coef:
            assert all(row["loss/ptx_avg"] > 0 for row in trainer.state.log_history[:-1])
        rows = PTXData(DEMONSTRATIONS, make_tokenizer(), seed=0).batch((0, 0, 0), 8)
        backward: Any = lambda loss: None  # noqa: E731
        return float(accumulate_gradients(trainer.policy_model, rows, 1.0, 8, contextlib.nullcontext, backward))

    assert final_loss(1.0) < final_loss(0.0) - 0.5


def test_a_weight_without_data_and_data_without_a_weight_are_refused(make_trainer: MakeTrainer) -> None:
    with pytest.raises(UserError, match=r"ptx_coef = 0\.5: there is no ptx_dataset"):
        make_trainer(ptx_coef=0.5)
    with pytest.raises(UserError, match="ptx_dataset: ptx_coef is 0"):
        make_trainer(ptx_dataset=Dataset.from_list(DEMONSTRATIONS))
