"""What every request has to pass, and who it is from.

`Gate` is the outermost layer: the right host (a foreign name may point to this address), our own origin for everything
that could change something, bodies of a sane size, and headers that keep the browser from running or loading anything
foreign. Who is logged in is asked for by each handler: `Sessions.user` here, `current_user` in Gradio's handlers.
"""

import logging
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from labeling_app import accounts
from labeling_app.settings import LabelingConfig
from labeling_app.store import Role, Store, User
from labeling_app.web import replies
from labeling_app.web.replies import Refused
from rlhf.errors import UserError

logger = logging.getLogger(__name__)

Mode = Literal["loopback", "accounts"]

SESSION_COOKIE = "rlhf_session"
"""In loopback mode the port follows: browsers give one machine's cookies to all its ports. Under https `__Host-` goes
before it: browsers then take it from this very host alone, and not from a neighbour under the same domain."""

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
WILDCARDS = frozenset({"", "0.0.0.0", "::", "*"})  # noqa: S104 - to be refused

LOOKS = frozenset({"/static/login.css", "/static/icon.svg"})
"""What the page that refuses a foreign name looks like; it holds nothing that anybody could use."""

MAX_BODY = {"/api/": 3 << 20, "/admin": 1 << 20, "/label": 1 << 20}
MAX_OTHER_BODY = 64 << 10

ALL_ARE_ONE = (
    "public_url is set, and requests come without their senders' addresses: thirty wrong passwords of anybody lock out "
    "all. Let the proxy send X-Forwarded-For; one on another machine has to be named in FORWARDED_ALLOW_IPS."
)

PAGE_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # not `no-referrer`: with it browsers send forms with `Origin: null`
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), display-capture=()",
}


@dataclass(frozen=True)
class Site:
    """Where people find the app.

    Attributes:
        names: the host names it answers to, without ports.
        origin: the only origin; None where any port of `names` will do, since forwarded ports differ.
    """

    mode: Mode
    names: frozenset[str]
    origin: str | None

    @classmethod
    def of(cls, config: LabelingConfig, mode: Mode) -> "Site":
        """The site of a config.

        Raises:
            UserError: people's address cannot be known, or loopback mode would serve other machines.
        """
        if mode == "loopback":
            if config.host not in LOOPBACK_NAMES:
                raise UserError(f"host: {config.host} serves other machines, which needs accounts; use 127.0.0.1")
            return cls(mode, LOOPBACK_NAMES, None)
        if config.public_url is not None:
            origin = config.public_url.lower()
            return cls(mode, frozenset({urlsplit(origin).hostname or ""}), _without_default_port(origin))
        if config.host in WILDCARDS:
            raise UserError(
                f"public_url: is missing; host {config.host} has no address that people could type, so set one such as "
                "https://labels.example.org, the only one that will be answered"
            )
        return cls(mode, LOOPBACK_NAMES if config.host in LOOPBACK_NAMES else frozenset({config.host.lower()}), None)

    @property
    def is_secure(self) -> bool:
        """Whether people come by https."""
        return self.origin is not None and self.origin.startswith("https://")

    def answers_to(self, host: str) -> bool:
        """Whether a request with this Host header is for us."""
        return _name(host) in self.names

    def address(self, host: str) -> str:
        """Where to go instead of a host that is not ours; forwarded ports differ, so the one of `host` is kept."""
        if self.origin is not None:
            return f"{self.origin}/"
        name = "127.0.0.1" if "127.0.0.1" in self.names else next(iter(self.names))
        port = _port_in(host)
        return f"http://{f'[{name}]' if ':' in name else name}{'' if port == '80' else f':{port}'}/"

    def is_own(self, origin: str, host: str) -> bool:
        """Whether a request that comes from a page of `origin` comes from our own page."""
        return origin.lower() == (self.origin or _without_default_port(f"http://{host.lower()}"))


class Gate:
    """The outermost ASGI layer."""

    def __init__(self, app: ASGIApp, site: Site) -> None:
        self._app, self._site = app, site
        self._has_warned = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        has_begun = False

        async def send_with_headers(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                _protect(MutableHeaders(scope=message))
            await send(message)

        limited = _Limited(receive, _max_body(scope["path"]))
        try:
            self._check(scope, limited.limit)
            await self._app(self._as_seen_by_people(scope), limited.receive, send_with_headers)
        except ClientDisconnect:  # whoever asked has gone, and nothing was done yet
            return
        except Exception as error:
            if has_begun:
                raise
            if not isinstance(error, Refused):
                logger.exception("%s %s failed", scope["method"], scope["path"])
                error = Refused(500, "internal", "The server made a mistake; it has been written to its log.")
            answer = replies.error(
                Request(scope), error.status, error.code, error.message, error.headers, error.instead
            )
            await answer(scope, receive, send_with_headers)

    def _check(self, scope: Scope, limit: int) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        is_look = scope["path"] in LOOKS and scope["method"] in ("GET", "HEAD")
        if not is_look and (len(headers.getlist("host")) != 1 or not self._site.answers_to(host)):
            message = "The ranking app does not answer to this name."
            raise Refused(403, "foreign_host", message, instead=self._site.address(host))
        if self._site.origin is not None and not self._has_warned and not is_look:
            self._has_warned = not _comes_from_its_sender(scope, headers)
            if self._has_warned:
                logger.warning(ALL_ARE_ONE)
        if scope["method"] not in ("GET", "HEAD"):
            if not self._site.is_own(headers.get("origin", ""), host) or len(headers.getlist("origin")) != 1:
                raise Refused(403, "foreign_origin", "This request does not come from a page of this server.")
            if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
                raise Refused(403, "foreign_origin", "This request does not come from a page of this server.")
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length[:12]) > limit:
            raise _too_large(limit)

    def _as_seen_by_people(self, scope: Scope) -> Scope:
        """Gradio builds addresses from what proxies claim; only the config says where people find us."""
        headers = [(name, value) for name, value in scope["headers"] if not name.startswith(b"x-forwarded-")]
        return {**scope, "headers": headers, "scheme": "https" if self._site.is_secure else "http"}


