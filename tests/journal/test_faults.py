"""A disk that fails: what was confirmed is there, what was refused is not, and what cannot be known is said so."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from tests.journal.faults import READ_ERROR, SYNC_ERROR, WRITE_ERROR, Disk, Kind, Outcome, enospc
from tests.journal.helpers import delete, everything, keys, put, puts, tmpfs
from zmqkit.errors import CommitIndeterminate, JournalDamaged, JournalError, JournalFull
from zmqkit.journal import SqliteJournal, Totals

Error = Callable[[], Exception]


@pytest.fixture
def path(memory_path: Path) -> Path:
    """The disk that fails sees each sync, and nobody need wait for it."""
    return memory_path / "jobs.db"


def test_a_commit_whose_sync_failed_but_that_is_there_is_confirmed_after_it_was_synced_anew(
    path: Path, disk: Disk
) -> None:
    with SqliteJournal(path, vfs=disk.name) as journal:
        journal.commit([put(1)])
        disk.fail("sync", SYNC_ERROR, files="-wal")
        disk.calls.clear()
        journal.commit([put(2)])
        assert disk.hits == 1
        failed = disk.calls.index(("sync", f"{path}-wal"))
        later = disk.calls[failed + 1 :]
        # Carried over into the database and synced there, all of it through handles opened since.
        opened = later.index(("open", str(path)))
        assert ("sync", str(path)) not in later[:opened]
        assert ("sync", f"{path}-wal") not in later[:opened]
        assert later.index(("sync", str(path))) > later.index(("write", str(path))) > opened
        assert keys(journal) == [1, 2]
        journal.commit([put(3)])
        epoch = journal.epoch
    with SqliteJournal(path) as journal:
        assert keys(journal) == [1, 2, 3]
        assert journal.epoch != epoch
        assert journal.verify() == 3


def test_a_commit_that_was_not_written_is_refused_and_the_journal_goes_on(path: Path, disk: Disk) -> None:
    with SqliteJournal(path, vfs=disk.name) as journal:
        journal.commit([put(1)])
        disk.fail("write", WRITE_ERROR, files="-wal")
        with pytest.raises(JournalError, match="not stored, the disk failed") as refusal:
            journal.commit([put(2), delete(1)])
        assert type(refusal.value) is JournalError
        assert keys(journal) == [1]
        assert journal.totals("messages") == Totals(1, 1, 1, 1)
        assert journal.highest("messages") == 1
        journal.commit([put(2)])
        assert keys(journal) == [1, 2]
    with SqliteJournal(path) as journal:
        assert keys(journal) == [1, 2]


def test_a_commit_of_which_nothing_can_be_learnt_is_indeterminate_and_the_last(path: Path, disk: Disk) -> None:
    journal = SqliteJournal(path, vfs=disk.name)
    journal.commit([put(1)])
    disk.fail("sync", SYNC_ERROR, files="-wal", times=10**6)
    disk.fail("sync", SYNC_ERROR, files="jobs.db", times=10**6)
    with pytest.raises(CommitIndeterminate, match=r"looking whether it is stored failed too.*open the journal again"):
        journal.commit([put(2)])
    disk.heal()
    for use in (lambda: journal.commit([put(3)]), lambda: everything(journal), lambda: journal.totals("messages")):
        with pytest.raises(CommitIndeterminate):
            use()
    journal.close()
    with SqliteJournal(path) as journal:
        assert keys(journal) in ([1], [1, 2])
        journal.commit([put(3)])


def test_a_disk_that_is_gone_is_indeterminate(path: Path, disk: Disk) -> None:
    journal = SqliteJournal(path, vfs=disk.name)
    disk.fail("write", WRITE_ERROR, times=10**6)
    disk.fail("open", READ_ERROR, times=10**6)
    with pytest.raises(CommitIndeterminate):
        journal.commit([put(2)])
    journal.close()
    with SqliteJournal(path) as journal:
        assert keys(journal) == []


def test_a_file_that_was_exchanged_meanwhile_is_not_taken_for_ours(path: Path, disk: Disk) -> None:
    with SqliteJournal(path) as journal:
        journal.commit([put(1)])
    other = path.with_name("other.db")
    other.write_bytes(path.read_bytes())
    with SqliteJournal(other) as journal:  # the same journal, so many commits, another owner
        journal.commit([put(7)])
    journal = SqliteJournal(path, vfs=disk.name)
    journal.commit([put(2)])

    def exchange() -> Exception:
        path.unlink()
        path.with_name("jobs.db-wal").unlink()
        other.rename(path)
        return SYNC_ERROR()

    disk.fail("sync", exchange, files="-wal")
    with pytest.raises(CommitIndeterminate):
        journal.commit([put(3)])
    journal.close()


class InterruptedJournal(SqliteJournal):
    """Ctrl-C comes at the worst moment: the commit is made, and Python does not know it yet."""

    interrupt = False

    def _note_wal_pages(self, connection: apsw.Connection, database: str, pages: int) -> int:
        if self.interrupt:
            self.interrupt = False
            raise KeyboardInterrupt
        return super()._note_wal_pages(connection, database, pages)


def test_an_interrupt_leaves_the_journal_usable_and_right(path: Path) -> None:
    with InterruptedJournal(path) as journal:
        journal.commit([put(1)])
        journal.interrupt = True
        with pytest.raises(KeyboardInterrupt):
            journal.commit([*puts([2, 3, 4]), delete(1)])
        assert keys(journal) == [2, 3, 4]
        assert journal.totals("messages") == Totals(3, 3, 2, 4)
        assert journal.highest("messages") == 4
        journal.commit([put(5)])
    with SqliteJournal(path) as journal:
        assert keys(journal) == [2, 3, 4, 5]
        journal.verify()


FAULTS: list[tuple[Kind, Error, str]] = [
    ("write", enospc, "-wal"),
    ("write", WRITE_ERROR, "-wal"),
    ("sync", SYNC_ERROR, "-wal"),
    ("write", enospc, "jobs.db"),
    ("write", WRITE_ERROR, "jobs.db"),
    ("sync", SYNC_ERROR, "jobs.db"),
    ("read", READ_ERROR, ""),
    ("truncate", WRITE_ERROR, ""),
    ("open", READ_ERROR, ""),
]


@pytest.mark.parametrize("outcome", ["done", "not done"])
@pytest.mark.parametrize(("kind", "error", "files"), FAULTS, ids=lambda value: getattr(value, "__name__", str(value)))
@pytest.mark.parametrize("times", [1, 3])
def test_whatever_fails_the_journal_holds_what_it_said(
    path: Path,
    disk: Disk,
    kind: Kind,
    error: Error,
    files: str,
    outcome: Outcome,
    times: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each fault strikes at many moments; after each the truth is read by a fresh journal on a sound disk."""
    monkeypatch.setattr("zmqkit.journal.layout.WAL_PAGES", 40)
    struck = 0
    for after in (0, 1, 2, 3, 5, 8, 13, 21):
        for leftover in path.parent.iterdir():
            leftover.unlink()
        struck += run_on_a_failing_disk(path, disk, kind, error, files, outcome, after, times)
    # Between two failures the journal holds its file open, and gives nothing back that it may need again.
    assert struck or kind in ("open", "truncate")


