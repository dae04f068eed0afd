"""Strangers at a server: garbage, other versions, records that cannot be; an honest client beside makes its calls."""

from __future__ import annotations

import itertools
import random
import socket
from typing import Any

import pytest
import zmq

import zmqkit
from tests.bad_input.calls import (
    ABORT,
    CALL,
    CANCEL,
    END,
    ERROR,
    GRANT,
    ITEM,
    REFUSED,
    RESULT,
    UNKNOWN,
    Caller,
    Calls,
    arguments,
    call,
    served,
)
from tests.bad_input.scenes import until
from tests.bad_input.strangers import PATIENCE_S, pack
from tests.bad_input.strangers import REFUSED as TURNED_AWAY
from tests.bad_input.test_connections import GARBAGE, GREETING, closed_by_peer, command, dialled
from tests.bad_input.test_frames import NONSENSE
from tests.bad_input.test_mutations import VALUES, Allowed, anything, chunks, number, text
from tests.conformance.plain import load
from zmqkit.events import BadFrame, PeerRefused

HUGE = 2**62


# ---- at the door ---------------------------------------------------------------------


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=list(GARBAGE))
def test_what_is_no_zeromq_fails_the_handshake_and_is_counted(garbage: bytes) -> None:
    with served() as scene:
        with dialled(scene) as stranger:  # type: ignore[arg-type]
            try:
                stranger.sendall(garbage)
                stranger.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # it may have been hung up on already
            closed_by_peer(stranger)
        until(lambda: scene.count("io_handshakes_failed") + scene.count("io_connections_broken") >= 1)
        scene.expect(sessions_lost=0, calls_received=0, plain_received=0)
        scene.finish()


def test_a_broken_handshake_breaks_its_connection_and_is_counted() -> None:
    with served() as scene:
        for step in (command(b"READY", b"\x0bSocket-Type"), command(b"WHAT", b""), b"\x06" + b"\xff" * 8, b"\0\5hello"):
            before = scene.count("io_connections_broken") + scene.count("io_handshakes_failed")
            with dialled(scene) as stranger:  # type: ignore[arg-type]
                stranger.sendall(GREETING + step)
                closed_by_peer(stranger)
            until(lambda n=before: scene.count("io_connections_broken") + scene.count("io_handshakes_failed") > n)  # type: ignore[misc]
        scene.finish()


def test_nonsense_is_counted_and_told_or_answered_each_time() -> None:
    with served() as scene, Caller(scene.peer.addresses[0]) as stranger:
        stranger.enter()
        for name, frames in NONSENSE.items():
            before = scene.count("frames_bad") + scene.count("plain_refused")
            stranger.say(*frames)
            stranger.settled()
            assert scene.count("frames_bad") + scene.count("plain_refused") == before + 1, name
        assert all(len(event.reason) < 300 for event in scene.told(BadFrame, scene.count("frames_bad")))
        scene.expect(calls_received=0, sessions_lost=0)
        scene.finish()


@pytest.mark.parametrize("versions", [[2, 9], [0, 0], [2**62, 2**63 - 1]])
def test_a_client_of_another_version_is_refused_by_name(versions: list[int]) -> None:
    with served() as scene, Caller(scene.peer.addresses[0]) as stranger:
        answer = stranger.hello(zmqkit=versions, instance=b"i" * 16)
        assert answer[:2] == [TURNED_AWAY, "version"]
        assert f"version 1, the other {versions[0]} to {versions[1]}" in answer[2]
        (event,) = scene.told(PeerRefused, 1)
        assert (event.instance, event.code, event.reason) == ((b"i" * 16).hex(), "version", answer[2])
        scene.expect(handshakes_refused=1, frames_bad=0)
        scene.finish()


def test_peers_of_other_roles_are_refused_by_name() -> None:
    with served() as scene, zmqkit.Puller[Any](scene.peer.addresses[0]):
        (event,) = scene.told(PeerRefused, 1)
        assert event.code == "role"
        assert "this side is server and works with client, not pull" in event.reason
        scene.finish()


@pytest.mark.parametrize("kind", [zmq.PUSH, zmq.PULL, zmq.PUB, zmq.SUB, zmq.REP, zmq.PAIR])
def test_a_socket_of_a_kind_that_does_not_fit_is_refused_by_the_handshake(kind: int) -> None:
    with served() as scene, zmq.Context() as context, context.socket(kind) as mistaken:
        mistaken.setsockopt(zmq.LINGER, 0)
        mistaken.connect(scene.peer.addresses[0])
        until(lambda: scene.count("io_handshakes_failed") + scene.count("io_connections_broken") >= 1)
        scene.finish()


