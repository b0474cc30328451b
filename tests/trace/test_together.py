"""Two passes in step: pairs come as soon as both are there, memory is bounded, and whatever happens both sides end."""

from __future__ import annotations

import contextvars
import gc
import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import mlx.core as mx
import numpy as np
import pytest
import torch
from captured_trees import EXPECTED, MlxTree, PlantedError, TorchTree
from hypothesis import given
from hypothesis import strategies as st

from parity.trace.calls import Call, OnCall
from parity.trace.mlx_capture import mlx_side
from parity.trace.together import Unmatched, advance_together
from parity.trace.torch_capture import torch_side

SECONDS = 300.0
"""No test here computes for a second; one that takes so many hangs, also on a machine that is busy with other work."""


@pytest.fixture(autouse=True)
def _no_deadlock() -> Iterator[None]:
    """Fail a test that hangs, and one that leaves a thread."""

    def hang(_number: int, _frame: object) -> None:
        raise TimeoutError("deadlock")

    before = signal.signal(signal.SIGALRM, hang)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
    assert [thread.name for thread in threading.enumerate() if thread.name == "parity reference"] == []


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Let SIGINT raise: a shell starts what it puts into the background with interrupts ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Tensor:
    """Can be watched while it lives."""

    alive: ClassVar[weakref.WeakSet[Tensor]] = weakref.WeakSet()

    def __init__(self) -> None:
        Tensor.alive.add(self)


def call_of(module: str, number: int = 1, order: int = 0) -> Call:
    return Call(module, number, "Layer", 0, order, (), {}, {}, {"": Tensor()})


def side(modules: Sequence[str]) -> Callable[[OnCall], object]:
    """A pass that calls these modules in this order."""

    def run(on_call: OnCall) -> None:
        numbers: dict[str, int] = {}
        for order, module in enumerate(modules):
            numbers[module] = numbers.get(module, 0) + 1
            on_call(call_of(module, numbers[module], order))

    return run


def paired(reference: Sequence[str], port: Sequence[str], partner: dict[str, str]) -> tuple[list[Any], Unmatched]:
    pairs: list[Any] = []
    left = advance_together(side(reference), side(port), lambda r, p: pairs.append((r.name, p.name)), partner.items())
    return pairs, left


def same(*modules: str) -> dict[str, str]:
    return {module: module for module in modules}


CASES: dict[str, tuple[Sequence[str], Sequence[str], dict[str, str], list[tuple[str, str]], Unmatched]] = {
    "one order": ("abc", "abc", same(*"abc"), [("a", "a"), ("b", "b"), ("c", "c")], Unmatched((), ())),
    "other names": ("ab", "xy", {"a": "x", "b": "y"}, [("a", "x"), ("b", "y")], Unmatched((), ())),
    "crossed names": ("ab", "ba", {"a": "b", "b": "a"}, [("a", "b"), ("b", "a")], Unmatched((), ())),
    "another order": ("abc", "cba", same(*"abc"), [("b", "b"), ("a", "a"), ("c", "c")], Unmatched((), ())),
    "repeated calls": ("aab", "aba", same(*"ab"), [("a", "a"), ("b", "b"), ("a#2", "a#2")], Unmatched((), ())),
    "a call less": ("aa", "a", same("a"), [("a", "a")], Unmatched(("a#2",), ())),
    "a module never called": ("abc", "ac", same(*"abc"), [("a", "a"), ("c", "c")], Unmatched(("b",), ())),
    "no partner": ("axb", "aby", same(*"ab"), [("a", "a"), ("b", "b")], Unmatched(("x",), ("y",))),
    "one side ends early": ("a", "abcd", same(*"abcd"), [("a", "a")], Unmatched((), ("b", "c", "d"))),
    "the other ends early": ("abcd", "a", same(*"abcd"), [("a", "a")], Unmatched(("b", "c", "d"), ())),
    "no calls of the port": ("ab", "", same(*"ab"), [], Unmatched(("a", "b"), ())),
    "no calls of the reference": ("", "ab", same(*"ab"), [], Unmatched((), ("a", "b"))),
    "no calls": ("", "", {}, [], Unmatched((), ())),
    "nothing in common": ("ab", "xy", {}, [], Unmatched(("a", "b"), ("x", "y"))),
}


@pytest.mark.parametrize(("reference", "port", "partner", "pairs", "left"), CASES.values(), ids=CASES)
def test_pairs_and_what_is_left(
    reference: Sequence[str],
    port: Sequence[str],
    partner: dict[str, str],
    pairs: list[tuple[str, str]],
    left: Unmatched,
) -> None:
    found, rest = paired(reference, port, partner)
    assert sorted(found) == sorted(pairs)
    assert rest == left


calls = st.lists(st.sampled_from("abcdef"), max_size=12)


