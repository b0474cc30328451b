"""HyperProfile: the knobs that say what a port computes and in which arithmetic.

Semantic knobs change the meaning: a profile that turns one has a reference of its own. Numeric knobs keep the
mathematics and change the roundings: only the port reads them. The five named profiles are the JSON files of
`parity/spec/profiles`, those of its folder `variants` the canonical one with another kernel each; a profile is chosen
by name, by path, or by the environment variable `MLX_M2_PROFILE`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from parity.errors import NotImplementedYetError, ProfileError

ENVIRONMENT_VARIABLE: Final = "MLX_M2_PROFILE"
DEFAULT_PROFILE: Final = "mlx_stable"
VARIANTS: Final = "variants"
"""Folder, beside the named profiles, of those that are tried and not chosen."""

SEMANTIC: Final = ("gelu_mode", "bidir_space", "bidir_combine", "layer_norm_eps")
"""The knobs that change the meaning: two profiles that agree in them share their reference."""

FftImpl = Literal["native", "channel_batched", "streamed", "monarch", "fused"]
FftNorm = Literal["forward", "backward", "ortho"]
BlockdiagImpl = Literal["einsum", "batched", "loop", "fast"]


class HyperProfile(BaseModel):
    """One named choice of every knob; frozen, and an unknown key or value raises.

    Attributes:
        name: How reports call the profile.
        description: One sentence for people.
        gelu_mode: `erf` is x * Phi(x); `tanh` is its tanh approximation. Semantic.
        bidir_space: `time` puts k_rev[0] at lag -1, `freq` puts it at lag 0. Semantic.
        bidir_combine: `sum` adds forward and reverse kernels, `avg` halves that sum. Semantic.
        layer_norm_eps: epsilon of every LayerNorm, or null for the model's own. Semantic.
        fft_norm: where the one factor 1/n of the transform pair sits: on the kernel's spectrum (`forward`), on the
            inverse (`backward`), or half on the input's, half on the inverse (`ortho`). Numeric.
        fft_impl: which FFT convolution kernel runs. Numeric.
        blockdiag_impl: which block-diagonal product runs. Numeric.
        layer_norm_strict: two passes in the working precision, in the reference's order, instead of the library's
            fused kernel. Numeric.
        strict_kernels: sums in a fixed order: the same bits for every batch size and every place in it. Numeric.
        ep_freqmul: double-float32 arithmetic for the product of spectra. Numeric.
        ep_depthwise: double-float32 arithmetic for the short convolution. Numeric.
        ep_fft: double-float32 arithmetic for the whole transform. Numeric.
        matmul_precision: `ieee`, or `tf32`, which rounds float32 operands to 11 significant bits. Numeric.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")
    description: str = Field(default="", max_length=400)
    gelu_mode: Literal["erf", "tanh"] = "erf"
    bidir_space: Literal["time", "freq"] = "time"
    bidir_combine: Literal["sum", "avg"] = "sum"
    layer_norm_eps: float | None = Field(default=None, gt=0.0, lt=1.0)
    fft_norm: FftNorm = "forward"
    fft_impl: FftImpl = "native"
    blockdiag_impl: BlockdiagImpl = "einsum"
    layer_norm_strict: bool = False
    strict_kernels: bool = False
    ep_freqmul: bool = False
    ep_depthwise: bool = False
    ep_fft: bool = False
    matmul_precision: Literal["ieee", "tf32"] = "ieee"

    @property
    def semantics(self) -> tuple[object, ...]:
        """The values of the knobs that change the meaning, in the order of `SEMANTIC`."""
        return tuple(getattr(self, knob) for knob in SEMANTIC)

    def replace(self, **changes: Any) -> HyperProfile:
        """Return a validated copy with `changes`.

        Raises:
            ProfileError: A key or value is unknown.
        """
        return _validate({**self.model_dump(), **changes}, source=f"profile {self.name!r} with changes")


CANONICAL: Final = HyperProfile(name="canonical", description="The model exactly as it was published.")

_PLAIN: Final[Mapping[str, Any]] = {}


def not_built(profile: HyperProfile) -> dict[str, Any]:
    """Return the knobs of `profile` whose kernels do not exist yet, with their values."""
    return {knob: getattr(profile, knob) for knob, plain in _PLAIN.items() if getattr(profile, knob) != plain}


def require_built(profile: HyperProfile) -> None:
    """Refuse a profile that names a kernel which does not exist yet.

    Raises:
        NotImplementedYetError: Some numeric knob is set to a value whose kernel is not built.
    """
    missing = not_built(profile)
    if missing:
        knobs = ", ".join(f"{knob}={json.dumps(value)}" for knob, value in missing.items())
        raise NotImplementedYetError(
            f"profile {profile.name!r}: {knobs} not implemented yet: see docs/profiles.md, section 'Kernels to come'"
        )