class _Limited:
    """`receive`, until more has come than is good."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive, self.limit, self._received = receive, limit, 0

    async def receive(self) -> Message:
        message = await self._receive()
        self._received += len(message.get("body", b""))
        if self._received > self.limit:
            raise _too_large(self.limit)
        return message


class Sessions:
    """Who is logged in: looked up in the store, and remembered for a moment since a page asks often.

    Who is logged out by another process stays in for that moment; the store's own operations refuse whoever was
    disabled or quarantined at once.
    """

    def __init__(self, store: Store, remember_seconds: float = 3.0, max_remembered: int = 10_000) -> None:
        self._store, self._seconds, self._max = store, remember_seconds, max_remembered
        self._known: OrderedDict[str, tuple[float, accounts.Session]] = OrderedDict()

    async def find(self, token: str | None) -> accounts.Session | None:
        """The session of this token; None for nobody."""
        if not token or len(token) > 100:
            return None
        now = time.monotonic()
        known = self._known.get(token)
        if known is not None and known[0] > now:
            return known[1]
        session: accounts.Session | None = await self._store.call_read(accounts.session, token)
        if session is None:
            self._known.pop(token, None)
            return None
        self._known[token] = (now + self._seconds, session)
        self._known.move_to_end(token)
        while len(self._known) > self._max:
            self._known.popitem(last=False)
        return session

    async def user(self, request: HTTPConnection, role: Role | None = None) -> User:
        """Who sent this.

        Raises:
            Refused: nobody who is logged in (401), or somebody without this role (403).
        """
        session = await self.find(token_of(request))
        return _with_role(session, role)

    def forget(self, token: str) -> None:
        """Look this one up anew."""
        self._known.pop(token, None)

    def forget_user(self, user_id: int) -> None:
        """Look all sessions of this user up anew."""
        for token in [token for token, (_, session) in self._known.items() if session.user.id == user_id]:
            del self._known[token]


def current_user(request: Any, store: Store, role: Role | None = None) -> User:
    """Who sent this, for handlers that run in a thread; `request` is Starlette's or a `gr.Request`.

    Raises:
        Refused: nobody who is logged in (401), or somebody without this role (403).
    """
    token = token_of(getattr(request, "request", None) or request)
    return _with_role(None if token is None else store.read(accounts.session, token), role)


def token_of(request: HTTPConnection) -> str | None:
    """The session's token in the cookie, if there is one."""
    if request.scope["scheme"] == "https":
        return request.cookies.get(f"__Host-{SESSION_COOKIE}")
    return request.cookies.get(f"{SESSION_COOKIE}_{_port(request)}") or request.cookies.get(SESSION_COOKIE)


def cookie(request: HTTPConnection, site: Site, token: str, max_age: float) -> dict[str, str]:
    """The header that hands the session to the browser, or with an empty token takes it back."""
    prefix, secure = ("__Host-", "; Secure") if site.is_secure else ("", "")
    suffix = f"_{_port(request)}" if site.mode == "loopback" else ""
    given = f"{prefix}{SESSION_COOKIE}{suffix}={token}"
    return {"set-cookie": f"{given}; Path=/; Max-Age={max_age:.0f}; HttpOnly; SameSite=Strict{secure}"}


def _with_role(session: accounts.Session | None, role: Role | None) -> User:
    if session is None:
        raise Refused(401, "no_session", "You are not logged in, or your login has run out.")
    if role is not None and session.user.role != role:
        raise Refused(403, "role", f"This needs the role {role}.")
    return session.user


def _protect(headers: MutableHeaders) -> None:
    for name in [name for name in headers if name.startswith("access-control-")]:
        del headers[name]
    headers.setdefault("content-security-policy", PAGE_POLICY)
    headers.setdefault("cache-control", "no-store")
    for name, value in HEADERS.items():
        headers[name] = value


def _comes_from_its_sender(scope: Scope, headers: Headers) -> bool:
    """Whether the address is that of a person, as a proxy that is believed has told it, and not the proxy's own."""
    client = scope.get("client")
    return client is not None and client[0] in headers.get("x-forwarded-for", "")


def _max_body(path: str) -> int:
    return next((limit for prefix, limit in MAX_BODY.items() if path.startswith(prefix)), MAX_OTHER_BODY)


def _too_large(limit: int) -> Refused:
    return Refused(413, "too_large", f"This is more than {limit >> 10} KiB.", {"connection": "close"})


def _name(host: str) -> str:
    """The name in a Host header, without port and brackets."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _port(request: HTTPConnection) -> str:
    """The port in the Host header; 80 if there is none."""
    return _port_in(request.headers.get("host", ""))


def _port_in(host: str) -> str:
    port = host.rpartition(":")[2]
    return port if port.isascii() and port.isdigit() else "80"


def _without_default_port(origin: str) -> str:
    scheme, _, rest = origin.partition("://")
    return f"{scheme}://{rest.removesuffix(':443' if scheme == 'https' else ':80')}"
