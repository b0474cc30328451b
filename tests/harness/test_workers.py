"""Worker processes: every result once, no signal of theirs, gone when the caller stops."""

from __future__ import annotations

import multiprocessing
import os
import time
from typing import Any

import pytest
from worker_tasks import count, die, interrupt_itself, pid_after, refuse, square

from parity.errors import WorkerError
from parity.workers import stream, work, work_here_or_in


def children() -> set[int | None]:
    return {process.pid for process in multiprocessing.active_children()}


@pytest.mark.parametrize(("tasks", "jobs"), [(7, 2), (1, 3), (0, 2)])
def test_every_task_is_answered_once(tasks: int, jobs: int) -> None:
    before = children()
    assert sorted(work(square, range(tasks), jobs)) == [number * number for number in range(tasks)]
    assert children() == before


def test_one_job_is_done_in_this_process_and_more_are_not() -> None:
    assert list(work_here_or_in(pid_after, [0.0, 0.0], 1)) == [os.getpid()] * 2
    assert os.getpid() not in work_here_or_in(pid_after, [0.0, 0.0], 2)


def test_what_a_task_raises_is_raised_here_with_the_traceback_of_its_process() -> None:
    before = children()
    with pytest.raises(ValueError, match="planted") as caught:
        list(work(refuse, range(5), 2))
    assert "in refuse" in caught.value.__notes__[0]
    assert children() == before


def test_a_process_that_dies_is_an_error_that_names_its_task() -> None:
    before = children()
    with pytest.raises(WorkerError, match=r"status -9 at task 3; .*fewer jobs"):
        list(work(die, range(5), 2))
    assert children() == before


def test_workers_do_not_see_ctrl_c() -> None:
    assert sorted(work(interrupt_itself, range(4), 2)) == [0, 1, 2, 3]


def test_an_interruption_ends_busy_workers_at_once() -> None:
    before, begun = children(), time.monotonic()

    def check() -> None:
        if time.monotonic() > begun + 1.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(work(pid_after, [60.0, 60.0, 60.0], 2, check))
    assert time.monotonic() < begun + 3.0
    assert children() == before


def test_a_caller_that_stops_reading_ends_them_too() -> None:
    before = children()
    results: Any = work(square, range(100), 2)
    next(results)
    assert len(children() - before) == 2
    results.close()
    assert children() == before


def test_items_of_a_task_come_in_their_order_before_it_ends() -> None:
    before = children()
    found = list(stream(count, [3, 0, 2], 2))
    assert sorted(found) == [(2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]
    assert [item for item in found if item[0] == 3] == [(3, 0), (3, 1), (3, 2)]
    assert children() == before
