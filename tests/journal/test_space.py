"""Space is given back while the journal runs, and reading never takes more memory than was asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from tests.journal.faults import Disk
from tests.journal.helpers import delete, put, puts
from zmqkit.journal import SqliteJournal
from zmqkit.journal.layout import WAL_LIMIT_BYTES


@pytest.mark.parametrize("step", [1, 16, 1600])
def test_the_file_shrinks_while_a_backlog_is_worked_off(path: Path, step: int) -> None:
    with SqliteJournal(path, durability="process") as journal:
        for first in range(1, 1600, 100):
            journal.commit(puts(range(first, first + 100), bytes(25_000)))
        full = path.stat().st_size
        assert full > 1600 * 25_000
        sizes = []
        for first in range(1, 1601, step):
            journal.commit([delete(key) for key in range(first, first + step)])
            sizes.append(path.stat().st_size)
        for number in range(300):  # what is left to give back goes with the next commits
            journal.commit([put(2000 + number), delete(2000 + number - 1)])
        assert path.stat().st_size < 8 << 20
        if step == 1:
            assert sizes[len(sizes) // 2] < full * 0.85
        assert path.with_name("jobs.db-wal").stat().st_size <= WAL_LIMIT_BYTES
    assert path.stat().st_size < 100_000


def test_a_queue_in_steady_state_does_not_grow(path: Path) -> None:
    with SqliteJournal(path, durability="process") as journal:
        for key in range(1, 3000):
            journal.commit([put(key, bytes(25_000)), *([delete(key - 20)] if key > 20 else [])])
        assert path.stat().st_size < 4 << 20
        assert path.with_name("jobs.db-wal").stat().st_size < 8 << 20


def test_the_log_of_a_very_large_commit_is_given_back(path: Path) -> None:
    with SqliteJournal(path) as journal:
        journal.commit(puts(range(1, 1001), bytes(25_000)))
        for key in range(1, 10):
            journal.commit([delete(key)])
        assert path.with_name("jobs.db-wal").stat().st_size <= WAL_LIMIT_BYTES


def test_the_reserve_goes_with_the_last_row(path: Path) -> None:
    reserve = path.with_name("jobs.db-reserve")
    with SqliteJournal(path) as journal:
        assert reserve.stat().st_blocks * 512 >= 8 << 20
        journal.commit([put(1)])
    assert reserve.exists()
    with SqliteJournal(path) as journal:
        journal.commit([delete(1)])
    assert not reserve.exists()


def test_the_settings_that_durability_rests_on_are_those_that_were_asked_for(path: Path) -> None:
    for durability, synchronous in (("power", 2), ("process", 1)):
        with SqliteJournal(path, durability=durability) as journal:  # type: ignore[arg-type]
            connection = journal._connection
            assert connection is not None
            found = {
                name: connection.pragma(name) for name in ("journal_mode", "synchronous", "locking_mode", "auto_vacuum")
            }
            assert found == {
                "journal_mode": "wal",
                "synchronous": synchronous,
                "locking_mode": "exclusive",
                "auto_vacuum": 2,
            }


def test_each_commit_is_synced_at_power_and_not_at_process(path: Path) -> None:
    disk = Disk()
    for durability, expected in (("power", 10), ("process", 0)):
        with SqliteJournal(path, durability=durability, vfs=disk.name) as journal:  # type: ignore[arg-type]
            journal.commit([put(1)])
            disk.calls.clear()
            for _ in range(10):
                journal.commit([put(1)])
            assert sum(kind == "sync" for kind, _ in disk.calls) == expected
    disk.unregister()


BACKLOG = """
import sys
from tests.journal.faults import Disk
from tests.journal.helpers import *
from zmqkit.journal import SqliteJournal
journal = SqliteJournal(sys.argv[1], durability="process")
first, count = 1, 0
while rows := journal.read(Read("messages", first, LAST, 1 << 20)):
    count += len(rows)
    first = rows[-1].key + 1
journal.close()
# ru_maxrss would count what the process was before it became this program.
print(count, next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to measure memory")
@pytest.mark.timeout(180)
def test_a_large_backlog_opens_at_once_and_is_read_in_little_memory(path: Path) -> None:
    rows = 1_000_000
    with SqliteJournal(path, durability="process") as journal:
        for first in range(1, rows, 20_000):
            journal.commit(puts(range(first, first + 20_000), b"%0100d" % first))
        assert journal.totals("messages").weight == rows
    done = subprocess.run([sys.executable, "-c", BACKLOG, str(path)], capture_output=True, text=True, check=True)
    count, memory_kb = map(int, done.stdout.split())
    assert count == rows
    assert memory_kb < 100_000


def test_opening_a_log_too_long_to_count_reads_only_its_ends(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of pages that are read does not grow with the rows; no clock is asked."""
    monkeypatch.setattr("zmqkit.journal.sqlite.COUNT_UP_TO", 1000)
    monkeypatch.setattr("zmqkit.journal.layout.WALK_PAGES", 10)
    disk = Disk()
    reads = []
    for rows in (2_000, 40_000):
        with SqliteJournal(path, durability="process", vfs=disk.name) as journal:
            journal.commit(puts(range(journal.highest("messages") + 1, rows + 1), bytes(100)))
        disk.calls.clear()
        SqliteJournal(path, vfs=disk.name).close()
        reads.append(sum(kind == "read" for kind, _ in disk.calls))
    assert reads[1] < reads[0] + 10
    disk.unregister()
    assert apsw.sqlite_lib_version() >= "3.51.3"