def test_a_plain_client_that_says_nonsense_is_answered_and_counted() -> None:
    said = [b"{", b"{}", b"[", b"[]", b"[{}]", b'{"method": 1}', b'{"method": ""}', b'{"method": "add", "params": 3}',
            b'{"method": "add", "id": [1]}', b'{"method": "add", "timeout": -1}', b'{"method": "nothing"}', b" \n",
            b'{"method": "add"}', b"[" * 100_000, b'{"a":' * 100_000,
            b'{"method": "' + b"x" * 300 + b'"}',
            b'{"method": "\\ud800"}', b"\xff{", b'{"method": "rows", "params": [1]}']  # fmt: skip
    with served() as scene, zmq.Context() as context, context.socket(zmq.REQ) as plain:
        plain.setsockopt(zmq.LINGER, 0)
        plain.setsockopt(zmq.RCVTIMEO, int(PATIENCE_S * 1000))
        plain.connect(scene.peer.addresses[0])
        for count, each in enumerate(said, start=1):
            plain.send(each)
            answer = plain.recv_json()
            assert isinstance(answer, dict)
            assert answer["error"]["code"] < 0, each[:50]
            scene.expect(plain_received=count, plain_refused=count)
        scene.finish()


# ---- layouts -------------------------------------------------------------------------


LAYOUT: dict[str, Any] = {
    "no head": [],
    "a head of two": [b"", 0],
    "records of none": [b"", 0, None],
    "a map": {},
    "an epoch of text": ["", 0, []],
    "a long epoch": [b"x" * 17, 0, []],
    "a floor below 0": [b"", -1, []],
    "a floor of 2**63": [b"", 2**63, []],
    "a record of none": [b"", 0, [None]],
    "a short record": [b"", 0, [[CALL, 1]]],
    "a record without its fields": [b"", 0, [[CALL, 1, None, "add", None, 0.0]]],
    "a server's record": [b"", 0, [[RESULT, 1, None, None]]],
    "a kind of 0": [b"", 0, [[0, 1, None]]],
    "a kind of 13": [b"", 0, [[13, 1, None]]],
    "a kind of text": [b"", 0, [["1", 1, None]]],
    "a number below 0": [b"", 0, [[CANCEL, -1, None]]],
    "a number of 2**63": [b"", 0, [[CANCEL, 2**63, None]]],
    "a number that is true": [b"", 0, [[CANCEL, True, None]]],
    "a body below -1": [b"", 0, [[CANCEL, 1, -2]]],
    "a body that is a number": [b"", 0, [[CANCEL, 1, 5]]],
    "a body of text": [b"", 0, [[CANCEL, 1, "body"]]],
    "a frame that is not there": [b"", 0, [[CANCEL, 1, -1]]],
    "seventy thousand records": [b"", 0, [[CANCEL, 0, None]] * 70_000],
}


def test_a_message_whose_layout_is_not_sound_is_dropped_whole() -> None:
    with served() as scene, Caller(scene.peer.addresses[0]) as stranger:
        stranger.enter()
        for count, head in enumerate(LAYOUT.values(), start=1):
            stranger.data(head)
            stranger.settled()
            assert scene.count("frames_bad") == count, list(LAYOUT)[count - 1]
        stranger.tell([CANCEL, 1, None], bodies=(b"left over",))
        stranger.tell(call(1), bodies=(arguments(1),), messages=0)  # more calls than it counts
        stranger.settled()
        scene.expect(frames_bad=len(LAYOUT) + 2, calls_received=0, sessions_lost=0)
        stranger.tell(call(1), bodies=(arguments(1, 2),))
        assert stranger.reply(1) == ([RESULT, 1, 1, None], pack(3))
        scene.finish()


# ---- fields of CALL ------------------------------------------------------------------


def optional(rule: Allowed) -> Allowed:
    return lambda value: value is None or rule(value)


def within(limit: float) -> Allowed:
    return lambda value: type(value) in (int, float) and -limit < value < limit


def headers(value: Any) -> bool:
    return type(value) is dict and all(type(k) is str and type(v) is str for k, v in value.items())


def uploads(value: Any) -> bool:
    return type(value) is list and len(value) <= 1 and all(type(each) in (int, str) for each in value)


FIELDS: list[tuple[int, str, Allowed]] = [
    (3, "method", lambda value: text(200)(value) and value != ""),
    (4, "remaining", optional(within(1e9))),
    (5, "stamp", within(1e15)),
    (6, "more", optional(lambda value: type(value) is dict)),
]
MORE: dict[str, Allowed] = {
    "id": text(1000),
    "attempt": number,
    "headers": headers,
    "codec": text(64),
    "items": optional(number),
    "uploads": uploads,
    "later": anything,
}


