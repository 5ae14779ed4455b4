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

from rlhf.records import Completion, Conversation, Preference, Prompt, Ranking, Rating, Record


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
    extra = _extra(record)
    match record:
        case Preference():
            return [Completion(prompt=record.prompt, completion=record.chosen, **extra)]
        case Ranking():
            if record.all_bad or not record.tiers:
                raise ValueError("is a ranking without a good completion, so there is none to learn")
            best = [record.completions[place] for place in record.tiers[0]]
            return [Completion(prompt=record.prompt, completion=text, **extra) for text in best]
        case Conversation() if record.messages[-1].role == "assistant" and len(record.messages) > 1:
            return [Completion(prompt=record.messages[:-1], completion=record.messages[-1:], **extra)]
    return None


def _as_prompts(record: Record) -> list[Record] | None:
    extra = _extra(record)
    match record:
        case Completion():
            return [Prompt(prompt=record.prompt, **({"reference": record.completion} | extra))]
        case Preference() | Ranking() | Rating():
            return [Prompt(prompt=record.prompt, **extra)]
        case Conversation():
            turns = record.messages[:-1] if record.messages[-1].role == "assistant" else record.messages
            if not turns:
                raise ValueError("is a conversation without a prompt")
            return [Prompt(prompt=turns, **extra)]
    return None


def _extra(record: Record) -> dict[str, Any]:
    return dict(record.model_extra or {})
