"""The JSON API of the annotators' page. Each handler asks who is there, then calls one operation of the store."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Any, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from labeling_app.answers import Answer
from labeling_app.settings import LabelingConfig
from labeling_app.store import Claimed, Content, Outlook, Progress, Quarantined, Receipt, Store, Tx, User
from labeling_app.store.answering import skip, submit
from labeling_app.store.claiming import claim, reopen
from labeling_app.store.people import LONGEST_NAME
from labeling_app.store.progress import holds_task, outlook
from labeling_app.web.login import Login
from labeling_app.web.rendering import Renderer, document
from labeling_app.web.replies import Refused, as_json
from labeling_app.web.security import Mode, Sessions

T = TypeVar("T")
BodyT = TypeVar("BodyT", bound=BaseModel)
WrittenT = TypeVar("WrittenT", bound="_Written")

QUICKLY_RENDERED = 20_000
"""Characters; longer texts are parsed in a thread."""

Token = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Number = Annotated[int, Field(ge=1, le=2**31 - 1)]
TaskId = Number
Milliseconds = Annotated[int, Field(ge=0, le=2**31 - 1)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Claim(_Body):
    """The next task; `arriving`: the page was just opened, perhaps to look at it only."""

    arriving: bool = False


class _Written(_Body):
    """What somebody has said, and who: another person may have signed in since, in another tab of the browser."""

    user: Annotated[str, Field(max_length=LONGEST_NAME)]


class Submission(_Written):
    """An answer to the task in hand; `guidelines_version` is what the page showed, None without guidelines."""

    lease: Token
    key: Token
    answer: Answer
    active_ms: Milliseconds
    guidelines_version: Number | None


class Revision(_Written):
    """Another answer in the place of revision `based_on`."""

    task_id: TaskId
    based_on: Number
    key: Token
    answer: Answer
    active_ms: Milliseconds
    guidelines_version: Number | None


class Skip(_Written):
    """A task put aside."""

    lease: Token
    key: Token
    reason: Annotated[str, Field(min_length=1, max_length=200)]
    note: Annotated[str, Field(max_length=10_000)] = ""


class Extension(_Body):
    """Somebody is still at it."""

    lease: Token


class Reopening(_Body):
    """Back to an earlier task; `take`: one that was skipped or slipped away is to be answered after all."""

    task_id: TaskId
    take: bool = False


class Api:
    """Everything below /api/."""

    def __init__(
        self, store: Store, config: LabelingConfig, sessions: Sessions, login: Login, mode: Mode = "accounts"
    ) -> None:
        self._store, self._config, self._sessions, self._login = store, config, sessions, login
        self._queue = config.queue
        self._mode = mode
        self._render = Renderer()
        self._progress = ProgressBook(store, config.queue)
        self._guidelines: tuple[int, list[Any]] | None = None

    @property
    def routes(self) -> list[Route]:
        """Where the handlers are."""
        return [
            Route("/api/claim", self.claim, methods=["POST"]),
            Route("/api/submit", self.submit, methods=["POST"]),
            Route("/api/skip", self.skip, methods=["POST"]),
            Route("/api/extend", self.extend, methods=["POST"]),
            Route("/api/me", self.me, methods=["GET"]),
            Route("/api/history", self.history, methods=["GET"]),
            Route("/api/reopen", self.reopen, methods=["POST"]),
            Route("/api/revise", self.revise, methods=["POST"]),
            Route("/api/logout", self.logout, methods=["POST"]),
        ]

    async def me(self, request: Request) -> Response:
        """Who is there, and what the page has to know."""
        user = await self._sessions.user(request)
        config = self._config
        return as_json(
            {
                "user": {"name": user.name, "role": user.role},
                "queue": self._queue,
                "title": config.title,
                "flags": [{"name": name, "label": label} for name, label in config.flags.items()],
                "skip_reasons": config.skip_reasons,
                "guidelines": await self._current_guidelines(),
                "lease_seconds": config.lease_seconds,
                "progress": await self._progress.fresh(user),
            }
        )

    async def claim(self, request: Request) -> Response:
        """The task in hand, or else a new one; an admin who arrives takes none from the annotators unasked."""
        user = await self._sessions.user(request)
        body = await _body(request, Claim)
        asks_first = body.arriving and user.role == "admin" and self._mode == "accounts"
        given, now = await self._store.call(_at, _arrive if asks_first else _give, user.id, self._queue)
        return as_json(await self._next(user, given, now) | {"progress": await self._progress.of(user)})

    async def submit(self, request: Request) -> Response:
        """Store an answer; with the receipt comes the next task."""
        user, body = await self._written(request, Submission)
        given = (user.id, body.lease, body.key, body.answer, body.active_ms, body.guidelines_version)
        (receipt, following), now = await self._store.call(_at, _submit_and_give, self._queue, *given)
        progress = await self._progress.answered(user, receipt, body.active_ms)
        return as_json(await self._next(user, following, now) | {"receipt": receipt, "progress": progress})

    async def skip(self, request: Request) -> Response:
        """Put the task aside; the next one comes with the answer."""
        user, body = await self._written(request, Skip)
        given = (user.id, body.lease, body.key, body.reason, body.note)
        following, now = await self._store.call(_at, _skip_and_give, self._queue, *given)
        progress = await self._progress.fresh(user)
        return as_json(await self._next(user, following, now) | {"progress": progress})

    async def extend(self, request: Request) -> Response:
        """Keep the task for longer."""
        user = await self._sessions.user(request)
        body = await _body(request, Extension)
        return as_json({"expires_at": await self._store.call("extend", user.id, body.lease)})

    async def history(self, request: Request) -> Response:
        """What this person did last."""
        user = await self._sessions.user(request)
        handled = await self._store.call("history", user.id, self._queue)
        return as_json({"handled": handled})

    async def reopen(self, request: Request) -> Response:
        """An earlier task of this person's, to look at, revise or take again."""
        user = await self._sessions.user(request)
        body = await _body(request, Reopening)
        claimed, now = await self._store.call(_at, reopen, user.id, body.task_id, body.take)
        return as_json({"task": await self._task(user, claimed, now)})

    async def revise(self, request: Request) -> Response:
        """Store another answer in the place of an earlier one."""
        user, body = await self._written(request, Revision)
        given = (user.id, body.task_id, body.key, body.answer, body.active_ms, body.based_on, body.guidelines_version)
        return as_json({"receipt": await self._store.call("revise", *given)})

    async def logout(self, request: Request) -> Response:
        """End the session."""
        headers = await self._login.end_session(request)
        return as_json({}, headers=headers)

    async def _written(self, request: Request, model: type[WrittenT]) -> tuple[User, WrittenT]:
        """Who is there, and what they say.

        Raises:
            Refused: it was written by somebody else.
        """
        user = await self._sessions.user(request)
        body = await _body(request, model)
        if body.user != user.name:
            raise Refused(403, "other_user", "Somebody else has signed in since. Nothing was saved.")
        return user, body

    async def _next(self, user: User, given: "_Given", now: datetime) -> dict[str, Any]:
        return {"task": await self._task(user, given.claimed, now), "outlook": given.outlook, "asked": given.asked}

    async def _task(self, user: User, claimed: Claimed | None, now: datetime) -> dict[str, Any] | None:
        if claimed is None:
            return None
        seconds_left = None
        if claimed.expires_at is not None:
            seconds_left = round(max(0.0, (claimed.expires_at - now).total_seconds()), 1)
        return {
            "user": user.name,
            "task_id": claimed.task_id,
            "lease": claimed.lease,
            "mode": claimed.mode,
            "prompt": await self._rendered(claimed.prompt),
            "cards": [
                {"id": number, "rendered": await self._rendered(content)} for number, content in claimed.responses
            ],
            "expires_at": claimed.expires_at,
            "seconds_left": seconds_left,
            "answer": None if claimed.answer is None else claimed.answer.model_dump(mode="json"),
            "revision": claimed.revision,
        }

    async def _rendered(self, content: Content) -> orjson.Fragment:
        size = len(content) if isinstance(content, str) else sum(len(str(message)) for message in content)
        if size <= QUICKLY_RENDERED:
            return self._render(content)
        return await asyncio.to_thread(self._render, content)

    async def _current_guidelines(self) -> dict[str, Any] | None:
        found: tuple[int, str] | None = await self._store.call("guidelines", self._queue)
        if found is None:
            return None
        if self._guidelines is None or self._guidelines[0] != found[0]:
            self._guidelines = found[0], document(found[1])
        return {"version": found[0], "tree": self._guidelines[1]}


