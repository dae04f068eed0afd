"""Saving what is left of a journal whose schema is damaged, or whose end is missing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.journal.helpers import everything, put
from tests.journal.test_checking import ROWS, check, findings, repair
from zmqkit.errors import JournalDamaged, JournalError
from zmqkit.journal import SqliteJournal
from zmqkit.journal.compacting import compact
from zmqkit.protocol.core import Row


@pytest.fixture
def journal_bytes(path: Path) -> bytes:
    """A closed journal of some pages: ROWS, and letters behind them."""
    with SqliteJournal(path) as journal:
        journal.commit([put(row.key, row.value, weight=row.weight) for row in ROWS])
        journal.commit([put(key, bytes(3000), log="dead") for key in range(1, 10)])
    return path.read_bytes()


def rows_of(path: Path) -> dict[str, list[Row]]:
    with SqliteJournal(path) as journal:
        return {log: everything(journal, log) for log in ("messages", "dead")}


def test_of_a_file_that_was_cut_off_what_is_left_is_saved(path: Path, journal_bytes: bytes) -> None:
    whole = rows_of(path)
    path.write_bytes(journal_bytes[: len(journal_bytes) - len(journal_bytes) // 3])
    with pytest.raises(JournalDamaged, match="it ends after"):
        SqliteJournal(path)
    report, _ = repair(path, path.with_name("copy.db"))
    assert "it ends after" in findings(report)
    saved = rows_of(path.with_name("copy.db"))["messages"]
    assert saved
    assert [row for row in whole["messages"] if row in saved] == saved


def test_a_table_that_the_schema_has_lost_costs_none_of_the_others(path: Path, journal_bytes: bytes) -> None:
    whole = rows_of(path)
    path.write_bytes(journal_bytes.replace(b"CREATE TABLE log_dead", b"CREETE TABLE log_dead"))
    with pytest.raises(JournalDamaged, match="malformed database schema"):
        SqliteJournal(path)
    assert not check(path).sound
    report, _ = repair(path, path.with_name("copy.db"))
    assert "malformed database schema" in findings(report)
    saved = rows_of(path.with_name("copy.db"))
    assert saved["messages"] == whole["messages"]
    assert not saved["dead"]


def test_a_log_whose_table_has_another_name_is_said_to_be_lost(path: Path, journal_bytes: bytes) -> None:
    at = journal_bytes.index(b"log_dead")  # the name; behind it stands the statement
    path.write_bytes(journal_bytes[:at] + b"log-dead" + journal_bytes[at + 8 :])
    assert not check(path).sound
    report, _ = repair(path, path.with_name("copy.db"))
    assert "log dead: its table is not to be found" in findings(report)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_nobody_waits_for_who_writes_to_a_pipe(path: Path) -> None:
    os.mkfifo(path)
    for look in (check, compact, lambda path: repair(path, path.with_name("copy.db")), SqliteJournal):
        with pytest.raises(JournalError, match="a pipe"):
            look(path)
