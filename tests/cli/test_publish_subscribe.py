"""``zmqkit publish``, ``zmqkit subscribe`` and ``zmqkit tap``, as scripts use them."""

from __future__ import annotations

import datetime
import json
import os
import pty
import signal
import uuid
from pathlib import Path

import pytest

from tests.cli.conftest import Start
from tests.cli.terminal import ANYWHERE, Command
from tests.cli.test_push_pull import Screen
from zmqkit.cli.outcome import Failed
from zmqkit.cli.subscribe import read_start
from zmqkit.cli.tap import MAX_TOPICS, Tally
from zmqkit.testing import message


def test_lines_reach_who_waits_for_them_and_both_exit_with_0(zmqkit: Start) -> None:
    publish = zmqkit("publish", ANYWHERE, "news.eu", "--wait-for", "1", "--json", stdin="one\ntwo\r\n\nfour")
    found = zmqkit("subscribe", publish.address, "news.#", "--count", "4").finish_lines()
    assert [each["body"] for each in found] == ["one", "two", "", "four"]
    assert [each["sequence"] for each in found] == [1, 2, 3, 4]
    assert {each["topic"] for each in found} == {"news.eu"}
    assert len({each["id"] for each in found}) == 4
    assert publish.finish_json() == {"published": 4, "journal": None}


def test_json_lines_come_from_files_and_stdin(zmqkit: Start, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"n": 1}\n\n[2, "ü"]\n')
    publish = zmqkit("publish", ANYWHERE, "t", "a.jsonl", "-", "--json-lines", "--wait-for", "1", stdin="3.5\n")
    found = zmqkit("subscribe", publish.address, "--count", "3").finish_lines()
    assert [each["body"] for each in found] == [{"n": 1}, [2, "ü"], 3.5]
    publish.finish()
    assert publish.said("3 published")


def test_raw_prints_bodies_as_they_are(zmqkit: Start) -> None:
    publish = zmqkit("publish", ANYWHERE, "t", "--json-lines", "--stay", stdin='"a \\"b\\""\n{"n": [1, null]}\n')
    subscribe = zmqkit("subscribe", publish.address, "t", "--from", "earliest", "--count", "2", "--raw")
    assert subscribe.finish() == 'a "b"\n{"n": [1, null]}\n'


def test_a_slow_source_is_published_as_it_comes(zmqkit: Start) -> None:
    publish = zmqkit("publish", ANYWHERE, "t", "--wait-for", "1", stdin=None)
    subscribe = zmqkit("subscribe", publish.address, "t", "--raw")
    for word in ("one", "two"):
        publish.type(f"{word}\n")
        assert subscribe.printed(word) == word
    publish.finish()


def test_the_subscriber_may_bind(zmqkit: Start) -> None:
    subscribe = zmqkit("subscribe", ANYWHERE, "t", "--bind", "--count", "2", "--raw")
    zmqkit("publish", subscribe.address, "t", "--connect", "--wait-for", "1", stdin="one\ntwo\n").finish()
    assert subscribe.finish() == "one\ntwo\n"


def test_they_find_each_other_by_name(zmqkit: Start) -> None:
    name = f"cli-{uuid.uuid4().hex[:8]}"
    subscribe = zmqkit("subscribe", f"zeroconf://{name}", "--count", "1", "--raw")
    publish = zmqkit("publish", ANYWHERE, "t", "--announce", name, "--wait-for", "1", stdin="found\n")
    assert subscribe.finish() == "found\n"
    publish.finish()


# ---- where to begin --------------------------------------------------------------


def test_who_comes_late_begins_where_he_says(zmqkit: Start) -> None:
    publish = zmqkit("publish", ANYWHERE, "t", "--stay", stdin="one\ntwo\nthree\n")
    publish.said("3 published")
    whole = zmqkit("subscribe", publish.address, "--from", "earliest", "--count", "3").finish_lines()
    assert [each["body"] for each in whole] == ["one", "two", "three"]
    assert all(each["replayed"] for each in whole)
    ago = zmqkit("subscribe", publish.address, "--from", "1h", "--count", "3", "--raw")
    assert ago.finish() == "one\ntwo\nthree\n"
    latest = zmqkit("subscribe", publish.address, "--timeout", "1")
    assert latest.finish(4) == ""
    publish.signal(signal.SIGTERM)
    publish.finish()  # with --stay a signal is how it ends


def test_only_what_is_kept_comes(zmqkit: Start) -> None:
    publish = zmqkit("publish", ANYWHERE, "t", "--history", "2", "--stay", stdin="one\ntwo\nthree\n")
    publish.said("3 published")
    found = zmqkit("subscribe", publish.address, "--from", "earliest", "--count", "2", "--raw")
    assert found.finish() == "two\nthree\n"


def test_the_last_value_comes_first_to_who_comes_late(zmqkit: Start) -> None:
    publish = zmqkit("publish", ANYWHERE, "t", "--last-value", "--stay", stdin="one\ntwo\n")
    publish.said("2 published")
    assert zmqkit("subscribe", publish.address, "t", "--count", "1", "--raw").finish() == "two\n"


