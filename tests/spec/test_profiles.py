"""Profiles load by every way that is documented, and every mistake in one is answered with key, value and remedy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, get_args

import pydantic
import pytest

from parity.errors import NotImplementedYetError, ParityError, ProfileError
from parity.spec.profile import (
    CANONICAL,
    DEFAULT_PROFILE,
    ENVIRONMENT_VARIABLE,
    HyperProfile,
    load_profile,
    not_built,
    profile_names,
    require_built,
    variant_names,
)

NAMES: Final = ("canonical", "extended_precision", "mlx_stable", "torch_avg", "torch_like")

# The specification's own table of named profiles, against which the JSON files are held.
DEPARTURES: Final[Mapping[str, Mapping[str, Any]]] = {
    "canonical": {},
    "torch_like": {"layer_norm_strict": True},
    "mlx_stable": {"bidir_combine": "avg", "fft_norm": "backward"},
    "torch_avg": {"bidir_space": "freq", "bidir_combine": "avg", "layer_norm_strict": True},
    "extended_precision": {"ep_freqmul": True, "ep_depthwise": True, "ep_fft": True, "strict_kernels": True},
}
LABELS: Final = {"name", "description"}

# The same for the variants: one knob each.
VARIANTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "channel_batched": {"fft_impl": "channel_batched"},
    "fast_blocks": {"blockdiag_impl": "fast"},
    "fused": {"fft_impl": "fused"},
    "monarch": {"fft_impl": "monarch"},
    "streamed": {"fft_impl": "streamed"},
}


@pytest.fixture(autouse=True)
def _no_choice_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)


def written(folder: Path, text: str | bytes, name: str = "mine.json") -> str:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def refused(choice: str) -> str:
    with pytest.raises(ProfileError) as caught:
        load_profile(choice)
    return str(caught.value)


# --- loading --------------------------------------------------------------------------------------------


def test_there_are_five_profiles_and_canonical_stands_first() -> None:
    assert profile_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_named_profile_departs_from_the_canonical_one_as_the_specification_says(name: str) -> None:
    profile = load_profile(name)
    labels = {"name": name, "description": profile.description}
    assert profile == CANONICAL.replace(**labels, **DEPARTURES[name])
    assert profile.description


def test_the_variants_are_the_canonical_profile_but_for_one_kernel() -> None:
    assert variant_names() == tuple(VARIANTS)
    for name, departures in VARIANTS.items():
        profile = load_profile(name)
        assert profile == CANONICAL.replace(name=name, description=profile.description, **departures)
        assert profile.description
        require_built(profile)


def test_every_kernel_of_a_knob_has_a_variant() -> None:
    values = {
        knob: set(get_args(HyperProfile.model_fields[knob].annotation)) for knob in ("fft_impl", "blockdiag_impl")
    }
    shown = {knob: {getattr(load_profile(name), knob) for name in variant_names()} for knob in values}
    assert values["fft_impl"] == shown["fft_impl"]
    assert values["blockdiag_impl"] - shown["blockdiag_impl"] == {"batched", "loop"}


def test_a_file_may_not_call_itself_by_a_variant_s_name(tmp_path: Path) -> None:
    assert "give it a name of its own" in refused(written(tmp_path, '{"name": "monarch"}'))


@pytest.mark.parametrize("name", NAMES)
def test_a_packaged_file_writes_every_knob_out(name: str, tmp_path: Path) -> None:
    import parity.spec

    text = (Path(parity.spec.__file__).parent / "profiles" / f"{name}.json").read_text(encoding="utf-8")
    assert json.loads(text).keys() == HyperProfile.model_fields.keys()
    assert load_profile(written(tmp_path, text)) == load_profile(name)


def test_without_a_choice_the_default_is_mlx_stable() -> None:
    assert DEFAULT_PROFILE == "mlx_stable"
    assert load_profile().name == "mlx_stable"


def test_the_environment_variable_chooses_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_M2_PROFILE", "torch_avg")
    assert load_profile().name == "torch_avg"


def test_the_environment_variable_chooses_by_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLX_M2_PROFILE", written(tmp_path, '{"name": "mine", "fft_norm": "ortho"}'))
    assert load_profile() == CANONICAL.replace(name="mine", description="", fft_norm="ortho")


def test_an_argument_wins_over_the_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_M2_PROFILE", "torch_avg")
    assert load_profile("canonical").name == "canonical"


def test_an_empty_environment_variable_is_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_M2_PROFILE", "")
    assert load_profile().name == "mlx_stable"


def test_a_misspelt_environment_variable_is_an_error_and_no_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_M2_PROFILE", "mlx_stabel")
    with pytest.raises(ProfileError, match="unknown profile 'mlx_stabel'; allowed: canonical"):
        load_profile()


def test_a_file_in_the_working_folder_needs_no_slash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    written(tmp_path, '{"name": "mine"}')
    monkeypatch.chdir(tmp_path)
    assert load_profile("mine.json").name == "mine"


# --- mistakes -------------------------------------------------------------------------------------------


def test_an_unknown_name_is_answered_with_all_names() -> None:
    message = refused("torch-like")
    assert "'torch-like'" in message
    assert all(name in message for name in NAMES)
    assert ".json" in message


MISTAKES: Final = {
    "unknown key": ('{"name": "x", "fft_nrom": "forward"}', ["unknown key 'fft_nrom'", "fft_norm", "blockdiag_impl"]),
    "unknown value": ('{"name": "x", "fft_norm": "middle"}', ['fft_norm = "middle"', "forward, backward, ortho"]),
    "other case": ('{"name": "x", "gelu_mode": "ERF"}', ['gelu_mode = "ERF"', "erf, tanh"]),
    "integer for a switch": ('{"name": "x", "strict_kernels": 1}', ["strict_kernels = 1", "true, false"]),
    "text for a switch": ('{"name": "x", "ep_fft": "true"}', ['ep_fft = "true"', "true, false"]),
    "null for a switch": ('{"name": "x", "ep_fft": null}', ["ep_fft = null", "true, false"]),
    "switch for a choice": ('{"name": "x", "fft_impl": true}', ["fft_impl = true", "native, channel_batched"]),
    "text for a number": ('{"name": "x", "layer_norm_eps": "1e-5"}', ['layer_norm_eps = "1e-5"', "between 0 and 1"]),
    "switch for a number": ('{"name": "x", "layer_norm_eps": true}', ["layer_norm_eps = true", "between 0 and 1"]),
    "number too small": ('{"name": "x", "layer_norm_eps": 0}', ["layer_norm_eps = 0", "between 0 and 1"]),
    "number too large": ('{"name": "x", "layer_norm_eps": 1.0}', ["layer_norm_eps = 1.0", "between 0 and 1"]),
    "no number": ('{"name": "x", "layer_norm_eps": NaN}', ["layer_norm_eps = NaN", "between 0 and 1"]),
    "infinity": ('{"name": "x", "layer_norm_eps": Infinity}', ["layer_norm_eps = Infinity", "between 0 and 1"]),
    "nested object": ('{"name": "x", "fft_norm": {"a": 1}}', ['fft_norm = {"a": 1}', "forward, backward, ortho"]),
    "number for the name": ('{"name": 5}', ["name = 5", "1 to 64 letters"]),
    "empty name": ('{"name": ""}', ['name = ""', "1 to 64 letters"]),
    "name with a blank": ('{"name": "a b"}', ['name = "a b"', "letters, digits"]),
    "name with a line end": ('{"name": "a\\n"}', ['name = "a\\n"', "letters, digits"]),
    "name too long": ('{"name": "' + "a" * 65 + '"}', ["name = ", "1 to 64 letters"]),
    "missing name": ('{"fft_norm": "ortho"}', ["missing key 'name'"]),
    "repeated key": ('{"name": "x", "fft_norm": "ortho", "fft_norm": "forward"}', ["key 'fft_norm' is given twice"]),
    "not JSON": ("{name: x}", ["is not JSON", "line 1"]),
    "empty file": ("", ["is not JSON"]),
    "two objects": ('{"name": "x"}\n{"name": "y"}', ["is not JSON", "line 2"]),
    "list": ('["canonical"]', ["one JSON object", "got list"]),
    "null": ("null", ["one JSON object", "got NoneType"]),
}


@pytest.mark.parametrize(("text", "parts"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_a_file_is_named_with_file_key_value_and_what_is_allowed(
    text: str, parts: list[str], tmp_path: Path
) -> None:
    choice = written(tmp_path, text)
    message = refused(choice)
    assert [part for part in [repr(choice), *parts] if part not in message] == []


def test_several_mistakes_are_all_named(tmp_path: Path) -> None:
    message = refused(written(tmp_path, '{"fft_norm": "middle", "knob": 1, "ep_fft": 0}'))
    assert all(part in message for part in ("missing key 'name'", "fft_norm", "'knob'", "ep_fft = 0"))


@pytest.mark.parametrize(
    ("name", "reason"), [("gone.json", "No such file"), ("folder/", "No such file")], ids=["no file", "no folder"]
)
def test_a_path_that_cannot_be_read_is_named_with_the_reason(name: str, reason: str, tmp_path: Path) -> None:
    message = refused(str(tmp_path / name) + ("" if name.endswith(".json") else "/"))
    assert reason in message
    assert str(tmp_path) in message


def test_a_folder_is_no_profile(tmp_path: Path) -> None:
    assert "cannot be read: Is a directory" in refused(f"{tmp_path}/")


def test_bytes_that_are_not_utf_8_are_no_profile(tmp_path: Path) -> None:
    assert "not UTF-8" in refused(written(tmp_path, b'{"name": "\xff"}'))


@pytest.mark.parametrize("name", NAMES)
def test_a_file_may_not_take_a_packaged_name_for_other_knobs(name: str, tmp_path: Path) -> None:
    other = load_profile(name).replace(blockdiag_impl="loop")
    message = refused(written(tmp_path, other.model_dump_json()))
    assert f"calls itself {name!r}" in message
    assert "name of its own" in message


def test_a_profile_error_is_a_mistake_of_the_user() -> None:
    assert issubclass(ProfileError, ParityError)
    assert issubclass(NotImplementedYetError, ParityError)


# --- the object -----------------------------------------------------------------------------------------


def test_a_profile_cannot_be_changed() -> None:
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        CANONICAL.fft_norm = "ortho"  # type: ignore[misc]


def test_replace_returns_a_copy() -> None:
    assert CANONICAL.replace(fft_norm="ortho").fft_norm == "ortho"
    assert CANONICAL.fft_norm == "forward"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fft_norm": "middle"}, "profile 'canonical' with changes: fft_norm = \"middle\" is not allowed"),
        ({"knob": 1}, "profile 'canonical' with changes: unknown key 'knob'"),
        ({"ep_fft": 1}, "ep_fft = 1 is not allowed; allowed: true, false"),
    ],
    ids=["unknown value", "unknown key", "wrong type"],
)
def test_replace_validates(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        CANONICAL.replace(**changes)


def test_semantics_hold_the_knobs_that_change_the_meaning_and_no_other() -> None:
    changed = {
        knob
        for knob, value in {
            **{knob: value for departures in DEPARTURES.values() for knob, value in departures.items()},
            "gelu_mode": "tanh",
            "layer_norm_eps": 1e-3,
            "fft_impl": "monarch",
            "blockdiag_impl": "loop",
            "matmul_precision": "tf32",
        }.items()
        if CANONICAL.replace(**{knob: value}).semantics != CANONICAL.semantics
    }
    assert changed == {"gelu_mode", "bidir_space", "bidir_combine", "layer_norm_eps"}


@pytest.mark.parametrize("kernel", ["channel_batched", "streamed", "monarch"])
def test_a_kernel_to_come_is_refused_by_name_of_profile_and_knob(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    require_built(CANONICAL.replace(name="mine", fft_impl=kernel))
    monkeypatch.setattr("parity.spec.profile._PLAIN", {"fft_impl": "native"})
    with pytest.raises(NotImplementedYetError) as caught:
        require_built(CANONICAL.replace(name="mine", fft_impl=kernel))
    message = str(caught.value)
    assert [part for part in ("'mine'", f'fft_impl="{kernel}"', "docs/profiles.md") if part not in message] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_packaged_profile_is_built(name: str) -> None:
    require_built(load_profile(name))
    assert not_built(load_profile(name)) == {}


# --- known to be wrong --------------------------------------------------------------------------------------


def test_a_description_too_long_is_answered_with_its_limit(tmp_path: Path) -> None:
    assert "400" in refused(written(tmp_path, json.dumps({"name": "x", "description": "a" * 401}))).split("allowed")[-1]


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"name": ' + "9" * 5000 + "}"], ids=["nested too deeply", "long number"]
)
def test_json_that_python_gives_up_on_is_a_profile_error(text: str, tmp_path: Path) -> None:
    assert "JSON" in refused(written(tmp_path, text))
