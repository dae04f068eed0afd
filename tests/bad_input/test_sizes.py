"""What is too large, too many or never ends: memory stays bounded, measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

import zmqkit
from tests.bad_input.strangers import (
    HELLO,
    PATIENCE_S,
    PING,
    SETTLE,
    STATE,
    WELCOME,
    Dealer,
    Router,
    deliver,
    greeting,
    pack,
    unpack,
)
from tests.protocol.pair import Side
from zmqkit.protocol.handshake import MAX_SESSIONS

MB = 1 << 20

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc, to measure memory")


class Victim:
    """A peer in a process of its own, see `programs`."""

    def __init__(self, *args: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bad_input.programs", *args],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.address: str = self._read()["address"]
        self.work(20)
        self.before = int(self.stats()["most_memory"])

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the peer is dead: {self._process.wait()}"
        return json.loads(line)

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        found: dict[str, Any] = self._read()
        return found

    def stats(self) -> dict[str, Any]:
        return self._ask("stats")

    def work(self, jobs: int) -> None:
        """The honest peer does its work."""
        self._ask(f"work {jobs}")

    def until(self, counter: str, value: int) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while (found := self.stats()[counter]) < value:
            assert time.monotonic() < deadline, f"{counter} is {found}"
            time.sleep(0.01)

    @property
    def grown(self) -> int:
        """By how much its memory grew at its worst, in bytes."""
        return int(self.stats()["most_memory"]) - self.before

    def end(self) -> None:
        with self._process as process:
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(PATIENCE_S) == 0


@contextmanager
def victim(*args: str) -> Iterator[Victim]:
    made = Victim(*args)
    try:
        yield made
        made.work(50)
        assert made.stats()["io_core_errors"] == 0
    finally:
        made.end()


@pytest.mark.parametrize("kind", ["push", "pull"])
def test_frames_of_100_mb_never_arrive_and_end_their_connection(kind: str) -> None:
    huge = bytes(100 * MB)
    with victim(kind) as peer:
        for _ in range(3):
            with Dealer(peer.address, "push" if kind == "pull" else "pull") as stranger:
                stranger.enter()
                broken = peer.stats()["io_connections_broken"]
                stranger.say(huge)
                stranger.say(stranger.header(STATE), huge)
                peer.until("io_connections_broken", broken + 1)
        assert peer.stats()["frames_bad"] == 0
        assert peer.grown < 20 * MB


def test_a_frame_of_100_mb_from_an_address_that_we_dialled_never_arrives() -> None:
    with Router() as router, victim_of(router) as peer:
        guest = router.guest()
        guest.welcome("push")
        head, _ = deliver(["x"], lengths=[100 * MB])
        guest.data(head, bytes(100 * MB), messages=1)
        peer.until("io_connections_broken", 1)
        again = router.guest()
        again.welcome("push")
        assert router.settled(again)
        assert peer.stats()["links_lost"] == 1
        assert peer.grown < 20 * MB


@contextmanager
def victim_of(router: Router) -> Iterator[Victim]:
    with victim("pull", router.address) as made:
        yield made


def test_a_body_of_100_mb_is_refused_where_it_is_sent() -> None:
    with zmqkit.Pusher("tcp://127.0.0.1:*", linger=0) as push:
        with pytest.raises(zmqkit.EncodeError, match="more than the 67043328 that fit into a frame"):
            push.send(bytes(100 * MB))
        assert push.stats()["sent"] == 0


def test_jobs_as_large_as_a_frame_take_the_memory_of_the_credit_and_no_more() -> None:
    """A pusher that sends as fast as it can: what it lends is bounded by the credit in bytes, 64 MB and a message."""
    with victim("pull") as peer, Dealer(peer.address, "push") as stranger:
        stranger.enter()
        for lease in range(1, 4):
            stranger.data(*deliver([bytes(30 * MB)], lease=lease), messages=1)
        for lease in range(4, 40):
            stranger.data(*deliver([bytes(MB)], lease=lease), messages=1)
        peer.until("credit_exceeded", 1)
        assert peer.grown < 400 * MB


@pytest.mark.parametrize("kind", ["push", "pull"])
def test_a_flood_of_garbage_fills_no_memory(kind: str) -> None:
    """300,000 messages as fast as a socket can; they were 25 MB in the queue of libzmq alone."""
    with victim(kind) as peer, Dealer(peer.address, "pull") as stranger:
        for _ in range(300_000):
            stranger._socket.send(b"\xc1")
        peer.until("links_expelled", 1)
        peer.work(50)
        assert peer.stats()["frames_bad"] < 300_000
        assert peer.grown < 40 * MB


def test_who_asks_and_never_reads_fills_no_memory() -> None:
    with victim("push") as peer:
        context = zmq.Context()
        deaf = context.socket(zmq.DEALER)
        deaf.setsockopt(zmq.LINGER, 0)
        deaf.setsockopt(zmq.RCVHWM, 1)
        deaf.setsockopt(zmq.RCVBUF, 4096)
        deaf.setsockopt(zmq.SNDHWM, 1000)
        deaf.setsockopt(zmq.SNDTIMEO, 1000)
        deaf.connect(peer.address)
        said = greeting("push")  # the wrong role: each is answered
        refused = 0
        try:
            for _ in range(20_000):
                deaf.send(pack([HELLO, said]))
            peer.until("links_expelled", 1)
        except zmq.Again:
            pass  # thrown out, and not back in yet
        finally:
            refused = peer.stats()["handshakes_refused"]
            deaf.close(0)
            context.term()
        assert 100 <= refused < 20_000
        assert peer.grown < 40 * MB


def test_thousands_of_sessions_take_bounded_memory_and_keep_nobody_waiting() -> None:
    """Each HELLO is large, holds what takes the most memory, and asks to be pinged a hundred times a second."""
    count = 600
    about = {"x": [{}] * 10_000, "y": [[]] * 10_000, "z": b"z" * 10_000}
    with victim("push") as peer, Dealer(peer.address, "pull") as crowd:
        host = peer.address[len("tcp://") :]
        for number in range(1, count):
            crowd._socket.connect(f"tcp://127.1.{number >> 8}.{number & 255}:0;{host}")  # connections of their own
        for _ in range(count):
            crowd.say(pack([HELLO, greeting("pull", about=about, heartbeat=[0.01, 1000], name="n" * 1000)]))
        for _ in range(count):
            crowd.answer(WELCOME)
        assert peer.stats()["sessions_opened"] == count + 1
        peer.work(200)
        with Dealer(peer.address, "pull") as late:
            late.enter()
        assert peer.stats()["sessions_opened"] == count + 2
        assert peer.grown < 100 * MB


def test_strangers_that_ask_for_many_pings_share_them() -> None:
    """By the clock of the test: a thousand of them announce an interval of 10 ms."""
    side = Side("b")
    for number in range(1000):
        said = greeting("echo", session=number.to_bytes(8, "big"), heartbeat=[0.01, 1000])
        side.sessions.receive_message(("b", "x", number), [pack([HELLO, said])], 0.0)
    side.out.sends.clear()
    while (due := side.sessions.next_deadline()) is not None and due <= 2.0:
        side.sessions.handle_timer(due)
        for session in list(side.sessions):
            side.sessions.owe(session, True, due)
    pings = [unpack(frames[0])[0] for _, frames in side.out.sends].count(PING)
    assert 2000 <= pings <= 4500


def test_more_sessions_than_the_limit_are_refused_by_name() -> None:
    """Without a wire, for ten thousand connections are not to be had everywhere."""
    side = Side("b")
    for number in range(MAX_SESSIONS + 5):
        said = greeting("echo", session=number.to_bytes(8, "big"), instance=number.to_bytes(16, "big"))
        side.sessions.receive_message(("b", "x", number), [pack([HELLO, said])], 0.0)
    assert len(side.sessions) == MAX_SESSIONS
    assert side.counters["handshakes_refused"] == 5
    answers = [unpack(frames[0])[:2] for _, frames in side.out.sends]
    assert answers[-5:] == [[3, "full"]] * 5


def test_a_head_that_claims_a_million_jobs_takes_its_own_size() -> None:
    with victim("pull") as peer, Dealer(peer.address, "push") as stranger:
        stranger.enter()
        head, _ = deliver([], lengths=[0] * (1 << 20))
        for _ in range(5):
            stranger.data(head, b"", messages=1 << 20)
            stranger.session = b""
            stranger.enter()
            stranger.sent = stranger.heard = 0
        stranger.data(head, b"", messages=0)
        stranger.settled()
        found = peer.stats()
        assert (found["credit_exceeded"], found["frames_bad"]) == (5, 1)
        assert peer.grown < 60 * MB


def test_a_flood_of_settles_that_settle_nothing_keeps_nobody_waiting() -> None:
    with victim("push") as peer, Dealer(peer.address, "pull") as stranger:
        stranger.enter()
        epoch = stranger.welcome["about"]["epoch"]
        for _ in range(20):
            stranger.data([SETTLE, epoch, list(range(1, 131_073)), [], 0])
        stranger.settled()
        assert peer.stats()["settles_stale"] == 20 * 65_536
        assert peer.grown < 250 * MB
