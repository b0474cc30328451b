"""The original code's own numbers: every file passes, and every fault planted in a file or in a side shows."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import golden_copies as copies
import numpy as np
import pytest
import torch
from golden_copies import GOLDENS, Change, copy_of
from planted_faults import PLANTED_FAULTS

import reference_torch.activations
from parity.errors import GoldenError
from parity.golden import Check, GoldenReport, Side, _float64_check, check_file, check_folder, golden_files
from parity.spec.precision import RungName
from parity.tolerance import constant

LEAF = "blockdiag_linear_0"
FILES = golden_files(GOLDENS)


@cache
def untouched(path: Path) -> GoldenReport:
    return check_file(path)


def errors(report: GoldenReport, side: Side, rung: RungName) -> dict[str, float]:
    return {c.tensor: c.error for c in report.checks if (c.side, c.rung, c.kind) == (side, rung, "tensor")}


def missed(report: GoldenReport, side: Side, rung: RungName = "f64") -> set[str]:
    return {c.tensor for c in report.checks if (c.side, c.rung) == (side, rung) and not c.passed}


def check_copy(folder: Path, change: Change, name: str = LEAF) -> GoldenReport:
    copy_of(name, folder, change)
    (report,) = check_folder(folder)
    return report


# Untouched files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_reference_and_port_agree_with_the_original_code(path: Path) -> None:
    report = untouched(path)
    failed = [check for check in report.checks if not check.passed]
    assert (report.status, failed) == ("ok", [])
    # Whatever the processor: 1e-12, or what is predicted of cancelling terms.
    assert max(errors(report, "reference", "f64").values(), default=0.0) <= 1e-10
    assert max(errors(report, "port", "f64").values(), default=0.0) <= 1e-10


@pytest.mark.parametrize("path", [p for p in FILES if "buffers" not in p.stem], ids=lambda path: path.stem)
def test_every_output_of_a_file_is_checked_on_both_sides_at_both_rungs(path: Path) -> None:
    tensors, _ = copies.read(path.stem)
    names = {name.removeprefix("output:").removesuffix(".f32").removesuffix(".f64") for name in tensors}
    expected = {name for name in names if not name.startswith(("param:", "input:"))}
    report = untouched(path)
    held64 = {name.removeprefix("output:").removesuffix(".f64") for name in tensors if name.endswith(".f64")}
    assert set(errors(report, "port", "f64")) == expected
    assert set(errors(report, "reference", "f64")) == expected & held64  # else its own gradient is the truth
    for side in ("reference", "port"):
        assert {name.removesuffix(" of the file") for name in errors(report, side, "f32")} == expected


def test_the_gates_are_the_acceptance_bounds() -> None:
    assert (constant("golden_reference"), constant("golden_port")) == (1e-12, 1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_the_reference_may_err_by_what_rounding_makes_of_cancelling_terms_and_no_more(seed: int) -> None:
    generator = np.random.default_rng(seed)
    truth, error = generator.standard_normal(50), generator.standard_normal(50)
    size = float(np.linalg.norm(truth))
    error *= 8e-12 * size / np.linalg.norm(error)

    def check(noise: float, factor: float = 1.0, side: Side = "reference") -> Check:
        return _float64_check("t", side, truth + factor * error, truth, noise * 2.0**29 * size)

    assert not check(noise=0.0).passed
    assert check(noise=0.0, factor=0.1).passed
    assert check(noise=2.1e-12).passed
    assert not check(noise=1.9e-12).passed
    assert check(noise=1e-15).allowed == 1e-12
    assert check(noise=1e-9, side="port").allowed == 1e-10
    assert check(noise=1e-9).allowed == 1e-10
    assert not check(noise=1e-9, factor=20.0).passed
    assert not check(noise=math.inf).passed


def test_there_are_files_of_eleven_components() -> None:
    assert len(FILES) == 44
    assert len({path.stem.rpartition("_")[0] for path in FILES}) == 11


def test_a_copy_without_a_change_passes(tmp_path: Path) -> None:
    assert check_copy(tmp_path, copies.unchanged).status == "ok"


# Faults in a file -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensor", "change"),
    [
        pytest.param("y", copies.times("output:y.f64", 1 + 1e-9), id="y off by 1e-9"),
        pytest.param("y", copies.times("output:y.f64", 0), id="y zero"),
        pytest.param("y", copies.first_element("output:y.f64", np.nan), id="NaN in y"),
        pytest.param("y", copies.put("output:y.f64", np.zeros(0)), id="y empty"),
        pytest.param("y", copies.put("output:y.f64", np.ones((1, 1, 1))), id="y of a shape that would broadcast"),
        pytest.param("grad.weight", copies.times("output:grad.weight.f64", -1), id="sign of a gradient"),
        pytest.param("grad.bias", copies.times("output:grad.bias.f64", 2), id="gradient accumulated"),
        pytest.param("hidden", copies.put("output:hidden.f64", np.ones(3)), id="output that nothing computes"),
        pytest.param("grad.alpha", copies.put("output:grad.alpha.f64", np.ones(3)), id="gradient of no parameter"),
    ],
)
def test_a_wrong_float64_is_a_miss_on_both_sides_that_names_the_tensor(
    tensor: str, change: Change, tmp_path: Path
) -> None:
    report = check_copy(tmp_path, change)
    assert report.status == "MISS"
    assert (missed(report, "reference"), missed(report, "port")) == ({tensor}, {tensor})
    worst = report.worst("port", "f64")
    assert worst is not None
    assert worst.tensor == tensor


@pytest.mark.parametrize("factor", [3.0, -1.0, 1.01, 0.0], ids=str)
def test_a_wrong_input_gradient_is_a_miss_that_names_it(factor: float, tmp_path: Path) -> None:
    report = check_copy(tmp_path, copies.times("output:grad_input.x.f32", factor))
    assert report.status == "MISS"
    assert "grad_input.x of the file" in missed(report, "reference", "f32")


def test_an_input_gradient_of_one_pass_is_right_and_noted_as_such(tmp_path: Path) -> None:
    assert untouched(GOLDENS / f"{LEAF}.safetensors").notes == ("grad_input.x holds 2 accumulated passes",)
    report = check_copy(tmp_path, copies.times("output:grad_input.x.f32", 0.5))
    assert (report.status, report.notes) == ("ok", ())


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(copies.times("output:y.f32", 1000.0), id="y a thousand times too large"),
        pytest.param(copies.times("output:y.f32", 1.01), id="y off by a percent"),
        pytest.param(copies.times("output:grad.weight.f32", -1.0), id="sign of a gradient"),
    ],
)
def test_a_wrong_float32_beside_a_right_float64_is_a_miss(change: Change, tmp_path: Path) -> None:
    assert check_copy(tmp_path, change).status != "ok"


@pytest.mark.parametrize("where", ["output:y.f32", "output:grad.weight.f32", "output:grad_input.x.f32", "input:x"])
def test_nan_in_an_output_or_input_is_a_miss(where: str, tmp_path: Path) -> None:
    assert check_copy(tmp_path, copies.first_element(where, np.nan)).status == "MISS"


def test_a_file_without_outputs_is_a_miss(tmp_path: Path) -> None:
    report = check_copy(tmp_path, copies.without("output:"))
    assert (report.status, report.checks) == ("MISS", ())


def test_buffers_off_by_1e_4_are_a_miss(tmp_path: Path) -> None:
    report = check_copy(tmp_path, copies.times("output:z", 1.0001), "hyena_buffers_0")
    assert report.status == "MISS"
    assert missed(report, "port", "f32") == missed(report, "reference", "f32") == {"z"}


@pytest.mark.parametrize(
    ("words", "change"),
    [
        pytest.param("missing weight", copies.without("param:weight"), id="param missing"),
        pytest.param("left over alpha", copies.put("param:alpha", np.ones(3)), id="param left over"),
        pytest.param("NaN or infinity in bias", copies.first_element("param:bias", np.nan), id="NaN"),
        pytest.param("NaN or infinity in bias", copies.first_element("param:bias", np.inf), id="infinity"),
        pytest.param("shape of bias is (3,)", copies.put("param:bias", np.ones(3)), id="wrong shape"),
        pytest.param("must begin with param:", copies.put("weight", np.ones(3)), id="tensor without a prefix"),
        pytest.param("must begin with param:", copies.put("param:", np.ones(3)), id="tensor without a name"),
        pytest.param("no metadata component", copies.undescribed("component"), id="no component"),
        pytest.param("no metadata config", copies.undescribed("config"), id="no config"),
        pytest.param("config is not JSON", copies.described(config="{"), id="config not JSON"),
        pytest.param("unknown component 'blockdiag'", copies.described(component="blockdiag"), id="unknown component"),
        pytest.param("unknown key 'n_blocks'", copies.config(n_blocks=4), id="unknown config key"),
    ],
)
def test_a_bad_file_says_what_is_wrong_with_it(words: str, change: Change, tmp_path: Path) -> None:
    report = check_copy(tmp_path, change)
    assert report.status == "BAD"
    assert words in report.problem
    assert report.checks == ()


def test_a_file_of_another_component_lists_what_is_missing_and_left_over(tmp_path: Path) -> None:
    sizes = '{"k": 4, "q": 4, "p": 4, "l": 4, "s": 4, "r": 4}'
    report = check_copy(tmp_path, copies.described(component="monarch_multiply", config=sizes))
    assert report.status == "BAD"
    assert "missing w1; missing w2; left over bias; left over weight" in report.problem


def test_a_configuration_value_that_is_not_allowed_is_named(tmp_path: Path) -> None:
    report = check_copy(tmp_path, copies.config(hidden_size="wide"), "mlp_0")
    assert report.status == "BAD"
    assert "hidden_size" in report.problem


FREQUENCY = "param:filter_fn.implicit_filter.3.freq"


def test_an_alias_that_disagrees_is_a_bad_file(tmp_path: Path) -> None:
    report = check_copy(tmp_path, copies.times(FREQUENCY, 1.5), "monarch_mixer_0")
    assert report.status == "BAD"
    assert "filter_fn.implicit_filter.3.freq differs from another alias" in report.problem


def test_an_alias_that_is_missing_is_a_bad_file(tmp_path: Path) -> None:
    report = check_copy(tmp_path, copies.without(FREQUENCY), "monarch_mixer_0")
    assert (report.status, "missing filter_fn.implicit_filter.3.freq" in report.problem) == ("BAD", True)


@pytest.mark.parametrize("size", [0, 4, 8, 100, 2000])
def test_a_truncated_file_is_bad(size: int, tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes((GOLDENS / f"{LEAF}.safetensors").read_bytes()[:size])
    (report,) = check_folder(tmp_path)
    assert report.status == "BAD"
    assert "cut.safetensors is not a readable safetensors file" in report.problem
    assert "\n" not in report.problem


def test_a_text_file_of_that_name_is_bad(tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("these are no tensors, however long the text is", encoding="utf-8")
    (report,) = check_folder(tmp_path)
    assert (report.file, report.status) == ("text.safetensors", "BAD")


def test_a_folder_of_that_name_is_bad(tmp_path: Path) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    (report,) = check_folder(tmp_path)
    assert report.status == "BAD"


UNREADABLE_MEANING = {
    "config is a list": (LEAF, copies.described(config="[1]")),
    "config is null": (LEAF, copies.described(config="null")),
    "config is empty": (LEAF, copies.described(config="{}")),
    "size of text": (LEAF, copies.config(nblocks="four")),
    "size zero": (LEAF, copies.config(nblocks=0)),
    "input missing": (LEAF, copies.without("input:")),
    "input of a wrong shape": (LEAF, copies.put("input:x", np.ones((2, 5, 3)))),
    "class missing": ("mlp_0", copies.config(cls=None)),
    "kernel missing": ("fftconv_0", copies.without("param:k")),
    "kernel of a wrong rank": ("fftconv_0", copies.put("param:k", np.ones(3))),
    "switch missing": ("fftconv_0", copies.config(gelu=None)),
    "buffer that nothing builds": ("hyena_buffers_0", copies.put("output:w", np.ones(3))),
    "buffer of a wrong shape": ("hyena_buffers_0", copies.put("output:t", np.ones((1, 3, 1)))),
    "buffer in float64 alone": ("hyena_buffers_0", lambda t, _: t.update({"output:t.f64": t.pop("output:t")})),
    "even number of bands": ("hyena_buffers_0", copies.config(emb_dim=4)),
}


@pytest.mark.parametrize(("name", "change"), UNREADABLE_MEANING.values(), ids=UNREADABLE_MEANING)
def test_a_file_that_does_not_fit_its_component_is_bad_and_hides_no_other(
    name: str, change: Change, tmp_path: Path
) -> None:
    copy_of(name, tmp_path, change)
    copy_of("monarch_multiply_0", tmp_path)
    bad, good = check_folder(tmp_path)
    assert bad.status in {"BAD", "MISS"}
    assert good.status == "ok"


def test_an_unknown_class_of_mlp_is_named(tmp_path: Path) -> None:
    name = next(
        path.stem for path in FILES if path.stem.startswith("mlp") and '"cls": "mlp"' in str(copies.read(path.stem)[1])
    )
    assert check_copy(tmp_path, copies.config(cls="swiglu"), name).status == "BAD"


# Folders ----------------------------------------------------------------------------------------------------------


def test_one_bad_file_does_not_hide_the_others(tmp_path: Path) -> None:
    copy_of("monarch_multiply_0", tmp_path)
    copy_of(LEAF, tmp_path, copies.times("output:y.f64", 2.0))
    (tmp_path / "a.safetensors").write_text("text", encoding="utf-8")
    (tmp_path / "readme.md").write_text("not looked at", encoding="utf-8")
    seen: list[str] = []
    reports = check_folder(tmp_path, seen.append)
    assert [report.status for report in reports] == ["BAD", "MISS", "ok"]
    assert seen == [report.file for report in reports] == [path.name for path in golden_files(tmp_path)]


def test_a_folder_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(GoldenError, match="no folder"):
        golden_files(tmp_path / "no")


def test_a_report_without_checks_is_never_ok() -> None:
    assert GoldenReport("file").status == "MISS"
    assert GoldenReport("file", checks=(Check("y", "port", "f64", 0.0, 1.0, passed=True),)).status == "ok"


# Faults in a side -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "name"),
    [("tanh", "mlp_0"), ("eps", "mlp_0"), ("+D", "fftconv_0"), ("FFT length", "fftconv_0")],
)
def test_a_broken_port_is_a_miss_on_the_ports_side_alone(
    fault: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    next(planted for planted in PLANTED_FAULTS if fault in planted.name).plant(monkeypatch)
    report = check_file(GOLDENS / f"{name}.safetensors")
    assert report.status == "MISS"
    assert missed(report, "reference") | missed(report, "reference", "f32") == set()
    assert "y" in missed(report, "port")


def test_a_broken_reference_is_a_miss_on_the_references_side(monkeypatch: pytest.MonkeyPatch) -> None:
    def tanh(_self: object, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.gelu(x, approximate="tanh")

    monkeypatch.setattr(reference_torch.activations.Gelu, "forward", tanh)
    report = check_file(GOLDENS / "mlp_0.safetensors")
    assert report.status == "MISS"
    assert "y" in missed(report, "reference")
    assert "y" not in missed(report, "port") | missed(report, "port", "f32")


def test_a_reference_whose_gradient_is_not_its_slope_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Halved(torch.autograd.Function):
        @staticmethod
        def forward(_context: object, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.gelu(x)

        @staticmethod
        def backward(_context: object, gradient: torch.Tensor) -> torch.Tensor:
            return gradient / 2

    monkeypatch.setattr(reference_torch.activations.Gelu, "forward", lambda _self, x: Halved.apply(x))  # type: ignore[no-untyped-call]
    report = check_file(GOLDENS / "mlp_0.safetensors")
    assert report.status == "MISS"
    assert "slope of grad_input.x" in missed(report, "reference")
    assert "y" not in missed(report, "reference")
