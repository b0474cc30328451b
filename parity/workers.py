"""A few processes that work on tasks: results as they come, and an end at once when asked.

Source: signal(7), "Signal mask and pending signals": a mask is inherited across fork and kept by execve.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Final, Literal, TypeVar

from parity.errors import WorkerError

Task = TypeVar("Task")
Result = TypeVar("Result")
Emit = Callable[[Any], None]
"""What a task calls with every item that is to come out."""

_Kind = Literal["item", "end", "error"]

POLL_SECONDS: Final = 0.1
"""How long a noted interruption may wait."""


def work(
    function: Callable[[Task], Result], tasks: Iterable[Task], jobs: int, check: Callable[[], object] = bool
) -> Iterator[Result]:
    """Yield `function` of every task, in the order in which `jobs` new processes finish them.

    Whatever ends the iteration ends the processes with it. They do not see Ctrl-C, which a terminal sends to them too:
    it is for the caller to answer.

    Args:
        function: Importable by name, as are the types of its argument and its result.
        tasks: The tasks.
        jobs: Number of processes.
        check: Called several times a second; may raise to stop.

    Raises:
        WorkerError: A process ended by itself.
        Exception: What `function` raised, with the traceback of its process as a note.
    """
    yield from stream(_Single(function), tasks, jobs, check)


def work_here_or_in(
    function: Callable[[Task], Result], tasks: Iterable[Task], jobs: int
) -> Generator[Result, None, None]:
    """Yield `function` of every task: for one job in this process and in their order, for more as `work` does."""
    yield from map(function, tasks) if jobs == 1 else work(function, tasks, jobs)


def stream(
    function: Callable[[Task, Emit], object], tasks: Iterable[Task], jobs: int, check: Callable[[], object] = bool
) -> Generator[Any, None, None]:
    """Yield what `function` emits while it works on every task, as it comes; else like `work`.

    Args:
        function: Given a task and what it is to call with every item; can be pickled, as can tasks and items.
        tasks, jobs, check: As of `work`.

    Raises:
        WorkerError, Exception: As of `work`.
    """
    waiting = iter(tasks)
    busy: dict[Any, tuple[_Worker, Task]] = {}
    workers: list[_Worker] = []
    try:
        for task in itertools.islice(waiting, jobs):
            workers.append(_Worker(function))
            workers[-1].give(task)
            busy[workers[-1].connection] = workers[-1], task
        while busy:
            check()
            for connection in wait(list(busy), POLL_SECONDS):
                worker, task = busy[connection]
                is_item, item = worker.take(task)
                if is_item:
                    yield item
                    continue
                del busy[connection]
                for following in itertools.islice(waiting, 1):
                    worker.give(following)
                    busy[connection] = worker, following
    finally:
        for worker in workers:
            worker.stop()


class _Single:
    """A function of one result, as one that emits it."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __call__(self, task: Any, emit: Emit) -> None:
        emit(self.function(task))


class _Worker:
    """One process and the pipe to it."""

    def __init__(self, function: Callable[[Any, Emit], object]) -> None:
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(function, theirs), daemon=True)
        with _ctrl_c_held_back():
            self.process.start()
        theirs.close()

    def give(self, task: object) -> None:
        # A process that has ended is met when its answer is taken.
        with contextlib.suppress(BrokenPipeError):
            self.connection.send(task)

    def take(self, task: object) -> tuple[bool, Any]:
        """Return whether an item has come, and the item; without one the task is finished."""
        try:
            kind, answer = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            raise WorkerError(
                f"a worker process ended with status {self.process.exitcode} at task {task!r}; if it was killed for "
                "memory, use fewer jobs"
            ) from None
        if kind == "error":
            raise answer
        return kind == "item", answer

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(function: Callable[[Any, Emit], object], connection: Connection) -> None:
    """Answer tasks until the pipe's other end is closed, or its process is gone."""

    def emit(item: Any) -> None:
        connection.send(("item", item))

    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            connection.send(_end(function, connection.recv(), emit))


def _end(function: Callable[[Any, Emit], object], task: object, emit: Emit) -> tuple[_Kind, Any]:
    try:
        function(task, emit)
    except Exception as error:  # noqa: BLE001 - it is raised again where the task came from
        error.add_note(traceback.format_exc())
        return "error", error
    return "end", None


@contextlib.contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """Hold SIGINT back in this thread: a process started meanwhile is born with it blocked, and never sees it.

    The resource tracker, which `multiprocessing` starts with the first process, would lift the block: it comes first.
    """
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
