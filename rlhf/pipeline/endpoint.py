"""Completions from a server that speaks OpenAI's chat API (`rlhf.chat_api`). Imports no torch."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from labeling_app.store import NewResponse
from rlhf.chat_api import ChatClient, Nonsense, Unreachable, reply_texts
from rlhf.pipeline.writing import Gone, Prompt, Written


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
        self._options = options
        self._parallel = parallel
        self._client = ChatClient(url, named="--endpoint", timeout_seconds=timeout_seconds, sleep=sleep)

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
        self._client.given_up = None
        with ThreadPoolExecutor(self._parallel) as pool:
            try:
                written = list(pool.map(lambda at: self._one(prompts[at], num, seed + at * num), range(len(prompts))))
            except BaseException:
                self._client.given_up = "stopped"  # so that no further request is sent while the pool is left
                raise
        if self._client.given_up is not None:
            raise Gone(self._client.given_up, written)
        return written

    def _one(self, prompt: Prompt, num: int, seed: int) -> Written:
        """What one prompt got; nothing once the server has been given up."""
        if self._client.given_up is not None:
            return Written([], self._client.given_up)
        try:
            return self._ask(prompt, num, seed)
        except Unreachable as error:
            self._client.given_up = self._client.given_up or str(error)
            return Written([], self._client.given_up)

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
                new = reply_texts(self._client.post(body))[:missing]
            except Nonsense as error:
                why = str(error)
                continue
            texts += new
        kept = [text for text in texts if text.strip()]
        generation = {**self._options, "seed": seed, "endpoint": self._client.shown}
        return Written([NewResponse(text, self.name, generation) for text in kept], why or "wrote nothing but blanks")
