"""A journal that lost its tail is noticed by what its sidecar remembers; one that lost nothing never is."""

from __future__ import annotations

import logging
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.journal.faults import Disk
from tests.journal.helpers import change_watermark, delete, keys, killed_owner, put, puts, watermark
from zmqkit.errors import JournalDamaged, JournalError, JournalRolledBack, JournalVersion
from zmqkit.journal import SqliteJournal, Watermark, lock, sidecar, tail

NUMBERS = st.integers(0, 2**63 - 1)
HEX = st.text("0123456789abcdef", min_size=32, max_size=32)
MARKS = st.builds(
    Watermark, HEX, st.sampled_from(["power", "process"]), st.sampled_from(["", "a-boot"]), NUMBERS, NUMBERS,
    st.integers(1, 10**6), HEX,
    st.dictionaries(st.text("abcdefgh_", min_size=1, max_size=31).filter(lambda name: name != "synced"), NUMBERS),
)  # fmt: skip


def record_of(mark: Watermark) -> bytes:
    names = tail.names_of(mark.journal, mark.durability, mark.boot, mark.opening, mark.epoch)
    packer = tail.Packer(names, mark.highest)
    return packer.pack(mark.commits, mark.synced, [mark.highest[log] for log in packer.logs])


# ---- the record ------------------------------------------------------------------


@given(MARKS)
def test_a_record_is_one_sector_and_reads_as_it_was_written_but_for_logs_that_had_no_room(mark: Watermark) -> None:
    record = record_of(mark)
    assert len(record) == tail.SECTOR
    found = tail.unpack(record)
    assert found is not None
    assert found.highest.items() <= mark.highest.items()
    assert len(found.highest) >= min(len(mark.highest), 3)
    assert {**_fields(found), "highest": 0} == {**_fields(mark), "highest": 0}


def _fields(mark: Watermark) -> dict[str, Any]:
    return {name: getattr(mark, name) for name in Watermark.__slots__}