def run_on_a_failing_disk(
    path: Path, disk: Disk, kind: Kind, error: Error, files: str, outcome: Outcome, after: int, times: int
) -> int:
    before = disk.hits
    confirmed: set[int] = set()
    doubtful: set[int] = set()
    journal = SqliteJournal(path, vfs=disk.name, reserve_bytes=0)
    disk.fail(kind, error, files=files, outcome=outcome, after=after, times=times)
    journal_is_usable = True
    for key in range(1, 30):
        writes = [put(key, bytes(40_000 * (key % 3)))]
        gone = {key - 5} & confirmed if key % 2 else set()
        writes += [delete(old) for old in gone]
        try:
            journal.commit(writes)
        except CommitIndeterminate:
            doubtful = {key} | gone
            journal_is_usable = False
            break
        except JournalError:
            pass
        else:
            confirmed = confirmed - gone | {key}
        if journal_is_usable:
            disk_fails = disk.hits - before < times
            try:
                assert set(keys(journal)) == confirmed
            except JournalError:
                assert disk_fails or kind == "read"
    disk.heal()
    try:
        journal.close()
    finally:
        with SqliteJournal(path) as judge:
            found = set(keys(judge))
            assert found - doubtful == confirmed - doubtful, (kind, files, outcome, after)
            judge.verify()
    return disk.hits - before


def test_a_commit_that_was_refused_does_not_come_back_after_a_crash(path: Path, disk: Disk) -> None:
    """The write of the commit is carried out, and yet reported as failed: by then it lies in the log."""
    for error, after in itertools.product((enospc, WRITE_ERROR), range(12)):
        for leftover in path.parent.iterdir():
            leftover.unlink()
        journal = SqliteJournal(path, vfs=disk.name, reserve_bytes=0)
        journal.commit([put(1)])
        disk.fail("write", error, files="-wal", outcome="done", after=after)
        confirmed = [1]
        for key in (2, 3):
            try:
                journal.commit([put(key)])
            except JournalError:
                break
            confirmed.append(key)
        # A crash: what is on the disk now, without any of the tidying.
        disk.heal()
        copy = path.with_name("copy.db")
        for suffix in ("", "-wal"):
            copy.with_name(copy.name + suffix).write_bytes(path.with_name(path.name + suffix).read_bytes())
        journal.close()
        with SqliteJournal(copy) as judge:
            assert keys(judge) == confirmed


def test_a_page_that_turns_out_damaged_ends_the_journal_by_name(path: Path) -> None:
    with SqliteJournal(path) as journal:
        for first in range(1, 20_000, 1000):
            journal.commit(puts(range(first, first + 1000), bytes(1000)))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2 // 4096
    content[middle * 4096 : (middle + 2) * 4096] = bytes(8192)
    path.write_bytes(content)
    with pytest.raises(JournalDamaged):
        SqliteJournal(path)


# ---- full ------------------------------------------------------------------------


