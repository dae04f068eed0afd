"""Data endpoints: what strangers, and peers that take too much, can do to them."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.transport.planes import OUTSIDE, TCP, hears, knocking, own, publisher, say, subscribed, subscriber
from tests.transport.raw import (
    PATIENCE_S,
    Down,
    Heard,
    Up,
    driver,
    take,
    take_until,
    until,
)
from tests.transport.test_links import place
from zmqkit.options import Heartbeat, Limits
from zmqkit.transport.context import context
from zmqkit.transport.data import SUBSCRIPTION_BYTES, PublishingListener, alive

pytestmark = pytest.mark.usefixtures("tested")


# ---- limits and strangers ----------------------------------------------------------


def test_a_published_frame_over_the_limit_never_arrives() -> None:
    with publisher(TCP) as bound, subscriber(bound.data_addresses, limits=Limits(frame_bytes=65536)) as dialled:
        for _ in range(2):
            link, _ = subscribed(dialled, bound, b"")
            say(bound, link, b"x" * 65537)
            assert take(dialled) == Down(link)
        subscribed(dialled, bound, b"")
        say(bound, link, b"x" * 65536)
        assert take(dialled) == Heard(link, [b"x" * 65536])


def test_a_subscription_over_the_limit_ends_its_connection_and_no_other() -> None:
    with publisher(TCP) as bound, subscriber(bound.data_addresses) as good, subscriber(bound.data_addresses) as greedy:
        link = own(bound)
        take(good)
        for _ in range(2):
            assert take(greedy) == Up(link)
            say(greedy, link, b"\x01" + b"x" * SUBSCRIPTION_BYTES)
            assert take(greedy) == Down(link)
        say(good, link, b"\x01" + b"x" * (SUBSCRIPTION_BYTES - 1))
        assert take_until(bound, Heard).frames[0] == b"\x01" + b"x" * (SUBSCRIPTION_BYTES - 1)


def test_limits_of_data_hold_within_the_process_too(tmp_path: Path) -> None:
    limits = Limits(frame_bytes=65536)
    address = f"inproc://{tmp_path}"
    with publisher(address) as bound, subscriber([address], limits=limits) as dialled:
        link, _ = subscribed(dialled, bound, b"")
        say(dialled, link, b"\x01" + b"x" * SUBSCRIPTION_BYTES)
        say(dialled, link, b"\x01b")
        assert take(bound).frames == [b"\x01b", b""]
        say(bound, link, b"x" * 65537)
        say(bound, link, b"good")
        assert take(dialled) == Heard(link, [b"good"])
        assert bound.stats()["io_oversize_messages"] == dialled.stats()["io_oversize_messages"] == 1


def test_what_a_subscriber_says_in_several_frames_is_dropped_and_counted() -> None:
    with publisher(TCP) as bound, subscriber(bound.data_addresses) as dialled:
        link = own(bound)
        take(dialled)
        say(dialled, link, b"upstream", b"in", b"parts")
        say(dialled, link, b"upstream")
        say(dialled, link, b"\x01a")
        assert [take(bound).frames[0] for _ in range(2)] == [b"upstream", b"\x01a"]
        assert bound.stats()["io_oversize_messages"] == 1


def test_what_a_subscriber_said_that_is_gone_is_dropped_and_counted() -> None:
    """Its connection cannot be named any more, nor closed; and libzmq has forgotten what it subscribed to."""
    told: list[list[bytes]] = []
    endpoint = PublishingListener(TCP, Heartbeat(), Limits())
    endpoint.open()
    try:
        assert endpoint.socket is not None
        with knocking(zmq.SUB, endpoint.address) as gone:
            gone.subscribe(b"first")
            assert endpoint.socket.poll(1000 * int(PATIENCE_S))
            endpoint.receive(10, lambda link, frames, now: told.append(frames), 0.0)
            gone.subscribe(b"second")
            assert endpoint.socket.poll(1000 * int(PATIENCE_S))
        assert [frames[0] for frames in told] == [b"\x01first"]
        token = told[0][1]
        until(lambda: not alive(token))
        endpoint.receive(10, lambda link, frames, now: told.append(frames), 0.0)
        assert endpoint.unheard == 1
        assert b"\x01second" not in [frames[0] for frames in told]
    finally:
        endpoint.close()


@pytest.mark.parametrize("kind", OUTSIDE)
def test_plain_subscribers_and_publishers_are_peers_of_data_endpoints(kind: str, tmp_path: Path) -> None:
    with publisher(place(kind, tmp_path)) as bound, knocking(zmq.SUB, bound.data_addresses[0]) as plain:
        link = own(bound)
        plain.subscribe(b"a")
        assert take(bound).frames[0] == b"\x01a"
        say(bound, link, b"a", b"body")
        assert plain.poll(1000 * int(PATIENCE_S))
        assert plain.recv_multipart() == [b"a", b"body"]
    with context().socket(zmq.PUB) as pub:
        pub.bind("tcp://127.0.0.1:*")
        with subscriber([pub.getsockopt_string(zmq.LAST_ENDPOINT)]) as dialled:
            link = take(dialled).link
            say(dialled, link, b"\x01a")

            def heard() -> bool:
                pub.send_multipart([b"a", b"body"])
                return bool(dialled.wait_items(0.01))

            until(heard)  # a PUB does not tell when it has a subscription
            assert take(dialled) == Heard(link, [b"a", b"body"])


@pytest.mark.parametrize(("data", "kinds"), [("XPUB", ["PUB", "DEALER"]), ("XSUB", ["SUB", "PUSH"])])
def test_sockets_of_a_wrong_kind_and_garbage_are_counted_and_survived(
    data: Any, kinds: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with driver(data=data, data_binds=[TCP]) as bound, contextlib.ExitStack() as stack:
        address = bound.data_addresses[0]
        link = own(bound)
        for kind in kinds:
            stack.enter_context(knocking(getattr(zmq, kind), address))
        for garbage in (b"GET / HTTP/1.0\r\n\r\n", os.urandom(200), b"\xff" + b"\0" * 8 + b"\x7f" + b"\xff" * 100):
            with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as stranger:
                stranger.sendall(garbage)
        until(lambda: bound.stats()["io_handshakes_failed"] >= len(kinds))
        assert "another kind of socket" in caplog.text
        with driver(data="XSUB" if data == "XPUB" else "XPUB", data_connects=[address]) as honest:
            ends = {"XPUB": bound, "XSUB": bound, "XSUB" if data == "XPUB" else "XPUB": honest}
            assert take_until(honest, Up).link == link
            say(ends["XSUB"], link, b"\x01hello")
            # Garbage may pass for ZMTP 1.0: then its messages are heard, and that it subscribes to all.
            hears(ends["XPUB"], b"\x01hello")
            say(ends["XPUB"], link, b"hello")
            hears(ends["XSUB"], b"hello")


def test_a_subscriber_that_dials_a_wrong_kind_of_socket_tries_on_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with context().socket(zmq.ROUTER) as wrong:
        wrong.bind("tcp://127.0.0.1:*")
        with subscriber([wrong.getsockopt_string(zmq.LAST_ENDPOINT)]) as mistaken:
            until(lambda: "another kind of socket" in caplog.text)
            assert len(mistaken.mailbox) == 0
            assert mistaken.stats()["io_handshakes_failed"] > 3


def test_a_subscriber_that_does_not_read_does_not_keep_the_publisher_from_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(PublishingListener, "SEND_MESSAGES", 100)
    with publisher(TCP) as bound, knocking(zmq.SUB, bound.data_addresses[0]) as lazy:
        lazy.subscribe(b"a")
        take_until(bound, Heard)
        with subscriber(bound.data_addresses) as good:
            link, _ = subscribed(good, bound, b"b")
            for _ in range(2000):
                say(bound, link, b"a" * 10_000)
            say(bound, link, b"b")
            assert take(good) == Heard(link, [b"b"])
        lazy.close(linger=0)
        assert bound.close(PATIENCE_S)


def test_a_publisher_closes_though_a_subscriber_does_not_read() -> None:
    with publisher(TCP) as bound, knocking(zmq.SUB, bound.data_addresses[0]) as lazy:
        lazy.setsockopt(zmq.RCVHWM, 1)
        lazy.subscribe(b"")
        link = take_until(bound, Heard).link
        for _ in range(1000):
            say(bound, link, b"x" * 100_000)
        assert bound.close(PATIENCE_S)  # libzmq lingers for FLUSH_SECONDS at most
        with publisher(bound.data_addresses[0]) as again:
            own(again)
