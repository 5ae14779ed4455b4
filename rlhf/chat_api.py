"""A server that speaks OpenAI's chat API (vLLM, llama.cpp, Ollama, a provider): one request in, one reply out.

The key is read from the environment and goes nowhere else. Imports no torch.
"""

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self

import httpx

from rlhf.errors import UserError
from rlhf.records import has_lone_surrogate

KEY_VARIABLE = "OPENAI_API_KEY"
TRIES = 5
"""How often one request is sent before the server is given up."""
LONGEST_WAIT_SECONDS = 120.0
"""A server that asks for more patience than this is given up."""
_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Unreachable(Exception):
    """The server is out of reach or refuses everything; the text says why, and which server."""


class Nonsense(Exception):
    """A reply that holds no completion; another request may get one."""


class ChatClient:
    """A server, for requests from several threads at once.

    Args:
        url: the server, with or without `/v1` or `/v1/chat/completions`.
        named: what the user has called it, for the errors: `--endpoint`.
        key_variable: the environment variable that holds the key, where there is one.
        timeout_seconds: how long one answer may take.
        sleep: waits; `time.sleep` when None.

    Raises:
        UserError: the URL is none, or the key would travel unencrypted to another machine.
    """

    def __init__(
        self,
        url: str,
        *,
        named: str,
        key_variable: str = KEY_VARIABLE,
        timeout_seconds: float = 300.0,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        self._url = completions_url(url, named)
        self.shown = str(self._url.copy_with(userinfo=b""))
        """The URL without a password that it may hold."""
        self.given_up: str | None = None
        """Why no request is sent again any more, once that is so."""
        self._sleep = sleep or time.sleep
        key = os.environ.get(key_variable)
        if key and self._url.scheme == "http" and self._url.host not in _LOOPBACK:
            raise UserError(
                f"{named} {self.shown}: {key_variable} would cross the network unencrypted; use https, or unset it"
            )
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(headers=headers, timeout=httpx.Timeout(timeout_seconds, connect=10.0))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def post(self, body: dict[str, Any]) -> Any:
        """The reply as JSON. Requests that may succeed later are sent again.

        Raises:
            Nonsense: this request got no use of a reply; another one may.
            Unreachable: no other will either.
        """
        why = ""
        for number in range(TRIES):
            try:
                reply = self._client.post(self._url, json=body)
            except httpx.TimeoutException:
                why, wait = "no answer in time", 2.0**number
            except httpx.TransportError as error:
                why, wait = f"{type(error).__name__}: {error}", 2.0**number
            else:
                if reply.is_success:
                    return _json(reply)
                why = f"{reply.status_code} {_message(reply)}"
                if reply.status_code in (400, 413, 422):
                    return self._with_less(body, why)
                if reply.status_code not in _RETRIED:
                    raise Unreachable(f"{self.shown}: {why}")
                wait = _retry_after(reply, default=2.0**number)
                if wait > LONGEST_WAIT_SECONDS:
                    raise Unreachable(f"{self.shown}: {why}; it asks for {wait:.0f} s of patience")
            if self.given_up is not None:  # another request has found out
                break
            if number < TRIES - 1:
                self._sleep(wait)
        raise Unreachable(self.given_up or f"{self.shown}: {why} ({TRIES} tries)")

    def _with_less(self, body: dict[str, Any], why: str) -> Any:
        """The same request for one completion and without a seed: some servers refuse either."""
        if body.get("n", 1) == 1 and "seed" not in body:
            raise Nonsense(why)
        plain = {name: value for name, value in body.items() if name != "seed"}
        return self.post({**plain, "n": 1})


def completions_url(url: str, named: str) -> httpx.URL:
    """Where requests go; raises UserError, which begins with `named`, for what is no URL of a server."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise UserError(f"{named} {url}: is no URL: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UserError(f"{named} {url}: is no URL of a server, such as http://127.0.0.1:8000/v1")
    path = parsed.path.rstrip("/")
    if not path.endswith("/chat/completions"):
        path += "/chat/completions" if path.endswith("/v1") else "/v1/chat/completions"
    return parsed.copy_with(path=path)


def reply_texts(reply: Any) -> list[str]:
    """The completions in a reply; one that was cut within a character is none.

    Raises:
        Nonsense: there is none.
    """
    choices = reply.get("choices") if isinstance(reply, dict) else None
    contents = [
        choice["message"].get("content")
        for choice in (choices if isinstance(choices, list) else [])
        if isinstance(choice, dict) and isinstance(choice.get("message"), dict)
    ]
    texts = [content for content in contents if isinstance(content, str) and not has_lone_surrogate(content)]
    if not texts:
        raise Nonsense(f"replied without a completion: {repr(reply)[:80]}")
    return texts


def _json(reply: httpx.Response) -> Any:
    try:
        return reply.json()
    except ValueError:
        raise Nonsense(f"replied something that is not JSON: {reply.text[:80]!r}") from None


def _message(reply: httpx.Response) -> str:
    """What the server says is wrong, in one line."""
    try:
        error = reply.json()["error"]
        text = error["message"] if isinstance(error, dict) else str(error)
    except (ValueError, LookupError, TypeError):
        text = reply.text or reply.reason_phrase
    return " ".join(str(text).split())[:200]


def _retry_after(reply: httpx.Response, default: float) -> float:
    """Seconds that the server asks for (RFC 9110, 10.2.3: a number, or a date)."""
    given = reply.headers.get("Retry-After", "")
    try:
        return max(0.0, float(given))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(given) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return default
