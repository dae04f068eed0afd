"""Publishers and subscribers of raw cores, for the tests of data endpoints."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import zmq

from tests.transport.raw import (
    PATIENCE_S,
    AnyDriver,
    Heard,
    Up,
    driver,
    raw,
    take,
    take_until,
)
from zmqkit.transport.context import context

PLACES = ["tcp://127.0.0.1:0", "tcp://[::1]:0", "ipc", "inproc"]
OUTSIDE = ["tcp://127.0.0.1:0", "ipc"]
TCP = "tcp://127.0.0.1:0"


def publisher(address: str, **options: Any) -> contextlib.AbstractContextManager[AnyDriver]:
    return driver(data="XPUB", data_binds=[address], **options)


def subscriber(addresses: Sequence[str], **options: Any) -> contextlib.AbstractContextManager[AnyDriver]:
    return driver(data="XSUB", data_connects=addresses, **options)


def say(io: AnyDriver, link: Any, *frames: bytes) -> None:
    """Send, and wait until it is sent: what others say afterwards comes afterwards."""
    ticket = io.ticket()
    io.submit(raw(io).say, link, list(frames), ticket)
    io.wait(ticket, PATIENCE_S)


def own(io: AnyDriver) -> tuple[str, str]:
    """The link of what it has bound; the core heard of it first."""
    link = ("d", io.data_addresses[0])
    assert take(io) == Up(link)
    return link


def subscribed(io: AnyDriver, bound: AnyDriver, topic: bytes) -> tuple[Any, bytes]:
    """Subscribe over a new connection. Returns its link, and the token by which the publisher knows it."""
    link = take_until(io, Up).link
    say(io, link, b"\x01" + topic)
    return link, hears(bound, b"\x01" + topic).frames[1]


def hears(bound: AnyDriver, first: bytes) -> Heard:
    """The next message that begins with this frame: of who is gone unsubscriptions may come before."""
    heard = take_until(bound, lambda item: isinstance(item, Heard) and item.frames[0] == first)
    assert isinstance(heard, Heard)
    return heard


@contextlib.contextmanager
def knocking(kind: int, address: str) -> Iterator[zmq.Socket[bytes]]:
    with context().socket(kind) as made:
        made.setsockopt(zmq.LINGER, 0)
        made.connect(address)
        yield made
