"""Kernels of a Hyena filter that are made once: the same bits, and never those of other parameters."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest
from mlx import nn
from mlx.utils import tree_flatten, tree_map

from mlx_impl import HyenaFilter
from mlx_impl.hyena import HeldKernels

L = 12


def made(bidirectional: bool = True, seed: int = 3) -> HyenaFilter:
    mx.random.seed(seed)
    return HyenaFilter(5, emb_dim=5, order=8, seq_len=L, bidirectional=bidirectional)


def inputs(length: int = L) -> mx.array:
    return mx.random.normal((2, 5, length), key=mx.random.key(4))


def count_of_kernels(patch: pytest.MonkeyPatch) -> list[int]:
    """Lengths of the kernels that are made from now on."""
    seen: list[int] = []
    original = HyenaFilter._kernel

    def counted(self: HyenaFilter, network: Any, length: int) -> mx.array:
        seen.append(length)
        return original(self, network, length)

    patch.setattr(HyenaFilter, "_kernel", counted)
    return seen


@pytest.mark.parametrize("bidirectional", [False, True])
def test_held_kernels_give_the_same_bits_and_are_made_once(
    bidirectional: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, x = made(bidirectional), inputs()
    expected = module(x)
    module.hold(L)
    seen = count_of_kernels(monkeypatch)
    assert mx.array_equal(module(x), expected)
    assert seen == []
    module.release()
    assert mx.array_equal(module(x), expected)
    assert seen == [L] * (1 + bidirectional)


def test_another_length_makes_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = made(), inputs(7)
    expected = module(x)
    module.hold(L)
    seen = count_of_kernels(monkeypatch)
    assert mx.array_equal(module(x), expected)
    assert seen == [7, 7]


@pytest.mark.parametrize("name", [name for name, _ in tree_flatten(made().parameters())])
def test_another_parameter_makes_kernels_of_its_own(name: str) -> None:
    module, x = made(), inputs()
    module.hold(L)
    module.load_weights([(name, 2 * dict(tree_flatten(module.parameters()))[name])], strict=False)
    actual = module(x)
    module.release()
    assert mx.array_equal(actual, module(x))


def test_kernels_of_other_parameters_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = made(), inputs()
    module.hold(L)
    module.update(made(seed=5).parameters())
    monkeypatch.setattr(HeldKernels, "fit", lambda _self, length, _arrays: length == L)
    actual = module(x)
    module.release()
    assert not mx.allclose(actual, module(x))


def test_gradients_by_the_parameters_go_through_the_network() -> None:
    def gradients(module: HyenaFilter) -> Any:
        return nn.value_and_grad(module, lambda model, x: mx.sum(model(x) ** 2))(module, inputs())[1]

    module = made()
    expected = gradients(module)
    module.hold(L)
    same = tree_map(lambda a, b: mx.array_equal(a, b).item(), gradients(module), expected)
    assert all(value for _, value in tree_flatten(same))
    assert mx.abs(expected["implicit_filter"]["layers"][0]["weight"]).max() > 0


def test_what_is_held_is_no_parameter_and_is_renewed() -> None:
    module = made()
    names = [name for name, _ in tree_flatten(module.parameters())]
    module.hold(7)
    module.hold(L)
    assert [name for name, _ in tree_flatten(module.parameters())] == names
    assert [kernel.shape for kernel in module.kernels(L) if kernel is not None] == [(5, L), (5, L)]
    with pytest.raises(ValueError, match="13 positions"):
        module.hold(13)
