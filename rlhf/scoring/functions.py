"""Plain functions as scorers: what they are called with, and what may go wrong in them."""

import contextvars
import inspect
import math
import queue
import threading
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from rlhf.errors import UserError
from rlhf.generation import Messages
from rlhf.scoring.base import Columns, require_finite


class ScorerError(UserError):
    """A reward function raised, returned what are no scores, or did not return in time; the message names it."""


class FunctionScorer:
    """A plain function as TRL's GRPO takes them: `fn(prompts, completions, **columns) -> list[float]`.

    For conversations a completion is handed over as `[{"role": "assistant", "content": text}]`, as there. A function
    without `**kwargs` is given only the columns that it names.
    """

    timeout: float | None = None
    """Seconds that one call may take. With one, calls are made in a thread of their own, always the same one."""

    def __init__(self, fn: Callable[..., Sequence[float]], name: str | None = None) -> None:
        """Raises UserError for what cannot be called with prompts and completions; it is not called to find out."""
        self.fn = fn
        self.name: str = name or str(getattr(fn, "__name__", type(fn).__name__))
        named = [p for p in inspect.signature(fn).parameters.values() if p.kind in _BY_NAME]
        takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in inspect.signature(fn).parameters.values())
        self._accepted = None if takes_all else {p.name for p in named}
        self._needed = {p.name for p in named if p.default is inspect.Parameter.empty} - {"prompts", "completions"}
        missing = {"prompts", "completions"} - (self._accepted or {"prompts", "completions"})
        if missing or inspect.iscoroutinefunction(fn):
            what = f"takes no {' and no '.join(f'`{m}`' for m in sorted(missing))}" if missing else "is asynchronous"
            raise UserError(
                f"reward function {self.name}: {what}; define it as def {self.name}(prompts, completions, **columns)"
            )
        self._thread: _Thread | None = None

    def check_columns(self, columns: Iterable[str]) -> None:
        """Raise UserError when a parameter without a default is none of the data's columns."""
        missing = sorted(self._needed - {*columns, "prompt_ids", "completion_ids"})
        if missing:
            raise UserError(
                f"reward function {self.name}: needs {', '.join(f'`{m}`' for m in missing)}, and the prompts have no "
                f"such column (they have {', '.join(sorted(columns)) or 'none'}); add it, or give it a default"
            )

    def score(
        self, prompts: Sequence[str | Messages], completions: Sequence[str], columns: Columns | None = None
    ) -> Tensor:
        """Scores [B], float32.

        Raises ScorerError for an exception, a wrong count or type, or a call that took longer than `timeout`, and
        NonFiniteError for None, NaN or infinity.
        """
        columns = columns or {}
        extra = {k: list(v) for k, v in columns.items() if self._accepted is None or k in self._accepted}
        answers = [
            c if isinstance(p, str) else [{"role": "assistant", "content": c}]
            for p, c in zip(prompts, completions, strict=True)
        ]
        try:
            values = self._call(prompts=list(prompts), completions=answers, **extra)
        except _OutOfTime:
            raise ScorerError(
                f"reward function {self.name}: did not return within {self.timeout:g} s (reward_timeout) on a batch of "
                f"{len(completions)}; give its own calls a limit, or raise reward_timeout"
            ) from None
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            raise ScorerError(
                f"reward function {self.name}: raised {type(error).__name__}: {error} ({where.filename}:{where.lineno})"
            ) from error
        try:
            scores = [math.nan if value is None else float(value) for value in values]
        except (TypeError, ValueError) as error:
            raise ScorerError(
                f"reward function {self.name}: expected a list of numbers, found {values!r:.80}"
            ) from error
        if len(scores) != len(completions):
            raise ScorerError(
                f"reward function {self.name}: returned {len(scores)} scores for {len(completions)} completions; "
                "return one for each, in order"
            )
        return require_finite(torch.tensor(scores, dtype=torch.float32), f"reward function {self.name}")

    def _call(self, **given: Any) -> Sequence[float]:
        if self.timeout is None:
            return self.fn(**given)
        self._thread = self._thread or _Thread(self.name)
        try:
            return self._thread.call(lambda: self.fn(**given), self.timeout)
        except _OutOfTime:
            self._thread = None  # it is left behind, still in its call; it ends with the process
            raise


_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class _OutOfTime(Exception):
    """A call has not returned in time."""


class _Thread:
    """A thread that makes calls one after another, and that need not be waited for.

    Python cannot end a thread: one whose call hangs stays until the process ends, which does not wait for it either.
    Code that holds the interpreter's lock while it hangs (an extension in C) stops this one too: no timeout helps.
    """

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[tuple[contextvars.Context, Callable[[], Any], queue.SimpleQueue[Any]]]
        self._jobs = queue.SimpleQueue()
        threading.Thread(target=self._work, name=f"reward function {name}", daemon=True).start()

    def call(self, fn: Callable[[], Any], seconds: float) -> Any:
        """What `fn` returns or raises; raises _OutOfTime when it does neither within `seconds`."""
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._jobs.put((contextvars.copy_context(), fn, answers))
        try:
            value, error = answers.get(timeout=seconds)
        except queue.Empty:
            raise _OutOfTime from None
        if error is not None:
            raise error
        return value

    def _work(self) -> None:
        while True:
            context, fn, answers = self._jobs.get()
            try:
                answers.put((context.run(fn), None))
            except BaseException as error:  # the caller's to handle, whatever it is
                answers.put((None, error))
