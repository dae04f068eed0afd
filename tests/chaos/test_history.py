"""The files that processes leave behind when they are killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.history import History, Ledger


def test_each_id_counts_once_whoever_brings_it(tmp_path: Path) -> None:
    one, other = Ledger(tmp_path / "ledger"), Ledger(tmp_path / "ledger")
    assert one.count([("a", "1"), ("b", "2"), ("a", "1")]) == [True, True, False]
    assert other.count([("b", "2"), ("c", "3")]) == [False, True]
    assert one.count([("c", "3"), ("d", "4")]) == [False, True]
    assert (tmp_path / "ledger").read_text() == "a 1\nb 2\nc 3\nd 4\n"


def test_what_was_cut_off_by_a_kill_was_not_counted(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    one = Ledger(path)
    one.count([("a", "1")])
    with path.open("a") as file:
        file.write("b 2\nc")
    assert one.count([("b", "2"), ("c", "3")]) == [False, True]
    assert path.read_text() == "a 1\nb 2\nc 3\n"
    assert Ledger(path).count([(name, "") for name in "abcd"]) == [False, False, False, True]


def test_a_ledger_with_the_planted_bug_counts_twice(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger", forgetful=True)
    assert ledger.count([("a", "1")]) == ledger.count([("a", "1")]) == [True]


def test_a_history_belongs_to_one_life(tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    history.record("confirmed a", "confirmed b")
    history.mention("stats {}")
    assert (tmp_path / "history").read_text() == "confirmed a\nconfirmed b\nstats {}\n"
    with pytest.raises(FileExistsError):
        History(tmp_path / "history")
