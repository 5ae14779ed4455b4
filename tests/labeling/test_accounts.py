"""Invitations, passwords and sessions, on both databases."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import sqlalchemy as sa
from label_tools import Clock

from labeling_app import accounts
from labeling_app.accounts import InvitationSpent
from labeling_app.schema import invitations, sessions, users
from labeling_app.store import Disabled, Store, Tx, UnknownUser, User
from rlhf.errors import UserError

FORTNIGHT = timedelta(days=14)


def add_with_password(store: Store, name: str = "ana", password_hash: str = "right") -> User:
    user = store.add_user(name)
    token = store.write(accounts.invite, user.id, "password").token
    store.write(accounts.choose_password, token, password_hash, FORTNIGHT)
    return store.user(user.id)


def logged_in(store: Store, token: str) -> str | None:
    session = store.read(accounts.session, token)
    return None if session is None else session.user.name


def test_an_invitation_lets_choose_a_password_once(store: Store) -> None:
    ana = store.add_user("ana")
    invitation = store.write(accounts.invite, ana.id, "password")
    assert store.read(accounts.invited, invitation.token) == ana
    assert store.read(accounts.invited, invitation.token) == ana  # looking changes nothing
    token = store.write(accounts.choose_password, invitation.token, "hash", FORTNIGHT)
    assert logged_in(store, token) == "ana"
    assert store.user("ana").has_password
    assert store.read(accounts.invited, invitation.token) is None
    with pytest.raises(InvitationSpent):
        store.write(accounts.choose_password, invitation.token, "another", FORTNIGHT)
    assert store.write(accounts.begin_login, "ana").password_hash == "hash"


def test_two_who_take_up_the_same_link_at_once_get_one_session(store: Store) -> None:
    local = store.add_user("local", "admin")
    token = store.write(accounts.invite, local.id, "session").token

    def enter() -> str | None:
        try:
            return store.write(accounts.enter, token, FORTNIGHT)
        except InvitationSpent:
            return None

    with ThreadPoolExecutor(4) as pool:
        entered = [future.result() for future in [pool.submit(enter) for _ in range(8)]]
    assert sum(one is not None for one in entered) == 1


def test_an_invitation_runs_out_after_seven_days(store: Store, clock: Clock) -> None:
    ana = store.add_user("ana")
    token = store.write(accounts.invite, ana.id, "password").token
    clock.advance(7 * 86_400)
    assert store.read(accounts.invited, token) is None
    with pytest.raises(InvitationSpent):
        store.write(accounts.choose_password, token, "hash", FORTNIGHT)


def test_a_newer_invitation_takes_the_place_of_the_older(store: Store) -> None:
    ana = store.add_user("ana")
    old = store.write(accounts.invite, ana.id, "password").token
    new = store.write(accounts.invite, ana.id, "password").token
    with pytest.raises(InvitationSpent):
        store.write(accounts.choose_password, old, "hash", FORTNIGHT)
    store.write(accounts.choose_password, new, "hash", FORTNIGHT)


def test_a_newer_link_into_the_app_takes_the_place_of_the_older(store: Store) -> None:
    local = store.add_user("local", "admin")
    old = store.write(accounts.invite, local.id, "session").token
    entered = store.write(accounts.enter, store.write(accounts.invite, local.id, "session").token, FORTNIGHT)
    new = store.write(accounts.invite, local.id, "session").token
    with pytest.raises(InvitationSpent):
        store.write(accounts.enter, old, FORTNIGHT)
    assert logged_in(store, store.write(accounts.enter, new, FORTNIGHT)) == "local"
    assert logged_in(store, entered) == "local"  # whoever is in stays in


def test_nobody_comes_in_as_somebody_imported_or_simulated(store: Store) -> None:
    imported = store.add_user("imported.votes.ann")
    program = store.add_user("sim-a", simulated=True)
    with pytest.raises(UserError, match=r"user imported.votes.ann: was imported .* cannot be invited"):
        store.write(accounts.invite, imported.id, "password")
    with pytest.raises(UserError, match="user sim-a: is a program"):
        store.write(accounts.invite, program.id, "password")
    assert [event.kind for event in store.events()] == ["user_added"] * 2


def test_a_link_of_one_purpose_is_not_taken_for_the_other(store: Store) -> None:
    ana = store.add_user("ana")
    ben = store.add_user("ben")
    password = store.write(accounts.invite, ana.id, "password").token
    session = store.write(accounts.invite, ben.id, "session").token
    with pytest.raises(InvitationSpent):
        store.write(accounts.choose_password, session, "hash", FORTNIGHT)
    with pytest.raises(InvitationSpent):
        store.write(accounts.enter, password, FORTNIGHT)


def test_a_new_password_ends_the_sessions_that_were_open(store: Store) -> None:
    ana = store.add_user("ana")
    old = store.write(accounts.open_session, ana.id, FORTNIGHT)
    invitation = store.write(accounts.invite, ana.id, "password")
    new = store.write(accounts.choose_password, invitation.token, "hash", FORTNIGHT)
    assert (logged_in(store, old), logged_in(store, new)) == (None, "ana")


def test_nobody_is_invited_who_is_unknown_or_closed(store: Store) -> None:
    ana = store.add_user("ana")
    token = store.write(accounts.invite, ana.id, "password").token
    store.set_disabled(ana.id, True)
    with pytest.raises(Disabled, match="`rlhf label users disable ana --undo`"):
        store.write(accounts.invite, ana.id, "password")
    assert store.read(accounts.invited, token) is None
    with pytest.raises(Disabled):
        store.write(accounts.choose_password, token, "hash", FORTNIGHT)
    with pytest.raises(UnknownUser):
        store.write(accounts.invite, 99, "password")
    assert store.user("ana").has_password is False


def test_sessions_end_by_time_by_logout_and_with_the_account(store: Store, clock: Clock) -> None:
    ana = store.add_user("ana")
    first = store.write(accounts.open_session, ana.id, FORTNIGHT)
    clock.advance(86_400)
    second = store.write(accounts.open_session, ana.id, FORTNIGHT)
    third = store.write(accounts.open_session, ana.id, FORTNIGHT)
    clock.advance(13 * 86_400)
    assert [logged_in(store, token) for token in (first, second, third)] == [None, "ana", "ana"]
    store.write(accounts.close_session, second)
    assert [logged_in(store, token) for token in (second, third)] == [None, "ana"]
    store.set_disabled(ana.id, True)
    store.set_disabled(ana.id, False)
    assert logged_in(store, third) is None


def test_tokens_are_stored_hashed(store: Store) -> None:
    ana = store.add_user("ana")
    tokens = [
        store.write(accounts.invite, ana.id, "password").token,
        store.write(accounts.open_session, ana.id, FORTNIGHT),
    ]

    def everything(tx: Tx) -> str:
        tables = (users, invitations, sessions)
        return repr([tx.connection.execute(sa.select(table)).all() for table in tables])

    stored = store.read(everything) + repr(store.events())
    assert [token in stored for token in tokens] == [False, False]


@pytest.mark.parametrize("token", ["", "x", "é\x00\ud800", "a" * 10_000])
def test_made_up_tokens_are_nobodys(store: Store, token: str) -> None:
    store.write(accounts.open_session, store.add_user("ana").id, FORTNIGHT)
    assert logged_in(store, token) is None
    assert store.read(accounts.invited, token) is None


def test_the_fifth_failure_locks_for_a_quarter_of_an_hour(store: Store, clock: Clock) -> None:
    add_with_password(store)
    for _ in range(5):
        attempt = store.write(accounts.begin_login, "ana")
        assert (attempt.is_locked, attempt.password_hash) == (False, "right")
        store.write(accounts.fail_login, attempt)
    attempt = store.write(accounts.begin_login, "ana")
    assert (attempt.is_locked, attempt.password_hash) == (True, None)
    assert [event.kind for event in store.events()].count("locked") == 1
    clock.advance(15 * 60)
    attempt = store.write(accounts.begin_login, "ana")
    assert attempt.password_hash == "right"
    token = store.write(accounts.finish_login, attempt, FORTNIGHT)
    assert token is not None
    assert logged_in(store, token) == "ana"


def test_attempts_at_the_same_time_get_no_more_guesses(store: Store) -> None:
    add_with_password(store)
    with ThreadPoolExecutor(8) as pool:
        begun = list(pool.map(lambda _: store.write(accounts.begin_login, "ana"), range(30)))
    assert sum(attempt.password_hash is not None for attempt in begun) == 5
    assert sum(attempt.is_locked for attempt in begun) == 25


def test_the_right_password_forgives_earlier_failures(store: Store) -> None:
    add_with_password(store)
    for _ in range(3):
        for _ in range(4):
            store.write(accounts.fail_login, store.write(accounts.begin_login, "ana"))
        assert store.write(accounts.finish_login, store.write(accounts.begin_login, "ana"), FORTNIGHT) is not None


def test_a_new_invitation_opens_a_locked_account(store: Store) -> None:
    ana = add_with_password(store)
    for _ in range(5):
        store.write(accounts.begin_login, "ana")
    token = store.write(accounts.invite, ana.id, "password").token
    store.write(accounts.choose_password, token, "new", FORTNIGHT)
    assert store.write(accounts.begin_login, "ana").password_hash == "new"


def test_a_login_that_a_new_password_overtakes_fails(store: Store) -> None:
    ana = add_with_password(store)
    attempt = store.write(accounts.begin_login, "ana")
    token = store.write(accounts.invite, ana.id, "password").token
    store.write(accounts.choose_password, token, "new", FORTNIGHT)
    assert store.write(accounts.finish_login, attempt, FORTNIGHT) is None


def test_who_has_no_password_or_a_closed_account_is_answered_like_nobody(store: Store) -> None:
    store.add_user("invited")
    store.set_disabled(add_with_password(store, "closed").id, True)
    attempts = [store.write(accounts.begin_login, name) for name in ("nobody", "invited", "closed")]
    assert attempts == [accounts.Attempt(None, None, False)] * 3
