"""Turning a record of one kind into another, where that makes sense.

| from | to | how |
|---|---|---|
| Preference | Completion | the chosen one |
| Ranking | Completion | those of the best tier, unless all were called bad |
| Conversation | Completion | the last answer, if the last turn is one |
| anything with a prompt | Prompt | the prompt; a demonstration goes along as `reference` |
| Conversation | Prompt | what comes before the last answer |

A rating becomes no Completion: an answer that somebody graded is no answer to learn.
"""

from collections.abc import Sequence
from typing import Any

from rlhf.records import Completion, Conversation, Preference, Prompt, Ranking, Rating, Record, plain


def convert(record: Record, kinds: Sequence[type[Record]]) -> list[Record]:
    """`record` as the kinds that were asked for: itself if it is one of them.

    Raises:
        ValueError: it can be none of them.
    """
    if type(record) in kinds:
        return [record]
    for kind in kinds:
        made = _as_completions(record) if kind is Completion else _as_prompts(record) if kind is Prompt else None
        if made is not None:
            return made
    raise ValueError(f"is a {type(record).__name__.lower()}, and {name_kinds(kinds)} is wanted")


def name_kinds(kinds: Sequence[type[Record]]) -> str:
    """`completion or document`, for messages."""
    return " or ".join(kind.__name__.lower() for kind in kinds)


def _as_completions(record: Record) -> list[Record] | None:
    match record:
        case Preference():
            return [_made(Completion, record, prompt=record.prompt, completion=record.chosen)]
        case Ranking():
            best = [] if record.all_bad or not record.tiers else record.tiers[0]
            texts = [record.completions[place] for place in best if plain(record.completions[place]).strip()]
            if not texts:
                raise ValueError("is a ranking without a good completion, so there is none to learn")
            return [_made(Completion, record, prompt=record.prompt, completion=text) for text in texts]
        case Conversation() if record.messages[-1].role == "assistant" and len(record.messages) > 1:
            return [_made(Completion, record, prompt=record.messages[:-1], completion=record.messages[-1:])]
    return None


def _as_prompts(record: Record) -> list[Record] | None:
    match record:
        case Completion():
            return [_made(Prompt, record, prompt=record.prompt, reference=record.completion)]
        case Preference() | Ranking() | Rating():
            return [_made(Prompt, record, prompt=record.prompt)]
        case Conversation():
            turns = record.messages[:-1] if record.messages[-1].role == "assistant" else record.messages
            if not turns:
                raise ValueError("is a conversation without a prompt")
            return [_made(Prompt, record, prompt=turns)]
    return None


def _made(kind: type[Record], record: Record, **columns: Any) -> Record:
    """A record of `kind` that keeps the columns nobody named."""
    return kind.model_validate((record.model_extra or {}) | columns)
