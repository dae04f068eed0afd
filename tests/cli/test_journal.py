"""``zmqkit journal``: what closed programs left behind, who holds the rest, and what is no journal."""

from __future__ import annotations

import datetime
import re
import signal
import sqlite3
from pathlib import Path

import pytest

import zmqkit as library
from tests.cli.conftest import Start
from tests.cli.terminal import ANYWHERE, Command
from zmqkit.errors import EncodeError


@pytest.fixture
def left_behind(zmqkit: Start) -> str:
    """A journal in which three messages wait."""
    zmqkit("push", ANYWHERE, "--journal", "jobs.db", "--no-wait", stdin="one\ntwo\nthree\n").finish()
    return "jobs.db"


def fill(path: Path, *bodies: object, codec: str = "msgpack") -> None:
    """Send with nobody there to receive."""
    with (
        pytest.warns(RuntimeWarning, match="not settled"),
        library.Pusher(ANYWHERE, journal=path, linger=0, codec=codec) as push,
    ):
        push.send_many(bodies)


def test_no_wait_says_how_to_deliver_what_waits(zmqkit: Start) -> None:
    push = zmqkit("push", ANYWHERE, "--journal", "jobs.db", "--no-wait", "--json", stdin="one\n")
    assert push.finish_json() == {
        "found": 0, "sent": 1, "acked": 0, "dead": 0, "expired": 0, "waiting": 1, "journal": "jobs.db"
    }  # fmt: skip
    assert "zmqkit journal serve jobs.db ADDRESS" in push.err.text


def test_a_killed_push_leaves_a_journal_that_is_listed_shown_and_served(zmqkit: Start) -> None:
    push = zmqkit("push", ANYWHERE, "--journal", "jobs.db", stdin="one\ntwo\nthree\n")
    (job,) = zmqkit("pull", push.address, "--count", "1").finish_lines()
    push.kill()

    (listed,) = zmqkit("journal", "ls", "jobs.db", "--json").finish_json()
    # Whether the ack was stored before the kill is open; everything else is certain.
    assert (listed["state"], listed["dead"]) == ("closed", 0)
    assert listed["waiting"] in (2, 3)
    shown = zmqkit("journal", "show", "jobs.db", "--json").finish_lines()
    assert [each["body"] for each in shown] == ["one", "two", "three"][3 - listed["waiting"] :]
    assert shown[-1]["id"].rpartition("-")[0] == job["id"].rpartition("-")[0]

    serve = zmqkit("journal", "serve", "jobs.db", ANYWHERE, "--json")
    jobs = zmqkit("pull", serve.address, "--count", str(len(shown))).finish_lines()
    assert [(each["id"], each["body"]) for each in jobs] == [(each["id"], each["body"]) for each in shown]
    assert serve.finish_json() == {
        "found": len(shown), "sent": 0, "acked": len(shown), "dead": 0, "expired": 0, "waiting": 0, "journal": "jobs.db"
    }  # fmt: skip
    assert zmqkit("journal", "ls", "jobs.db", "--json").finish_json()[0]["waiting"] == 0


def test_the_table_of_what_waits_says_its_key_and_when_it_is_due(zmqkit: Start) -> None:
    more = ("--journal", "jobs.db", "--no-wait")
    zmqkit("push", ANYWHERE, *more, stdin="now\n").finish()
    zmqkit("push", ANYWHERE, *more, "--key", "mine", "--delay", "3600", stdin="later\n").finish()
    (due,) = [each["due"] for each in zmqkit("journal", "show", "jobs.db", "--json").finish_lines() if each["due"]]
    columns, now, later = (re.split(r" {2,}", line.strip()) for line in
                           zmqkit("journal", "show", "jobs.db").finish().splitlines())  # fmt: skip
    assert columns == ["id", "key", "failures", "sent at", "due", "body"]
    assert (now[1], now[4:]) == ("-", ["-", "now"])
    assert (later[1], later[5]) == ("mine", "later")
    assert abs(datetime.datetime.fromisoformat(later[4]) - datetime.datetime.fromisoformat(due)) < datetime.timedelta(
        seconds=1
    ), "to the second"


