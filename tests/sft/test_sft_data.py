"""From records to the rows SFTTrainer takes, and the loss on rows that were held out."""

import math

import pytest
import torch
from tiny import tiny_tokenizer
from torch import nn

from rlhf.errors import UserError
from rlhf.records import Completion, Conversation, Document
from sft.data import to_dataset
from sft.held_out import HeldOut, held_out

USER = {"role": "user", "content": "Hi"}
ASSISTANT = {"role": "assistant", "content": "Hello"}


def rows_of(*records, chat=False):
    return to_dataset(records, tiny_tokenizer(chat=chat)).to_list()


def test_records_of_one_kind_keep_their_columns():
    assert rows_of(Document(text="a"), Document(text="b")) == [{"text": "a"}, {"text": "b"}]
    assert rows_of(Completion(prompt="p", completion=" c")) == [{"prompt": "p", "completion": " c"}]
    whole = to_dataset([Conversation(messages=[USER, ASSISTANT])], tiny_tokenizer(chat=True), whole_conversations=True)
    assert list(whole) == [{"messages": [USER, ASSISTANT]}]


def test_further_columns_stay_behind():
    assert rows_of(Completion(prompt="p", completion="c", source="x")) == [{"prompt": "p", "completion": "c"}]


def test_a_document_among_completions_completes_the_empty_prompt():
    found = rows_of(Document(text="a"), Completion(prompt="p", completion="c"))
    assert found == [{"prompt": "", "completion": "a"}, {"prompt": "p", "completion": "c"}]


def test_of_a_conversation_every_message_of_the_assistant_s_is_a_completion_and_no_other_is():
    mixed = Completion(prompt=[USER], completion="Yo")
    found = rows_of(Conversation(messages=[USER, ASSISTANT, USER, ASSISTANT]), mixed, chat=True)
    turns = [
        {"prompt": [USER], "completion": [ASSISTANT]},
        {"prompt": [USER, ASSISTANT, USER], "completion": [ASSISTANT]},
    ]
    assert found == [*turns, {"prompt": [USER], "completion": [{"role": "assistant", "content": "Yo"}]}]
    assert rows_of(Conversation(messages=[USER, ASSISTANT, USER, ASSISTANT]), chat=True) == turns


def test_conversations_in_which_the_assistant_says_nothing_are_refused():
    with pytest.raises(UserError, match="no conversation has a message of the assistant's"):
        rows_of(Conversation(messages=[USER]), chat=True)


def test_text_and_conversations_do_not_mix():
    with pytest.raises(UserError, match="plain text and conversations are mixed; set `conversational: true`"):
        rows_of(Completion(prompt="p", completion="c"), Completion(prompt=[USER], completion="c"), chat=True)
    with pytest.raises(UserError, match="plain text and conversations are mixed"):
        rows_of(Document(text="a"), Conversation(messages=[USER, ASSISTANT]), chat=True)


def test_conversations_need_a_chat_template():
    with pytest.raises(UserError, match=r"no chat template; set trainer\.chat_template_path"):
        rows_of(Conversation(messages=[USER, ASSISTANT]))


class Fixed(nn.Module):
    """Says log p = log [0.5, 0.25, 0.25] for the next token, whatever it reads."""

    def forward(self, input_ids, attention_mask=None, use_cache=None):
        logits = torch.log(torch.tensor([0.5, 0.25, 0.25])).expand(*input_ids.shape, 3)
        return type("Output", (), {"logits": logits})()


def test_the_held_out_loss_is_the_mean_over_tokens_that_count():
    # row 1: predicts 0 and 1; row 2: predicts 0 three times. The first label has nothing before it.
    first = {"input_ids": torch.tensor([[2, 0, 1, 1]]), "labels": torch.tensor([[2, 0, 1, -100]])}
    second = {"input_ids": torch.tensor([[2, 0, 0, 0]]), "labels": torch.tensor([[-100, 0, 0, 0]])}
    model = Fixed().train()
    found = held_out(model, [first, second], torch.device("cpu"))
    # one batch after the other: a mean of the batches' means would be different
    assert found.loss == pytest.approx((4 * math.log(2) + math.log(4)) / 5, rel=1e-6)
    assert found.num_tokens == 5
    assert found.token_accuracy == pytest.approx(4 / 5)
    assert found.perplexity == pytest.approx(math.exp(found.loss))
    assert model.training


def test_a_perplexity_beyond_a_float_is_infinite():
    assert HeldOut(loss=1e6, token_accuracy=0.0, num_tokens=1).perplexity == math.inf
