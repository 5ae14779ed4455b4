"""From records to the rows SFTTrainer takes."""

from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from rlhf.errors import UserError
from rlhf.records import Completion, Conversation, Document, Record

KINDS = (Completion, Conversation, Document)


def to_dataset(
    records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, *, whole_conversations: bool = False
) -> Dataset:
    """A TRL dataset: `prompt`/`completion`, `text` or `messages`.

    What other people wrote is not learned: of a conversation, each of the assistant's messages becomes a completion,
    and all before it the prompt. Where documents are mixed with other kinds they complete the empty prompt, so that
    all of a document is learned.

    Args:
        records: completions, conversations, documents.
        tokenizer: of the model to be trained; conversations need its chat template.
        whole_conversations: leave conversations whole, for `trainer.assistant_only_loss`, which masks inside the chat
            template and so goes over each conversation once.

    Raises:
        UserError: plain text and conversations are mixed, there are conversations and no chat template, or none of the
            conversations has a message of the assistant's.
    """
    alike = len({type(record) for record in records}) == 1
    rows: list[dict[str, Any]] = []
    for record in records:
        if alike and whole_conversations and isinstance(record, Conversation):
            rows.append({"messages": record.model_dump()["messages"]})
        elif alike and isinstance(record, Document):
            rows.append({"text": record.text})
        else:
            rows += _prompt_completions(record)
    if not rows:
        raise UserError("data: no conversation has a message of the assistant's, so there is nothing to learn")
    conversational = {not isinstance(next(iter(row.values())), str) for row in rows}
    if len(conversational) > 1:
        raise UserError("data: plain text and conversations are mixed; set `conversational: true` on the plain sources")
    if conversational == {True} and tokenizer.chat_template is None:
        raise UserError(
            "data: the rows are conversations and the tokenizer has no chat template; "
            "set trainer.chat_template_path to a .jinja file or to a model that has one"
        )
    return Dataset.from_list(rows)


def _prompt_completions(record: Record) -> list[dict[str, Any]]:
    if isinstance(record, Document):
        return [{"prompt": "", "completion": record.text}]
    full = record.model_dump()
    if isinstance(record, Conversation):
        messages = full["messages"]
        turns = [place for place, message in enumerate(messages) if place and message["role"] == "assistant"]
        return [{"prompt": messages[:place], "completion": [messages[place]]} for place in turns]
    completion = full["completion"]
    if not isinstance(full["prompt"], str) and isinstance(completion, str):
        completion = [{"role": "assistant", "content": completion}]
    return [{"prompt": full["prompt"], "completion": completion}]
