"""What is not a journal is left alone, and what is no longer what was written is never passed off as such."""

from __future__ import annotations

import logging
import os
import random
import shutil
import sqlite3
from pathlib import Path

import pytest

from tests.journal.helpers import change_watermark, everything, keys, killed_owner, put, puts
from zmqkit.errors import JournalDamaged, JournalError, JournalVersion
from zmqkit.journal import SqliteJournal
from zmqkit.protocol.core import Row

ROWS = [Row(key, key % 7, random.Random(key).randbytes(key * 3 % 900)) for key in range(1, 60)]


@pytest.fixture
def journal_bytes(path: Path) -> bytes:
    """A closed journal with ROWS, and some free pages."""
    with SqliteJournal(path) as journal:
        journal.commit([put(row.key, row.value, weight=row.weight) for row in ROWS])
        journal.commit([put(1, bytes(60_000), log="dead")])
    return path.read_bytes()


def look(path: Path) -> list[Row] | None:
    """All rows, if it opens and reads; None if it is refused by a right name."""
    try:
        with SqliteJournal(path) as journal:
            rows = everything(journal)
            assert journal.totals("messages").rows == len(rows)
            assert [len(row.value) for row in everything(journal, "dead")] == [60_000]
            return rows
    except (JournalDamaged, JournalVersion):
        return None
    except JournalError as error:
        # Some bits of the header keep SQLite from opening it, others from working as it should.
        if "is damaged" in str(error):
            raise
        return None


