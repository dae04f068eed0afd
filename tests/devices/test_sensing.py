"""A device that was not told whose messages it carries: the first peer decides, and nothing that it said is lost."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import zmq

import zmqkit
from tests.devices.plainly import ANY, Ends, at, closing, received
from zmqkit.devices import Device, Forwarder, Queue, Streamer
from zmqkit.devices.sensing import MOST_KEPT, Senser, is_hello, is_private
from zmqkit.patterns.pubsub.topics import private_topic
from zmqkit.patterns.pubsub.wire import private_name
from zmqkit.protocol import wire

PATIENCE_S = 30.0
PRIVATE = b"\x01" + private_topic(private_name(bytes(16), 1))


@contextlib.contextmanager
def sensing(kind: type[Device], *sides: Any) -> Iterator[tuple[Any, Ends]]:
    with kind(*(sides or (ANY, ANY))) as device:
        assert device.carries is None
        ends = at(device)
        with closing(ends):
            yield device, ends


def add(a: int, b: int) -> int:
    return a + b


def until(condition: Any) -> None:
    for _ in range(int(PATIENCE_S / 0.01)):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not come to that")


def test_a_plain_request_makes_a_plain_queue_and_is_answered() -> None:
    with sensing(Queue) as (device, ends):
        worker, client = ends.back(zmq.REP), ends.front(zmq.REQ)
        client.send_multipart([b"?", b""])
        assert received(worker) == [b"?", b""]
        assert device.carries == "plain"
        worker.send(b"!")
        assert received(client) == [b"!"]
        device.pause()
        stats = device.stats()
        assert stats["frontend_messages_received"] == stats["backend_messages_sent"] == 4  # frames, the id's included


def test_a_worker_that_speaks_first_makes_a_plain_queue() -> None:
    with sensing(Queue) as (device, ends):
        ends.back(zmq.DEALER).send_multipart([b"ready"])
        until(lambda: device.carries == "plain")


def test_a_zmqkit_client_makes_a_switch_and_its_call_is_answered() -> None:
    with sensing(Queue) as (device, _):
        addresses = device.addresses
        server = zmqkit.Server(connect=device.backend_addresses)
        server.method(add)
        with server, zmqkit.Client(device.frontend_addresses[0], timeout=PATIENCE_S) as client:
            assert client.call("add", 2, 3) == 5
            assert device.carries == "zmqkit"
            assert device.addresses == addresses
            device.wait_for_peers(1, timeout=PATIENCE_S)


def test_a_zmqkit_server_that_dials_makes_a_switch() -> None:
    with sensing(Queue) as (device, _), zmqkit.Server(connect=device.backend_addresses):
        until(lambda: device.carries == "zmqkit")


def test_a_plain_job_makes_a_plain_streamer_and_is_delivered() -> None:
    with sensing(Streamer) as (device, ends):
        push = ends.front(zmq.PUSH)
        for number in range(10):
            push.send(b"%d" % number)
        until(lambda: device.carries == "plain")
        pull = ends.back(zmq.PULL)
        assert [received(pull) for _ in range(10)] == [[b"%d" % number] for number in range(10)]


def test_a_zmqkit_pusher_makes_a_switch_of_a_streamer() -> None:
    with sensing(Streamer) as (device, _), zmqkit.Pusher(connect=device.frontend_addresses) as push:
        push.send("a job")
        with zmqkit.Puller(connect=device.backend_addresses) as pull:
            job = pull.receive(PATIENCE_S)
            assert job is not None
            with job:
                assert job.body == "a job"
            assert device.carries == "zmqkit"


def test_a_zmqkit_puller_makes_a_switch_of_a_streamer() -> None:
    with sensing(Streamer) as (device, _), zmqkit.Puller(connect=device.backend_addresses):
        until(lambda: device.carries == "zmqkit")


def test_a_plain_pull_makes_a_plain_streamer_before_anything_is_sent() -> None:
    with sensing(Streamer) as (device, ends):
        pull = ends.back(zmq.PULL)
        until(lambda: device.carries == "plain")
        ends.front(zmq.PUSH).send(b"job")
        assert received(pull) == [b"job"]


def test_plain_sockets_that_no_streamer_serves_decide_nothing() -> None:
    with sensing(Streamer) as (device, ends):
        heard: set[tuple[int, str]] = set()
        hear = device._engine._engine._heard

        def note(side: int, kind: str) -> None:
            heard.add((side, kind))
            hear(side, kind)

        device._engine._engine._knocks._heard = note
        for kind in (zmq.SUB, zmq.REQ, zmq.PULL):
            ends.front(kind)
        for kind in (zmq.PUB, zmq.REP, zmq.PUSH):
            ends.back(kind)
        until(lambda: heard == {(0, "SUB"), (0, "REQ"), (0, "PULL"), (1, "PUB"), (1, "REP"), (1, "PUSH")})
        assert device.carries is None


def test_strangers_that_speak_no_zmtp_decide_nothing() -> None:
    with sensing(Streamer) as (device, ends):
        port = int(device.frontend_addresses[0].rpartition(":")[2])
        for said in (
            b"",
            b"GET / HTTP/1.1\r\n\r\n" + bytes(100),
            b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(200),
        ):
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as stranger:
                stranger.sendall(said)
        push, pull = ends.front(zmq.PUSH), ends.back(zmq.PULL)
        push.send(b"job")
        assert received(pull) == [b"job"]
        assert device.carries == "plain"


def test_a_plain_subscription_makes_a_plain_forwarder() -> None:
    with sensing(Forwarder) as (device, ends):
        publisher, subscriber = ends.front(zmq.XPUB), ends.back(zmq.SUB)
        for topic in (b"a", b"b"):
            subscriber.subscribe(topic)
        assert sorted([received(publisher), received(publisher)]) == [[b"\x01a"], [b"\x01b"]]
        assert device.carries == "plain"
        publisher.send_multipart([b"a", b"1"])
        assert received(subscriber) == [b"a", b"1"]


def test_a_zmqkit_subscriber_makes_a_zmqkit_forwarder() -> None:
    with (
        sensing(Forwarder) as (device, _),
        zmqkit.Publisher(connect=device.frontend_addresses) as publisher,
        zmqkit.Subscriber(connect=device.backend_addresses, topics=["a.#", "b"]) as subscriber,
    ):
        until(lambda: device.carries == "zmqkit")
        for _ in range(100):
            publisher.publish("a.b", 1)
            message = subscriber.receive(0.1)
            if message is not None:
                break
        assert message is not None
        assert message.body == 1


def test_a_device_that_only_connects_is_a_plain_one_from_the_start() -> None:
    with (
        Streamer(ANY, ANY, plain=True) as other,
        Queue(f">{other.frontend_addresses[0]}", f">{other.backend_addresses[0]}") as device,
    ):
        assert device.carries == "plain"


def test_a_streamer_at_addresses_where_nobody_can_be_heard_is_a_plain_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # libzmq makes free paths there
    with Streamer("inproc://sensing-front", "ipc://*") as device:
        assert device.carries == "plain"
        assert device.backend_addresses[0].startswith("ipc://")


def test_addresses_where_nobody_can_be_heard_are_opened_with_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with sensing(Streamer, [ANY, "inproc://sensing-some", "ipc://*"], ANY) as (device, ends):
        assert device.frontend_addresses[1:] == ("inproc://sensing-some", "ipc://*")
        ends.front(zmq.PUSH).send(b"1")
        pull = ends.back(zmq.PULL)
        assert received(pull) == [b"1"]
        assert device.frontend_addresses[2] != "ipc://*"
        for address in device.frontend_addresses[1:]:
            other = Ends(address, "")
            with closing(other):
                other.front(zmq.PUSH).send(b"2")
                assert received(pull) == [b"2"]


def test_a_paused_device_decides_when_it_goes_on() -> None:
    with sensing(Queue) as (device, ends):
        device.pause()
        worker, client = ends.back(zmq.REP), ends.front(zmq.REQ)
        client.send(b"?")
        assert not worker.poll(100)
        assert device.carries is None
        device.resume()
        assert received(worker) == [b"?"]


def test_a_device_that_nobody_came_to_closes_and_gives_its_ports_back() -> None:
    for kind in (Queue, Forwarder, Streamer):
        with sensing(kind) as (device, _):
            addresses = device.addresses
        with kind(*addresses, plain=True) as again:
            assert again.addresses == addresses


# ---- what is looked at --------------------------------------------------------------


class Decided(Senser):
    """A senser that notes what it decided."""

    def __init__(self, *types: str) -> None:
        self.decided: list[str] = []
        plain, zmqkit_ = (partial(self.decided.append, each) for each in ("plain", "zmqkit"))
        super().__init__((types[0], types[1]), plain, zmqkit_)


HELLO = wire.pack([wire.HELLO, {}])


@pytest.mark.parametrize(
    ("types", "which", "frames", "verdict", "decided"),
    [
        (("ROUTER", "DEALER"), 0, [b"id", HELLO], "end", ["zmqkit"]),
        (("ROUTER", "DEALER"), 1, [HELLO], "end", ["zmqkit"]),
        (("ROUTER", "DEALER"), 0, [b"id", b"", HELLO], "forward", ["plain"]),
        (("ROUTER", "DEALER"), 0, [b"id"], "forward", ["plain"]),
        (("ROUTER", "DEALER"), 1, [b""], "forward", ["plain"]),
        (("PULL", "PUSH"), 0, [b"\x91"], "forward", ["plain"]),
        (("XSUB", "XPUB"), 0, [b"topic"], "forward", ["plain"]),
        (("XSUB", "XPUB"), 1, [b"\x01topic"], "wait", []),
        (("XSUB", "XPUB"), 1, [b"\x00" + PRIVATE[1:]], "wait", []),
        (("XSUB", "XPUB"), 1, [PRIVATE], "end", ["zmqkit"]),
        (("XSUB", "XPUB"), 1, [b"a message upwards"], "forward", ["plain"]),
    ],
)
def test_the_first_message_tells(types: Any, which: Any, frames: Any, verdict: str, decided: list[str]) -> None:
    senser = Decided(*types)
    assert (senser.message(which, frames), senser.decided) == (verdict, decided)


def test_after_a_subscription_it_waits_for_a_moment_and_for_no_more_than_so_many() -> None:
    senser = Decided("XSUB", "XPUB")
    assert senser.patience is None
    verdicts = [senser.message(1, [b"\x01%d" % number]) for number in range(MOST_KEPT)]
    assert set(verdicts[:-1]) == {"wait"}
    assert verdicts[-1] == "forward"
    other = Decided("XSUB", "XPUB")
    other.message(1, [b"\x01a"])
    assert other.patience
    assert (other.quiet(), other.decided) == ("forward", ["plain"])


@pytest.mark.parametrize("frame", [b"", b"\xc1", b"\x90", b"\x91\x01", b"\x92\x01\x01", b"\x92\x02\x80", b"x" * 99])
def test_what_is_no_hello_is_taken_for_none(frame: bytes) -> None:
    assert not is_hello(frame)
    assert not is_private(frame)
