"""One owner a journal, and whoever is refused is told who it is."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.journal.helpers import everything, keys, killed_owner, put, puts, python, tmpfs
from zmqkit.errors import DuplicateInstance, JournalBusy, JournalDamaged, JournalError, JournalVersion
from zmqkit.journal import SqliteJournal, Totals
from zmqkit.journal.lock import OwnerLock, inspect
from zmqkit.protocol.core import Read, Row

HOLD = """
import sys
from zmqkit.journal import SqliteJournal
journal = SqliteJournal(sys.argv[1], owner="the night shift")
print("open", flush=True)
sys.stdin.readline()
journal.close()
print("closed", flush=True)
sys.stdin.readline()
"""


def test_a_second_open_in_the_same_process_is_refused(path: Path) -> None:
    with SqliteJournal(path, owner="first") as journal:
        for mode in (False, True):
            with pytest.raises(JournalBusy, match=rf"in use by process {os.getpid()}, this very process, .*\(first\)"):
                SqliteJournal(path, read_only=mode)
        journal.commit([put(1)])
    with SqliteJournal(path) as journal:
        assert keys(journal) == [1]


def test_another_name_of_the_file_does_not_help(path: Path) -> None:
    link = path.with_name("link.db")
    with SqliteJournal(path):
        link.symlink_to(path)
        with pytest.raises(JournalBusy):
            SqliteJournal(link)


def test_a_journal_of_another_process_is_refused_until_that_closes_it(path: Path) -> None:
    with python(HOLD, path) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        for mode in (False, True):
            with pytest.raises(JournalBusy) as refusal:
                SqliteJournal(path, read_only=mode)
            for word in (str(path), f"process {process.pid} on {socket.gethostname()}", "the night shift", "since 20"):
                assert word in str(refusal.value)
        process.stdin.write("close\n")
        process.stdin.flush()
        assert process.stdout.readline() == "closed\n"
        SqliteJournal(path).close()
        process.stdin.write("end\n")


def test_a_killed_owner_leaves_no_lock_and_no_gap(path: Path) -> None:
    killed_owner(path, "journal.commit(puts(range(1, 11)))\njournal.commit([delete(3)])")
    with SqliteJournal(path) as journal:
        assert keys(journal) == [1, 2, 4, 5, 6, 7, 8, 9, 10]
        assert journal.totals("messages") == Totals(9, 9, 1, 10)


def test_the_lock_works_where_there_are_only_posix_locks(path: Path) -> None:
    # As on macOS; a POSIX lock does not hold between the objects of one process, the register beside it does.
    program = """
import fcntl, subprocess, sys
fcntl.__dict__.pop("F_OFD_SETLK", None), fcntl.__dict__.pop("F_OFD_GETLK", None)
from zmqkit.errors import JournalBusy
from zmqkit.journal import SqliteJournal
def refused(**how):
    try:
        SqliteJournal(sys.argv[1], **how)
    except JournalBusy as error:
        return "in use by process" in str(error)
if len(sys.argv) > 2:
    print(refused(), refused(read_only=True))
else:
    journal = SqliteJournal(sys.argv[1])
    print(refused(), refused(read_only=True))
    sys.stdout.flush()
    subprocess.run([sys.executable, __file__, sys.argv[1], "again"], check=True)
    journal.close()
    SqliteJournal(sys.argv[1]).close()
    print("done")
