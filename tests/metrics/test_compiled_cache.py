"""What numba compiles is kept between processes where a folder lets it, and is never that of other constants."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from parity.metrics.engine import tree

pytest.importorskip("numba", reason="numba is not installed")

hash_of = pytest.importorskip("parity.metrics.engine.jit").hash_of

SOURCE = Path(tree.__file__).with_name("compiled.py")


def loaded(file: Path) -> ModuleType:
    """Return the kernels of `file`, of which nothing is compiled yet."""
    spec = importlib.util.spec_from_file_location("compiled_elsewhere", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The kernels in a folder where no cache can be written, nor anywhere else: not even for root."""
    folder = tmp_path / "installed"
    folder.mkdir()
    (folder / "__pycache__").write_text("a file, and no folder", encoding="utf-8")
    (folder / SOURCE.name).write_bytes(SOURCE.read_bytes())
    (tmp_path / "home").write_text("a file, and no folder", encoding="utf-8")
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setattr("numba.config.CACHE_DIR", "")
    return folder / SOURCE.name


def cached(module: ModuleType) -> Path | None:
    """Return where the code of a kernel is kept, None where it is not."""
    folder = module._leaf_sum.stats.cache_path
    return Path(folder) if folder else None


def test_compiled_code_is_kept_beside_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numba.config.CACHE_DIR", "")
    assert cached(loaded(SOURCE)) == SOURCE.parent / "__pycache__"


def test_compiled_code_is_kept_in_the_users_folder_where_the_package_cannot_be_written(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "mine"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    found = cached(loaded(copy))
    assert found is not None
    assert tmp_path / "mine" in found.parents


def test_numba_cache_dir_comes_first(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path / "named"))
    found = cached(loaded(copy))
    assert found is not None
    assert found.parent == tmp_path / "named"


def test_where_nothing_can_be_written_it_is_compiled_in_every_process(copy: Path) -> None:
    module = loaded(copy)
    assert cached(module) is None
    assert module._leaf_sum(np.array([1.0, 2.0, 4.0]), 3) == 7.0


@pytest.mark.parametrize("name", ["compiled.py", "lanes.py", "parts.py", "tree.py"])
def test_no_other_file_can_change_beneath_compiled_code(name: str, tmp_path: Path) -> None:
    parts = [SOURCE.with_name(part) for part in ("compiled.py", "lanes.py", "parts.py", "tree.py")]
    changed = tmp_path / name
    changed.write_bytes(SOURCE.with_name(name).read_bytes().replace(b"= 1 << 15", b"= 1 << 16") + b"# another\n")
    assert hash_of([changed if part.name == name else part for part in parts]) != hash_of(parts)


@pytest.mark.parametrize("kernels", ["compiled.py", "single.py"])
def test_a_file_of_kernels_that_states_another_hash_is_not_imported(kernels: str, tmp_path: Path) -> None:
    source = SOURCE.with_name(kernels).read_text(encoding="utf-8")
    stated = re.search(r'kernels_of\(__file__, .*?"([0-9a-f]{16})"\)', source, re.DOTALL)
    assert stated is not None
    stale = tmp_path / kernels
    stale.write_text(source.replace(stated[1], "0" * 16), encoding="utf-8")
    with pytest.raises(
        RuntimeError, match=f"{kernels} was written for other contents of .*lanes.py.*Write '{stated[1]}' there"
    ):
        loaded(stale)


def test_what_the_kernels_import_of_this_folder_is_in_their_hash() -> None:
    for kernels in ("compiled.py", "single.py"):
        source = SOURCE.with_name(kernels).read_text(encoding="utf-8")
        imported = {f"{name}.py" for name in re.findall(r"from parity\.metrics\.engine\.(\w+) import", source)}
        stated = re.search(r"kernels_of\(__file__, \((.*?)\)", source, re.DOTALL)
        assert stated is not None
        assert imported - {"jit.py"} <= set(re.findall(r'"(\w+\.py)"', stated[1]))
