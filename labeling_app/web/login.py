"""The way in and out: login, invitation, one-time link. Plain pages, no scripts."""

import html
import time
from datetime import timedelta
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from labeling_app import accounts
from labeling_app.settings import LabelingConfig
from labeling_app.store import Store
from labeling_app.store.people import NAME
from labeling_app.web import replies
from labeling_app.web.guard import ask_to_log_in
from labeling_app.web.passwords import MAX_CHARACTERS, MIN_CHARACTERS, Passwords, TooManyLogins, problem_with
from labeling_app.web.replies import Refused
from labeling_app.web.security import Sessions, Site, cookie, token_of
from labeling_app.web.throttle import Throttle, address_key

HOME = "/label/"

MAX_FAILURES_OF_AN_ADDRESS = 30
"""A laboratory may sit behind one address."""

_WAIT_SECONDS = accounts.LOCKED_FOR.total_seconds()
_WAIT = (
    f"Too many attempts have failed. Please try again in {_WAIT_SECONDS / 60:.0f} minutes, or ask whoever invited you "
    "for a new link: it lets you in at once."
)


class Login:
    """The pages of who is not logged in yet."""

    def __init__(
        self, store: Store, config: LabelingConfig, site: Site, sessions: Sessions, passwords: Passwords
    ) -> None:
        self._store, self._site, self._sessions, self._passwords = store, site, sessions, passwords
        self._title = config.title
        self._lasts = timedelta(days=config.session_days)
        self._names = Throttle(accounts.MAX_FAILURES, _WAIT_SECONDS)
        self._addresses = Throttle(MAX_FAILURES_OF_AN_ADDRESS, _WAIT_SECONDS)

    @property
    def routes(self) -> list[Route]:
        """Where the pages are."""
        routes = [
            Route("/", self.home, methods=["GET"]),
            Route("/logout", self.show_logout, methods=["GET"]),
            Route("/logout", self.log_out, methods=["POST"]),
            Route("/login", self.show_login, methods=["GET"]),
        ]
        if self._site.mode == "loopback":
            return routes
        return [
            *routes,
            Route("/login", self.log_in, methods=["POST"]),
            Route("/invite", self.show_invitation, methods=["GET"]),
            Route("/invite", self.accept, methods=["POST"]),
        ]

    async def home(self, request: Request) -> Response:
        """The one-time link of loopback mode, or onward to the page."""
        token = request.query_params.get("token")
        if token is not None and self._site.mode == "loopback" and request.method == "GET":
            return await self._enter(request, token)
        if await self._sessions.find(token_of(request)) is None:
            return ask_to_log_in(request)
        return replies.redirect(HOME)

    async def show_login(self, request: Request) -> Response:
        """The form; in loopback mode, where to find the link."""
        if self._site.mode == "loopback":
            return replies.page(self._title, _LOOPBACK)
        return self._form()

    async def log_in(self, request: Request) -> Response:
        """Check name and password. Names that nobody has are answered alike, and as slowly."""
        started = time.monotonic()
        form = await _form(request)
        name, password = form.get("name", "").strip().lower(), form.get("password", "")[: MAX_CHARACTERS + 1]
        try:
            with self._passwords.place():
                token = await self._check(name, password, _address(request))
        except TooManyLogins:
            return self._form(name, "Many people are logging in just now. Please try again in a moment.", 503)
        except Refused as refused:
            await self._passwords.refusal(started)
            return self._form(name, refused.message, refused.status)
        return self._logged_in(request, token)

    async def _check(self, name: str, password: str, address: str) -> str:
        """The token of a new session, if this is the password of `name`.

        Raises:
            Refused: it is not, or was tried too often.
        """
        is_name = NAME.fullmatch(name) is not None
        whose = name if is_name else ""
        if self._addresses.is_closed(address) or (is_name and self._names.is_closed(name)):
            raise Refused(429, "locked", _WAIT)
        attempt: accounts.Attempt = (
            await self._store.call(accounts.begin_login, name) if is_name else accounts.Attempt()
        )
        if attempt.is_locked:
            raise Refused(429, "locked", _WAIT)
        if await self._passwords.fits(password, attempt.password_hash) and attempt.password_hash is not None:
            outdated = self._passwords.is_outdated(attempt.password_hash)
            new_hash = await self._passwords.hash(password) if outdated else None
            token: str | None = await self._store.call(accounts.finish_login, attempt, self._lasts, new_hash)
            if token is not None:
                self._addresses.forgive(address, whose)
                return token
        self._addresses.fail(address, whose)
        if attempt.user_id is not None:
            await self._store.call(accounts.fail_login, attempt)
        elif is_name:
            self._names.fail(name)
        raise Refused(401, "wrong_password", "Name and password do not fit.")

    async def show_invitation(self, request: Request) -> Response:
        """Choose a password. Looking does not use the link up: mail programs look too."""
        token = request.query_params.get("token", "")
        user = await self._store.call_read(accounts.invited, token)
        if user is None:
            return replies.page("This link does not work", _SPENT, 410)
        return self._invitation(token, user.name)

    async def accept(self, request: Request) -> Response:
        """Take the chosen password."""
        form = await _form(request)
        token, password = form.get("token", ""), form.get("password", "")
        user = await self._store.call_read(accounts.invited, token)
        if user is None:
            return replies.page("This link does not work", _SPENT, 410)
        problem = problem_with(password, user.name)
        if problem is None and password != form.get("again"):
            problem = "The two passwords differ."
        if problem is not None:
            return self._invitation(token, user.name, problem)
        try:
            with self._passwords.place():
                hashed = await self._passwords.hash(password)
        except TooManyLogins:
            return self._invitation(token, user.name, "The server is busy. Please try again in a moment.", 503)
        session = await self._store.call(accounts.choose_password, token, hashed, self._lasts)
        self._sessions.forget_user(user.id)
        self._names.forgive(user.name)
        self._addresses.forgive(_address(request), user.name)
        return self._logged_in(request, session)

    async def show_logout(self, request: Request) -> Response:
        """Ask first: whoever opens an address has not decided anything."""
        user = await self._sessions.user(request)
        return replies.page("Log out?", _LOGOUT.format(name=html.escape(user.name)))

    async def log_out(self, request: Request) -> Response:
        """End this session."""
        return replies.redirect("/login", await self.end_session(request))

    async def end_session(self, request: Request) -> dict[str, str]:
        """End this session; returns the header that takes the cookie back.

        Raises:
            Refused: there is none.
        """
        await self._sessions.user(request)
        token = token_of(request)
        assert token is not None
        self._sessions.forget(token)
        await self._store.call(accounts.close_session, token)
        self._sessions.forget(token)  # somebody may have asked meanwhile
        return cookie(request, self._site, "", 0)

    async def _enter(self, request: Request, token: str) -> Response:
        try:
            session = await self._store.call(accounts.enter, token, self._lasts)
        except accounts.InvitationSpent:
            if await self._sessions.find(token_of(request)) is not None:
                return replies.redirect(HOME)
            return replies.page("This link does not work", _SPENT_LOOPBACK, 410)
        return replies.onward(HOME, self._cookie(request, session))

    def _logged_in(self, request: Request, token: str) -> Response:
        return replies.redirect(HOME, self._cookie(request, token))

    def _cookie(self, request: Request, token: str) -> dict[str, str]:
        return cookie(request, self._site, token, self._lasts.total_seconds())

    def _form(self, name: str = "", problem: str | None = None, status: int = 200) -> Response:
        body = _FORM.format(problem=_alert(problem), name=html.escape(name, quote=True), max=MAX_CHARACTERS)
        headers = {"retry-after": f"{_WAIT_SECONDS:.0f}"} if status == 429 else {}
        return replies.page(self._title, body, status, headers)

    def _invitation(self, token: str, name: str, problem: str | None = None, status: int = 422) -> Response:
        body = _INVITATION.format(
            problem=_alert(problem),
            name=html.escape(name, quote=True),
            token=html.escape(token, quote=True),
            min=MIN_CHARACTERS,
            max=MAX_CHARACTERS,
        )
        return replies.page("Choose a password", body, 200 if problem is None else status)


