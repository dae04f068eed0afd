"""Checking all of a journal, saving what is sound of a damaged one, and giving its room back."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.journal.faults import WRITE_ERROR, Disk, enospc
from tests.journal.helpers import change_watermark, delete, everything, keys, killed_owner, put, puts, python, tmpfs
from zmqkit.errors import (
    DuplicateInstance,
    JournalBusy,
    JournalDamaged,
    JournalError,
    JournalFull,
    JournalRolledBack,
    JournalVersion,
)
from zmqkit.journal import SqliteJournal, checking
from zmqkit.journal.checking import Report
from zmqkit.journal.compacting import compact
from zmqkit.journal.salvage import Get
from zmqkit.protocol.core import Row

ROWS = [Row(key, key % 7, random.Random(key).randbytes(key * 3 % 900)) for key in range(1, 60)]


def judge(log: str, row: Row, get: Get) -> str | None:
    """Knows of no pattern; but for one value that makes no sense."""
    return "nonsense" if row.value == b"nonsense" else None


def check(path: Path) -> Report:
    return checking.check(path, lambda kind: judge, lambda *_: None)


def repair(path: Path, to: Path, *, keep_uuid: bool | None = None) -> tuple[Report, str]:
    return checking.repair(path, to, lambda kind: judge, lambda *_: None, keep_uuid=keep_uuid)


def findings(report: Report) -> str:
    return "\n".join(map(str, report.damages))


@pytest.fixture
def journal_bytes(path: Path) -> bytes:
    """A closed journal with ROWS, and some free pages."""
    with SqliteJournal(path) as journal:
        journal.commit([put(row.key, row.value, weight=row.weight) for row in ROWS])
        journal.commit([put(1, bytes(60_000), log="dead")])
    return path.read_bytes()


# ---- checking --------------------------------------------------------------------


def test_a_sound_journal_is_said_to_be_and_is_left_as_it_is(path: Path, journal_bytes: bytes) -> None:
    before = {each: (path.parent / each).read_bytes() for each in os.listdir(path.parent)}
    report = check(path)
    assert report.sound
    assert (report.kind, report.holder) == ("pipeline", None)
    assert report.rows == {"messages": 59, "marks": 0, "dead": 1}
    assert report.weight["messages"] == sum(row.weight for row in ROWS)
    after = {each: (path.parent / each).read_bytes() for each in before}
    assert after == before


def test_how_far_it_is_is_told(path: Path) -> None:
    with SqliteJournal(path) as journal:
        journal.commit(puts(range(1, 2501)))
    told: list[tuple[str, int, int]] = []
    checking.check(path, lambda kind: judge, lambda *how: told.append(how))
    assert [each for each in told if each[0] == "messages"] == [("messages", 1000, 2500), ("messages", 2000, 2500)]


def test_a_killed_owner_leaves_a_sound_journal_and_its_log_is_read_too(path: Path) -> None:
    killed_owner(path, "journal.commit(puts(range(1, 200), bytes(500)))")
    wal = path.with_name("jobs.db-wal").read_bytes()
    report = check(path)
    assert report.sound
    assert report.rows["messages"] == 199
    assert path.with_name("jobs.db-wal").read_bytes() == wal


def test_what_is_no_journal_of_this_version_is_refused_as_when_it_is_opened(path: Path, journal_bytes: bytes) -> None:
    path.with_name("other.db").write_text("no journal")
    with pytest.raises(JournalVersion, match="is not a zmqkit journal"):
        check(path.with_name("other.db"))
    with pytest.raises(JournalError, match="there is no such journal"):
        check(path.with_name("nothing.db"))
    with pytest.raises(JournalError, match="is a directory"):
        check(path.parent)
    path.write_bytes(journal_bytes[:60] + (2).to_bytes(4, "big") + journal_bytes[64:])
    for look in (check, compact, lambda path: repair(path, path.with_name("new.db"))):
        with pytest.raises(JournalVersion, match="of format 2, and this zmqkit reads format 1"):
            look(path)
    assert sorted(os.listdir(path.parent)) == ["jobs.db", "jobs.db-reserve", "jobs.db.lock", "other.db"]


def tamper(path: Path, statement: str) -> None:
    """Change the closed file behind the journal's back."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute(statement)
    database.execute("pragma wal_checkpoint(truncate)")
    database.close()