@given(MARKS, st.integers(0, tail.SECTOR * 8 - 1))
def test_a_flipped_bit_makes_a_record_unreadable_and_never_another_one(mark: Watermark, bit: int) -> None:
    record = bytearray(record_of(mark))
    record[bit // 8] ^= 1 << bit % 8
    assert tail.unpack(bytes(record)) is tail.UNREADABLE


@given(st.binary(max_size=600))
def test_whatever_bytes_there_are_they_are_read_without_an_error(raw: bytes) -> None:
    tail.unpack(raw)


def test_a_record_of_an_older_version_is_read() -> None:
    names = tail.padded("journal=abc durability=power boot=b", 256)
    assert tail.unpack(names + b"%020d\n" % 17) == Watermark("abc", "power", "b", 17, 17)
    names = tail.padded("journal=abc durability=process boot=b", 256)
    assert tail.unpack(names + b"%020d\n" % 17) == Watermark("abc", "process", "b", 17, 0)
    assert tail.unpack(b"") is tail.unpack(bytes(512)) is None


# ---- what it notices -------------------------------------------------------------


def cut_the_tail(path: Path) -> None:
    """Damage the last commit in the write-ahead log, as a disk does that lost it."""
    wal = Path(f"{path}-wal")
    wal.write_bytes(wal.read_bytes()[:-1])


def test_what_is_known_to_be_lost_is_named_by_log_and_key(path: Path) -> None:
    program = "for key in range(1, 9):\n    journal.commit([put(key), put(key // 2 + 1, log='dead')])"
    killed_owner(path, program)
    cut_the_tail(path)
    for mode in (True, False):
        with pytest.raises(JournalRolledBack, match=r"lost its last 1 commits of 9 \(with them, whatever .*") as caught:
            SqliteJournal(path, read_only=mode)
        assert caught.value.commits == 1
        assert caught.value.logs == {"messages": (7, 8), "dead": (4, 5)}
        assert "keys 8 to 8 of log messages, keys 5 to 5 of log dead" in str(caught.value)
        assert "Put back what is missing; or, to go on with what is in it, remove" in str(caught.value)


@pytest.mark.parametrize("checkpoint", [False, True])
def test_in_process_mode_what_was_synced_is_missed_also_after_the_machine_was_down(
    path: Path, checkpoint: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if checkpoint:
        monkeypatch.setattr("zmqkit.journal.layout.WAL_PAGES", 1)
    with SqliteJournal(path, durability="process") as journal:
        journal.commit([put(1)])
    older = path.read_bytes()
    journal = SqliteJournal(path, durability="process")
    journal.commit([put(2)])
    copied = [Path(f"{path}{suffix}").read_bytes() for suffix in ("-wal", ".lock")]
    journal.close()
    path.write_bytes(older)
    Path(f"{path}-wal").write_bytes(copied[0][:100])
    Path(f"{path}.lock").write_bytes(copied[1])
    change_watermark(path, boot="another")
    if checkpoint:
        with pytest.raises(JournalRolledBack, match="has lost its last 2 commits"):
            SqliteJournal(path)
    else:
        with SqliteJournal(path) as journal:
            assert keys(journal) == [1]


def test_a_copy_that_was_used_elsewhere_and_put_back_is_noticed_though_it_is_further(path: Path) -> None:
    with SqliteJournal(path) as journal:
        journal.commit([put(1)])
    away = path.with_name("away.db")
    shutil.copy(path, away)
    with SqliteJournal(path) as journal:
        journal.commit([put(2)])
    with SqliteJournal(away) as journal:
        for key in range(10, 20):
            journal.commit([put(key)])
    shutil.copy(away, path)
    for mode in (True, False):
        with pytest.raises(JournalRolledBack, match=r"was used elsewhere since: .*remove .*jobs\.db\.lock"):
            SqliteJournal(path, read_only=mode)
    path.with_name("jobs.db.lock").unlink()
    with SqliteJournal(path) as journal:
        assert keys(journal) == [1, *range(10, 20)]


def test_a_journal_that_was_opened_forty_times_is_still_the_same(path: Path) -> None:
    for _ in range(40):
        SqliteJournal(path).close()
    SqliteJournal(path).close()


def test_a_damaged_sidecar_is_no_reason_to_refuse_and_is_said(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with SqliteJournal(path) as journal:
        journal.commit([put(1)])
    beside = Path(f"{path}.lock")
    content = bytearray(beside.read_bytes())
    content[512 + 270] ^= 1  # the number of the last commit
    beside.write_bytes(content)
    with caplog.at_level(logging.WARNING, "zmqkit.journal"), SqliteJournal(path) as journal:
        assert keys(journal) == [1]
    assert "jobs.db.lock is not what was written: it cannot tell" in caplog.text
    mark = watermark(path)
    assert mark is not None
    assert mark.commits == 3  # and from here on it is
    # What was there is known to have been a journal, so an emptied file is no place for a new one.
    beside.write_bytes(content)
    path.write_bytes(b"")
    with pytest.raises(JournalDamaged, match="it is empty"):
        SqliteJournal(path)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a journal whose owner was killed after eight commits, with the log carried over midway."""
    path = tmp_path_factory.mktemp("killed") / "jobs.db"
    program = (
        "for key in range(1, 9):\n    journal.commit([put(key, bytes(900))])\n    if key == 4: journal._checkpoint()"
    )
    killed_owner(path, program)
    return {name: (path.parent / name).read_bytes() for name in ("jobs.db", "jobs.db-wal", "jobs.db.lock")}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whichever_of_its_files_is_torn_or_flipped_nothing_confirmed_is_missed_without_a_word(
    path: Path, killed: dict[str, bytes], data: st.DataObject
) -> None:
    for leftover in path.parent.iterdir():
        leftover.unlink()
    hurt = data.draw(st.sampled_from(sorted(killed)), "file")
    content = bytearray(killed[hurt])
    how = data.draw(st.sampled_from(["flip", "tear", "cut"]), "how")
    place = data.draw(st.integers(0, len(content) - 1), "place")
    if how == "flip":
        content[place] ^= 1 << data.draw(st.integers(0, 7), "bit")
    elif how == "tear":
        start = place // 512 * 512
        content[start : start + 512] = bytes(len(content[start : start + 512]))
    else:
        del content[place:]
    for name, whole in (killed | {hurt: bytes(content)}).items():
        (path.parent / name).write_bytes(whole)
    try:
        with SqliteJournal(path) as journal:
            assert keys(journal) == list(range(1, 9))
    except (JournalDamaged, JournalVersion):
        assert hurt != "jobs.db.lock"
    except JournalError:  # some bits of the header keep SQLite from working as it should
        assert hurt == "jobs.db"


# ---- what it costs ---------------------------------------------------------------


def count_syncs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count how often a lock file is synced, and let time stand still."""
    syncs = [0]
    sync = lock.OwnerLock.sync

    def counted(owner: lock.OwnerLock) -> None:
        syncs[0] += 1
        sync(owner)

    monkeypatch.setattr(lock.OwnerLock, "sync", counted)
    return syncs


def test_the_sidecar_is_synced_at_most_once_a_second_and_in_process_mode_only_with_the_journal(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs = count_syncs(monkeypatch)
    now = [0.0]
    monkeypatch.setattr("zmqkit.journal.sidecar.time.monotonic", lambda: now[0])
    with SqliteJournal(path) as journal:
        for key in range(1, 51):
            journal.commit([put(key)])
        assert syncs == [1]  # of the opening
        for second in range(1, 6):
            now[0] = second * sidecar.SYNC_EVERY_S
            for _ in range(10):
                journal.commit([put(1)])
        assert syncs == [6]
    assert syncs == [7]
    with SqliteJournal(path, durability="process") as journal:
        for second in range(6, 16):
            now[0] = second * sidecar.SYNC_EVERY_S
            journal.commit([put(1)])
        assert syncs == [7]
    assert syncs == [8]


def test_on_a_disk_that_takes_no_sidecar_the_journal_works_all_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "injected")

    monkeypatch.setattr("zmqkit.journal.lock._sync_file", fail)
    monkeypatch.setattr("zmqkit.journal.lock.os.pwrite", fail)
    with SqliteJournal(path) as journal:
        journal.commit([put(1)])
    monkeypatch.undo()
    with SqliteJournal(path) as journal:
        assert keys(journal) == [1]


# ---- what it never does ----------------------------------------------------------


class Machine(Disk):
    """A disk that knows what was synced to it, under journals whose machine may lose its power."""

    def __init__(self, path: Path, chance: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.path, self.chance = path, chance
        self.boots = 0
        self.synced: dict[str, bytes] = {}
        self.records: list[bytes] = []
        """What was written to the sidecar since its last sync, and what was synced."""
        write, sync = lock.OwnerLock.write_mark, lock.OwnerLock.sync

        def write_mark(owner: lock.OwnerLock, record: bytes) -> None:
            write(owner, record)
            self.records.append(record)

        def sync_mark(owner: lock.OwnerLock) -> None:
            sync(owner)
            self.records = self.records[-1:]

        monkeypatch.setattr(lock.OwnerLock, "write_mark", write_mark)
        monkeypatch.setattr(lock.OwnerLock, "sync", sync_mark)
        monkeypatch.setattr(sidecar, "boot_id", lambda: f"boot-{self.boots}")

    def strikes(self, kind: Any, file: str) -> Any:
        if kind == "sync":
            self.synced[file] = Path(file).read_bytes()
        return super().strikes(kind, file)

    def look(self) -> dict[str, bytes]:
        """What is in the files now, as the system sees them."""
        names = [str(self.path), f"{self.path}-wal", f"{self.path}.lock"]
        return {name: Path(name).read_bytes() for name in names if Path(name).exists()}

    def kill(self, files: dict[str, bytes]) -> None:
        """The process died when its files were these."""
        for name, content in files.items():
            Path(name).write_bytes(content)

    def lose_power(self, files: dict[str, bytes], records: list[bytes]) -> None:
        """The machine went down then: of what was not synced each sector is there or not."""
        self.boots += 1
        kept = {name: self.synced.get(name, content) for name, content in files.items()}
        wal = f"{self.path}-wal"
        if wal in files:
            kept[wal] = self._torn(self.synced.get(wal, b""), files[wal])
        holder = files[f"{self.path}.lock"][:512]
        record = self.chance.choice(records) if records else files[f"{self.path}.lock"][512:]
        kept[f"{self.path}.lock"] = holder + record
        self.kill(kept)
        self.synced, self.records = kept, self.records[:0]

    def _torn(self, old: bytes, new: bytes) -> bytes:
        sectors = []
        for start in range(0, max(len(old), len(new)), 512):
            before, after = old[start : start + 512], new[start : start + 512]
            sectors.append(before if before and self.chance.random() < 0.3 else after or before)
        torn = b"".join(sectors)
        return torn[: self.chance.randint(len(old), len(torn))] if len(torn) > len(old) else torn


@pytest.mark.parametrize("seed", range(12))
def test_neither_kill_nor_power_cut_raises_a_false_alarm_at_any_durability(
    path: Path, seed: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("zmqkit.journal.layout.WAL_PAGES", 12)
    monkeypatch.setattr(sidecar, "SYNC_EVERY_S", 0.0 if seed % 3 == 0 else 1e9)
    chance = random.Random(seed)
    machine = Machine(path, chance, monkeypatch)
    safe: set[int] = set()
    """Keys that were confirmed at power, or are in a journal that was closed."""
    key = 0
    for _ in range(25):
        durability = chance.choice(["power", "process"])
        journal = SqliteJournal(path, durability=durability, vfs=machine.name, reserve_bytes=0)  # type: ignore[arg-type]
        assert safe <= set(keys(journal))
        if durability == "power":
            safe = set(keys(journal))
        for _ in range(chance.randrange(12)):
            key = max(key, journal.highest("messages")) + 1
            journal.commit([put(key, bytes(chance.randrange(3000)))])
            if durability == "power":
                safe.add(key)
        files, records = machine.look(), list(machine.records)
        how = chance.choice(["close", "kill", "power cut", "power cut"])
        synced = dict(machine.synced)
        journal.close()
        if how == "close":
            machine.synced = machine.look()
            safe |= set(range(1, key + 1)) & set(_keys_of(path))
        else:
            machine.synced = synced
            if how == "kill":
                machine.kill(files)
                machine.records = records
            else:
                machine.lose_power(files, records)
    machine.unregister()
    assert machine.boots


def test_numbers_that_are_used_again_after_a_power_cut_are_not_held_against_those_that_it_took(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An opening and its commits are lost; the next one gets its number, and dies before it could write its mark."""
    SqliteJournal(path, durability="process").close()
    before = path.read_bytes()
    killed_owner(path, "journal.commit([put(1)])", durability="process")
    path.write_bytes(before)
    path.with_name("jobs.db-wal").unlink()
    change_watermark(path, boot="another")
    begin = sidecar.Sidecar.begin

    def die(self: sidecar.Sidecar, opening: int, *more: Any, sync: bool) -> None:
        if opening:
            raise KeyboardInterrupt
        begin(self, opening, *more, sync=sync)

    with monkeypatch.context() as patched:
        patched.setattr(sidecar.Sidecar, "begin", die)
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                SqliteJournal(path)
    with SqliteJournal(path) as journal:
        assert keys(journal) == []


def _keys_of(path: Path) -> list[int]:
    with SqliteJournal(path, read_only=True) as journal:
        return keys(journal)


def test_the_check_is_sharp_a_watermark_before_its_commit_would_be_a_false_alarm(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_owner(path, "journal.commit([put(1)])")
    mark = watermark(path)
    assert mark is not None
    change_watermark(path, commits=mark.commits + 1, synced=mark.commits + 1)
    with pytest.raises(JournalRolledBack):
        SqliteJournal(path)


def test_deleting_everything_is_no_loss(path: Path) -> None:
    with SqliteJournal(path) as journal:
        journal.commit(puts(range(1, 50)))
        journal.commit([delete(key) for key in range(1, 50)])
    with SqliteJournal(path) as journal:
        assert keys(journal) == []