def test_a_later_push_delivers_what_waits_too(zmqkit: Start, left_behind: str) -> None:
    push = zmqkit("push", ANYWHERE, "--journal", left_behind, "--json", stdin="four\n")
    assert zmqkit("pull", push.address, "--count", "4", "--raw").finish().split() == ["one", "two", "three", "four"]
    settled = push.finish_json()
    assert (settled["found"], settled["sent"], settled["acked"], settled["waiting"]) == (3, 1, 4, 0)


def test_serve_runs_out_of_time(zmqkit: Start, left_behind: str) -> None:
    serve = zmqkit("journal", "serve", left_behind, ANYWHERE, "--timeout", "0.1", "--json")
    assert serve.finish_json(4)["waiting"] == 3


def test_serve_has_nothing_to_do_when_nothing_waits(zmqkit: Start, tmp_path: Path) -> None:
    library.Pusher(ANYWHERE, journal=tmp_path / "empty.db").open().close()
    zmqkit("journal", "serve", "empty.db", ANYWHERE).finish()
    listed = zmqkit("journal", "show", "empty.db")
    assert listed.finish() == ""
    assert listed.err.text == "zmqkit: no messages wait in empty.db\n"
    letters = zmqkit("journal", "dead", "ls", "empty.db")
    assert letters.finish() == ""
    assert letters.err.text == "zmqkit: no dead letters in empty.db\n"


def test_serve_forever_ends_by_a_signal(zmqkit: Start, left_behind: str) -> None:
    serve = zmqkit("journal", "serve", left_behind, ANYWHERE, "--forever", "--json")
    zmqkit("pull", serve.address, "--count", "3").finish()
    serve.signal(signal.SIGTERM)
    assert serve.finish_json()["acked"] == 3


def test_what_is_settled_of_a_batch_is_not_shown(zmqkit: Start, left_behind: str) -> None:
    """Three lines that were sent at once are one row; what became of each is noted beside it."""
    serve = zmqkit("journal", "serve", left_behind, ANYWHERE)
    only_two = 'read -r word; test "$word" = two'
    pull = zmqkit("pull", serve.address, "--json", "--prefetch", "1", "--exec", only_two)
    for message in (4096, 4097, 4098):  # the first may come again before the third comes at all
        pull.printed(f'-{message}"')
    pull.signal(signal.SIGINT)
    pull.finish()
    serve.signal(signal.SIGINT)
    serve.said("stopping")
    serve.signal(signal.SIGINT)
    serve.finish(128 + signal.SIGINT)
    shown = zmqkit("journal", "show", left_behind, "--json").finish_lines()
    assert [each["body"] for each in shown] == ["one", "three"]
    assert all(each["failures"] >= 1 for each in shown)


# ---- held, missing, damaged, no journal ------------------------------------------


def test_a_journal_in_use_names_its_holder_everywhere(zmqkit: Start) -> None:
    push = zmqkit("push", ANYWHERE, "--journal", "jobs.db", stdin=None)
    assert push.address
    others: list[tuple[str | Path, ...]] = [
        ("journal", "compact", "jobs.db"),
        ("journal", "serve", "jobs.db", ANYWHERE),
        ("push", ANYWHERE, "--journal", "jobs.db"),
    ]
    for arguments in others:
        refused = zmqkit(*arguments)
        refused.finish(3)
        assert f"process {push.process.pid}" in refused.err.text
        assert "zmqkit push" in refused.err.text
    push.type("waits\n")
    for _ in range(200):  # until it is stored
        (listed,) = zmqkit("journal", "ls", ".", "--json").finish_json()
        if listed["waiting"]:
            break
    assert (listed["state"], listed["waiting"], listed["dead"], listed["error"]) == ("in use", 1, 0, None)
    assert listed["holder"]["pid"] == push.process.pid
    shown = zmqkit("journal", "ls", "jobs.db")
    assert re.search(r"jobs\.db +1 +0 .* in use", shown.finish())
    assert f"jobs.db is in use by process {push.process.pid}" in shown.err.text
    zmqkit("pull", push.address, "--count", "1").finish()
    push.finish()


