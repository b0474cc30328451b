"""A reference's requests for float32 are redirected and named while the context lasts, and nothing else is."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from parity.backends.widened import widened_reference

REQUESTS = {
    "a method": lambda x: x.float(),
    "a cast": lambda x: x.to(torch.float32),
    "a named cast": lambda x: x.to(dtype=torch.float),
    "a type": lambda x: x.type(torch.float32),
    "a softmax": lambda x: functional.softmax(x, dim=-1, dtype=torch.float32),
    "a range": lambda x: torch.arange(3, dtype=torch.float) + 0 * x,
    "a complex number": lambda x: x.to(torch.complex64),
}


@pytest.mark.parametrize("request_float32", REQUESTS.values(), ids=REQUESTS)
def test_a_request_for_float32_is_redirected_and_named(request_float32: object) -> None:
    assert callable(request_float32)
    x = torch.full((3,), math.pi, dtype=torch.float64)
    with widened_reference() as leaks:
        answer = request_float32(x)
    assert answer.dtype in (torch.float64, torch.complex128)
    (leak,) = leaks
    assert (leak.kind, leak.times) == ("downcast", 1)
    assert leak.detail.startswith("test_widened_reference.py:")


def test_a_quotient_of_integers_is_float64() -> None:
    with widened_reference() as leaks:
        third = (torch.arange(2, 3) / 3).item()
    assert third == 2 / 3
    assert not leaks


def test_sixteen_bits_integers_and_float64_stay() -> None:
    x = torch.ones(2, dtype=torch.float64)
    with widened_reference() as leaks:
        found = [x.to(dtype).dtype for dtype in (torch.bfloat16, torch.float16, torch.int32, torch.float64)]
    assert found == [torch.bfloat16, torch.float16, torch.int32, torch.float64]
    assert not leaks


def test_the_default_is_restored_after_an_exception_too() -> None:
    def fail() -> None:
        with widened_reference():
            assert torch.ones(1).dtype == torch.float64
            raise KeyError("planted")

    with pytest.raises(KeyError, match="planted"):
        fail()
    assert torch.ones(1).dtype == torch.float32
    assert torch.ones(1, dtype=torch.float64).float().dtype == torch.float32