# ---- not ours --------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"x", b"no journal at all\n" * 100, bytes(8192), b"SQLite format 3\0" + bytes(50)], ids=len
)
def test_a_file_that_is_not_a_journal_is_left_as_it_is(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    for mode in (False, True):
        with pytest.raises(JournalVersion, match=r"not a zmqkit journal; it was left as it is\. Use another path"):
            SqliteJournal(path, read_only=mode)
    assert path.read_bytes() == content


def test_somebody_elses_database_is_left_as_it_is(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("create table customers(name)")
    database.commit()
    database.close()
    content = path.read_bytes()
    with pytest.raises(JournalVersion, match="not a zmqkit journal"):
        SqliteJournal(path)
    assert path.read_bytes() == content
    assert os.listdir(path.parent) == ["jobs.db"]


def test_another_version_is_left_as_it_is(path: Path, journal_bytes: bytes) -> None:
    newer = bytearray(journal_bytes)
    newer[60:64] = (2).to_bytes(4, "big")
    path.write_bytes(newer)
    for mode in (False, True):
        with pytest.raises(
            JournalVersion, match=r"of format 2, and this zmqkit reads format 1.*the zmqkit that wrote it"
        ):
            SqliteJournal(path, read_only=mode)
    assert path.read_bytes() == bytes(newer)


# ---- cut off ---------------------------------------------------------------------


def test_a_journal_cut_off_anywhere_is_damaged(path: Path, journal_bytes: bytes) -> None:
    lengths = {0, 1, 15, 16, 17, 99, 100, 101, 4095, 4096, 4097, len(journal_bytes) - 4096, len(journal_bytes) - 1}
    lengths |= set(range(4096, len(journal_bytes), 9999))
    for length in sorted(lengths):
        path.write_bytes(journal_bytes[:length])
        for mode in (False, True):
            with pytest.raises(JournalDamaged, match=r"is damaged: .*Put back a good copy"):
                SqliteJournal(path, read_only=mode)
        assert path.read_bytes() == journal_bytes[:length]
    path.write_bytes(journal_bytes)
    assert look(path) == ROWS


def test_a_log_cut_off_anywhere_does_not_lose_a_confirmed_commit_silently(path: Path) -> None:
    killed_owner(path, "for key in range(1, 9):\n    journal.commit([put(key, bytes(3000))])")
    names = ["jobs.db", "jobs.db-wal", "jobs.db.lock"]
    whole = {name: path.with_name(name).read_bytes() for name in names}
    length = len(whole["jobs.db-wal"])
    for cut in sorted({0, 1, 31, 32, 33, *range(100, length, 3001), length - 4097, length - 1}):
        for name in names:
            path.with_name(name).write_bytes(whole[name])
        path.with_name("jobs.db-wal").write_bytes(whole["jobs.db-wal"][:cut])
        with pytest.raises(JournalDamaged, match=r"has lost its last \d commits of 9.*Put back what is missing"):
            SqliteJournal(path)
        with pytest.raises(JournalDamaged, match="has lost its last"):
            SqliteJournal(path, read_only=True)
    for name in names:
        path.with_name(name).write_bytes(whole[name])
    with SqliteJournal(path) as journal:
        assert keys(journal) == list(range(1, 9))


def test_going_on_with_what_is_left_is_possible_as_the_error_says(path: Path) -> None:
    killed_owner(path, "for key in range(1, 9):\n    journal.commit([put(key, bytes(3000))])")
    wal = path.with_name("jobs.db-wal")
    wal.write_bytes(wal.read_bytes()[:-1])
    with pytest.raises(JournalDamaged, match=r"to go on with what is in it, remove .*jobs\.db\.lock"):
        SqliteJournal(path)
    path.with_name("jobs.db.lock").unlink()
    with SqliteJournal(path) as journal:
        assert keys(journal) == list(range(1, 8))


def test_an_older_copy_is_noticed(path: Path, journal_bytes: bytes) -> None:
    with SqliteJournal(path) as journal:
        journal.commit([put(100)])
    path.write_bytes(journal_bytes)
    with pytest.raises(JournalDamaged, match="has lost its last 2 commits"):
        SqliteJournal(path)


def test_what_a_power_cut_may_take_in_process_mode_is_taken_with_a_warning(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    killed_owner(path, "for key in range(1, 9):\n    journal.commit([put(key, bytes(3000))])", durability="process")
    wal = path.with_name("jobs.db-wal")
    wal.write_bytes(wal.read_bytes()[:-1])
    with pytest.raises(JournalDamaged, match="has lost its last 1 commits"):  # this machine never went down
        SqliteJournal(path)
    change_watermark(path, boot="another")
    with caplog.at_level(logging.WARNING, "zmqkit.journal"), SqliteJournal(path) as journal:
        assert keys(journal) == list(range(1, 8))
    assert (
        "has lost its last 1 commits of 9 (with them, whatever was put under keys 8 to 8 of log messages), since the"
        in (caplog.text)
    )


# ---- flipped bits ----------------------------------------------------------------


def test_a_flipped_bit_anywhere_is_noticed_or_does_no_harm(path: Path, journal_bytes: bytes) -> None:
    chance = random.Random(1)
    places = [*range(100), *range(100, 400, 7), *range(4096, 4296, 3)]
    places += chance.sample(range(len(journal_bytes)), 250)
    refused = 0
    for place in places:
        flipped = bytearray(journal_bytes)
        flipped[place] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        rows = look(path)
        refused += rows is None
        assert rows in (None, ROWS), f"byte {place}"
        for leftover in ("jobs.db-wal", "jobs.db-reserve"):
            path.with_name(leftover).unlink(missing_ok=True)
    assert refused > len(places) // 3


def test_a_flipped_bit_in_a_row_is_named_when_the_row_is_read(path: Path, journal_bytes: bytes) -> None:
    value = ROWS[40].value
    # Pages that were rearranged keep copies that nobody reads: flip it in all.
    path.write_bytes(journal_bytes.replace(value, bytes([value[0] ^ 1]) + value[1:]))
    with SqliteJournal(path) as journal:
        assert keys(journal, "dead") == [1]
        with pytest.raises(JournalDamaged, match="row 41 of log messages is not what was written"):
            everything(journal)
        with pytest.raises(JournalDamaged, match="row 41"):
            journal.verify()


@pytest.mark.parametrize(
    ("place", "content", "walked_pages"),
    [(32, b"\0\0\0\3", 100), (36, b"\0\0\0\1", 100), (52, bytes(4), 0), (64, bytes(4), 0)],
    ids=["free list", "free pages", "auto vacuum", "incremental vacuum"],
)
def test_a_header_that_would_lead_to_further_damage_is_noticed(
    path: Path,
    journal_bytes: bytes,
    monkeypatch: pytest.MonkeyPatch,
    place: int,
    content: bytes,
    walked_pages: int,
) -> None:
    monkeypatch.setattr("zmqkit.journal.layout.WALK_PAGES", walked_pages)
    path.write_bytes(journal_bytes[:place] + content + journal_bytes[place + 4 :])
    with pytest.raises(JournalDamaged):
        SqliteJournal(path)


def test_rows_that_come_twice_are_noticed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last page of a log is replaced by its first: each row is what was written, and their order is not."""
    with SqliteJournal(path) as journal:
        journal.commit(puts(range(1, 500), bytes(100)))
    database = sqlite3.connect(path)
    (root,) = database.execute("select rootpage from sqlite_schema where name = 'log_messages'").fetchone()
    database.close()
    content = bytearray(path.read_bytes())
    page = (root - 1) * 4096
    assert content[page] == 5  # an inner page: its last child at byte 8, its cells' places from byte 12
    first_cell = page + int.from_bytes(content[page + 12 : page + 14], "big")
    content[page + 8 : page + 12] = content[first_cell : first_cell + 4]
    path.write_bytes(content)
    monkeypatch.setattr("zmqkit.journal.layout.WALK_PAGES", 0)
    monkeypatch.setattr("zmqkit.journal.sqlite.COUNT_UP_TO", 0)
    with SqliteJournal(path) as journal, pytest.raises(JournalDamaged, match="of log messages is not what was"):
        everything(journal)


def tamper(path: Path, statement: str) -> None:
    """Change the closed file behind the journal's back."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute(statement)
    database.execute("pragma wal_checkpoint(truncate)")
    database.close()


@pytest.mark.parametrize(
    "statement",
    [
        "update log_messages set weight = weight + 1 where key = 3",
        "update log_messages set weight = weight + (key = 3) - (key = 4)",
        "update log_messages set key = 1000 where key = 59",
        "delete from log_messages where key = 30",
        "delete from log_messages",
        "insert into log_messages values (77, 1, 2, x'00')",
        "update state set commits = commits + 1",
        "update state set logs = replace(logs, 'dead 1', 'dead 2')",
        "delete from state",
        "update about set value = 'x' where name = 'uuid'",
        "drop table log_marks",
        "create trigger t after insert on log_messages begin delete from log_messages; end",
        "create table log_more(x)",
    ],
)
def test_rows_or_totals_changed_by_others_are_noticed(path: Path, journal_bytes: bytes, statement: str) -> None:
    tamper(path, statement)
    with pytest.raises(JournalDamaged):
        look_closely(path)
    shutil.copy(path, path.with_name("copy.db"))
    with pytest.raises(JournalDamaged):
        look_closely(path.with_name("copy.db"))


def look_closely(path: Path) -> None:
    with SqliteJournal(path) as journal:
        journal.verify()


def test_verify_notices_rows_that_went_missing_in_a_log_too_long_to_count(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SqliteJournal(path) as journal:
        journal.commit(puts(range(1, 20)))
    tamper(path, "delete from log_messages where key = 5")
    monkeypatch.setattr("zmqkit.journal.sqlite.COUNT_UP_TO", 10)
    with SqliteJournal(path) as journal, pytest.raises(JournalDamaged, match="holds 18 rows, not 19"):
        journal.verify()
