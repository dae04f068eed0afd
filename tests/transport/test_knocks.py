"""Who knocks: kinds of sockets are told by what ZMTP begins with, and all are turned away unharmed."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from zmqkit.errors import AddressError, AddressInUse
from zmqkit.transport import knocks
from zmqkit.transport.context import context
from zmqkit.transport.knocks import GREETING, MOST, Knocks, socket_kind

ANY = "tcp://127.0.0.1:*"
PATIENCE_S = 20.0

Heard = queue.Queue[tuple[int, str]]


@contextlib.contextmanager
def listening(*sides: tuple[str, ...]) -> Iterator[tuple[Knocks, Heard]]:
    heard: Heard = queue.Queue()
    made = Knocks("test", (sides[0], sides[1] if len(sides) > 1 else ()), lambda side, kind: heard.put((side, kind)))
    made.open()
    try:
        yield made, heard
    finally:
        made.close()
        assert made.ended.done


@contextlib.contextmanager
def plain(kind: int, address: str) -> Iterator[zmq.Socket[bytes]]:
    made = context().socket(kind)
    made.setsockopt(zmq.LINGER, 0)
    made.setsockopt(zmq.IPV6, 1)
    made.connect(address)
    try:
        yield made
    finally:
        made.close(0)


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


@pytest.mark.parametrize(
    "kind", ["PUSH", "PULL", "DEALER", "ROUTER", "REQ", "REP", "PUB", "SUB", "XPUB", "XSUB", "PAIR"]
)
def test_each_kind_of_socket_is_told(kind: str) -> None:
    with listening((), (ANY,)) as (made, heard), plain(getattr(zmq, kind), made.addresses[1][0]):
        assert heard.get(timeout=PATIENCE_S) == (1, kind)


def test_who_was_turned_away_connects_to_what_stands_there_next() -> None:
    with listening((ANY,)) as (made, heard), plain(zmq.PUSH, made.addresses[0][0]) as push:
        assert heard.get(timeout=PATIENCE_S) == (0, "PUSH")
        made.close()
        pull = context().socket(zmq.PULL)
        try:
            pull.bind(made.addresses[0][0])
            push.send(b"job")
            assert pull.poll(int(PATIENCE_S * 1000))
            assert pull.recv() == b"job"
        finally:
            pull.close(0)


def test_paths_names_and_ipv6_are_listened_at(tmp_path: Path) -> None:
    path, name = f"ipc://{tmp_path}/socket", f"ipc://@zmqkit-test-{os.getpid()}"
    with listening((path, name), ("tcp://[::1]:*", "tcp://localhost:*")) as (made, heard):
        assert made.addresses[0] == (path, name)
        for side, addresses in enumerate(made.addresses):
            for address in addresses:
                with plain(zmq.PULL, address):
                    while heard.get(timeout=PATIENCE_S) != (side, "PULL"):
                        pass  # of the one before, which had knocked again
    assert not (tmp_path / "socket").exists()


def test_garbage_is_no_knock_and_harms_nobody() -> None:
    ready = b"\x05READY" + b"\x0bSocket-Type" + (4).to_bytes(4, "big") + b"PUSH"
    with listening((ANY,)) as (made, heard):
        address = ("127.0.0.1", port_of(made.addresses[0][0]))
        for said in (b"", b"GET / HTTP/1.1\r\n\r\n" + bytes(100), b"\xff" * 5000, GREETING + b"\x04\xff" + ready):
            with socket.create_connection(address, timeout=PATIENCE_S) as stranger:
                stranger.sendall(said)
        with plain(zmq.PULL, made.addresses[0][0]):
            assert heard.get(timeout=PATIENCE_S) == (0, "PULL")


def test_those_who_say_nothing_take_no_place_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knocks, "PATIENCE", 0.2)
    with listening((ANY,)) as (made, heard), contextlib.ExitStack() as stack:
        for _ in range(MOST + 20):
            stack.enter_context(socket.create_connection(("127.0.0.1", port_of(made.addresses[0][0])), PATIENCE_S))
        with plain(zmq.PUSH, made.addresses[0][0]):
            assert heard.get(timeout=PATIENCE_S) == (0, "PUSH")


def test_an_address_in_use_is_told_and_nothing_is_left_open(tmp_path: Path) -> None:
    path = f"ipc://{tmp_path}/socket"
    with listening((ANY, path)) as (made, _):
        for taken in made.addresses[0]:
            with pytest.raises(AddressInUse, match="cannot bind"):
                Knocks("second", ((ANY,), (taken,)), print).open()
    with pytest.raises(AddressError, match="cannot bind"):
        Knocks("third", (("ipc:///no/such/folder/socket",), ()), print).open()
    assert not [each for each in threading.enumerate() if each.name.startswith("zmqkit-knocks")]


def ready(*properties: tuple[bytes, bytes], long: bool = False) -> bytes:
    body = b"\x05READY" + b"".join(
        bytes([len(name)]) + name + len(value).to_bytes(4, "big") + value for name, value in properties
    )
    return (b"\x06" + len(body).to_bytes(8, "big") if long else b"\x04" + bytes([len(body)])) + body


WHOLE = GREETING + ready((b"Identity", b"anna"), (b"Socket-Type", b"PUSH"))


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (WHOLE, "PUSH"),
        (WHOLE + b"\x00\x03job", "PUSH"),
        (GREETING + ready((b"SOCKET-type", b"PULL"), long=True), "PULL"),
        (b"\xff" + bytes(8) + b"\x7f\x01\x08", ""),
        (b"\xff" + bytes(8) + b"\x7e\x03\x00", None),
        (GREETING + ready((b"Identity", b"anna")), None),
        (GREETING + ready(), None),
        (GREETING + b"\x04\x06\x05ERROR", None),
        (GREETING + b"\x00\x03job", None),
        (GREETING + b"\x04\x10\x05READY\x40Socket-", None),
        (GREETING + b"\x04\x16\x05READY\x0bSocket-Type\xff\xff\xff\xff", None),
    ],
)
def test_what_a_peer_says_first_tells_its_kind(said: bytes, kind: str | None) -> None:
    assert socket_kind(said) == kind


def test_nothing_is_told_of_a_part() -> None:
    assert {socket_kind(WHOLE[:length]) for length in range(len(WHOLE))} == {None}
