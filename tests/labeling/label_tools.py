"""What tests of the label store have in common."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from labeling_app.answers import Answer
from labeling_app.store import Claimed, NewResponse, NewTask


class Clock:
    """A clock that stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def new_task(prompt: str = "Why?", texts: Sequence[str] = ("a", "b", "c"), **options: object) -> NewTask:
    """A task that shows these texts, each by a model named after it."""
    return NewTask(prompt, [NewResponse(text, model=f"model-{text}") for text in texts], **options)


def new_tasks(num: int, **options: object) -> list[NewTask]:
    """Tasks with the prompts `prompt 0`, `prompt 1`, ..."""
    return [new_task(f"prompt {number}", **options) for number in range(num)]


def as_shown(claimed: Claimed) -> Answer:
    """The first shown is best, the last shown worst."""
    return Answer(tiers=[[response] for response, _ in claimed.responses])


def reversed_order(claimed: Claimed) -> Answer:
    """The last shown is best."""
    return Answer(tiers=[[response] for response, _ in reversed(claimed.responses)])
