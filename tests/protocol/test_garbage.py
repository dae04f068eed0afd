"""Whatever a stranger sends: nothing but DecodeError comes out of the decoders, nothing at all out of the core."""

from __future__ import annotations

import contextlib
import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.protocol.pair import LINK, Pair, Side, frame
from zmqkit.errors import DecodeError
from zmqkit.patterns.pipeline import wire as pipeline
from zmqkit.patterns.pipeline.rows import DeadRow, Row
from zmqkit.protocol import wire
from zmqkit.testing.contract import check_deadline, check_send

bounded = settings(max_examples=60, deadline=None, derandomize=True)

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.sampled_from([b"sessions", b"i" * 16, "push", "echo", 0, 1, 2**63, -1, 1.0, True])
)
hashable = st.integers(-5, 300) | st.text(max_size=12) | st.binary(max_size=8)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=6) | st.dictionaries(hashable, inner, max_size=4), max_leaves=10
)
fields = st.sampled_from(
    [
        "zmqkit", "role", "instance", "session", "attempt", "resume", "replaces", "heard", "sent", "credit",
        "heartbeat", "busy", "frame", "name", "host", "process", "features", "about",
    ]
)  # fmt: skip
GOOD = msgpack.unpackb(wire.Hello(role="echo", instance=b"i" * 16, session=b"sessions").pack(wire.HELLO))[1]


@st.composite
def hellos(draw: Any) -> dict[Any, Any]:
    """A right HELLO with some fields wrong, or missing, or too many."""
    said = {**GOOD, **draw(st.dictionaries(fields, values, max_size=3))}
    for name in draw(st.lists(fields, max_size=2)):
        said.pop(name, None)
    return said


@st.composite
def headers(draw: Any) -> list[Any]:
    kind = draw(st.integers(-1, 14) | values)
    if kind in (wire.HELLO, wire.WELCOME):
        return [kind, draw(hellos() | values)]
    return [kind, draw(st.just(b"sessions") | values), *draw(st.lists(st.integers(0, 5) | values, max_size=7))]


