"""Programs that stand in for annotators: they claim tasks and submit answers as people do, and are marked for good."""

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from labeling_app.answers import Answer, Mode, problem_with
from labeling_app.store import Claimed, Content, Store, Tx, UnknownUser, User
from labeling_app.store.answering import submit
from labeling_app.store.claiming import claim
from labeling_app.store.people import add_user, user
from labeling_app.task_rows import Verdict
from rlhf.errors import UserError

Said = Sequence[Sequence[int]] | dict[int, int]
"""Tiers of positions, best first; where responses are rated, a grade for each position."""


class Judge(Protocol):
    """Somebody simulated. Judges with the same name and seed say the same of the same responses."""

    @property
    def name(self) -> str:
        """A pseudonym, as users have: 1 to 64 of a-z, 0-9, `.`, `_`, `-`."""

    def judge(self, mode: Mode, prompt: Any, responses: Sequence[Any], presented: Sequence[int]) -> Said:
        """What this one thinks of `responses`; `presented` are their positions in the order on the screen."""


@dataclass(frozen=True)
class _Due:
    """An answer that is ready to be submitted."""

    user_id: int
    lease: str
    task_id: int
    answer: Answer


def answer_queue(
    store: Store, judges: Sequence[Judge], queue: str, progress: Callable[[int], None] | None = None
) -> int:
    """Let the judges work until there is nothing left for any of them; returns how many answers they gave.

    They take turns: whoever has answered least is next, so that the same tasks go to the same judges whether or not
    the work was interrupted. `progress` is told the number of answers so far.

    Raises:
        UserError: a judge's name is malformed, twice there, or a person's; or what a judge says is no answer.
    """
    if len({judge.name for judge in judges}) < len(judges):
        raise UserError(f"annotators: two have one name ({', '.join(judge.name for judge in judges)})")
    people = store.write(_enrol, [judge.name for judge in judges])
    of_user = {person.id: judge for person, judge in zip(people, judges, strict=True)}
    done = {user_id: store.progress(user_id, queue).num_answered for user_id in of_user}
    before = sum(done.values())
    held = {user_id: claimed for user_id in of_user if (claimed := store.claim(user_id, queue)) is not None}
    while held:
        least = min(done[user_id] for user_id in held)
        turn = [user_id for user_id in of_user if user_id in held and done[user_id] == least]
        answers = [_answer(of_user[user_id], user_id, held[user_id]) for user_id in turn]
        for user_id, claimed in store.write(_submit_and_claim, answers, queue).items():
            done[user_id] += 1
            held.pop(user_id)
            if claimed is not None:
                held[user_id] = claimed
        if progress is not None:
            progress(sum(done.values()) - before)
    return sum(done.values()) - before


@contextmanager
def explained(who: str) -> Iterator[None]:
    """What the user's code raises, as the user's error, with file and line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(f"{who}: raised {type(error).__name__}: {error} ({where.filename}:{where.lineno})") from error


def _enrol(tx: Tx, names: Sequence[str]) -> list[User]:
    return [_enrolled(tx, name) for name in names]


def _enrolled(tx: Tx, name: str) -> User:
    try:
        found = user(tx, name)
    except UnknownUser:
        return add_user(tx, name, simulated=True)
    if not found.simulated:
        raise UserError(f"annotators: {name!r} is a person in this store; a simulated annotator needs another name")
    return found


def _answer(judge: Judge, user_id: int, claimed: Claimed) -> _Due:
    """What the judge says of a task, given in an order that does not depend on how it is shown."""
    assert claimed.lease is not None
    contents: dict[int, Content] = dict(claimed.responses)
    ids = sorted(contents)
    presented = [ids.index(response) for response, _ in claimed.responses]
    with explained(f"annotators: {judge.name}"):
        said = judge.judge(claimed.mode, claimed.prompt, [contents[response] for response in ids], presented)
    try:
        if isinstance(said, dict):
            verdict = Verdict(ratings={place: float(grade) for place, grade in said.items()})
        else:
            verdict = Verdict(tiers=[list(tier) for tier in said])
        answer = verdict.answer(ids, ())
        problem = problem_with(answer, claimed.mode, ids, ())
    except (TypeError, ValueError, LookupError):
        problem = "expected tiers of positions, such as [[2], [0, 1]], or in mode rate a grade for each: {0: 5, 1: 3}"
    if problem is not None:
        raise UserError(f"annotators: {judge.name} said {str(said)[:80]} of {len(ids)} responses: {problem}")
    return _Due(user_id, claimed.lease, claimed.task_id, answer)


def _submit_and_claim(tx: Tx, answers: Sequence[_Due], queue: str) -> dict[int, Claimed | None]:
    """Everybody's answer and then everybody's next task, in one transaction."""
    for due in answers:
        submit(tx, due.user_id, due.lease, f"simulated-{due.task_id}", due.answer, 0)
    return {due.user_id: claim(tx, due.user_id, queue) for due in answers}
