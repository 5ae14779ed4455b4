"""What one optimizer step of the reward model is made of: every judgement by its weight, however the batch is cut."""

import pytest
import torch
from datasets import Dataset
from tiny import tiny_model, tiny_tokenizer
from transformers import AutoModelForSequenceClassification
from trl import RewardConfig, RewardTrainer

from reward.config import LossSection
from reward.data import COLUMNS, JudgementCollator
from reward.grades import Thresholds
from reward.trainer import JudgementTrainer

TEXTS = ["good", "bad", "fine", "worse", "best of all", "poor", "well", "ill"]


def row(chosen, rejected, weight=1.0, margin=0.0):
    """One pair, tokenised as bytes."""
    return judged([chosen, rejected], chosen=[0], rejected=[1], weight=[[weight]], margin=[margin])


def judged(texts, **columns):
    return {name: [] for name in COLUMNS} | {"input_ids": [list(text.encode()) for text in texts]} | columns


def ranking(best, middle, worst):
    pairs = {"chosen": [0, 0, 1], "rejected": [1, 2, 2]}
    return judged([best, middle, worst], **pairs, weight=[[1 / 3]] * 3, margin=[0.0] * 3)


MIXED = [ranking("good", "fine", "poor"), row("well", "ill", 0.25), row("fine", "bad", 4.0), row("best of all", "bad")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"), "reward")


def model_of(folder, num_outputs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=num_outputs, ignore_mismatched_sizes=num_outputs > 1
        )


@pytest.fixture
def trainer(folder, tmp_path):
    """A trainer that takes plain gradient steps on `rows`."""

    def make(rows, batch_size, accumulated=1, *, dev=None, cls=JudgementTrainer, num_outputs=1, **fields):
        defaults = {"max_steps": 1, "learning_rate": 1.0, "logging_steps": 1, "per_device_eval_batch_size": 8}
        own = {name: fields.pop(name) for name in ("loss", "thresholds", "max_tokens_per_pass") if name in fields}
        args = RewardConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulated,
            **(defaults | fields),
            optim="sgd",
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            bf16=False,
            gradient_checkpointing=False,
            prediction_loss_only=True,
            remove_unused_columns=False,
            report_to="none",
            save_strategy="no",
            dataloader_pin_memory=False,
            disable_tqdm=True,
        )
        return cls(
            model=model_of(folder, num_outputs),
            args=args,
            data_collator=JudgementCollator(257) if cls is JudgementTrainer else None,
            train_dataset=Dataset.from_list(rows),
            eval_dataset=Dataset.from_list(dev) if dev else None,
            processing_class=tiny_tokenizer(),
            **own,
        )

    return make


def step(made):
    """The change of all weights by the training, and the loss of its last step."""
    before = torch.cat([value.detach().flatten().clone() for value in made.model.parameters()])
    made.train()
    after = torch.cat([value.detach().flatten() for value in made.model.parameters()])
    return after - before, next(line["loss"] for line in made.state.log_history if "loss" in line)


def test_a_judgement_pulls_by_its_weight_even_when_it_is_alone_in_its_batch(trainer):
    pulls = []
    for weight in (1.0, 3.0):
        # the others pull at nothing; they keep the mean weight of the data set equal
        rows = [row("good", "bad", weight), row("fine", "fine", 4.0 - weight)]
        pulls.append(step(trainer(rows, 1, 2))[0])
    assert pulls[0].norm() > 1e-3
    torch.testing.assert_close(pulls[1], 3 * pulls[0], rtol=1e-4, atol=1e-6)


def test_a_step_does_not_depend_on_how_its_batch_is_cut(trainer):
    whole, loss = step(trainer(MIXED, 4))
    for batch_size, accumulated in ((2, 2), (1, 4)):
        change, in_parts = step(trainer(MIXED, batch_size, accumulated))
        torch.testing.assert_close(change, whole, rtol=1e-4, atol=1e-6)
        assert in_parts == pytest.approx(loss, abs=1e-5)