@pytest.mark.parametrize(
    ("statement", "finding"),
    [
        ("update log_messages set weight = weight + 1 where key = 3", "log messages, key 3: the row is not what was"),
        ("update log_messages set key = 1000 where key = 59", "log messages, key 1000: the row is not"),
        ("delete from log_messages where key = 30", "log messages: holds 58 sound rows for 172 messages, and should"),
        ("delete from log_messages", "log messages: holds 0 sound rows for 0 messages, and should hold 59 for 174"),
        ("update state set commits = commits + 1", "its state row cannot be read: its state row is not what was"),
        ("update state set logs = 'x'", "its state row cannot be read"),
        ("delete from state", "its state row cannot be read"),
        ("update about set value = 'x' where name = 'uuid'", "what it says about itself cannot be read"),
        ("delete from about", "what it says about itself cannot be read"),
        ("drop table log_marks", "its tables are not those of its logs: CREATE TABLE log_marks"),
        ("create table log_more(x)", "its tables are not those of its logs: CREATE TABLE log_more"),
        ("create trigger t after insert on log_messages begin delete from log_messages; end", "CREATE TRIGGER t"),
    ],
)  # fmt: skip
def test_what_others_changed_is_found_and_the_rest_is_looked_at(
    path: Path, journal_bytes: bytes, statement: str, finding: str
) -> None:
    tamper(path, statement)
    report = check(path)
    assert finding in findings(report)
    assert report.rows["dead"] == 1


def test_rows_that_make_no_sense_or_lie_beyond_the_highest_key_are_named(path: Path) -> None:
    with SqliteJournal(path) as journal:
        journal.commit([put(1), put(2, b"nonsense"), put(3), put(4)])
    tamper(path, "update log_messages set key = 9, crc = 0 where key = 4")
    report = check(path)
    assert "log messages, key 2: nonsense" in findings(report)
    assert "log messages, key 9: the row is not what was written" in findings(report)
    assert report.unsound == {"messages": 2}


def test_a_lost_tail_is_a_finding(path: Path) -> None:
    killed_owner(path, "for key in range(1, 9):\n    journal.commit([put(key, bytes(3000))])")
    wal = path.with_name("jobs.db-wal")
    wal.write_bytes(wal.read_bytes()[:-1])
    assert "it has lost its last 1 commits of 9 (with them, whatever was put under keys 8 to 8" in findings(check(path))
    beside = path.with_name("jobs.db.lock")
    beside.write_bytes(beside.read_bytes()[:600] + b"?" + beside.read_bytes()[601:])
    assert "its sidecar (.lock) is not what was written" in findings(check(path))


def test_more_findings_than_anybody_reads_are_counted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "MOST_DAMAGES", 10)
    with SqliteJournal(path) as journal:
        journal.commit(puts(range(1, 51), b"nonsense"))
    report = check(path)
    assert (len(report.damages), report.more) == (10, 41)
    assert report.unsound == {"messages": 50}


# ---- of a live journal -----------------------------------------------------------

OWNER = """
import os, sys
from tests.journal.helpers import *
from zmqkit.journal import SqliteJournal
journal = SqliteJournal(sys.argv[1], durability="process")
journal.commit(puts(range(1, 300), bytes(500)))
print("open", flush=True)
key = 1000
for line in sys.stdin:
    key += 1
    journal.commit([put(key, bytes(int(line)))])
    print("done", flush=True)
journal.close()
"""


