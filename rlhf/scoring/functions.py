"""Plain functions as scorers: what they are called with, and what may go wrong in them."""

import contextvars
import copy
import inspect
import math
import queue
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlhf.errors import UserError
from rlhf.generation import Messages
from rlhf.scoring.base import Columns, NonFiniteError, Scorer, require_finite


class ScorerError(UserError):
    """A reward function raised, returned what are no scores, or did not return in time; the message names it."""


class _Called:
    """Somebody else's code that is called for scores: in its time, and with its name on whatever goes wrong in it."""

    timeout: float | None = None
    """Seconds that one call may take. With one, calls are made in a thread of their own, always the same one."""
    _title: str
    """What errors call it."""
    _thread: "_Thread | None" = None

    def _answer(self, size: int, call: Callable[[], Any]) -> Any:
        """What `call` returns on a batch of `size`; ScorerError for an exception, or when it takes too long."""
        try:
            return self._call(call)
        except _OutOfTime:
            raise ScorerError(
                f"{self._title}: did not return within {self.timeout:g} s (reward_timeout) on a batch of {size}; give "
                "its own calls a limit, or raise reward_timeout"
            ) from None
        except (ScorerError, NonFiniteError):  # of a scorer within it, and named by that
            raise
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            raise ScorerError(
                f"{self._title}: raised {type(error).__name__}: {error} ({where.filename}:{where.lineno})"
            ) from error

    def _call(self, call: Callable[[], Any]) -> Any:
        if self.timeout is None:
            return call()
        self._thread = self._thread or _Thread(self._title)
        try:
            return self._thread.call(call, self.timeout)
        except _OutOfTime:
            self._thread = None  # it is left behind, still in its call; it ends with the process
            raise


class FunctionScorer(_Called):
    """A plain function as TRL's GRPO takes them: `fn(prompts, completions, **columns) -> list[float]`.

    For conversations a completion is handed over as `[{"role": "assistant", "content": text}]`, as there. A function
    without `**kwargs` is given only the columns that it names. What it is given is its own to change.
    """

    def __init__(self, fn: Callable[..., Sequence[float]], name: str | None = None) -> None:
        """Raises UserError for what cannot be called with prompts and completions; it is not called to find out."""
        self.fn = fn
        self.name: str = name or str(getattr(fn, "__name__", type(fn).__name__))
        self._title = f"reward function {self.name}"
        named = [p for p in inspect.signature(fn).parameters.values() if p.kind in _BY_NAME]
        takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in inspect.signature(fn).parameters.values())
        self._accepted = None if takes_all else {p.name for p in named}
        self._needed = {p.name for p in named if p.default is inspect.Parameter.empty} - {"prompts", "completions"}
        missing = {"prompts", "completions"} - (self._accepted or {"prompts", "completions"})
        if missing or inspect.iscoroutinefunction(fn):
            what = f"takes no {' and no '.join(f'`{m}`' for m in sorted(missing))}" if missing else "is asynchronous"
            raise UserError(f"{self._title}: {what}; define it as def {self.name}(prompts, completions, **columns)")

    def check_columns(self, columns: Iterable[str]) -> None:
        """Raise UserError when a parameter without a default is none of the data's columns."""
        missing = sorted(self._needed - {*columns, "prompt_ids", "completion_ids"})
        if missing:
            raise UserError(
                f"{self._title}: needs {', '.join(f'`{m}`' for m in missing)}, and the prompts have no "
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
        extra = {k: _own_copy(list(v)) for k, v in columns.items() if self._accepted is None or k in self._accepted}
        asked = _own_copy(list(prompts))
        answers = [
            c if isinstance(p, str) else [{"role": "assistant", "content": c}]
            for p, c in zip(prompts, completions, strict=True)
        ]
        values = self._answer(len(answers), lambda: self.fn(prompts=asked, completions=answers, **extra))
        try:
            if isinstance(values, str | bytes | Mapping | Set):  # which can be gone through as well, to no good
                raise TypeError("it has no order of scores")
            scores = [math.nan if value is None else _number(value) for value in values]
        except (TypeError, ValueError) as error:
            raise ScorerError(f"{self._title}: expected a list of numbers, found {values!r:.80}") from error
        if len(scores) != len(completions):
            raise ScorerError(
                f"{self._title}: returned {len(scores)} scores for {len(completions)} completions; "
                "return one for each, in order"
            )
        return require_finite(torch.tensor(scores, dtype=torch.float32), self._title)


class ObjectScorer(_Called):
    """A `Scorer` that a user wrote, called as a function is; what it returns is looked at."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.name = scorer.name
        self._title = f"scorer {self.name}"

    def score(
        self, prompts: Sequence[str | Messages], completions: Sequence[str], columns: Columns | None = None
    ) -> Tensor:
        """Scores [B], float32 on the CPU.

        Raises ScorerError for an exception, what is no tensor [B], or a call that took longer than `timeout`, and
        NonFiniteError for NaN or infinity.
        """
        told = {name: _own_copy(list(values)) for name, values in (columns or {}).items()}
        asked, answers = _own_copy(list(prompts)), list(completions)
        scores = self._answer(len(answers), lambda: self.scorer.score(asked, answers, told))
        if not isinstance(scores, Tensor) or scores.shape != (len(completions),) or scores.is_complex():
            what = f"a tensor {list(scores.shape)}" if isinstance(scores, Tensor) else f"{scores!r:.80}"
            raise ScorerError(
                f"{self._title}: returned {what} for {len(completions)} completions; return a float32 tensor "
                f"[{len(completions)}], one score for each, in order"
            )
        return require_finite(scores.detach().to("cpu", torch.float32), self._title)


def _own_copy(value: Any) -> Any:
    """`value` with its lists, mappings, sets, arrays and tensors copied, all the way down; other objects are shared.

    What a function changes of what it was given would else be the data set's, and every later score of that row wrong.
    """
    if isinstance(value, list):
        return [inner if type(inner) in _UNCHANGING else _own_copy(inner) for inner in value]
    if isinstance(value, dict):
        return {key: _own_copy(inner) for key, inner in value.items()}
    return copy.deepcopy(value) if isinstance(value, tuple | set | np.ndarray | Tensor) else value


def _number(value: Any) -> float:
    if isinstance(value, str | bytes):
        raise TypeError("a text is no score")
    return float(value)


_UNCHANGING = frozenset({str, int, float, bool, type(None)})
"""Types of most of what there is, token ids above all."""
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
        threading.Thread(target=self._work, name=name, daemon=True).start()

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
