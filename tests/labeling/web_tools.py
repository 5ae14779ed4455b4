"""The app on a real port of this machine, in a thread, with a store whose clock stands still."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.client import HTTPConnection
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa
import uvicorn
from argon2 import PasswordHasher
from label_tools import Clock, new_task

from labeling_app import accounts, schema
from labeling_app.settings import LabelingConfig
from labeling_app.store import Store, Tx, User
from labeling_app.web.app import create_app
from labeling_app.web.passwords import Passwords
from labeling_app.web.security import SESSION_COOKIE, Mode
from labeling_app.web.serve import listen, uvicorn_config

CONFIG = LabelingConfig(title="Which is <best>?", gold_share=0, lease_seconds=600)
PASSWORD = "correct horse battery"

QUICK_TO_HASH = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)

_numbers = count(1)


class RecordedPasswords(Passwords):
    """Notes whether something was hashed, which is what takes time."""

    def __init__(self) -> None:
        super().__init__(QUICK_TO_HASH, refused_after_seconds=0)
        self.num_checked = 0

    async def fits(self, password: str, stored: str | None) -> bool:
        self.num_checked += 1
        return await super().fits(password, stored)


class WebApp:
    """A running app."""

    def __init__(self, store: Store, clock: Clock, config: LabelingConfig, mode: Mode) -> None:
        self.store, self.clock, self.config = store, clock, config
        self.passwords = RecordedPasswords()
        self.app = create_app(store, config, mode, passwords=self.passwords)
        self.listener = listen(config.host, 0)
        self.port: int = self.listener.getsockname()[1]
        self.origin = f"http://127.0.0.1:{self.port}"
        self.server = uvicorn.Server(uvicorn_config(self.app))
        self._thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]}, daemon=True)

    def start(self) -> None:
        self._thread.start()
        while not self.server.started:
            assert self._thread.is_alive(), "the server did not start"

    def stop(self) -> None:
        self.server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive(), "the server did not stop"
        self.listener.close()
        self.passwords.close()

    def new_user(self, **options: Any) -> User:
        return self.store.add_user(f"user-{next(_numbers)}", **options)

    def session(self, user: User) -> str:
        return self.store.write(accounts.open_session, user.id, timedelta(days=14))

    def client(self, token: str | None = None, **headers: str) -> httpx.Client:
        """A browser on one of our own pages, without or with a session."""
        cookies = {} if token is None else {"cookie": f"{SESSION_COOKIE}={token}"}
        return httpx.Client(
            base_url=self.origin, headers={"origin": self.origin} | cookies | headers, trust_env=False, timeout=30
        )

    def annotator(self) -> httpx.Client:
        return self.client(self.session(self.new_user()))

    def admin(self) -> httpx.Client:
        return self.client(self.session(self.new_user(role="admin")))

    def with_password(self, password: str = PASSWORD) -> User:
        user = self.new_user()
        token = self.store.write(accounts.invite, user.id, "password").token
        hashed = QUICK_TO_HASH.hash(password)
        self.store.write(accounts.choose_password, token, hashed, timedelta(days=14))
        return self.store.user(user.id)

    def log_in(self, name: str, password: str = PASSWORD, **headers: str) -> httpx.Response:
        with self.client(**headers) as client:
            return client.post("/login", data={"name": name, "password": password})

    def raw(self, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> tuple[int, bytes]:
        """A request exactly as given: clients would tidy up the path."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


@contextmanager
def running(home: Path, mode: Mode = "accounts", config: LabelingConfig = CONFIG) -> Iterator[WebApp]:
    """An app with a store of its own."""
    clock = Clock()
    url = f"sqlite:///{home / 'labels.db'}"
    with Store.open(home, url, config.store, clock) as store, serving(store, clock, mode, config) as web:
        yield web


@contextmanager
def serving(store: Store, clock: Clock, mode: Mode = "accounts", config: LabelingConfig = CONFIG) -> Iterator[WebApp]:
    """An app on this store."""
    web = WebApp(store, clock, config, mode)
    web.start()
    try:
        yield web
    finally:
        web.stop()


def everything(store: Store) -> dict[str, list[Any]]:
    """All rows of all tables."""

    def dump(tx: Tx) -> dict[str, list[Any]]:
        return {
            name: [
                dict(row)
                for row in tx.connection.execute(sa.select(table).order_by(*table.primary_key.columns)).mappings()
            ]
            for name, table in schema.metadata.tables.items()
        }

    return store.read(dump)


@contextmanager
def nothing_changes(store: Store, apart_from: Callable[[dict[str, list[Any]]], Any] = lambda _: None) -> Iterator[None]:
    """Holds that the store is afterwards what it was."""
    before = everything(store)
    yield
    after = everything(store)
    apart_from(before)
    apart_from(after)
    assert after == before


def add_tasks(store: Store, num: int = 3, **options: Any) -> list[int]:
    """New tasks in the queue that is served; those that were there are withdrawn."""
    withdraw_tasks(store)
    added = store.add_tasks([new_task(f"prompt {next(_numbers)}", **options) for _ in range(num)], CONFIG.queue)
    assert not added.rejected
    return added.task_ids


def withdraw_tasks(store: Store) -> None:
    if store.status(CONFIG.queue):
        store.withdraw(CONFIG.queue)


def answer_to(task: dict[str, Any]) -> dict[str, Any]:
    """The first shown is best."""
    return {"tiers": [[card["id"]] for card in task["cards"]]}


def submission(task: dict[str, Any], key: str = "key-1", **changes: Any) -> dict[str, Any]:
    """What the page sends."""
    said = {"user": task["user"], "key": key, "answer": answer_to(task), "active_ms": 1500, "guidelines_version": None}
    return {"lease": task["lease"]} | said | changes


def revision(task: dict[str, Any], key: str, **changes: Any) -> dict[str, Any]:
    """What the page sends to change the answer to a task that was reopened, or was just answered."""
    based_on = {"task_id": task["task_id"], "based_on": task["revision"] or 1}
    return {name: value for name, value in submission(task, key).items() if name != "lease"} | based_on | changes


def skip(task: dict[str, Any], key: str = "k", reason: str = "Other") -> dict[str, Any]:
    """What the page sends to put a task aside."""
    return {"user": task["user"], "lease": task["lease"], "key": key, "reason": reason}
