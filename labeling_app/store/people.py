"""Users, and what they are told."""

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from labeling_app.schema import guidelines, leases, sessions, users
from labeling_app.store.errors import Disabled, Quarantined, UnknownUser
from labeling_app.store.slots import expire, recount_answered
from labeling_app.store.transaction import ACTIVE, QUEUE, USER, Tx
from labeling_app.store.values import Role, User
from rlhf.errors import UserError

LONGEST_NAME = 64
NAME = re.compile(rf"[a-z0-9._-]{{1,{LONGEST_NAME}}}")


def add_user(tx: Tx, name: str, role: Role = "annotator", simulated: bool = False) -> User:
    """A new user, who cannot log in before an invitation is taken up.

    Raises:
        UserError: the name is malformed or taken.
    """
    if NAME.fullmatch(name) is None:
        raise UserError(f"user {name!r}: a name has 1 to 64 characters out of a-z, 0-9, `.`, `_` and `-`")
    if tx.on_server:  # two who add the same name: the second one waits here and then sees the first
        tx.connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext(f"user {name}"))))
    if tx.connection.execute(sa.select(users.c.id).where(users.c.name == name)).first() is not None:
        raise UserError(f"user {name!r}: there is one already; choose another name")
    row = {"name": name, "role": role, "simulated": simulated, "created_at": tx.now}
    user_id = tx.connection.execute(sa.insert(users).values(row).returning(users.c.id)).scalar_one()
    tx.record("user_added", {"user_id": user_id, "name": name, "role": role, "simulated": simulated})
    return user(tx, user_id)


def all_users(tx: Tx) -> list[User]:
    """Everybody, in the order in which they came."""
    return [_user(row) for row in tx.connection.execute(sa.select(users).order_by(users.c.id))]


def user(tx: Tx, id_or_name: int | str) -> User:
    """The user of that number or name.

    Raises:
        UnknownUser: there is none.
    """
    column = users.c.name if isinstance(id_or_name, str) else users.c.id
    row = None
    if isinstance(id_or_name, int) or NAME.fullmatch(id_or_name) is not None:
        row = tx.connection.execute(sa.select(users).where(column == id_or_name)).one_or_none()
    if row is None:
        raise UnknownUser(f"user {id_or_name!r}: there is none; `rlhf label users` lists them")
    return _user(row)


def set_quarantined(tx: Tx, user_id: int, quarantined: bool, by: int | None = None, reason: str = "") -> User:
    """Keep somebody's answers out of exports and give them no more tasks; or trust them again.

    What they hold is freed for others, and what they answered is to be answered by somebody else. Their answers stay in
    the store; trusted again, they count beside those given in the meantime.

    Raises:
        UnknownUser: there is no such user.
    """
    return _set(tx, user_id, "quarantined_at", quarantined, by, {"reason": reason})


def set_disabled(tx: Tx, user_id: int, disabled: bool, by: int | None = None) -> User:
    """Close an account or open it again; its answers count as before.

    What the person holds is freed for others, and they are logged out.

    Raises:
        UnknownUser: there is no such user.
    """
    if disabled:
        tx.connection.execute(sa.delete(sessions).where(sessions.c.user_id == user_id))
    return _set(tx, user_id, "disabled_at", disabled, by, {})


def set_guidelines(tx: Tx, text: str, queue: str | None = None) -> int:
    """The version of these guidelines: a new one if they differ from those in force.

    Args:
        tx: the transaction.
        text: Markdown.
        queue: the one they are for; None for all that have none of their own.

    Raises:
        UserError: the text holds the character NUL, which PostgreSQL cannot keep.
    """
    if "\x00" in text:
        raise UserError("guidelines: the text holds the character NUL; is it a text file?")
    if tx.on_server:
        tx.connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext("guidelines"))))
    key = queue or ALL_QUEUES
    found = tx.connection.execute(_GUIDELINES, {"queue": key}).first()
    if found is not None and found.queue == key and found.text == text:
        return int(found.version)
    # counted on from the common ones, so that within a queue a number means one text
    version = 1 if found is None else found.version + 1
    row = {"queue": key, "version": version, "text": text, "created_at": tx.now}
    tx.connection.execute(sa.insert(guidelines).values(row))
    tx.record("guidelines_changed", {"queue": key, "version": version, "sha256": sha256(text)})
    return version