def test_a_full_disk_is_said_and_nothing_is_stored(path: Path, disk: Disk) -> None:
    with SqliteJournal(path, vfs=disk.name, reserve_bytes=0) as journal:
        journal.commit([put(1)])
        disk.fail("write", enospc, files="-wal", times=10**6)
        for _ in range(3):
            with pytest.raises(JournalFull, match=r"no room on the disk for storing.*Make room there"):
                journal.commit([put(2), put(3, log="dead")])
        assert keys(journal) == [1]
        assert keys(journal, "dead") == []
        assert journal.highest("messages") == 1
        disk.heal()
        journal.commit([put(2)])
        assert keys(journal) == [1, 2]
    with SqliteJournal(path) as journal:
        assert keys(journal) == [1, 2]


def fill(journal: SqliteJournal, first: int) -> int:
    """Put rows until the disk is full; the first key that did not go in."""
    for key in range(first, first + 10_000):
        try:
            journal.commit([put(key, bytes(20_000))])
        except JournalFull:
            return key
    raise AssertionError("the disk never filled")


def test_on_a_really_full_disk_deletes_go_on_and_storing_resumes_by_itself(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    with tmpfs(folder, "32m"):
        path = folder / "jobs.db"
        with SqliteJournal(path) as journal:
            end = fill(journal, 1)
            assert end > 300
            with pytest.raises(JournalFull):
                journal.commit([put(end, bytes(20_000))])
            assert keys(journal) == list(range(1, end))
            for key in range(1, end - 10):
                journal.commit([delete(key), put(key, b"acked", log="marks")] if key % 50 == 0 else [delete(key)])
            assert keys(journal) == list(range(end - 10, end))
            # And round again: nothing has to be restarted, and the reserve is there again.
            second = fill(journal, end)
            assert second - end > 300
            for key in range(end - 10, second):
                journal.commit([delete(key)])
            journal.commit(puts(range(second, second + 100)))
        with SqliteJournal(path) as journal:
            assert keys(journal) == list(range(second, second + 100))
            journal.verify()


def test_on_a_full_disk_the_room_of_the_log_itself_is_used_again(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    path = folder / "jobs.db"
    with tmpfs(folder, "32m"):
        with SqliteJournal(path, reserve_bytes=0) as journal:  # afterwards the database has all the pages it needs
            journal.commit([put(1, bytes(20_000))])
            journal.commit([put(1, bytes(20_000))])
        with SqliteJournal(path, reserve_bytes=0) as journal:
            for step in range(50):
                journal.commit([put(1, bytes(20_000), weight=step)])
            stuff_the_disk(folder)
            for step in range(50, 1000):
                journal.commit([put(1, bytes(20_000), weight=step)])
            with pytest.raises(JournalFull):
                journal.commit(puts(range(2, 1000), bytes(20_000)))
            assert journal.totals("messages") == Totals(1, 999, 1, 1)


def test_a_journal_on_a_full_disk_opens_and_can_be_emptied(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    with tmpfs(folder, "32m"):
        path = folder / "jobs.db"
        with SqliteJournal(path) as journal:
            end = fill(journal, 1)
        with SqliteJournal(path) as journal:
            for key in range(1, end // 2):
                journal.commit([delete(key)])
        assert not path.with_name("jobs.db-wal").exists()
        stuff_the_disk(folder)
        with SqliteJournal(path) as journal:  # there is no room but the reserve
            assert journal.totals("messages").first_key == end // 2
            for key in range(end // 2, end):
                journal.commit([delete(key)])
        with SqliteJournal(path) as journal:
            assert journal.totals("messages").rows == 0


def stuff_the_disk(folder: Path) -> None:
    with open(folder / "stuff", "wb", buffering=0) as file:
        size = 1 << 20
        while size:
            try:
                if not file.write(bytes(size)):
                    size //= 2
            except OSError:
                size //= 2


def test_a_new_journal_on_a_full_disk_is_refused_and_leaves_nothing_half_made(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    with tmpfs(folder, "1m"):
        stuff_the_disk(folder)
        with pytest.raises(JournalFull, match="no room on the disk for opening"):
            SqliteJournal(folder / "jobs.db")
        assert sorted(file.name for file in folder.iterdir()) == ["jobs.db.lock", "stuff"]
        (folder / "stuff").unlink()
        with SqliteJournal(folder / "jobs.db") as journal:
            journal.commit([put(1)])


def test_at_durability_process_only_what_was_asked_for_is_synced(path: Path, disk: Disk) -> None:
    with SqliteJournal(path, durability="process", vfs=disk.name) as journal:
        disk.calls.clear()
        journal.commit([put(1)])
        assert not [file for kind, file in disk.calls if kind == "sync"]
        journal.sync()
        assert disk.calls.index(("sync", f"{path}-wal")) < disk.calls.index(("sync", str(path)))


def test_who_asks_for_a_sync_is_told_that_it_failed(path: Path, disk: Disk) -> None:
    with SqliteJournal(path, durability="process", vfs=disk.name) as journal:
        journal.commit([put(1)])
        disk.fail("sync", SYNC_ERROR)
        with pytest.raises(JournalError, match="could not be synced"):
            journal.sync()
        assert keys(journal) == [1]