def test_the_last_batch_of_an_epoch_counts_by_its_rows(trainer):
    """Three equal rows in steps of two: the step of the one that is left over is half of the other's."""
    rows = [row("good", "bad")] * 3
    made = trainer(rows, 1, 2, num_train_epochs=1, max_steps=-1, learning_rate=1e-6)
    made.train()
    first, last = (line for line in made.state.log_history if "grad_norm" in line)
    assert last["grad_norm"] == pytest.approx(first["grad_norm"] / 2, rel=1e-3)
    assert last["loss"] == pytest.approx(first["loss"], rel=1e-3)  # what is logged is the mean of a judgement


def test_on_plain_pairs_a_step_is_that_of_trl(trainer):
    pairs = list(zip(TEXTS[::2], TEXTS[1::2], strict=True))
    ours, our_loss = step(trainer([row(*pair) for pair in pairs], 4, center_rewards_coefficient=0.1))
    plain = [{"chosen_ids": list(better.encode()), "rejected_ids": list(worse.encode())} for better, worse in pairs]
    theirs, their_loss = step(trainer(plain, 4, cls=RewardTrainer, center_rewards_coefficient=0.1))
    assert our_loss == pytest.approx(their_loss, abs=1e-5)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_the_scale_of_the_weights_has_no_say(trainer):
    scaled = [one | {"weight": [[10 * weight] for (weight,) in one["weight"]]} for one in MIXED]
    change, loss = step(trainer(MIXED, 2, 2))
    tenfold, same = step(trainer(scaled, 2, 2))
    torch.testing.assert_close(tenfold, change, rtol=1e-4, atol=1e-6)
    assert same == pytest.approx(loss, abs=1e-5)


def test_a_data_set_smaller_than_a_batch_is_a_whole_batch(trainer):
    small, loss = step(trainer(MIXED, 4))
    change, same = step(trainer(MIXED, 16, 2))
    torch.testing.assert_close(change, small, rtol=1e-4, atol=1e-6)
    assert same == pytest.approx(loss, abs=1e-5)


def test_the_held_out_loss_is_the_weighted_mean_of_all_held_out_pairs(trainer):
    made = trainer([row("good", "bad", 7.0)], 1, dev=MIXED)
    scores = {
        text: made.model(input_ids=torch.tensor([list(text.encode())])).logits.item() for text in TEXTS
    }  # fmt: skip
    pairs = [("good", "fine", 1 / 3), ("good", "poor", 1 / 3), ("fine", "poor", 1 / 3)]
    pairs += [("well", "ill", 0.25), ("fine", "bad", 4.0), ("best of all", "bad", 1.0)]
    nll = [-torch.nn.functional.logsigmoid(torch.tensor(scores[a] - scores[b])).item() for a, b, _ in pairs]
    # each row is one judgement: the mean weight of a row is 6.25 / 4
    expected = sum(value * weight for value, (_, _, weight) in zip(nll, pairs, strict=True)) / 6.25
    for batch_size in (1, 3, 4):
        made.args.per_device_eval_batch_size = batch_size
        assert made.evaluate()["eval_loss"] == pytest.approx(expected, abs=1e-5)


def test_held_out_accuracy_and_margin_do_not_depend_on_how_the_pairs_are_cut(trainer):
    found = []
    for size in (1, 3, 8):
        evaluated = trainer(MIXED, 4, dev=[*MIXED, row("ill", "well")], per_device_eval_batch_size=size)
        for _ in range(2):  # the second starts anew
            evaluated.evaluate()
            last = evaluated.state.log_history[-1]
            found.append([last["eval_accuracy"], last["eval_margin"]])
    assert found[0][0] * 7 == pytest.approx(round(found[0][0] * 7), abs=1e-5)
    assert all(each == pytest.approx(found[0], abs=1e-5) for each in found)


