"""Sockets and connections: what a core hears of them, over each transport."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import zmq

from tests.transport.raw import (
    ANSWER,
    ASK,
    PATIENCE_S,
    Disturbed,
    Down,
    Heard,
    RawCore,
    Up,
    driver,
    raw,
    take,
    take_until,
    until,
)
from zmqkit.errors import AddressError, AddressInUse
from zmqkit.options import Heartbeat, Limits
from zmqkit.protocol.core import Frames, Link
from zmqkit.transport import connections
from zmqkit.transport.context import context
from zmqkit.transport.sockets import MAX_FRAMES
from zmqkit.transport.tickets import wait

pytestmark = pytest.mark.usefixtures("tested")

BINDS = ["tcp://127.0.0.1:0", "tcp://127.0.0.1:*", "tcp://localhost:0", "tcp://[::1]:0", "ipc", "inproc"]


def place(kind: str, tmp_path: Path) -> str:
    if kind == "tcp://[::1]:0" and not has_ipv6():
        pytest.skip("no IPv6 on this host")
    return {"ipc": f"ipc://{tmp_path}/socket", "inproc": f"inproc://{tmp_path}"}.get(kind, kind)


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize("kind", BINDS)
def test_messages_go_both_ways_with_their_boundaries(kind: str, tmp_path: Path) -> None:
    with driver(binds=[place(kind, tmp_path)]) as bound, driver(connects=bound.addresses) as dialled:
        link = take_until(dialled, Up).link
        assert link == ("c", bound.addresses[0])
        for frames in ([ASK], [ASK, b""], [ASK, b"two", b"", b"x" * 100_000], [b"alone"]):
            dialled.submit(raw(dialled).say, link, frames, None)
            heard = take_until(bound, Heard)
            assert heard.frames == frames
            assert heard.link[:2] == ("b", bound.addresses[0])
            if frames[0] == ASK:
                assert take(dialled) == Heard(link, [ANSWER, *frames[1:]])


def test_a_bound_address_has_its_port_filled_in() -> None:
    with driver(binds=["tcp://127.0.0.1:0", "tcp://*:*"]) as io:
        assert len(io.addresses) == 2
        assert all(int(address.rpartition(":")[2]) > 0 for address in io.addresses)


@pytest.mark.parametrize("kind", ["tcp://127.0.0.1:0", "ipc", "inproc"])
def test_a_taken_address_is_refused_in_the_callers_thread(kind: str, tmp_path: Path) -> None:
    with driver(binds=[place(kind, tmp_path)]) as first:
        with (
            pytest.raises(AddressInUse, match=r"in use|is bound"),
            driver(binds=["tcp://127.0.0.1:0", *first.addresses]),
        ):
            raise AssertionError("it bound a taken address")
        # And the first goes on.
        with driver(connects=first.addresses) as dialled:
            dialled.submit(raw(dialled).say, take_until(dialled, Up).link, [ASK], None)
            assert take_until(dialled, Heard).frames == [ANSWER]


def test_a_start_that_failed_leaves_nothing_bound_and_can_be_tried_again() -> None:
    with driver(binds=["tcp://127.0.0.1:0"]) as holder:
        taken = holder.addresses[0]
        with pytest.raises(AddressInUse), driver(binds=["inproc://again", taken]):
            raise AssertionError("it bound a taken address")
        with driver(binds=["inproc://again"]) as second:
            assert second.addresses == ("inproc://again",)


def test_the_stale_file_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))  # closing it leaves the file
    assert path.exists()
    with driver(binds=[f"ipc://{path}"]) as bound, driver(connects=bound.addresses) as dialled:
        assert take_until(dialled, Up)


@pytest.mark.parametrize(
    "address",
    ["tcp://nosuchdevice:0", "tcp://1.2.3.4:0", "bad", "foo://x", "ipc:///no/such/dir/s", "ipc://" + "x" * 200],
)
def test_an_address_that_cannot_be_bound_is_named(address: str) -> None:
    with pytest.raises(AddressError, match=r"cannot bind '") as caught, driver(binds=[address]):
        raise AssertionError("it bound that")
    assert address in str(caught.value)


def test_an_address_that_cannot_be_connected_is_named_at_start_and_survived_later() -> None:
    with (
        pytest.raises(AddressError, match=r"cannot connect to 'tcp://127\.0\.0\.1'"),
        driver(connects=["tcp://127.0.0.1"]),
    ):
        raise AssertionError("it connected to that")
    with driver(binds=["tcp://127.0.0.1:0"]) as bound, driver() as io:
        io.connect("bad")
        io.connect(bound.addresses[0])
        assert take(io) == Up(("c", bound.addresses[0]))


@pytest.mark.parametrize("kind", ["tcp://127.0.0.1:0", "ipc"])
def test_a_restarted_bound_side_is_down_and_up_again(kind: str, tmp_path: Path) -> None:
    with driver(binds=[place(kind, tmp_path)]) as first:
        address = first.addresses[0]
    link = ("c", address)
    with driver(connects=[address]) as dialled:
        for _ in range(4):
            with driver(binds=[address]) as bound:  # the port is free at once
                assert take(dialled) == Up(link)
                dialled.submit(raw(dialled).say, link, [ASK], None)
                assert take(dialled) == Heard(link, [ANSWER])
                assert take(bound).frames == [ASK]
            assert take(dialled) == Down(link)


def test_nothing_meant_for_a_broken_connection_is_sent_on_the_next_one() -> None:
    peer = context().socket(zmq.ROUTER)
    peer.bind("tcp://127.0.0.1:*")
    address = peer.getsockopt_string(zmq.LAST_ENDPOINT)
    with driver(connects=[address]) as dialled:
        link = take(dialled).link
        peer.close()
        assert take(dialled) == Down(link)
        ticket = dialled.ticket()
        dialled.submit(raw(dialled).say, link, [b"late"], ticket)
        wait(ticket, 5)
        with driver(binds=[address]) as bound:
            assert take(dialled) == Up(link)
            dialled.submit(raw(dialled).say, link, [b"fresh"], None)
            assert take(bound).frames == [b"fresh"]
        assert dialled.stats()["io_sends_dropped"] == 1


def test_what_was_said_before_the_connection_broke_is_heard_before_it_is_down() -> None:
    core = RawCore()
    with driver(core, binds=["tcp://127.0.0.1:0"]) as bound, driver(connects=bound.addresses) as dialled:
        link = take(dialled).link
        dialled.submit(raw(dialled).say, link, [b"hello"], None)
        back = take(bound).link
        core.goodbyes = [(back, [b"%d" % n]) for n in range(1000)]
        assert bound.close(5)
        heard = [take(dialled) for _ in range(1001)]
        assert heard == [Heard(link, [b"%d" % n]) for n in range(1000)] + [Down(link)]


def test_a_send_to_a_gone_peer_is_a_link_down_at_the_bound_side() -> None:
    with driver(binds=["tcp://127.0.0.1:0"]) as bound:
        with driver(connects=bound.addresses) as dialled:
            dialled.submit(raw(dialled).say, take(dialled).link, [b"hello"], None)
            link = take(bound).link
        # The group is told that somebody left, and again while nobody has found out who; only a send tells.
        group = Disturbed(("b", bound.addresses[0]))
        told = take(bound)
        assert told == group
        # libzmq tells of the break before it takes the connection's pipe away: what is sent meanwhile is lost.
        until = time.monotonic() + PATIENCE_S
        while told == group and time.monotonic() < until:
            bound.submit(raw(bound).say, link, [b"anybody there?"], None)
            if bound.wait_items(0.01):
                told = take(bound)
        assert told == Down(link)
        with driver(connects=bound.addresses) as honest:
            honest.submit(raw(honest).say, take(honest).link, [ASK], None)
            assert take_until(honest, Heard).frames == [ANSWER]


def test_last_words_are_heard_before_a_send_finds_their_peer_gone() -> None:
    count = 500
    with driver(binds=["tcp://127.0.0.1:0"]) as bound:
        peer = context().socket(zmq.DEALER)
        peer.connect(bound.addresses[0])
        peer.send(b"hello")
        link = take(bound).link
        listener = bound._wires._listeners[bound.addresses[0]]

        def stand_still(now: float) -> None:
            """As at a slow disk; meanwhile the peer says its last words and leaves."""
            for n in range(count):
                peer.send(b"%d" % n)
            peer.close(linger=1000 * int(PATIENCE_S))
            deadline = time.monotonic() + PATIENCE_S
            with contextlib.suppress(zmq.ZMQError):  # at last EHOSTUNREACH
                while time.monotonic() < deadline:
                    listener.send(link[2], [b"anybody there?"])
            raw(bound).say(link, [b"hello?"], None, now)

        bound.submit(stand_still)
        heard = [take(bound) for _ in range(count + 1)]
        assert heard == [Heard(link, [b"%d" % n]) for n in range(count)] + [Down(link)]


@pytest.mark.slow
def test_a_message_never_comes_before_it_was_sent() -> None:
    """However long ago the turn began in which it is taken."""

    class Slow(RawCore):
        def receive_message(self, link: Link, frames: Frames, now: float) -> None:
            came.append((float(frames[0]), now))
            if len(came) == 1:
                time.sleep(0.02)
                peer.send(repr(time.monotonic()).encode())
                socket = bound._wires._listeners[bound.addresses[0]].socket
                assert socket is not None
                assert zmq.zmq_poll([(socket, zmq.POLLIN)], 5000)
            super().receive_message(link, frames, now)

    came: list[tuple[float, float]] = []
    with driver(Slow(), binds=["tcp://127.0.0.1:0"]) as bound, context().socket(zmq.DEALER) as peer:
        peer.connect(bound.addresses[0])
        peer.send(repr(time.monotonic()).encode())
        take(bound), take(bound)
        peer.close(linger=0)
    assert len(came) == 2
    assert [each for each in came if each[1] < each[0]] == []


def test_a_peer_that_leaves_while_it_is_held_back_does_not_end_the_process() -> None:
    """With a receiving high-water mark, libzmq aborts here: hence a process of its own."""
    command = [sys.executable, "-m", "tests.transport.programs", "held_back"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=55)
    assert (done.returncode, done.stdout) == (0, '{"answered": true}\n'), done.stderr


def test_many_broken_connections_disturb_a_group_a_few_times() -> None:
    with driver(binds=["tcp://127.0.0.1:0"]) as bound:
        begun = time.monotonic()
        peers = [context().socket(zmq.DEALER) for _ in range(40)]
        for peer in peers:
            peer.connect(bound.addresses[0])
            peer.send(b"hello")
        for _ in peers:
            take_until(bound, Heard)
        for peer in peers:
            peer.close()
        # All of them are told in the end: after the last disturbance, no link is left.
        links = raw(bound)
        seen = 1
        assert take(bound) == Disturbed(("b", bound.addresses[0]))
        bound.submit(links.wake_at, time.monotonic() + 4 * connections.DISTURBED_SECONDS)
        while take(bound) != "fired":
            seen += 1
        # Nothing is sent to any of them, so none is found: each time it is told again.
        times = 2 + (time.monotonic() - begun) / connections.DISTURBED_SECONDS
        assert seen <= times * (1 + len(connections.AGAIN_SECONDS))


def test_a_frame_over_the_limit_never_arrives_and_an_honest_peer_goes_on() -> None:
    limits = Limits(frame_bytes=65536)
    with driver(binds=["tcp://127.0.0.1:0"], limits=limits) as bound:
        with driver(connects=bound.addresses) as honest, driver(connects=bound.addresses) as greedy:
            link = take(greedy).link
            for _ in range(3):
                greedy.submit(raw(greedy).say, link, [b"x" * 65537], None)
                assert take_until(greedy, Down)
                assert take_until(greedy, Up)
            greedy.submit(raw(greedy).say, link, [ASK, b"x" * 65536], None)
            assert take_until(greedy, Heard).frames == [ANSWER, b"x" * 65536]
            honest.submit(raw(honest).say, take(honest).link, [ASK], None)
            assert take(honest).frames == [ANSWER]
        # In the order of their coming: one of the large ones would stand before these.
        assert take_until(bound, Heard).frames == [ASK, b"x" * 65536]
        assert take_until(bound, Heard).frames == [ASK]


def test_a_frame_over_the_limit_from_the_bound_side_never_arrives() -> None:
    with (
        driver(binds=["tcp://127.0.0.1:0"]) as bound,
        driver(connects=bound.addresses, limits=Limits(frame_bytes=65536)) as dialled,
    ):
        link = take(dialled).link
        for _ in range(2):
            dialled.submit(raw(dialled).say, link, [b"hello"], None)
            bound.submit(raw(bound).say, take_until(bound, Heard).link, [b"x" * 65537], None)
            assert take(dialled) == Down(link)
            assert take(dialled) == Up(link)  # libzmq alone would not dial again after this


def test_limits_hold_within_the_process_too(tmp_path: Path) -> None:
    limits = Limits(frame_bytes=65536)
    with driver(binds=[f"inproc://{tmp_path}"], limits=limits) as bound, driver(connects=bound.addresses) as dialled:
        link = take(dialled).link
        dialled.submit(raw(dialled).say, link, [b"x" * 65537], None)
        dialled.submit(raw(dialled).say, link, [ASK], None)
        assert take(dialled).frames == [ANSWER]
        assert take(bound).frames == [ASK]
        assert bound.stats()["io_oversize_messages"] == 1


@pytest.mark.parametrize("kind", ["tcp://127.0.0.1:0", "inproc"])
def test_a_message_of_too_many_frames_is_dropped_and_counted(kind: str, tmp_path: Path) -> None:
    with driver(binds=[place(kind, tmp_path)]) as bound, driver(connects=bound.addresses) as dialled:
        link = take(dialled).link
        dialled.submit(raw(dialled).say, link, [b""] * (MAX_FRAMES + 1), None)
        dialled.submit(raw(dialled).say, link, [b""] * MAX_FRAMES, None)
        assert take(bound).frames == [b""] * MAX_FRAMES
        assert bound.stats()["io_oversize_messages"] == 1


def test_a_wrong_kind_of_peer_and_garbage_are_counted_and_survived() -> None:
    pull = context().socket(zmq.PULL)
    pull.bind("tcp://127.0.0.1:*")
    where = pull.getsockopt_string(zmq.LAST_ENDPOINT)
    with pull, driver(binds=["tcp://127.0.0.1:0"]) as bound, driver(connects=[where]) as mistaken:
        port = int(bound.addresses[0].rpartition(":")[2])
        for garbage in (b"GET / HTTP/1.0\r\n\r\n", os.urandom(200), b"\xff" + b"\0" * 8 + b"\x7f" + b"\xff" * 100):
            with socket.create_connection(("127.0.0.1", port)) as stranger:
                stranger.sendall(garbage)
        with driver(connects=bound.addresses) as honest:
            honest.submit(raw(honest).say, take(honest).link, [ASK], None)
            assert take_until(honest, Heard).frames == [ANSWER]
        until(lambda: mistaken.stats()["io_handshakes_failed"] > 1)  # and is tried again
        assert len(mistaken.mailbox) == 0


def test_an_address_is_connected_until_its_last_user_leaves() -> None:
    with driver(binds=["tcp://127.0.0.1:0"]) as bound, driver() as dialled:
        address = bound.addresses[0]
        link = ("c", address)
        dialled.disconnect(address)  # unknown: ignored
        dialled.connect(address)
        dialled.connect(address)
        assert take(dialled) == Up(link)
        dialled.disconnect(address)
        dialled.submit(raw(dialled).say, link, [ASK], None)
        assert take(dialled) == Heard(link, [ANSWER])
        dialled.disconnect(address)
        assert take(dialled) == Down(link)
        dialled.submit(raw(dialled).say, link, [ASK], None)
        dialled.connect(address)
        assert take(dialled) == Up(link)
        assert dialled.stats()["io_sends_dropped"] == 1


@pytest.mark.parametrize("kind", ["tcp://127.0.0.1:0", "ipc", "inproc"])
def test_a_link_of_no_use_is_dialled_anew(kind: str, tmp_path: Path) -> None:
    with driver(binds=[place(kind, tmp_path)]) as bound, driver(connects=bound.addresses) as dialled:
        link = take(dialled).link
        dialled.submit(raw(dialled).say, link, [b"1"], None)
        first = take(bound).link
        dialled.submit(raw(dialled).drop, link)
        assert [take(dialled), take(dialled)] == [Down(link), Up(link)]
        dialled.submit(raw(dialled).say, link, [b"2"], None)
        second = take_until(bound, Heard).link
        assert second != first
        bound.submit(raw(bound).drop, second)  # a bound side forgets; nothing happens
        bound.submit(raw(bound).say, first, [b"gone"], None)
        assert take_until(bound, Down) == Down(first)


def test_a_peer_may_be_connected_before_it_is_bound(tmp_path: Path) -> None:
    for kind in ("ipc", "inproc"):
        address = place(kind, tmp_path)
        with driver(connects=[address]) as dialled, driver(binds=[address]) as bound:
            dialled.submit(raw(dialled).say, take(dialled).link, [ASK], None)
            assert take_until(dialled, Heard).frames == [ANSWER]
            assert take(bound).frames == [ASK]


def test_a_closed_peer_within_the_process_is_found_out_by_sending(tmp_path: Path) -> None:
    address = f"inproc://{tmp_path}"
    with driver(binds=[address]) as bound, driver(connects=[address]) as dialled:
        link = take(dialled).link
        assert bound.close(1)
        dialled.submit(raw(dialled).say, link, [b"anybody?"], None)
        assert take(dialled) == Down(link)
        with driver(binds=[address]) as again:
            assert take(dialled) == Up(link)
            dialled.submit(raw(dialled).say, link, [b"hello"], None)
            assert take(again).frames == [b"hello"]


@pytest.mark.parametrize("data", [False, True])
def test_a_stalled_hop_is_noticed_by_libzmqs_own_heartbeats(data: bool) -> None:
    """A proxy that goes silent without closing: no session is needed to see that the hop is dead."""
    heartbeat = Heartbeat(interval=0.1, liveness=3)
    binds = ["tcp://127.0.0.1:0"]
    binding = driver(binds=() if data else binds, data="XPUB", data_binds=binds if data else (), heartbeat=heartbeat)
    with binding as bound, socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        address = (bound.addresses + bound.data_addresses)[0]
        host, port = address.removeprefix("tcp://").split(":")
        dials = [f"tcp://127.0.0.1:{listening.getsockname()[1]}"]
        dialling = driver(
            connects=() if data else dials, data="XSUB", data_connects=dials if data else (), heartbeat=heartbeat
        )
        with dialling as dialled:
            near, _ = listening.accept()
            with near, socket.create_connection((host, int(port))) as far:
                near.setblocking(False)
                far.setblocking(False)
                deadline = time.monotonic() + PATIENCE_S
                while not len(dialled.mailbox):  # carry the handshake
                    assert time.monotonic() < deadline
                    for source, sink in ((near, far), (far, near)):
                        try:
                            sink.sendall(source.recv(65536))
                        except BlockingIOError:
                            dialled.wait_items(0.001)
                assert isinstance(take(dialled), Up)
                ping = b""
                while b"PING" not in ping:  # the first of libzmq's heartbeats: it tells the bound side how long to wait
                    assert time.monotonic() < deadline
                    with contextlib.suppress(BlockingIOError):
                        ping += near.recv(65536)
                far.sendall(ping)
                assert isinstance(take(dialled), Down)
                assert take_until(bound, Disturbed).group == ("d" if data else "b", address)