"""
    file = path.with_name("program.py")
    file.write_text(program)
    done = subprocess.run([sys.executable, str(file), str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == "True True\nTrue True\ndone\n"


def test_a_lock_file_that_is_removed_meanwhile_is_no_lock(tmp_path: Path) -> None:
    file = str(tmp_path / "a.lock")
    first = OwnerLock(file, journal_path="a", owner="first")
    os.unlink(file)
    second = OwnerLock(file, journal_path="a", owner="second")
    holder, _ = inspect(file)
    assert holder is not None
    assert holder.owner == "second"
    second.release()
    first.release()
    assert inspect(file)[0] is None


def test_a_lock_file_that_is_removed_while_it_is_being_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = str(tmp_path / "a.lock")
    lock_it = fcntl.fcntl

    def remove_then_lock(*arguments: Any) -> Any:
        monkeypatch.undo()
        os.unlink(file)
        Path(file).touch()
        return lock_it(*arguments)

    monkeypatch.setattr(fcntl, "fcntl", remove_then_lock)
    lock = OwnerLock(file, journal_path="a", owner="first")
    with pytest.raises(JournalBusy):
        OwnerLock(file, journal_path="a", owner="second")
    lock.release()


# ---- forks -----------------------------------------------------------------------

FORK = """
import os, shutil, sys
from tests.journal.helpers import *
from zmqkit.errors import Forked
from zmqkit.journal import SqliteJournal
path = sys.argv[1]
journal = SqliteJournal(path)
journal.commit([put(1)])
to_child, to_parent = os.pipe(), os.pipe()
child = os.fork()
if not child:
    uses = [lambda: journal.commit([put(9)]), lambda: keys(journal), lambda: journal.totals("messages")]
    forked = 0
    for use in uses:
        try:
            use()
        except Forked:
            forked += 1
    journal.close()
    del journal, uses, use
    other = SqliteJournal(path + "-child")
    other.commit([put(1)])
    other.close()
    os.write(to_parent[1], b"%d" % forked)
    os.read(to_child[0], 1)
    sys.exit(0)  # ends as a program ends: everything is torn down
assert os.read(to_parent[0], 1) == b"3", "uses in the child"
journal.commit([put(2)])
for suffix in ("", "-wal"):  # as after a crash of the parent: the child has taken no file away
    shutil.copy(path + suffix, path + "-image" + suffix)
image = SqliteJournal(path + "-image", read_only=True)
assert keys(image) == [1, 2]
image.close()
journal.close()
again = SqliteJournal(path)  # the child lives on, and holds nothing
again.commit([put(3)])
os.write(to_child[1], b"x")
assert os.waitpid(child, 0)[1] == 0
again.commit([put(4)])
again.close()
again = SqliteJournal(path)
assert again.verify() == 4
again.close()
print("done")
"""


def test_a_forked_child_may_not_use_the_journal_and_does_not_keep_it_locked(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FORK, str(path)], capture_output=True, text=True, timeout=50)
    assert (done.stdout, done.stderr) == ("done\n", "")


FORK_STORM = """
import os, sys, threading
from tests.journal.helpers import *
from zmqkit.journal import SqliteJournal
journal = SqliteJournal(sys.argv[1])
stop = threading.Event()
count = 0
def work():
    global count
    while not stop.is_set():
        count += 1
        journal.commit([put(count, bytes(2000))])
thread = threading.Thread(target=work)
thread.start()
for number in range(20):
    child = os.fork()
    if not child:
        other = SqliteJournal(sys.argv[1] + f"-{number}", durability="process")
        other.commit([put(1)])
        other.close()
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
thread.join()
assert journal.verify() == count > 0
journal.close()
assert SqliteJournal(sys.argv[1]).verify() == count
print("done")
"""


def test_forking_while_another_thread_commits_harms_nobody(path: Path) -> None:
    # Python 3.12 and later warn of any fork beside threads.
    command = [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", FORK_STORM, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert (done.stdout, done.stderr) == ("done\n", "")


FORK_IN_A_COMMIT = """
import os, sys, threading
order = []
# Hooks run before a fork in the reverse order of their registration: this one last.
os.register_at_fork(before=lambda: order.append("forked"))
from tests.journal.faults import Disk
from tests.journal.helpers import *
from zmqkit.journal import SqliteJournal
inside, go_on = threading.Event(), threading.Event()
os.register_at_fork(before=go_on.set)

class Slow(Disk):
    armed = False
    def strikes(self, kind, file):
        if self.armed and kind == "sync":
            inside.set()
            go_on.wait(30)
        return None

disk = Slow()
journal = SqliteJournal(sys.argv[1], vfs=disk.name)
disk.armed = True
def work():
    journal.commit([put(1)])
    order.append("committed")
thread = threading.Thread(target=work)
thread.start()
inside.wait(30)
child = os.fork()
if not child:
    os._exit(0)
