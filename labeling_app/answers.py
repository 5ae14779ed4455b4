"""What an annotator can say of a task, and when it is complete."""

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Mode = Literal["rank", "pair", "rate", "ab"]
"""rank: order K responses; pair: the better of two; rate: grade each; ab: the better of two models, blind."""

LOWEST_RATING, HIGHEST_RATING = 1, 7

Rating = Annotated[int, Field(ge=LOWEST_RATING, le=HIGHEST_RATING)]
ResponseId = int


class Edit(BaseModel):
    """A response made better by hand: a demonstration for SFT."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    response_id: ResponseId
    text: Annotated[str, Field(min_length=1, max_length=200_000)]


class Answer(BaseModel):
    """One person's judgement of one task; responses are named by their ids in the store.

    Attributes:
        tiers: responses from best to worst, ties in one tier; empty where responses are rated.
        ratings: a grade from 1 to 7 for each response; None where they are ordered.
        all_bad: none of them is acceptable, whatever their order.
        strength: how much better the best tier is than the next, from 1 (slightly) to 4 (far).
        flags: complaints about single responses, out of the configured list.
        rationale: why, in the annotator's words.
        edit: one of the best responses, or any where all are bad, improved by the annotator.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tiers: list[Annotated[list[ResponseId], Field(min_length=1)]] = []
    ratings: dict[ResponseId, Rating] | None = None
    all_bad: bool = False
    strength: Annotated[int, Field(ge=1, le=4)] | None = None
    flags: dict[ResponseId, list[str]] = {}
    rationale: Annotated[str, Field(max_length=10_000)] | None = None
    edit: Edit | None = None


def problem_with(
    answer: Answer, mode: Mode, responses: Sequence[ResponseId], known_flags: Collection[str]
) -> str | None:
    """Why `answer` cannot be taken for a task in `mode` that shows `responses`; None when it can."""
    shown = set(responses)
    if mode == "rate":
        if answer.tiers:
            return "tiers: this task is rated, not ordered"
        if set(answer.ratings or ()) != shown:
            return "ratings: every response needs exactly one"
    else:
        if answer.ratings is not None:
            return "ratings: this task is ordered, not rated"
        placed = [response for tier in answer.tiers for response in tier]
        if len(placed) != len(set(placed)) or set(placed) != shown:
            return "tiers: every response has to be placed exactly once"
    if len(answer.tiers) < 2 and answer.strength is not None:
        return "strength: says how much better the best is than the next, and there is no next"
    if not set(answer.flags) <= shown:
        return "flags: name a response that was not shown"
    if any(len(set(names)) < len(names) for names in answer.flags.values()):
        return "flags: name a complaint twice"
    unknown = _first_unknown(answer.flags, known_flags)
    if unknown is not None:
        return f"flags: {unknown!r} is not one of {', '.join(sorted(known_flags))}"
    if answer.edit is not None and not answer.edit.text.strip():
        return "edit: is blank; write what the response should be, or drop the edit"
    if answer.edit is not None and answer.edit.response_id not in shown:
        return "edit: names a response that was not shown"
    if answer.edit is not None and not answer.all_bad and answer.edit.response_id not in _best(answer):
        return "edit: is of a response that is not among the best; put it first, or drop the edit"
    return None


def _best(answer: Answer) -> Collection[ResponseId]:
    """The first tier, or all with the highest grade."""
    if answer.ratings is None:
        return answer.tiers[0]
    highest = max(answer.ratings.values())
    return [response for response, grade in answer.ratings.items() if grade == highest]


def _first_unknown(flags: Mapping[ResponseId, Sequence[str]], known: Collection[str]) -> str | None:
    return next((flag for names in flags.values() for flag in names if flag not in known), None)
