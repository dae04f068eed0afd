"""The relay of a forwarder between raw sockets: what passes, what does not, and who slows whom."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq

from zmqkit.devices.fences import Fences
from zmqkit.errors import AddressInUse
from zmqkit.options import Heartbeat, Limits
from zmqkit.patterns.pubsub import topics, wire
from zmqkit.transport.context import context
from zmqkit.transport.relay import Relay

PATIENCE_S = 20.0
STREAM = b"stream01"
PRIVATE = topics.private_topic(wire.private_name(bytes(16), 1))


class Bench:
    """A relay, and raw sockets on both sides."""

    def __init__(self, stack: contextlib.ExitStack, limits: Limits | None = None) -> None:
        self.fences = Fences()
        self.failed: list[BaseException] = []
        heartbeat = Heartbeat(interval=1.0)
        self.relay = Relay(
            "bench", self.fences, heartbeat, Limits(), limits or Limits(), lambda: None, self.failed.append
        )
        self._stack = stack
        stack.callback(self.relay.close, 1.0)

    def bind(self, front: bool, address: str = "tcp://127.0.0.1:*") -> str:
        address = self.relay.bind(front, address)
        add = self.fences.add_inlet if front else self.fences.add_outlet
        add(("d", address), address, dialled=False, hint=":1234")
        return address

    def connect(self, front: bool, address: str) -> None:
        self.relay.connect(front, address)
        add = self.fences.add_inlet if front else self.fences.add_outlet
        add(("d", address), address, dialled=True)

    def socket(self, kind: int, *, bind: str = "", connect: str = "") -> Any:
        made = self._stack.enter_context(context().socket(kind))
        made.setsockopt(zmq.LINGER, 0)
        made.setsockopt(zmq.SNDHWM, 0)
        made.setsockopt(zmq.RCVTIMEO, int(PATIENCE_S * 1000))
        if bind:
            made.bind(bind)
        if connect:
            made.connect(connect)
        return made

    def publisher(self) -> Any:
        """One that is bound, and to which the relay connects. Not to be used before the relay is started."""
        made = self.socket(zmq.XPUB, bind="tcp://127.0.0.1:*")
        self.connect(True, made.getsockopt_string(zmq.LAST_ENDPOINT))
        return made


@pytest.fixture
def bench() -> Iterator[Bench]:
    with contextlib.ExitStack() as stack:
        yield Bench(stack)


def data(topic: str, number: int, body: bytes = b"") -> bytes:
    return wire.Data(topic, STREAM, [number], 0, number, 0, "raw", [len(body)], body).pack()


def until(condition: Callable[[], object]) -> None:
    """Wait for what other threads bring about. It may take as long as a loaded machine takes."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        threading.Event().wait(0.005)


def fenced(publisher: Any, subscriber: Any) -> None:
    """Let the relay learn the publisher's stream, as subscribers do."""
    subscriber.send(b"\1" + PRIVATE)
    while publisher.recv() != b"\1" + PRIVATE:
        pass
    publisher.send(wire.Fence(PRIVATE[1:-1].decode(), STREAM, "ab" * 16, "cd" * 16, "ef" * 16, 0, ":9").pack())
    told = wire.read(subscriber.recv())
    assert isinstance(told, wire.Fence)
    assert told.recovery == ":1234"


def test_frames_of_all_sizes_pass_unchanged_and_in_order(bench: Bench) -> None:
    publisher, back = bench.publisher(), bench.bind(False)
    bench.relay.start()
    subscriber = bench.socket(zmq.XSUB, connect=back)
    subscriber.send(b"\1d")
    fenced(publisher, subscriber)
    sizes = [0, 1, 100, 7_000, 9_000, 300_000, 10, 300_000, 5, 5, 2_000_000, *[20] * 100, 40_000, 3]
    sent = [data("a.b", number, bytes([number % 251]) * size) for number, size in enumerate(sizes, 1)]
    for frame in sent:
        publisher.send(frame)
    assert [subscriber.recv() for _ in sent] == sent
    stats = bench.relay.stats()
    assert stats["frontend_messages_received"] == stats["backend_messages_sent"] == len(sent) + 1
    assert stats["backend_bytes_sent"] >= sum(map(len, sent))
    assert stats["backend_messages_received"] == 2


