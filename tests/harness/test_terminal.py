"""A bar on a terminal alone, and nothing elsewhere."""

from __future__ import annotations

import pytest

from parity.terminal import tensor_progress

NAME = "bert.encoder.layer.11.attention.in_linear.weight"


@pytest.mark.parametrize("total", [None, 7])
def test_a_terminal_shows_the_end_of_a_tensors_name(
    total: int | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with tensor_progress("converting") as on_tensor:
        on_tensor(NAME, total)
    out, shown = capsys.readouterr()
    assert out == ""
    assert f"...{NAME[-23:]}" in shown
    assert NAME[-24:] not in shown
    assert ("1/7" in shown) == (total == 7)


def test_elsewhere_nothing_is_written(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    with tensor_progress("converting") as on_tensor:
        on_tensor(NAME)
    assert capsys.readouterr() == ("", "")
