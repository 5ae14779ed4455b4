"""Who writes the completions that people will judge, whatever it runs on. Imports no torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from labeling_app.answers import Mode
from labeling_app.store import NewResponse, NewTask

Prompt = str | list[dict[str, Any]]


@dataclass(frozen=True)
class Written:
    """Completions of one prompt; `why` there are fewer than were asked for."""

    responses: list[NewResponse]
    why: str = ""


class Gone(Exception):
    """Somebody who writes cannot go on; `written` is what there is of the prompts given last."""

    def __init__(self, why: str, written: Sequence[Written] = ()) -> None:
        super().__init__(why)
        self.written = list(written)


class Writer(Protocol):
    """A model, here or behind a server."""

    name: str

    def write(self, prompts: Sequence[Prompt], num: int, seed: int) -> list[Written]:
        """`num` completions of every prompt, in the prompts' order."""


@dataclass(frozen=True)
class Batch:
    """What came of some prompts: `tasks[i]` for the i-th, None with a reason in `why[i]`; `gone` ends it all."""

    start: int
    tasks: list[NewTask | None]
    why: list[str]
    gone: str | None = None


def write_tasks(
    prompts: Sequence[tuple[Prompt, dict[str, Any]]],
    writers: Sequence[Writer],
    *,
    num: int,
    seed: int,
    mode: Mode | None,
    batch_size: int = 32,
) -> Iterator[Batch]:
    """Tasks out of prompts, `batch_size` prompts at a time, so that what was written is not lost when the rest fails.

    Args:
        prompts: each with the columns that came with it.
        writers: share the `num` completions of a prompt evenly, the first ones taking what is left over.
        num: completions of one prompt; identical ones are shown once.
        seed: of the sampling.
        mode: of the tasks; `pair` for two completions and `rank` for more when None.
        batch_size: prompts that are written to before their tasks are handed out.
    """
    shares = [num // len(writers) + (place < num % len(writers)) for place in range(len(writers))]
    names = sorted(writer.name for writer in writers)
    for start in range(0, len(prompts), batch_size):
        batch = prompts[start : start + batch_size]
        texts = [prompt for prompt, _ in batch]
        of_prompt: list[list[NewResponse]] = [[] for _ in batch]
        why = [""] * len(batch)
        gone = None
        for writer, share in zip(writers, shares, strict=True):
            try:
                written = writer.write(texts, share, seed + start * num)
            except Gone as error:
                gone, written = str(error), error.written or [Written([], str(error)) for _ in batch]
            for place, one in enumerate(written):
                of_prompt[place] += one.responses
                if len(one.responses) < share:
                    why[place] = f"{writer.name}: {one.why}"
            if gone is not None:
                break
        tasks = [
            _task(prompt, responses, columns, names, mode or ("pair" if num == 2 else "rank"))
            # of a writer that has gone, what is not whole is asked for again another time
            if len({str(response.content) for response in responses}) > 1 and not (gone and why[place])
            else None
            for place, ((prompt, columns), responses) in enumerate(zip(batch, of_prompt, strict=True))
        ]
        reasons = ["" if task else why[place] or "all completions are the same" for place, task in enumerate(tasks)]
        yield Batch(start, tasks, reasons, gone)
        if gone is not None:
            return


def _task(
    prompt: Prompt, responses: Sequence[NewResponse], columns: dict[str, Any], names: list[str], mode: Mode
) -> NewTask:
    return NewTask(prompt=prompt, responses=responses, mode=mode, origin={**columns, "sampled_from": names})
