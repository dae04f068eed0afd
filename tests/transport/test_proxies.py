"""The steerable proxy itself: pausing, counting, and a loop that is blocked in C."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from zmqkit.errors import AddressInUse, Closed
from zmqkit.transport.context import context
from zmqkit.transport.outlets import PAIRS, Outlet
from zmqkit.transport.proxies import SteeredProxy

LOOPBACK = ("tcp://127.0.0.1:*",)
WAIT_MS = 5_000
LARGE = 1 << 26


def outlet(kind: str, messages: int = 1000, binds: tuple[str, ...] = LOOPBACK) -> Outlet:
    return Outlet(kind, binds, (), messages, LARGE)


@contextlib.contextmanager
def proxied(frontend: Outlet, backend: Outlet, *, paused: bool = False) -> Iterator[SteeredProxy]:
    proxy = SteeredProxy("test", frontend, backend)
    proxy.open(paused=paused)
    try:
        yield proxy
    finally:
        proxy.close(0)
        assert proxy.ended.done


@contextlib.contextmanager
def plain(kind: int, address: str, **options: int) -> Iterator[zmq.Socket[bytes]]:
    socket = context().socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDTIMEO, WAIT_MS)
    for name, value in options.items():
        socket.setsockopt(getattr(zmq, name), value)
    socket.connect(address)
    try:
        yield socket
    finally:
        socket.close(0)


def received(socket: zmq.Socket[bytes]) -> list[bytes]:
    assert socket.poll(WAIT_MS), "nothing came"
    return socket.recv_multipart()


def until_blocked(push: zmq.Socket[bytes], size: int) -> int:
    """Push numbered messages until there is no more room on the way."""
    count = 0
    push.setsockopt(zmq.SNDTIMEO, 300)
    with contextlib.suppress(zmq.Again):
        while True:
            push.send(b"%08d" % count + bytes(size))
            count += 1
    return count


def test_a_proxy_forwards_frames_as_they_are_and_counts_them() -> None:
    with (
        proxied(outlet("PULL"), outlet("PUSH")) as proxy,
        plain(zmq.PUSH, proxy.addresses(0)[0]) as push,
        plain(zmq.PULL, proxy.addresses(1)[0]) as pull,
    ):
        for frames in ([b"a", b"", b"bcd"], [b""], [b"e" * 100]):
            push.send_multipart(frames)
            assert received(pull) == frames
        assert proxy.counters() == (5, 104, 0, 0, 0, 0, 5, 104)


def test_counters_add_up_over_pauses_and_stay_after_the_end() -> None:
    with (
        proxied(outlet("PULL"), outlet("PUSH")) as proxy,
        plain(zmq.PUSH, proxy.addresses(0)[0]) as push,
        plain(zmq.PULL, proxy.addresses(1)[0]) as pull,
    ):
        for round_ in range(1, 6):
            push.send(b"ten bytes.")
            received(pull)
            proxy.pause()
            assert proxy.counters() == (round_, 10 * round_, 0, 0, 0, 0, round_, 10 * round_)
            proxy.resume()
    assert proxy.counters()[:2] == (5, 50)


def test_nothing_passes_a_paused_proxy_and_nothing_is_lost() -> None:
    with (
        proxied(outlet("PULL"), outlet("PUSH")) as proxy,
        plain(zmq.PUSH, proxy.addresses(0)[0]) as push,
        plain(zmq.PULL, proxy.addresses(1)[0]) as pull,
    ):
        push.send(b"before")
        assert received(pull) == [b"before"]
        proxy.pause()
        for at in range(500):
            push.send(b"%d" % at)
        assert not pull.poll(200)
        proxy.resume()
        assert [received(pull) for _ in range(500)] == [[b"%d" % at] for at in range(500)]


def test_a_proxy_that_is_paused_again_and_again_under_load_loses_nothing_and_keeps_the_order() -> None:
    total = 20_000
    with (
        proxied(outlet("PULL"), outlet("PUSH")) as proxy,
        plain(zmq.PUSH, proxy.addresses(0)[0]) as push,
        plain(zmq.PULL, proxy.addresses(1)[0]) as pull,
    ):
        sender = threading.Thread(target=lambda: [push.send(b"%d" % at) for at in range(total)])
        sender.start()
        for at in range(total):
            if at % 1000 == 500:
                proxy.pause()
                proxy.resume()
            assert received(pull) == [b"%d" % at]
        sender.join(10)
        proxy.pause()
        assert proxy.counters()[0] == proxy.counters()[6] == total


def test_a_proxy_that_is_blocked_in_the_middle_of_a_burst_pauses_and_resumes_without_loss() -> None:
    size = 10_000
    with (
        proxied(outlet("PULL", 1000), outlet("PUSH", 10)) as proxy,
        plain(zmq.PUSH, proxy.addresses(0)[0], SNDHWM=10) as push,
        plain(zmq.PULL, proxy.addresses(1)[0], RCVHWM=1, RCVBUF=4096) as pull,
    ):
        count = until_blocked(push, size)
        proxy.pause()
        proxy.resume()
        proxy.pause()
        counted = proxy.counters()
        proxy.resume()
        assert [received(pull)[0][:8] for _ in range(count)] == [b"%08d" % at for at in range(count)]
        assert counted[0] == counted[6]  # what is held for later is counted as sent, once
        proxy.pause()
        assert proxy.counters()[6] == count


def test_a_proxy_whose_backend_is_stuck_takes_another_connection_and_goes_on_there() -> None:
    with (
        proxied(outlet("PULL", 100), outlet("PUSH", 10)) as proxy,
        plain(zmq.PUSH, proxy.addresses(0)[0], SNDHWM=10) as push,
        plain(zmq.PULL, proxy.addresses(1)[0], RCVHWM=1, RCVBUF=4096) as stuck,
    ):
        count = until_blocked(push, 10_000)
        fresh = context().socket(zmq.PULL)
        try:
            fresh.bind("tcp://127.0.0.1:*")
            proxy.connect(1, fresh.getsockopt_string(zmq.LAST_ENDPOINT))
            first = received(fresh)
            assert int(first[0][:8]) > 0
        finally:
            fresh.close(0)
        assert int(received(stuck)[0][:8]) == 0
        assert count > 0


def test_a_blocked_proxy_ends_in_bounded_time() -> None:
    with (
        proxied(outlet("PULL", 1000), outlet("PUSH", 10)) as proxy,
        plain(zmq.PUSH, proxy.addresses(0)[0], SNDHWM=10) as push,
        plain(zmq.PULL, proxy.addresses(1)[0], RCVHWM=1, RCVBUF=4096),
    ):
        until_blocked(push, 10_000)
        assert len(proxy.counters()) == 8


def test_an_address_can_be_bound_again_as_soon_as_the_proxy_is_closed() -> None:
    with proxied(outlet("ROUTER"), outlet("DEALER")) as proxy:
        front, back = proxy.addresses(0), proxy.addresses(1)
    for _ in range(20):
        with proxied(outlet("ROUTER", binds=front), outlet("DEALER", binds=back)) as proxy:
            assert (proxy.addresses(0), proxy.addresses(1)) == (front, back)


def test_an_address_in_use_is_told_and_nothing_is_left_open() -> None:
    with proxied(outlet("PULL"), outlet("PUSH")) as first:
        taken = first.addresses(1)
        second = SteeredProxy("second", outlet("PULL"), outlet("PUSH", binds=taken))
        with pytest.raises(AddressInUse, match=taken[0]):
            second.open()
        threads = {thread.name for thread in threading.enumerate()}
        assert "zmqkit-proxy-second" not in threads


def test_a_path_that_somebody_listens_at_is_not_taken_away(tmp_path: Path) -> None:
    path = f"ipc://{tmp_path}/socket"
    second = SteeredProxy("second", outlet("PULL"), outlet("PUSH", binds=(path,)))
    with (
        proxied(outlet("PULL", binds=(path,)), outlet("PUSH")),
        pytest.raises(AddressInUse, match="another process is bound there"),
    ):
        second.open()


def test_a_closed_proxy_takes_no_more_orders() -> None:
    with proxied(outlet("PULL"), outlet("PUSH")) as proxy:
        proxy.close(0)
        proxy.close(0)
        proxy.begin_close()
        for order in (proxy.pause, proxy.resume, lambda: proxy.connect(0, "tcp://127.0.0.1:9")):
            with pytest.raises(Closed, match="test"):
                order()


def test_what_is_subscribed_while_it_is_paused_holds_when_it_goes_on() -> None:
    with (
        proxied(outlet("XSUB"), outlet("XPUB")) as proxy,
        plain(zmq.XPUB, proxy.addresses(0)[0]) as publisher,
        plain(zmq.SUB, proxy.addresses(1)[0]) as subscriber,
    ):
        proxy.pause()
        subscriber.subscribe(b"a")
        assert received(publisher) == [b"\x01a"]
        publisher.send_multipart([b"a", b"1"])
        assert not subscriber.poll(100)
        proxy.resume()
        assert received(subscriber) == [b"a", b"1"]


@pytest.mark.parametrize("kinds", sorted(PAIRS), ids="-".join)
def test_each_pair_of_sockets_opens_pauses_and_ends(kinds: tuple[str, str]) -> None:
    with proxied(outlet(kinds[0]), outlet(kinds[1])) as proxy:
        proxy.pause()
        proxy.resume()
        assert proxy.counters() == (0,) * 8


def test_sockets_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ValueError, match="no proxy stands between PULL and PULL"):
        SteeredProxy("test", outlet("PULL"), outlet("PULL"))


def test_a_forked_child_lets_go_of_the_ports() -> None:
    proxy = SteeredProxy("test", outlet("PULL"), outlet("PUSH"))
    proxy.open()
    (told, tell), (end, ending) = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.close(ending)
        os.write(tell, b"x")  # whatever runs at a fork has run
        os.read(end, 1)  # until the parent has seen what it wants to see
        os._exit(0)
    try:
        assert os.read(told, 1)
        address = proxy.addresses(0)
        proxy.close(0)
        with proxied(outlet("PULL", binds=address), outlet("PUSH")) as again:
            assert again.addresses(0) == address
    finally:
        for each in (ending, end, told, tell):
            os.close(each)
        assert os.waitpid(child, 0)[1] == 0