def order(tiers, texts, weight=1.0):
    """A ranking that is learned as a whole, with its pairs."""
    pairs = [(a, b) for at, tier in enumerate(tiers) for below in tiers[at + 1 :] for a in tier for b in below]
    return judged(
        texts,
        chosen=[better for better, _ in pairs],
        rejected=[worse for _, worse in pairs],
        weight=[[weight / len(pairs)]] * len(pairs),
        margin=[0.0] * len(pairs),
        tiers=tiers,
        order_weight=[weight],
    )


def test_an_order_of_two_pulls_as_their_pair_does(trainer):
    change, loss = step(trainer([order([[0], [1]], ["good", "bad"], 2.0)], 1, center_rewards_coefficient=0.1))
    as_pair, same = step(trainer([row("good", "bad", 2.0)], 1, center_rewards_coefficient=0.1))
    torch.testing.assert_close(change, as_pair, rtol=1e-4, atol=1e-6)
    assert same == pytest.approx(loss, abs=1e-5)


def test_a_step_of_orders_and_pairs_does_not_depend_on_how_its_batch_is_cut(trainer):
    rows = [order([[1], [0, 2], [3]], TEXTS[:4], 0.5), row("well", "ill", 3.0), order([[0, 1], [2]], TEXTS[4:7])]
    whole, loss = step(trainer(rows, 3))
    change, in_parts = step(trainer(rows, 1, 3))
    torch.testing.assert_close(change, whole, rtol=1e-4, atol=1e-6)
    assert in_parts == pytest.approx(loss, abs=1e-5)


@pytest.mark.parametrize("max_tokens", [1, 12, 30])
def test_a_batch_that_is_scored_in_parts_makes_the_same_step(trainer, max_tokens):
    rows = [order([[1], [0, 2], [3]], TEXTS[:4]), row("best of all", "ill")]
    whole, loss = step(trainer(rows, 2))
    change, same = step(trainer(rows, 2, max_tokens_per_pass=max_tokens))
    torch.testing.assert_close(change, whole, rtol=1e-4, atol=1e-6)
    assert same == pytest.approx(loss, abs=1e-6)


def test_no_more_tokens_than_allowed_pass_the_model_at_a_time(trainer):
    made = trainer([order([[at] for at in range(8)], TEXTS)], 1, max_tokens_per_pass=12)
    passed = []
    made.model.register_forward_pre_hook(
        lambda _, __, inputs: passed.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    step(made)
    assert sum(texts for texts, _ in passed) == 2 * 8  # once for the scores and once for their gradient
    assert all(texts * length <= 12 for texts, length in passed)


def test_members_are_trained_by_their_own_weights(trainer):
    rows = [row("good", "bad"), row("fine", "worse"), row("well", "ill")]
    member_weights = [[1.0, 0.0], [2.0, 1.0], [0.0, 2.0]]
    of_both = [one | {"weight": [weights]} for one, weights in zip(rows, member_weights, strict=True)]
    both = trainer(of_both, 3, num_outputs=2)
    heads = both.model.score.weight.detach().clone()
    step(both)
    for member in range(2):
        alone = trainer([one | {"weight": [[w[member]]]} for one, w in zip(rows, member_weights, strict=True)], 3)
        with torch.no_grad():
            alone.model.score.weight.copy_(heads[member : member + 1])
        step(alone)
        change = both.model.score.weight[member] - heads[member]
        torch.testing.assert_close(
            2 * change, (alone.model.score.weight[0] - heads[member]).detach(), rtol=1e-4, atol=1e-6
        )


def test_thresholds_learn_at_their_own_rate_and_forget_the_gradient_of_the_step_before(trainer):
    rows = [judged(["good", "bad"], rated=[0, 1], rating=[2.0, 0.0], rating_weight=[[1.0], [1.0]])]
    thresholds = Thresholds([0.4, 0.2, 0.4], 1)
    before = thresholds().detach().clone()
    made = trainer(rows, 1, loss=LossSection(kind="ordinal"), thresholds=thresholds, learning_rate=1e-9)
    step(made)
    assert (thresholds() - before).abs().max() > 1e-4
    assert all(parameter.grad is None for parameter in thresholds.parameters())