def test_every_field_of_call_with_every_wrong_value_is_refused_and_what_is_right_is_answered() -> None:
    """By the page: what cannot be read is REFUSED as `record` and counted; all else gets an answer of some kind."""
    cases: list[tuple[str, list[Any], bool]] = []
    for value in VALUES:
        for at, name, rule in FIELDS:
            record = call(0)
            record[at] = value
            cases.append((f"{name} = {value!r:.40}", record, not rule(value)))
        for name, rule in MORE.items():
            cases.append((f"{name} = {value!r:.40}", call(0, **{name: value}), not rule(value)))
    wrong = []
    with served() as scene:
        for some in chunks(cases):
            with Caller(scene.peer.addresses[0]) as stranger:
                stranger.enter(about={"client": random.randbytes(16)})
                for at, (what, record, is_bad) in enumerate(some, start=1):
                    record[1] = at
                    bad, refused = scene.count("frames_bad"), scene.count("calls_refused_record")
                    stranger.tell(record, [CANCEL, at, None], bodies=(arguments(1),))
                    stranger.settled()
                    found = (scene.count("frames_bad") - bad, scene.count("calls_refused_record") - refused)
                    if found != (is_bad, is_bad):
                        wrong.append(f"{what} is {'taken' if is_bad else 'bad'}: {found}")
        assert not wrong, "\n".join(wrong)
        until(lambda: not scene.server._executing)
        scene.finish()


@pytest.mark.parametrize("record", [[GRANT, 1, None], [ITEM, 1, None], [END, 1, None], [ABORT, 1, None]])
def test_every_field_of_the_records_of_streams_with_every_wrong_value(record: list[Any]) -> None:
    """Of calls that are not open they are late, whatever they hold; of open ones a bad one ends the upload at most."""
    with served() as scene:
        for value in VALUES:
            with Caller(scene.peer.addresses[0]) as stranger:
                stranger.enter(about={"client": random.randbytes(16)})
                for at in (5, 2**62):
                    stranger.tell([record[0], at, None, value, value])
                stranger.tell(call(1, "total", uploads=[0]), bodies=(arguments(None),))
                stranger.tell([record[0], 1, None, value, value])
                stranger.tell([record[0], 1, None, value, value])
                stranger.tell(call(2, "rows", items=0), bodies=(arguments(1),))
                stranger.tell([record[0], 2, None, value, value])
                stranger.settled()
        until(lambda: scene.count("sessions_lost") == len(VALUES) or len(scene.server._executing) == 0)
        scene.finish()


def test_golden_messages_with_bytes_changed_break_nothing() -> None:
    """Bit flips, cuts, doubled and foreign bytes in every golden message of a client; the seed is in the failure."""
    golden = [each["frames"] for each in load("reqrep")["vectors"] if each["message"]["from"] == "client"]
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    with served() as scene:
        for _ in range(20):
            with Caller(scene.peer.addresses[0]) as stranger:
                stranger.enter(about={"client": rng.randbytes(16)})
                for frames in itertools.islice(itertools.cycle(golden), 60):
                    changed = [bytearray(each) for each in frames]
                    at = rng.randrange(len(changed))
                    for _ in range(rng.randrange(1, 4)):
                        part = changed[at]
                        place = rng.randrange(len(part) + 1)
                        how = rng.randrange(4)
                        if how == 0 and place < len(part):
                            part[place] ^= 1 << rng.randrange(8)
                        elif how == 1:
                            del part[place:]
                        elif how == 2:
                            part[place:place] = rng.randbytes(rng.randrange(1, 9))
                        else:
                            part[place:place] = part[:place]
                    stranger.sent += 1
                    stranger.say(stranger.header(5, stranger.sent, 3), *map(bytes, changed))
                stranger.settled()
                assert scene.count("io_core_errors") == 0, f"seed {seed}"
        scene.finish()


# ---- bodies --------------------------------------------------------------------------


BODIES: dict[str, bytes] = {
    "nothing": b"",
    "no msgpack": b"\xc1",
    "a number": pack(5),
    "a list of one": pack([[]]),
    "a list of three": pack([[], {}, 1]),
    "a map": pack({1: 2, 3: 4}),
    "text of two": pack("ab"),
    "arguments of text": pack(["ab", {}]),
    "names of none": pack([[], None]),
    "names that are numbers": pack([[], {1: 2}]),
    "names that are lists": b"\x92\x90\x81\x90\x01",
    "deep arguments": b"\x92" + b"\x91" * 100 + b"\x01\x80",
    "very deep arguments": b"\x92" + b"\x91" * 1_000_000 + b"\x01\x80",
    "a list that claims a billion": b"\x92\xdd\x3b\x9a\xca\x00",
    "a map that claims a billion": b"\x92\xdf\x3b\x9a\xca\x00",
    "text that is not UTF-8": b"\x92\x91\xa2\xff\xfe\x80",
    "an ext type": b"\x92\x91\xc7\x04\x2atest\x80",
    "more behind it": arguments(1) + b"more",
    "a million empty lists": pack([[[]] * 1_000_000, {}]),
}


