"""What stands before a mounted Gradio app: only people with a session, only the routes that its page needs.

Gradio has many more (uploads, a proxy, files, deep links, an API for each handler), answers some of them to anybody,
and keeps what it calls a session under a name that the browser chooses. Handlers authorise themselves nonetheless.
"""

import base64
import hashlib
import re
from collections import OrderedDict
from urllib.parse import parse_qs

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from labeling_app.store import Role
from labeling_app.web import replies
from labeling_app.web.replies import Refused
from labeling_app.web.security import Sessions

_HASH = r"[A-Za-z0-9_-]{1,64}"

ROUTES = {
    "GET": re.compile(
        rf"/|/config/?|/theme\.css|/favicon\.ico|/manifest\.json|/assets/.*|/static/.*|/svelte/.*"
        rf"|/gradio_api/(info/?|app_id/?|startup-events|theme\.css|queue/data|heartbeat/{_HASH})"
    ),
    "POST": re.compile(r"/gradio_api/(queue/join|cancel|reset)/?"),
}
"""By method; the path below the mount. There is no upload, and so there are no files to fetch."""

ANSWERED_WITHOUT_QUERY = re.compile(r"/|/config/?")
"""Pages without deep links: those show what somebody else has saved."""

NAMED_BY_CONTENT = re.compile(r"/assets/.*-[A-Za-z0-9_-]{8}\.[a-z0-9]+|/theme\.css")
"""What may be kept by browsers; the address of the theme holds a hash, too."""

POLICY = (
    "default-src 'none'; script-src 'self'{hashes}; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self'; manifest-src 'self'; base-uri 'self'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_INLINE_SCRIPT = re.compile(rb"<script(?:\s+(?!src)[a-z-]+(?:=\"[^\"]*\")?)*>(.*?)</script>", re.DOTALL)

MAX_SESSION_HASHES = 10_000


class GradioGuard:
    """ASGI layer around one mounted Gradio app."""

    def __init__(self, app: ASGIApp, sessions: Sessions, role: Role | None = None) -> None:
        self._app, self._sessions, self._role = app, sessions, role
        self._owners: OrderedDict[str, int] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http", "the gate closes web sockets"
        request = Request(scope, receive)
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        is_page = path == "/" and replies.wants_page(request)
        try:
            user = await self._sessions.user(request, self._role)
        except Refused as refused:
            if not is_page or refused.status != 401:
                raise
            await ask_to_log_in(request)(scope, receive, send)
            return
        routes = ROUTES.get("GET" if scope["method"] == "HEAD" else scope["method"])
        if routes is None or routes.fullmatch(path) is None or "://" in path:
            raise Refused(404, "not_found", "There is nothing at this address.")
        if ANSWERED_WITHOUT_QUERY.fullmatch(path):
            scope = {**scope, "query_string": b"", "headers": _without_encodings(scope)}
            await self._app(scope, receive, _Answer(send, path))
            return
        body = await request.body() if scope["method"] == "POST" else b""
        self._check_owner(_session_hash(path, scope["query_string"], body), user.id)
        await self._app(scope, _again(body, receive), _Answer(send, path))

    def _check_owner(self, session_hash: str | None, user_id: int) -> None:
        """What Gradio keeps and sends under this name belongs to whoever used it first."""
        if session_hash is None:
            return
        if self._owners.setdefault(session_hash, user_id) != user_id:
            raise Refused(403, "not_yours", "This is another person's page.")
        self._owners.move_to_end(session_hash)
        while len(self._owners) > MAX_SESSION_HASHES:
            self._owners.popitem(last=False)


class _Answer:
    """`send` that adds the content security policy; a page's own inline scripts are named in it by their hashes."""

    def __init__(self, send: Send, path: str) -> None:
        self._send, self._body = send, b""
        self._lifetime = b"private, max-age=31536000, immutable" if NAMED_BY_CONTENT.match(path) else b"no-store"
        self._start: Message | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if _is_html(message):
                self._start = message
            else:
                await self._send(_answered(message, b"", self._lifetime))
        elif self._start is None:
            await self._send(message)
        else:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._send(_answered(self._start, self._body, self._lifetime))
                await self._send({"type": "http.response.body", "body": self._body})


def ask_to_log_in(request: Request) -> Response:
    """Where somebody without a session is sent who opens a page.

    Who followed a link on another site may well have one: the cookie is strict and comes with the second try.
    """
    if request.headers.get("sec-fetch-site") == "cross-site":
        return replies.onward(request.url.path)
    return replies.redirect("/login")


def _session_hash(path: str, query: bytes, body: bytes) -> str | None:
    if path.startswith("/gradio_api/heartbeat/"):
        return path.rpartition("/")[2]
    if not body:
        found: object = parse_qs(query.decode("latin-1")).get("session_hash", [None])[-1]
    else:
        try:
            posted = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise Refused(422, "malformed", "This is not JSON.") from None
        found = posted.get("session_hash") if isinstance(posted, dict) else None
    if found is not None and (not isinstance(found, str) or len(found) > 64):
        raise Refused(422, "malformed", "session_hash: expected a short text.")
    return found


def _answered(start: Message, page: bytes, lifetime: bytes) -> Message:
    policy = POLICY.format(hashes="".join(f" 'sha256-{_sha256(script)}'" for script in _INLINE_SCRIPT.findall(page)))
    lifetime = lifetime if start["status"] == 200 else b"no-store"
    set_here = {b"content-security-policy": policy.encode(), b"cache-control": lifetime}
    headers = [(name, value) for name, value in start["headers"] if name not in set_here]
    return {**start, "headers": [*headers, *set_here.items()]}


def _sha256(script: bytes) -> str:
    return base64.b64encode(hashlib.sha256(script.replace(b"\r\n", b"\n")).digest()).decode()


def _is_html(start: Message) -> bool:
    return any(name == b"content-type" and value.startswith(b"text/html") for name, value in start["headers"])


def _without_encodings(scope: Scope) -> list[tuple[bytes, bytes]]:
    """So that the page comes in the clear and its scripts can be hashed."""
    return [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]


def _again(body: bytes, receive: Receive) -> Receive:
    """`receive` that starts with what was already read."""
    is_first = True

    async def replay() -> Message:
        nonlocal is_first
        if is_first:
            is_first = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replay
