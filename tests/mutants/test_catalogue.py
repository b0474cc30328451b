"""The catalogue of mutants of M2-BERT: complete, well-formed, undone after use, and each one really a mistake."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from types import ModuleType
from typing import Any, Final, get_args

import pytest
from catalogue_sweep import sightings

import mlx_impl
from mlx_impl import activations, blockdiag, embeddings, fft_conv, heads, hyena, linear, mixer, mlp, model, norm, ops
from mlx_impl import weights as port_weights
from mlx_impl.kernels import blockdiag as block_products
from mlx_impl.kernels import long_convolution, monarch_fft
from parity.mutants.mutant import Check, Kind, Mutant
from parity.spec.profile import CANONICAL
from parity.suites import PAIRS
from parity.suites.m2_bert_mutants import MUTANTS
from parity.suites.m2_bert_mutants_build import mutants_of, op

BY_NAME: Final = {mutant.name: mutant for mutant in MUTANTS}
WRONG: Final = [mutant for mutant in MUTANTS if not mutant.equivalent]
EQUIVALENT: Final = [mutant for mutant in MUTANTS if mutant.equivalent]

FAMILIES: Final = {
    "1": ("skip-added",),
    "1b": ("skip-missing", "skip-of-first-channel"),
    "2": ("kernel-reversed", "kernel-correlated"),
    "3": ("reverse-at-lag-0", "reverse-not-conjugated", "reverse-not-flipped", "reverse-at-lag-2"),
    "4": ("fft-length-l", "fft-output-tail"),
    "4b": ("fft-length-2l-1", "kernel-one-sample-late", "causal-at-2l-1"),
    "5": ("fft-scale-missing", "fft-scale-twice", "fft-scale-of-l", "fft-scale-orthonormal", "one-over-n-moved"),
    "6": ("gelu-tanh", "gelu-sigmoid"),
    "7": ("norm-eps-of-mlx",),
    "7b": ("norm-eps-outside-root",),
    "7c": ("norm-unbiased",),
    "7d": ("norm-rms", "norm-mean-kept"),
    "8": ("sin-unshared", "sin-unshared-in-reverse", "freq-not-loaded"),
    "8b": ("sin-freq-ignored", "sin-freq-twice"),
    "9": ("positions-interleaved", "positions-sines-first", "built-positions-interleaved"),
    "9b": ("positions-sign",),
    "9c": ("positions-first-band-zero", "built-positions-first-band-zero"),
    "9d": ("positions-last-angle-whole", "built-positions-last-angle-whole", "positions-late"),
    "10": ("positions-of-current-length", "kernel-from-last-positions"),
    "11": ("out-linear-transposed", "pooler-dense-transposed"),
    "12": ("blocks-transposed", "blocks-read-by-column"),
    "12b": ("blocks-in-interleaved", "blocks-out-interleaved"),
    "13": ("short-taps-flipped", "short-centred", "short-tail"),
    "13b": ("short-bias-dropped",),
    "14": ("gates-x2-first", "gates-v-last-gate", "gates-interleaved", "gates-v-and-x1-exchanged"),
    "15": ("modulation-signed", "built-deltas-absolute"),
    "15b": ("modulation-missing", "deltas-reversed"),
    "16": ("residual-missing", "residual-on-v", "residual-skip-of-first-filter"),
    "17": ("glu-swapped", "gated-halves-exchanged"),
    "18": ("reverse-is-forward", "reverse-network-is-forward", "networks-exchanged"),
    "19": ("wo-bias-dropped", "mlp-residual-missing"),
    "20": ("gelu-in-float32", "gelu-constant-in-float32", "dense-in-tf32", "kernel-in-float16"),
    "21": ("inverse-without-length", "fft-nyquist-dropped"),
    "22": ("pooler-mask-ignored", "pooler-divides-by-all", "pooler-mean-for-first", "pooler-first-for-mean"),
    "23": ("tanh-overflows", "tanh-clipped", "softmax-without-largest"),
}
"""The 23 families of numerics.md, section 6, with their variants, and the mutants that stand for them."""


def owners() -> list[Any]:
    """Everything that a patch may change: the port's modules and their classes."""
    modules: list[ModuleType] = [
        mlx_impl, activations, blockdiag, embeddings, fft_conv, heads, hyena, linear, mixer, mlp, model, norm, ops,
        port_weights, block_products, long_convolution, monarch_fft,
    ]  # fmt: skip
    classes = {value for module in modules for value in vars(module).values() if inspect.isclass(value)}
    return [*modules, *(cls for cls in classes if cls.__module__.startswith("mlx_impl"))]


def attributes() -> dict[tuple[str, str], Any]:
    return {(repr(owner), name): value for owner in owners() for name, value in vars(owner).items()}