def test_a_journal_whose_program_does_not_answer_is_listed_without_its_messages(zmqkit: Start) -> None:
    publish = zmqkit("publish", ANYWHERE, "news", "--journal", "news.db", "--stay", stdin="one\n")
    assert publish.address
    listed = zmqkit("journal", "ls", "news.db", "--json")
    (told,) = listed.finish_json(3)
    assert (told["state"], told["waiting"], told["holder"]["pid"]) == ("in use", None, publish.process.pid)
    assert f"process {publish.process.pid}" in listed.err.text
    publish.signal(signal.SIGTERM)
    publish.finish()


def complaint(command: Command) -> str:
    """The one line of a command that found no journal it could use."""
    command.finish(5)
    (line,) = command.err.text.splitlines()
    return line


def test_what_is_no_journal_is_left_as_it_is(zmqkit: Start, tmp_path: Path) -> None:
    text, other, empty = (tmp_path / name for name in ("text.db", "other.db", "empty.db"))
    text.write_bytes(b"just some text\n" * 100)
    with sqlite3.connect(other) as database:
        database.execute("create table t(a)")
    database.close()
    empty.touch()
    before = [path.read_bytes() for path in (text, other, empty)]
    listed = zmqkit("journal", "ls", text, other, empty, "--json")
    states = listed.finish_json(5)
    assert [each["state"] for each in states] == ["unreadable"] * 3
    assert all("is not a zmqkit journal" in each["error"] for each in states)
    assert "is not a zmqkit journal" in complaint(zmqkit("journal", "serve", "other.db", ANYWHERE))
    assert "is not a zmqkit journal" in complaint(zmqkit("push", ANYWHERE, "--journal", "text.db", stdin="x\n"))
    assert [path.read_bytes() for path in (text, other, empty)] == before
    assert len(list(tmp_path.iterdir())) == 3


def test_a_journal_of_a_publisher_is_named_and_says_how_it_is_read(zmqkit: Start) -> None:
    published = zmqkit("publish", ANYWHERE, "a", "--journal", "said.db", stdin="one\n")
    published.finish()
    for command in (
        ["show", "said.db"],
        ["serve", "said.db", ANYWHERE],
        ["export", "said.db"],
        ["dead", "ls", "said.db"],
    ):
        refused = zmqkit("journal", *command)
        refused.finish(5)
        for told in ("is the journal of a publisher", "--journal said.db", "subscribe ADDRESS --from earliest"):
            assert told in " ".join(refused.err.text.split())
    (listed,) = zmqkit("journal", "ls", "said.db", "--json").finish_json()
    assert (listed["kind"], listed["waiting"]) == ("publisher", None)


def test_a_missing_journal_is_not_made(zmqkit: Start, tmp_path: Path) -> None:
    assert "there is no such journal" in complaint(zmqkit("journal", "serve", "jobs.db", ANYWHERE))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command", [["journal", "show"], ["journal", "check"], ["journal", "dead", "ls"], ["push", ANYWHERE, "--journal"]]
)
@pytest.mark.parametrize("path", ["a\udcff.db", ":memory:"])
def test_a_path_at_which_no_journal_can_be_is_a_mistake_of_the_command_line(
    zmqkit: Start, command: list[str], path: str
) -> None:
    told = zmqkit(*command, path)
    told.finish(2)
    assert "journal must be" in told.err.text