os.waitpid(child, 0)
thread.join()
journal.close()
print(order)
"""


def test_a_fork_waits_for_the_commit_that_is_under_way(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK_IN_A_COMMIT, str(path)], capture_output=True, text=True, timeout=50
    )
    assert (done.stdout, done.stderr) == ("['committed', 'forked']\n", "")


# ---- looking only ----------------------------------------------------------------


def test_a_reader_sees_all_and_changes_nothing(path: Path) -> None:
    with SqliteJournal(path, kind="archive", logs=("messages", "dead")) as journal:
        journal.commit([put(1, b"one", weight=7), put(4, b"four"), put(2, log="dead")])
        uuid = journal.uuid
    before = path.read_bytes()
    with SqliteJournal(path, read_only=True, kind=None, logs=None) as reader:
        assert (reader.uuid, reader.kind) == (uuid, "archive")
        assert everything(reader) == [Row(1, 7, b"one"), Row(4, 1, b"four")]
        assert reader.totals("messages") == Totals(2, 8, 1, 4)
        assert reader.highest("dead") == 2
        assert reader.verify() == 3
        with pytest.raises(JournalError, match="for reading only"):
            reader.commit([put(9)])
    assert path.read_bytes() == before


def test_a_reader_sees_what_a_killed_owner_left_and_leaves_it_there(path: Path) -> None:
    killed_owner(path, "journal.commit(puts(range(1, 11)))")
    wal = path.with_name("jobs.db-wal")
    before = (path.read_bytes(), wal.read_bytes())
    with SqliteJournal(path, read_only=True) as reader:
        assert keys(reader) == list(range(1, 11))
    assert (path.read_bytes(), wal.read_bytes()) == before


def test_a_reader_keeps_no_owner_out_and_is_told_of_it(path: Path) -> None:
    SqliteJournal(path).close()
    with SqliteJournal(path, read_only=True) as reader:
        assert reader.totals("messages").rows == 0
        with SqliteJournal(path, owner="pusher") as journal:
            journal.commit([put(1)])
            for use in (lambda: reader.read(Read("messages", 1, 9, 9)), lambda: reader.totals("messages")):
                with pytest.raises(JournalBusy, match=r"\(pusher\)"):
                    use()
        assert keys(reader) == [1]


def test_readers_leave_nothing_that_an_owner_does_not_remove(path: Path) -> None:
    SqliteJournal(path).close()
    names = sorted(os.listdir(path.parent))
    with SqliteJournal(path, read_only=True) as reader:
        assert keys(reader) == []
    SqliteJournal(path).close()
    assert sorted(os.listdir(path.parent)) == names == ["jobs.db", "jobs.db.lock"]


def test_a_reader_needs_no_right_to_write(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with read_only_later(folder) as make_read_only:
        with SqliteJournal(folder / "jobs.db") as journal:
            journal.commit(puts([1, 2]))
        make_read_only()
        with SqliteJournal(folder / "jobs.db", read_only=True) as reader:
            assert keys(reader) == [1, 2]
        with pytest.raises(JournalError, match="cannot make the lock file"):
            SqliteJournal(folder / "jobs.db")


@contextlib.contextmanager
def read_only_later(folder: Path) -> Iterator[Callable[[], object]]:
    """A folder, and what takes the right to write in it away, from root too."""
    folder.mkdir()
    if os.getuid():
        yield lambda: folder.chmod(0o555)
        folder.chmod(0o755)
    else:
        with tmpfs(folder, "16m"):
            yield lambda: subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)


def test_a_reader_of_nothing_makes_nothing(path: Path) -> None:
    with pytest.raises(JournalError, match="there is no such journal"):
        SqliteJournal(path, read_only=True)
    assert os.listdir(path.parent) == []


# ---- opening ---------------------------------------------------------------------


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=r"there is no directory .*nowhere; make it first"):
        SqliteJournal(tmp_path / "nowhere" / "jobs.db")
    with pytest.raises(JournalError, match="is a directory"):
        SqliteJournal(tmp_path)


def test_what_is_no_file_is_left_as_it_is(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(JournalError, match="is a device, a pipe or a socket; a journal is a file"):
        SqliteJournal(pipe)
    assert pipe.is_fifo()
    assert os.listdir(tmp_path) == ["pipe"]


def test_everything_survives_closing_and_opening(path: Path) -> None:
    with SqliteJournal(path) as journal:
        journal.commit([put(1, weight=4), put(2, weight=5), put(3), put(8, log="dead")])
        journal.commit([put(30)])
        journal.commit([put(9, log="marks")])
        uuid, epoch = journal.uuid, journal.epoch
    with SqliteJournal(path, durability="process") as journal:
        assert journal.uuid == uuid
        assert journal.epoch != epoch
        assert keys(journal) == [1, 2, 3, 30]
        assert journal.totals("messages") == Totals(4, 11, 1, 30)
        journal.commit([put(30)])
        assert journal.highest("messages") == 30


def test_the_highest_key_survives_the_rows_and_the_process(path: Path) -> None:
    killed_owner(path, "journal.commit(puts(range(1, 11)))\njournal.commit([delete(key) for key in range(1, 11)])")
    with SqliteJournal(path) as journal:
        assert journal.totals("messages") == Totals(0, 0, 0, 0)
        assert journal.highest("messages") == 10
    with SqliteJournal(path) as journal:
        assert journal.highest("messages") == 10


def test_another_kind_of_journal_is_refused(path: Path) -> None:
    SqliteJournal(path, kind="requests").close()
    with pytest.raises(JournalVersion, match="of kind 'requests', not 'pipeline'"):
        SqliteJournal(path)
    SqliteJournal(path, kind=None).close()


def test_a_log_that_a_later_version_wants_is_added(path: Path) -> None:
    with SqliteJournal(path, logs=("messages",)) as journal:
        journal.commit([put(1)])
    with SqliteJournal(path, logs=("messages", "ids")) as journal:
        journal.commit([put(4, log="ids")])
    with SqliteJournal(path, logs=("messages", "ids")) as journal:
        assert keys(journal) == [1]
        assert keys(journal, "ids") == [4]
    with SqliteJournal(path, logs=("messages",)) as journal:  # and an earlier one leaves it alone
        journal.commit([put(2)])
    with SqliteJournal(path, logs=None, read_only=True) as reader:
        assert keys(reader, "ids") == [4]


def test_names_and_durabilities_that_cannot_be_are_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="named by"):
        SqliteJournal(path, logs=("x; drop table y",))
    with pytest.raises(ValueError, match="'power' or 'process', not 'memory'"):
        SqliteJournal(path, durability="memory")
    assert os.listdir(path.parent) == []


def test_an_empty_file_may_become_a_journal(path: Path) -> None:
    path.touch()
    with SqliteJournal(path) as journal:
        journal.commit([put(1)])
        assert keys(journal) == [1]


def test_a_journal_whose_lock_file_was_removed_opens(path: Path) -> None:
    with SqliteJournal(path) as journal:
        journal.commit([put(1)])
    path.with_name("jobs.db.lock").unlink()
    with SqliteJournal(path) as journal:
        assert keys(journal) == [1]


def test_a_journal_that_was_removed_with_its_log_begins_anew(path: Path) -> None:
    with SqliteJournal(path) as journal:
        journal.commit([put(1)])
        uuid = journal.uuid
    path.unlink()
    with SqliteJournal(path) as journal:
        assert journal.uuid != uuid
        assert keys(journal) == []
        journal.commit([put(2)])
    with SqliteJournal(path) as journal:
        assert keys(journal) == [2]


def test_a_log_without_its_journal_is_not_taken_for_nothing(path: Path) -> None:
    killed_owner(path, "journal.commit([put(1)])")
    path.unlink()
    for mode in (False, True):
        with pytest.raises(JournalDamaged, match=r"it is missing, but .*-wal is there"):
            SqliteJournal(path, read_only=mode)


# ---- copies --------------------------------------------------------------------------


@contextlib.contextmanager
def held_elsewhere(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process has it open."""
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "open\n"
            yield other
        finally:
            other.kill()


def test_a_copy_of_a_journal_that_is_open_here_is_refused_and_left_as_it_is(path: Path) -> None:
    with SqliteJournal(path) as journal:
        journal.commit([put(1)])
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", f"{path}-copy{suffix}")
        with pytest.raises(DuplicateInstance, match=f"is the same journal as {path} in this very process"):
            SqliteJournal(f"{path}-copy")
        journal.commit([put(2)])
    with SqliteJournal(f"{path}-copy") as copy:
        assert keys(copy) == [1]
        with pytest.raises(DuplicateInstance):
            SqliteJournal(path)
    with SqliteJournal(path) as journal:
        assert keys(journal) == [1, 2]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only the copies of one process are noticed")
def test_a_copy_of_a_journal_that_another_process_has_open_is_refused_until_that_dies(path: Path) -> None:
    SqliteJournal(path).close()
    shutil.copy(path, f"{path}-copy")
    with held_elsewhere(path) as other:
        with pytest.raises(DuplicateInstance, match=f"is the same journal as {path} in process {other.pid}"):
            SqliteJournal(f"{path}-copy")
        other.kill()
        other.wait(50)
        SqliteJournal(f"{path}-copy").close()
