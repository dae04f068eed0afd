"""The cores of plain pushers and pullers, without sockets."""

from __future__ import annotations

import random
from typing import Any

import msgpack
import pytest

from zmqkit.events import JobDead, JobFailed
from zmqkit.options import Limits
from zmqkit.patterns.pipeline import wire
from zmqkit.patterns.pipeline.hands import PusherSettings
from zmqkit.patterns.pipeline.outlets import FRAMES, PUSH_MESSAGES, OutletPusherCore, frames_of
from zmqkit.patterns.pipeline.plain import MAX_FAILURES, PlainPullerCore
from zmqkit.patterns.pipeline.puller import Parcel
from zmqkit.patterns.pipeline.rows import Pack, Row
from zmqkit.protocol.local import Local
from zmqkit.testing.contract import check_deadline, check_purity

ONE, OTHER = ("d", "tcp://127.0.0.1:1"), ("d", "tcp://127.0.0.1:2")


def local(role: str, accepts: str, **more: Any) -> Local:
    return Local(role=role, accepts=frozenset({accepts}), instance=bytes(16), **more)


class Pushing:
    """A pusher's core, and sockets of a given room."""

    def __init__(self, **settings: Any) -> None:
        made = PusherSettings(origin="o", epoch=bytes(16), durable=False, **settings)
        self.core = OutletPusherCore(local("push", "pull"), made, random.Random(1))
        self.room: dict[Any, int] = {}
        self.sent: dict[Any, list[int]] = {}
        self.told: list[Any] = []
        self.now = 0.0
        self._sequence = 1

    def send(self, count: int) -> None:
        bodies = [b"%d" % n for n in range(self._sequence, self._sequence + count)]
        pack = Pack("raw", 0, list(map(len, bodies)), b"".join(bodies))
        self.core.append(pack, self._sequence, None, True, None, self.now)
        self._sequence += count

    def turn(self) -> None:
        """One turn of a driver, to its end."""
        core = self.core
        core.end_turn(self.now)
        while core.out.pushes:
            pushes, core.out.pushes = core.out.pushes, []
            for link, messages in pushes:
                taken = min(len(messages), self.room.get(link, 0))
                if link in self.room:
                    self.room[link] -= taken
                self.sent.setdefault(link, []).extend(int(frames[0]) for frames in messages[:taken])
                core.pushed(link, taken, self.now)
            core.end_turn(self.now)
        self.told += core.out.replies
        core.out.replies = []
        check_deadline(core, self.now)
        check_purity(core)


def test_what_zeromq_did_not_take_keeps_its_place() -> None:
    made = Pushing()
    made.core.link_up(ONE, 0.0)
    made.send(10)
    made.room[ONE] = 3
    made.turn()
    assert (made.sent[ONE], made.core.unsettled, made.core.acked) == ([1, 2, 3], 7, 3)
    made.send(5)
    made.room[ONE] = 100
    made.turn()
    assert made.sent[ONE] == [1, 2, 3], "nothing is pushed before it is told that there is room"
    made.core.link_room(ONE, 0.0)
    made.turn()
    assert made.sent[ONE] == list(range(1, 16))
    assert (made.core.unsettled, made.core.acked, made.core.counters["pushed"]) == (0, 15, 15)


def test_each_socket_gets_so_much_at_a_time_and_all_get_something() -> None:
    made = Pushing()
    made.room = {ONE: 10_000, OTHER: 10_000}
    for link in (ONE, OTHER):
        made.core.link_up(link, 0.0)
    made.send(3 * PUSH_MESSAGES)
    made.turn()
    assert len(made.sent[ONE]) == len(made.sent[OTHER]) == PUSH_MESSAGES
    made.core.link_room(OTHER, 0.0)
    made.turn()
    assert len(made.sent[OTHER]) == 2 * PUSH_MESSAGES
    assert sorted(made.sent[ONE] + made.sent[OTHER]) == list(range(1, 3 * PUSH_MESSAGES + 1))