@dataclass
class _Count:
    progress: Progress
    good_until: float
    last_submission: int = 0


class ProgressBook:
    """How far each person is, counted in the store now and then and by one in between.

    Counting means going through all open tasks, so that it is done the less often the longer it takes.
    """

    def __init__(self, store: Store, queue: str, at_least_seconds: float = 20.0, share_of_time: float = 0.002) -> None:
        self._store, self._queue = store, queue
        self._at_least, self._share = at_least_seconds, share_of_time
        self._counts: OrderedDict[int, _Count] = OrderedDict()

    async def of(self, user: User) -> Progress:
        """As last counted."""
        count = self._counts.get(user.id)
        return count.progress if count is not None and count.good_until > time.monotonic() else await self.fresh(user)

    async def fresh(self, user: User) -> Progress:
        """Counted now."""
        started = time.monotonic()
        progress: Progress = await self._store.call("progress", user.id, self._queue)
        ended = time.monotonic()
        good_for = max(self._at_least, (ended - started) / self._share)
        before = self._counts.pop(user.id, None)
        last_submission = 0 if before is None else before.last_submission
        self._counts[user.id] = _Count(progress, ended + good_for, last_submission)
        if len(self._counts) > 10_000:
            self._counts.popitem(last=False)
        return progress

    async def answered(self, user: User, receipt: Receipt, active_ms: int) -> Progress:
        """With this answer; the same one may come twice."""
        count = self._counts.get(user.id)
        if count is None or count.good_until <= time.monotonic():
            progress = await self.fresh(user)
            self._counts[user.id].last_submission = receipt.submission_id
            return progress
        if receipt.submission_id > count.last_submission:
            count.last_submission = receipt.submission_id
            known = count.progress
            count.progress = replace(
                known,
                num_answered=known.num_answered + 1,
                num_today=known.num_today + 1,
                num_open_for_me=max(0, known.num_open_for_me - 1),
                seconds_today=known.seconds_today + active_ms / 1000,
            )
        return count.progress


