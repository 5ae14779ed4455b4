"""Several computations at once on a processor: one thread each gains more than many threads in turn on each.

The products of a small model are over before a second thread has begun to help, and most other operations are too
small to be divided at all. Computations that share nothing can run side by side instead.
"""

import functools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

T = TypeVar("T")

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}
_making = threading.Lock()
os.register_at_fork(after_in_child=_pools.clear)  # a child has none of its parent's threads


def side_by_side(tasks: Sequence[Callable[[], T]]) -> list[T]:
    """The results of `tasks`, in their order; each runs in a thread of its own, as many at a time as torch has threads.

    They see grad mode, autocast on the CPU and context variables as they are here. They must not write what another of
    them reads; the results do not depend on which comes first. With one task, or one thread, they run here in turn.
    An exception is raised once all have come to an end: the first by the tasks' order.
    """
    threads = torch.get_num_threads()
    workers = min(len(tasks), threads)
    if workers < 2:
        return [task() for task in tasks]
    state = torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def run(task: Callable[[], T]) -> T:
        grad, autocast, dtype = state
        with torch.set_grad_enabled(grad), torch.autocast("cpu", dtype=dtype, enabled=autocast):
            return task()

    pool = _pool(workers, threads // workers, threads)
    futures = [pool.submit(copy_context().run, run, task) for task in tasks]
    try:
        wait(futures)
    except BaseException:  # a second signal: what has not begun is left out
        for future in futures:
            future.cancel()
        raise
    return [future.result() for future in futures]


def have_parts_in_common(one: nn.Module, other: nn.Module) -> bool:
    """Whether they share a module, on which adapters are switched and hooks are hung, or a parameter."""
    return not {*map(id, one.modules()), *map(id, one.parameters())}.isdisjoint(
        [*map(id, other.modules()), *map(id, other.parameters())]
    )


@dataclass(frozen=True)
class ModelWork:
    """Things to be done with one model."""

    model: nn.Module
    steps: Sequence[Callable[[], None]]
    at_once: bool
    """Whether the model may be in several of them at a time: none switches its adapters or hangs a hook on it."""


def models_side_by_side(works: Sequence[ModelWork]) -> None:
    """`side_by_side` for models: all steps of those that have parts in common are done in turn."""
    groups: list[list[ModelWork]] = []
    for work in works:
        related = [group for group in groups if any(have_parts_in_common(work.model, other.model) for other in group)]
        groups = [group for group in groups if group not in related]
        groups.append([*(member for group in related for member in group), work])

    def in_turn(steps: Sequence[Callable[[], None]]) -> None:
        for step in steps:
            step()

    tasks: list[Callable[[], None]] = []
    for group in groups:
        if len(group) == 1 and group[0].at_once:
            tasks += group[0].steps
        else:
            tasks.append(functools.partial(in_turn, [step for work in group for step in work.steps]))
    side_by_side(tasks)


def _pool(workers: int, share: int, threads: int) -> ThreadPoolExecutor:
    """So many threads that stay, each of which has `share` threads of torch for its operations."""
    with _making:
        if (workers, share) not in _pools:
            _pools[workers, share] = _started(workers, share, threads)
        return _pools[workers, share]


def _started(workers: int, share: int, threads: int) -> ThreadPoolExecutor:
    all_there = threading.Barrier(workers + 1)

    def begin() -> None:
        torch.get_num_threads()  # a thread's first question sets its number to the newest given anywhere
        torch.set_num_threads(share)  # for this thread, and for those that ask first hereafter
        all_there.wait()

    pool = ThreadPoolExecutor(workers, "side-by-side", initializer=begin)
    try:
        for _ in range(workers):
            pool.submit(lambda: None)
        all_there.wait()
    except BaseException:  # a thread that cannot be had, a signal: those that wait for the others must not go on
        all_there.abort()
        pool.shutdown(wait=False)
        raise
    finally:
        torch.set_num_threads(threads)
    return pool
