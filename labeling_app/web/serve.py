"""Running the app until it is told to stop."""

import contextlib
import gc
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn

from labeling_app import accounts
from labeling_app.settings import LabelingConfig
from labeling_app.store import Store, User
from labeling_app.web.security import LOOPBACK_NAMES, Mode, Site
from rlhf.errors import UserError

LOCAL_USER = "local"
FIRST_ADMIN = "admin"


def mode_of(config: LabelingConfig) -> Mode:
    """Accounts as soon as other machines can come: by another host, or by a proxy's address."""
    return "loopback" if config.host in LOOPBACK_NAMES and config.public_url is None else "accounts"


def serve(home: Path, config: LabelingConfig, say: Callable[[str], None]) -> None:
    """Serve the app until SIGINT or SIGTERM; requests that were begun are answered first.

    Args:
        home: where labels.db lies, unless RLHF_DATABASE_URL names a server.
        config: what is served, and where.
        say: takes the lines for whoever started it: the address, and how to come in.

    Raises:
        UserError: the port is taken, the guidelines cannot be read, the address is unclear, or nobody could come in.
    """
    mode = mode_of(config)
    Site.of(config, mode)  # what is wrong is said before Gradio takes its seconds to be imported
    guidelines = read_guidelines(config)
    with listen(config.host, config.port) as listener, Store.open(home, settings=config.store) as store:
        if guidelines is not None:
            store.set_guidelines(guidelines, config.queue)
        if mode == "loopback":
            _open_admin(store, LOCAL_USER)
        from labeling_app.web.app import create_app

        app = create_app(store, config, mode)
        host, port = listener.getsockname()[:2]
        address = config.public_url or _address(host, port)
        for line in _welcome(store, config, mode, address):
            say(line)
        server = uvicorn.Server(uvicorn_config(app, behind_proxy=config.public_url is not None))
        _prepare_for_many()
        with _told_to_stop():
            server.run(sockets=[listener])


def uvicorn_config(app: object, behind_proxy: bool = False) -> uvicorn.Config:
    """How the app is run, by `serve` and by tests."""
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
        proxy_headers=behind_proxy,
        timeout_graceful_shutdown=5,
        timeout_keep_alive=75,
    )


def listen(host: str, port: int) -> socket.socket:
    """A socket that people's browsers can reach; port 0 takes any.

    Raises:
        UserError: the port is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(512)
    except OSError as error:
        listener.close()
        raise UserError(
            f"{host}:{port}: cannot be listened to ({error.strerror}); choose another --port or --host"
        ) from None
    return listener


def read_guidelines(config: LabelingConfig) -> str | None:
    """The text of the guidelines; None where there are none.

    Raises:
        UserError: the file cannot be read, or is no UTF-8.
    """
    if config.guidelines is None:
        return None
    try:
        return config.guidelines.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"guidelines: {config.guidelines}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"guidelines: {config.guidelines}: is not UTF-8 (byte {error.start}); save it as UTF-8"
        ) from None


def address_for_links(config: LabelingConfig) -> str:
    """Where people with accounts find the app.

    Raises:
        UserError: the config has no accounts, or no address that people could type.
    """
    if mode_of(config) == "loopback":
        raise UserError(
            f"host: {config.host} is for one person on this machine, whose link `rlhf label serve` prints at each "
            "start. Accounts for others need `host` or `public_url` (configs/labeling.yaml shows both), in a YAML file "
            "that `rlhf label serve` and `rlhf label users` are both given with --config"
        )
    if config.public_url is None and config.port == 0:
        raise UserError("port: 0 takes any that is free, which a link cannot name; set one, or public_url")
    Site.of(config, "accounts")
    return config.public_url or _address(config.host, config.port)


def invite(store: Store, user: User, address: str) -> str:
    """A new one-time link with which somebody chooses a password."""
    return f"{address}/invite?token={store.write(accounts.invite, user.id, 'password').token}"


def _address(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _welcome(store: Store, config: LabelingConfig, mode: Mode, address: str) -> list[str]:
    """How to come in, for whoever started the server, and what the people will miss."""
    return [*_way_in(store, config, mode, address), *_warnings(store, config.queue)]


def _way_in(store: Store, config: LabelingConfig, mode: Mode, address: str) -> list[str]:
    if mode == "loopback":
        token = store.write(accounts.invite, _open_admin(store, LOCAL_USER).id, "session").token
        return [f"The ranking app is at {address}/label/", f"Open (works once): {address}/?token={token}"]
    lines = [f"The ranking app is at {address}/label/, its figures at {address}/admin/"]
    if address.startswith("http://") and config.host not in LOOPBACK_NAMES:
        lines.append("Passwords cross the network in the clear: put a proxy with TLS before it, and set public_url.")
    if not any(user.role == "admin" and user.has_password and user.disabled_at is None for user in store.users()):
        try:
            link = invite(store, _open_admin(store, FIRST_ADMIN), address)
            lines.append(f"Choose the admin's password (works once): {link}")
        except UserError as error:  # who is to rank can do so nonetheless
            lines.append(f"Warning: {error}")
    return lines


def _warnings(store: Store, queue: str) -> list[str]:
    queues = {one.queue: one.num_tasks + one.num_gold for one in store.status()}
    if queues.get(queue):
        return []
    known = ", ".join(name for name, num_tasks in queues.items() if num_tasks)
    return [
        f"Warning: the queue {queue} holds no tasks, so there is nothing to rank; "
        f"{f'queues with tasks: {known}' if known else 'no other queue holds any'}. "
        f"`rlhf label add FILE --queue {queue}` fills it, also while this runs."
    ]


def _open_admin(store: Store, name: str) -> User:
    """The admin of that name, made if need be.

    Raises:
        UserError: the account is closed, or an annotator's: nobody could look after the app.
    """
    found = next((user for user in store.users() if user.name == name), None)
    if found is None:
        return store.add_user(name, "admin")
    if found.disabled_at is not None:
        raise UserError(
            f"user {name}: the account is closed, so nobody can come in as admin; `rlhf label users disable {name} "
            "--undo` opens it again"
        )
    if found.role != "admin":
        raise UserError(
            f"user {name}: is an annotator, so nobody can come in as admin; `rlhf label users add SOMEBODY --admin` "
            "adds one"
        )
    return found


def _prepare_for_many() -> None:
    """Let nobody wait long for the interpreter.

    The thread that writes and the event loop take turns with it, by default of 5 ms; and a collection of garbage that
    looks through all of Gradio's modules once more holds up everybody for a tenth of a second and longer.
    """
    sys.setswitchinterval(0.0005)
    gc.collect()
    gc.freeze()


@contextlib.contextmanager
def _told_to_stop() -> Iterator[None]:
    """Uvicorn ends well on SIGINT and SIGTERM, then sends itself the same signal again: it was an order, no failure."""
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
