"""The fused convolution's body, run on the host block by block: meaning, accuracy, and the bits of every row."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pytest
from fused_host import CHANNELS, COMPILER, Job, Library
from hypothesis import given
from hypothesis import strategies as st

from mlx_impl.kernels.fused_sources import (
    FACTORS,
    SHARED_BYTES,
    Language,
    Plan,
    Switches,
    convolution_kernels,
    header,
    in_columns,
    plan,
    radices,
    shared_bytes,
    smooth,
    source,
    spectrum_kernels,
)
from parity.spec.arrays import AnyArray

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler: the body cannot be run on the host")

LENGTHS: Final = (1, 2, 3, 7, 64, 100, 127, 250, 257, 600)
COLUMNS: Final = {45: 5, 100: 10, 127: 8, 240: 15, 250: 10}
"""Lengths that are cut into columns although they would fit, and how many."""

U: Final = 2.0**-24


def switched(found: Plan, **on: Any) -> Switches:
    return Switches(scale=0.25 / found.points, **on)


def jobs() -> tuple[Job, ...]:
    plans = [plan(length) for length in LENGTHS]
    plans += [in_columns(length, smooth(length), p, False, 4096) for length, p in COLUMNS.items()]
    found = []
    for at, one in enumerate([*plans, *(replace(p, double=True) for p in plans)]):
        on = ({}, {"reverse": -1, "gated": True}, {"reverse": 0, "conjugated": True})[at % 3]
        found.append(Job(one, switched(one, **on)))
    return tuple(found)


JOBS: Final = jobs()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library(tmp_path_factory.mktemp("fused"), JOBS)


def arrays(length: int, batch: int = 2) -> dict[str, AnyArray]:
    draw = np.random.Generator(np.random.Philox(length))
    shapes = {"u": (batch, CHANNELS, length), "k": (CHANNELS, length), "reverse": (CHANNELS, length)}
    shapes |= {"skip": (CHANNELS,), "gate": (batch, CHANNELS, length)}
    return {name: draw.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def truth(job: Job, given_: dict[str, AnyArray]) -> AnyArray:
    """The sum itself, in float64: y[t] = (sum_s k2[t - s] u[s] + D u[t]) gate[t]."""
    length, on = job.plan.length, job.switches
    u, k, reverse, skip, gate = (given_[name].astype(np.float64) for name in ("u", "k", "reverse", "skip", "gate"))
    taps = np.zeros((CHANNELS, 2 * length + 1))  # lag -length comes first
    taps[:, length : 2 * length] += k
    if on.reverse is not None:
        taps[:, 1 + on.reverse : length + 1 + on.reverse] += reverse[:, ::-1]
    t, s = np.indices((length, length))
    matrix = taps[:, (s - t if on.conjugated else t - s) + length]
    y = np.einsum("cts,bcs->bct", matrix, u) + u * skip[:, None]
    return y * gate if on.gated else y


def error(y: AnyArray, exact: AnyArray) -> float:
    return float(np.linalg.norm(y - exact) / np.linalg.norm(exact) / U)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_a_row_is_convolved(job: Job, library: Library) -> None:
    numbers = arrays(job.plan.length)
    exact = truth(job, numbers)
    found = library.run(job, numbers)
    if job.plan.double:
        # Rounded once: half a unit at most, but for ties that 2^-45 cannot decide.
        assert np.all(found == exact.astype(np.float32))
    else:
        assert error(found, exact) <= 1.5 * np.sqrt(np.log2(4 * job.plan.points))


def test_a_row_has_the_same_bits_in_every_batch(library: Library) -> None:
    job = next(job for job in JOBS if job.plan.length == 100 and job.plan.columns == 1 and not job.plan.double)
    numbers = arrays(100, batch=6)
    together = library.run(job, numbers)
    for row in range(6):
        alone = {**numbers, "u": numbers["u"][row : row + 1].copy(), "gate": numbers["gate"][row : row + 1].copy()}
        assert np.array_equal(library.run(job, alone)[0], together[row])


def test_a_neighbour_s_infinity_stays_with_it(library: Library) -> None:
    job = next(job for job in JOBS if job.plan.length == 127 and job.plan.columns == 8 and not job.plan.double)
    numbers = arrays(127)
    before = library.run(job, numbers)
    numbers["u"][0, 1, 5] = np.inf
    after = library.run(job, numbers)
    assert np.isnan(after[0, 1]).any()
    rest = [(0, 0), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert all(np.array_equal(before[at], after[at]) for at in rest)


PLANTED: Final = {
    "a turn the wrong way": ("if (INVERSE) return {negative(a.y), a.x};", "if (!INVERSE) return {negative(a.y), a.x};"),
    "a twiddle that is not conjugated": ("if (INVERSE) return conjugate(w);", ""),
    "a reverse kernel a lag late": ("2 * N - t - FIRST", "2 * N - t - FIRST + 1"),
    "an adjoint without conjugation": ("CONJUGATED ? conjugate(f) : f", "f"),
    "a skip term that is added to the input": (
        "from(u, 0.0f, Real()), from(skip",
        "from(1.0f, 0.0f, Real()), from(skip",
    ),
    "the other sum of a butterfly of five": (
        "v[2] = add(b, d);\n  v[3] = sub(b, d);",
        "v[3] = add(b, d);\n  v[2] = sub(b, d);",
    ),
    "the number at N taken from the one at 0": ("h[0].x, h[N].x", "h[0].x, h[0].x"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_fault_of_the_body_is_seen(name: str, tmp_path: Any) -> None:
    right, wrong = PLANTED[name]
    text = header("host", False)
    assert text.count(right) >= 1
    chosen = tuple(
        job for job in JOBS if not job.plan.double and job.plan.length in (7, 100, 127) and job.plan.columns == 1
    )
    extra = Job(plan(100), switched(plan(100), conjugated=True, reverse=-1))
    spoilt = Library(tmp_path, (*chosen, extra), text.replace(right, wrong))
    assert any(
        error(spoilt.run(job, arrays(job.plan.length)), truth(job, arrays(job.plan.length))) > 1e4
        for job in spoilt.jobs
    )


# --- plans ----------------------------------------------------------------------------------------------


@given(st.integers(1, 300_000), st.booleans(), st.sampled_from(["cuda", "metal"]))
def test_a_plan_fits(length: int, double: bool, spoken: Language) -> None:
    found = plan(length, double, spoken)
    assert found.points == smooth(length) >= length
    assert found.columns * found.rows == found.points
    for part in (found.columns, found.rows):
        product = 1
        for radix in radices(part):
            product *= radix
        assert product == part
    for kernel in (*spectrum_kernels(found, switched(found)), *convolution_kernels(found, switched(found), 3)):
        assert kernel.threads % 32 == 0
        assert shared_bytes(kernel.places, double) <= SHARED_BYTES[spoken]


def test_factors_are_those_that_the_body_has() -> None:
    has = {int(radix) for radix in re.findall(r"if \(R == (\d)\)", header("host", False))}
    assert set(FACTORS) <= has
    assert has == {2, 3, 4, 5, 8}


@pytest.mark.parametrize("spoken", ["cuda", "metal"])
def test_every_word_of_the_body_is_in_every_prelude(spoken: Language) -> None:
    words = set(re.findall(r"#define (\w+)", header("host", False).split("// Convolution of one row")[0]))
    theirs = set(re.findall(r"#define (\w+)", header(spoken, False).split("// Convolution of one row")[0]))
    assert words == theirs


def test_kernels_are_named_apart_in_every_language() -> None:
    found = plan(40_000)
    names = [kernel.name for kernel in spectrum_kernels(found, switched(found))]
    assert names == ["fftconv_tap_columns", "fftconv_spectrum_rows"]
    assert "threadgroup Number s[" in source(spectrum_kernels(found, switched(found))[0], "metal")


def test_nothing_is_no_row() -> None:
    with pytest.raises(ValueError, match="at least one number"):
        plan(0)


def test_what_no_block_can_hold_is_refused() -> None:
    assert plan(2**22).columns == 2**11
    with pytest.raises(ValueError, match="do not fit a block of metal"):
        plan(2**22, True, "metal")