def _address(request: Request) -> str:
    return address_key(request.client.host if request.client else None)


async def _form(request: Request) -> dict[str, str]:
    """The fields of a posted form.

    Raises:
        Refused: it is not one.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise Refused(415, "malformed", "Expected a form.")
    try:
        fields = parse_qs((await request.body()).decode("ascii"), errors="strict", max_num_fields=10)
    except ValueError:
        raise Refused(422, "malformed", "This is not a form that our pages send.") from None
    return {name: values[-1] for name, values in fields.items()}


def _alert(problem: str | None) -> str:
    return "" if problem is None else f'<p class="problem" role="alert">{html.escape(problem)}</p>'


_FORM = """<form method="post" action="/login">
{problem}
<label for="name">Name</label>
<input id="name" name="name" value="{name}" required maxlength="64" autocomplete="username" autocapitalize="none"
 spellcheck="false" autofocus>
<label for="password">Password</label>
<input id="password" name="password" type="password" required maxlength="{max}" autocomplete="current-password">
<button>Log in</button>
</form>
<p class="hint">No account yet, or the password is forgotten? Ask whoever invited you for a link.</p>"""

_INVITATION = """<form method="post" action="/invite">
{problem}
<input type="hidden" name="token" value="{token}">
<label for="name">Name</label>
<input id="name" value="{name}" readonly autocomplete="username">
<p class="hint" id="rule">At least {min} characters; a few words that only you put together are best.</p>
<label for="password">Password</label>
<input id="password" name="password" type="password" required minlength="{min}" maxlength="{max}"
 autocomplete="new-password" aria-describedby="rule" autofocus>
<label for="again">The same again</label>
<input id="again" name="again" type="password" required minlength="{min}" maxlength="{max}" autocomplete="new-password">
<button>Save and begin</button>
</form>"""

_LOGOUT = """<p>You are logged in as <strong>{name}</strong>.</p>
<form method="post" action="/logout"><button>Log out</button></form>
<p class="hint"><a href="/label/">Back to the tasks</a></p>"""

_LOOPBACK = """<p>Open the link that <code>rlhf label serve</code> has printed in the terminal. It works once; then this
browser stays logged in.</p>
<p class="hint">The link is used up? Starting <code>rlhf label serve</code> again prints a new one; nothing is lost by
it.</p>"""

_SPENT = """<p>It was used before, has run out, or a newer one has taken its place.</p>
<p>You have chosen a password already? <a href="/login">Log in</a>. Otherwise ask whoever invited you for a new
link.</p>"""

_SPENT_LOOPBACK = """<p>It was used before, has run out, or a newer one has taken its place.</p>
<p>Starting <code>rlhf label serve</code> again prints a new one; nothing is lost by it.</p>"""
