"""Completions from a server that speaks OpenAI's chat API (vLLM, llama.cpp, Ollama, a provider). Imports no torch.

The key is read from OPENAI_API_KEY and goes nowhere else.
"""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self

import httpx

from labeling_app.store import NewResponse
from rlhf.errors import UserError
from rlhf.pipeline.writing import Gone, Prompt, Written
from rlhf.records import has_lone_surrogate

TRIES = 5
"""How often one request is sent before the server is given up."""
LONGEST_WAIT_SECONDS = 120.0
"""A server that asks for more patience than this is given up."""
_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class EndpointWriter:
    """A model behind a server.

    Args:
        url: the server, with or without `/v1` or `/v1/chat/completions`.
        model: what the server calls the model.
        options: of the sampling, by OpenAI's names: max_tokens, temperature, top_p.
        parallel: how many requests are under way at once.
        timeout_seconds: how long one answer may take.
        sleep: waits; `time.sleep` when None.

    Raises:
        UserError: the URL is none, or the key would travel unencrypted to another machine.
    """

    def __init__(
        self,
        url: str,
        model: str,
        options: dict[str, Any],
        *,
        parallel: int = 4,
        timeout_seconds: float = 300.0,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        self.name = model
        self._url = _completions_url(url)
        self._shown = str(self._url.copy_with(userinfo=b""))  # without a password that it may hold
        self._options = options
        self._parallel = parallel
        self._sleep = sleep or time.sleep
        self._gone: str | None = None
        key = os.environ.get("OPENAI_API_KEY")
        if key and self._url.scheme == "http" and self._url.host not in _LOOPBACK:
            raise UserError(
                f"--endpoint {self._shown}: OPENAI_API_KEY would cross the network unencrypted; use https, or unset it"
            )
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(headers=headers, timeout=httpx.Timeout(timeout_seconds, connect=10.0))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.close()

    def write(self, prompts: Sequence[Prompt], num: int, seed: int) -> list[Written]:
        """`num` completions of every prompt; a prompt that got none says why.

        Raises:
            Gone: the server is out of reach or refuses all; what was written until then is in `written`.
        """
        self._gone = None
        with ThreadPoolExecutor(self._parallel) as pool:
            try:
                written = list(pool.map(lambda at: self._one(prompts[at], num, seed + at * num), range(len(prompts))))
            except BaseException:
                self._gone = "stopped"  # so that no further request is sent while the pool is left
                raise
        if self._gone is not None:
            raise Gone(self._gone, written)
        return written

    def _one(self, prompt: Prompt, num: int, seed: int) -> Written:
        """What one prompt got; nothing once the server has been given up."""
        if self._gone is not None:
            return Written([], self._gone)
        try:
            return self._ask(prompt, num, seed)
        except Gone as error:
            self._gone = self._gone or str(error)
            return Written([], self._gone)

    def _ask(self, prompt: Prompt, num: int, seed: int) -> Written:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        texts: list[str] = []
        why = ""
        # servers differ in whether they heed `n`: what is missing is asked for again
        for attempt in range(num + 1):
            missing = num - len(texts)
            if not missing:
                break
            body = {"model": self.name, "messages": messages, "n": missing, "seed": seed + attempt, **self._options}
            try:
                new = _texts(self._post(body))[:missing]
            except _Nonsense as error:
                why = str(error)
                continue
            texts += new
        kept = [text for text in texts if text.strip()]
        generation = {**self._options, "seed": seed, "endpoint": self._shown}
        return Written([NewResponse(text, self.name, generation) for text in kept], why or "wrote nothing but blanks")

    def _post(self, body: dict[str, Any]) -> Any:
        """The reply as JSON. Requests that may succeed later are sent again.

        Raises:
            _Nonsense: this prompt got no use of a reply; another one may.
            Gone: no other will either.
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
                    raise Gone(f"{self._shown}: {why}")
                wait = _retry_after(reply, default=2.0**number)
                if wait > LONGEST_WAIT_SECONDS:
                    raise Gone(f"{self._shown}: {why}; it asks for {wait:.0f} s of patience")
            if self._gone is not None:  # another request has found out
                break
            if number < TRIES - 1:
                self._sleep(wait)
        raise Gone(self._gone or f"{self._shown}: {why} ({TRIES} tries)")

    def _with_less(self, body: dict[str, Any], why: str) -> Any:
        """The same request for one completion and without a seed: some servers refuse either."""
        if body.get("n") == 1 and "seed" not in body:
            raise _Nonsense(why)
        plain = {name: value for name, value in body.items() if name != "seed"}
        return self._post({**plain, "n": 1})


class _Nonsense(Exception):
    """A reply that holds no completion."""


def _completions_url(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise UserError(f"--endpoint {url}: is no URL: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UserError(f"--endpoint {url}: is no URL of a server, such as http://127.0.0.1:8000/v1")
    path = parsed.path.rstrip("/")
    if not path.endswith("/chat/completions"):
        path += "/chat/completions" if path.endswith("/v1") else "/v1/chat/completions"
    return parsed.copy_with(path=path)


def _json(reply: httpx.Response) -> Any:
    try:
        return reply.json()
    except ValueError:
        raise _Nonsense(f"replied something that is not JSON: {reply.text[:80]!r}") from None


def _texts(reply: Any) -> list[str]:
    """The completions in a reply; one that was cut within a character is none.

    Raises:
        _Nonsense: there is none.
    """
    choices = reply.get("choices") if isinstance(reply, dict) else None
    contents = [
        choice["message"].get("content")
        for choice in (choices if isinstance(choices, list) else [])
        if isinstance(choice, dict) and isinstance(choice.get("message"), dict)
    ]
    texts = [content for content in contents if isinstance(content, str) and not has_lone_surrogate(content)]
    if not texts:
        raise _Nonsense(f"replied without a completion: {repr(reply)[:80]}")
    return texts


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
