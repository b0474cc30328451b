"""The port has the reference's files, classes, functions, arguments and defaults; what it adds is listed here."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import mlx.nn
import pytest

import mlx_impl
import reference_torch

ROOT: Final = Path(__file__).parents[2]

KERNELS: Final = (
    "__init__",
    "blockdiag",
    "canary",
    "derivatives",
    "double_float",
    "extended_depthwise",
    "extended_fft",
    "fused_convolution",
    "fused_sources",
    "long_convolution",
    "monarch_fft",
    "ordered",
    "pairs",
    "roots",
    "shifted_taps",
)
EXTRA_FILES: Final = {*(f"kernels/{name}" for name in KERNELS), "linear", "ops", "weights"}
EXTRA_NAMES: Final = {
    "fft_conv": {"channels_at_once", "fft_length", "skip_term"},
    "heads": {"Decoder"},
    "hyena": {"FilterMlp", "HeldKernels"},
}
EXTRA_METHODS: Final = {"HyenaFilter": {"hold", "kernels", "release", "ties"}, "BertForMaskedLM": {"ties"}}
EXTRA_EXPORTS: Final = {"Embedding", "Linear", "Ops"}
"""torch brings its own Linear and Embedding, and needs no seam."""


def files(package: str) -> set[str]:
    root = ROOT / package
    return {path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.py")}


def public(module: ModuleType) -> dict[str, Any]:
    """Classes and functions that `module` itself defines, without an underscore."""
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", "") == module.__name__
    }


SHARED_FILES: Final = sorted(files("reference_torch") - {"__init__"})


def pairs_of(file: str) -> dict[str, tuple[Any, Any]]:
    reference = public(importlib.import_module(f"reference_torch.{file}"))
    port = public(importlib.import_module(f"mlx_impl.{file}"))
    return {name: (value, port.get(name)) for name, value in reference.items()}


SHARED: Final = {f"{file}.{name}": both for file in SHARED_FILES for name, both in pairs_of(file).items()}
CLASSES: Final = {name: both for name, both in SHARED.items() if inspect.isclass(both[0])}
EVERY_NAME = pytest.mark.parametrize("name", SHARED)
EVERY_CLASS = pytest.mark.parametrize("name", CLASSES)


def arguments(function: Any) -> list[tuple[str, Any]]:
    return [(p.name, p.default) for p in inspect.signature(function).parameters.values()]


def inherits_forward(reference: Any) -> bool:
    """Whether torch's own `forward` runs, whose argument is called `input`."""
    return "forward" not in vars(reference)


def assert_mirrored(reference: Any, port: Any) -> None:
    """The port's arguments are the reference's, then possibly `ops`."""
    expected, actual = arguments(reference), arguments(port)
    assert actual[: len(expected)] == expected
    assert [name for name, _ in actual[len(expected) :]] in ([], ["ops"])


def test_every_file_of_the_reference_has_its_twin() -> None:
    assert files("mlx_impl") - files("reference_torch") == EXTRA_FILES
    assert files("reference_torch") - files("mlx_impl") == set()


def test_there_is_something_to_compare() -> None:
    assert len(CLASSES) >= 20
    assert len(SHARED) - len(CLASSES) >= 5


@EVERY_NAME
def test_every_public_name_is_in_the_same_file(name: str) -> None:
    assert SHARED[name][1] is not None


@pytest.mark.parametrize("file", SHARED_FILES)
def test_the_port_adds_no_public_name_but_those_listed(file: str) -> None:
    added = public(importlib.import_module(f"mlx_impl.{file}")).keys() - pairs_of(file).keys()
    assert added == EXTRA_NAMES.get(file, set())


def test_both_packages_export_the_same_names() -> None:
    assert set(mlx_impl.__all__) - set(reference_torch.__all__) == EXTRA_EXPORTS
    assert set(reference_torch.__all__) <= set(mlx_impl.__all__)


@pytest.mark.parametrize("package", [mlx_impl, reference_torch], ids=lambda package: package.__name__)
def test_what_is_exported_exists_in_alphabetical_order(package: ModuleType) -> None:
    assert [name for name in package.__all__ if not hasattr(package, name)] == []
    assert list(package.__all__) == sorted(package.__all__)


@EVERY_NAME
def test_arguments_and_defaults_are_the_references(name: str) -> None:
    assert_mirrored(*SHARED[name])


@EVERY_CLASS
def test_a_call_takes_the_arguments_of_forward(name: str) -> None:
    reference, port = CLASSES[name]
    expected = [
        ("input" if inherits_forward(reference) and key == "x" else key, d) for key, d in arguments(port.__call__)
    ]
    assert arguments(reference.forward) == expected


def test_only_the_layer_norm_inherits_its_forward() -> None:
    assert [name for name, (reference, _) in CLASSES.items() if inherits_forward(reference)] == ["norm.LayerNorm"]


@EVERY_CLASS
def test_public_methods_are_the_references(name: str) -> None:
    reference, port = CLASSES[name]
    own, theirs = (
        {key for key, value in vars(cls).items() if inspect.isfunction(value) and not key.startswith("_")}
        for cls in (reference, port)
    )
    assert theirs - own == EXTRA_METHODS.get(reference.__name__, set())
    assert own - theirs == (set() if inherits_forward(reference) else {"forward"})
    for method in own - {"forward"}:
        assert arguments(getattr(port, method)) == arguments(getattr(reference, method))


@EVERY_CLASS
def test_what_stays_in_float32_is_marked_on_both_sides(name: str) -> None:
    reference, port = (getattr(cls, "at_least_float32", False) for cls in CLASSES[name])
    assert reference == port


@EVERY_CLASS
def test_a_class_of_the_port_is_an_mlx_module_that_refuses_unknown_options(name: str) -> None:
    _, port = CLASSES[name]
    assert issubclass(port, mlx.nn.Module)
    with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
        port(nonsense=1)


@pytest.mark.parametrize(
    "port",
    [
        lambda width, eps=1e-5: None,
        lambda dims, eps=1e-6: None,
        lambda eps, dims: None,
        lambda dims: None,
        lambda dims, eps=1e-5, mode=None: None,
    ],
    ids=["other name", "other default", "other order", "one missing", "one added"],
)
def test_the_comparison_of_arguments_can_fail(port: Any) -> None:
    with pytest.raises(AssertionError):
        assert_mirrored(lambda dims, eps=1e-5: None, port)


# --- NumPy ----------------------------------------------------------------------------------------------


def imported(source: str) -> set[str]:
    """Top-level packages that `source` imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(str(node.module).split(".")[0])
    return found


@pytest.mark.parametrize("file", sorted(files("mlx_impl")))
def test_the_port_computes_without_numpy_and_without_torch(file: str) -> None:
    source = (ROOT / "mlx_impl" / f"{file}.py").read_text(encoding="utf-8")
    assert imported(source).isdisjoint({"numpy", "torch", "scipy", "ml_dtypes", "reference_torch"})


def test_an_import_inside_a_function_is_seen() -> None:
    assert imported("def f():\n    import numpy.fft as fft\n    from torch import nn\n") == {"numpy", "torch"}
