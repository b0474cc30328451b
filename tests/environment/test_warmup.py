"""The warm-up reaches every function in both dtypes, once; a warmed process repeats its bits."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from parity.environment import warm_up

ROOT = Path(__file__).parents[2]
FUNCTIONS = ("sin", "cos", "exp", "erf", "sqrt", "log", "tanh", "sigmoid", "rsqrt")

# First call against second call, bit for bit; and against long double (or double where that is all there is)
# within one ulp, so that two equally wrong calls do not pass.
SCRIPT = """
import sys
import numpy as np
import torch
from parity.environment import warm_up

def sin(x):
    y = torch.sin(x)
    if "plant" in sys.argv and not planted:
        y[x.numel() // 2 :] *= 1 + 6.8e-9
    planted.append(True)
    return y

planted = []
warm_up()
x = np.random.Generator(np.random.Philox(7)).uniform(-10.0, 10.0, 100_000)
first, second = (sin(torch.from_numpy(x)).numpy() for _ in range(2))
truth = np.sin(x.astype(np.longdouble)).astype(np.float64)
assert np.array_equal(first.view(np.int64), second.view(np.int64)), "the first call differs from the second"
assert (np.abs(second - truth) <= np.spacing(np.abs(truth))).all(), "wrong by more than one ulp"
"""


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operators that reach the dispatcher, by name, dtype and number of elements."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[tuple[str, torch.dtype, int]] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if args and isinstance(args[0], torch.Tensor):
            self.calls[func.overloadpacket.__name__, args[0].dtype, args[0].numel()] += 1
        return func(*args, **(kwargs or {}))


def run_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", SCRIPT, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_every_function_is_called_once_on_one_element(dtype: torch.dtype) -> None:
    warm_up.cache_clear()
    with Recorder() as recorder:
        warm_up()
    assert {name for name, kind, size in recorder.calls if (kind, size) == (dtype, 1)} >= set(FUNCTIONS)
    assert set(recorder.calls.values()) == {1}


def test_second_warm_up_calls_nothing() -> None:
    warm_up()
    with Recorder() as recorder:
        warm_up()
    assert not recorder.calls


def test_recorder_sees_a_call() -> None:
    with Recorder() as recorder:
        torch.sin(torch.ones(3))
    assert recorder.calls == {("sin", torch.float32, 3): 1}


def test_warmed_sin_repeats_its_bits_and_is_right() -> None:
    finished = run_script()
    assert finished.returncode == 0, finished.stderr


def test_a_planted_race_is_caught() -> None:
    finished = run_script("plant")
    assert finished.returncode == 1
    assert "the first call differs from the second" in finished.stderr