def test_a_journal_by_an_odd_name_is_listed_as_one_that_cannot_be_read(
    zmqkit: Start, left_behind: str, tmp_path: Path
) -> None:
    (tmp_path / left_behind).rename(tmp_path / "a\udcff.db")
    told = zmqkit("journal", "ls", ".")
    told.finish(5)
    assert "cannot be a journal" in told.err.text


def test_a_truncated_journal_is_refused(zmqkit: Start, left_behind: str, tmp_path: Path) -> None:
    path = tmp_path / left_behind
    path.write_bytes(path.read_bytes()[:8192])
    assert "damaged" in complaint(zmqkit("journal", "show", left_behind))


def test_a_folder_lists_its_journals_only(zmqkit: Start, left_behind: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no journal")
    with sqlite3.connect(tmp_path / "other.db") as database:
        database.execute("create table t(a)")
    database.close()
    library.Pusher(ANYWHERE, journal=tmp_path / "another.db").open().close()
    listed = zmqkit("journal", "ls", ".", "--json").finish_json()
    assert [(each["path"], each["waiting"]) for each in listed] == [("another.db", 0), ("jobs.db", 3)]
    table = zmqkit("journal", "ls", ".").finish().splitlines()
    assert table[0].split() == ["journal", "waiting", "dead", "size", "state"]
    assert table[2].split()[:3] == ["jobs.db", "3", "0"]


def test_a_folder_without_journals_lists_none(zmqkit: Start) -> None:
    listed = zmqkit("journal", "ls", ".")
    assert listed.finish() == ""
    assert "no journals" in listed.err.text


# ---- bodies ----------------------------------------------------------------------


def test_a_long_journal_is_shown_in_part_unless_asked(zmqkit: Start, tmp_path: Path) -> None:
    fill(tmp_path / "jobs.db", *range(1500))
    some = zmqkit("journal", "show", "jobs.db", "--limit", "2")
    assert len(some.finish().splitlines()) == 3
    assert "2 of 1500 shown" in some.err.text
    everything = zmqkit("journal", "show", "jobs.db", "--limit", "0").finish().splitlines()
    assert [line.split()[-1] for line in everything] == ["body", *map(str, range(1500))]
    assert len(zmqkit("journal", "show", "jobs.db", "--json").finish_lines()) == 100


def test_what_json_lacks_is_shown_all_the_same(zmqkit: Start, tmp_path: Path) -> None:
    when = datetime.datetime(2026, 11, 20, 10, 30, tzinfo=datetime.UTC)
    fill(tmp_path / "jobs.db", {1: b"\x00\xff", "when": when}, float("inf"), "esc \x1b[2J", {b"k": [b"", 2**63]})
    shown = zmqkit("journal", "show", "jobs.db", "--json").finish_lines()
    assert [each["body"] for each in shown] == [
        {"1": {"$base64": "AP8="}, "when": "2026-11-20T10:30:00+00:00"},
        "inf",
        "esc \x1b[2J",
        {'{"$base64": "aw=="}': [{"$base64": ""}, 2**63]},
    ]
    table = zmqkit("journal", "show", "jobs.db").finish()
    assert "\x1b" not in table
    assert "esc \\x1b[2J" in table


def test_a_body_of_an_unknown_codec_does_not_hide_the_others(zmqkit: Start, tmp_path: Path) -> None:
    def encode(body: object) -> bytes:
        if not isinstance(body, str):
            raise EncodeError("text only")
        return body.encode("utf-16")

    library.codec.register("cli-test", encode, lambda data: data.decode("utf-16"))
    fill(tmp_path / "jobs.db", "ab", codec="cli-test")
    fill(tmp_path / "jobs.db", "plain")
    first, second = zmqkit("journal", "show", "jobs.db", "--json").finish_lines()
    assert first["codec"] == "cli-test"
    assert "cli-test" in first["unreadable"]
    assert "$base64" in first["body"]
    assert second["body"] == "plain"
    assert "cli-test" in zmqkit("journal", "show", "jobs.db").finish()
