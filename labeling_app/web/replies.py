"""Answers: JSON for programs, plain pages for people, both never cached."""

import html
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

NO_STORE = {"cache-control": "no-store"}


class Refused(Exception):
    """A request that is not done; `message` is for people, `code` for programs, `instead` an address that works."""

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None, instead: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.instead = status, code, message, instead
        self.headers = dict(headers or {})


def as_json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`value` as JSON; it may hold what was put into JSON before (`orjson.Fragment`)."""
    body = orjson.dumps(value, option=orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS)
    return Response(body, status, NO_STORE | dict(headers or {}), "application/json")


def error(
    request: Request,
    status: int,
    code: str,
    message: str,
    headers: Mapping[str, str] | None = None,
    instead: str | None = None,
) -> Response:
    """A refusal in the form that the one who asked can read."""
    if not wants_page(request):
        said = message if instead is None else f"{message} Use {instead}"
        return as_json({"error": code, "message": said}, status, headers)
    body = f"<p>{html.escape(message)}</p>"
    if instead is not None:
        body += f'<p>Use <a href="{html.escape(instead)}">{html.escape(instead)}</a></p>'
    return page(_TITLES.get(code) or _TITLES.get(status, "Sorry"), body, status, headers)


def wants_page(request: Request) -> bool:
    """Whether it is a browser that opens a page, and not a script."""
    return "text/html" in request.headers.get("accept", "") and not request.url.path.startswith("/api/")


def page(
    title: str, body: str, status: int = 200, headers: Mapping[str, str] | None = None, head: str = ""
) -> Response:
    """A page of our own, without scripts; `body` is HTML in which everything foreign is escaped already."""
    text = _PAGE.format(title=html.escape(title), body=body, head=head)
    return HTMLResponse(text, status, NO_STORE | dict(headers or {}))


def onward(to: str, headers: Mapping[str, str] | None = None) -> Response:
    """Go on to another page of ours, as if by a link on this one.

    After a redirect the browser would remember that the journey began on another site, and keep the cookie back.
    """
    link = html.escape(to)
    head = f'<meta http-equiv="refresh" content="0; url={link}">'
    return page("One moment", f'<p><a href="{link}">Go on</a></p>', 200, headers, head)


def redirect(to: str, headers: Mapping[str, str] | None = None) -> Response:
    """Another page of ours instead."""
    return RedirectResponse(to, 303, NO_STORE | dict(headers or {}))


_TITLES: dict[int | str, str] = {
    401: "Please log in",
    403: "Not allowed",
    404: "Not found",
    429: "Too many attempts",
    503: "Not available",
    "foreign_host": "This is the wrong address",
}

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="/static/icon.svg">
<link rel="stylesheet" href="/static/login.css">
{head}</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""
