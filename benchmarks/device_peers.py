"""What stands in front of devices, behind them, and in their place, for benchmarks/devices.py: each in a process.

Every function here runs in a process of its own and speaks with the benchmark through a pipe, until it is killed.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import time
from collections.abc import Callable, Iterator
from typing import Any

import zmq

import zmqkit

Pipe = multiprocessing.connection.Connection

ANY = "tcp://127.0.0.1:*"
SYNC, END = b"s", b"e"
HIGH_WATER_MARK = 1_000_000
"""Of all plain sockets here and on both sides of plain devices: no publisher drops in floods of fewer messages."""

IN_FLIGHT = 100
SYNC_PAUSE_S = 0.001


@contextlib.contextmanager
def process(run: Callable[..., None], *args: Any) -> Iterator[tuple[Pipe, int]]:
    """Run it in a process of its own; gives the pipe to it, and its id."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=run, args=(theirs, *args), daemon=False)
    child.start()
    try:
        theirs.close()  # so that we see its end if it dies
        assert child.pid is not None
        yield ours, child.pid
    finally:
        child.kill()
        child.join()


def heard(pipe: Pipe, seconds: float = 120.0) -> Any:
    """What the process says next."""
    if not pipe.poll(seconds):
        raise TimeoutError("a process of the benchmark says nothing")
    return pipe.recv()


def made(kind: int, context: zmq.Context[zmq.Socket[bytes]] | None = None) -> zmq.Socket[bytes]:
    """A plain socket, of a context of its own unless there is one."""
    socket = (context or zmq.Context()).socket(kind)
    socket.set_hwm(HIGH_WATER_MARK)
    socket.setsockopt(zmq.LINGER, 0)
    return socket


# ---- plain -------------------------------------------------------------------------


def blind(pipe: Pipe, front: int, back: int, steered: bool = False) -> None:
    """ZeroMQ's own proxy, or its own steerable one, which nobody steers."""
    context = zmq.Context()  # one for both, as a device has
    sockets = made(front, context), made(back, context)
    for socket in sockets:
        socket.bind(ANY)
    pipe.send([socket.getsockopt_string(zmq.LAST_ENDPOINT) for socket in sockets])
    if not steered:
        zmq.proxy(*sockets)
    with context.socket(zmq.PAIR) as control:
        control.bind("inproc://control")
        zmq.proxy_steerable(*sockets, None, control)


def flood(pipe: Pipe) -> None:
    """PUSH or PUB: told (kind, address, count, size), sends so many, and an end. PUB begins when the other is there."""
    while True:
        kind, address, count, size = pipe.recv()
        socket = made(kind)
        socket.connect(address)
        while kind == zmq.PUB and not pipe.poll(SYNC_PAUSE_S):
            socket.send(SYNC)
        if kind == zmq.PUB:
            pipe.recv()
        body = b"x" * size
        send = socket.send
        began = time.perf_counter()
        for _ in range(count):
            send(body)
        send(END)
        pipe.send(time.perf_counter() - began)
        pipe.recv()  # all has come
        socket.close()


def worker(pipe: Pipe) -> None:
    """REP: told an address, answers what comes, until it is told the next one."""
    address = pipe.recv()
    while True:
        socket = made(zmq.REP)
        socket.connect(address)
        pipe.send(None)
        while not pipe.poll(0):
            if socket.poll(50):
                socket.send(socket.recv())
        address = pipe.recv()
        socket.close()


def stopped(pipe: Pipe, kind: int, address: str) -> None:
    """PULL or SUB that reads nothing."""
    socket = made(kind)
    socket.setsockopt(zmq.RCVHWM, 1000)
    if kind == zmq.SUB:
        socket.subscribe(b"")
    socket.connect(address)
    pipe.send(None)
    time.sleep(3600)


# ---- zmqkit --------------------------------------------------------------------------


def server(pipe: Pipe, address: str | None) -> None:
    """A server with one short method: bound, or behind a device."""
    peer = zmqkit.Server(ANY) if address is None else zmqkit.Server(connect=address)

    @peer.method
    def echo(body: Any) -> Any:
        return body

    with peer:
        pipe.send(peer.addresses[0] if address is None else None)
        peer.run()


def puller(pipe: Pipe, address: str) -> None:
    """Takes batches, and acks them."""
    with zmqkit.Puller(address, prefetch=10_000) as pull:
        pipe.send(None)
        for batch in pull.batches(1000):
            with batch:
                pass


def subscriber(pipe: Pipe, address: str) -> None:
    """Told a count, says when so many have come since, and how long they took."""
    limits = zmqkit.Limits(queued_messages=HIGH_WATER_MARK)  # so that none of a flood is fetched again
    with zmqkit.Subscriber(address, topics="t", limits=limits) as sub:
        pipe.send(None)
        while True:
            if sub.receive().body == "sync":
                pipe.send(None)
                break
        while True:
            count = pipe.recv()
            pipe.send(None)
            for _ in range(count):
                while not isinstance(sub.receive().body, dict):
                    pass  # a late sync
            pipe.send(time.perf_counter())
