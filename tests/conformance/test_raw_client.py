"""A client written from docs/protocol.md alone (caller.py), in a session with a zmqkit Server."""

from __future__ import annotations

import os
import random
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import zmqkit
from tests.conformance import caller as raw
from tests.conformance.caller import RawClient
from tests.conformance.peer import DATA, RawPuller, pack
from tests.conformance.served import Served

PATIENCE_S = 20.0


@pytest.fixture
def served() -> Iterator[Served]:
    with Served() as made:
        yield made


@pytest.fixture
def client(served: Served) -> Iterator[RawClient]:
    with RawClient(served.address) as made:
        yield made


# ---- how a call ends -----------------------------------------------------------------------


def test_a_raw_client_is_told_what_the_server_is(served: Served, client: RawClient) -> None:
    client.until(lambda: client.methods is not None)
    assert client.methods == ["echo", "zmqkit.methods"]
    about = client.other["about"]
    assert client.other["role"] == "server"
    assert len(about["epoch"]) == 16
    assert about["window"] == about["epoch"]
    assert about["journal"] is False


def test_a_raw_client_gets_results(client: RawClient) -> None:
    assert client.answer(client.call("add", 2, 3)) == (raw.RESULT, 5)
    assert client.answer(client.call("math.add", 2, kwargs={"b": 3})) == (raw.RESULT, 5)
    assert client.answer(client.call("add", "a", "b", codec="json", headers={"k": "v"})) == (raw.RESULT, "ab")
    assert client.answer(client.call("echo", None, remaining=20)) == (raw.RESULT, None)


def test_bodies_of_a_raw_client_may_be_frames_of_their_own(client: RawClient) -> None:
    large, small = b"x" * raw.LARGE, b"y" * 10
    client.until(lambda: client.welcomed)
    client.say(*(client.record("echo", [value]) for value in (small, large, small, large, None)))
    client.until(lambda: len(client.answers) == 5)
    assert [client.answer(number)[1] for number in range(1, 6)] == [small, large, small, large, None]


def test_a_raw_client_gets_credit_for_what_was_answered() -> None:
    with Served(limits=zmqkit.Limits(queued_messages=100)) as served, RawClient(served.address) as client:
        client.until(lambda: client.welcomed)
        assert client.limits[0] == 100
        while client.number < 500:
            room = min(64, client.limits[0] - client.used_messages)
            if room:
                client.say(*(client.record("echo", [client.number]) for _ in range(room)))
            while client.floor in client.answers:
                client.floor += 1
            if client.step(0.0 if room else 0.05):
                client.say_state()  # 4.2: what is not heard is not given back
        client.until(lambda: len(client.answers) == client.number)
        assert all(client.answers[number] == [(raw.RESULT, number - 1)] for number in range(1, client.number + 1))
        assert served.server.stats()["credit_exceeded"] == 0


def test_a_raw_client_is_told_what_a_handler_raised(client: RawClient) -> None:
    op, told = client.answer(client.call("fail", "no"))
    assert op == raw.ERROR
    assert (told["type"], told["message"]) == ("ValueError", "no")
    assert told.get("code") is told.get("data") is None
    assert told.get("traceback") is None  # this peer says no host, so it is none of the server's
    op, told = client.answer(client.call("decline", "closed"))
    assert op == raw.ERROR
    assert (told["message"], told["code"], told["data"]) == ("not today", "closed", {"n": 1})


def test_what_cannot_be_executed_is_refused_with_its_code(served: Served, client: RawClient) -> None:
    numbers = {
        "method": client.call("no_such_method"),
        "arguments": client.call("add", 1),
        "late": client.call("add", 1, 1, remaining=0),
        "record": client.call("add", 1, 1, attempt="first"),
    }
    assert {code: client.answer(number) for code, number in numbers.items()} == {
        code: (raw.REFUSED, code) for code in numbers
    }
    record, body = client.record("add", [1, 1])
    client.say((record, body), epoch=b"." * 16)
    assert client.answer(record[1]) == (raw.REFUSED, "epoch")
    # What was refused was not executed, and its number is free (12.3).
    client.call("add", 1, 1, number=record[1])
    client.until(lambda: len(client.answers[record[1]]) == 2)
    assert client.answer(record[1]) == (raw.RESULT, 2)
    assert served.added == [(1, 1)]


