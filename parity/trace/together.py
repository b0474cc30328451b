"""Two forward passes that advance in step, so that a pair of calls can be judged and dropped as soon as both are there.

The port runs in the caller's thread and the reference in one of its own, and exactly one of them runs at any time: the
second thread serves as a coroutine. Hence the order in which pairs are judged is the same in every run, and nothing
races. Greenlets would do the same with a further dependency, and break what the frameworks keep by thread; a generator
cannot, since a forward pass cannot be suspended from a hook within it.

It is the port that stays in the caller's thread because an MLX array that is not evaluated can be evaluated only in the
thread in which it was made (0.32.4: "There is no Stream(cpu, 0) in current thread"); torch's tensors know no thread.

Calls of the reference run in a copy of the caller's context (`contextvars`); gradient mode and the like, which torch
keeps by thread, are for the side itself to set.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from parity.trace.calls import Call, OnCall

Side = Callable[[OnCall], object]
"""Runs one forward pass under a capture that gives its calls to the argument; see `torch_side`, `mlx_side`."""

Key = tuple[str, str, int]
"""A module of the reference, one of the port, and the number of the call."""


@dataclass(frozen=True)
class Unmatched:
    """Names of captured calls whose partner never came, in the order in which they ended."""

    reference: tuple[str, ...]
    port: tuple[str, ...]


def advance_together(
    reference: Side, port: Side, on_pair: Callable[[Call, Call], None], links: Iterable[tuple[str, str]]
) -> Unmatched:
    """Run both sides in step and hand on each pair of calls once both have ended; both are dropped then.

    The side whose calls are fewer so far goes on, until the other side's latest call has found its partner or been
    overtaken. So where both sides make their calls in one order, at most one call is held; otherwise as many as the
    orders are apart, and one more on either side for each call whose partner never comes. A fused module's call counts
    as many times as it has partners, and is held until the last of them.

    Args:
        reference: Runs in a thread of its own.
        port: Runs in the caller's thread.
        on_pair: Gets the reference's call and the port's, in the caller's thread, while both sides stand still: it may
            call modules of either side.
        links: Modules of the reference, each with a module of the port; calls of the same number belong together. A
            module may have several partners on the other side: it is fused, and judged against each.

    Returns:
        What stayed without a partner; without one of its partners, where it has several.

    Raises:
        BaseException: What a side or `on_pair` raised, with a note that says which; the other side has been stopped at
            the next call that it ended.
    """
    pairing = _Pairing(on_pair, links)
    thread = _Reference(reference)

    def on_port_call(call: Call) -> None:
        """Pair a call of the port, then let the reference catch up."""
        if pairing.failed is not None:  # the port has caught what was to stop it
            raise _Stopped
        try:
            pairing.add_port(call)
            _catch_up(thread, pairing)
        except BaseException as error:  # noqa: BLE001 - it is raised again once the port has ended
            pairing.failed = error
            raise _Stopped from None

    try:
        _run_port(port, on_port_call, pairing)
        pairing.port_finished()
        _exhaust(thread, pairing)
    finally:
        thread.stop()
    return pairing.unmatched()


class _Stopped(BaseException):
    """Ends a side that is not to go on; no `except Exception` of a model stops it."""


def _run_port(port: Side, on_call: OnCall, pairing: _Pairing) -> None:
    try:
        port(on_call)
    except BaseException as error:
        if pairing.failed is None:
            error.add_note("raised by the port's side")
            raise
    if pairing.failed is not None:
        raise pairing.failed


def _catch_up(thread: _Reference, pairing: _Pairing) -> None:
    while not pairing.reference.finished and pairing.reference.ended < pairing.port.ended:
        _advance(thread, pairing)


def _exhaust(thread: _Reference, pairing: _Pairing) -> None:
    while not pairing.reference.finished:
        _advance(thread, pairing)


def _advance(thread: _Reference, pairing: _Pairing) -> None:
    """Let the reference end one more call, or return."""
    call = thread.next_call()
    if call is None:
        pairing.reference_finished()
    else:
        pairing.add_reference(call)


# --- pairing ----------------------------------------------------------------------------------------------


@dataclass
class _Held:
    """Calls of one side that wait, names of those that nothing waits for, and how far the side has come."""

    waiting: dict[Key, Call] = field(default_factory=dict)
    alone: list[tuple[int, str]] = field(default_factory=list)
    ended: int = 0
    finished: bool = False

    def drop_waiting(self) -> None:
        self.alone += [(call.order, call.name) for call in self.waiting.values()]
        self.waiting.clear()

    def names(self) -> tuple[str, ...]:
        return tuple(name for _, name in sorted(set(self.alone)))


class _Pairing:
    """Which calls wait for which; the only place that holds calls."""

    def __init__(self, on_pair: Callable[[Call, Call], None], links: Iterable[tuple[str, str]]) -> None:
        self._on_pair = on_pair
        self._of_reference: dict[str, list[str]] = {}
        self._of_port: dict[str, list[str]] = {}
        for name, other in dict.fromkeys(links):
            self._of_reference.setdefault(name, []).append(other)
            self._of_port.setdefault(other, []).append(name)
        self.reference, self.port = _Held(), _Held()
        self.failed: BaseException | None = None

    def add_reference(self, call: Call) -> None:
        keys = [(call.module, other, call.number) for other in self._of_reference.get(call.module, ())]
        for other in self._meet(self.reference, self.port, keys, call):
            self._judge(call, other)

    def add_port(self, call: Call) -> None:
        keys = [(name, call.module, call.number) for name in self._of_port.get(call.module, ())]
        for other in self._meet(self.port, self.reference, keys, call):
            self._judge(other, call)

    def reference_finished(self) -> None:
        """Nothing comes from the reference any more: what waits on the port's side waits in vain."""
        self.reference.finished = True
        self.port.drop_waiting()

    def port_finished(self) -> None:
        """Nothing comes from the port any more: what waits on the reference's side waits in vain."""
        self.port.finished = True
        self.reference.drop_waiting()

    def unmatched(self) -> Unmatched:
        self.reference.drop_waiting()
        self.port.drop_waiting()
        return Unmatched(self.reference.names(), self.port.names())

    def _meet(self, own: _Held, other: _Held, keys: Sequence[Key], call: Call) -> list[Call]:
        """Return those partners of a call that has just ended that wait already; for the others let it wait."""
        own.ended += len(keys)
        missing = [key for key in keys if key not in other.waiting]
        if not keys or (missing and other.finished):
            own.alone.append((call.order, call.name))
        elif missing:
            own.waiting |= dict.fromkeys(missing, call)
        return [other.waiting.pop(key) for key in keys if key in other.waiting]

    def _judge(self, reference: Call, port: Call) -> None:
        try:
            self._on_pair(reference, port)
        except BaseException as error:
            error.add_note(f"raised by on_pair for {reference.name!r} and {port.name!r}")
            raise


