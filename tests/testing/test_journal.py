"""The simulated journal keeps what it says it keeps. (Its interface is held by the conformance tests of journals.)"""

from __future__ import annotations

import pytest

from zmqkit.errors import CommitIndeterminate, JournalBusy, JournalDamaged, JournalError, JournalFull
from zmqkit.options import Durability
from zmqkit.protocol.core import Read, Row, Write
from zmqkit.testing.journal import Disk, SimulatedCrash, SimulatedJournal


def put(key: int, value: bytes | None = b"v", *, weight: int = 1) -> Write:
    return Write("messages", key, weight, value)


def keys(disk: Disk) -> list[int]:
    return [row.key for row in disk.rows("messages")]


def test_rows_survive_a_reopening_and_the_epoch_does_not():
    disk = Disk("d")
    first = SimulatedJournal(disk)
    first.commit([put(1, weight=5), put(3), put(2)])
    first.commit([put(3, None)])
    with pytest.raises(JournalBusy):
        SimulatedJournal(disk)
    first.close()
    second = SimulatedJournal(disk)
    assert second.uuid == first.uuid
    assert second.epoch != first.epoch
    assert second.totals("messages") == (2, 6, 1, 2)
    assert second.highest("messages") == 3
    assert second.read(Read("messages", 2, 9, 10)) == [Row(2, 1, b"v")]
    with pytest.raises(JournalError, match="closed"):
        first.commit([put(9)])


def test_a_read_stops_at_the_row_that_reaches_the_size():
    journal = SimulatedJournal(Disk("d"))
    journal.commit([put(key, b"12345") for key in range(1, 6)])
    assert [row.key for row in journal.read(Read("messages", 1, 5, 10))] == [1, 2]
    assert [row.key for row in journal.read(Read("messages", 4, 5, 1))] == [4]
    assert journal.read(Read("messages", 6, 9, 1)) == []


def test_a_commit_is_refused_whole():
    journal = SimulatedJournal(Disk("d"))
    with pytest.raises(ValueError, match="no log is named"):
        journal.commit([put(1), Write("nowhere", 1, 1, b"")])
    with pytest.raises(ValueError, match="keys go from 1"):
        journal.commit([put(1), put(0)])
    assert journal.totals("messages").rows == 0


def test_a_full_disk_takes_deletes_only():
    disk = Disk("d")
    journal = SimulatedJournal(disk)
    journal.commit([put(1)])
    disk.full = True
    with pytest.raises(JournalFull):
        journal.commit([put(2)])
    journal.commit([put(1, None)])
    assert keys(disk) == []
    disk.full = False
    journal.commit([put(2)])
    assert keys(disk) == [2]


@pytest.mark.parametrize(("fate", "kept"), [("unknown", []), ("unknown, stored", [1])])
def test_an_unknown_outcome_ends_the_journals_use(fate, kept):
    disk = Disk("d")
    journal = SimulatedJournal(disk)
    disk.fates[1] = fate
    with pytest.raises(CommitIndeterminate):
        journal.commit([put(1)])
    assert not journal.usable
    assert journal.open
    with pytest.raises(JournalError):
        journal.commit([put(2)])
    assert keys(disk) == kept


def test_an_error_stores_nothing_and_passes():
    disk = Disk("d")
    journal = SimulatedJournal(disk)
    disk.fates[1] = "error"
    with pytest.raises(JournalError):
        journal.commit([put(1)])
    journal.commit([put(2)])
    assert keys(disk) == [2]


def test_a_crash_is_not_an_exception_that_anybody_would_catch():
    disk = Disk("d")
    disk.fates[1] = "crash before"
    with pytest.raises(SimulatedCrash):
        SimulatedJournal(disk).commit([put(1)])
    assert not issubclass(SimulatedCrash, Exception)


@pytest.mark.parametrize(("durability", "lost"), [("power", 0), ("process", 2), ("memory", 2)])
def test_a_power_cut_takes_the_last_commits_unless_they_were_synced(durability, lost):
    disk = Disk("d", durability=durability)
    journal = SimulatedJournal(disk)
    for key in (1, 2, 3):
        journal.commit([put(key)])
    journal.commit([put(1, None), put(2, b"new")])
    assert disk.cut_power(2) == lost
    assert keys(disk) == ([2, 3] if not lost else [1, 2])
    assert disk.table("messages").highest == (2 if lost else 3)
    assert disk.rows("messages")[0 if not lost else 1].value == (b"v" if lost else b"new")


def torn(*, durability: Durability = "power") -> Disk:
    """A disk that has lost one of three commits."""
    disk = Disk("d", durability=durability)
    disk.may_lie = True
    journal = SimulatedJournal(disk)
    for key in (1, 2, 3):
        journal.commit([put(key)])
    journal.close()
    disk.lying = True
    assert disk.cut_power(1) == 1
    return disk


def test_a_disk_that_lied_loses_what_was_synced_and_the_next_open_says_so():
    disk = torn()
    for _ in range(2):
        with pytest.raises(JournalDamaged, match="lost its last 1 commits of 3"):
            SimulatedJournal(disk)
    assert keys(disk) == [1, 2]
    assert disk.owner is None


def test_a_replaced_journal_is_an_empty_one_with_another_uuid():
    disk = torn()
    before = disk.uuid
    disk.replace()
    journal = SimulatedJournal(disk)
    assert journal.uuid != before
    assert journal.highest("messages") == 0
    assert keys(disk) == []
    with pytest.raises(JournalBusy):
        disk.replace()


def test_where_the_durability_allows_for_it_the_loss_is_taken():
    disk = torn(durability="process")
    SimulatedJournal(disk).commit([put(4)])
    assert disk.losses == 1
    assert keys(disk) == [1, 2, 4]


def test_a_disk_that_does_not_lie_keeps_what_was_synced():
    disk = Disk("d")
    disk.may_lie = True
    SimulatedJournal(disk).commit([put(1)])
    assert disk.cut_power(5) == 0


def test_a_read_fails_and_the_next_one_does_not():
    disk = Disk("d")
    journal = SimulatedJournal(disk)
    journal.commit([put(1)])
    disk.bad_reads = 1
    with pytest.raises(JournalError, match="reading"):
        journal.read(Read("messages", 1, 9, 1))
    assert journal.read(Read("messages", 1, 9, 1)) == [Row(1, 1, b"v")]
