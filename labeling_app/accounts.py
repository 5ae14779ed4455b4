"""Who may come in: invitations, passwords and sessions, as operations of the store.

Tokens are random and are given out once; the store keeps their SHA-256. An invitation lets its bearer choose a password
(which is also how a forgotten one is replaced) or, on loopback, come in at once. Every attempt at a password is counted
before the password is looked at, so that many attempts at the same time get no more guesses than one after the other.
"""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import sqlalchemy as sa

from labeling_app.schema import invitations, sessions, users
from labeling_app.store import Disabled, StoreError, Tx, User
from labeling_app.store.people import lock, user
from labeling_app.store.values import IMPORTED
from rlhf.errors import UserError

Purpose = Literal["password", "session"]

MAX_FAILURES = 5
LOCKED_FOR = timedelta(minutes=15)
INVITED_FOR = {"password": timedelta(days=7), "session": timedelta(days=1)}


class InvitationSpent(StoreError):
    """The link was used, has run out, was replaced by a newer one, or never existed."""

    code = "invitation_spent"


@dataclass(frozen=True)
class Invitation:
    """What is put into a link; the token is not kept anywhere."""

    token: str
    expires_at: datetime


@dataclass(frozen=True)
class Session:
    """Somebody who is logged in."""

    user: User
    expires_at: datetime


@dataclass(frozen=True)
class Attempt:
    """A login that was begun.

    Attributes:
        user_id: None when nobody of that name can log in.
        password_hash: what the password has to fit; None for nobody.
        is_locked: too many attempts have failed; the password is not to be looked at.
    """

    user_id: int | None = None
    password_hash: str | None = None
    is_locked: bool = False


def invite(tx: Tx, user_id: int, purpose: Purpose, by: int | None = None) -> Invitation:
    """A one-time link for this user. Earlier ones that were not used stop working.

    Raises:
        UnknownUser: there is no such user.
        Disabled: the account is closed.
        UserError: it is nobody who could come in: imported or simulated.
    """
    lock(tx, user_id)
    found = user(tx, user_id)
    check_is_a_person(found)
    if found.disabled_at is not None:
        raise Disabled(
            f"user {found.name}: the account is closed; open it again with `rlhf label users disable {found.name} "
            "--undo`"
        )
    tx.connection.execute(sa.delete(invitations).where(invitations.c.expires_at <= tx.now))
    unused = (invitations.c.user_id == user_id, invitations.c.used_at.is_(None))
    tx.connection.execute(sa.update(invitations).where(*unused).values(used_at=tx.now))
    made = Invitation(secrets.token_urlsafe(32), tx.now + INVITED_FOR[purpose])
    row = {"token_sha256": _digest(made.token), "user_id": user_id, "purpose": purpose}
    tx.connection.execute(sa.insert(invitations).values(row | {"created_at": tx.now, "expires_at": made.expires_at}))
    body = {"user_id": user_id, "purpose": purpose, "expires_at": made.expires_at.isoformat()}
    tx.record("invited", body, user_id=by)
    return made


def check_is_a_person(found: User) -> None:
    """Nobody can come in as somebody whose answers came in a file, or whom a program stands in for.

    Raises:
        UserError: it is such a user.
    """
    if found.name.startswith(IMPORTED):
        raise UserError(
            f"user {found.name}: was imported with answers that came in a file, and cannot be invited; to let that "
            "person in, add a user of another name"
        )
    if found.simulated:
        raise UserError(f"user {found.name}: is a program (a simulated annotator), and cannot be invited")


def invited(tx: Tx, token: str) -> User | None:
    """Whom a link to choose a password is for, as long as it works; looking does not use it up."""
    works = (
        invitations.c.token_sha256 == _digest(token),
        invitations.c.purpose == "password",
        invitations.c.used_at.is_(None),
        invitations.c.expires_at > tx.now,
    )
    user_id = tx.connection.execute(sa.select(invitations.c.user_id).where(*works)).scalar()
    found = None if user_id is None else user(tx, user_id)
    return None if found is None or found.disabled_at is not None else found


def choose_password(tx: Tx, token: str, password_hash: str, lasts: timedelta) -> str:
    """Take up an invitation: set the password, end all sessions the user has, and open a new one; returns its token.

    Raises:
        InvitationSpent: the link does not work, or not any more.
        Disabled: the account is closed.
    """
    user_id = _use(tx, token, "password")
    tx.connection.execute(
        sa.update(users)
        .where(users.c.id == user_id)
        .values(password_hash=password_hash, failed_logins=0, failed_at=None)
    )
    tx.connection.execute(sa.delete(sessions).where(sessions.c.user_id == user_id))
    tx.record("password_chosen", {}, user_id=user_id)
    return open_session(tx, user_id, lasts)


