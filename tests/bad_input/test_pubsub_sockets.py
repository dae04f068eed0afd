"""Strangers at the data and the recovery port of a publisher, and publishers that are none: with sockets.

An honest publisher and subscriber stand beside, and go on.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

import zmqkit
from tests.bad_input.scenes import BEAT, LOCAL, Watched, until
from tests.bad_input.strangers import PATIENCE_S, REFUSED, Dealer, Raw, pack
from tests.bad_input.test_connections import GARBAGE, closed_by_peer
from tests.bad_input.test_frames import NONSENSE
from zmqkit.errors import CursorInUse
from zmqkit.events import BadFrame, PeerRefused, SubscriptionsRefused
from zmqkit.options import Limits
from zmqkit.patterns.pubsub import audience, talk, wire
from zmqkit.patterns.pubsub.topics import private_topic


class Pair(Watched):
    """A peer under attack, and an honest publisher and subscriber, of which it may be one."""

    def __init__(self, peer: Any, pub: zmqkit.Publisher, sub: zmqkit.Subscriber[Any]) -> None:
        super().__init__(peer)
        self.pub = pub
        self.sub = sub
        self.rounds = 0

    def finish(self) -> None:
        """What is published comes, all of it and in order."""
        self.rounds += 1
        mine = [f"honest {self.rounds}.{number}" for number in range(20)]
        for each in mine:
            self.pub.publish("fair.x", each)
        got: list[Any] = []
        while len(got) < len(mine):
            message = self.sub.receive(PATIENCE_S)
            assert message is not None, f"the honest subscriber got {len(got)} of {len(mine)}"
            got.append(message.body)
        assert got == mine
        self.sound()


@contextlib.contextmanager
def publisher(**options: Any) -> Iterator[Pair]:
    """A publisher under attack."""
    with (
        zmqkit.Publisher(LOCAL, heartbeat=BEAT, linger=0, **options) as pub,
        zmqkit.Subscriber[Any](pub.addresses[0], topics="fair.#", heartbeat=BEAT) as sub,
    ):
        pub.wait_for_subscribers(1, timeout=PATIENCE_S)
        pair = Pair(pub, pub, sub)
        yield pair
        pair.sound()


@contextlib.contextmanager
def subscriber(hostile: str, **options: Any) -> Iterator[Pair]:
    """A subscriber under attack, by a hostile address beside the honest one."""
    with (
        zmqkit.Publisher(LOCAL, heartbeat=BEAT, linger=0) as pub,
        zmqkit.Subscriber[Any](hostile, pub.addresses[0], topics="fair.#", heartbeat=BEAT, **options) as sub,
    ):
        pub.wait_for_subscribers(1, timeout=PATIENCE_S)
        pair = Pair(sub, pub, sub)
        yield pair
        pair.sound()


class Plain(Raw):
    """A raw socket of some kind, connected or bound."""

    def __init__(self, kind: int, address: str = "") -> None:
        super().__init__(kind)
        if address:
            self._socket.connect(address)
        else:
            self._socket.bind(LOCAL)
        self.address = address or self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def say(self, *frames: bytes) -> None:
        self._socket.send_multipart(frames)

    def private(self) -> str:
        """As a publisher: the private topic that a subscriber subscribes."""
        while True:
            (frame,) = self.wait()
            if frame[:2] == b"\1p":
                return frame[2:-1].decode()


@pytest.mark.parametrize("port", ["data", "recovery"])
@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=list(GARBAGE))
def test_what_is_no_zeromq_fails_the_handshake_and_is_counted(garbage: bytes, port: str) -> None:
    with publisher() as pair:
        address = (pair.pub.addresses if port == "data" else pair.pub.recovery_addresses)[0]
        with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), PATIENCE_S) as stranger:
            with contextlib.suppress(OSError):  # it may have been hung up on already
                stranger.sendall(garbage)
                stranger.shutdown(socket.SHUT_WR)
            closed_by_peer(stranger)
        until(lambda: pair.count("io_handshakes_failed") + pair.count("io_connections_broken") >= 1)
        pair.finish()
        pair.expect(sessions_lost=0)


def test_a_subscriber_of_another_version_is_refused_by_name() -> None:
    with publisher() as pair, Dealer(pair.pub.recovery_addresses[0], "subscribe") as stranger:
        answer = stranger.hello(zmqkit=[2, 9])
        assert answer[:2] == [REFUSED, "version"]
        assert pair.told(PeerRefused, 1)[0].code == "version"
        pair.finish()


@pytest.mark.parametrize("role", ["publish", "pull", "call", ""])
def test_another_role_is_refused_by_name(role: str) -> None:
    with publisher() as pair, Dealer(pair.pub.recovery_addresses[0], "subscribe") as stranger:
        assert stranger.hello(role=role)[:2] == [REFUSED, "role"]
        assert pair.told(PeerRefused, 1)[0].code == "role"
        pair.finish()


def test_nonsense_at_the_recovery_port_is_counted_each_time() -> None:
    with publisher() as pair, Dealer(pair.pub.recovery_addresses[0], "subscribe") as stranger:
        stranger.enter()
        for count, frames in enumerate(NONSENSE.values(), start=1):
            stranger.say(*frames)
            stranger.settled()
            assert pair.count("frames_bad") == count, list(NONSENSE)[count - 1]
        pair.finish()


def test_nonsense_within_a_session_is_counted_each_time_and_the_session_goes_on() -> None:
    with publisher() as pair, Dealer(pair.pub.recovery_addresses[0], "subscribe") as stranger:
        stranger.enter()
        heads: list[Any] = [
            [], 7, None, {}, [0], [99], ["1"], [1], [1, True, "a", [], True], [1, True, ["a..b"], [], True], [4, -1],
            [4, 2**63 - 1], [5, 0, "", "", 0, None, "earliest"], [5, 1, "", "", 0, None, "sometimes"],
            [8, 1, 5, 4, 0, 0], [20, 1, "", 1, ["a"], None, 1, "raw", [1], {}],
        ]  # fmt: skip
        for head in heads:
            stranger.data(head, b"x")
        stranger.settled()
        pair.expect(frames_bad=len(heads))
        stranger.data([6, 1])
        stranger.settled()
        pair.expect(frames_bad=len(heads))
        pair.finish()


def test_several_frames_over_the_data_port_are_counted_and_dropped() -> None:
    with publisher() as pair, Plain(zmq.XSUB, pair.pub.addresses[0]) as stranger:
        for _ in range(3):
            stranger.say(b"\1d", b"more")
        stranger.say(b"\2no subscription")
        until(lambda: pair.count("frames_bad") + pair.count("io_oversize_messages") >= 1)
        pair.finish()


def test_a_subscription_that_is_too_long_ends_its_connection() -> None:
    with publisher() as pair, Plain(zmq.XSUB, pair.pub.addresses[0]) as stranger:
        stranger.say(b"\1" + b"d" * 100_000)
        until(lambda: pair.count("io_connections_broken") >= 1)
        pair.finish()


def test_a_flood_of_subscriptions_ends_with_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audience, "MAX_SUBSCRIBED_BYTES", 50_000)
    with publisher() as pair, Plain(zmq.XSUB, pair.pub.addresses[0]) as stranger:
        for at in range(1_000):
            stranger.say(b"\1d%0200d" % at)
        assert pair.told(SubscriptionsRefused, 1)[0].subscriber == ""
        until(lambda: pair.count("io_connections_broken") >= 1)
        pair.finish()
        pair.expect(sessions_lost=0)


@pytest.mark.parametrize("kind", [zmq.PUSH, zmq.PULL, zmq.REP, zmq.PAIR, zmq.DEALER])
def test_a_socket_of_another_kind_is_refused_by_the_handshake(kind: int) -> None:
    with publisher() as pair, Plain(kind, pair.pub.addresses[0]):
        until(lambda: pair.count("io_handshakes_failed") + pair.count("io_connections_broken") >= 1)
        pair.finish()


def test_a_publisher_that_speaks_garbage_is_counted_and_the_honest_one_heard() -> None:
    with Plain(zmq.XPUB) as hostile, subscriber(hostile.address) as pair:
        private = hostile.private()
        name = private_topic(private)
        said = [[b"bgarbage"], [b"bx", b"y"], [b"b"], [name], [name + b"\xc1"], [b"dfair.x\0" + b"\xff" * 30]]
        for frames in said:
            hostile.say(*frames)
        pair.expect(frames_bad=len(said))
        assert len(pair.told(BadFrame, len(said))) == len(said)
        pair.finish()


def test_a_publisher_of_another_version_is_refused_and_the_honest_one_heard() -> None:
    with Plain(zmq.XPUB) as hostile, subscriber(hostile.address) as pair:
        hostile.say(private_topic(hostile.private()) + pack([2, "of the future"]))
        (event,) = pair.told(PeerRefused, 1)
        assert event.code == "version"
        pair.finish()


def test_a_fence_sends_no_subscriber_to_another_place() -> None:
    with Plain(zmq.XPUB) as hostile, subscriber(hostile.address) as pair, socket.socket(socket.AF_UNIX) as victim:
        victim.bind("\0zmqkit-test-victim")
        victim.listen()
        victim.setblocking(False)
        there = "ipc://@zmqkit-test-victim"
        fence = wire.Fence(hostile.private(), b"stranger", "ab" * 16, "cd" * 16, "ef" * 16, 0, there)
        hostile.say(fence.pack())
        assert there in pair.told(BadFrame, 1)[0].reason
        pair.finish()
        with pytest.raises(BlockingIOError):
            victim.accept()


def test_a_frame_that_is_larger_than_the_limit_breaks_its_connection_alone() -> None:
    limits = Limits(frame_bytes=65536)
    with Plain(zmq.XPUB) as hostile, subscriber(hostile.address, limits=limits) as pair:
        hostile.private()
        hostile.say(b"b" + b"x" * (wire.FRAME_BYTES + wire.HEAD_BYTES + 1))
        until(lambda: pair.count("io_connections_broken") >= 1)
        pair.finish()


def test_batches_come_whatever_the_limit_of_frames_is() -> None:
    with (
        zmqkit.Publisher(LOCAL, heartbeat=BEAT, history=10_000, limits=Limits(frame_bytes=65536), linger=0) as pub,
        zmqkit.Subscriber[Any](pub.addresses[0], heartbeat=BEAT, limits=Limits(frame_bytes=65536)) as live,
    ):
        pub.wait_for_subscribers(1, timeout=PATIENCE_S)
        pub.publish_many([("a", b"x" * 1_000) for _ in range(3_000)])
        with zmqkit.Subscriber[Any](pub.addresses[0], heartbeat=BEAT, start="earliest",
                                    limits=Limits(frame_bytes=65536)) as late:  # fmt: skip
            for sub in (live, late):
                for offset in range(1, 3_001):
                    message = sub.receive(PATIENCE_S)
                    assert message is not None
                    assert message.sequence == offset
        assert int(live.stats()["times_behind"]) == 0


def test_two_holders_of_one_cursor_and_the_successor_of_a_dead_one() -> None:
    with zmqkit.Publisher(LOCAL, heartbeat=BEAT, linger=0) as pub:
        dealer = Dealer(pub.recovery_addresses[0], "subscribe", credit=100)
        with zmqkit.Subscriber[Any](pub.addresses[0], topics="fair.#", heartbeat=BEAT) as fair:
            pair = Pair(pub, pub, fair)
            pub.wait_for_subscribers(1, timeout=PATIENCE_S)
            dealer.enter(about={"cursor": "audit", "durable": True}, heartbeat=[0.3, 3])
            dealer.data(unpacked(talk.Topics(True, ["a"], [], True)))
            dealer.data(unpacked(talk.Feed(1, "", "", 0, None, "resume")))
            dealer.settled()
            pub.publish("a", "one")
            with zmqkit.Subscriber[Any](pub.addresses[0], topics="a", cursor="audit", heartbeat=BEAT) as successor:
                with pytest.raises(CursorInUse, match="held by stranger"):
                    successor.receive(PATIENCE_S)
                pair.finish()
                dealer.close()  # it dies: who comes then gets the cursor, and all that was not committed
                message = successor.receive(PATIENCE_S)
                assert message is not None
                assert message.body == "one"
                message.commit()
            pair.finish()


def unpacked(message: Any) -> bytes:
    head: bytes = message.pack()[0]
    return head
