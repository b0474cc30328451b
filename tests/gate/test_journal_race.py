"""Two processes and one journal: whoever has the lock has the file that its path leads to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from parity import journal as journal_module
from parity.errors import OutputError, ResumeError
from parity.journal import JournalKind, hold_journal, open_journal

KIND: JournalKind[Any] = JournalKind(
    name="journal",
    command="a test",
    work="test",
    remedy="begin anew",
    error=ResumeError,
    write=lambda part: part,
    read=lambda data: data,
    goes_on="go on",
)
HEADER = {"log": "a test"}


def removed_before_the_lock(path: Path, monkeypatch: pytest.MonkeyPatch, times: int, anew: bool = False) -> list[int]:
    """Have another process finish, and remove its journal, between opening and locking; return what is left of it."""
    lock, left = journal_module._lock, [times]

    def late(*given: Any) -> None:
        if left[0]:
            left[0] -= 1
            path.unlink()
            if anew:
                path.write_bytes(b'{"log":"a test"}\n[2]\n')
        lock(*given)

    monkeypatch.setattr(journal_module, "_lock", late)
    return left


@pytest.mark.parametrize("times", [1, 3])
def test_a_journal_that_is_removed_before_it_is_locked_is_opened_again(
    times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b'{"log":"a test"}\n[1]\n')
    left = removed_before_the_lock(path, monkeypatch, times)
    with open_journal(KIND, path, HEADER) as held:
        assert left == [0]
        assert held.parts == []
        held.append([5])
        with pytest.raises(ResumeError, match="in use"), open_journal(KIND, path, HEADER):
            pass
    with open_journal(KIND, path, HEADER) as again:
        assert again.parts == [[5]]


def test_one_that_another_process_has_begun_since_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b'{"log":"a test"}\n[1]\n')
    removed_before_the_lock(path, monkeypatch, 1, anew=True)
    with open_journal(KIND, path, HEADER) as held:
        assert held.parts == [[2]]


@pytest.mark.parametrize("anew", [False, True])
def test_what_is_held_is_what_lies_there(anew: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b'{"log":"a test"}\n')
    removed_before_the_lock(path, monkeypatch, 1, anew=anew)
    with hold_journal(KIND, path):
        if anew:
            with pytest.raises(ResumeError, match="in use"), open_journal(KIND, path, HEADER):
                pass
        assert path.exists() == anew


def test_one_that_is_removed_again_and_again_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal"
    removed_before_the_lock(path, monkeypatch, 10**6)
    with pytest.raises(OutputError, match="is removed whenever it is opened"), open_journal(KIND, path, HEADER):
        pass