def test_a_stream_is_refused_where_one_value_is_asked_for_and_the_other_way_round(client: RawClient) -> None:
    assert client.answer(client.call("count", 3)) == (raw.REFUSED, "arguments")
    assert client.answer(client.call("add", 1, 1, items=8)) == (raw.REFUSED, "arguments")


def test_a_method_at_its_limit_refuses(served: Served, client: RawClient) -> None:
    first = client.call("one", "a")
    assert client.answer(client.call("one", "b")) == (raw.REFUSED, "overloaded")
    served.gate.set()
    assert client.answer(first) == (raw.RESULT, "a")


def test_what_cannot_be_read_spoils_only_itself(served: Served, client: RawClient) -> None:
    client.until(lambda: client.welcomed)
    epoch = client.other["about"]["epoch"]
    client.send([pack([epoch, 1, [[raw.CALL, 1, 99, "add", None, 0, None]]]), b"less"], 1)
    client.send([pack([epoch, 1, [[99, 1, None]]]), b""], 0)
    client.send([b"\xc1"], 0)
    client.number = 1
    assert client.answer(client.call("add", 2, 3)) == (raw.RESULT, 5)
    assert served.server.stats()["frames_bad"] == 3
    assert 1 not in client.answers


# ---- streams and uploads -------------------------------------------------------------------


def test_of_a_stream_comes_what_was_granted_and_then_its_end(client: RawClient) -> None:
    number = client.call("count", 10, items=2)
    client.until(lambda: len(client.items.get(number, [])) == 2)
    assert client.answer(client.call("echo", "meanwhile")) == (raw.RESULT, "meanwhile")
    assert client.items[number] == [0, 1]
    client.grant(number, 7)
    client.until(lambda: len(client.items[number]) == 7)
    client.grant(number, 3)  # limits only rise
    assert client.answer(client.call("echo", "meanwhile")) == (raw.RESULT, "meanwhile")
    assert len(client.items[number]) == 7
    client.grant(number, 100)
    assert client.answer(number) == (raw.END, 10)
    assert client.items[number] == list(range(10))


def test_a_stream_that_fails_ends_with_the_error_after_its_items(client: RawClient) -> None:
    number = client.call("count_and_fail", 3, items=100)
    op, told = client.answer(number)
    assert (op, told["type"]) == (raw.ERROR, "KeyError")
    assert client.items[number] == [0, 1, 2]


def test_a_stream_that_is_cancelled_ends_and_its_handler_too(served: Served, client: RawClient) -> None:
    number = client.call("count", 10**6, items=5)
    client.until(lambda: len(client.items.get(number, [])) == 5)
    client.cancel(number)
    op, _ = client.answer(number)
    assert op in (raw.UNKNOWN, raw.REFUSED)
    assert served.closed.acquire(timeout=PATIENCE_S)
    assert client.items[number] == list(range(5))


def test_an_upload_is_taken_as_far_as_was_granted(client: RawClient) -> None:
    number = client.call("total", None, 1000, uploads=[0])
    sent = 0
    while sent < 500:
        client.until(lambda sent=sent: client.upload_limits.get(number, 0) > sent)  # type: ignore[misc]
        items = range(sent, min(client.upload_limits[number], 500))
        client.upload(number, sent, *items)
        sent += len(items)
    client.end_upload(number, 500)
    assert client.answer(number) == (raw.RESULT, 1000 + sum(range(500)))


def test_an_upload_may_have_a_name_or_be_empty(client: RawClient) -> None:
    number = client.call("total", kwargs={"rows": None, "start": 7}, uploads=["rows"])
    client.until(lambda: client.upload_limits.get(number, 0) > 0)
    client.end_upload(number, 0)
    assert client.answer(number) == (raw.RESULT, 7)


def test_an_upload_that_is_none_of_the_arguments_is_refused(client: RawClient) -> None:
    assert client.answer(client.call("total", uploads=[3])) == (raw.REFUSED, "arguments")


