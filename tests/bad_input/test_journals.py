"""Journals that are none, damaged, held, on a full disk, read-only or gone: a typed error that says what to do."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

import zmqkit
from tests.bad_input.scenes import BEAT, LOCAL, until
from tests.bad_input.strangers import PATIENCE_S, pack
from tests.journal.helpers import tmpfs
from zmqkit import (
    DuplicateInstance,
    JournalBusy,
    JournalDamaged,
    JournalError,
    JournalFull,
    JournalRolledBack,
    JournalVersion,
    PartlySent,
    Pusher,
)
from zmqkit.events import JournalRecovered, JournalTrouble
from zmqkit.journal import SqliteJournal
from zmqkit.journal.store import checksum


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the journal is."""
    return tmp_path / "jobs.db"


@pytest.fixture
def honest(tmp_path: Path) -> Iterator[Any]:
    """Another pusher with a journal, whose work goes on beside; called, it does some."""
    with (
        Pusher(LOCAL, journal=tmp_path / "honest.db", durability="process", heartbeat=BEAT) as push,
        zmqkit.Puller[Any](push.addresses[0], heartbeat=BEAT) as pull,
    ):

        def work() -> None:
            push.send_many(range(20))
            assert sorted(take(pull, 20)) == list(range(20))
            push.flush(PATIENCE_S)

        work()
        yield work
        work()


def take(pull: Any, count: int) -> list[Any]:
    """So many bodies, acked."""
    bodies: list[Any] = []
    while len(bodies) < count:
        job = pull.receive(PATIENCE_S)
        assert job is not None, f"only {len(bodies)} of {count} came"
        bodies.append(job.body)
        job.ack()
    return bodies


def pusher(path: Path, **options: Any) -> Pusher:
    return Pusher(LOCAL, journal=path, heartbeat=BEAT, linger=0, **options)


