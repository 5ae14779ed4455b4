"""What goes into the store and what comes out of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeAlias

from labeling_app.answers import Answer, Mode

Content: TypeAlias = str | list[dict[str, Any]]
"""Text, or a list of messages `{"role", "content"}`."""

Role = Literal["annotator", "admin"]

IMPORTED = "imported."
"""How the names of users begin whose answers came in a file. They have no password and cannot log in."""


@dataclass(frozen=True)
class User:
    """Somebody who answers, or looks after those who do; `name` is a pseudonym."""

    id: int
    name: str
    role: Role
    simulated: bool
    created_at: datetime
    disabled_at: datetime | None = None
    quarantined_at: datetime | None = None
    has_password: bool = False


@dataclass(frozen=True)
class NewResponse:
    """A completion to be judged, and who wrote it how: a model's ref, and the parameters of the sampling."""

    content: Content
    model: str | None = None
    generation: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class NewTask:
    """A question for people.

    Attributes:
        overlap: how many people are to answer it.
        gold: what is known to be right, by positions in `responses`: `{"tiers": [[2], [0, 1]]}` or
            `{"ratings": {0: 6, 1: 2}}`. Everybody gets such a task once, unmarked, whatever `overlap` says.
        origin: whatever came with it; kept and exported.
    """

    prompt: Content
    responses: Sequence[NewResponse]
    mode: Mode = "rank"
    priority: int = 0
    overlap: int = 1
    gold: Mapping[str, Any] | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rejected:
    """A task that was not added: its place among those given, why, and the one it repeats if it does."""

    index: int
    why: str
    task_id: int | None = None


@dataclass(frozen=True)
class Added:
    """What came of adding tasks. `num_identical` completions were the same text as another of their task."""

    task_ids: list[int]
    num_tasks: int
    num_responses: int
    num_identical: int
    rejected: list[Rejected]


@dataclass(frozen=True)
class Claimed:
    """A task for one person, as that person is to see it.

    Attributes:
        lease: what to submit it with; None where it was answered, and can be revised, or is only looked back at.
        responses: id and content, in the order in which they are to be shown.
        answer: the person's own last answer, if there is one, and `revision` its number (0 without).
    """

    lease: str | None
    task_id: int
    mode: Mode
    queue: str
    prompt: Content
    responses: list[tuple[int, Content]]
    expires_at: datetime | None
    answer: Answer | None = None
    revision: int = 0


@dataclass(frozen=True)
class Receipt:
    """An answer is stored."""

    submission_id: int
    task_id: int
    revision: int
    created_at: datetime


@dataclass(frozen=True)
class Skipped:
    """A task was put aside."""

    task_id: int
    reason: str
    created_at: datetime


@dataclass(frozen=True)
class Progress:
    """How far one person is; what they hold just now counts as open to them. Days are UTC's."""

    num_answered: int
    num_today: int
    num_open_for_me: int
    num_skipped: int
    seconds_today: float


@dataclass(frozen=True)
class Outlook:
    """Why there is no task for somebody in a queue, and what may come.

    Attributes:
        num_tasks: all there are, gold included, what was withdrawn not.
        num_with_others: on others' screens just now, and never given to this person.
        seconds_to_next: until the first of those comes back if it is neither answered nor prolonged.
        num_for_others: lack answers which only others can give: this person has answered or skipped them.
    """

    num_tasks: int
    num_with_others: int
    seconds_to_next: float | None
    num_for_others: int


@dataclass(frozen=True)
class Handled:
    """A task somebody is done with; `at` is when they last touched it, `revision` is 0 for a skipped one."""

    task_id: int
    at: datetime
    kind: Literal["answered", "skipped"]
    revision: int
    prompt_preview: str


@dataclass(frozen=True)
class AnnotatorStatus:
    """What one person has done in one queue."""

    name: str
    num_answers: int
    num_skipped: int
    seconds: float
    last_at: datetime | None
    simulated: bool
    quarantined: bool


@dataclass(frozen=True)
class QueueStatus:
    """How one queue stands. Gold tasks are counted in `num_gold` alone, withdrawn ones in `num_withdrawn`.

    Answers of people who are quarantined finish no task; they are in `num_answers` all the same.

    Attributes:
        num_done: as many people have answered as were asked for.
        num_in_progress: begun: answered by some, or on somebody's screen.
        num_open: nobody has answered them and nobody has them on the screen.
        num_skipped_by_all: of the open ones, those that all who saw them have skipped.
        num_answers: tasks times people, gold included; a revision is not counted again.
    """

    queue: str
    num_tasks: int
    num_done: int
    num_in_progress: int
    num_open: int
    num_skipped_by_all: int
    num_answers: int
    num_gold: int
    num_withdrawn: int
    by_annotator: list[AnnotatorStatus]


@dataclass(frozen=True)
class Response:
    """A completion, with all that wrote this very text for its task: `[{"model", "generation"}, ...]`."""

    id: int
    content: Content
    sources: list[dict[str, Any]]


@dataclass(frozen=True)
class Judgement:
    """What one person last said of one task.

    Attributes:
        responses: in the order in which they were added.
        presented: their ids in the order in which this person saw them.
        gold: what is known to be right, by response ids, as `Answer.tiers` or `Answer.ratings`.
        created_at: of this revision; `first_at` is when the task was first answered.
        active_ms: with the page in front and somebody at it, over all revisions.
        wall_ms: from claim to the first answer.
        guidelines_version: what the page showed when this was said; None where nothing was shown.
    """

    submission_id: int
    task_id: int
    queue: str
    mode: Mode
    prompt: Content
    responses: list[Response]
    presented: list[int]
    answer: Answer
    revision: int
    user_id: int
    user: str
    simulated: bool
    quarantined: bool
    gold: dict[str, Any] | None
    origin: dict[str, Any]
    guidelines_version: int | None
    created_at: datetime
    first_at: datetime
    active_ms: int
    wall_ms: int

    @property
    def is_imported(self) -> bool:
        """Whether it came in a file: nobody saw the responses in the order that the store made up."""
        return self.user.startswith(IMPORTED)


@dataclass(frozen=True)
class Event:
    """Something that happened; `user_id` is who did it, None the store itself."""

    id: int
    created_at: datetime
    kind: str
    user_id: int | None
    task_id: int | None
    body: dict[str, Any]
