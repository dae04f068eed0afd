"""Publishers and subscribers with a forwarder between them: as if there were none, whatever connects to whom.

The sync face stands for all: what a forwarder meets is the same cores.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq

from tests.pipeline.processes import program
from zmqkit import Heartbeat, Limits, Message, Publisher, Subscriber, UsageError
from zmqkit.devices.forwarding import ForwardEngine
from zmqkit.devices.sides import Side
from zmqkit.events import EpochChanged, SubscriberSlow
from zmqkit.patterns.pubsub import wire
from zmqkit.transport.context import context

PATIENCE_S = 30.0
QUICK = Heartbeat(interval=0.1)
CALM = Heartbeat(interval=5.0)
"""For those who are stopped, and whose connections are to stand."""
ANY = "tcp://127.0.0.1:*"
LISTENING = "tests.devices.listening"


class Site:
    """What one test opens, each closed at its end."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.stack = stack
        self.failed: list[BaseException] = []

    def forwarder(self, frontend: Any = ANY, backend: Any = ANY, **more: Any) -> ForwardEngine:
        """An open one; a side is what is bound, or a `Side`."""
        sides = [each if isinstance(each, Side) else Side(bind=each) for each in (frontend, backend)]
        more = {"heartbeat": QUICK, "ended": self.failed.append, **more}
        made = ForwardEngine(name="forwarder", frontend=sides[0], backend=sides[1], **more)
        made.open()
        self.stack.callback(made.close, 1.0)
        return made

    def publisher(self, *addresses: str, **more: Any) -> Publisher:
        given: dict[str, Any] = {} if addresses or "connect" in more else {"bind": ANY}
        given = {"heartbeat": QUICK, "linger": 0.5, **given, **more}
        return self.stack.enter_context(Publisher(*addresses, **given))

    def subscriber(self, *addresses: str, topics: Any = "#", **more: Any) -> Subscriber:
        given = {"heartbeat": QUICK, "linger": 0.5, "topics": topics, **more}
        return self.stack.enter_context(Subscriber(*addresses, **given))


@pytest.fixture
def site() -> Iterator[Site]:
    with contextlib.ExitStack() as stack:
        made = Site(stack)
        yield made
        assert made.failed == []


def dialled(publisher: Publisher) -> Side:
    return Side(connect=publisher.addresses)


def take(subscriber: Subscriber) -> Message:
    message = subscriber.receive(PATIENCE_S)
    assert message is not None, "no message came"
    return message


def bodies(subscriber: Subscriber, count: int) -> list[Any]:
    return [take(subscriber).body for _ in range(count)]