def test_messages_of_several_frames_pass_whole_between_single_ones(bench: Bench) -> None:
    publisher, back = bench.publisher(), bench.bind(False)
    bench.relay.start()
    subscriber = bench.socket(zmq.SUB, connect=back)
    subscriber.subscribe(b"")
    assert publisher.recv() == b"\1"
    messages = [[b"prices.gold", b"17"], [b"single"], [b"d" + b"\0" * 300, b"", b"x" * 20_000], [b""], [b"", b""]]
    messages += [[b"p" + b"0" * 32 + b"/1/\0", b"body"], [b"big" * 9_000, b"big" * 9_000], [b"b", b"after"]] * 2
    for message in messages:
        publisher.send_multipart(message)
    assert [subscriber.recv_multipart() for _ in messages] == messages


def test_subscriptions_go_up_once_and_their_end_does_too(bench: Bench) -> None:
    publisher, back = bench.publisher(), bench.bind(False)
    bench.relay.start()
    one, other = bench.socket(zmq.SUB, connect=back), bench.socket(zmq.SUB, connect=back)
    one.subscribe(b"da\0")
    assert publisher.recv() == b"\1da\0"
    other.subscribe(b"da\0")
    other.subscribe(b"db\0")
    assert publisher.recv() == b"\1db\0"
    one.unsubscribe(b"da\0")
    other.unsubscribe(b"db\0")
    assert publisher.recv() == b"\0db\0"
    other.close()
    assert publisher.recv() == b"\0da\0"


def test_who_dials_again_is_told_all_subscriptions(bench: Bench) -> None:
    front, back = bench.bind(True), bench.bind(False)
    bench.relay.start()
    subscriber = bench.socket(zmq.SUB, connect=back)
    subscriber.subscribe(b"da\0")
    until(lambda: bench.fences.counters["subscriptions"])
    for _ in range(2):
        publisher = bench.socket(zmq.XPUB, connect=front)
        assert publisher.recv() == b"\1da\0"
        publisher.send(data("a", 1))
        assert subscriber.recv() == data("a", 1)
        publisher.close()


def test_a_publisher_that_ends_and_begins_again_at_its_address_is_connected_to_again(bench: Bench) -> None:
    publisher, back = bench.publisher(), bench.bind(False)
    address = publisher.getsockopt_string(zmq.LAST_ENDPOINT)
    bench.relay.start()
    subscriber = bench.socket(zmq.SUB, connect=back)
    subscriber.subscribe(b"da\0")
    assert publisher.recv() == b"\1da\0"
    publisher.unbind(address)
    publisher.close()
    again = bench.socket(zmq.XPUB)
    until(lambda: _binds(again, address))
    assert again.recv() == b"\1da\0"


def _binds(socket: Any, address: str) -> bool:
    try:
        socket.bind(address)
    except zmq.ZMQError:
        return False  # the old one is still being closed
    return True


def test_within_the_process_a_publisher_that_begins_again_is_connected_to_again(bench: Bench) -> None:
    address = "inproc://relay-again"
    publisher = bench.socket(zmq.XPUB, bind=address)
    bench.connect(True, address)
    back = bench.bind(False)
    bench.relay.start()
    subscriber = bench.socket(zmq.SUB, connect=back)
    subscriber.subscribe(b"da\0")
    assert publisher.recv() == b"\1da\0"
    publisher.close()
    again = bench.socket(zmq.XPUB)
    until(lambda: _binds(again, address))
    assert again.recv() == b"\1da\0"


def test_to_subscribers_that_bind_it_connects(bench: Bench) -> None:
    front = bench.bind(True)
    subscribers = [bench.socket(zmq.SUB, bind="tcp://127.0.0.1:*") for _ in range(2)]
    for each in subscribers:
        each.subscribe(b"da\0")
        bench.connect(False, each.getsockopt_string(zmq.LAST_ENDPOINT))
    bench.relay.start()
    publisher = bench.socket(zmq.XPUB, connect=front)
    # A bound socket greets whoever connected when it is used next.
    until(lambda: [each.poll(0) for each in subscribers] and bench.fences.counters["subscriptions"] == 2)
    assert publisher.recv() == b"\1da\0"
    publisher.send(data("a", 1, b"x" * 10_000))
    publisher.send(data("a", 2))
    assert [each.recv() for each in subscribers] == [data("a", 1, b"x" * 10_000)] * 2
    assert [each.recv() for each in subscribers] == [data("a", 2)] * 2