def test_a_cursor_goes_on_where_it_was_also_after_a_restart(zmqkit: Start) -> None:
    publish = zmqkit("publish", ANYWHERE, "t", "--journal", "t.db", "--stay", stdin="one\ntwo\nthree\n")
    address = publish.address
    first = zmqkit("subscribe", address, "t", "--cursor", "reader", "--count", "2", "--raw")
    assert first.finish() == "one\ntwo\n"
    publish.signal(signal.SIGINT)
    publish.finish()
    again = zmqkit("publish", address, "t", "--journal", "t.db", "--stay", stdin="four\n")
    second = zmqkit("subscribe", address, "t", "--cursor", "reader", "--from", "resume", "--count", "2", "--raw")
    assert second.finish() == "three\nfour\n"
    assert "lost" not in second.err.text
    again.signal(signal.SIGINT)
    again.finish()


def test_a_cursor_that_somebody_holds_is_refused(zmqkit: Start) -> None:
    publish = zmqkit("publish", ANYWHERE, "t", "--stay", stdin="one\n")
    holder = zmqkit("subscribe", publish.address, "--cursor", "reader", "--raw")
    holder.printed("one")
    second = zmqkit("subscribe", publish.address, "--cursor", "reader")
    second.finish(1)
    assert "reader" in second.err.text
    holder.signal(signal.SIGINT)
    holder.finish()


def test_what_is_gone_is_named_and_the_exit_code_is_1(zmqkit: Start) -> None:
    lines = [f"{n}\n" for n in range(10)]
    publish = zmqkit("publish", ANYWHERE, "t", "--history", "4", stdin=None)
    address = publish.address
    publish.type(lines[0])
    first = zmqkit("subscribe", address, "t", "--cursor", "reader", "--count", "1", "--raw")
    assert first.finish() == "0\n"
    publish.type("".join(lines[1:]))
    second = zmqkit("subscribe", address, "t", "--cursor", "reader", "--count", "4")
    lost, *found = second.finish_lines(1)
    assert (lost["lost"]["first"], lost["lost"]["last"]) == (2, 6)
    assert [each["body"] for each in found] == ["6", "7", "8", "9"]
    assert second.said("lost")
    publish.finish()


NOW = datetime.datetime(2026, 7, 14, 12, 0, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("latest", "latest"),
        ("earliest", "earliest"),
        ("resume", "resume"),
        ("30s", NOW - datetime.timedelta(seconds=30)),
        ("1.5h", NOW - datetime.timedelta(minutes=90)),
        ("2d", NOW - datetime.timedelta(days=2)),
        ("2026-07-14T10:30", NOW.replace(hour=10, minute=30)),
        ("2026-07-14", NOW.replace(hour=0)),
        ("2026-07-14T10:00:00Z", NOW),
    ],
)
def test_where_to_begin_is_a_word_a_time_or_so_long_ago(text: str, start: object) -> None:
    assert read_start(text, NOW) == start


