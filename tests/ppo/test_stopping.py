"""Stop strings: where completions are sampled, and what scorers read of them."""

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

from ppo.tiny import count_good
from rlhf.generation.decode import Batch
from rlhf.ppo import PPOTrainer
from rlhf.ppo.evaluation import reference_scores
from rlhf.ppo.experience import text_before
from rlhf.ppo.samples import complete

MakeTrainer = Callable[..., PPOTrainer]


def test_a_row_is_sampled_no_further_than_its_stop_string(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(stop_strings=["w", "<"])  # one of which every token holds
    prompts = trainer.prompts.batch(range(16))
    trainer.collect(prompts)  # the first time, models are tried out
    reference_scores(trainer, prompts)
    steps: list[int] = []
    monkeypatch.setattr(Batch, "step", lambda _, tokens: steps.append(len(tokens)))
    rollout = trainer.collect(prompts)
    reference_scores(trainer, prompts)
    complete(trainer, prompts, temperature=0.0)
    assert steps == []  # the prompt's last token gives the first one, and that is all
    assert rollout.lengths.tolist() == [1] * 16
    assert bool(rollout.ended.all())


def test_a_stop_string_ends_as_an_end_token_does(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(stop_strings=["w2", "w7 w"], response_length=12)
    rollout = trainer.collect(trainer.prompts.batch(range(16)))

    def text(ids: Tensor) -> str:
        return str(trainer.processing_class.decode(ids.tolist()))

    seen: list[bool] = []
    for ids, mask, ended in zip(rollout.completion_ids, rollout.mask, rollout.ended.tolist(), strict=True):
        kept = ids[mask]
        assert not [s for s in ("w2", "w7 w") if s in text(kept[:-1])]
        seen.append(any(s in text(kept) for s in ("w2", "w7 w")))
        assert ended == (seen[-1] or "<eos>" in text(kept))
    assert set(seen) == {True, False}


def test_scorers_read_the_text_before_the_string_wherever_they_are_asked(make_trainer: MakeTrainer) -> None:
    read: list[str] = []

    def reward(prompts: Any, completions: list[str], **_: Any) -> list[float]:
        read.extend(completions)
        return count_good(prompts, completions)

    trainer = make_trainer(stop_strings=["w2", "w7"], response_length=12, reward_funcs=reward)
    prompts = trainer.prompts.batch(range(16))
    trainer.train()
    reference_scores(trainer, prompts)
    shown = complete(trainer, prompts, temperature=1.0)
    assert len(read) == 3 * 16
    assert [text for text in read if "w2" in text or "w7" in text] == []
    assert [sample.text for sample in shown] == read[-16:]


def test_the_text_ends_before_the_earliest_of_the_strings() -> None:
    assert text_before(" w3 w4 w5 w6", (" w5", " w4 w5")) == " w3"
    assert text_before("a\n\nb w5", (" w5", "\n\n")) == "a"
    assert text_before("w3", ("w5",)) == "w3"
    assert text_before("w3", ()) == "w3"
