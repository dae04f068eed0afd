"""docs/journal-format.md says what the files are, and a file of each version opens and is drained."""

from __future__ import annotations

import os
import re
import shutil
import socket
import zlib
from pathlib import Path
from typing import Any

import apsw
import pytest

import zmqkit
from tests.journal.faults import WRITE_ERROR, Disk
from tests.journal.helpers import killed_owner, put, watermark
from zmqkit.cli.journal_rows import Judge
from zmqkit.errors import JournalError, JournalVersion
from zmqkit.journal import SqliteJournal, checking, layout, sqlite
from zmqkit.journal.compacting import compact
from zmqkit.journal.store import checksum
from zmqkit.patterns.pipeline import sending
from zmqkit.patterns.pubsub import rows as pubsub
from zmqkit.patterns.reqrep import rows as reqrep

PAGE = (Path(__file__).parents[2] / "docs" / "journal-format.md").read_text()
FIXTURES = Path(__file__).with_name("fixtures")
ANYWHERE = "tcp://127.0.0.1:*"


def section(number: int) -> str:
    """One section of the page."""
    found = re.search(rf"^## {number}\. .*?(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[0]


def table(text: str) -> dict[str, str]:
    """First and last cells of the rows of the tables in it."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {row[0].strip("`"): row[-1] for row in rows}


# ---- the page --------------------------------------------------------------------


def test_the_page_has_the_tables_that_a_journal_has(path: Path) -> None:
    (block,) = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
    said = set(block.strip().splitlines())
    with SqliteJournal(path, logs=("NAME".lower(),)) as journal:
        journal.commit([put(1, log="name")])
    database = apsw.Connection(str(path))
    assert {sql.replace("log_name", "log_NAME") for sql in layout.tables_of(database)} == said
    assert {name for (name,) in database.execute("SELECT name FROM about")} == table(section(3)).keys() & {
        "kind", "uuid", "created", "crc"
    }  # fmt: skip
    assert "name" in table(section(3))
    database.close()


def test_the_page_has_the_numbers_of_the_header(path: Path) -> None:
    SqliteJournal(path).close()
    header = path.read_bytes()[:100]
    said = table(section(2))
    assert said["60-63"] == str(layout.FORMAT_VERSION) == str(int.from_bytes(header[60:64], "big"))
    assert f"Format version {layout.FORMAT_VERSION}." in PAGE
    assert said["68-71"].partition(",")[0] == f"0x{layout.APPLICATION_ID:X}" == f"0x{header[68:72].hex().upper()}"
    assert said["16-17"] == str(layout.PAGE_BYTES) == str(int.from_bytes(header[16:18], "big"))
    assert header[52:56] != bytes(4) != header[64:68]
    assert list(table(section(8)))[-1] == str(layout.FORMAT_VERSION)
    assert f"up to {sqlite.COUNT_UP_TO:,} rows" in PAGE.replace("\n", " ")


def test_the_page_has_the_kinds_and_their_logs() -> None:
    said = {
        kind: logs for kind, logs in table(section(3)).items() if kind in ("pipeline", "server", "client", "publisher")
    }
    found = {
        "pipeline": sending.LOGS,
        "server": (reqrep.CALLS,),
        "client": (reqrep.REQUESTS,),
        "publisher": pubsub.LOGS,
    }
    assert said == {kind: ", ".join(f"`{log}`" for log in logs) for kind, logs in found.items()}


def test_the_page_has_the_checksums(path: Path) -> None:
    with SqliteJournal(path) as journal:
        journal.commit([put(7, b"value", weight=3)])
    database = apsw.Connection(str(path))
    rows = "log_messages WHERE key = 7"
    assert database.execute(f"SELECT crc FROM {rows}").get == checksum(7, 3, b"value")
    assert checksum(7, 3, b"value") == zlib.crc32((7).to_bytes(8, "big") + (3).to_bytes(8, "big") + b"value")
    commits, logs, crc = next(iter(database.execute("SELECT commits, logs, crc FROM state WHERE id = 1")))
    assert zlib.crc32(f"{commits}\n{logs}".encode()) == crc
    assert logs.splitlines()[0] == "messages 1 3 7"
    about = {str(name): value for name, value in database.execute("SELECT name, value FROM about")}
    assert str(zlib.crc32(f"{about['kind']}\n{about['uuid']}\n{about['created']}".encode())) == about["crc"]
    database.close()


def test_the_page_has_the_sidecar(path: Path) -> None:
    killed_owner(path, "journal.commit([put(7)])")
    content = Path(f"{path}.lock").read_bytes()
    assert len(content) == 1024
    said = table(section(6))
    assert list(said)[1:] == ["512-767", "768-788", "789-797", "798-1023"]
    names = re.sub(r"=\S+", "=", content[512:768].decode()).split()
    assert names == re.sub(r"=[\w-]+", "=", said["512-767"].split("`")[1]).split()
    assert re.fullmatch(rb"\d{20}\n", content[768:789])
    assert int(content[789:797], 16) == zlib.crc32(content[512:789] + content[798:])
    assert content[798:].startswith(b"synced=2 messages=7 marks=0 dead=0 ")
    assert content.startswith(b"pid=")
    assert f" host={socket.gethostname()} " in content[:512].decode()
    mark = watermark(path)
    assert mark is not None
    assert (mark.commits, mark.opening) == (2, 1)


def test_the_page_names_all_files(path: Path) -> None:
    SqliteJournal(path).close()
    with SqliteJournal(path) as journal:
        journal.commit([put(1)])
        assert set(os.listdir(path.parent)) <= table(section(1)).keys()


# ---- files of older versions -----------------------------------------------------


@pytest.fixture(params=sorted(FIXTURES.glob("v*.db")), ids=lambda path: path.name)
def old(request: pytest.FixtureRequest, path: Path) -> Path:
    """A copy of a file that an older version left."""
    shutil.copy(request.param, path)
    return path


def test_there_is_a_file_of_each_version() -> None:
    assert [path.name for path in sorted(FIXTURES.glob("v*.db"))] == [
        f"v{version}.db" for version in range(1, layout.FORMAT_VERSION + 1)
    ]


def test_a_file_of_an_older_version_is_sound(old: Path) -> None:
    report = checking.check(old, Judge, lambda *_: None)
    assert report.sound, report.damages
    assert (report.kind, report.weight) == ("pipeline", {"messages": 12, "marks": 2, "dead": 1})


def test_a_file_of_an_older_version_is_opened_and_drained(old: Path) -> None:
    with SqliteJournal(old) as journal:
        uuid = journal.uuid
        connection = journal._connection
        assert connection is not None
        assert len(layout.openings(connection)) == 4  # three of its own, and this one
    expected = [{"n": n, "text": "ä" * n} for n in range(2, 10)] + ["with headers", b"\x00\xff"]
    with zmqkit.Pusher(ANYWHERE, journal=old) as push, zmqkit.Puller[Any](push.addresses[0]) as pull:
        jobs = []
        for _ in expected:
            job = pull.receive(30)
            assert job is not None
            jobs.append((job.id, job.body, dict(job.headers), job.failures))
            job.ack()
        assert push.flush(30).acked >= len(expected)
    jobs.sort()
    assert sorted(map(repr, expected)) == sorted(repr(body) for _, body, _, _ in jobs)
    assert {id.partition("-")[0] for id, *_ in jobs} == {uuid[:16]}
    assert [(body, headers) for _, body, headers, _ in jobs if headers] == [("with headers", {"who": "fixture"})]
    assert [body["n"] for _, body, _, failures in jobs if failures] == [2]
    with SqliteJournal(old) as journal:
        assert journal.totals("messages").rows == journal.totals("marks").rows == 0
        assert journal.totals("dead").rows == 1  # it stays for who looks after it
        assert journal.verify() == 1


# ---- the way from one version to the next ----------------------------------------

MORE = "CREATE TABLE more(name TEXT PRIMARY KEY) STRICT"


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A library of the next version, which keeps one table more; undo it, and it is ours again."""
    version = layout.FORMAT_VERSION
    monkeypatch.setattr(layout, "FORMAT_VERSION", version + 1)
    monkeypatch.setattr(layout, "_SCHEMA", (*layout._SCHEMA, MORE))
    monkeypatch.setattr(layout, "UPGRADES", {**layout.UPGRADES, version: lambda connection: connection.execute(MORE)})
    return monkeypatch


def test_a_newer_library_upgrades_a_file_and_an_older_one_refuses_it_then(
    old: Path, newer: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    content = old.read_bytes()
    for look in (lambda: SqliteJournal(old, read_only=True), lambda: checking.check(old, Judge, lambda *_: None)):
        with pytest.raises(
            JournalVersion, match=r"was left as it is\. Open it once by a peer, or by zmqkit journal serve"
        ):
            look()
    assert old.read_bytes() == content
    with SqliteJournal(old) as journal:
        assert int.from_bytes(old.read_bytes()[60:64], "big") == layout.FORMAT_VERSION  # at once, also in the header
        assert (journal.totals("messages").weight, journal.totals("marks").weight) == (12, 2)
    with SqliteJournal(old) as journal:
        journal.verify()
    content = old.read_bytes()
    newer.undo()
    for read_only in (True, False):
        with pytest.raises(
            JournalVersion, match=r"of format 2, and this zmqkit reads format 1; .* the zmqkit that wrote"
        ):
            SqliteJournal(old, read_only=read_only)
    assert old.read_bytes() == content


def test_a_newer_version_that_is_in_the_log_still_is_refused_too(path: Path) -> None:
    """The newer library died between its upgrade and the moment when the header said so."""
    killed_owner(path, "journal._connection.pragma('user_version', 2)")
    assert int.from_bytes(path.read_bytes()[60:64], "big") == 1
    wal = Path(f"{path}-wal").read_bytes()
    for look in (
        lambda: SqliteJournal(path, read_only=True),
        lambda: SqliteJournal(path),
        lambda: compact(path),
        lambda: checking.check(path, Judge, lambda *_: None),
    ):
        with pytest.raises(JournalVersion, match="of format 2, and this zmqkit reads format 1"):
            look()
    assert Path(f"{path}-wal").read_bytes() == wal


@pytest.mark.parametrize("after", range(12))
def test_an_upgrade_that_a_disk_interrupts_leaves_the_old_file_or_the_new_one(
    old: Path, newer: pytest.MonkeyPatch, disk: Disk, after: int
) -> None:
    disk.fail("write", WRITE_ERROR, after=after)
    try:
        SqliteJournal(old, vfs=disk.name).close()
    except JournalError:
        assert disk.hits
    disk.heal()
    with SqliteJournal(old) as journal:
        assert (journal.totals("messages").weight, journal.totals("dead").weight) == (12, 1)
        journal.verify()


def test_an_upgrade_that_fails_leaves_the_file_to_the_library_that_wrote_it(
    old: Path, newer: pytest.MonkeyPatch
) -> None:
    def fail(connection: apsw.Connection) -> None:
        connection.execute(MORE)
        raise apsw.SQLError("injected")

    newer.setattr(layout, "UPGRADES", {layout.FORMAT_VERSION - 1: fail})
    with pytest.raises(JournalError):
        SqliteJournal(old)
    newer.undo()
    with SqliteJournal(old) as journal:
        assert journal.totals("messages").weight == 12
