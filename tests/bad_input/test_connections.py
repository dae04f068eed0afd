"""What speaks no ZeroMQ, or never speaks, or leaves in the midst of it; and other kinds of ZeroMQ sockets."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from tests.bad_input.scenes import LOCAL, Scene, bound_puller, bound_pusher, dialling_puller, until
from tests.bad_input.strangers import PATIENCE_S, Router
from zmqkit import Heartbeat, Puller, Pusher

GREETING = b"\xff" + b"\0" * 8 + b"\x7f\x03\x01NULL" + b"\0" * 48
"""ZMTP 3.1, security mechanism NULL (RFC 23)."""


def command(name: bytes, body: bytes) -> bytes:
    """A short command frame."""
    whole = bytes([len(name)]) + name + body
    return bytes([4, len(whole)]) + whole


def ready(kind: bytes = b"DEALER") -> bytes:
    """The handshake's second step."""
    return command(b"READY", b"\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind)


@contextlib.contextmanager
def dialled(scene: Scene) -> Iterator[socket.socket]:
    """A raw TCP connection to the peer under attack."""
    port = int(scene.peer.addresses[0].rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as connection:
        yield connection


def shake_hands(connection: socket.socket) -> None:
    """The whole handshake, step by step: libzmq hangs up on who does not wait for its part of it, now and then."""
    connection.sendall(GREETING)
    exactly(connection, len(GREETING))
    connection.sendall(ready())
    _, size = exactly(connection, 2)
    assert exactly(connection, size).startswith(b"\x05READY")


def exactly(connection: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        more = connection.recv(size - len(found))
        assert more, "it hung up"
        found += more
    return found


def closed_by_peer(connection: socket.socket) -> None:
    """Wait until the other side hangs up."""
    connection.settimeout(PATIENCE_S)
    with contextlib.suppress(ConnectionError):
        while connection.recv(65536):
            pass


# ---- no handshake --------------------------------------------------------------------------


GARBAGE: dict[str, bytes] = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: example.com\r\nUser-Agent: curl\r\n\r\n",
    "a long HTTP request": b"GET / HTTP/1.1\r\nCookie: " + b"x" * 5000 + b"\r\n\r\n",
    "TLS": bytes.fromhex("1603010200010001fc0303") + b"\x5a" * 500,
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "zeros": bytes(1000),
    "ones": b"\xff" * 1000,
    "a pattern": bytes(range(256)) * 8,
    "nothing": b"",
    "half a greeting": GREETING[:20],
    "a greeting": GREETING,
    "another mechanism": GREETING.replace(b"NULL", b"CURV"),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=list(GARBAGE))
def test_what_is_no_zeromq_fails_the_handshake_and_is_counted(garbage: bytes) -> None:
    with bound_pusher() as scene:
        with dialled(scene) as stranger:
            with contextlib.suppress(OSError):  # it may have been hung up on already
                stranger.sendall(garbage)
                stranger.shutdown(socket.SHUT_WR)
            closed_by_peer(stranger)
        until(lambda: scene.count("io_handshakes_failed") + scene.count("io_connections_broken") >= 1)
        scene.finish()
        scene.expect(sessions_lost=0)


def test_a_broken_handshake_breaks_its_connection_and_is_counted() -> None:
    broken = [
        command(b"READY", b"\x0bSocket-Type\xff\xff\xff\xffDEALER"),
        command(b"READY", b"\x0bSocket-Type"),
        command(b"WHAT", b""),
        command(b"ERROR", b"\xffshort"),
        b"\x06" + b"\xff" * 8,
        b"\x04\xff" + b"\0" * 300,
        b"\x00\x05hello",
    ]
    with bound_pusher() as scene:
        for number, step in enumerate(broken, start=1):
            with dialled(scene) as stranger:
                stranger.sendall(GREETING + step)
                closed_by_peer(stranger)
            until(lambda n=number: scene.count("io_connections_broken") + scene.count("io_handshakes_failed") >= n)  # type: ignore[misc]
        scene.finish()


def test_a_frame_that_claims_more_than_the_limit_breaks_its_connection() -> None:
    with bound_puller() as scene:
        for claimed in (2**63 - 1, 2**64 - 1, 65 << 20):
            before = scene.count("io_connections_broken")
            with dialled(scene) as stranger:
                shake_hands(stranger)
                stranger.sendall(b"\x02" + struct.pack(">Q", claimed) + b"x" * 100)
                closed_by_peer(stranger)
            until(lambda: scene.count("io_connections_broken") > before)  # noqa: B023 - called at once
        scene.finish()


def test_a_frame_that_never_comes_to_its_end_is_no_message() -> None:
    with bound_puller() as scene, dialled(scene) as stranger:
        shake_hands(stranger)
        stranger.sendall(b"\x02" + struct.pack(">Q", 1 << 20) + b"x" * 1000)
        scene.finish()
        scene.expect(frames_bad=0)
        stranger.close()
        until(lambda: scene.count("io_connections_broken") == 1)
        scene.expect(frames_bad=0)


def test_messages_that_come_a_byte_at_a_time_are_heard_in_the_end() -> None:
    """After the handshake: a greeting in pieces libzmq may take for one of an older version, and hang up."""
    with bound_puller() as scene, dialled(scene) as slow:
        slow.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        shake_hands(slow)
        for byte in b"\x00\x05hello":
            slow.sendall(bytes([byte]))
        until(lambda: scene.count("frames_bad") == 1)
        scene.finish()


def test_connections_that_never_speak_are_hung_up_on() -> None:
    """Before the handshake is through: after twice the heartbeat bound, as libzmq counts it, at least a second."""
    beat = Heartbeat(interval=0.1, liveness=3)
    with Pusher(LOCAL, heartbeat=beat, linger=0) as push, Puller[str](push.addresses[0], heartbeat=beat) as pull:
        scene = Scene(push, push, pull)
        pull.wait_for_peers(1, timeout=PATIENCE_S)
        with contextlib.ExitStack() as stack:
            silent = [stack.enter_context(dialled(scene)) for _ in range(50)]
            for number, each in enumerate(silent):
                each.sendall(GREETING[: number % 64])  # the rest never comes
            scene.finish()
            for each in silent:
                closed_by_peer(each)
        until(lambda: scene.count("io_handshakes_failed") >= 50)
        scene.finish()


def test_connections_that_greeted_and_never_speak_cost_nobody_anything() -> None:
    with bound_pusher() as scene, contextlib.ExitStack() as stack:
        for _ in range(50):
            silent = stack.enter_context(dialled(scene))
            shake_hands(silent)
        scene.finish()
        scene.expect(sessions_opened=1, frames_bad=0)


# ---- that which made libzmq abort --------------------------------------------------------------


def test_who_floods_says_a_heartbeat_and_resets_the_connection_harms_nobody() -> None:
    """With a receiving high-water mark libzmq 4.3.5 aborts the process here (decision 13)."""
    heartbeat = command(b"PING", b"\0\0context")
    with bound_pusher() as scene:
        driver = scene.peer._driver
        for _ in range(5):
            standing, go_on = threading.Event(), threading.Event()

            def stand_still(now: float, standing: Any = standing, go_on: Any = go_on) -> None:
                standing.set()
                go_on.wait(PATIENCE_S)

            driver.submit(stand_still)
            assert standing.wait(PATIENCE_S)
            with dialled(scene) as stranger, contextlib.suppress(OSError):
                shake_hands(stranger)
                stranger.sendall(b"\x00\x01\xc1" * 1500 + heartbeat + b"\x00\x01\xc1" * 100)
                time.sleep(0.05)  # libzmq reads what it may: nobody tells when
                stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            time.sleep(0.05)  # and hears of the reset
            go_on.set()
        scene.finish()


# ---- other ZeroMQ sockets -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [zmq.PUSH, zmq.PULL, zmq.PUB, zmq.SUB, zmq.REP, zmq.PAIR, zmq.XPUB])
def test_a_socket_of_a_kind_that_does_not_fit_is_refused_by_the_handshake(kind: int) -> None:
    with bound_pusher() as scene, zmq.Context() as context, context.socket(kind) as mistaken:
        mistaken.setsockopt(zmq.LINGER, 0)
        mistaken.connect(scene.peer.addresses[0])
        until(lambda: scene.count("io_handshakes_failed") + scene.count("io_connections_broken") >= 1)
        scene.finish()
        scene.expect(sessions_lost=0, frames_bad=0)


@pytest.mark.parametrize("kind", [zmq.REQ, zmq.ROUTER, zmq.DEALER])
def test_a_socket_that_fits_and_speaks_another_protocol_is_counted(kind: int) -> None:
    with bound_pusher() as scene, zmq.Context() as context, context.socket(kind) as mistaken:
        mistaken.setsockopt(zmq.LINGER, 0)
        if kind == zmq.ROUTER:
            mistaken.setsockopt(zmq.PROBE_ROUTER, 1)
        mistaken.connect(scene.peer.addresses[0])
        if kind != zmq.ROUTER:
            mistaken.send(b"hello")
        until(lambda: scene.count("frames_bad") == 1)
        scene.finish()


@pytest.mark.parametrize("kind", [zmq.PULL, zmq.SUB, zmq.PUB, zmq.REP])
def test_an_address_with_another_kind_of_socket_is_dialled_again_and_again(kind: int) -> None:
    with zmq.Context() as context, context.socket(kind) as mistaken:
        mistaken.setsockopt(zmq.LINGER, 0)
        mistaken.bind("tcp://127.0.0.1:*")
        with dialling_puller(mistaken.getsockopt_string(zmq.LAST_ENDPOINT)) as scene:
            # REP fits DEALER, says libzmq; it never answers a HELLO that has no envelope.
            if kind != zmq.REP:
                until(lambda: scene.count("io_handshakes_failed") >= 2)
            scene.finish()
            scene.expect(sessions_opened=1)


def test_an_address_where_no_zeromq_listens_is_dialled_again_and_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as web:
        web.settimeout(PATIENCE_S)
        with dialling_puller(f"tcp://127.0.0.1:{web.getsockname()[1]}") as scene:
            for _ in range(3):
                connection, _ = web.accept()
                with connection:
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
            until(lambda: scene.count("io_handshakes_failed") >= 3)
            scene.finish()


def test_an_address_that_accepts_and_never_speaks_holds_nobody_up() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        dialling_puller(f"tcp://127.0.0.1:{silent.getsockname()[1]}") as scene,
    ):
        scene.finish()
        scene.expect(sessions_opened=1)


def test_a_hostile_address_that_hangs_up_in_every_phase_is_dialled_again() -> None:
    with Router() as router, dialling_puller(router.address) as scene:
        for _ in range(3):
            guest = router.guest()
            before = scene.count("links_expelled")
            while scene.count("links_expelled") == before:
                guest.say(os.urandom(50))
        scene.finish()
        scene.expect(sessions_opened=1)