@pytest.mark.parametrize("what", BODIES)
def test_arguments_that_cannot_be_decoded_are_refused(what: str) -> None:
    with served() as scene, Caller(scene.peer.addresses[0]) as stranger:
        stranger.enter()
        for at, codec in enumerate((None, "json", "no codec of ours"), start=1):
            record = call(at) if codec is None else call(at, codec=codec)
            body = BODIES[what]
            if len(body) < 16_384:
                stranger.tell(record, bodies=(body,))
            else:
                record[2] = -1
                stranger.data([stranger.epoch, 0, [record]], body, messages=1)
            answer, _ = stranger.reply(at)
            assert answer[:1] == [REFUSED], answer
            assert answer[3] == "arguments"
            assert len(answer[4]) < 1_000
        scene.expect(calls_refused_arguments=3, calls_executed=0, frames_bad=0)
        scene.finish()


# ---- calls that contradict others ----------------------------------------------------


def test_calls_for_another_epoch_are_refused_and_never_executed() -> None:
    with served() as scene, Caller(scene.peer.addresses[0]) as stranger:
        stranger.enter()
        for at, epoch in enumerate((b"", b"another epoch...", b"x"), start=1):
            stranger.tell(call(at), bodies=(arguments(1),), epoch=epoch, floor=HUGE)
            assert stranger.reply(at)[0][3] == "epoch"
        scene.expect(calls_refused_epoch=3, calls_executed=0)
        scene.finish()


def test_numbers_that_were_used_are_answered_and_never_executed_again() -> None:
    with served() as scene, Caller(scene.peer.addresses[0]) as stranger:
        stranger.enter()
        stranger.tell(call(5), bodies=(arguments(1, 2),))
        assert stranger.reply(5)[1] == pack(3)
        stranger.tell(call(5), bodies=(arguments(7, 7),))
        assert stranger.reply(5)[1] == pack(3), "the answer of the first"
        stranger.tell(call(5, "rows"), bodies=(arguments(1),))
        assert stranger.reply(5)[0][:4] == [REFUSED, 5, None, "id"]
        stranger.tell(call(0), bodies=(arguments(1),))
        assert stranger.reply(0)[0][:4] == [REFUSED, 0, None, "record"]
        stranger.tell(call(3), bodies=(arguments(1),), floor=4)
        assert stranger.reply(3)[0][:4] == [UNKNOWN, 3, None, "expired"]
        scene.expect(calls_executed=1, calls_repeated=2)
        scene.finish()


def test_a_flood_of_calls_for_methods_that_are_not_there_keeps_nobody_waiting() -> None:
    with served() as scene, Caller(scene.peer.addresses[0]) as stranger:
        stranger.enter()
        body, at = arguments(1), 0
        for _ in range(40):
            records = []
            for _ in range(250):
                at += 1
                records.append(call(at, f"nothing-{at}"))
            stranger.tell(*records, bodies=(body,) * 250)
            stranger.settled()
        answered(scene, 40 * 250)
        assert len(scene.peer._core.window.ids) == 0
        scene.finish(100)


def answered(scene: Calls, count: int) -> None:
    until(lambda: scene.count("calls_refused_method") == count)
    scene.expect(calls_executed=0, frames_bad=0)
    (client,) = [each for each in scene.peer._core._callers.values() if each.session.peer.name == "stranger"]
    assert len(client.open) == len(client.client.entries) == 0


def test_more_calls_than_the_credit_end_the_session_of_who_sends_them() -> None:
    with served() as scene, Caller(scene.peer.addresses[0]) as stranger:
        stranger.enter()
        body = arguments(1)
        for at in range(1, stranger.room + 1_001, 1_000):
            stranger.heard = 0  # nothing is heard, so nothing is given back
            stranger.tell(*[call(n, "nothing") for n in range(at, at + 1_000)], bodies=(body,) * 1_000)
        until(lambda: scene.count("credit_exceeded") >= 1)
        scene.finish()


def test_a_server_whose_handlers_raise_at_the_stranger_tells_him_alone() -> None:
    with served() as scene, Caller(scene.peer.addresses[0]) as stranger:
        stranger.enter()
        stranger.tell(call(1), bodies=(arguments({}, 1),))
        assert stranger.reply(1)[0][0] == ERROR
        scene.finish()