def current_guidelines(tx: Tx, queue: str | None = None) -> tuple[int, str] | None:
    """Version and text of the guidelines in force in a queue: its own, else the common ones."""
    row = tx.connection.execute(_GUIDELINES, {"queue": queue or ALL_QUEUES}).first()
    return None if row is None else (row.version, row.text)


def sha256(text: str) -> str:
    """Of a text's UTF-8, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def guidelines_of(queue: sa.ColumnElement[str]) -> sa.ColumnElement[int]:
    """The version in force in the queue of a row, which is its last."""
    versions = [
        sa.select(sa.func.max(guidelines.c.version)).where(guidelines.c.queue == one).scalar_subquery()
        for one in (queue, sa.literal_column("''"))
    ]
    return sa.func.coalesce(*versions)


ALL_QUEUES = ""
"""No queue has this name."""

_GUIDELINES = (
    sa.select(guidelines)
    .where(guidelines.c.queue.in_([QUEUE, ALL_QUEUES]))
    .order_by((guidelines.c.queue == ALL_QUEUES), guidelines.c.version.desc())
    .limit(1)
)


def check_active(row: Any) -> None:
    """Refuse whoever may not work now; `row` holds the user's `disabled_at` and `quarantined_at`.

    Raises:
        Disabled, Quarantined: so it is.
    """
    if row.disabled_at is not None:
        raise Disabled("This account is closed.")
    if row.quarantined_at is not None:
        raise Quarantined("No further answers are taken from this account; please speak to whoever runs this project.")


def lock(tx: Tx, user_id: int) -> None:
    """Let one person's operations run one after the other, and nobody sweep away meanwhile what they hold.

    They may have two windows open; and where their time is up, somebody else may be about to take over.
    """
    if tx.on_server:
        tx.connection.execute(_LOCK, {"user": user_id})
        tx.connection.execute(_LOCK_HELD, {"user": user_id})


# Not FOR UPDATE: rows that point to these may be written meanwhile.
_LOCK = sa.select(users.c.id).where(users.c.id == USER).with_for_update(key_share=True)
_LOCK_HELD = (
    sa.select(leases.c.id)
    .where(leases.c.user_id == USER, leases.c.state == ACTIVE)
    .order_by(leases.c.id)
    .with_for_update(key_share=True)
)


def _set(tx: Tx, user_id: int, column: str, to: bool, by: int | None, body: dict[str, Any]) -> User:
    lock(tx, user_id)
    before = user(tx, user_id)
    if (getattr(before, column) is not None) == to:
        return before
    tx.connection.execute(sa.update(users).where(users.c.id == user_id).values({column: tx.now if to else None}))
    kinds = {"quarantined_at": ("quarantined", "unquarantined"), "disabled_at": ("disabled", "enabled")}
    tx.record(kinds[column][0 if to else 1], {"user_id": user_id, **body}, user_id=by)
    if to:
        held: Sequence[int] = (
            tx.connection.execute(sa.select(leases.c.id).where(leases.c.user_id == user_id, leases.c.state == "active"))
            .scalars()
            .all()
        )
        expire(tx, held)
    if column == "quarantined_at":
        recount_answered(tx, user_id)
    return user(tx, user_id)


def _user(row: Any) -> User:
    return User(
        id=row.id,
        name=row.name,
        role=row.role,
        simulated=row.simulated,
        created_at=row.created_at,
        disabled_at=row.disabled_at,
        quarantined_at=row.quarantined_at,
        has_password=row.password_hash is not None,
    )
