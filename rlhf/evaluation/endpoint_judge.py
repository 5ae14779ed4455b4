"""A language model behind a server as judge: asked about both orders, every verdict kept as it comes."""

import hashlib
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self

import numpy as np

from rlhf.chat_api import ChatClient, Nonsense, Unreachable, reply_texts
from rlhf.errors import UserError
from rlhf.evaluation.config import EndpointSection
from rlhf.evaluation.judges import Answers, Comparison, Prompts
from rlhf.generation import Messages
from rlhf.tracking.metrics import JsonLines, read_lines

VERDICTS = "verdicts.jsonl"
"""In the run's folder: one line for every question, on the disk before the next one is asked."""

PATIENCE = 20
"""Replies without any verdict after which a judge is not asked again."""
REPLY_SHOWN = 2000
"""Characters of a reply that are kept beside its verdict."""

_LETTERS = {"A": 1.0, "B": 0.0, "C": 0.5}
_BRACKETED = re.compile(r"\[\[\s*([ABC])\s*\]\]", re.IGNORECASE)
_PLACE = re.compile(r"\{(prompt|a|b)\}")


class JudgeGone(Exception):
    """The server cannot be asked any more; verdicts until then are kept. `num_kept` is how many there are."""

    def __init__(self, why: str, num_kept: int) -> None:
        super().__init__(why)
        self.num_kept = num_kept


class EndpointJudge:
    """A judge behind a server. Call `compare` for one order; `compare_in_both_orders` asks for both.

    Args:
        section: where it is and how it is asked.
        folder: the run's: what `verdicts.jsonl` there holds already is not asked again.
        key: its key in the config, for the errors.
        sleep: waits between tries; `time.sleep` when None.

    Raises:
        UserError: the key would travel unencrypted.
    """

    order_matters = True

    def __init__(
        self, section: EndpointSection, folder: Path, *, key: str, sleep: Callable[[float], None] | None = None
    ) -> None:
        self.name = section.name or section.model
        self.num_asked = 0
        """Questions that this process has sent."""
        self._section = section
        self._key = key
        self._client = ChatClient(
            section.endpoint,
            named=f"{key}.endpoint =",
            key_variable=section.key_env,
            timeout_seconds=section.timeout_seconds,
            sleep=sleep,
        )
        # the last row of a question stands; what was no reply at all is asked for again
        self._known = {row["question"]: row for row in read_lines(folder / VERDICTS) if "nonsense" not in row}
        self._file = JsonLines(folder / VERDICTS, durable=True)
        self._spoken = any(row["verdict"] is not None for row in self._known.values())
        self._used: set[str] = set()
        self._lock = Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.close()
        self._file.close()

    def compare(self, prompts: Prompts, first: Answers, second: Answers) -> Comparison:
        """The verdicts [B] in this order, NaN where the reply held none. Two equal texts tie and are not asked about.

        Raises:
            JudgeGone: the server is out of reach or refuses everything.
            UserError: it has given none but replies without a verdict.
        """
        questions = [
            None if a.strip() == b.strip() else self._question(prompt, a, b)
            for prompt, a, b in zip(prompts, first.texts, second.texts, strict=True)
        ]
        self._used |= {_digest(body) for body in questions if body is not None}
        with ThreadPoolExecutor(self._section.parallel) as pool:
            try:
                list(pool.map(self._ask, [body for body in questions if body is not None]))
            except BaseException:
                self._client.given_up = self._client.given_up or "stopped"  # the others send nothing any more
                raise
        if self._client.given_up is not None:
            raise JudgeGone(self._client.given_up, sum(question in self._known for question in self._used))
        verdicts = [0.5 if body is None else self._known[_digest(body)]["verdict"] for body in questions]
        return Comparison(np.array([np.nan if verdict is None else verdict for verdict in verdicts]))

    @property
    def num_unparsed(self) -> int:
        """Questions of this evaluation whose reply held no verdict."""
        return sum(self._known[question]["verdict"] is None for question in self._used if question in self._known)

    @property
    def num_questions(self) -> int:
        """Questions of this evaluation, those answered in an earlier attempt included."""
        return len(self._used)

    def _question(self, prompt: str | Messages, a: str, b: str) -> dict[str, Any]:
        places = {"prompt": _shown(prompt), "a": a, "b": b}
        # in one pass: a completion that holds "{b}" is not filled in
        text = _PLACE.sub(lambda place: places[place[1]], self._section.prompt)
        return {
            "model": self._section.model,
            "messages": [{"role": "user", "content": text}],
            **self._section.options,
        }

    def _ask(self, body: dict[str, Any]) -> None:
        """Put one question, unless it was answered before or the server has been given up."""
        question = _digest(body)
        if question in self._known or self._client.given_up is not None:
            return
        try:
            reply = reply_texts(self._client.post(body))[0]
        except Nonsense as error:  # a proxy's page, say: no word of the judge's
            self._keep(question, None, str(error), nonsense=True)
        except Unreachable as error:
            self._client.given_up = self._client.given_up or str(error)
        else:
            self._keep(question, parse_verdict(reply), reply)

    def _keep(self, question: str, verdict: float | None, reply: str, *, nonsense: bool = False) -> None:
        with self._lock:
            self.num_asked += 1
            row = {"question": question, "judge": self.name, "verdict": verdict, "reply": reply[:REPLY_SHOWN]}
            self._file.write({**row, "nonsense": True} if nonsense else row)
            self._known[question] = row
            self._spoken |= verdict is not None
            if not self._spoken and self.num_asked >= PATIENCE:
                self._client.given_up = "no verdict"  # before another thread asks on
                raise UserError(
                    f"{self._key}: none of {self.num_asked} replies of {self.name} holds a verdict, such as "
                    f"{' '.join(reply.split())[:120]!r}; see `prompt`: it is to reply with [[A]], [[B]] or [[C]]"
                )


def parse_verdict(reply: str) -> float | None:
    """1 for A, 0 for B, 0.5 for C: by the last [[A]], [[B]] or [[C]], else by a reply that is that letter alone."""
    found = _BRACKETED.findall(reply)
    letter = found[-1] if found else reply.strip(" \t\r\n.*\"'()[]")
    return _LETTERS.get(letter.upper())


def _digest(body: dict[str, Any]) -> str:
    """By what a question is known again; whichever server answers."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()


def _shown(prompt: str | Messages) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(f"{turn['role']}: {turn.get('content') or ''}" for turn in prompt)