@given(calls, calls, st.sets(st.sampled_from("abcdef")))
def test_every_call_is_paired_or_named_once(reference: list[str], port: list[str], partnered: set[str]) -> None:
    pairs, left = paired(reference, port, same(*partnered))
    shared = sum(min(reference.count(module), port.count(module)) for module in partnered)
    assert len(pairs) == len(set(pairs)) == shared
    assert all(one == other for one, other in pairs)
    assert len(left.reference) == len(set(left.reference)) == len(reference) - shared
    assert len(left.port) == len(set(left.port)) == len(port) - shared


def test_a_fused_module_is_judged_against_each_of_its_partners() -> None:
    links = [("a", "x"), ("b", "x"), ("c", "x"), ("w", "u"), ("w", "v")]
    pairs: list[tuple[str, str]] = []
    left = advance_together(side("abcwabcw"), side("xuvxuv"), lambda r, p: pairs.append((r.name, p.name)), links)
    assert sorted(pairs) == sorted([*links, *((f"{one}#2", f"{other}#2") for one, other in links)])
    assert left == Unmatched((), ())


def test_a_fused_module_that_lacks_a_partner_is_named() -> None:
    pairs: list[tuple[str, str]] = []
    left = advance_together(
        side("ab"), side("x"), lambda r, p: pairs.append((r.name, p.name)), [("a", "x"), ("b", "x"), ("c", "x")]
    )
    assert pairs == [("a", "x"), ("b", "x")]
    assert left == Unmatched((), ("x",))


# --- memory -----------------------------------------------------------------------------------------------


def most_alive(reference: Sequence[str], port: Sequence[str]) -> int:
    """The largest number of calls that were alive as a pair was judged."""
    gc.collect()
    Tensor.alive.clear()
    counts = [0]
    advance_together(
        side(reference), side(port), lambda r, p: counts.append(len(Tensor.alive)), same(*{*reference, *port}).items()
    )
    return max(counts)


NAMES = [f"layer{number}" for number in range(200)]

# A pair, and the call before it that either side's frames still hold.
IN_STEP = 4


def test_calls_are_dropped_once_judged_whatever_the_depth() -> None:
    assert most_alive(NAMES[:10], NAMES[:10]) <= IN_STEP
    assert most_alive(NAMES, NAMES) <= IN_STEP


@pytest.mark.parametrize(("lacking", "having"), [(NAMES[3:], NAMES), (NAMES, NAMES[3:])], ids=["reference", "port"])
def test_calls_whose_partner_never_comes_hold_up_as_many_others(lacking: list[str], having: list[str]) -> None:
    assert most_alive(lacking, having) <= IN_STEP + 2 * 3


def test_holding_everything_would_be_seen() -> None:
    held: list[Call] = []
    Tensor.alive.clear()
    advance_together(side(NAMES), side(NAMES), lambda r, p: held.append(r), same(*NAMES).items())
    assert len(Tensor.alive) >= len(NAMES)


def test_calls_are_dropped_when_the_other_side_has_ended() -> None:
    counts: list[int] = []

    def port(on_call: OnCall) -> None:
        Tensor.alive.clear()
        for order, name in enumerate(NAMES):
            on_call(call_of(name, order=order))
            counts.append(len(Tensor.alive))

    advance_together(side(NAMES[:1]), port, lambda r, p: None, same(*NAMES).items())
    assert max(counts) <= IN_STEP


# --- failures ---------------------------------------------------------------------------------------------


def raising(modules: Sequence[str], error: BaseException, ended: list[str]) -> Callable[[OnCall], object]:
    def run(on_call: OnCall) -> None:
        try:
            side(modules)(on_call)
            raise error
        finally:
            ended.append("raising")

    return run


def endless(ended: list[str]) -> Callable[[OnCall], object]:
    """A pass that goes on until it is stopped."""

    def run(on_call: OnCall) -> None:
        try:
            for number in range(1, 1_000_000):
                on_call(call_of("a", number, number))
        finally:
            ended.append("endless")

    return run


ERRORS = [PlantedError("planted"), KeyboardInterrupt(), SystemExit(3), MemoryError()]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("modules", ["", "aaa"], ids=["at once", "after some calls"])
def test_what_the_reference_raises_stops_the_port(error: BaseException, modules: str) -> None:
    ended: list[str] = []
    error = type(error)(*error.args)
    with pytest.raises(type(error)) as raised:
        advance_together(raising(modules, error, ended), endless(ended), lambda r, p: None, same("a").items())
    assert raised.value is error
    assert error.__notes__ == ["raised by the reference's side"]
    assert sorted(ended) == ["endless", "raising"]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_what_the_port_raises_stops_the_reference(error: BaseException) -> None:
    ended: list[str] = []
    error = type(error)(*error.args)
    with pytest.raises(type(error)) as raised:
        advance_together(endless(ended), raising("aaa", error, ended), lambda r, p: None, same("a").items())
    assert raised.value is error
    assert error.__notes__ == ["raised by the port's side"]
    assert sorted(ended) == ["endless", "raising"]