def profile_names() -> tuple[str, ...]:
    """Return the names of the profiles inside the package, `canonical` first."""
    names = sorted(Path(entry.name).stem for entry in _profile_folder().iterdir() if entry.name.endswith(".json"))
    return ("canonical", *(name for name in names if name != "canonical"))


def variant_names() -> tuple[str, ...]:
    """Return the names of the packaged profiles that are the canonical one with another kernel: for trying kernels."""
    return tuple(sorted(Path(entry.name).stem for entry in (_profile_folder() / VARIANTS).iterdir()))


def load_profile(choice: str | None = None) -> HyperProfile:
    """Load a profile by name or path.

    Args:
        choice: A name of `profile_names()` or `variant_names()`, or the path of a JSON file (anything with a slash or
            ending in `.json`). None takes the environment variable `MLX_M2_PROFILE`, else `mlx_stable`.

    Raises:
        ProfileError: No such name or file, not JSON, or a key or value that is not allowed.
    """
    if choice is None:
        choice = os.environ.get(ENVIRONMENT_VARIABLE) or DEFAULT_PROFILE
    if choice.endswith(".json") or "/" in choice or os.sep in choice:
        return _from_file(Path(choice))
    packaged = (*profile_names(), *variant_names())
    if choice not in packaged:
        raise ProfileError(f"unknown profile {choice!r}; allowed: {', '.join(packaged)}, or the path of a .json file")
    folder = _profile_folder() / VARIANTS if choice in variant_names() else _profile_folder()
    text = (folder / f"{choice}.json").read_text(encoding="utf-8")
    profile = _from_text(text, source=f"profile {choice!r}")
    if profile.name != choice:
        raise ProfileError(f"the file of profile {choice!r} calls itself {profile.name!r}; file and name must agree")
    return profile


class _RepeatedKeyError(Exception):
    """A JSON object names the same key twice."""


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            raise _RepeatedKeyError(key)
        seen[key] = value
    return seen


def _profile_folder() -> Traversable:
    return resources.files("parity.spec") / "profiles"


def _from_file(path: Path) -> HyperProfile:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ProfileError(f"profile file {str(path)!r} cannot be read: {reason}") from None
    profile = _from_text(text, source=f"profile file {str(path)!r}")
    if profile.name in (*profile_names(), *variant_names()) and profile != load_profile(profile.name):
        raise ProfileError(
            f"profile file {str(path)!r} calls itself {profile.name!r}, which is a profile of the package with other "
            "knobs; give it a name of its own"
        )
    return profile


def _from_text(text: str, source: str) -> HyperProfile:
    try:
        data = json.loads(text, object_pairs_hook=_without_repeats)
    except _RepeatedKeyError as error:
        raise ProfileError(f"{source}: key {error.args[0]!r} is given twice; keep one") from None
    except json.JSONDecodeError as error:
        raise ProfileError(f"{source} is not JSON: {error.msg} at line {error.lineno}") from None
    except (RecursionError, ValueError):
        raise ProfileError(f"{source} is not JSON that can be read: too deep, or a number too long") from None
    if not isinstance(data, dict):
        raise ProfileError(f"{source} must hold one JSON object of knobs; got {type(data).__name__}")
    return _validate(data, source)


def _validate(data: Mapping[str, Any], source: str) -> HyperProfile:
    try:
        return HyperProfile.model_validate(dict(data))
    except ValidationError as error:
        problems = "; ".join(_explain(problem) for problem in error.errors())
        raise ProfileError(f"{source}: {problems}") from None


def _explain(problem: Any) -> str:
    key = str(problem["loc"][0]) if problem["loc"] else "?"
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key!r}; allowed: {', '.join(HyperProfile.model_fields)}"
    if problem["type"] == "missing":
        return f"missing key {key!r}"
    return f"{key} = {json.dumps(problem['input'], default=str)} is not allowed; allowed: {_allowed(key)}"


def _allowed(key: str) -> str:
    field = HyperProfile.model_fields[key]
    choices = get_args(field.annotation)
    if choices and all(isinstance(choice, str) for choice in choices):
        return ", ".join(map(str, choices))
    if field.annotation is bool:
        return "true, false"
    if key == "layer_norm_eps":
        return "null, or a number between 0 and 1 (both excluded)"
    return "text of 1 to 64 letters, digits, '.', '_' or '-'" if key == "name" else "text of at most 400 characters"
