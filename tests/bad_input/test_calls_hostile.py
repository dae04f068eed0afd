"""Servers that send garbage, answers of other calls, or more than was asked; each with an honest pair beside it."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import zmqkit
from tests.bad_input.calls import (
    CALL,
    DRAINING,
    END,
    EPOCH,
    ERROR,
    GRANT,
    ITEM,
    METHODS,
    REFUSED,
    RESULT,
    UNKNOWN,
    Hostile,
    dialling,
    served,
)
from tests.bad_input.scenes import until
from tests.bad_input.strangers import PATIENCE_S, pack
from tests.bad_input.test_mutations import VALUES, chunks, number, text
from zmqkit import Limits, NotSentInTime, OutcomeUnknown, Rejected, RemoteError, StreamBroken
from zmqkit.events import BadFrame, PeerRefused
from zmqkit.patterns.reqrep.returning import MAX_RENUMBERED

HUGE = 2**62


def test_a_server_of_another_version_gets_no_call_and_is_named() -> None:
    with Hostile() as hostile, dialling(hostile.address) as scene:
        hostile.enter(zmqkit=[7, 9])
        with pytest.raises(NotSentInTime, match="nothing was executed"):
            scene.peer.options(timeout=0.3).call("add", 1)
        (event,) = scene.told(PeerRefused, 1)
        assert event.code == "version"
        assert "version 1, the other 7 to 9" in event.reason
        scene.expect(handshakes_refused=1, calls_sent=0)
        scene.finish()


def test_a_peer_of_another_role_gets_no_call_and_is_named() -> None:
    with zmqkit.Pusher("tcp://127.0.0.1:*", linger=0) as pusher, dialling(pusher.addresses[0]) as scene:
        with pytest.raises(NotSentInTime):
            scene.peer.options(timeout=0.3).call("add", 1)
        (event,) = scene.told(PeerRefused, 1)
        assert event.code == "role"
        scene.finish()


ABOUT = [
    {}, {"epoch": b"short"}, {"epoch": "sixteen letters!"}, {"epoch": EPOCH, "window": 5},
    {"epoch": EPOCH, "window": b""}, {"epoch": EPOCH, "window": b"x" * 17},
]  # fmt: skip


@pytest.mark.parametrize("about", ABOUT, ids=str)
def test_a_server_without_an_epoch_is_sent_away(about: dict[str, Any]) -> None:
    with Hostile() as hostile, dialling(hostile.address, honest=True) as scene:
        hostile.enter(about=about)
        until(lambda: scene.count("frames_bad") == 1)
        scene.expect(sessions_lost=1)
        scene.finish()


def test_answers_of_calls_that_are_not_open_there_are_late_and_meet_no_other() -> None:
    """Of the next numbers, of those that the honest server executes, of numbers that were answered."""
    with Hostile() as hostile, dialling(hostile.address, honest=True) as scene:
        hostile.enter(credit=0)
        until(lambda: scene.count("sessions_opened") == 2)
        late = 0
        for at in itertools.chain(range(200), (0, HUGE, 2**63 - 1)):
            hostile.tell([RESULT, at, 0, None], body=pack("foreign"))
            hostile.tell([ERROR, at, 0], body=pack({"type": "Foreign"}))
            hostile.tell([REFUSED, at, None, "method", "foreign"], [UNKNOWN, at, None, "started", ""])
            hostile.tell([END, at, None, 0])
            late += 5
            hostile.tell([ITEM, at, 0, 0, None], body=b"\x01")
            hostile.tell([GRANT, at, None, HUGE])
        hostile.sync()
        scene.expect(replies_late=late, frames_bad=0, calls_sent=0)
        scene.finish(200)
        for at in range(1, 250):
            hostile.tell([RESULT, at, 0, None], body=pack("foreign"))
        hostile.sync()
        scene.expect(replies_late=late + 249)
        scene.finish()


def test_a_call_is_answered_once_whatever_comes_after() -> None:
    with Hostile() as hostile, dialling(hostile.address) as scene:
        hostile.enter()
        for answer in range(3):
            reply = scene.peer.submit("add", answer)
            (_, at, *_), _ = hostile.told()
            hostile.tell([RESULT, at, 0, None], body=pack(answer))
            hostile.tell([RESULT, at, 0, None], body=pack("again"))
            hostile.tell([ERROR, at, 0], body=pack({"type": "Again"}))
            assert reply.result(PATIENCE_S) == answer
        hostile.sync()
        scene.expect(replies_late=6, calls_answered=3)
        scene.finish()


BODIES = [
    b"", b"\xc1", b"\x91" * 100, b"\xdd\xff\xff\xff\xff", pack(1) + b"more", b"\xa2\xff\xfe", b"\x91" * 60_000,
]  # fmt: skip


@pytest.mark.parametrize("body", BODIES, ids=lambda body: repr(body[:8]))
def test_a_value_that_is_none_is_told_and_was_executed(body: bytes) -> None:
    with Hostile() as hostile, dialling(hostile.address) as scene:
        hostile.enter()
        replies = [scene.peer.submit("add", n) for n in range(3)]
        stream = scene.peer.stream("rows", 1)
        numbers = [hostile.told()[0][1] for _ in range(4)]
        hostile.tell([RESULT, numbers[0], 0, None], body=body)
        hostile.tell([RESULT, numbers[1], 0, "a codec of ours"], body=body)
        hostile.tell([ERROR, numbers[2], 0], body=body)
        hostile.tell([ITEM, numbers[3], 0, 0, None], body=body)
        for reply in replies:
            error = reply.exception(PATIENCE_S)
            assert type(error) is RemoteError
            assert "was executed" in str(error)
        with pytest.raises(RemoteError, match="an item of its stream cannot be read here"):
            next(stream)
        assert list(stream) == []
        scene.finish()


TOLD: list[Any] = [
    5, [], {}, {"type": 5, "message": [1], "code": 7, "traceback": b""},
    {"type": "\0" * 300_000, "message": "x" * 300_000}, {b"type": "x"},
    {"data": [[[[1]]]]}, {"type": None, "message": None},
]  # fmt: skip


@pytest.mark.parametrize("told", TOLD, ids=lambda told: f"{told!s:.20}")
def test_whatever_an_error_tells_is_a_remote_error(told: Any) -> None:
    with Hostile() as hostile, dialling(hostile.address) as scene:
        hostile.enter()
        reply = scene.peer.submit("add", 1)
        (_, at, *_), _ = hostile.told()
        hostile.tell([ERROR, at, 0], body=pack(told))
        error = reply.exception(PATIENCE_S)
        assert type(error) is RemoteError
        assert isinstance(error.type, str)
        assert isinstance(error.code, str | None)
        assert isinstance(error.remote_traceback, str | None)
        str(error), repr(error)
        scene.finish()


def test_every_field_of_every_answer_with_every_wrong_value() -> None:
    """A record that cannot be read ends its own call as unknown; the layout of a message spoils it whole."""
    good: dict[int, list[tuple[Any, Any]]] = {
        RESULT: [(None, lambda v: v is None or text(64)(v))],
        REFUSED: [("method", text(200)), ("why", text(4000))],
        UNKNOWN: [("stopped", text(200)), ("why", text(4000))],
        ITEM: [(0, lambda v: v == 0 and type(v) is int), (None, lambda v: v is None or text(64)(v))],
        GRANT: [(5, number)],
    }
    cases: list[tuple[int, int, Any, bool]] = [
        (op, field, value, not rule(value))
        for op, fields in good.items()
        for field, (_, rule) in enumerate(fields)
        for value in VALUES
    ]
    wrong = []
    for some in chunks(cases):
        with Hostile() as hostile, dialling(hostile.address) as scene:
            hostile.enter()
            for op, field, value, is_bad in some:
                call = scene.peer.stream("rows", 1) if op == ITEM else scene.peer.submit("add", 1)
                (_, at, *_), _ = hostile.told()
                fields = [value if n == field else right for n, (right, _) in enumerate(good[op])]
                bad = scene.count("frames_bad")
                size = 0 if op in (RESULT, ITEM) else None
                hostile.tell([op, at, size, *fields], body=b"\x01" if size == 0 else b"")
                hostile.sync()
                if (scene.count("frames_bad") - bad) != is_bad:
                    wrong.append(f"{op} {field} {value!r:.50} is {'taken' if is_bad else 'bad'}")
                if op == GRANT:
                    call.cancel()
                elif op != ITEM:
                    error = call.exception(PATIENCE_S)
                    assert error is None or isinstance(error, zmqkit.CallError)
                else:
                    if not is_bad:
                        hostile.tell([END, at, None, 1])
                    with contextlib.suppress(zmqkit.CallError):
                        list(call)
            scene.finish()
    assert not wrong, "\n".join(wrong)


LAYOUT: dict[str, Any] = {
    "no head": [],
    "a head of two": [b"", 0],
    "records of none": [b"", 0, None],
    "a map": {},
    "a number": 7,
    "an epoch of text": ["", 0, []],
    "a long epoch": [b"x" * 17, 0, []],
    "a floor below 0": [b"", -1, []],
    "a floor of text": [b"", "0", []],
    "a record of none": [b"", 0, [None]],
    "a short record": [b"", 0, [[RESULT, 1]]],
    "a record without its fields": [b"", 0, [[RESULT, 1, None]]],
    "a client's record": [b"", 0, [[CALL, 1, None, "add", None, 0.0, None]]],
    "a kind of 0": [b"", 0, [[0, 1, None]]],
    "a kind of 13": [b"", 0, [[13, 1, None]]],
    "a kind of text": [b"", 0, [["7", 1, None]]],
    "a kind that is true": [b"", 0, [[True, 1, None]]],
    "a number below 0": [b"", 0, [[DRAINING, -1, None]]],
    "a number of 2**63": [b"", 0, [[DRAINING, 2**63, None]]],
    "a number that is a float": [b"", 0, [[DRAINING, 1.0, None]]],
    "a size below -1": [b"", 0, [[RESULT, 1, -2, None]]],
    "a body of text": [b"", 0, [[RESULT, 1, "0", None]]],
    "a body that is a number": [b"", 0, [[RESULT, 1, 5, None]]],
    "a body that is a huge number": [b"", 0, [[RESULT, 1, 2**63 - 1, None]]],
    "a frame that is not there": [b"", 0, [[RESULT, 1, -1, None]]],
    "seventy thousand records": [b"", 0, [[DRAINING, 0, None]] * 70_000],
}


def test_a_message_whose_layout_is_not_sound_is_dropped_whole() -> None:
    with Hostile() as hostile, dialling(hostile.address, honest=True) as scene:
        hostile.enter(credit=0)
        for count, head in enumerate(LAYOUT.values(), start=1):
            hostile.client.data(head)
            hostile.sync()
            assert scene.count("frames_bad") == count, list(LAYOUT)[count - 1]
        assert all(len(event.reason) < 300 for event in scene.told(BadFrame, len(LAYOUT)))
        hostile.tell(body=b"left over")
        hostile.sync()
        scene.expect(frames_bad=len(LAYOUT) + 1, sessions_lost=0)
        scene.finish()


def test_items_that_nobody_asked_for_end_their_stream_and_fill_no_memory() -> None:
    with Hostile() as hostile, dialling(hostile.address) as scene:
        hostile.enter()
        stream = scene.peer.stream("rows", 1)
        (_, at, *_), _ = hostile.told()
        for index in range(500):
            hostile.tell([ITEM, at, 0, index, None], body=pack(index))
        hostile.sync()
        got = []
        with pytest.raises(StreamBroken) as caught:
            got.extend(stream)
        assert len(got) <= caught.value.received == 64
        assert len(stream._arrivals._items) == 0
        # The 65th is bad, and its call is over: the others are too late to be anything.
        scene.expect(frames_bad=1)
        # One reply is wanted: an item of it ends it.
        reply = scene.peer.submit("add", 1)
        (_, at, *_), _ = hostile.told()
        hostile.tell([ITEM, at, 0, 0, None], body=b"\x01")
        assert type(reply.exception(PATIENCE_S)) is OutcomeUnknown
        scene.finish()


@pytest.mark.parametrize("size", [1_000, 100_000])
def test_a_server_that_grants_without_end_and_takes_nothing_is_sent_a_bounded_part_of_an_upload(size: int) -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield bytes(size)

    limits = Limits(queued_bytes=2_000_000)
    with Hostile() as hostile, dialling(hostile.address, limits=limits, timeout=None) as scene:
        hostile.enter()
        reply = scene.peer.submit("total", endless())
        (_, at, *_), _ = hostile.told()
        hostile.tell([GRANT, at, None, HUGE])
        hostile.sync()
        until(lambda: taken >= 64)
        before = 0
        while before < taken:  # as much as it sends while nothing is heard
            before = taken
            time.sleep(0.3)
        # By the sync it has said that it heard what had come by then: as much again may be on the way.
        assert 64 <= taken <= 2 * limits.queued_bytes // size + 200
        reply.cancel()
        until(lambda: not any(each.name == "zmqkit-upload" for each in threading.enumerate()))
        scene.finish()


def test_a_server_that_grants_without_end_and_takes_all_gets_all() -> None:
    with Hostile() as hostile, dialling(hostile.address, limits=Limits(queued_bytes=100_000)) as scene:
        hostile.enter()
        reply = scene.peer.submit("total", (bytes(10_000) for _ in range(300)))
        (_, at, *_), _ = hostile.told()
        hostile.tell([GRANT, at, None, HUGE])
        for index in range(300):
            record, _ = hostile.told(ITEM)
            assert record[3] == index
            hostile.tell()  # it hears
        assert hostile.told(END)[0][3] == 300
        hostile.tell([RESULT, at, 0, None], body=pack("all"))
        assert reply.result(PATIENCE_S) == "all"
        scene.finish()


def test_a_result_of_a_stream_is_none_and_that_is_said() -> None:
    with Hostile() as hostile, dialling(hostile.address) as scene:
        hostile.enter()
        stream = scene.peer.stream("rows", 1)
        (_, at, *_), _ = hostile.told()
        hostile.tell([RESULT, at, 0, None], body=pack(1))
        with pytest.raises(StreamBroken):
            list(stream)
        scene.expect(frames_bad=1)
        scene.finish()


def test_a_stream_by_the_request_id_of_a_call_is_not_taken_for_an_empty_one() -> None:
    with served() as scene:
        client = scene.client.options(request_id="mine")
        assert client.call("add", 1, 2) == 3
        with pytest.raises(StreamBroken):
            list(client.stream("add", 1, 2))
        scene.finish()


def test_a_server_that_refuses_all_calls_costs_each_of_them_a_moment() -> None:
    with Hostile() as hostile, dialling(hostile.address) as scene:
        hostile.enter()
        for code in (
            "draining",
            "epoch",
            "overloaded",
            "late",
            "cancelled",
            "method",
            "arguments",
            "journal",
            "",
            "x" * 200,
        ):
            reply = scene.peer.options(timeout=0.5).submit("add", 1)
            record, _ = hostile.told()
            hostile.tell([REFUSED, record[1], None, code, "no"])
            if code in ("draining", "epoch"):
                with pytest.raises(NotSentInTime):
                    reply.result(PATIENCE_S)
                hostile.tell()
                hostile.client.say(hostile.client.header(10, "bye", 0))
                hostile.enter()
                continue
            error = reply.exception(PATIENCE_S) if code != "cancelled" else None
            assert error is None or isinstance(error, Rejected | NotSentInTime), code
        scene.finish()


def test_a_server_that_says_that_every_number_has_expired_is_not_asked_for_ever() -> None:
    with Hostile() as hostile, dialling(hostile.address) as scene:
        hostile.enter()
        reply = scene.peer.submit("add", 1)
        for _ in range(1 + MAX_RENUMBERED):
            record, _ = hostile.told()
            hostile.tell([UNKNOWN, record[1], None, "expired", ""])
        assert isinstance(reply.exception(PATIENCE_S), Rejected)
        scene.finish()


def test_methods_that_are_none_are_bad_and_change_nothing() -> None:
    with Hostile() as hostile, dialling(hostile.address, honest=True) as scene:
        hostile.enter(credit=0)
        bodies = [b"", b"\xc1", pack(5), pack({}), pack([1]), pack(["x" * 201]), pack(["x"] * 100_001), pack([b"x"])]
        for count, body in enumerate(bodies, start=1):
            hostile.tell([METHODS, 0, 0], body=body)
            hostile.sync()
            assert scene.count("frames_bad") == count, body[:20]
        scene.finish()