def test_the_handler_sees_an_upload_that_its_client_gave_up(client: RawClient) -> None:
    number = client.call("total", None, uploads=[0])
    client.until(lambda: client.upload_limits.get(number, 0) > 0)
    client.upload(number, 0, 1)
    client.abort_upload(number, "no more rows")
    op, told = client.answer(number)
    assert op == raw.ERROR
    assert told["type"] == "StreamBroken"
    assert "no more rows" in told["message"]


def test_an_upload_with_a_hole_is_broken(client: RawClient) -> None:
    number = client.call("total", None, uploads=[0])
    client.until(lambda: client.upload_limits.get(number, 0) > 2)
    client.upload(number, 1, 1)
    op, told = client.answer(number)
    assert (op, told["type"]) == (raw.ERROR, "StreamBroken")


# ---- cancelling ----------------------------------------------------------------------------


def test_a_call_that_was_not_begun_can_be_cancelled() -> None:
    with Served(threads=1) as served, RawClient(served.address) as client:
        first = client.call("held", "a")
        assert served.begun.acquire(timeout=PATIENCE_S)
        later = [client.call("add", n, 1) for n in range(10)]
        client.cancel(later[-1])
        assert client.answer(later[-1]) == (raw.REFUSED, "cancelled")
        served.gate.set()
        assert client.answer(first) == (raw.RESULT, "a")
        assert [client.answer(number)[0] for number in later[:-1]] == [raw.RESULT] * 9
        assert (9, 1) not in served.added


def test_a_call_that_runs_is_answered_when_it_ends_though_it_was_cancelled(served: Served, client: RawClient) -> None:
    number = client.call("held", "a")
    assert served.begun.acquire(timeout=PATIENCE_S)
    client.cancel(number)
    client.cancel(number)
    client.cancel(77)  # nobody's
    assert client.answer(client.call("echo", 1)) == (raw.RESULT, 1)
    assert number not in client.answers
    served.gate.set()
    assert client.answer(number) == (raw.RESULT, "a")


# ---- the window ----------------------------------------------------------------------------


def test_a_call_that_is_repeated_is_answered_from_the_window(served: Served, client: RawClient) -> None:
    number = client.call("add", 2, 3)
    assert client.answer(number) == (raw.RESULT, 5)
    client.call("add", 2, 3, number=number, attempt=2)
    client.until(lambda: len(client.answers[number]) == 2)
    assert client.answers[number] == [(raw.RESULT, 5)] * 2
    assert served.added == [(2, 3)]
    failed = client.call("fail", "once")
    client.answer(failed)
    client.call("fail", "once", number=failed, attempt=2)
    client.until(lambda: len(client.answers[failed]) == 2)
    assert client.answers[failed][0] == client.answers[failed][1]


def test_a_call_is_answered_in_another_session_of_the_same_client(served: Served) -> None:
    key = os.urandom(16)
    with RawClient(served.address, key=key) as client:
        done = client.call("add", 2, 3)
        client.answer(done)
        running = client.call("held", "a")
        assert served.begun.acquire(timeout=PATIENCE_S)
    with RawClient(served.address, key=key) as client:
        client.number = running
        client.call("add", 2, 3, number=done, attempt=2)
        assert client.answer(done) == (raw.RESULT, 5)
        client.call("held", "a", number=running, attempt=2)
        assert client.answer(client.call("echo", 1)) == (raw.RESULT, 1)
        served.gate.set()
        assert client.answer(running) == (raw.RESULT, "a")
        assert not served.begun.acquire(blocking=False)
    assert served.added == [(2, 3)]


def test_numbers_of_different_clients_have_nothing_to_do_with_each_other(served: Served) -> None:
    with RawClient(served.address) as one, RawClient(served.address) as other:
        assert one.answer(one.call("add", 1, 1)) == (raw.RESULT, 2)
        assert other.answer(other.call("add", 5, 5)) == (raw.RESULT, 10)
    assert served.added == [(1, 1), (5, 5)]


