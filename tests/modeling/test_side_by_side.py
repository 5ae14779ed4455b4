"""Computations at once: their results, what they see of the thread that asked, and what happens when one fails."""

import contextvars
import os
import threading
from collections.abc import Iterator

import pytest
import torch
from threads import torch_threads
from torch import nn

from rlhf.modeling import ModelWork, models_side_by_side, side_by_side, weights_held
from rlhf.modeling.packed import in_dtype


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    with torch_threads(2):
        yield


def test_tasks_run_at_the_same_time_and_results_keep_their_order() -> None:
    both_there = threading.Barrier(2, timeout=20)  # breaks unless two are inside at once

    def task(number: int) -> tuple[int, int, str]:
        both_there.wait()
        return number, torch.get_num_threads(), threading.current_thread().name

    found = side_by_side([lambda: task(1), lambda: task(2)])
    assert [number for number, _, _ in found] == [1, 2]
    assert [threads for _, threads, _ in found] == [1, 1]
    assert len({name for _, _, name in found}) == 2
    assert torch.get_num_threads() == 2


def test_threads_that_begin_later_have_all_of_torchs_threads() -> None:
    side_by_side([lambda: 0, lambda: 0])
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert seen == [2]


def test_with_one_thread_tasks_run_here_one_after_the_other() -> None:
    here = threading.current_thread()
    with torch_threads(1):
        assert side_by_side([threading.current_thread] * 2) == [here, here]


def test_threads_that_cannot_be_had_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name.endswith("_2"):
            raise RuntimeError("can't start new thread")
        begun(thread)

    with torch_threads(3), monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="can't start"):
            side_by_side([lambda: 1] * 3)
        assert torch.get_num_threads() == 3
    with torch_threads(3):
        assert side_by_side([lambda: 1, lambda: 2, lambda: 3]) == [1, 2, 3]


def test_grad_mode_autocast_and_context_variables_are_those_of_the_caller() -> None:
    number: contextvars.ContextVar[int] = contextvars.ContextVar("number", default=0)
    number.set(7)

    def seen() -> tuple[bool, bool, int]:
        return torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), number.get()

    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert side_by_side([seen, seen]) == [(False, True, 7)] * 2
    assert side_by_side([seen, seen]) == [(True, False, 7)] * 2


def test_weights_that_are_held_are_held_there_as_well() -> None:
    weight = torch.ones(2, 2)
    with weights_held():
        mine = in_dtype(weight, torch.bfloat16)
        assert all(copy is mine for copy in side_by_side([lambda: in_dtype(weight, torch.bfloat16)] * 2))


def test_the_first_failure_is_raised_when_all_have_ended() -> None:
    ended: list[str] = []

    def fails(name: str) -> None:
        try:
            raise ValueError(name)
        finally:
            ended.append(name)

    with pytest.raises(ValueError, match="first"):
        side_by_side([lambda: fails("first"), lambda: fails("second"), lambda: ended.append("third")])
    assert sorted(ended) == ["first", "second", "third"]


def test_a_forked_process_makes_threads_of_its_own() -> None:
    side_by_side([lambda: 0, lambda: 0])
    child = os.fork()
    if child == 0:
        os._exit(sum(side_by_side([lambda: 2, lambda: 3])))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 5


def test_models_with_modules_in_common_take_turns() -> None:
    one = nn.Linear(1, 1)
    met = threading.Barrier(2)
    alone: list[bool] = []

    def step() -> None:
        try:
            met.wait(0.2)
        except threading.BrokenBarrierError:
            alone.append(True)

    models_side_by_side([ModelWork(one, [step, step], True), ModelWork(nn.Sequential(one), [step], True)])
    assert alone == [True, True, True]


def test_steps_with_a_model_that_may_be_shared_are_done_at_once() -> None:
    met = threading.Barrier(2, timeout=20)  # breaks unless two are inside at once

    def step() -> None:
        met.wait()

    models_side_by_side([ModelWork(nn.Linear(1, 1), [step, step], True)])
    with pytest.raises(threading.BrokenBarrierError):
        met._timeout = 0.2  # type: ignore[attr-defined]
        models_side_by_side([ModelWork(nn.Linear(1, 1), [step, step], False)])