def test_what_comes_while_it_is_paused_is_dropped_and_counted_but_fences_pass(bench: Bench) -> None:
    publisher, back = bench.publisher(), bench.bind(False)
    bench.relay.start()
    subscriber = bench.socket(zmq.XSUB, connect=back)
    subscriber.send(b"\1d")
    fenced(publisher, subscriber)
    bench.relay.pause(True)
    publisher.send(data("a", 1))
    publisher.send_multipart([b"dplain", b"body"])
    until(lambda: bench.relay.stats()["frames_dropped"] == 2)
    publisher.send(wire.Fence(PRIVATE[1:-1].decode(), STREAM, "ab" * 16, "cd" * 16, "ef" * 16, 2, ":9").pack())
    fence = wire.read(subscriber.recv())
    assert isinstance(fence, wire.Fence)
    assert fence.offset == 2
    bench.relay.pause(False)
    publisher.send(data("a", 3))
    assert subscriber.recv() == data("a", 3)


def test_garbage_from_either_side_hurts_nobody(bench: Bench) -> None:
    publisher, back = bench.publisher(), bench.bind(False)
    bench.relay.start()
    subscriber = bench.socket(zmq.XSUB, connect=back)
    subscriber.send(b"\1d")
    fenced(publisher, subscriber)
    subscriber.send(b"hello")  # a message upwards, as XPUB may get
    subscriber.send_multipart([b"\1da", b"more", b"still more"])
    subscriber.send(b"")
    subscriber.send(b"\1p" + b"\xff" * 100 + b"\0")
    for frame in (b"", b"d", b"b", b"p", PRIVATE, PRIVATE + b"\xc1", b"b" + STREAM, b"d" * 5_000):
        publisher.send(frame)
        publisher.send_multipart([frame, b"", frame])
    publisher.send(data("end", 1))
    while subscriber.recv() != data("end", 1):
        pass
    assert bench.failed == []
    assert bench.fences.counters["fences_bad"] == 2


def test_who_does_not_read_is_disconnected_and_slows_nobody(stack: contextlib.ExitStack) -> None:
    bench = Bench(stack, Limits(queued_bytes=4_000_000))
    publisher, back = bench.publisher(), bench.bind(False)
    bench.relay.start()
    stopped = bench.socket(zmq.XSUB)
    stopped.setsockopt(zmq.RCVHWM, 1)
    stopped.setsockopt(zmq.RCVBUF, 4096)
    stopped.connect(back)
    good = bench.socket(zmq.XSUB)
    good.setsockopt(zmq.RCVHWM, 0)
    good.connect(back)
    stopped.send(b"\1da")
    assert publisher.recv() == b"\1da"
    good.send(b"\1d")
    fenced(publisher, good)
    frames = [data("a", number, b"x" * 50_000) for number in range(1, 601)]
    for frame in frames:
        publisher.send(frame)
        assert good.recv() == frame
    assert bench.relay.stats()["slow_connections_closed"] == 1
    stopped.close()


def test_a_subscriber_that_wants_little_and_reads_it_is_no_slow_one(stack: contextlib.ExitStack) -> None:
    bench = Bench(stack, Limits(queued_bytes=1_000_000))
    publisher, back = bench.publisher(), bench.bind(False)
    bench.relay.start()
    little, much = bench.socket(zmq.XSUB, connect=back), bench.socket(zmq.XSUB, connect=back)
    little.send(b"\1db\0")
    assert publisher.recv() == b"\1db\0"
    much.send(b"\1da\0")
    fenced(publisher, much)
    for number in range(1, 101):
        publisher.send(data("a", number, b"x" * 50_000))
        assert wire.read(much.recv())
    publisher.send(data("b", 101))
    assert little.recv() == data("b", 101)
    assert bench.relay.stats()["slow_connections_closed"] == 0


def test_an_address_that_is_taken_is_told_and_close_gives_all_back(stack: contextlib.ExitStack) -> None:
    bench = Bench(stack)
    address = bench.bind(False)
    other = Bench(stack)
    with pytest.raises(AddressInUse):
        other.bind(False, address)
    bench.relay.start()
    bench.relay.close(1.0)
    bench.relay.close(1.0)
    assert other.bind(False, address) == address


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as made:
        yield made
