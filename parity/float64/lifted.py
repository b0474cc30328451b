"""What stands in for a function of MLX while a context is open: float64 goes to its form, everything else to MLX."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import MethodType
from typing import Any, Final

import mlx.core as mx

from parity.errors import Float64ContextError
from parity.float64.leaks import Leaks
from parity.float64.spectrum import Float64Spectrum, spectrum_of

COARSE: Final = (mx.float32, mx.float16, mx.bfloat16, mx.complex64)

SPECTRAL: Final[dict[str, Callable[..., Any]]] = {
    "abs": abs,
    "add": lambda a, b: spectrum_of(a) + b,
    "conj": lambda a: a.conj(),
    "conjugate": lambda a: a.conj(),
    "divide": lambda a, b: spectrum_of(a) / b,
    "imag": lambda a: a.imag,
    "multiply": lambda a, b: spectrum_of(a) * b,
    "negative": lambda a: -a,
    "real": lambda a: a.real,
    "square": lambda a: a * a,
    "subtract": lambda a, b: spectrum_of(a) - b,
}
"""Functions of a complex array, for the pair of arrays that stands for one in float64."""

LINEAR: Final = frozenset((
    "broadcast_to", "concatenate", "cumsum", "diff", "expand_dims", "fft.fftshift", "fft.ifftshift", "flatten",
    "mean", "moveaxis", "pad", "repeat", "reshape", "roll", "split", "squeeze", "stack", "stop_gradient", "sum",
    "swapaxes", "take", "take_along_axis", "tile", "transpose", "unflatten",
))  # fmt: skip
"""Functions that act on the real and the imaginary part alike, and on neither by the other."""


class Session:
    """One outermost context: open until it is left, with a report for itself and for every context nested in it."""

    def __init__(self) -> None:
        self.open = False
        self.reports: list[Leaks] = []

    def record(self, operation: str, kind: str, detail: str) -> None:
        """Count a leak in every report that is open."""
        for report in self.reports:
            report.add(operation, kind, detail)


class Lifted:
    """Stand-in for one function of MLX.

    Args:
        session: While it is open, float64 goes to the form; afterwards calls go on to whatever MLX's name stands for.
        owner: The module or class that holds the name.
        name: The name there.
        place: How a leak calls it.
        original: MLX's own.
        form: The float64 form, or None where MLX's own is only watched.
        formless: Why there is no form though it loses, or ''.
    """

    __slots__ = ("__name__", "_form", "_formless", "_original", "_owner", "_place", "session")

    def __init__(
        self,
        session: Session,
        owner: Any,
        name: str,
        place: str,
        original: Any,
        form: Callable[..., Any] | None = None,
        formless: str = "",
    ) -> None:
        self.session, self._owner, self._place = session, owner, place
        self._original, self._form, self._formless = original, form, formless
        self.__name__ = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute by the form if any argument is float64, else by MLX."""
        if not self.session.open:
            return self._successor()(*args, **kwargs)
        exact = spectral = False
        for value in _operands(args, kwargs):
            exact = exact or (isinstance(value, mx.array) and value.dtype == mx.float64)
            spectral = spectral or isinstance(value, Float64Spectrum)
        if not exact and not spectral:
            return self._original(*args, **kwargs)
        if spectral and (self._form is None or not self._place.startswith("fft.")):
            return self._of_spectra(args, kwargs)
        if self._form is not None:
            return _on_stream(self._form, args, kwargs)
        if self._formless:
            self.session.record(self._place, "formless", self._formless)
        return self._watched(self._original(*args, **kwargs))

    @property
    def place(self) -> str:
        """Its place under `mlx.core`."""
        return self._place

    @property
    def needed(self) -> bool:
        """Whether whoever calls MLX's own instead computes in float32: it has a form, is known to lose, or refused."""
        return self._form is not None or bool(self._formless)

    def __repr__(self) -> str:
        return f"<float64 form of mlx.core.{self._place}>"

    def _successor(self) -> Any:
        """What the name stands for after this session: MLX's own, or the stand-in of a later session."""
        current = vars(self._owner).get(self.__name__, self._original)
        return self._original if current is self else current

    def _of_spectra(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._place in SPECTRAL:
            return _on_stream(SPECTRAL[self._place], args, kwargs)
        if self._place in LINEAR:
            return _by_parts(self._original, args, kwargs)
        self.session.record(self._place, "formless", "of a float64 spectrum")
        raise Float64ContextError(
            f"mlx.core.{self._place} has no float64 form for a transform's result, which is a pair of arrays since MLX "
            f"has no complex128; allowed: {', '.join(sorted(SPECTRAL.keys() | LINEAR))}, operators and transforms; "
            "take `.real` and `.imag` instead"
        )

    def _watched(self, result: Any) -> Any:
        """Record an answer that is coarser than the question; a missing dtype belongs to no array."""
        several = result if isinstance(result, list | tuple) else [result]
        for dtype in {value.dtype for value in several if isinstance(value, mx.array) and value.dtype in COARSE}:
            self.session.record(self._place, "downcast", str(dtype).rpartition(".")[2])
        return result


class LiftedMethod(Lifted):
    """Stand-in for a method of `mx.array`."""

    __slots__ = ()

    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else MethodType(self, instance)


class Operator(LiftedMethod):
    """Stand-in for an operator of `mx.array`; beside a spectrum, the spectrum's own operator decides."""

    __slots__ = ()

    def _of_spectra(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ARG002
        return NotImplemented


class Assignment(LiftedMethod):
    """`array[key] = value`: an array keeps its own dtype, and so rounds what is put into it."""

    __slots__ = ()

    def __call__(self, target: mx.array, key: Any, value: Any) -> Any:
        """Assign, and record what is rounded."""
        if self.session.open and isinstance(value, mx.array) and value.dtype == mx.float64 and target.dtype in COARSE:
            self.session.record(self._place, "downcast", str(target.dtype).rpartition(".")[2])
        return self._original(target, key, value)


class Refused(Lifted):
    """Stand-in for a function that would bring MLX's own arithmetic back unseen."""

    __slots__ = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse while the session is open."""
        if not self.session.open:
            return self._successor()(*args, **kwargs)
        raise Float64ContextError(
            f"mlx.core.{self._place} was called inside float64_forms(), where it is not allowed: {self._formless}; "
            "call it after the context"
        )


def _operands(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterable[Any]:
    for value in (*args, *kwargs.values()):
        if isinstance(value, list | tuple):
            yield from value
        else:
            yield value


def _on_stream(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a form, which knows no `stream`, under the one that was asked for."""
    stream = kwargs.pop("stream", None)
    if stream is None:
        return function(*args, **kwargs)
    with mx.stream(stream):
        return function(*args, **kwargs)


def _by_parts(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Apply a function that is linear over the reals to the real and to the imaginary parts."""

    def part(value: Any, of: str) -> Any:
        if isinstance(value, Float64Spectrum):
            return getattr(value, of)
        if isinstance(value, list | tuple) and any(isinstance(item, Float64Spectrum) for item in value):
            return [getattr(spectrum_of(item), of) for item in value]
        return value

    real, imag = (
        function(*(part(value, of) for value in args), **{name: part(value, of) for name, value in kwargs.items()})
        for of in ("real", "imag")
    )
    if isinstance(real, mx.array):
        return Float64Spectrum(real, imag)
    return [Float64Spectrum(*parts) for parts in zip(real, imag, strict=True)]