def enter(tx: Tx, token: str, lasts: timedelta) -> str:
    """Take up a link that logs its bearer in; returns the token of the session.

    Raises:
        InvitationSpent: the link does not work, or not any more.
        Disabled: the account is closed.
    """
    return open_session(tx, _use(tx, token, "session"), lasts)


def begin_login(tx: Tx, name: str) -> Attempt:
    """Count an attempt at somebody's password; `finish_login` takes it back when the password was right."""
    row = tx.connection.execute(sa.select(users).where(users.c.name == name).with_for_update()).one_or_none()
    if row is None or row.password_hash is None or row.disabled_at is not None:
        return Attempt()
    num_failed = _num_failed(tx, row)
    if num_failed >= MAX_FAILURES:
        return Attempt(row.id, is_locked=True)
    counted = {"failed_logins": num_failed + 1, "failed_at": tx.now}
    tx.connection.execute(sa.update(users).where(users.c.id == row.id).values(counted))
    return Attempt(row.id, row.password_hash)


def finish_login(tx: Tx, attempt: Attempt, lasts: timedelta, new_hash: str | None = None) -> str | None:
    """Open a session after the right password; returns its token, or None if the password was changed meanwhile.

    `new_hash` is the same password hashed with today's parameters.
    """
    assert attempt.user_id is not None
    assert attempt.password_hash is not None
    unchanged = (
        users.c.id == attempt.user_id,
        users.c.password_hash == attempt.password_hash,
        users.c.disabled_at.is_(None),
    )
    values = {"failed_logins": 0, "failed_at": None, "password_hash": new_hash or attempt.password_hash}
    if tx.connection.execute(sa.update(users).where(*unchanged).values(values)).rowcount == 0:
        return None
    return open_session(tx, attempt.user_id, lasts)


def fail_login(tx: Tx, attempt: Attempt) -> bool:
    """Note that the password was wrong; True if that was one time too many."""
    row = tx.connection.execute(sa.select(users).where(users.c.id == attempt.user_id)).one()
    is_locked = _num_failed(tx, row) >= MAX_FAILURES
    if is_locked:
        tx.record("locked", {"user_id": row.id, "until": (row.failed_at + LOCKED_FOR).isoformat()})
    return is_locked


def _num_failed(tx: Tx, row: Any) -> int:
    """The attempts that count; `web.throttle` forgets those at names that nobody has as fast, so that none shows."""
    return int(row.failed_logins) if row.failed_at is not None and row.failed_at + LOCKED_FOR > tx.now else 0


def open_session(tx: Tx, user_id: int, lasts: timedelta) -> str:
    """Log somebody in; returns the session's token."""
    tx.connection.execute(sa.delete(sessions).where(sessions.c.expires_at <= tx.now))
    token = secrets.token_urlsafe(32)
    expires_at = tx.now + lasts
    row = {"token_sha256": _digest(token), "user_id": user_id, "created_at": tx.now, "expires_at": expires_at}
    tx.connection.execute(sa.insert(sessions).values(row))
    tx.record("logged_in", {"expires_at": expires_at.isoformat()}, user_id=user_id)
    return token


def session(tx: Tx, token: str) -> Session | None:
    """Who is logged in with this token; None for nobody."""
    in_force = (
        sessions.c.token_sha256 == _digest(token),
        sessions.c.expires_at > tx.now,
        users.c.disabled_at.is_(None),
    )
    found = sa.select(sessions.c.user_id, sessions.c.expires_at).join(users, users.c.id == sessions.c.user_id)
    row = tx.connection.execute(found.where(*in_force)).one_or_none()
    return None if row is None else Session(user(tx, row.user_id), row.expires_at)


def close_session(tx: Tx, token: str) -> None:
    """Log out."""
    ended = sa.delete(sessions).where(sessions.c.token_sha256 == _digest(token)).returning(sessions.c.user_id)
    user_id = tx.connection.execute(ended).scalar()
    if user_id is not None:
        tx.record("logged_out", {}, user_id=user_id)


def _use(tx: Tx, token: str, purpose: Purpose) -> int:
    """Whose link this is; from now on it does not work any more."""
    works = (
        invitations.c.token_sha256 == _digest(token),
        invitations.c.purpose == purpose,
        invitations.c.used_at.is_(None),
        invitations.c.expires_at > tx.now,
    )
    used = sa.update(invitations).where(*works).values(used_at=tx.now).returning(invitations.c.user_id)
    user_id = tx.connection.execute(used).scalar()
    if user_id is None:
        raise InvitationSpent("This link was used before, or has run out. Please ask for a new one.")
    if user(tx, user_id).disabled_at is not None:
        raise Disabled("This account is closed.")
    return int(user_id)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
