"""``zmqkit journal check``, ``repair``, ``compact`` and ``export``, on journals of every kind."""

from __future__ import annotations

import json
import os
import pty
import re
import warnings
from pathlib import Path
from typing import Any

import pytest

import zmqkit as library
from tests.cli.conftest import Start
from tests.cli.terminal import ANYWHERE
from zmqkit.cli.journal_rows import Judge
from zmqkit.journal import SqliteJournal
from zmqkit.protocol import wire
from zmqkit.protocol.core import Read, Row, Write


@pytest.fixture
def left_behind(zmqkit: Start) -> str:
    """A journal in which three messages wait."""
    zmqkit("push", ANYWHERE, "--journal", "jobs.db", "--no-wait", stdin="one\ntwo\nthree\n").finish()
    return "jobs.db"


def fill(path: Path, bodies: list[Any], *, codec: str = "msgpack") -> None:
    """Send with nobody there to receive."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with library.Pusher(ANYWHERE, journal=path, linger=0, codec=codec) as push:
            push.send_many(bodies)


def flip(path: Path, text: bytes) -> None:
    """Damage a body in the file."""
    content = path.read_bytes()
    assert text in content
    path.write_bytes(content.replace(text, bytes([text[0] ^ 1]) + text[1:]))


# ---- check -----------------------------------------------------------------------


def test_a_sound_journal_is_said_to_be(zmqkit: Start, left_behind: str) -> None:
    check = zmqkit("journal", "check", left_behind)
    lines = check.finish().splitlines()
    assert lines[0].split() == ["log", "sound", "rows", "messages", "unsound", "rows"]
    assert lines[1].split() == ["messages", "1", "3", "0"]
    assert check.err.text == "zmqkit: jobs.db is sound\n"
    found = zmqkit("journal", "check", left_behind, "--json").finish_json()
    assert (found["sound"], found["kind"], found["damages"], found["holder"]) == (True, "pipeline", [], None)
    assert found["logs"]["messages"] == {"rows": 1, "messages": 3, "unsound": 0}


def test_a_damaged_one_is_listed_finding_by_finding(zmqkit: Start, tmp_path: Path) -> None:
    for body in ("one" * 20, "two" * 20, "three" * 20):
        fill(tmp_path / "jobs.db", [body])
    flip(tmp_path / "jobs.db", b"twotwotwo")
    check = zmqkit("journal", "check", "jobs.db")
    lines = check.finish(1).splitlines()
    assert re.fullmatch(r"log messages, key \d+: the row is not what was written", lines[8])
    assert lines[9] == "log messages: holds 2 sound rows for 2 messages, and should hold 3 for 3"
    assert "jobs.db is damaged: see zmqkit journal repair --help" in check.err.text
    found = zmqkit("journal", "check", "jobs.db", "--json").finish_json(1)
    assert not found["sound"]
    assert [(each["log"], each["rows"]) for each in found["damages"]] == [("messages", 1), ("messages", 1)]


def test_a_journal_in_use_is_checked_as_it_was_at_one_moment(zmqkit: Start) -> None:
    push = zmqkit("push", ANYWHERE, "--journal", "jobs.db", stdin=None)
    assert push.address
    push.type("one\n")
    pull = zmqkit("pull", push.address, "--count", "1")
    pull.finish()
    check = zmqkit("journal", "check", "jobs.db", "--json")
    assert check.finish_json()["holder"]["pid"] == push.process.pid
    assert f"jobs.db is in use by process {push.process.pid}" in check.err.text
    assert "this is how it was a moment ago" in check.err.text
    for refused in (
        zmqkit("journal", "repair", "jobs.db", "--to", "new.db"),
        zmqkit("journal", "compact", "jobs.db"),
    ):
        refused.finish(3)
        assert f"process {push.process.pid}" in refused.err.text
    assert zmqkit("journal", "export", "jobs.db").finish() == ""  # its program is asked: all is settled
    push.finish()


def test_what_is_no_journal_is_not_called_a_damaged_one(zmqkit: Start, tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("just some text\n" * 100)
    for arguments in (["check"], ["repair", "--to", "new.db"], ["compact"], ["export"]):
        for name in ("text.db", "nothing.db", "."):
            refused = zmqkit("journal", arguments[0], name, *arguments[1:])
            refused.finish(5)
            assert re.search(r"is not a zmqkit journal|there is no such journal|is a directory", refused.err.text)
    assert os.listdir(tmp_path) == ["text.db"]
    zmqkit("journal", "check").finish(2)
    zmqkit("journal", "repair", "text.db").finish(2)


def test_on_a_terminal_a_bar_shows_how_far_it_is_and_goes(zmqkit: Start, tmp_path: Path, left_behind: str) -> None:
    for _ in range(3):
        fill(tmp_path / left_behind, ["x" * 1000] * 1000)
    ours, theirs = pty.openpty()
    try:
        check = zmqkit("journal", "check", left_behind, "--json", stderr=theirs, environment={"TERM": "xterm"})
        check.process.wait(30)
        os.set_blocking(ours, False)
        shown = os.read(ours, 1 << 20).decode()
        assert check.finish_json()["sound"]
    finally:
        os.close(ours)
        os.close(theirs)
    assert "pages" in shown
    assert "\x1b[2K" in shown  # cleared again


# ---- every kind ------------------------------------------------------------------


def test_the_rows_of_every_kind_of_journal_are_understood(zmqkit: Start, tmp_path: Path) -> None:
    server = library.Server(ANYWHERE, journal=tmp_path / "server.db")

    @server.method
    def shout(text: str) -> str:
        return text.upper()

    with server, library.Client(server.addresses[0], journal=tmp_path / "client.db") as client:
        assert client.options(durable=True).call("shout", "hello") == "HELLO"
    client = library.Client("tcp://127.0.0.1:1", journal=tmp_path / "client.db", timeout=0.05)
    with client, pytest.raises(library.NoReplyInTime):
        client.options(durable=True).call("shout", "later")
    with library.Publisher(ANYWHERE, journal=tmp_path / "publisher.db") as publisher:
        for n in range(10):
            publisher.publish("prices.gold", {"n": n})
        with library.Subscriber(publisher.addresses[0], topics=["prices.#"], cursor="mine") as subscriber:
            for _, message in zip(range(5), subscriber, strict=False):
                assert message.body["n"] >= 0
    found = {
        name: zmqkit("journal", "check", f"{name}.db", "--json").finish_json()
        for name in ("server", "client", "publisher")
    }
    assert {name: report["kind"] for name, report in found.items()} == {name: name for name in found}
    assert found["server"]["logs"]["calls"]["rows"] >= 1
    assert found["client"]["logs"]["requests"]["rows"] == 1
    logs = found["publisher"]["logs"]
    assert (logs["messages"]["messages"], logs["epochs"]["rows"], logs["cursors"]["rows"]) == (10, 1, 1)


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A journal whose rows are what was written, and make no sense."""
    path = tmp_path / "odd.db"
    fill(path, ["one", "two", "three"])
    with SqliteJournal(path) as journal:
        first = journal.totals("messages").first_key
        (row,) = journal.read(Read("messages", first, first, 1))
        nothing_marked = wire.pack([b"\0", {}])
        journal.commit(
            [
                Write("messages", first + 1, 3, row.value),  # begins within the row before it
                Write("messages", first + 100, 2, row.value),  # holds three
                Write("messages", first + 200, 1, b"\0\0\0\1\xc1"),
                Write("marks", first, 1, wire.pack([b"\3", {}])),  # two are marked
                Write("marks", first + 100, 0, nothing_marked),
                Write("marks", first + 300, 0, nothing_marked),
                Write("dead", first, 1, b"no letter"),
            ]
        )
    return path