@bounded
@given(st.binary(max_size=200) | values.map(msgpack.packb))
@example(b"")
@example(b"\xc1")
@example(b"\xdd\xff\xff\xff\xff")
@example(b"\xdf\xff\xff\xff\xff\x01")
@example(b"\xc6\xff\xff\xff\xff")
@example(b"\x91" * 5000)
@example(b"\x81\x90\x01")
@example(b"\xd6\xff\x00\x00\x00\x00")
@example(b"\xc7\x00\xff")
@example(b"\xa2\xff\xfe")
def test_only_decode_errors_come_out_of_unpack(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        wire.unpack(data)


@bounded
@given(hellos() | values)
@example({**GOOD, "heartbeat": [float("nan"), 3]})
@example({**GOOD, "heartbeat": [float("inf"), 3]})
@example({**GOOD, "zmqkit": [True, 1]})
@example({**GOOD, "about": {str(each): 0 for each in range(65)}})
@example({**GOOD, "process": [1]})
def test_only_decode_errors_come_out_of_read_hello(said: Any) -> None:
    try:
        hello = wire.read_hello(said)
    except DecodeError:
        return
    assert wire.read_hello(msgpack.unpackb(hello.pack(1), strict_map_key=False)[1]) == hello
    assert 0 < hello.bound <= wire.MAX_BOUND_SECONDS
    assert len(hello.instance) == 16
    assert len(hello.session) == 8


pipeline_heads = st.one_of(
    st.tuples(
        st.just(1), st.integers(0, 9), st.integers(0, 9), st.text(max_size=4), st.integers(0, 9), st.text(max_size=4),
        st.lists(st.integers(0, 3), max_size=4) | values,
        st.dictionaries(
            st.sampled_from(["ids", "headers", "failures", "deliveries", "alone"]),
            st.dictionaries(st.integers(-1, 4), st.text(max_size=3) | st.integers(0, 9) | values, max_size=3) | values,
        ),
    ),
    st.tuples(
        st.just(2), st.just(b"e" * 16) | values, st.lists(st.integers(0, 9), max_size=6) | values,
        st.lists(
            st.tuples(st.integers(0, 9), st.integers(0, 5) | values, st.none() | st.floats(), st.text(), values)
            | values,
            max_size=3,
        ),
        st.integers(0, 9) | values,
    ),
    st.tuples(st.just(3), st.integers(0, 9) | values, st.lists(st.integers(0, 9), max_size=6) | values),
    st.tuples(st.just(4), st.just(b"e" * 16) | values, st.integers(0, 9) | values, st.lists(st.integers(0, 9))),
    st.lists(values, max_size=9),
)  # fmt: skip


@bounded
@given(pipeline_heads.map(lambda head: msgpack.packb(list(head))) | st.binary(max_size=60), st.binary(max_size=12))
def test_only_decode_errors_come_out_of_the_pipelines_reader(head: bytes, blob: bytes) -> None:
    for frames in ([head, blob], [head], []):
        try:
            message = pipeline.read(frames)
        except DecodeError:
            continue
        packed = message.pack()
        assert pipeline.read(packed) == message


@bounded
@given(st.binary(max_size=80) | pipeline_heads.map(lambda head: msgpack.packb(list(head))))
@example((6).to_bytes(4, "big") + msgpack.packb([1, "", 0, "", [], 5]))
@example(msgpack.packb([1, 5]))
@example(msgpack.packb([1, {"id": "x"}]))
@example(msgpack.packb([b"", {}, 3]))
def test_only_decode_errors_come_out_of_the_rows_readers(value: bytes) -> None:
    row = Row(1, "o", 0, "c", [1, 1], b"ab", {}, {})
    framed = len(value).to_bytes(4, "big") + value
    for read in (lambda: Row.unpack(1, framed), lambda: DeadRow.unpack(value), lambda: row.unpack_marks(value)):
        with contextlib.suppress(DecodeError):
            read()


@bounded
@given(st.lists(headers().map(msgpack.packb) | st.binary(max_size=60), min_size=1, max_size=8), st.booleans())
@example([msgpack.packb([wire.PING, [], 0, 0, 0, 1, 0])], True)
@example([msgpack.packb([wire.PING, {}, 0, 0, 0, 1, 0])], False)
@example([msgpack.packb([wire.LOST, [b"x"]])], False)
@example([msgpack.packb([wire.REFUSED, {}])], False)
@example([msgpack.packb([wire.DATA, b"sessions", 0, 0, 0, 2**62, 2**62])], True)
@example([*[msgpack.packb([wire.DATA, b"sessions"])] * 2, msgpack.packb([11, b"sessions"])], True)
def test_no_garbage_makes_a_core_raise_or_spin(heads: list[bytes], dialled: bool) -> None:
    """A stranger on a bound link, or behind an address that we dialled; an honest pair beside it goes on."""
    pair = Pair()
    side = pair.c if dialled else pair.b
    link = LINK if dialled else ("b", "x", 9)
    if not dialled:
        opening = wire.Hello(role="echo", instance=b"i" * 16, session=b"sessions")
        side.sessions.receive_message(link, [opening.pack(wire.HELLO)], pair.now)
    for head in heads:
        side.sessions.receive_message(link, [head, b"body"], pair.now)
        side.sessions.receive_message(link, [], pair.now)
        for to, frames in side.out.sends:
            check_send(to, frames)
    pair.drain()
    pair.advance(30.0)
    side.sessions.handle_timer(pair.now + 5000.0)
    side.take_events()
    pair.drain()
    for wanted in (side.out.probes, side.out.disconnects, side.out.dials):
        wanted.clear()
    check_deadline(_AsCore(side), pair.now + 5000.0)  # type: ignore[arg-type]


class _AsCore:
    """So much of a core as the check of deadlines asks for."""

    def __init__(self, side: Side) -> None:
        self.out = side.out
        self.next_deadline = side.sessions.next_deadline


def test_garbage_is_counted_and_an_honest_peer_beside_it_is_served() -> None:
    pair = Pair()
    for number in range(1000):
        pair.hand(pair.b, 5, [b"\xc1garbage %d" % number])
    pair.say(pair.c, b"1")
    pair.flow()
    assert pair.b.got == [b"1"]
    assert pair.b.counters["frames_bad"] == 1000
    assert pair.b.kinds().count("BadFrame") == 1000


@pytest.mark.parametrize(
    "bomb",
    [
        b"\x91" * 4_000_000,
        b"\xdd\x00\x3d\x09\x00" + b"\x80" * 4_000_000,
        b"\xdd\x00\x3d\x09\x00" + b"\x90" * 4_000_000,
        b"\xdd\xff\xff\xff\xff" + b"\x90" * 100,
        b"\xc6\xff\xff\xff\xff",
        b"\xdf\x00\x1e\x84\x80" + b"\x01\x90" * 2_000_000,
        b"." * 100_000_000,
    ],
    ids=["deep", "maps", "lists", "claims", "claims bytes", "pairs", "large"],
)
def test_a_bomb_of_a_header_takes_bounded_memory(bomb: bytes) -> None:
    pair = Pair()
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            wire.unpack(bomb)
        assert tracemalloc.get_traced_memory()[1] < 48_000_000
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        pair.hand(pair.b, 1, [bomb])
        assert tracemalloc.get_traced_memory()[1] - before < 1_000_000
    finally:
        tracemalloc.stop()
    assert pair.b.counters["frames_bad"] == 1


def test_what_a_stranger_says_of_itself_is_cut_short_in_events_and_errors() -> None:
    side = Side("b")
    said = {**GOOD, "zmqkit": [9, 9], "instance": b"." * 60_000}
    side.sessions.receive_message(("b", "x", 1), frame(wire.HELLO, said), 0.0)
    side.sessions.receive_message(("b", "x", 1), frame(wire.HELLO, {**GOOD, "role": "." * 60_000}), 0.0)
    side.sessions.receive_message(("b", "x", 1), frame(wire.HELLO, {**GOOD, "name": [["x"] * 10_000]}), 0.0)
    side.take_events()
    assert all(len(str(event)) < 400 for event in side.events)


@bounded
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["say", "grant", "break", "connect", "time", "goodbye", "pause", "disturb", "forget"]),
            st.booleans(),
            st.floats(0.001, 8.0),
        ),
        max_size=30,
    )
)
def test_once_drained_no_deadline_is_past_and_asking_changes_nothing(acts: list[tuple[str, bool, float]]) -> None:
    """`Pair.advance` checks after every timer that the next deadline is later than now."""
    pair = Pair(Side("c", host="h", pid=1), Side("b", host="h", pid=2, busy_bound=7.0))
    for act, first, amount in acts:
        side = pair.c if first else pair.b
        if act == "say" and len(side.sessions):
            pair.say(side, b"x")
        elif act == "grant":
            for session in side.sessions:
                side.sessions.grant(session, session.limit_messages + 1, session.limit_bytes + 1)
        elif act == "break" and pair.connection is not None:
            pair.disconnect(tell="both" if first else "c")
        elif act == "connect" and pair.connection is None:
            pair.connect()
        elif act == "goodbye":
            for session in list(side.sessions):
                side.sessions.goodbye(session, "go", pair.now)
        elif act == "pause":
            side.paused = not side.paused
        elif act == "disturb":
            pair.b.sessions.links_disturbed(("b", "x"), pair.now)
        elif act == "forget" and amount > 7.0:
            pair.c.sessions.link_forgotten(LINK, pair.now)
        pair.advance(amount if act == "time" else 0.0)
        for each in (pair.c, pair.b):
            before = each.sessions.timers.heap.copy()
            assert each.sessions.next_deadline() == each.sessions.next_deadline()
            assert each.sessions.timers.heap == before
            keys = [key for key in each.sessions.timers._when if isinstance(key, tuple)]
            names = {key[1] for key in keys if key[0] != "hello"}
            assert names <= set(each.sessions._by_id), "a timer of a session that ended"
            assert len(each.sessions._by_link) <= len(each.sessions._by_id)
            assert all(session.link == link for link, session in each.sessions._by_link.items())
