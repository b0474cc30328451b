"""Tasks for worker processes, which import them by name."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from parity.run_jobs import Asked


def square(number: int) -> int:
    """Return the square."""
    return number * number


def pid_after(seconds: float) -> int:
    """Return this process's id, later."""
    time.sleep(seconds)
    return os.getpid()


def refuse(number: int) -> int:
    """Raise at 3."""
    if number == 3:
        raise ValueError("planted")
    return number


def die(number: int) -> int:
    """Die at 3, as if killed for memory."""
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def interrupt_itself(number: int) -> int:
    """Send this process the signal of Ctrl-C."""
    os.kill(os.getpid(), signal.SIGINT)
    return number


def count(number: int, emit: Callable[[tuple[int, int]], None]) -> None:
    """Emit what is below the number."""
    for below in range(number):
        emit((number, below))


def policy_of_plan(asked: Asked) -> int:
    """Make the plan of a run as its workers do, and return how this process is scheduled then, as any other before."""
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    asked.plan()
    return os.sched_getscheduler(0)