def test_rows_that_make_no_sense_are_found_and_left_out_of_a_copy(zmqkit: Start, odd: Path) -> None:
    found = zmqkit("journal", "check", odd.name, "--json").finish_json(1)
    first = found["damages"][0]["first"] - 1
    wrong = {(each["log"], each["first"] - first): each["what"] for each in found["damages"] if each["first"]}
    assert wrong.pop(("messages", 200)).startswith("it cannot be decoded")
    assert wrong.pop(("dead", 0)).startswith("it cannot be decoded")
    assert wrong == {
        ("messages", 1): f"it begins at number {first + 1}, and the row before it ends at {first + 2}",
        ("messages", 100): "it holds 3 messages, and is said to hold 2",
        ("marks", 0): "it stands for 2 messages, and is said to stand for 1",
        ("marks", 100): "it marks messages of a row that makes no sense",
        ("marks", 300): "it marks messages of a row that is not there",
    }
    repair = zmqkit("journal", "repair", odd.name, "--to", "new.db", "--json")
    report = repair.finish_json(1)
    unsound = {log: each["unsound"] for log, each in report["logs"].items() if each["unsound"]}
    assert unsound == {"messages": 3, "marks": 3, "dead": 1}
    assert report["to_uuid"] != report["uuid"]
    assert zmqkit("journal", "check", "new.db", "--json").finish_json()["sound"]
    shown = zmqkit("journal", "show", "new.db", "--json").finish_lines()
    assert [each["body"] for each in shown] == ["one", "two", "three"]


@pytest.mark.parametrize("kind", ["pipeline", "publisher", "server", "client"])
@pytest.mark.parametrize(
    "value", [b"", b"\xc1", wire.pack([1]), wire.pack([1, {}, [], 7]), b"\0\0\0\2\x91\x01", b"\xff" * 9]
)
def test_no_row_whatever_it_holds_stops_a_check(kind: str, value: bytes) -> None:
    judge = Judge(kind)
    logs = ["messages", "marks", "dead", "calls", "requests", "epochs", "cursors", "state"]
    wrong = [judge(log, Row(1, 1, value), lambda log, key: Row(key, 1, value)) for log in logs]
    assert sum(each is not None for each in wrong) >= (1 if kind in ("server", "client") else 3)
    assert Judge("an unknown kind")("messages", Row(1, 1, value), lambda log, key: None) is None


# ---- repair and compact ----------------------------------------------------------


