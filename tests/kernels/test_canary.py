"""Double-float arithmetic starts only where it is exact: the canary passes here, and refuses every faulty device."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx
import pytest
from faulty_arithmetic import Contracting, Flushing, Plain, Truncating, running

from mlx_impl.kernels import canary
from mlx_impl.ops import Ops
from parity.errors import InexactArithmeticError
from parity.spec.profile import CANONICAL

EXTENDED = CANONICAL.replace(ep_freqmul=True, ep_depthwise=True, ep_fft=True)


@pytest.fixture
def _asked_anew() -> Iterator[None]:
    canary._require_exact_device.cache_clear()
    yield
    canary._require_exact_device.cache_clear()


@pytest.mark.parametrize("run", [canary.eager, canary.compiled, running(Plain)], ids=["eager", "compiled", "plain"])
def test_float32_rounded_once_an_operation_passes(run: canary.Runner) -> None:
    assert canary.problems(run) == []


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Flushing, "flushed to zero"),
        (Contracting, "contraction"),
        (Contracting, "exact product"),
        (Truncating, "exact sum"),
    ],
)
def test_a_faulty_device_is_found_out_by_name(kind: type[Plain], words: str) -> None:
    assert [problem for problem in canary.problems(running(kind)) if words in problem] != []


def test_a_device_that_flushes_is_accused_of_nothing_else() -> None:
    assert len(canary.problems(running(Flushing))) == 1


@pytest.mark.usefixtures("_asked_anew")
@pytest.mark.parametrize("way", ["eager", "compiled"])
@pytest.mark.parametrize("kind", [Flushing, Contracting])
def test_the_kernels_refuse_a_faulty_device(kind: type[Plain], way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary, way, running(kind))
    x = mx.ones((1, 4, 3))
    with pytest.raises(InexactArithmeticError, match=r"not exact on .* choose a profile without ep_freqmul"):
        Ops(EXTENDED).rfft(x, 6, "backward")
    with pytest.raises(InexactArithmeticError):
        Ops(EXTENDED).depthwise_conv(x, mx.ones((3, 3, 1)), mx.ones(3), 2)
    with pytest.raises(InexactArithmeticError):
        Ops(CANONICAL.replace(ep_freqmul=True)).spectrum_product(mx.fft.rfft(x), mx.fft.rfft(x))


@pytest.mark.usefixtures("_asked_anew")
def test_other_profiles_do_not_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary, "eager", running(Contracting))
    Ops(CANONICAL.replace(strict_kernels=True)).rfft(mx.ones((1, 4, 3)), 6, "backward")


@pytest.mark.usefixtures("_asked_anew")
def test_a_device_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def counted(run: canary.Runner) -> list[str]:
        asked.append(run)
        return []

    monkeypatch.setattr(canary, "problems", counted)
    for _ in range(3):
        canary.require_exact()
    assert asked == [canary.eager, canary.compiled]