def test_what_lies_below_the_floor_is_not_remembered(served: Served, client: RawClient) -> None:
    number = client.call("add", 2, 3)
    client.answer(number)
    client.floor = number + 1
    client.answer(client.call("echo", 1))
    client.call("add", 2, 3, number=number, attempt=2)
    client.until(lambda: len(client.answers[number]) == 2)
    assert client.answer(number) == (raw.UNKNOWN, "expired")
    assert served.added == [(2, 3)]


def test_the_reply_of_a_stream_is_not_kept(client: RawClient) -> None:
    number = client.call("count", 3, items=10)
    assert client.answer(number) == (raw.END, 3)
    client.call("count", 3, items=10, number=number, attempt=2)
    client.until(lambda: len(client.answers[number]) == 2)
    assert client.answer(number) == (raw.UNKNOWN, "dropped")


def test_a_request_id_is_known_to_all_clients(served: Served) -> None:
    with RawClient(served.address) as one, RawClient(served.address) as other:
        assert one.answer(one.call("add", 2, 3, id="order-17")) == (raw.RESULT, 5)
        assert other.answer(other.call("add", 2, 3, id="order-17")) == (raw.RESULT, 5)
        assert other.answer(other.call("echo", 2, id="order-17")) == (raw.REFUSED, "id")
    assert served.added == [(2, 3)]


def test_the_window_in_a_journal_outlives_the_server(tmp_path: Path) -> None:
    key = os.urandom(16)
    more: dict[str, Any] = {"journal": tmp_path / "s.db", "durability": "process"}
    with Served(**more) as served, RawClient(served.address, key=key) as client:
        number = client.call("add", 2, 3)
        assert client.answer(number) == (raw.RESULT, 5)
        before = client.other["about"]
        assert before["journal"] is True
        assert before["window"] != before["epoch"]
    with Served(**more) as again, RawClient(again.address, key=key) as client:
        client.call("add", 2, 3, number=number, attempt=2)
        assert client.answer(number) == (raw.RESULT, 5)
        assert client.other["about"]["window"] == before["window"]
        assert client.other["about"]["epoch"] != before["epoch"]
        assert not again.added


# ---- sessions ------------------------------------------------------------------------------


def test_a_raw_client_that_reconnects_gets_its_answer(served: Served, client: RawClient) -> None:
    number = client.call("held", "a")
    assert served.begun.acquire(timeout=PATIENCE_S)
    client.reconnect()
    served.gate.set()
    assert client.answer(number) == (raw.RESULT, "a")
    assert served.server.stats()["sessions_opened"] == 1


def test_calls_that_are_lost_come_again_and_are_executed_once(served: Served, client: RawClient) -> None:
    rng = random.Random(5)
    client.drop = lambda header: header[0] == DATA and rng.random() < 0.3
    numbers = [client.call("add", n, n) for n in range(50)]
    assert [client.answer(number) for number in numbers] == [(raw.RESULT, 2 * n) for n in range(50)]
    assert sorted(served.added) == [(n, n) for n in range(50)]


def test_a_server_that_stops_says_so_and_finishes_what_runs(served: Served, client: RawClient) -> None:
    number = client.call("held", "a")
    assert served.begun.acquire(timeout=PATIENCE_S)
    closing = threading.Thread(target=served.server.close, daemon=True)
    closing.start()
    client.until(lambda: client.draining)
    assert client.answer(client.call("add", 1, 1)) == (raw.REFUSED, "draining")
    served.gate.set()
    assert client.answer(number) == (raw.RESULT, "a")
    client.until(lambda: client.over is not None)
    closing.join(PATIENCE_S)
    assert not closing.is_alive()
    assert not served.added


def test_a_puller_has_no_business_with_a_server(served: Served) -> None:
    with RawPuller(connect=served.address) as puller:
        puller.until(lambda: puller.refused is not None)
        assert puller.refused is not None
        assert puller.refused[0] == "role"


def test_the_raw_client_uses_nothing_of_zmqkit() -> None:
    source = Path(raw.__file__).read_text()
    imported = set(re.findall(r"^\s*(?:from|import) ([\w.]+)", source, re.M))
    assert imported == {"__future__", "json", "time", "types", "typing", "zmq", "tests.conformance.peer"}