def until(condition: Callable[[], object]) -> None:
    """Wait for what other threads bring about. It may take as long as a loaded machine takes."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        threading.Event().wait(0.01)


def post(publisher: Publisher, *numbers: int, topic: str = "a.b") -> None:
    for number in numbers:
        publisher.publish(topic, number)


# ---- who binds, and who connects ----------------------------------------------------


def publisher_bound(site: Site) -> tuple[Publisher, ForwardEngine, Callable[..., Subscriber]]:
    publisher = site.publisher(history=1000)
    forwarder = site.forwarder(dialled(publisher))
    return publisher, forwarder, lambda **more: site.subscriber(forwarder.backend_addresses[0], **more)


def publisher_connects(site: Site) -> tuple[Publisher, ForwardEngine, Callable[..., Subscriber]]:
    forwarder = site.forwarder()
    publisher = site.publisher(connect=forwarder.frontend_addresses[0], history=1000)
    return publisher, forwarder, lambda **more: site.subscriber(forwarder.backend_addresses[0], **more)


def over_ipc(site: Site) -> tuple[Publisher, ForwardEngine, Callable[..., Subscriber]]:
    forwarder = site.forwarder(f"ipc://@fw-{os.getpid()}-f", f"ipc://@fw-{os.getpid()}-b")
    publisher = site.publisher(connect=forwarder.frontend_addresses[0], history=1000)
    return publisher, forwarder, lambda **more: site.subscriber(forwarder.backend_addresses[0], **more)


def within_the_process(site: Site) -> tuple[Publisher, ForwardEngine, Callable[..., Subscriber]]:
    publisher = site.publisher("inproc://fw-publisher", history=1000)
    forwarder = site.forwarder(dialled(publisher), "inproc://fw-behind")
    return publisher, forwarder, lambda **more: site.subscriber(forwarder.backend_addresses[0], **more)


def chain(site: Site) -> tuple[Publisher, ForwardEngine, Callable[..., Subscriber]]:
    publisher = site.publisher(history=1000)
    first = site.forwarder(dialled(publisher))
    second = site.forwarder(Side(connect=first.backend_addresses))
    return publisher, second, lambda **more: site.subscriber(second.backend_addresses[0], **more)


TOPOLOGIES = [publisher_bound, publisher_connects, over_ipc, within_the_process, chain]


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_subscribers_get_what_the_history_holds_and_then_what_comes(site: Site, topology: Any) -> None:
    publisher, forwarder, subscribe = topology(site)
    post(publisher, 1, 2, 3)
    subscribers = [subscribe(start="earliest") for _ in range(3)]
    for each in subscribers:
        assert bodies(each, 3) == [1, 2, 3]
    publisher.wait_for_subscribers(3, timeout=PATIENCE_S)
    post(publisher, 4, 5)
    late = subscribe(start="earliest")
    assert bodies(late, 5) == [1, 2, 3, 4, 5]
    for each in subscribers:
        found = [take(each), take(each)]
        assert [(message.body, message.replayed) for message in found] == [(4, False), (5, False)]
    assert forwarder.stats()["sessions"] == 4


@pytest.mark.parametrize("chained", [False, True])
def test_to_subscribers_that_bind_the_forwarder_connects(site: Site, chained: bool) -> None:
    subscribers = [site.subscriber(bind=ANY, start="earliest") for _ in range(2)]
    forwarder = site.forwarder(backend=Side(connect=[each.addresses[0] for each in subscribers]))
    if chained:
        forwarder = site.forwarder(backend=Side(connect=forwarder.frontend_addresses))
    publishers = [site.publisher(connect=forwarder.frontend_addresses[0], history=100, name=name) for name in "xy"]
    for each in publishers:
        post(each, 1, 2, topic=each.name)
        each.wait_for_subscribers(2, timeout=PATIENCE_S)
        post(each, 3, topic=each.name)
    for subscriber in subscribers:
        found = [take(subscriber) for _ in range(6)]
        for name in "xy":
            assert [message.body for message in found if message.topic == name] == [1, 2, 3]


def test_both_sides_that_connect_are_refused() -> None:
    side = Side(connect="tcp://127.0.0.1:5001")
    with pytest.raises(UsageError, match="bind one side"):
        ForwardEngine(name="f", frontend=side, backend=Side(connect="tcp://127.0.0.1:5002"))


# ---- what publishers offer ------------------------------------------------------------


def test_several_publishers_behind_one_forwarder_are_several_to_each_subscriber(site: Site) -> None:
    bound = [site.publisher(history=100, name=f"bound{at}") for at in range(2)]
    forwarder = site.forwarder(Side(bind=ANY, connect=[each.addresses[0] for each in bound]))
    coming = [site.publisher(connect=forwarder.frontend_addresses[0], history=100, name=f"come{at}") for at in range(2)]
    publishers = bound + coming
    for each in publishers:
        post(each, 1, 2, topic=each.name)
    subscribers = [site.subscriber(forwarder.backend_addresses[0], start="earliest") for _ in range(3)]
    for each in publishers:
        each.wait_for_subscribers(3, timeout=PATIENCE_S)
        post(each, 3, topic=each.name)
    for subscriber in subscribers:
        found = [take(subscriber) for _ in range(12)]
        for publisher in publishers:
            assert [message.body for message in found if message.topic == publisher.name] == [1, 2, 3]


def test_who_comes_late_gets_last_values(site: Site) -> None:
    publisher = site.publisher(last_value=True)
    forwarder = site.forwarder(dialled(publisher))
    post(publisher, 1, topic="x")
    post(publisher, 2, 3, topic="y")
    subscriber = site.subscriber(forwarder.backend_addresses[0])
    found = [take(subscriber), take(subscriber)]
    assert sorted((message.topic, message.body) for message in found) == [("x", 1), ("y", 3)]


def test_a_cursor_goes_on_where_it_was_committed(site: Site, tmp_path: Any) -> None:
    publisher = site.publisher(journal=tmp_path / "p.journal")
    forwarder = site.forwarder(dialled(publisher))
    post(publisher, *range(1, 7))
    for expected in ([1, 2, 3], [4, 5, 6]):
        with Subscriber(
            forwarder.backend_addresses[0], topics="a.#", cursor="mine", start="earliest", heartbeat=QUICK
        ) as subscriber:
            for number in expected:
                with take(subscriber) as message:
                    assert message.body == number


def test_other_topics_are_in_force_from_their_fence_on_and_unsubscription_reaches_the_publisher(site: Site) -> None:
    publisher = site.publisher(history=100)
    forwarder = site.forwarder(dialled(publisher))
    subscriber = site.subscriber(forwarder.backend_addresses[0], topics="a.#")
    publisher.wait_for_subscribers(1, timeout=PATIENCE_S)
    post(publisher, 1, topic="a")
    post(publisher, 2, topic="b")
    assert bodies(subscriber, 1) == [1]
    subscriber.subscribe("b")
    subscriber.unsubscribe("a.#")
    publisher.wait_for_subscribers(1, topic="b", timeout=PATIENCE_S)
    received = forwarder.stats()["frontend_messages_received"]
    until(lambda: not any(b"da." in each.prefixes for each in forwarder._fences._outlets.values()))
    post(publisher, 3, topic="a.x")
    post(publisher, 4, topic="b")
    assert bodies(subscriber, 1) == [4]
    until(lambda: forwarder.stats()["frontend_messages_received"] > received)


# ---- what breaks ----------------------------------------------------------------------


@pytest.mark.parametrize("durable", [False, True])
def test_a_forwarder_that_ends_and_begins_again_leaves_no_gap(site: Site, tmp_path: Any, durable: bool) -> None:
    more: dict[str, Any] = {"journal": tmp_path / "p.journal"} if durable else {"history": 100_000}
    publisher = site.publisher(**more)
    ports = Side(bind=ANY)
    first = site.forwarder(dialled(publisher), ports)
    behind = Side(bind=first.backend_addresses)
    wanted = {"cursor": "mine"} if durable else {}
    subscribers = [site.subscriber(first.backend_addresses[0], start="earliest", **wanted)]
    if not durable:
        subscribers.append(site.subscriber(first.backend_addresses[0], topics="a.*", start="earliest"))
    publisher.wait_for_subscribers(len(subscribers), timeout=PATIENCE_S)
    ended = threading.Event()
    published = 0

    def publish() -> None:
        nonlocal published
        while not ended.wait(0.001):
            published += 1
            publisher.publish("a.b" if published % 3 else "a", published)

    thread = threading.Thread(target=publish)
    thread.start()

    def let_publish(more: int) -> None:
        enough = published + more
        until(lambda: published > enough)

    try:
        now = first
        for away in (0, 300, 0):
            let_publish(200)
            now.close(0.0)
            let_publish(away)
            now = site.forwarder(dialled(publisher), behind)
        let_publish(200)
    finally:
        ended.set()
        thread.join()
    assert bodies(subscribers[0], published) == list(range(1, published + 1))
    if not durable:
        expected = [number for number in range(1, published + 1) if number % 3]
        assert bodies(subscribers[1], len(expected)) == expected


def test_a_publisher_that_begins_again_with_its_journal_is_followed_into_its_new_epoch(
    site: Site, tmp_path: Any
) -> None:
    first = Publisher(ANY, journal=tmp_path / "p.journal", heartbeat=QUICK)
    first.open()
    forwarder = site.forwarder(dialled(first))
    subscriber = site.subscriber(forwarder.backend_addresses[0], start="earliest")
    epochs: list[EpochChanged] = []
    subscriber.on(EpochChanged, epochs.append)
    post(first, 1, 2)
    assert bodies(subscriber, 2) == [1, 2]
    address = first.addresses[0]
    first.close()
    second = site.publisher(address, journal=tmp_path / "p.journal")
    post(second, 3, 4)
    assert bodies(subscriber, 2) == [3, 4]
    assert len(epochs) == 1


def test_of_a_publisher_that_comes_in_the_place_of_another_all_is_read_and_the_change_told(site: Site) -> None:
    first = Publisher(ANY, heartbeat=QUICK)
    first.open()
    beside = site.publisher(history=100)
    forwarder = site.forwarder(Side(connect=[first.addresses[0], beside.addresses[0]]))
    subscriber = site.subscriber(forwarder.backend_addresses[0])
    epochs: list[EpochChanged] = []
    subscriber.on(EpochChanged, epochs.append)
    for each in (first, beside):
        each.wait_for_subscribers(1, timeout=PATIENCE_S)
        post(each, 1)
    assert bodies(subscriber, 2) == [1, 1]
    address = first.addresses[0]
    first.close()
    second = site.publisher(address, history=100)
    post(second, 2, 3, 4)
    assert bodies(subscriber, 3) == [2, 3, 4]
    assert [(event.last, event.tail_unknown) for event in epochs] == [(1, True)]
    post(beside, 5)
    assert bodies(subscriber, 1) == [5]


def test_a_pause_loses_nothing_that_the_history_holds(site: Site) -> None:
    publisher = site.publisher(history=1000)
    forwarder = site.forwarder(dialled(publisher))
    subscriber = site.subscriber(forwarder.backend_addresses[0])
    publisher.wait_for_subscribers(1, timeout=PATIENCE_S)
    post(publisher, 1)
    assert bodies(subscriber, 1) == [1]
    forwarder.pause()
    assert forwarder.stats()["paused"] == 1
    post(publisher, *range(2, 20))
    until(lambda: forwarder.stats()["frames_dropped"])
    assert subscriber.receive(0.0) is None
    forwarder.resume()
    post(publisher, 20)
    assert bodies(subscriber, 19) == list(range(2, 21))


def test_a_stopped_subscriber_slows_nobody_and_gets_all_when_it_goes_on(site: Site) -> None:
    small = Limits(queued_bytes=4_000_000)
    publisher = site.publisher(history=5_000, limits=Limits(queued_bytes=64_000_000), heartbeat=CALM)
    forwarder = site.forwarder(dialled(publisher), limits=small, heartbeat=CALM)
    good = site.subscriber(forwarder.backend_addresses[0], heartbeat=CALM)
    with program("count", forwarder.backend_addresses[0], 600, module=LISTENING) as stopped:
        assert stopped.heard() == "open"
        publisher.wait_for_subscribers(2, timeout=PATIENCE_S)
        stopped.signal(signal.SIGSTOP)
        for number in range(600):
            publisher.publish("a", [number, b"x" * 50_000])
            assert take(good).body[0] == number
        assert forwarder.stats()["slow_connections_closed"] == 1
        stopped.signal(signal.SIGCONT)
        assert stopped.heard() == list(range(600))


def test_who_is_told_to_leave_by_the_publisher_leaves_alone(site: Site, tmp_path: Any) -> None:
    publisher = site.publisher(journal=tmp_path / "p.journal", limits=Limits(queued_bytes=16_000_000), heartbeat=CALM)
    slow: list[SubscriberSlow] = []
    publisher.on(SubscriberSlow, slow.append)
    forwarder = site.forwarder(dialled(publisher), heartbeat=CALM)  # it lets more wait than the publisher does
    good = site.subscriber(forwarder.backend_addresses[0], heartbeat=CALM)
    with program("count", forwarder.backend_addresses[0], 500, module=LISTENING) as stopped:
        assert stopped.heard() == "open"
        publisher.wait_for_subscribers(2, timeout=PATIENCE_S)
        stopped.signal(signal.SIGSTOP)
        for number in range(500):
            publisher.publish("a", [number, b"x" * 50_000])
            message = take(good)
            assert message.body[0] == number
            assert not message.replayed, "its connection was closed, too"
        until(lambda: slow)
        stopped.signal(signal.SIGCONT)
        assert stopped.heard() == list(range(500))


# ---- others -------------------------------------------------------------------------


def test_plain_publishers_and_subscribers_pass_too(site: Site) -> None:
    publisher = site.publisher(plain=True)
    forwarder = site.forwarder(dialled(publisher))
    raw = site.stack.enter_context(context().socket(zmq.SUB))
    raw.setsockopt(zmq.LINGER, 0)
    raw.setsockopt(zmq.RCVTIMEO, int(PATIENCE_S * 1000))
    raw.connect(forwarder.backend_addresses[0])
    raw.subscribe(b"prices")
    ours = site.subscriber(forwarder.backend_addresses[0], topics="prices.#", plain=True)
    until(lambda: len(forwarder._fences._outlets[("d", forwarder.backend_addresses[0])].prefixes) >= 1)
    publisher.wait_for_subscribers(1, timeout=PATIENCE_S)
    heard: list[Any] = []

    def both() -> bool:
        post(publisher, 17, topic="prices.gold")
        message = ours.receive(0.05)
        if message is not None:
            heard.append((message.topic, message.body))
        return bool(heard)

    until(both)
    assert heard == [("prices.gold", 17)]
    topic, body = raw.recv_multipart()
    assert (topic, body) == (b"prices.gold", b"\x11")


def test_garbage_from_both_sides_harms_nobody(site: Site) -> None:
    publisher = site.publisher(history=100)
    forwarder = site.forwarder(Side(bind=ANY, connect=publisher.addresses))
    good = site.subscriber(forwarder.backend_addresses[0], start="earliest")
    publisher.wait_for_subscribers(1, timeout=PATIENCE_S)
    above = site.stack.enter_context(context().socket(zmq.XPUB))
    below = site.stack.enter_context(context().socket(zmq.XSUB))
    below_recovery = site.stack.enter_context(context().socket(zmq.DEALER))
    for each in (above, below, below_recovery):
        each.setsockopt(zmq.LINGER, 0)
        each.setsockopt(zmq.RCVTIMEO, int(PATIENCE_S * 1000))
    above.connect(forwarder.frontend_addresses[0])
    below.connect(forwarder.backend_addresses[0])
    recovery = forwarder._hints[forwarder.backend_addresses[0]]
    below_recovery.connect(f"tcp://127.0.0.1{recovery}")
    private = b""
    while private[:2] != b"\1p":
        private = above.recv()
    # Fences that send the forwarder, and everybody behind it, elsewhere.
    name = private[2:-1].decode()
    for place in (":1", "tcp://198.51.100.1:5555", "x" * 300, "tcp://127.0.0.1:0"):
        above.send(wire.Fence(name, b"stranger", "ab" * 16, "cd" * 16, "ef" * 16, 0, place).pack())
        above.send(private[1:] + place.encode())
    for frame in (b"", b"d", b"b", b"p", b"da\0" + b"\xff" * 100, b"b" + b"x" * 8 + b"\xc1"):
        above.send(frame)
        below.send(frame)
        below.send_multipart([b"\1d", frame])
        below_recovery.send_multipart([frame, frame])
    for number in range(200):
        below_recovery.send(bytes([number]))
    post(publisher, 1, 2)
    assert bodies(good, 2) == [1, 2]
    assert not any(place.startswith("tcp://198") for _, place in forwarder._fences._told)
    post(publisher, 3)
    assert bodies(good, 1) == [3]


def test_a_publisher_is_found_and_the_forwarder_announced_by_name(site: Site) -> None:
    name = f"fw-{os.getpid()}"
    forwarder = site.forwarder(Side(connect=f"zeroconf://{name}-above"), Side(bind=ANY, announce=f"{name}-below"))
    subscriber = site.subscriber(f"zeroconf://{name}-below", start="earliest")
    publisher = site.publisher(f"zeroconf://{name}-above", history=100)
    post(publisher, 1)
    assert bodies(subscriber, 1) == [1]
    assert forwarder.frontend_addresses == ()


def test_close_is_idempotent_before_and_after_opening_and_counters_stay(site: Site) -> None:
    made = ForwardEngine(name="never", frontend=Side(bind=ANY), backend=Side(bind=ANY))
    made.close(0.0)
    made.close(0.0)
    forwarder = site.forwarder()
    publisher = site.publisher(connect=forwarder.frontend_addresses[0], history=10)
    subscriber = site.subscriber(forwarder.backend_addresses[0], start="earliest")
    post(publisher, 1)
    assert bodies(subscriber, 1) == [1]
    addresses = forwarder.backend_addresses
    forwarder.begin_close()
    forwarder.close(1.0)
    assert forwarder.backend_addresses == addresses
    assert forwarder.stats()["fences"] >= 1


def test_what_cannot_be_bound_leaves_nothing_open(site: Site) -> None:
    taken = site.forwarder()
    with pytest.raises(UsageError):
        site.forwarder(backend=Side(bind=taken.backend_addresses))
    assert site.forwarder().frontend_addresses


def test_in_the_child_of_a_fork_it_is_nothing_and_the_parents_goes_on(site: Site) -> None:
    publisher = site.publisher(history=10)
    post(publisher, 1)
    with program("fork", publisher.addresses[0], module=LISTENING) as forking:
        assert forking.heard() == [17, 1, True]
        assert forking.end() == 0


def test_what_ends_it_by_itself_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[BaseException] = []
    made = ForwardEngine(name="f", frontend=Side(bind=ANY), backend=Side(bind=ANY), heartbeat=QUICK, ended=told.append)
    monkeypatch.setattr(made._fences, "handle_timer", lambda now: 1 / 0)
    monkeypatch.setattr(made._fences, "next_deadline", lambda: 0.001)
    made.open()
    try:
        until(lambda: told)
    finally:
        made.close(1.0)
    assert [type(each) for each in told] == [ZeroDivisionError]