def test_a_socket_that_is_gone_gets_nothing_and_comes_back_with_room() -> None:
    made = Pushing()
    made.core.link_up(ONE, 0.0)
    made.turn()
    made.core.link_down(ONE, 0.0)
    made.core.link_room(ONE, 0.0)
    made.send(5)
    made.turn()
    assert not made.sent
    made.room[ONE] = 100
    made.core.link_up(ONE, 0.0)
    made.turn()
    assert made.sent[ONE] == [1, 2, 3, 4, 5]


def test_paused_it_hands_over_nothing() -> None:
    made = Pushing()
    made.room[ONE] = 100
    made.core.link_up(ONE, 0.0)
    made.core.pause(True, "paused", 0.0)
    made.send(5)
    made.turn()
    assert not made.sent
    assert made.told == [("paused", None)]
    made.core.pause(False, "resumed", 0.0)
    made.turn()
    assert made.sent[ONE] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("codec_body", "frames"),
    [
        (msgpack.packb([b"a", b"", b"c"]), [b"a", b"", b"c"]),
        (msgpack.packb([]), None),
        (msgpack.packb([b"a", "text"]), None),
        (msgpack.packb({"a": 1}), None),
        (b"\xc1", None),
        (b"", None),
    ],
)
def test_only_a_list_of_bytes_goes_as_several_frames_whoever_says_so(
    codec_body: bytes, frames: list[bytes] | None
) -> None:
    row = Row(1, "o", 0, "msgpack", [len(codec_body)], codec_body, {}, {0: {FRAMES: "3"}})
    assert list(frames_of(row, 0)) == (frames or [codec_body])
    assert list(frames_of(Row(1, "o", 0, "msgpack", [len(codec_body)], codec_body, {}, {}), 0)) == [codec_body]


class Pulling:
    """A puller's core, and what a PULL may take."""

    def __init__(self, prefetch: int = 10, size: int = 1 << 20, codec: str = "raw") -> None:
        made = local("pull", "push", credit_messages=prefetch, credit_bytes=size)
        self.core = PlainPullerCore(made, random.Random(1), codec, 1_000.0)
        self.room: dict[Any, int] = {}
        self.parcels: list[Parcel] = []
        self.told: list[Any] = []
        self.events: list[Any] = []
        self.now = 0.0

    def comes(self, link: Any, *messages: Any) -> None:
        for each in messages:
            self.room[link] -= 1
            self.core.receive_message(link, each if isinstance(each, list) else [each], self.now)
        self.turn()

    def turn(self) -> None:
        core = self.core
        core.end_turn(self.now)
        for link, room in core.out.pulls:
            self.room[link] = room
        core.out.pulls = []
        self.parcels += core.out.items
        core.out.items = []
        self.told += core.out.replies
        core.out.replies = []
        self.events += core.out.events
        core.out.events = []
        check_deadline(core, self.now)
        check_purity(core)

    def ack(self, parcel: Parcel, *indexes: int) -> None:
        parcel.acked.extend(indexes)
        self.core.collect(parcel, self.now)
        self.turn()


def test_no_more_is_let_in_than_is_settled() -> None:
    made = Pulling(prefetch=4)
    made.core.link_up(ONE, 0.0)
    made.turn()
    assert made.room == {ONE: 4}
    made.comes(ONE, b"a", b"b", b"c")
    assert (made.room[ONE], made.core.held) == (1, 3)
    (parcel,) = made.parcels
    made.ack(parcel, 1)
    assert (made.room[ONE], made.core.held) == (2, 2)
    made.comes(ONE, b"d", b"e")
    assert made.room[ONE] == 0
    made.ack(parcel, 0, 2)
    assert (made.room[ONE], made.core.held) == (2, 2)
    made.ack(parcel, 0)
    assert made.core.held == 2, "settled once"


def test_bytes_are_bounded_too() -> None:
    made = Pulling(prefetch=100, size=1_000)
    made.core.link_up(ONE, 0.0)
    made.turn()
    made.comes(ONE, b"x" * 2_000)
    assert made.room[ONE] == 0
    made.ack(made.parcels[0], 0)
    assert made.room[ONE] == 100


