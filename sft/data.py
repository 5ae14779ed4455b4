"""From records to the rows SFTTrainer takes."""

from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from rlhf.errors import UserError
from rlhf.records import Completion, Conversation, Document, Record

KINDS = (Completion, Conversation, Document)


def to_dataset(records: Sequence[Record], tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """A TRL dataset: `prompt`/`completion`, `messages` or `text`.

    Records of one kind keep their columns. Where kinds are mixed, all become `prompt`/`completion`: of a conversation
    the last message is the completion, and a document completes the empty prompt, so that all of it is learned.

    Raises:
        UserError: plain text and conversations are mixed, or there are conversations and no chat template.
    """
    kinds = {type(record) for record in records}
    rows = [_row(record) if len(kinds) == 1 else _prompt_completion(record) for record in records]
    conversational = {not isinstance(next(iter(row.values())), str) for row in rows}
    if len(conversational) > 1:
        raise UserError("data: plain text and conversations are mixed; set `conversational: true` on the plain sources")
    if conversational == {True} and tokenizer.chat_template is None:
        raise UserError(
            "data: the rows are conversations and the tokenizer has no chat template; "
            "set trainer.chat_template_path to a .jinja file or to a model that has one"
        )
    return Dataset.from_list(rows)


def _row(record: Record) -> dict[str, Any]:
    if isinstance(record, Conversation):
        return {"messages": record.model_dump()["messages"]}
    if isinstance(record, Document):
        return {"text": record.text}
    return _prompt_completion(record)


def _prompt_completion(record: Record) -> dict[str, Any]:
    if isinstance(record, Document):
        return {"prompt": "", "completion": record.text}
    full = record.model_dump()
    if isinstance(record, Conversation):
        return {"prompt": full["messages"][:-1], "completion": full["messages"][-1:]}
    completion = full["completion"]
    if not isinstance(full["prompt"], str) and isinstance(completion, str):
        completion = [{"role": "assistant", "content": completion}]
    return {"prompt": full["prompt"], "completion": completion}