def test_a_port_that_raises_before_its_first_call_starts_no_reference() -> None:
    ended: list[str] = []
    with pytest.raises(PlantedError):
        advance_together(endless(ended), raising("", PlantedError(), ended), lambda r, p: None, same("a").items())
    assert ended == ["raising"]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_what_on_pair_raises_stops_both(error: BaseException) -> None:
    ended: list[str] = []
    error = type(error)(*error.args)

    def on_pair(reference: Call, port: Call) -> None:
        if port.number == 3:
            raise error

    with pytest.raises(type(error)) as raised:
        advance_together(endless(ended), endless(ended), on_pair, same("a").items())
    assert raised.value is error
    assert error.__notes__ == ["raised by on_pair for 'a#3' and 'a#3'"]
    assert ended == ["endless", "endless"]


def test_a_pass_that_catches_every_exception_is_stopped_nonetheless() -> None:
    caught: list[int] = []

    def stubborn(on_call: OnCall) -> None:
        for number in range(1, 10):
            try:
                on_call(call_of("a", number, number))
            except BaseException:  # noqa: BLE001 - what a model may do at its worst
                caught.append(number)

    def on_pair(reference: Call, port: Call) -> None:
        raise PlantedError

    with pytest.raises(PlantedError):
        advance_together(stubborn, stubborn, on_pair, same("a").items())
    assert len(caught) == 18


def test_a_port_that_turns_the_stop_into_another_error_does_not_hide_the_first() -> None:
    def hiding(on_call: OnCall) -> None:
        try:
            on_call(call_of("a"))
        except BaseException:  # noqa: BLE001 - what a model may do at its worst
            raise ValueError("hidden") from None

    def on_pair(reference: Call, port: Call) -> None:
        raise PlantedError

    with pytest.raises(PlantedError):
        advance_together(side("aa"), hiding, on_pair, same("a").items())


def test_ctrl_c_while_the_reference_works_stops_both(interrupts: None) -> None:
    ended: list[str] = []

    def slow(on_call: OnCall) -> None:
        try:
            on_call(call_of("a"))
            os.kill(os.getpid(), signal.SIGINT)
            released.wait(1.0)
            on_call(call_of("a", 2, 1))
        finally:
            ended.append("slow")

    released = threading.Event()
    with pytest.raises(KeyboardInterrupt):
        advance_together(slow, endless(ended), lambda r, p: None, same("a").items())
    assert sorted(ended) == ["endless", "slow"]


# --- threads ----------------------------------------------------------------------------------------------


def test_pairs_are_judged_in_the_callers_thread_and_the_context_goes_with_the_reference() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("set")
    seen: list[Any] = []

    def reference(on_call: OnCall) -> None:
        seen.append(("reference", variable.get(), threading.current_thread() is threading.main_thread()))
        on_call(call_of("a"))

    def on_pair(reference: Call, port: Call) -> None:
        seen.append(("pair", threading.current_thread() is threading.main_thread()))

    advance_together(reference, side("a"), on_pair, same("a").items())
    assert seen == [("reference", "set", False), ("pair", True)]


def test_a_lazy_array_is_bound_to_its_thread() -> None:
    """Why the port stays where its arrays were made."""
    lazy = mx.ones(2) + 1
    said: list[str] = []

    def evaluate() -> None:
        try:
            mx.eval(lazy)
        except RuntimeError as error:
            said.append(str(error))

    thread = threading.Thread(target=evaluate)
    thread.start()
    thread.join()
    assert "in current thread" in said[0]


def test_both_frameworks_advance_together() -> None:
    reference, port = TorchTree(), MlxTree()
    x, y = torch.ones(1), mx.zeros(1) + 1  # the port's input is not evaluated
    pairs: list[Any] = []

    def on_pair(one: Call, other: Call) -> None:
        same_values = {path: np.array(other.outputs[path]) == tensor.numpy() for path, tensor in one.outputs.items()}
        gradients = [tensor.requires_grad for tensor in one.outputs.values()]
        pairs.append((one.name, other.name, all(map(np.all, same_values.values())), any(gradients)))
        reference.block(x)  # either side may be run again, unrecorded
        port.block(y)

    left = advance_together(
        torch_side(reference, lambda: reference(x)),
        mlx_side(port, lambda: port(y)),
        on_pair,
        [(name, name) for name in ("", "first", "block", "block.inner")],
    )
    assert pairs == [(name, name, True, False) for name, *_ in EXPECTED]
    assert left == Unmatched((), ())