class Owner:
    """A live journal of another process."""

    def __init__(self, path: Path) -> None:
        self.process = python(OWNER, path)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "open\n"

    def commit(self, size_bytes: int) -> None:
        """One row more."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(size_bytes, file=self.process.stdin, flush=True)
        assert self.process.stdout.readline() == "done\n"


@pytest.fixture
def owner(path: Path) -> Iterator[Owner]:
    owner = Owner(path)
    with owner.process:
        yield owner
        assert owner.process.stdin is not None
        owner.process.stdin.close()
        assert owner.process.wait(50) == 0


def test_a_live_journal_is_looked_at_from_outside_and_its_owner_notices_nothing(path: Path, owner: Owner) -> None:
    report = check(path)
    assert report.sound
    assert report.holder is not None
    assert report.holder.pid == owner.process.pid
    assert report.rows["messages"] == 299
    # What is stored while it is looked at is not in the picture, and not in its way.
    rows = [0]

    def store_more(log: str, row: Row, get: Get) -> None:
        rows[0] += 1
        if rows[0] == 100:
            owner.commit(5000)

    report = checking.check(path, lambda kind: store_more, lambda *_: None)
    assert report.sound
    assert report.rows["messages"] == 299
    assert check(path).rows["messages"] == 300
    with pytest.raises(JournalBusy):
        repair(path, path.with_name("new.db"))
    with pytest.raises(JournalBusy):
        compact(path)
    assert sorted(os.listdir(path.parent)) == ["jobs.db", "jobs.db-reserve", "jobs.db-wal", "jobs.db.lock"]


def test_a_picture_that_its_owner_changed_meanwhile_does_not_count(
    path: Path, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "_PAUSE_S", 0.1)
    tries = [0]

    def carry_over(log: str, row: Row, get: Get) -> None:
        if row.key == 100:
            tries[0] += 1
            if tries[0] <= limit:
                owner.commit(6_000_000)  # so much that the log is carried over into the database

    limit = 2
    report = checking.check(path, lambda kind: carry_over, lambda *_: None)
    assert report.sound
    assert report.rows["messages"] == 301
    limit = 10**6
    with pytest.raises(JournalBusy, match=r"is in use by process \d+ .* who changed it each of the 5 times"):
        checking.check(path, lambda kind: carry_over, lambda *_: None)


def test_a_check_keeps_no_owner_out_and_leaves_nothing_behind(path: Path, journal_bytes: bytes) -> None:
    owners: list[Owner] = []

    def open_it(log: str, row: Row, get: Get) -> None:
        if row.key == 30 and not owners:
            owners.append(Owner(path))  # which adds rows: so what was seen before does not count

    before = sorted(os.listdir(path.parent))
    assert check(path).sound
    assert sorted(os.listdir(path.parent)) == before
    report = checking.check(path, lambda kind: open_it, lambda *_: None)
    assert report.sound
    assert report.holder is not None
    assert report.rows["messages"] == 299
    with owners[0].process as process:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(50) == 0


def test_an_owner_that_closes_at_this_very_moment_is_no_damage(
    path: Path, journal_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "_PAUSE_S", 0.0)
    exists = os.path.exists
    answers = [True]  # the log was there when it was looked for, and is gone when it is opened

    def was_there(name: str) -> bool:
        return exists(name) or (name.endswith("-wal") and bool(answers and answers.pop()))

    monkeypatch.setattr("zmqkit.journal.still.os.path.exists", was_there)
    assert check(path).sound
    assert not answers


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_we_may_not_read_is_not_called_damaged(path: Path, journal_bytes: bytes) -> None:
    path.chmod(0)
    with pytest.raises(JournalError, match="cannot be read: Permission denied"):
        check(path)


def test_a_journal_that_this_very_process_has_open_is_not_touched(path: Path) -> None:
    with SqliteJournal(path) as journal:
        journal.commit([put(1)])
        with pytest.raises(JournalBusy, match="this very process"):
            check(path)
        journal.commit([put(2)])


# ---- saving what is sound --------------------------------------------------------


def test_a_sound_journal_is_copied_whole_and_is_another_one(path: Path, journal_bytes: bytes) -> None:
    new = path.with_name("new.db")
    report, uuid = repair(path, new)
    assert report.sound
    assert path.read_bytes() == journal_bytes
    with SqliteJournal(path) as old, SqliteJournal(new) as copy:  # both at a time: they are two
        assert everything(copy) == everything(old) == ROWS
        assert copy.uuid == uuid != old.uuid
        assert copy.highest("messages") == 59
        copy.verify()


def test_a_copy_that_keeps_the_uuid_takes_the_old_ones_place(path: Path, journal_bytes: bytes) -> None:
    new = path.with_name("new.db")
    _, uuid = repair(path, new, keep_uuid=True)
    with SqliteJournal(path) as old:
        assert old.uuid == uuid
        with pytest.raises(DuplicateInstance):
            SqliteJournal(new)
    new.unlink()
    for leftover in path.parent.glob("new.db?*"):
        leftover.unlink()
    repair(path, new, keep_uuid=True)
    new.rename(path)  # also under its name, beside its sidecar: it looks like no older copy
    with SqliteJournal(path) as journal:
        assert journal.uuid == uuid
        assert everything(journal) == ROWS


def test_a_clients_journal_is_only_repaired_by_who_chooses(path: Path) -> None:
    SqliteJournal(path, kind="client", logs=("requests",)).close()
    new = path.with_name("new.db")
    with pytest.raises(ValueError, match="--keep-uuid, and never open the damaged one"):
        repair(path, new)
    assert not new.exists()
    repair(path, new, keep_uuid=True)
    assert new.exists()


def test_nothing_that_is_there_is_overwritten(path: Path, journal_bytes: bytes) -> None:
    for name in ("new.db", "other.db-wal", "third.db.lock"):
        path.with_name(name).write_bytes(b"precious")
        with pytest.raises(JournalError, match=r"is there already: name a file that is not"):
            repair(path, path.with_name(name.partition(".")[0] + ".db"))
        assert path.with_name(name).read_bytes() == b"precious"
    with pytest.raises(JournalError, match="there is no directory"):
        repair(path, path.parent / "nowhere" / "new.db")
    with pytest.raises(JournalError, match="is there already"):
        repair(path, path)


def test_unsound_rows_are_left_out_and_named_and_no_number_is_given_twice(path: Path) -> None:
    with SqliteJournal(path) as journal:
        journal.commit([*puts(range(1, 10)), put(10, b"nonsense"), put(11)])
    tamper(path, "update log_messages set value = x'01' where key = 11")
    new = path.with_name("new.db")
    report, _ = repair(path, new)
    assert "log messages, key 10: nonsense" in findings(report)
    assert "log messages, key 11: the row is not what was written" in findings(report)
    with SqliteJournal(new) as copy:
        assert keys(copy) == list(range(1, 10))
        assert copy.highest("messages") == 11
    for statement in ("delete from state", "drop table epochs"):
        tamper(path, statement)
    new.unlink()
    new.with_name("new.db.lock").unlink()
    change_watermark(path, highest={"messages": 4711})
    repair(path, new, keep_uuid=True)
    with SqliteJournal(new) as copy:
        assert copy.highest("messages") > 4711


def test_pages_that_cannot_be_read_are_stepped_over(path: Path) -> None:
    with SqliteJournal(path) as journal:
        journal.commit([put(key, random.Random(key).randbytes(300), weight=100) for key in range(100, 200_100, 100)])
        journal.commit([put(7, b"letter", log="dead")])
    content = bytearray(path.read_bytes())
    pages = range(1, len(content) // 4096)
    leaves = [page for page in pages if content[page * 4096] == 13 and _rows_on(content, page) > 5]
    hurt = sorted(random.Random(2).sample(leaves, 8))
    gone = sum(_rows_on(content, page) for page in hurt)
    for page in hurt:
        content[page * 4096 : page * 4096 + 2] = b"\xff\xff"
    path.write_bytes(content)
    with pytest.raises(JournalDamaged):
        SqliteJournal(path)
    report = check(path)
    assert not report.sound
    assert report.rows["messages"] == 2000 - gone
    spans = [damage for damage in report.damages if damage.log == "messages" and damage.rows is None]
    assert 1 <= len(spans) <= 8
    new = path.with_name("new.db")
    repaired, _ = repair(path, new)
    assert repaired.rows == report.rows
    with SqliteJournal(new) as copy:
        assert copy.verify() == 2000 - gone + 1
        assert keys(copy, "dead") == [7]
        lost = set(range(100, 200_100, 100)) - set(keys(copy))
        assert all(any(span.first <= key <= span.last for span in spans) for key in lost)
        assert copy.highest("messages") == 200_000


def _rows_on(content: bytearray, page: int) -> int:
    return int.from_bytes(content[page * 4096 + 3 : page * 4096 + 5], "big")


def test_a_file_of_which_nothing_can_be_read_is_said_to_be(path: Path, journal_bytes: bytes) -> None:
    path.write_bytes(journal_bytes[:100] + bytes(len(journal_bytes) - 100))
    assert not check(path).sound
    with pytest.raises(JournalDamaged, match="damaged beyond repair"):
        repair(path, path.with_name("new.db"))
    path.write_bytes(b"")
    assert not check(path).sound
    assert not path.with_name("new.db").exists()


@settings(
    max_examples=60, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(data=st.data())
def test_whatever_is_torn_or_flipped_a_copy_holds_only_what_was_written(
    path: Path, journal_bytes: bytes, data: st.DataObject
) -> None:
    content = bytearray(journal_bytes)
    for _ in range(data.draw(st.integers(1, 6), "hurts")):
        kind = data.draw(st.sampled_from(["flip", "tear", "swap", "cut"]), "kind")
        sector = data.draw(st.integers(0, max(0, len(content) // 512 - 1)), "sector") * 512
        if kind == "flip" and content:
            place = data.draw(st.integers(0, len(content) - 1), "place")
            content[place] ^= 1 << data.draw(st.integers(0, 7), "bit")
        elif kind == "tear":
            content[sector : sector + 512] = bytes(len(content[sector : sector + 512]))
        elif kind == "swap":
            content[sector : sector + 512] = content[:512]
        else:
            del content[sector:]
    for leftover in path.parent.iterdir():
        if leftover.name != "jobs.db.lock":
            leftover.unlink()
    path.write_bytes(content)
    new = path.with_name("new.db")
    new.with_name("new.db.lock").unlink(missing_ok=True)
    try:
        report = check(path)
        repaired, _ = repair(path, new)
    except (JournalVersion, JournalDamaged):
        return  # not even what it is can be read
    assert repaired.rows == report.rows
    if bytes(content) == journal_bytes:
        assert report.sound
    with SqliteJournal(new) as copy:
        assert set(everything(copy)) <= set(ROWS)
        copy.verify()
        if report.sound:
            assert everything(copy) == ROWS
    assert path.read_bytes() == bytes(content)


def test_a_copy_for_which_there_is_no_room_leaves_nothing(path: Path, tmp_path: Path) -> None:
    with SqliteJournal(path) as journal:
        journal.commit(puts(range(1, 200), bytes(20_000)))
    small = tmp_path / "small"
    small.mkdir()
    with tmpfs(small, "1m"):
        with pytest.raises(JournalFull, match="no room on the disk for the copy; nothing was left there"):
            repair(path, small / "new.db")
        assert list(small.iterdir()) == []


# ---- giving room back ------------------------------------------------------------


def scattered(path: Path) -> list[Row]:
    """A closed journal with pages that are mostly empty; what it holds."""
    with SqliteJournal(path, durability="process") as journal:
        for first in range(1, 10_000, 500):
            journal.commit(puts(range(first, first + 500), bytes(250)))
        journal.commit([delete(key) for key in range(1, 10_000) if key % 3])
        return everything(journal)


def test_compacting_gives_room_back_and_changes_nothing_else(path: Path) -> None:
    rows = scattered(path)
    with SqliteJournal(path) as journal:
        uuid, highest = journal.uuid, journal.highest("messages")
    size = path.stat().st_size
    found = compact(path)
    assert (found.before_bytes, found.in_place) == (size, False)
    assert found.after_bytes == path.stat().st_size < size * 0.95
    assert check(path).sound
    with SqliteJournal(path) as journal:
        assert everything(journal) == rows
        assert (journal.uuid, journal.highest("messages")) == (uuid, highest)
        journal.commit([put(20_000)])
        journal.verify()
    assert sorted(os.listdir(path.parent)) == ["jobs.db", "jobs.db-reserve", "jobs.db.lock"]


def test_compacting_takes_in_what_a_killed_owner_left_in_the_log(path: Path) -> None:
    killed_owner(path, "journal.commit(puts(range(1, 200), bytes(500)))")
    compact(path)
    assert not path.with_name("jobs.db-wal").exists()
    with SqliteJournal(path) as journal:
        assert keys(journal) == list(range(1, 200))


def test_a_copy_of_an_open_journal_a_damaged_one_and_an_older_one_are_not_compacted(path: Path) -> None:
    rows = scattered(path)
    content = path.read_bytes()
    away = path.with_name("away.db")
    shutil.copy(path, away)
    with SqliteJournal(path):
        with pytest.raises(DuplicateInstance):
            compact(away)
        with pytest.raises(JournalBusy):
            compact(path)
    with SqliteJournal(path) as journal:
        journal.commit([put(20_000)])
    path.write_bytes(content)
    with pytest.raises(JournalRolledBack):
        compact(path)
    path.with_name("jobs.db.lock").unlink()
    for broken in (content[:9000], content[:5000] + bytes(3000) + content[8000:]):
        path.write_bytes(broken)
        with pytest.raises(JournalDamaged):
            compact(path)
        assert path.read_bytes() == broken
    with pytest.raises(JournalError, match="there is no such journal"):
        compact(path.with_name("nothing.db"))
    with pytest.raises(JournalError, match="is a directory"):
        compact(path.parent)
    path.write_bytes(content)
    compact(path)
    with SqliteJournal(path) as journal:
        assert everything(journal) == rows


@pytest.mark.parametrize("error", [enospc, WRITE_ERROR])
def test_a_disk_that_fails_while_compacting_leaves_the_journal_as_it_was(path: Path, disk: Disk, error: object) -> None:
    rows = scattered(path)
    for after in (0, 1, 5, 50, 200):
        disk.fail("write", error, files="-new", after=after)  # type: ignore[arg-type]
        hits = disk.hits
        with pytest.raises(JournalError):
            compact(path, vfs=disk.name)
        assert disk.hits > hits
        disk.heal()
        assert not path.with_name("jobs.db-new").exists()
        with SqliteJournal(path) as journal:
            assert everything(journal) == rows
    compact(path, vfs=disk.name)
    with SqliteJournal(path) as journal:
        assert everything(journal) == rows


def test_on_a_disk_without_room_for_two_it_is_compacted_in_place(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    with tmpfs(small, "12m"):
        path = small / "jobs.db"
        with SqliteJournal(path, durability="process", reserve_bytes=0) as journal:
            journal.commit(puts(range(1, 100), bytes(20_000)))
            journal.commit(puts(range(100, 220), bytes(20_000)))
        (small / "stuff").write_bytes(bytes(5 << 20))
        found = compact(path)
        assert found.in_place
        with SqliteJournal(path, reserve_bytes=0) as journal:
            assert len(keys(journal)) == 219
