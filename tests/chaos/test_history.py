"""The files that processes leave behind when they are killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.history import History


def test_a_history_belongs_to_one_life(tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    history.record("confirmed a", "confirmed b")
    history.mention("stats {}")
    assert (tmp_path / "history").read_text() == "confirmed a\nconfirmed b\nstats {}\n"
    with pytest.raises(FileExistsError):
        History(tmp_path / "history")
