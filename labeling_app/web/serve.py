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
        UserError: the port is taken, the guidelines cannot be read, the address is unclear.
    """
    mode = mode_of(config)
    Site.of(config, mode)  # what is wrong is said before Gradio takes its seconds to be imported
    guidelines = read_guidelines(config)
    with listen(config.host, config.port) as listener, Store.open(home, settings=config.store) as store:
        if guidelines is not None:
            store.set_guidelines(guidelines)
        from labeling_app.web.app import create_app

        app = create_app(store, config, mode)
        host, port = listener.getsockname()[:2]
        address = config.public_url or f"http://{f'[{host}]' if ':' in host else host}:{port}"
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


def invite(store: Store, user: User, config: LabelingConfig, address: str | None = None) -> str:
    """A new one-time link for somebody: into this machine's own app at once, elsewhere to choose a password."""
    purpose: accounts.Purpose = "session" if mode_of(config) == "loopback" and user.name == LOCAL_USER else "password"
    host = f"[{config.host}]" if ":" in config.host else config.host
    found_at = address or config.public_url or f"http://{host}:{config.port}"
    invitation = store.write(accounts.invite, user.id, purpose)
    return f"{found_at}/{'' if purpose == 'session' else 'invite'}?token={invitation.token}"


def _welcome(store: Store, config: LabelingConfig, mode: Mode, address: str) -> list[str]:
    """How to come in, for whoever started the server."""
    if mode == "loopback":
        local = _admin(store, LOCAL_USER)
        return [
            f"The ranking app is at {address}/label/",
            f"Open (works once): {invite(store, local, config, address)}",
        ]
    lines = [f"The ranking app is at {address}/label/, its figures at {address}/admin/"]
    if address.startswith("http://") and config.host not in LOOPBACK_NAMES:
        lines.append("Passwords cross the network in the clear: put a proxy with TLS before it, and set public_url.")
    if not any(user.role == "admin" and user.has_password and user.disabled_at is None for user in store.users()):
        admin = _admin(store, FIRST_ADMIN)
        lines.append(f"Choose the admin's password (works once): {invite(store, admin, config, address)}")
    return lines


def _admin(store: Store, name: str) -> User:
    """The admin of that name, made if need be and let in again if closed."""
    found = next((user for user in store.users() if user.name == name), None)
    if found is None:
        return store.add_user(name, "admin")
    if found.role != "admin":
        raise UserError(f"user {name}: is an annotator; add an admin with `rlhf label users add NAME --admin`")
    return store.set_disabled(found.id, False) if found.disabled_at is not None else found


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
