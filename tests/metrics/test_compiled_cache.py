"""What numba compiles is kept between processes where a folder lets it, and is never that of other constants."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from parity.metrics.engine import parts, tree

pytest.importorskip("numba", reason="numba is not installed")

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


@pytest.mark.parametrize(("place", "name"), [(tree, "LEAF"), (tree, "LANES"), (parts, "BIN_SHIFT")])
def test_a_constant_of_another_file_cannot_change_beneath_compiled_code(
    place: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded(SOURCE)
    monkeypatch.setattr(place, name, getattr(place, name) + 1)
    with pytest.raises(RuntimeError, match=r"compiled\.py.*LEAF, LANES, BIN_SHIFT.*write them into _CONSTANTS"):
        loaded(SOURCE)