def _at(tx: Tx, operation: Callable[..., T], *args: Any) -> tuple[T, datetime]:
    """What the operation gives, and the moment by the store's clock."""
    return operation(tx, *args), tx.now


@dataclass(frozen=True)
class _Given:
    """The next task, or why there is none; `asked`: there may be one, and the person is to say whether to begin."""

    claimed: Claimed | None = None
    outlook: Outlook | None = None
    asked: bool = False


def _give(tx: Tx, user_id: int, queue: str) -> _Given:
    claimed = claim(tx, user_id, queue)
    return _Given(claimed) if claimed is not None else _Given(outlook=outlook(tx, user_id, queue))


def _arrive(tx: Tx, user_id: int, queue: str) -> _Given:
    return _give(tx, user_id, queue) if holds_task(tx, user_id, queue) else _Given(asked=True)


def _submit_and_give(
    tx: Tx, queue: str, user_id: int, lease: str, key: str, answer: Answer, active_ms: int, guidelines: int | None
) -> tuple[Receipt, _Given]:
    """One transaction, and so one sync of the disk: the answer is stored, and the next task is given out."""
    return submit(tx, user_id, lease, key, answer, active_ms, guidelines), _give_next(tx, user_id, queue)


def _skip_and_give(tx: Tx, queue: str, user_id: int, lease: str, key: str, reason: str, note: str) -> _Given:
    skip(tx, user_id, lease, key, reason, note)
    return _give_next(tx, user_id, queue)


def _give_next(tx: Tx, user_id: int, queue: str) -> _Given:
    """The next task; none for somebody quarantined since, whose request was stored and is only sent again."""
    try:
        return _give(tx, user_id, queue)
    except Quarantined:
        return _Given()


async def _body(request: Request, model: type[BodyT]) -> BodyT:
    """What was sent, checked.

    Raises:
        Refused: it is not JSON, or not what is expected here.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise Refused(415, "malformed", "Expected application/json.")
    try:
        return model.model_validate_json(await request.body() or b"{}")
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(step) for step in first["loc"])
        raise Refused(422, "malformed", f"{where}: {first['msg']}" if where else first["msg"]) from None
