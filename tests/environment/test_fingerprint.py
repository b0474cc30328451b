"""The fingerprint names what can change bits, hides what is private, and its key follows the first only."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import parity.environment
from parity.environment import Environment, ProbeRow, collect, to_json, to_table
from parity.environment.fingerprint import parse_torch_config
from parity.environment.linkage import describe_library, mlx_blas
from parity.environment.processor import Processor, parse_cpuinfo, parse_sysctl

ROOT = Path(__file__).parents[2]
CHANGED_FIELDS = [
    ("system", "Plan9"),
    ("libc", "musl 1.2"),
    ("machine", "m68k"),
    ("cpu_model", "another"),
    ("cpu_flags", ("avx",)),
    ("cores", 1234),
    ("torch_threads", 1234),
    ("torch_libraries", {"mkl": "1.0"}),
    ("torch_cpu_capability", "VSX"),
    ("torch_fp32_precision", {"matmul": "planted"}),
    ("mlx_device", "Device(gpu, 7)"),
    ("mlx_gpu", "planted"),
    ("mlx_gpu_name", "planted"),
    ("mlx_blas", ("planted",)),
    ("switches", {"MKL_CBWR": "planted"}),
    ("port_device", "gpu"),
    ("reference_device", "cuda"),
    ("reference_gpu_name", "planted"),
    ("torch_cuda", "0.0"),
]
BITLESS_FIELDS = {"system_release", "port_product_bits", "reference_product_bits"}


def in_new_process(script: str, **variables: str) -> str:
    environment = {**os.environ, **variables}
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def environment() -> Environment:
    return collect()


def test_collect_names_the_versions_that_run(environment: Environment) -> None:
    assert environment.versions["torch"] == torch.__version__
    assert environment.versions["python"] == platform.python_version()
    assert environment.torch_threads == torch.get_num_threads()
    assert environment.mlx_device.startswith("Device(")


def test_collect_reports_switches_and_changes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    monkeypatch.delenv("MLX_ENABLE_TF32", raising=False)
    before = dict(os.environ)
    switches = collect().switches
    assert switches["MKL_CBWR"] == "COMPATIBLE"
    assert switches["MLX_ENABLE_TF32"] is None
    assert dict(os.environ) == before


def test_import_sets_no_environment_variable_and_no_thread_count() -> None:
    script = (
        "import os, torch, mlx.core; before = dict(os.environ), torch.get_num_threads()\n"
        "import parity.environment; print(before == (dict(os.environ), torch.get_num_threads()))"
    )
    assert in_new_process(script) == "True"


def test_every_exported_name_exists_and_is_sorted() -> None:
    assert all(hasattr(parity.environment, name) for name in parity.environment.__all__)
    constants = [name for name in parity.environment.__all__ if name.isupper()]
    assert constants == ["OPERATIONS"]


def test_key_is_equal_in_another_process_with_the_same_threads(environment: Environment) -> None:
    threads = environment.torch_threads
    script = (
        f"import torch; torch.set_num_threads({threads})\n"
        "from parity.environment import collect; print(collect().key())"
    )
    other = in_new_process(script)
    assert other == environment.key()
    assert len(other) == 16
    assert int(other, 16) >= 0


@pytest.mark.parametrize(("field", "value"), CHANGED_FIELDS, ids=[field for field, _ in CHANGED_FIELDS])
def test_key_changes_with(environment: Environment, field: str, value: Any) -> None:
    assert dataclasses.replace(environment, **{field: value}).key() != environment.key()


def test_every_field_is_either_in_the_key_test_or_known_to_be_bitless() -> None:
    fields = {field.name for field in dataclasses.fields(Environment)}
    assert fields == {field for field, _ in CHANGED_FIELDS} | {"versions", *BITLESS_FIELDS}


def test_key_ignores_measured_bits(environment: Environment) -> None:
    measured = dataclasses.replace(environment, port_product_bits=10.9, reference_product_bits=24.0)
    assert measured.key() == environment.key()


@pytest.mark.parametrize("package", ["torch", "mlx", "numpy", "scipy"])
def test_key_changes_with_the_version_of(environment: Environment, package: str) -> None:
    versions = {**environment.versions, package: "0.0"}
    assert dataclasses.replace(environment, versions=versions).key() != environment.key()


@pytest.mark.parametrize("package", ["python", "hypothesis", "einops", "mlx-parity"])
def test_key_ignores_the_version_of(environment: Environment, package: str) -> None:
    versions = {**environment.versions, package: "0.0"}
    assert dataclasses.replace(environment, versions=versions, system_release="0").key() == environment.key()


def private_folders(text: str) -> list[str]:
    return [folder for folder in (str(Path.home()), sys.prefix, str(ROOT), platform.node()) if folder in text]


def test_nothing_private_is_told(environment: Environment) -> None:
    assert private_folders(to_json(environment, [], "a library")) == []


def test_the_privacy_check_sees_a_planted_folder(environment: Environment) -> None:
    leaky = dataclasses.replace(environment, mlx_blas=(f"{sys.prefix}/lib/libblas.so",))
    assert sys.prefix in private_folders(to_json(leaky, [], "a library"))


def test_json_is_sorted_and_complete(environment: Environment) -> None:
    row = ProbeRow("mlx", "sin", "float64", 24.5, "float64")
    text = to_json(environment, [row], "a library")
    document = json.loads(text)
    assert text == json.dumps(document, sort_keys=True, indent=2)
    assert document["environment"] == {**environment.to_dict(), "key": environment.key()}
    assert document["probe"][0]["suspicious"] is True
    assert document["probe"][0]["looks_like"] == "float32"


def test_table_marks_suspicion_with_a_word(environment: Environment) -> None:
    rows = [
        ProbeRow("mlx", "sin", "float64", 24.5, "float64"),
        ProbeRow("mlx", "sin", "float32", 24.0, "float32"),
        ProbeRow("torch", "fft", "float64", 52.0, "complex128"),
        ProbeRow("torch", "fft", "float32", None, None, "unsupported: [bold]planted"),
    ]
    console = Console(width=300, color_system=None)
    with console.capture() as capture:
        console.print(to_table(dataclasses.replace(environment, cpu_model="[red]CPU"), rows))
    text = capture.get()
    assert text.count("SUSPICIOUS") == 1
    assert "24.5 SUSPICIOUS, looks like float32" in text
    assert "52.0 as complex128" in text
    assert "unsupported: [bold]planted" in text
    assert "[red]CPU" in text
    assert environment.key() not in text  # the title holds the key of the environment shown, which differs


def test_cpuinfo_on_x86_keeps_what_every_core_has() -> None:
    text = (
        "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 fma avx512f amx_bf16\n\n"
        "processor\t: 1\nmodel name\t: Some CPU\nflags\t\t: fpu fma avx2\n"
    )
    assert parse_cpuinfo(text) == Processor("Some CPU", ("avx2", "fma"))


def test_cpuinfo_on_arm_and_without_flags() -> None:
    arm = parse_cpuinfo("processor : 0\nFeatures : fp asimd bf16 sve\n")
    assert arm == Processor("unknown", ("asimd", "bf16", "sve"))
    assert parse_cpuinfo("") == Processor("unknown", ())


def test_sysctl_on_apple_and_intel() -> None:
    apple = (
        "machdep.cpu.brand_string: Apple M4\nhw.optional.arm.FEAT_BF16: 1\nhw.optional.arm.FEAT_SME: 1\n"
        "hw.optional.arm.FEAT_SME2: 0\nhw.optional.floatingpoint: 1\n"
    )
    assert parse_sysctl(apple) == Processor("Apple M4", ("bf16", "sme"))
    intel = (
        "machdep.cpu.brand_string: Intel i7\nmachdep.cpu.features: FPU FMA AVX1.0\n"
        "machdep.cpu.leaf7_features: AVX2 SGX\n"
    )
    assert parse_sysctl(intel) == Processor("Intel i7", ("avx1.0", "avx2", "fma"))
    assert parse_sysctl("") == Processor("unknown", ())


def test_torch_config_is_read() -> None:
    text = (
        "  - Intel(R) oneAPI Math Kernel Library Version 2024.2-Product Build 20240605 for Intel(R) 64\n"
        "  - Intel(R) MKL-DNN v3.12.0 (Git Hash 80afa)\n"
        "  - Build settings: BLAS_INFO=mkl, LAPACK_INFO=mkl, X=1\n"
    )
    expected = {"blas": "mkl", "lapack": "mkl", "mkl": "2024.2 build 20240605", "onednn": "3.12.0"}
    assert parse_torch_config(text) == expected
    accelerate = parse_torch_config("  - Build settings: BLAS_INFO=accelerate, LAPACK_INFO=accelerate")
    assert accelerate == {"blas": "accelerate", "lapack": "accelerate", "mkl": None, "onednn": None}


def test_torch_libraries_agree_with_the_backends(environment: Environment) -> None:
    assert (environment.torch_libraries["mkl"] is not None) == torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    assert (environment.torch_libraries["onednn"] is not None) == torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("path", "vendor", "label"),
    [
        ("/home/ann/v/mlx_cpu.libs/libblas-bd8a.so.3", None, "bundled reference BLAS (libblas-bd8a.so.3)"),
        ("/home/ann/v/mlx/lib/libopenblas.so.0", "OpenBLAS", "bundled OpenBLAS (libopenblas.so.0)"),
        ("/usr/lib/x86_64-linux-gnu/libblas.so.3", None, "reference BLAS (libblas.so.3)"),
        ("/home/ann/conda/lib/libmkl_rt.so.2", "MKL", "MKL (libmkl_rt.so.2)"),
        ("/home/ann/lib/libplanted.so", None, "unknown BLAS (libplanted.so)"),
    ],
)
def test_library_label_tells_origin_and_no_folder(path: str, vendor: str | None, label: str) -> None:
    assert describe_library(Path(path), vendor) == label


def test_mlx_blas_is_found_on_this_machine() -> None:
    assert len(mlx_blas()) >= 1
    assert not any("/" in name for name in mlx_blas())


@pytest.mark.skipif(platform.system() != "Linux", reason="only ELF symbols can be interposed with LD_PRELOAD")
def test_a_library_preloaded_over_mlx_blas_is_named() -> None:
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    script = "from parity.environment.linkage import mlx_blas; print(*mlx_blas(), sep='\\n')"
    assert "(libtorch_cpu.so)" not in in_new_process(script)
    named = in_new_process(script, LD_PRELOAD=str(library)).splitlines()
    assert sum("(libtorch_cpu.so)" in name for name in named) == 1
    assert len(named) == len(mlx_blas()) + 1