def test_what_failed_waits_for_its_delay_and_takes_its_room_meanwhile() -> None:
    made = Pulling(prefetch=1)
    made.core.link_up(ONE, 0.0)
    made.turn()
    made.comes(ONE, b"a")
    made.core.settle(made.parcels[0], 0, wire.NACK, 5.0, "why", "", 0.0)
    made.turn()
    assert (made.core.next_deadline(), made.core.held, made.room[ONE]) == (5.0, 1, 0)
    assert len(made.parcels) == 1
    made.now = 5.0
    made.core.handle_timer(5.0)
    made.turn()
    again = made.parcels[1].delivery
    first = made.parcels[0].delivery
    assert (again.sequence, again.blob, again.failures, again.deliveries) == (first.sequence, b"a", {0: 1}, {0: 1})
    made.core.settle(made.parcels[0], 0, wire.NACK, 0.0, "", "", 5.0)
    assert made.core.counters["settles_stale"] == 1
    made.ack(made.parcels[1], 0)
    assert (made.core.held, made.room[ONE]) == (0, 1)


def test_a_job_is_given_up_after_so_many_failures() -> None:
    made = Pulling(prefetch=1)
    made.core.link_up(ONE, 0.0)
    made.turn()
    made.comes(ONE, b"a")
    for n in range(MAX_FAILURES):
        assert len(made.parcels) == n + 1
        made.core.settle(made.parcels[-1], 0, wire.NACK, 0.0, "", "", made.now)
        made.turn()
    assert len(made.parcels) == MAX_FAILURES
    assert (made.core.held, made.core.counters["dead"], made.room[ONE]) == (0, 1, 1)
    assert [type(each) for each in made.events] == [JobFailed] * MAX_FAILURES + [JobDead]
    assert made.events[-1].reason == f"failed {MAX_FAILURES} times"


def test_messages_of_several_frames_keep_their_place_among_the_others() -> None:
    made = Pulling()
    made.core.link_up(ONE, 0.0)
    made.turn()
    made.comes(ONE, b"a", b"b", [b"c", b"d"], [b"e", b""], b"f")
    found = [(each.delivery.codec, each.delivery.lengths, each.delivery.sequence) for each in made.parcels]
    assert found == [("raw", [1, 1], 1), ("msgpack", [7, 6], 3), ("raw", [1], 5)]
    assert msgpack.unpackb(made.parcels[1].delivery.blob[:7]) == [b"c", b"d"]


def test_an_endpoint_that_is_forgotten_leaves_its_jobs() -> None:
    made = Pulling()
    made.core.link_up(ONE, 0.0)
    made.turn()
    made.core.receive_message(ONE, [b"a"], 0.0)
    made.core.link_forgotten(ONE, 0.0)
    made.core.receive_message(ONE, [b"stray"], 0.0)
    made.turn()
    assert (made.core.held, made.core.connected(), len(made.parcels)) == (1, set(), 1)
    made.ack(made.parcels[0], 0)
    made.core.close(0.0)
    assert (made.core.held, made.core.counters["jobs_lost"], made.core.finished) == (0, 0, True)


def test_who_takes_no_more_hands_out_what_came() -> None:
    made = Pulling()
    made.core.link_up(ONE, 0.0)
    made.turn()
    made.core.receive_message(ONE, [b"a"], 0.0)
    made.core.take_no_more("told", 0.0)
    made.turn()
    assert (len(made.parcels), made.room[ONE]) == (1, 0)
    assert made.told == [("told", None)]
    made.ack(made.parcels[0], 0)
    assert made.room[ONE] == 0


def test_limits_of_a_plain_pusher_without_a_journal_bound_what_waits() -> None:
    made = Pushing(limits=Limits(queued_messages=5))
    made.send(3)
    made.send(3)
    made.turn()
    assert made.core.unsettled == 3
    made.room[ONE] = 100
    made.core.link_up(ONE, 0.0)
    made.turn()
    made.core.link_room(ONE, 0.0)
    made.turn()
    assert made.sent[ONE] == [1, 2, 3, 4, 5, 6]