@pytest.mark.parametrize("text", ["", "soon", "10", "-5m", "10 m", "2026-13-01", "99999999999d", "1" * 400 + "d"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(Failed, match="--from"):
        read_start(text, NOW)


# ---- bad input, time, signals, pipes ---------------------------------------------


def test_a_bad_line_is_named_and_what_stood_before_it_is_published(zmqkit: Start, tmp_path: Path) -> None:
    (tmp_path / "lines.jsonl").write_text(f"1\n\n2\n{2**70}\n4\n")
    publish = zmqkit("publish", ANYWHERE, "t", "lines.jsonl", "--json-lines", "--wait-for", "1", "--json")
    assert zmqkit("subscribe", publish.address, "--count", "2", "--raw").finish() == "1\n2\n"
    assert publish.finish_json(1) == {"published": 2, "journal": None}
    assert "an int of more than 64 bits" in publish.said("lines.jsonl:4: ")


def test_publish_without_its_subscribers_in_time_exits_with_4(zmqkit: Start) -> None:
    publish = zmqkit("publish", ANYWHERE, "t", "--wait-for", "2", "--timeout", "0.2", stdin="one\n")
    publish.finish(4)
    assert "2 subscribers" in publish.err.text
    assert publish.said("0 published")


def test_publish_waits_for_subscribers_of_its_topic_only(zmqkit: Start) -> None:
    publish = zmqkit("publish", ANYWHERE, "t", "--wait-for", "1", stdin="one\n")
    other = zmqkit("subscribe", publish.address, "another")
    subscribe = zmqkit("subscribe", publish.address, "t", "--count", "1", "--raw")
    assert subscribe.finish() == "one\n"
    publish.finish()
    other.signal(signal.SIGKILL)  # it may not even have begun to listen to others
    assert other.finish(-signal.SIGKILL) == ""


def test_subscribe_without_messages_exits_with_4(zmqkit: Start) -> None:
    publish = zmqkit("publish", ANYWHERE, "t", stdin=None)
    subscribe = zmqkit("subscribe", publish.address, "--timeout", "2")
    subscribe.finish(4)
    assert subscribe.err.text == "zmqkit: no message came for 2 s: 1 is there (zmqkit publish)\n"
    publish.finish()
    nobody = zmqkit("subscribe", "tcp://127.0.0.1:1", "--timeout", "0.1")
    nobody.finish(4)
    assert nobody.err.text == "zmqkit: no message came for 0.1 s: nobody answers at tcp://127.0.0.1:1\n"


def test_a_signal_is_how_an_endless_subscribe_ends(zmqkit: Start) -> None:
    publish = zmqkit("publish", ANYWHERE, "t", "--wait-for", "1", stdin="one\n")
    subscribe = zmqkit("subscribe", publish.address)
    subscribe.printed("one")
    subscribe.signal(signal.SIGINT)
    subscribe.finish()
    publish.finish()


def test_a_signal_interrupts_a_counted_subscribe_and_a_publish(zmqkit: Start) -> None:
    publish = zmqkit("publish", ANYWHERE, "t", "--wait-for", "1", stdin=None)
    subscribe = zmqkit("subscribe", publish.address, "--count", "2")
    publish.type("one\n")
    subscribe.printed("one")
    subscribe.signal(signal.SIGTERM)
    subscribe.finish(128 + signal.SIGTERM)
    publish.signal(signal.SIGINT)
    publish.finish(128 + signal.SIGINT)
    assert publish.said("1 published")


def test_a_broken_pipe_leaves_the_cursor_where_it_was(zmqkit: Start) -> None:
    publish = zmqkit("publish", ANYWHERE, "t", "--stay", stdin=None)
    address = publish.address
    ours, theirs = os.pipe()
    subscribe = zmqkit("subscribe", address, "--cursor", "reader", "--raw", stdout=theirs)
    os.close(theirs)
    publish.type("one\n")
    assert os.read(ours, 100) == b"one\n"
    os.close(ours)
    publish.type("two\n")
    subscribe.finish(128 + signal.SIGPIPE)
    assert subscribe.err.text == ""
    again = zmqkit("subscribe", address, "--cursor", "reader", "--count", "1", "--raw")
    assert again.finish() == "two\n"


# ---- tap and progress ------------------------------------------------------------


def test_tap_prints_a_line_of_json_each_interval_where_there_is_no_terminal(zmqkit: Start) -> None:
    publish = zmqkit("publish", ANYWHERE, "prices.gold", "--wait-for", "1", stdin=None)
    tap = zmqkit("tap", publish.address, "--every", "0.2")
    publish.type("one\ntwo\n")
    line = json.loads(tap.printed('"total": 2'))
    (topic,) = line["topics"]
    assert (topic["topic"], topic["total"], topic["sequence"]) == ("prices.gold", 2, 2)
    assert (line["publishers"], line["missed"], line["conflated"]) == (1, 0, 0)
    tap.signal(signal.SIGINT)
    tap.finish()
    publish.finish()


def test_tap_ends_after_so_many_intervals(zmqkit: Start) -> None:
    publish = zmqkit("publish", ANYWHERE, "t", stdin=None)
    lines = zmqkit("tap", publish.address, "t.#", "--every", "0.1", "--count", "3").finish_lines()
    assert [each["total"] for each in lines] == [0, 0, 0]
    publish.finish()


def test_a_tap_on_a_terminal_is_a_table_and_publish_shows_how_far_it_is(tmp_path: Path) -> None:
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "24"}
    ours, theirs = pty.openpty()
    arguments = ("publish", ANYWHERE, "prices.gold", "--wait-for", "1")
    publish = Command(arguments, tmp_path, stdin=None, stderr=theirs, environment=environment)
    os.close(theirs)
    theirs_too, ours_too = -1, -1
    try:
        address = Screen(ours).wait_for(rb"zmqkit: bound (\S+)").decode()
        ours_too, theirs_too = pty.openpty()
        tap = Command(("tap", address, "--every", "0.2"), tmp_path, stdout=theirs_too, environment=environment)
        os.close(theirs_too)
        try:
            publish.type("one\ntwo\n")
            Screen(ours).wait_for(rb"(2 published .* 1 subscribers)")
            Screen(ours_too).wait_for(rb"(prices.gold +\S+ +2 +2 +two)")
            tap.signal(signal.SIGINT)
            tap.finish()
        finally:
            tap.kill()
        publish.finish()
    finally:
        publish.kill()
        os.close(ours)
        if ours_too >= 0:
            os.close(ours_too)


def test_a_tally_tells_a_bounded_number_of_topics_apart() -> None:
    tally = Tally()
    for n in range(MAX_TOPICS + 5):
        tally.add(message(f"order.{n}", n, sequence=n + 1))
    assert (len(tally.topics), tally.others.total, tally.total) == (MAX_TOPICS, 5, MAX_TOPICS + 5)
    tally.begin_interval()
    tally.add(message("order.7", "again", sequence=MAX_TOPICS + 6))
    tally.begin_interval()  # those that were idle make room
    tally.add(message("fresh", "body", sequence=MAX_TOPICS + 7))
    assert sorted(tally.topics) == ["fresh", "order.7"]
    assert tally.topics["order.7"].total == 2
    assert sum(each.total for each in (*tally.topics.values(), tally.others)) == tally.total == MAX_TOPICS + 7