def changed(before: dict[tuple[str, str], Any], after: dict[tuple[str, str], Any]) -> set[tuple[str, str]]:
    """Names that appeared, disappeared or stand for something else."""
    return {key for key in before.keys() | after.keys() if before.get(key, owners) is not after.get(key, owners)}


# --- the list -------------------------------------------------------------------------------------------


def test_there_are_enough_of_them() -> None:
    assert len(WRONG) >= 80
    assert len(EQUIVALENT) >= 6


def test_names_are_unique_and_spelt_alike() -> None:
    assert [name for name, count in Counter(mutant.name for mutant in MUTANTS).items() if count > 1] == []
    assert [name for name in BY_NAME if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)] == []


def test_every_row_says_what_where_from_and_where() -> None:
    components = {pair.name for pair in PAIRS}
    for mutant in MUTANTS:
        assert mutant.component in components, mutant.name
        assert mutant.kind in get_args(Kind), mutant.name
        assert mutant.seen_by in get_args(Check), mutant.name
        assert mutant.says, mutant.name
        assert mutant.source, mutant.name
        assert bool(mutant.blamed) == (not mutant.equivalent), mutant.name


def test_every_component_and_every_kind_has_one() -> None:
    assert {mutant.component for mutant in WRONG} >= {pair.name for pair in PAIRS} - {"encoder", "layer"}
    assert {mutant.kind for mutant in WRONG} == set(get_args(Kind))


def test_every_family_of_the_measurements_is_there() -> None:
    assert {re.match(r"\d+", family).group() for family in FAMILIES} == {str(n) for n in range(1, 24)}  # type: ignore[union-attr]
    assert [name for names in FAMILIES.values() for name in names if name not in BY_NAME] == []


def test_a_source_that_names_a_family_is_one_of_that_family_s_list_or_beside_it() -> None:
    cited = {mutant.source.rpartition(" ")[2] for mutant in MUTANTS if "family" in mutant.source}
    assert cited - FAMILIES.keys() == set()


def test_a_profile_of_its_own_differs_from_the_canonical_one() -> None:
    for mutant in MUTANTS:
        assert (mutant.profile == CANONICAL) == (not mutant.knobs), mutant.name


# --- patches --------------------------------------------------------------------------------------------


def test_a_patch_changes_the_port_and_is_undone() -> None:
    before = attributes()
    for mutant in MUTANTS:
        with mutant.patch():
            assert changed(before, attributes()), mutant.name
        assert changed(before, attributes()) == set(), mutant.name


def test_a_patch_is_undone_after_an_exception() -> None:
    before = attributes()
    for mutant in MUTANTS:
        with pytest.raises(KeyError), mutant.patch():
            raise KeyError(mutant.name)
    assert changed(before, attributes()) == set()


def test_a_patch_that_stays_would_be_seen() -> None:
    before = attributes()
    original = ops.Ops.tanh
    ops.Ops.tanh = lambda self, x: x  # type: ignore[method-assign]
    try:
        assert {name for _, name in changed(before, attributes())} == {"tanh"}
    finally:
        ops.Ops.tanh = original  # type: ignore[method-assign]


# --- the quick look --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mutant", WRONG, ids=lambda mutant: mutant.name)
def test_a_mutant_is_seen_where_it_says(mutant: Mutant) -> None:
    seen = next(sightings(mutant), None)
    assert seen is not None, "no case of the corpus shows it: is what it replaces still called?"
    assert seen.blamed(mutant), seen
    assert seen.ratio >= 3


def test_a_mutant_of_what_is_never_called_would_be_noticed() -> None:
    (idle,) = mutants_of(
        "mlp", "wiring", ("idle", "a sine that no MLP computes", "none", "", op("sin", lambda _self, _original, x: -x))
    )
    assert list(sightings(idle)) == []


@pytest.mark.parametrize(
    "mutant", [m for m in EQUIVALENT if m.component != "masked_lm"], ids=lambda mutant: mutant.name
)
@pytest.mark.parametrize("rung", ["f64", "f32"])
def test_an_equivalent_mutant_is_seen_by_no_case_of_the_corpus(mutant: Mutant, rung: Any) -> None:
    assert list(sightings(mutant, rung)) == []


@pytest.mark.parametrize("seen_by", get_args(Check))
def test_without_a_mistake_nothing_is_seen(seen_by: Check) -> None:
    (nothing,) = mutants_of(
        "mlp",
        "wiring",
        ("nothing", "the port as it is", "none", "", op("tanh", lambda _self, original, x: original(x))),
        seen_by=seen_by,
    )
    assert list(sightings(nothing)) == []
