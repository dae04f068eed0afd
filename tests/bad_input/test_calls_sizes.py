"""Calls and connections that are too large, too many, or never end: a server's memory stays bounded, in a process of
its own, and the honest client there makes all its calls."""

from __future__ import annotations

import contextlib
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from tests.bad_input.calls import Caller, arguments, call
from tests.bad_input.strangers import HELLO, PING, WELCOME, greeting, pack, unpack
from tests.bad_input.test_connections import GREETING
from tests.bad_input.test_sizes import MB, Victim, victim

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc, to measure memory")

CONNECTIONS = 2_000


@contextlib.contextmanager
def descriptors(count: int) -> Iterator[None]:
    """So many more can be had, by this process and by those that it starts; else the test is skipped by name."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"RLIMIT_NOFILE allows {hard} descriptors, and this takes {count}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def strangers(peer: Victim, stack: contextlib.ExitStack, said: bytes) -> None:
    port = int(peer.address.rpartition(":")[2])
    for number in range(CONNECTIONS):
        each = stack.enter_context(socket.create_connection(("127.0.0.1", port), 20))
        each.sendall(said)
        if not number % 500:
            peer.work(20)


@pytest.mark.slow
@pytest.mark.parametrize("said", [b"", GREETING[:20], GREETING], ids=["nothing", "half a greeting", "a greeting"])
def test_thousands_of_connections_that_never_speak_keep_nobody_waiting(said: bytes) -> None:
    with descriptors(CONNECTIONS + 500), victim("server") as peer, contextlib.ExitStack() as stack:
        strangers(peer, stack, said)
        began = time.monotonic()
        peer.work(200)
        assert time.monotonic() - began < 10
        found = peer.stats()
        assert (found["sessions_opened"], found["calls_refused_other"], found["frames_bad"]) == (1, 0, 0)
        assert peer.grown < 100 * MB
        stack.close()
        peer.work(200)


def test_frames_of_100_mb_never_arrive_and_end_their_connection() -> None:
    huge = bytes(100 * MB)
    with victim("server") as peer:
        for _ in range(2):
            with Caller(peer.address) as stranger:
                stranger.enter()
                broken = peer.stats()["io_connections_broken"]
                stranger.say(huge)
                stranger.data([stranger.epoch, 0, [[*call(1)[:2], -1, *call(1)[3:]]]], huge, messages=1)
                peer.until("io_connections_broken", broken + 1)
        found = peer.stats()
        assert (found["frames_bad"], found["calls_received"]) == (0, 20)
        assert peer.grown < 20 * MB


def test_arguments_as_large_as_a_frame_take_the_memory_of_the_credit_and_no_more() -> None:
    with victim("server") as peer, Caller(peer.address) as stranger:
        stranger.enter()
        body = pack([[bytes(30 * MB)], {}])
        for at in range(1, 4):
            record = call(at, "echo")
            record[2] = -1
            stranger.data([stranger.epoch, 0, [record]], body, messages=1)
        peer.until("credit_exceeded", 1)
        assert peer.grown < 300 * MB


def test_a_client_that_never_reads_its_replies_is_sent_a_bounded_part_of_them() -> None:
    """It gets what half of the limit holds; then its calls are refused, and it is heard no more."""
    with victim("server") as peer, Caller(peer.address) as stranger:
        stranger.enter()
        for at in range(1, 401):
            stranger.tell(call(at, "fill"), bodies=(arguments(MB),))
        peer.until("calls_received", 420)
        peer.work(100)
        deadline = time.monotonic() + 20
        while True:
            found = peer.stats()
            if found["calls_executed"] + found["calls_refused_overloaded"] >= 520:
                break
            assert time.monotonic() < deadline, found
            time.sleep(0.05)
        assert found["calls_executed"] - 120 < 60
        assert found["calls_refused_overloaded"] > 300
        assert peer.grown < 200 * MB


def test_a_client_that_grants_without_end_and_never_reads_is_sent_a_bounded_part_of_a_stream() -> None:
    with victim("server") as peer, Caller(peer.address) as stranger:
        stranger.enter()
        stranger.tell(call(1, "rows", items=2**62), bodies=(arguments(MB // 4),))
        peer.until("items_sent", 10)
        before = -1
        while before < (sent := int(peer.stats()["items_sent"])):
            before = sent
            time.sleep(0.5)
        assert sent < 400
        assert peer.grown < 200 * MB


def test_a_deaf_client_that_floods_calls_for_nothing_fills_no_memory() -> None:
    with victim("server") as peer:
        context = zmq.Context()
        deaf = context.socket(zmq.DEALER)
        for option, value in ((zmq.LINGER, 0), (zmq.RCVHWM, 1), (zmq.RCVBUF, 4096), (zmq.SNDHWM, 1000)):
            deaf.setsockopt(option, value)
        deaf.setsockopt(zmq.SNDTIMEO, 1000)
        deaf.connect(peer.address)
        said = greeting("client")
        deaf.send(pack([HELLO, said]))
        assert deaf.poll(20_000)
        try:
            kind, told = unpack(deaf.recv_multipart()[0])
            assert kind == WELCOME
            body = arguments(1)
            for at in range(1, 60_001, 100):
                records = [call(n, "x" * 200, len(body)) for n in range(at, at + 100)]
                frames = [pack([told["about"]["epoch"], 0, records]), body * 100]
                deaf.send_multipart([pack([5, said["session"], 0, 0, 0, at // 100 + 1, 100]), *frames])
        except zmq.Again:
            pass  # thrown out, and not back in
        finally:
            peer.work(100)
            deaf.close(0)
            context.term()
        assert peer.grown < 100 * MB


def test_pings_without_end_are_answered_and_keep_nobody_waiting() -> None:
    with victim("server") as peer, Caller(peer.address) as stranger:
        stranger.enter()
        for number in range(20_000):
            stranger.say(stranger.header(PING, number + 1000, stranger.sent))
        peer.work(100)
        assert peer.grown < 60 * MB