# --- the reference's thread -------------------------------------------------------------------------------


class _Reference:
    """The reference's pass, advanced call by call from another thread; it starts with the first."""

    def __init__(self, side: Side) -> None:
        self._side = side
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._call: Call | None = None
        self._error: BaseException | None = None
        self._stopping = False
        context = contextvars.copy_context()
        # A daemon: a pass that hangs in itself must not keep a process that was interrupted.
        self._thread = threading.Thread(target=context.run, args=(self._run,), name="parity reference", daemon=True)

    def next_call(self) -> Call | None:
        """Let the pass end one more call and return it, None once the pass has returned.

        Raises:
            BaseException: What the pass raised.
        """
        if self._thread.ident is None:
            self._thread.start()
        self._go.release()
        self._done.acquire()
        if self._error is not None:
            raise self._error
        call, self._call = self._call, None
        return call

    def stop(self) -> None:
        """End the thread at the next call that it ends."""
        if self._thread.ident is None:
            return
        self._stopping = True
        self._go.release()
        self._thread.join()

    def _run(self) -> None:
        self._go.acquire()
        try:
            if not self._stopping:
                self._side(self._hold)
        except _Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 - it is raised again where the caller waits
            error.add_note("raised by the reference's side")
            self._error = error
        finally:
            self._done.release()

    def _hold(self, call: Call) -> None:
        if self._stopping:
            raise _Stopped
        self._call = call
        self._done.release()
        self._go.acquire()
        if self._stopping:
            raise _Stopped