def fill(path: Path, messages: int = 100, *, rows: int = 10) -> None:
    """A closed journal with so many messages in so many rows."""
    push = pusher(path, durability="process").open()
    for row in range(rows):
        push.send_many([f"{row}.{n}" for n in range(messages // rows)])
    with pytest.warns(RuntimeWarning, match="not settled"):
        push.close()


# ---- not a journal of ours ------------------------------------------------------------------


def test_a_file_that_is_no_journal_is_refused_and_left_as_it_is(path: Path, honest: Any) -> None:
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE mine(x)")
    other.commit()
    other.close()
    for content in (b"Dear diary, today...\n" * 50, b"x", bytes(5000), path.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(JournalVersion, match=r"is not a zmqkit journal; it was left as it is. Use another path"):
            pusher(path).open()
        assert path.read_bytes() == content
        assert sorted(each.name for each in path.parent.iterdir() if each.name.startswith("jobs")) == ["jobs.db"]


def test_an_empty_file_becomes_a_journal(path: Path) -> None:
    path.touch()
    with pytest.warns(RuntimeWarning, match="1 message not settled"), pusher(path) as push:
        push.send("x")
    with pusher(path) as push, zmqkit.Puller[Any](push.addresses[0]) as pull:
        assert take(pull, 1) == ["x"]
        push.flush(PATIENCE_S)


def test_a_directory_is_no_file_and_a_missing_one_is_named(path: Path, honest: Any) -> None:
    path.mkdir()
    with pytest.raises(JournalError, match="is a directory; a journal is a file"):
        pusher(path).open()
    with pytest.raises(JournalError, match=r"there is no directory .*; make it first"):
        pusher(path.parent / "nowhere" / "jobs.db").open()


def test_another_version_and_another_kind_are_refused_by_name(path: Path, honest: Any) -> None:
    fill(path)
    content = bytearray(path.read_bytes())
    content[60:64] = (7).to_bytes(4, "big")
    path.write_bytes(content)
    with pytest.raises(JournalVersion, match=r"format 7, and this zmqkit reads format 1.*Open it with the zmqkit that"):
        pusher(path).open()
    assert path.read_bytes() == content
    other = path.with_name("other.db")
    SqliteJournal(other, kind="inbox", logs=("seen",)).close()
    with pytest.raises(JournalVersion, match=r"of kind 'inbox', not 'pipeline'; .*Use another path"):
        pusher(other).open()


def test_what_was_refused_leaves_nothing_open(path: Path) -> None:
    """Neither port nor lock: the very object may be told to try again."""
    path.write_text("no journal")
    push = pusher(path)
    for _ in range(3):
        with pytest.raises(JournalVersion):
            push.open()
    path.unlink()
    with pytest.warns(RuntimeWarning, match="1 message not settled"), push:
        push.send("at last")


# ---- damaged --------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.99])
def test_a_journal_that_was_cut_off_is_damaged(path: Path, share: float, honest: Any) -> None:
    fill(path, 2000)
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(JournalDamaged, match=r"is damaged: .*Put back a good copy of it.* or move all files"):
        pusher(path).open()


def flip(path: Path, log: str, key: int | None = None) -> None:
    """Change a byte of a row's value in the file, as a bad disk would; its last row's if no key is given."""
    connection = apsw.Connection(str(path))
    where = f"WHERE key = {key}" if key is not None else "ORDER BY key DESC LIMIT 1"
    ((found, value),) = connection.execute(f"SELECT key, value FROM log_{log} {where}")
    changed = bytes([value[0], *value[1:-1], value[-1] ^ 1])
    connection.execute(f"UPDATE log_{log} SET value = ? WHERE key = ?", (changed, found))
    connection.close()


DAMAGED = "is damaged: row [0-9]+ of log messages is not what was written. .*Put back a good copy"


def test_a_flipped_byte_in_a_row_reaches_every_user_of_the_pusher(path: Path, honest: Any) -> None:
    fill(path)
    flip(path, "messages")
    push = pusher(path)
    push.open()
    with pytest.raises(JournalDamaged, match=DAMAGED):
        push.flush(PATIENCE_S)
    for verb in (
        lambda: push.send("x"),
        lambda: push.send_nowait("x"),
        lambda: push.flush(0),
        lambda: push.wait_for_peers(1, timeout=PATIENCE_S),
    ):
        with pytest.raises(JournalDamaged, match=DAMAGED):
            verb()
    with pytest.raises((JournalDamaged, PartlySent)) as caught:
        push.send_many(["x"])
    assert isinstance(caught.value.__cause__ or caught.value, JournalDamaged)
    with pytest.raises(JournalDamaged, match=DAMAGED):
        push.close()
    push.close()  # again: nothing happens


def test_who_only_serves_is_told_by_the_end_of_the_block(path: Path) -> None:
    fill(path)
    flip(path, "messages")
    push = Pusher(LOCAL, journal=path)
    with pytest.raises(JournalDamaged, match=DAMAGED), push:
        until(lambda: push._driver is not None and push._driver.failure)


def test_who_waits_when_a_damaged_row_is_met_is_told(path: Path, honest: Any) -> None:
    """The damage lies behind what is in memory: it is met only when the first rows are settled."""
    push = pusher(path, durability="process").open()
    for _ in range(12):
        push.send_many([b"x" * 1000] * 4000)
    with pytest.warns(RuntimeWarning, match="48000 messages not settled"):
        push.close()
    flip(path, "messages")
    push = pusher(path).open()
    with zmqkit.Puller[Any](push.addresses[0], heartbeat=BEAT) as pull:
        acked = 0

        def work() -> None:
            nonlocal acked
            for batch in pull.batches(1000, 0):
                acked += len(batch)
                batch.ack()
                push.flush(0, until="accepted")

        with pytest.raises(JournalDamaged, match=DAMAGED):
            work()
    with pytest.raises(JournalDamaged, match=DAMAGED):
        push.close()
    # What was settled before is settled: of the rest nothing is lost to a better copy.
    assert acked >= 4000


def test_a_row_that_is_whole_and_cannot_be_read_is_no_silence(path: Path, honest: Any) -> None:
    fill(path)
    connection = apsw.Connection(str(path))
    ((key, weight),) = connection.execute("SELECT key, weight FROM log_messages LIMIT 1")
    head = pack([2, "a later format"])
    value = len(head).to_bytes(4, "big") + head
    row = (checksum(key, weight, value), value, key)
    connection.execute("UPDATE log_messages SET crc = ?, value = ? WHERE key = ?", row)
    connection.close()
    push = pusher(path).open()
    with pytest.raises(JournalDamaged, match=r"of a format that this version does not read.*open it with that version"):
        push.flush(PATIENCE_S)
    with pytest.raises(JournalDamaged, match="of a format that"):
        push.close()


def test_marks_that_are_damaged_are_told_too(path: Path) -> None:
    push = pusher(path, durability="process").open()
    push.send_many(range(10))
    with zmqkit.Puller[Any](push.addresses[0], prefetch=1) as pull:
        job = pull.receive(PATIENCE_S)
        assert job is not None
        job.ack(wait=True)
    with pytest.warns(RuntimeWarning, match="9 messages not settled"):
        push.close()
    flip(path, "marks")
    push = pusher(path).open()
    with pytest.raises(JournalDamaged, match="log marks is not what was written"):
        push.flush(PATIENCE_S)
    with pytest.raises(JournalDamaged):
        push.close()


@pytest.mark.parametrize("log", ["lanes", "marks", "ids"])
def test_what_is_damaged_of_keyed_messages_is_told_at_opening_and_the_file_is_let_go(path: Path, log: str) -> None:
    push = pusher(path, durability="process").open()
    push.send_many([zmqkit.Outgoing(n, key="a", id=f"id-{n}") for n in range(10)])
    with zmqkit.Puller[Any](push.addresses[0], prefetch=1) as pull:
        job = pull.receive(PATIENCE_S)
        assert job is not None
        job.ack(wait=True)
    with pytest.warns(RuntimeWarning, match="9 messages not settled"):
        push.close()
    flip(path, log)
    for _ in range(2):
        with pytest.raises(JournalDamaged, match=f"log {log} is not what was written"):
            pusher(path).open()


def test_a_good_copy_put_back_is_taken(path: Path) -> None:
    fill(path)
    good = path.read_bytes()
    flip(path, "messages")
    with pytest.raises(JournalDamaged), pusher(path) as push:
        push.flush(PATIENCE_S)
    path.write_bytes(good)
    path.with_name("jobs.db.lock").unlink()  # as the error says where the copy is older
    with pusher(path) as push, zmqkit.Puller[Any](push.addresses[0]) as pull:
        assert len(take(pull, 100)) == 100
        push.flush(PATIENCE_S)


# ---- held, removed, read-only ------------------------------------------------------------------


HOLDER = """
import sys, zmqkit
with zmqkit.Pusher("tcp://127.0.0.1:*", journal=sys.argv[1], name="the holder", linger=0) as push:
    print("open", flush=True)
    sys.stdin.read()
"""


def test_a_journal_of_another_process_names_its_holder(path: Path, honest: Any) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(JournalBusy, match=rf"in use by process {holder.pid} on .* \(the holder\) since .*Close it"):
            pusher(path).open()
        assert holder.stdin is not None
        holder.stdin.close()
        assert holder.wait(PATIENCE_S) == 0
    with pusher(path), pytest.raises(JournalBusy, match="this very process"):
        pusher(path).open()


def test_a_copy_of_an_open_journal_is_refused_and_both_go_on_one_after_the_other(path: Path, honest: Any) -> None:
    """Restored from a backup, say, while the first one still runs: both would give out the same ids."""
    fill(path, 10, rows=1)
    copies = [path.with_name(name) for name in ("copy.db", "other.db")]
    for copy in copies:
        shutil.copy(path, copy)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        if sys.platform == "linux":
            with pytest.raises(
                DuplicateInstance, match=rf"copy.db is the same journal as .*jobs.db in process {holder.pid}"
            ):
                pusher(copies[0]).open()
            assert copies[0].read_bytes() != b""
        assert holder.stdin is not None
        holder.stdin.close()
        assert holder.wait(PATIENCE_S) == 0
    push = pusher(path).open()
    for copy in copies:
        for _ in range(2):
            with pytest.raises(
                DuplicateInstance, match=r"is the same journal as .*jobs\.db in this very process.*Close"
            ):
                pusher(copy).open()
    with pytest.warns(RuntimeWarning, match="10 messages not settled"):
        push.close()
    with pusher(copies[0]) as push, zmqkit.Puller[Any](push.addresses[0]) as pull:
        assert len(take(pull, 10)) == 10
        push.flush(PATIENCE_S)


def test_an_older_copy_names_what_it_lacks(path: Path, honest: Any) -> None:
    fill(path, 10, rows=1)
    older = path.read_bytes()
    fill(path, 20, rows=2)
    path.write_bytes(older)
    with pytest.raises(
        JournalRolledBack, match=r"has lost its last \d commits of \d+ .*keys \d+ to \d+ of log messages"
    ) as lost:
        pusher(path).open()
    assert lost.value.commits == 3
    assert set(lost.value.logs) == {"messages"}
    there, used = lost.value.logs["messages"]
    assert used > there > 0


def test_a_journal_that_is_removed_while_open_confirms_nothing_more(path: Path, honest: Any) -> None:
    aside = path.with_name("aside.db")
    push = pusher(path, durability="process").open()
    push.send("before")
    path.rename(aside)
    for replaced in (False, True):
        if replaced:
            path.write_text("something else")
        with pytest.raises(JournalDamaged, match=r"was removed or replaced while it was open.*put back a good copy"):
            push.send("lost?")
    path.unlink()
    aside.rename(path)

    def again() -> bool:
        try:
            push.send("after", timeout=PATIENCE_S)
        except JournalDamaged:
            return False
        return True

    until(again)
    with zmqkit.Puller[Any](push.addresses[0]) as pull:
        assert take(pull, 2) == ["before", "after"]
        push.flush(PATIENCE_S)
    push.close()


def test_a_read_only_directory_is_named(tmp_path: Path, honest: Any) -> None:
    where = tmp_path / "disk"
    where.mkdir()
    with tmpfs(where, "4m"):
        fill(where / "old.db", 10)
        subprocess.run(["mount", "-o", "remount,ro", str(where)], check=True)
        for name in ("old.db", "new.db"):
            with pytest.raises(JournalError, match=r"[Rr]ead-only file system"):
                pusher(where / name).open()


# ---- a full disk --------------------------------------------------------------------------------


def test_on_a_full_disk_senders_are_told_and_acks_go_on_and_service_resumes_by_itself(
    tmp_path: Path, honest: Any
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with tmpfs(disk, "24m"):
        path, ballast = disk / "jobs.db", disk / "ballast"
        troubles: list[JournalTrouble] = []
        recoveries: list[JournalRecovered] = []
        push = pusher(path)
        push.on(JournalTrouble, troubles.append)
        push.on(JournalRecovered, recoveries.append)
        push.open()
        confirmed = [f"confirmed {number}" for number in range(200)]
        for body in confirmed:
            push.send(body)
        with ballast.open("wb", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                try:
                    while True:
                        file.write(b"x" * size)
                except OSError:
                    continue

        def send_on() -> None:
            for number in range(10_000):  # what the log has room for is stored still
                push.send(f"{number} " + "x" * 1000)
                confirmed.append(f"{number} " + "x" * 1000)

        with pytest.raises(JournalFull, match=r"no room on the disk for storing; .*Make room there; storing works"):
            send_on()
        with pytest.raises((PartlySent, JournalFull)) as caught:
            push.send_many(["y" * 100_000] * 50)
        if isinstance(caught.value, PartlySent):
            assert isinstance(caught.value.__cause__, JournalFull)
            confirmed += ["y" * 100_000] * caught.value.confirmed
        assert len(troubles) == 1
        assert "no room on the disk" in troubles[0].reason
        assert push.stats()["sends_refused"] + push.stats()["commits_failed"] >= 1

        with zmqkit.Puller[Any](push.addresses[0], heartbeat=BEAT) as pull:
            got = take(pull, 100)
            job = pull.receive(PATIENCE_S)
            assert job is not None
            job.ack(wait=True)  # stored, on the full disk
            got.append(job.body)
            until(lambda: push.stats()["acked"] >= 101)
            job = pull.receive(PATIENCE_S)
            assert job is not None
            job.reject("a dead letter needs room")
            got.append(job.body)

            ballast.unlink()

            def again() -> bool:
                try:
                    push.send("after", timeout=PATIENCE_S)
                except JournalFull:
                    return False
                return True

            until(again)
            confirmed.append("after")
            until(lambda: recoveries)
            got += take(pull, len(confirmed) - len(got))
            settled = push.flush(PATIENCE_S)
            assert sorted(got) == sorted(confirmed)
            assert (settled.acked, settled.dead) == (len(confirmed) - 1, 1)
        push.close()


def test_what_was_confirmed_before_the_disk_was_full_is_there_after_a_crash(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with tmpfs(disk, "16m"):
        program = (
            "import os, sys, zmqkit\n"
            "push = zmqkit.Pusher('tcp://127.0.0.1:*', journal=sys.argv[1], linger=0).open()\n"
            "n = 0\n"
            "try:\n"
            "    while True:\n"
            "        push.send('x' * 50_000)\n"
            "        n += 1\n"
            "except zmqkit.JournalFull:\n"
            "    print(n, flush=True)\n"
            "os.kill(os.getpid(), 9)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, str(disk / "jobs.db")], capture_output=True, text=True, timeout=PATIENCE_S
        )
        assert done.returncode == -9, done.stderr
        confirmed = int(done.stdout)
        assert confirmed > 20
        with pytest.raises(JournalFull, match=r"no room on the disk for opening it; .*Make room there"):
            pusher(disk / "jobs.db").open()
        subprocess.run(["mount", "-o", "remount,size=32m", str(disk)], check=True)
        with pusher(disk / "jobs.db") as push, zmqkit.Puller[Any](push.addresses[0], heartbeat=BEAT) as pull:
            assert take(pull, confirmed) == ["x" * 50_000] * confirmed
            push.flush(PATIENCE_S)


def test_a_new_journal_on_a_full_disk_is_refused_by_name(tmp_path: Path, honest: Any) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with tmpfs(disk, "64k"):
        (disk / "ballast").write_bytes(b"x" * 60_000)
        with pytest.raises(JournalFull, match=r"no room on the disk for opening.*Make room there"):
            pusher(disk / "jobs.db").open()
        (disk / "ballast").unlink()