def test_a_repaired_journal_delivers_what_was_sound(zmqkit: Start, tmp_path: Path) -> None:
    for body in ("one" * 20, "two" * 20, "three" * 20):
        fill(tmp_path / "jobs.db", [body])
    flip(tmp_path / "jobs.db", b"twotwotwo")
    before = (tmp_path / "jobs.db").read_bytes()
    repair = zmqkit("journal", "repair", "jobs.db", "--to", "new.db", "--keep-uuid")
    assert "the row is not what was written" in repair.finish(1)
    assert "rows were copied to new.db, which is the same journal: never open the old one again" in repair.err.text
    assert (tmp_path / "jobs.db").read_bytes() == before
    serve = zmqkit("journal", "serve", "new.db", ANYWHERE)
    assert zmqkit("pull", serve.address, "--count", "2", "--raw").finish().split() == ["one" * 20, "three" * 20]
    serve.finish()
    again = zmqkit("journal", "repair", "jobs.db", "--to", "new.db")
    again.finish(5)
    assert "new.db is there already" in again.err.text


def test_a_clients_journal_asks_for_a_choice(zmqkit: Start, tmp_path: Path) -> None:
    SqliteJournal(tmp_path / "client.db", kind="client", logs=("requests",)).close()
    asked = zmqkit("journal", "repair", "client.db", "--to", "new.db")
    asked.finish(2)
    assert "--keep-uuid" in asked.err.text
    zmqkit("journal", "repair", "client.db", "--to", "new.db", "--new-uuid").finish()


def test_compacting_says_what_it_gave_back(zmqkit: Start, tmp_path: Path) -> None:
    with SqliteJournal(tmp_path / "jobs.db", durability="process") as journal:
        journal.commit([Write("messages", key, 1, bytes(250)) for key in range(1, 6000)])
        journal.commit([Write("messages", key, 0, None) for key in range(1, 6000) if key % 3])
    found = zmqkit("journal", "compact", "jobs.db", "--json").finish_json()
    assert found["after_bytes"] < found["before_bytes"] * 0.95
    told = zmqkit("journal", "compact", "jobs.db")
    assert told.finish() == ""
    assert f"{found['after_bytes']} bytes before, {found['after_bytes']} now" in told.err.text


# ---- export ----------------------------------------------------------------------


def test_all_that_waits_and_died_is_exported_a_line_each(zmqkit: Start, tmp_path: Path) -> None:
    fill(tmp_path / "jobs.db", [{"n": 1}, b"\x00\xff", "three"])
    with library.Pusher(ANYWHERE, journal=tmp_path / "jobs.db", linger=0) as push:
        with library.Puller[Any](push.addresses[0]) as pull:
            jobs = [pull.receive(30) for _ in range(3)]
            for job in jobs:
                assert job is not None
            found = [job for job in jobs if job is not None]
            found[2].reject("no use")
            found[0].nack(delay=3600)
            found[1].nack(delay=3600)
            assert push.flush(30, until="received") is not None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            push.close()
    lines = zmqkit("journal", "export", "jobs.db").finish_lines()
    assert [(each["state"], each["body"]) for each in lines] == [
        ("waiting", {"n": 1}), ("waiting", {"$base64": "AP8="}), ("dead", "three")
    ]  # fmt: skip
    assert lines[2]["reason"] == "no use"
    assert [each["failures"] for each in lines[:2]] == [1, 1]
    for what, states in (("waiting", ["waiting"] * 2), ("dead", ["dead"]), ("all", ["waiting", "waiting", "dead"])):
        only = zmqkit("journal", "export", "jobs.db", "--what", what).finish_lines()
        assert [each["state"] for each in only] == states


def test_exported_bodies_are_what_push_reads(zmqkit: Start, tmp_path: Path) -> None:
    bodies = [{"n": n, "text": f"ä {n}\n"} for n in range(50)] + ["plain", 7, None, [1, 2.5]]
    fill(tmp_path / "jobs.db", bodies)
    lines = zmqkit("journal", "export", "jobs.db", "--bodies").finish()
    zmqkit("push", ANYWHERE, "--journal", "again.db", "--no-wait", "--json-lines", stdin=lines).finish()
    again = zmqkit("journal", "export", "again.db", "--bodies").finish()
    assert [json.loads(line) for line in again.splitlines()] == bodies


def test_a_body_that_nobody_here_can_decode_is_exported_as_its_bytes(zmqkit: Start, tmp_path: Path) -> None:
    library.codec.register("care-test", lambda body: str(body).encode("utf-16"), lambda data: data.decode("utf-16"))
    fill(tmp_path / "jobs.db", ["ab"], codec="care-test")
    fill(tmp_path / "jobs.db", ["plain"])
    first, second = zmqkit("journal", "export", "jobs.db").finish_lines()
    assert (first["codec"], second["body"]) == ("care-test", "plain")
    assert "$base64" in first["body"]
    only = zmqkit("journal", "export", "jobs.db", "--bodies")
    assert only.finish(1) == '"plain"\n'
    assert "1 messages were left out" in only.err.text
