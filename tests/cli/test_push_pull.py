"""``zmqkit push`` and ``zmqkit pull``, as scripts use them."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import socket
import time
import uuid
from datetime import datetime
from pathlib import Path

import pytest

from tests.cli.conftest import Start
from tests.cli.terminal import ANYWHERE, WAIT_S, Command
from zmqkit import Puller, Pusher
from zmqkit.cli.envelopes import NotAnEnvelope, Options, checked, envelope_line, headers_of
from zmqkit.cli.outcome import Code, Failed


def test_lines_go_through_and_both_ends_exit_with_0(zmqkit: Start) -> None:
    push = zmqkit("push", ANYWHERE, "--json", stdin="one\ntwo\r\n\nfour")
    jobs = zmqkit("pull", push.address, "--count", "4").finish_lines()
    assert [job["body"] for job in jobs] == ["one", "two", "", "four"]
    assert [job["deliveries"] for job in jobs] == [1, 1, 1, 1]
    assert len({job["id"] for job in jobs}) == 4
    expected = {"found": 0, "sent": 4, "acked": 4, "dead": 0, "expired": 0, "waiting": 0, "journal": None}
    assert push.finish_json() == expected


def test_json_lines_come_from_files_and_stdin(zmqkit: Start, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"n": 1}\n\n[2, "ü"]\n')
    (tmp_path / "b.jsonl").write_text("null")
    push = zmqkit("push", ANYWHERE, "a.jsonl", "-", "b.jsonl", "--json-lines", stdin="3.5\n")
    jobs = zmqkit("pull", push.address, "--count", "4").finish_lines()
    assert [job["body"] for job in jobs] == [{"n": 1}, [2, "ü"], 3.5, None]
    push.finish()


def test_raw_prints_bodies_as_they_are(zmqkit: Start) -> None:
    push = zmqkit("push", ANYWHERE, "--json-lines", stdin='"a \\"b\\""\n{"n": [1, null]}\n')
    assert zmqkit("pull", push.address, "--count", "2", "--raw").finish() == 'a "b"\n{"n": [1, null]}\n'
    push.finish()


def test_a_slow_source_is_sent_as_it_comes(zmqkit: Start) -> None:
    push = zmqkit("push", ANYWHERE, stdin=None)
    pull = zmqkit("pull", push.address, "--raw")
    for word in ("one", "two"):
        push.type(f"{word}\n")
        assert pull.printed(word) == word
    push.finish()


def test_the_puller_may_bind(zmqkit: Start) -> None:
    pull = zmqkit("pull", ANYWHERE, "--bind", "--count", "2", "--raw")
    zmqkit("push", pull.address, "--connect", stdin="one\ntwo\n").finish()
    assert pull.finish() == "one\ntwo\n"


def test_they_find_each_other_by_name(zmqkit: Start) -> None:
    name = f"cli-{uuid.uuid4().hex[:8]}"
    pull = zmqkit("pull", f"zeroconf://{name}", "--count", "1", "--raw")
    push = zmqkit("push", ANYWHERE, "--announce", name, stdin="found\n")
    assert pull.finish() == "found\n"
    push.finish()


def test_one_puller_takes_from_several_addresses(zmqkit: Start) -> None:
    pushes = [zmqkit("push", ANYWHERE, stdin=f"{word}\n") for word in ("one", "two")]
    pull = zmqkit("pull", *[push.address for push in pushes], "--count", "2", "--raw")
    assert sorted(pull.finish().split()) == ["one", "two"]
    for push in pushes:
        push.finish()


def test_counted_pullers_leave_the_rest_to_others(zmqkit: Start) -> None:
    push = zmqkit("push", ANYWHERE, stdin="".join(f"{n}\n" for n in range(10)))
    first = zmqkit("pull", push.address, "--count", "3", "--raw").finish().split()
    second = zmqkit("pull", push.address, "--count", "7").finish_lines()
    assert first + [job["body"] for job in second] == [str(n) for n in range(10)]
    assert all(job["failures"] == 0 for job in second)
    push.finish()


# ---- what a message has besides its body ---------------------------------------------


def test_keys_priorities_and_headers_are_for_all_lines(zmqkit: Start) -> None:
    arguments = ("--key", "k", "--priority", "-3", "--header", "a=b", "--header", "c=d=e", "--ttl", "3600")
    push = zmqkit("push", ANYWHERE, *arguments, stdin="one\ntwo\n")
    jobs = zmqkit("pull", push.address, "--count", "2").finish_lines()
    assert [(job["body"], job["key"]) for job in jobs] == [("one", "k"), ("two", "k")]
    assert [job["headers"] for job in jobs] == [{"a": "b", "c": "d=e"}] * 2
    push.finish()


def test_envelopes_bring_along_what_their_message_wants(zmqkit: Start, tmp_path: Path) -> None:
    lines = [
        {"body": "low", "priority": -1},
        {"body": "own", "id": "order-1", "key": "mine", "headers": {"a": "own"}},
        {"body": "again", "id": "order-1"},
        {"body": {"n": 1}, "priority": 5, "key": None, "ttl": None},
    ]
    (tmp_path / "jobs.jsonl").write_text("\n\n".join(map(json.dumps, lines)))
    common = ("--envelopes", "--journal", "jobs.db", "--no-wait", "--key", "usual", "--header", "a=b", "--json")
    sent = zmqkit("push", ANYWHERE, "jobs.jsonl", *common).finish_json()
    assert (sent["sent"], sent["waiting"]) == (3, 3), "one was sent before under that id"
    shown = zmqkit("journal", "export", "jobs.db").finish_lines()
    assert [(each["body"], each["key"], each["priority"], each["headers"]) for each in shown] == [
        ("low", "usual", -1, {"a": "b"}),
        ("own", "mine", 0, {"a": "own"}),
        ({"n": 1}, "usual", -1, {"a": "b"}),  # never past the other one of its key
    ]
    exported = "\n".join(map(json.dumps, shown))
    push = zmqkit("push", ANYWHERE, "--envelopes", stdin=exported)
    jobs = zmqkit("pull", push.address, "--count", "3").finish_lines()
    assert {(job["id"], job["key"]) for job in jobs} == {(each["id"], each["key"]) for each in shown}
    push.finish()


def test_what_was_exported_keeps_its_times_and_its_bytes(zmqkit: Start, tmp_path: Path) -> None:
    push = Pusher(ANYWHERE, journal=tmp_path / "a.db", linger=0)
    push.send({"raw": [b"\x00\xff"]}, id="bytes")
    push.send("late", delay=3600, id="late")
    push.send("brief", ttl=3600, id="brief")
    with pytest.warns(RuntimeWarning, match="3 messages"):
        push.close()
    exported = zmqkit("journal", "export", "a.db").finish()
    zmqkit("push", ANYWHERE, "--envelopes", "--journal", "b.db", "--no-wait", stdin=exported).finish()
    was, now = (
        {each["id"]: each for each in map(json.loads, text.splitlines())}
        for text in (exported, zmqkit("journal", "export", "b.db").finish())
    )
    assert now["bytes"]["body"] == was["bytes"]["body"] == {"raw": [{"$base64": "AP8="}]}
    for id, name in (("late", "due"), ("brief", "expires")):
        moved = datetime.fromisoformat(now[id][name]) - datetime.fromisoformat(was[id][name])
        assert abs(moved.total_seconds()) < WAIT_S, "not an hour from now once more, let alone at once"
    assert envelope_line(Options())(b'{"body": {"$base64": "AP8="}}').body == b"\x00\xff"


@pytest.mark.parametrize(
    ("line", "delay", "ttl"),
    [
        ('"due": "1970-01-01T00:02:00+00:00"', 20.0, None),
        ('"due": "1970-01-01T00:01:00+00:00", "expires": "1970-01-01T00:02:00+00:00"', 0.0, 20.0),
        ('"expires": "1970-01-01T00:01:00+00:00"', 7.0, 0.001),
        ('"due": "1970-01-01T00:02:00+00:00", "delay": 3, "ttl": 4, "expires": null', 3, 4),
    ],
    ids=["due", "overdue", "expired", "seconds go before times"],
)
def test_times_of_an_envelope_count_from_now(line: str, delay: float, ttl: float | None) -> None:
    found = envelope_line(Options(delay=7.0), lambda: 100.0)(f'{{"body": 1, {line}}}'.encode())
    assert (found.delay, found.ttl) == (delay, ttl)


def test_what_is_delayed_is_waited_for_and_what_is_late_expires(zmqkit: Start) -> None:
    push = zmqkit("push", ANYWHERE, "--delay", "0.3", "--json", stdin="x\n")
    zmqkit("pull", push.address, "--count", "1").finish()
    assert push.finish_json()["acked"] == 1
    late = zmqkit("push", ANYWHERE, "--ttl", "0.05", "--json", stdin="x\n").finish_json(1)
    assert (late["expired"], late["waiting"]) == (1, 0)
    waits = zmqkit("push", ANYWHERE, "--delay", "3600", "--timeout", "0.2", "--json", stdin="x\n").finish_json(4)
    assert waits["waiting"] == 1


def test_an_id_is_for_one_message(zmqkit: Start) -> None:
    push = zmqkit("push", ANYWHERE, "--id", "order-7", "--journal", "jobs.db", "--no-wait", stdin="one\ntwo\n")
    push.finish(1)
    assert "stdin:2: --id is the id of one message, and this is the second one" in push.err.text
    again = zmqkit("push", ANYWHERE, "--id", "order-7", "--journal", "jobs.db", "--json", stdin="one\n")
    (job,) = zmqkit("pull", again.address, "--count", "1").finish_lines()
    assert (job["id"], job["body"]) == ("order-7", "one")
    assert again.finish_json()["sent"] == 0, "it was sent before"


# ---- bad input -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--delay", "-1"), "delay must be"),
        (("--priority", "high"), "Invalid value for '--priority'"),
        (("--header", "a"), "--header takes NAME=VALUE, got 'a'"),
        (("--json-lines", "--envelopes"), "exclude each other"),
    ],
)
def test_what_cannot_be_asked_for_a_message_is_refused_before_anything_is_sent(
    zmqkit: Start, arguments: tuple[str, ...], why: str
) -> None:
    push = zmqkit("push", ANYWHERE, *arguments, stdin="x\n")
    push.finish(2)
    assert why in " ".join(push.err.text.replace("│", " ").split())


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (Options(delay=float("nan")), "delay must be"),
        (Options(ttl=0.0), "ttl must be more than 0 seconds"),
        (Options(ttl=-5.0), "ttl must be more than 0 seconds"),
        (Options(priority=2**31 + 1), "priority must be from -2**31 to 2**31"),
        (Options(key=""), "key must have 1 to 200 characters, got 0"),
        (Options(key="k" * 201), "key must have 1 to 200 characters, got 201"),
        (Options(key="\udcff"), "key must be text that can be written in UTF-8"),
        (Options(id=""), "id must have 1 to 1000 characters, got 0"),
        (Options(id="i" * 1001), "id must have 1 to 1000 characters, got 1001"),
        (Options(headers={"zmqkit-a": "b"}), "zmqkit-"),
        (Options(headers={"a": "x" * 70_000}), "headers"),
    ],
)
def test_what_no_message_may_have_is_named(asked: Options, why: str) -> None:
    with pytest.raises(Failed) as caught:
        checked(asked)
    assert why in str(caught.value)
    assert caught.value.code == Code.USAGE
    with pytest.raises(Failed, match="NAME=VALUE"):
        headers_of(["=b"])


def test_an_envelope_that_cannot_be_sent_is_named_and_what_stood_before_it_settles(zmqkit: Start) -> None:
    lines = '{"body": 1}\n\n{"body": 1, "prio": 2}\n{"body": 2}\n'
    push = zmqkit("push", ANYWHERE, "--envelopes", "--json", stdin=lines)
    assert zmqkit("pull", push.address, "--count", "1", "--raw").finish() == "1\n"
    assert push.finish_json(1)["sent"] == 1
    assert "'prio' is none of the fields body, id, key" in push.said("stdin:3: ")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("[1]", 'not a JSON object with a "body"'),
        ('{"key": "k"}', 'not a JSON object with a "body"'),
        ('{"body": 1, "key": 7}', "key must be text, got 7"),
        ('{"body": 1, "id": ["a"]}', "id must be text"),
        ('{"body": 1, "key": "\\ud800"}', "UTF-8"),
        ('{"body": 1, "delay": -1}', "delay must be"),
        ('{"body": 1, "ttl": "soon"}', "ttl must be"),
        ('{"body": 1, "priority": 1.5}', "priority must be a whole number"),
        ('{"body": 1, "priority": true}', "priority must be a whole number"),
        ('{"body": 1, "headers": ["a"]}', "headers must be an object of texts"),
        ('{"body": 1, "headers": {"a": 1}}', "headers"),
        ('{"body": 1, "due": "soon"}', "due must be a time"),
        ('{"body": 1, "expires": 5}', "expires must be a time"),
        ('{"body": [{"$base64": "?"}]}', "$base64 must be bytes"),
    ],
)
def test_a_line_that_is_no_envelope_is_named(line: str, why: str) -> None:
    with pytest.raises(NotAnEnvelope) as caught:
        envelope_line(Options(key="usual"))(line.encode())
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"n": }', "not JSON (Expecting value at column 7)"),
        (str(2**70), "an int of more than 64 bits"),
        ('"' + "\\ud800" + '"', ""),
    ],
)
def test_a_bad_line_is_named_and_what_stood_before_it_settles(
    zmqkit: Start, tmp_path: Path, line: str, why: str
) -> None:
    (tmp_path / "jobs.jsonl").write_text(f"1\n\n2\n{line}\n4\n")
    push = zmqkit("push", ANYWHERE, "jobs.jsonl", "--json-lines", "--json")
    assert zmqkit("pull", push.address, "--count", "2", "--raw").finish() == "1\n2\n"
    assert push.finish_json(1) == {
        "found": 0,
        "sent": 2,
        "acked": 2,
        "dead": 0,
        "expired": 0,
        "waiting": 0,
        "journal": None,
    }
    assert why in push.said("jobs.jsonl:4: ")


def test_a_line_that_is_not_text_is_named(zmqkit: Start, tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(b"\xff\n")
    push = zmqkit("push", ANYWHERE, "lines")
    push.finish(1)
    assert "lines:1: not UTF-8 text" in push.err.text


def test_an_address_beyond_this_host_names_the_option_that_allows_it(zmqkit: Start) -> None:
    push = zmqkit("push", "tcp://0.0.0.0:*", stdin="x\n")
    push.finish(2)
    assert "allow it with --insecure\n" in push.err.text
    assert "insecure=True" not in push.err.text
    allowed = zmqkit("push", "tcp://0.0.0.0:*", "--insecure", "--timeout", "0", stdin="")
    allowed.finish()


def test_a_taken_address_is_one_line_and_1(zmqkit: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        push = zmqkit("push", f"tcp://127.0.0.1:{taken.getsockname()[1]}", stdin="x\n")
        push.finish(1)
    assert len(push.err.text.splitlines()) == 1
    assert "in use" in push.err.text


# ---- out of time, signals, broken pipes ------------------------------------------


def test_push_that_runs_out_of_time_exits_with_4_and_says_what_is_lost(zmqkit: Start) -> None:
    push = zmqkit("push", ANYWHERE, "--timeout", "0.1", "--json", stdin="one\ntwo\n")
    assert push.finish_json(4)["waiting"] == 2
    assert "what waits is lost" in push.err.text


def test_pull_without_jobs_exits_with_4(zmqkit: Start) -> None:
    push = zmqkit("push", ANYWHERE, stdin=None)
    pull = zmqkit("pull", push.address, "--timeout", "2")
    pull.finish(4)
    assert pull.err.text == "zmqkit: no job came for 2 s: 1 is there (zmqkit push)\n"
    push.finish()


def test_pull_from_nobody_says_that_nobody_is_there(zmqkit: Start) -> None:
    name = f"nobody-{uuid.uuid4().hex[:8]}"
    waiting = zmqkit("pull", f"zeroconf://{name}")
    pull = zmqkit("pull", "tcp://127.0.0.1:1", "--timeout", "0.1")
    pull.finish(4)
    assert pull.err.text == "zmqkit: no job came for 0.1 s: nobody answers at tcp://127.0.0.1:1\n"
    assert waiting.said("yet") == f"zmqkit: nobody announces '{name}' yet"


def test_a_signal_is_how_an_endless_pull_ends(zmqkit: Start) -> None:
    push = zmqkit("push", ANYWHERE, stdin="one\n")
    pull = zmqkit("pull", push.address)
    pull.printed("one")
    push.finish()
    pull.signal(signal.SIGINT)
    pull.finish(0)


def test_a_signal_interrupts_a_counted_pull(zmqkit: Start) -> None:
    push = zmqkit("push", ANYWHERE, stdin="one\n")
    pull = zmqkit("pull", push.address, "--count", "2")
    pull.printed("one")
    pull.signal(signal.SIGTERM)
    pull.finish(128 + signal.SIGTERM)
    push.finish()


def test_an_interrupted_push_drains_what_can_be_drained(zmqkit: Start) -> None:
    push = zmqkit("push", ANYWHERE, "--linger", "20", "--json", stdin=None)
    address = push.address
    push.type("one\n")
    pull = zmqkit("pull", address, "--count", "1", "--raw", "--exec", "true", stdin="")
    pull.finish(2)  # a slip; nothing was taken
    push.signal(signal.SIGINT)
    push.said("stopping; what waits is served for 20 s more")
    zmqkit("pull", address, "--count", "1").finish()
    assert push.finish_json(128 + signal.SIGINT)["acked"] == 1


def test_a_second_signal_ends_a_push_at_once(zmqkit: Start) -> None:
    push = zmqkit("push", ANYWHERE, "--linger", "600", stdin="one\n")
    with Puller(push.address) as puller:
        assert puller.receive(WAIT_S) is not None  # now something waits to be settled
        push.signal(signal.SIGTERM)
        push.said("stopping")
        push.signal(signal.SIGTERM)
        push.finish(128 + signal.SIGTERM)


def test_a_broken_pipe_gives_the_job_back(zmqkit: Start) -> None:
    push = zmqkit("push", ANYWHERE, "--json", stdin=None)
    address = push.address
    ours, theirs = os.pipe()
    pull = zmqkit("pull", address, "--raw", stdout=theirs)
    os.close(theirs)
    push.type("one\n")
    assert os.read(ours, 100) == b"one\n"
    os.close(ours)
    push.type("two\n")
    pull.finish(128 + signal.SIGPIPE)
    assert pull.err.text == ""
    (job,) = zmqkit("pull", address, "--count", "1").finish_lines()
    assert (job["body"], job["failures"]) == ("two", 0)
    assert push.finish_json()["acked"] == 2


def test_a_reader_that_goes_away_ends_a_pull_that_waits(zmqkit: Start) -> None:
    push = zmqkit("push", ANYWHERE, stdin=None)
    ours, theirs = os.pipe()
    pull = zmqkit("pull", push.address, stdout=theirs)
    os.close(theirs)
    os.close(ours)
    pull.finish(128 + signal.SIGPIPE)
    push.finish()


def test_output_for_programs_has_no_bytes_that_json_lacks(zmqkit: Start) -> None:
    push = zmqkit("push", ANYWHERE, "--json-lines", stdin='{"text": "tab\\tnul\\u0000esc\\u001b", "big": 1e300}\n')
    text = zmqkit("pull", push.address, "--count", "1").finish()
    assert "\x1b" not in text
    assert json.loads(text)["body"] == {"text": "tab\tnul\0esc\x1b", "big": 1e300}
    push.finish()


# ---- progress --------------------------------------------------------------------


def test_on_a_terminal_a_bar_shows_how_much_is_settled(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    push = Command(("push", ANYWHERE, "--json"), tmp_path, stdin="one\ntwo\n", stderr=theirs, environment=environment)
    os.close(theirs)
    try:
        screen = Screen(ours)
        address = screen.wait_for(rb"zmqkit: bound (\S+)").decode()
        screen.wait_for(rb"(2 sent  0 settled)")
        pull = Command(("pull", address, "--count", "2"), tmp_path)
        try:
            pull.finish()
        finally:
            pull.kill()
        assert push.finish_json()["acked"] == 2
    finally:
        push.kill()
        os.close(ours)


class Screen:
    """What a terminal shows, read until something appears."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._text = b""

    def wait_for(self, pattern: bytes) -> bytes:
        deadline = time.monotonic() + WAIT_S
        while not (found := re.search(pattern, self._text)):
            left = max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([self._fd], [], [], left)
            assert ready, self._text
            try:
                self._text += os.read(self._fd, 65536)
            except OSError:  # EIO: whoever wrote to the terminal has ended
                break
        assert found, self._text
        return found[1]
