"""What the ranking app can be told: `configs/labeling.yaml`."""

from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import Field, model_validator

from rlhf.config import LocalPath, Section

FLAGS = {
    "harmful": "Harmful",
    "untrue": "Untrue",
    "off-topic": "Off topic",
    "broken": "Broken text",
}

SKIP_REASONS = ["I do not know enough about this", "I cannot decide", "It should not be shown to anybody", "Other"]

QUEUE = "default"

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9._/-]{1,100}$")]
"""Of a queue; a run's queue is named after the run."""


@dataclass(frozen=True)
class StoreSettings:
    """What the store needs to know.

    Attributes:
        lease_seconds: how long a task is kept for the person who has it on the screen.
        gold_share: of the tasks given to a person, how many are gold, from 0 (never) to 1.
        flags: the complaints that an answer may hold.
        seed: of the draws that decide who gets a gold task when.
    """

    lease_seconds: float = 1800.0
    gold_share: float = 0.1
    flags: frozenset[str] = frozenset(FLAGS)
    seed: int = 0


class LabelingConfig(Section):
    """How the ranking app looks and whom it serves."""

    title: Annotated[str, Field(min_length=1, max_length=100)] = "Which answer is better?"
    guidelines: LocalPath | None = None
    """A Markdown file for the annotators; every change of it is a new version, and answers name theirs."""
    flags: dict[Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")], str] = FLAGS
    """Complaints about a single response: name in the data and label on the page."""
    skip_reasons: Annotated[list[str], Field(min_length=1)] = SKIP_REASONS
    lease_seconds: Annotated[int, Field(ge=30, le=86_400)] = 1800
    """How long a task is kept for the person who has it on the screen; activity prolongs it."""
    gold_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of tasks whose right answer is known, mixed in unmarked."""
    session_days: Annotated[int, Field(ge=1, le=365)] = 14
    """How long a login lasts."""
    queue: Name = QUEUE
    """Which tasks are served."""
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 7860
    public_url: Annotated[str, Field(pattern=r"^https?://[^/\s]+$")] | None = None
    """The address people type, when a proxy stands before the app: `https://labels.example.org`."""
    seed: int = 0

    @model_validator(mode="after")
    def _different(self) -> Self:
        if len(set(self.skip_reasons)) < len(self.skip_reasons):
            raise ValueError("skip_reasons: a reason stands there twice")
        return self

    @property
    def store(self) -> StoreSettings:
        """The part of it that the store needs."""
        return StoreSettings(
            lease_seconds=float(self.lease_seconds),
            gold_share=self.gold_share,
            flags=frozenset(self.flags),
            seed=self.seed,
        )
