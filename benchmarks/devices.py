"""Devices: what one costs, beside ``zmq.proxy`` and beside no device. Processes, loopback TCP, bodies of 100 bytes.

Run it with ``python -m benchmarks.devices [--messages N] [--calls N] [--rounds N] [--only WORD]``. Rows:

- *plain*: plain peers through Queue, Forwarder and Streamer, which can be paused and asked, beside ``zmq.proxy``.
- *sessions*: calls, pipelines and publish-subscribe of zmqkit peers through a device, beside the same without one.
- *price*: what statistics, a pause, a forwarder for both kinds of subscribers, and custody cost.
- *restart*: from SIGKILL of a device's process until its successor has carried a message.
- *memory*: a device's process while who is behind it reads nothing.

Rounds alternate, medians are quoted; each device is in a process of its own. What counts are the ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import signal
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import zmq

import zmqkit
from benchmarks import places
from benchmarks.device_peers import (
    ANY,
    END,
    HIGH_WATER_MARK,
    IN_FLIGHT,
    SYNC,
    Pipe,
    blind,
    flood,
    heard,
    made,
    process,
    puller,
    server,
    stopped,
    subscriber,
    worker,
)
from zmqkit.devices import Device, DeviceProcess, Forwarder, Queue, Streamer

BODY = {"n": 12345, "text": "x" * 70, "ok": True, "price": 1.5}
LIMITS = zmqkit.Limits(queued_messages=HIGH_WATER_MARK)
PAIRS: dict[type[Device], tuple[int, int]] = {
    Queue: (zmq.ROUTER, zmq.DEALER),
    Forwarder: (zmq.XSUB, zmq.XPUB),
    Streamer: (zmq.PULL, zmq.PUSH),
}
PATIENCE_MS = 60_000
DIRECT = "direct"

Ends = tuple[str, str]
"""The addresses of a device: frontend, backend."""


def row(name: str, value: str, ratio: str = "") -> None:
    """One line of the table."""
    print(f"{name:<58}{value:>20}{ratio:>20}", flush=True)


@contextlib.contextmanager
def device(kind: type[Device], *sides: str, **given: Any) -> Iterator[tuple[Ends, DeviceProcess]]:
    """A device in a process, and its addresses."""
    with DeviceProcess(kind, *(sides or (ANY, ANY)), **given) as running:
        yield (running.frontend_addresses[0], running.backend_addresses[0]), running


def alternate(rounds: int, ways: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Medians of rounds in which each has its turn; one round before is not counted."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, measure in ways.items():
            value = measure()
            if number:
                found[name].append(value)
    return {name: statistics.median(each) for name, each in found.items()}


# ---- plain peers -------------------------------------------------------------------


def stream(pipe: Pipe, ends: Ends, kinds: tuple[int, int], count: int, size: int = 100) -> float:
    """Messages a second that come through, from the first to the end."""
    source, sink = kinds
    with made(sink) as socket:
        if sink == zmq.SUB:
            socket.subscribe(b"")
        socket.connect(ends[1])
        pipe.send((source, ends[0], count, size))
        receive = socket.recv
        socket.setsockopt(zmq.RCVTIMEO, PATIENCE_MS)
        if sink == zmq.SUB:
            while receive() != SYNC:
                pass
            pipe.send(None)
        while (body := receive()) == SYNC:
            pass
        began = time.perf_counter()
        came = 1
        while body != END:
            body = receive()
            came += 1
        took = time.perf_counter() - began
        heard(pipe)
        pipe.send(None)
        if came != count + 1:
            raise RuntimeError(f"{count + 1 - came} messages were dropped: send fewer than {HIGH_WATER_MARK}")
        return count / took


def requests(pipe: Pipe, ends: Ends, count: int) -> float:
    """Requests a second of one DEALER with some in flight."""
    pipe.send(ends[1])
    heard(pipe)
    with made(zmq.DEALER) as socket:
        socket.connect(ends[0])
        socket.setsockopt(zmq.RCVTIMEO, PATIENCE_MS)
        request = [b"", b"x" * 100]
        socket.send_multipart(request)
        socket.recv_multipart()
        began = time.perf_counter()
        for _ in range(IN_FLIGHT):
            socket.send_multipart(request)
        for _ in range(count - IN_FLIGHT):
            socket.recv_multipart()
            socket.send_multipart(request)
        for _ in range(IN_FLIGHT):
            socket.recv_multipart()
        return count / (time.perf_counter() - began)


def alone(pipe: Pipe, ends: Ends | None, count: int) -> float:
    """Requests a second of one DEALER, one at a time; None: straight to the worker."""
    with made(zmq.DEALER) as socket:
        socket.setsockopt(zmq.RCVTIMEO, PATIENCE_MS)
        if ends is None:
            socket.bind(ANY)
            pipe.send(socket.getsockopt_string(zmq.LAST_ENDPOINT))
        else:
            pipe.send(ends[1])
            socket.connect(ends[0])
        heard(pipe)
        began = time.perf_counter()
        for _ in range(count):
            socket.send_multipart([b"", b"x" * 100])
            socket.recv_multipart()
        return count / (time.perf_counter() - began)


def plain(messages: int, calls: int, rounds: int) -> None:
    """Each device beside ``zmq.proxy`` between the same kinds of sockets."""
    with process(flood) as (source, _), process(worker) as (workers, _):
        measures: dict[type[Device], Callable[[Ends], float]] = {
            Streamer: lambda ends: stream(source, ends, (zmq.PUSH, zmq.PULL), messages),
            Forwarder: lambda ends: stream(source, ends, (zmq.PUB, zmq.SUB), messages),
            Queue: lambda ends: requests(workers, ends, calls),
        }
        for kind, measure in measures.items():
            with (
                device(kind, plain=True, limits=LIMITS) as (ours, _),
                process(blind, *PAIRS[kind]) as (pipe, _),
                process(blind, *PAIRS[kind], True) as (steered_pipe, _),
            ):
                theirs, steered = heard(pipe), heard(steered_pipe)
                ends = {"proxy": theirs, "steerable": steered, "device": ours}
                speeds = alternate(rounds, {name: partial(measure, each) for name, each in ends.items()})
                if kind is Queue:
                    ways = {DIRECT: None, "zmq.proxy": theirs, "Queue": ours}
                    one = alternate(
                        rounds,
                        {name: lambda ends=ends: alone(workers, ends, calls // 10) for name, ends in ways.items()},  # type: ignore[misc]
                    )
                    tell_ratio("plain, one request at a time", "requests/s", one)
            unit = "requests/s" if kind is Queue else "messages/s"
            row(f"plain, zmq.proxy {unit}, as a {kind.__name__.lower()}", f"{speeds['proxy']:,.0f}")
            for name, shown in (("steerable", "zmq.proxy_steerable"), ("device", kind.__name__)):
                ratio = speeds[name] / speeds["proxy"]
                row(f"plain, {shown}", f"{speeds[name]:,.0f}", f"{ratio:.2f} x zmq.proxy")


# ---- zmqkit peers ------------------------------------------------------------------


def one_by_one(client: zmqkit.Client, count: int) -> float:
    """Calls a second, one at a time."""
    began = time.perf_counter()
    for _ in range(count):
        client.call("echo", BODY)
    return count / (time.perf_counter() - began)


def many(client: zmqkit.Client, count: int) -> float:
    """Calls a second, some in flight."""
    waiting: deque[zmqkit.Reply[Any]] = deque()
    began = time.perf_counter()
    for _ in range(count):
        if len(waiting) == IN_FLIGHT:
            waiting.popleft().result()
        waiting.append(client.submit("echo", BODY))
    for reply in waiting:
        reply.result()
    return count / (time.perf_counter() - began)


def pushed(push: zmqkit.Pusher, count: int) -> float:
    """Messages a second, until all are settled."""
    began = time.perf_counter()
    push.send_many(BODY for _ in range(count))
    push.flush()
    return count / (time.perf_counter() - began)


def settled_behind(push: zmqkit.Pusher, running: DeviceProcess, count: int) -> float:
    """The same through custody: until all are settled behind it, too."""
    before = running.stats()["acked"]
    began = time.perf_counter()
    push.send_many(BODY for _ in range(count))
    push.flush()
    while running.stats()["acked"] < before + count:
        time.sleep(0.005)
    return count / (time.perf_counter() - began)


def synced(pub: zmqkit.Publisher, pipe: Pipe) -> None:
    """Publish until the subscriber has begun."""
    heard(pipe)
    while not pipe.poll(0.01):
        pub.publish("t", "sync")
    heard(pipe)


def published(pub: zmqkit.Publisher, pipe: Pipe, count: int) -> float:
    """Messages a second, until the subscriber has them."""
    pipe.send(count)
    heard(pipe)
    began = time.perf_counter()
    pub.publish_many(("t", BODY) for _ in range(count))
    ended: float = heard(pipe)
    return count / (ended - began)


def sessions(messages: int, calls: int, rounds: int) -> None:
    """Through a switch, and without one."""
    with contextlib.ExitStack() as stack:
        ends, _ = stack.enter_context(device(Queue, plain=False))
        clients = {}
        for name, behind in ((DIRECT, None), ("Queue", ends[1])):
            pipe, _ = stack.enter_context(process(server, behind))
            address = heard(pipe) or ends[0]
            clients[name] = stack.enter_context(zmqkit.Client(address, timeout=60))
            clients[name].call("echo", BODY)
        speeds = alternate(rounds, {n: lambda c=c: one_by_one(c, calls // 10) for n, c in clients.items()})  # type: ignore[misc]
        tell_ratio("sessions, calls one at a time", "calls/s", speeds)
        speeds = alternate(rounds, {n: lambda c=c: many(c, calls) for n, c in clients.items()})  # type: ignore[misc]
        tell_ratio(f"sessions, calls, {IN_FLIGHT} in flight", "calls/s", speeds)
    with contextlib.ExitStack() as stack:
        ends, _ = stack.enter_context(device(Streamer, plain=False))
        pushers = {
            DIRECT: stack.enter_context(zmqkit.Pusher(ANY)),
            "Streamer": stack.enter_context(zmqkit.Pusher(connect=ends[0])),
        }
        for address in (pushers[DIRECT].addresses[0], ends[1]):
            pipe, _ = stack.enter_context(process(puller, address))
            heard(pipe)
        speeds = alternate(rounds, {n: lambda p=p: pushed(p, messages) for n, p in pushers.items()})  # type: ignore[misc]
        tell_ratio("sessions, pipeline in batches", "messages/s", speeds)
    with contextlib.ExitStack() as stack:
        ends, _ = stack.enter_context(device(Forwarder, plain=False))
        publishers = {
            DIRECT: stack.enter_context(zmqkit.Publisher(ANY, history=HIGH_WATER_MARK)),
            "Forwarder": stack.enter_context(zmqkit.Publisher(connect=ends[0], history=HIGH_WATER_MARK)),
        }
        pipes = {}
        for name, address in ((DIRECT, publishers[DIRECT].addresses[0]), ("Forwarder", ends[1])):
            pipes[name], _ = stack.enter_context(process(subscriber, address))
            synced(publishers[name], pipes[name])
        speeds = alternate(
            rounds,
            {n: lambda n=n: published(publishers[n], pipes[n], messages) for n in publishers},  # type: ignore[misc]
        )
        tell_ratio("sessions, publish_many to one subscriber", "messages/s", speeds)


def tell_ratio(what: str, unit: str, speeds: dict[str, float]) -> None:
    """A row each: without a device, and through one."""
    for name, speed in speeds.items():
        ratio = f"{speed / speeds[DIRECT]:.2f} x direct" if name != DIRECT else ""
        row(f"{what}, {name}", f"{speed:,.0f} {unit}", ratio)


# ---- the price of each feature -----------------------------------------------------


@contextlib.contextmanager
def asked_often(running: DeviceProcess) -> Iterator[None]:
    """Ask a device for its statistics ten times a second."""
    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.1):
            running.stats()

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def price(messages: int, rounds: int) -> None:
    """One feature a row, against the same without it."""
    with process(flood) as (source, _), device(Streamer, plain=True, limits=LIMITS) as (ends, running):

        def plainly() -> float:
            return stream(source, ends, (zmq.PUSH, zmq.PULL), messages)

        def watched() -> float:
            with asked_often(running):
                return plainly()

        speeds = alternate(rounds, {"alone": plainly, "asked": watched})
        ratio = speeds["asked"] / speeds["alone"]
        row("price, statistics asked 10 times a second", f"{speeds['asked']:,.0f} /s", f"{ratio:.2f} x unasked")
        took = []
        for _ in range(20):
            began = time.perf_counter()
            running.pause()
            running.resume()
            took.append(time.perf_counter() - began)
        row("price, to pause and resume a plain device", f"{statistics.median(took) * 1e3:.1f} ms")
    with contextlib.ExitStack() as stack:
        source, _ = stack.enter_context(process(flood))
        forwarders = {
            name: stack.enter_context(device(Forwarder, plain=name == "plain", limits=LIMITS))[0]
            for name in ("plain", "zmqkit")
        }
        speeds = alternate(
            rounds,
            {
                name: lambda ends=ends: stream(source, ends, (zmq.PUB, zmq.SUB), messages)  # type: ignore[misc]
                for name, ends in forwarders.items()
            },
        )
        ratio = speeds["zmqkit"] / speeds["plain"]
        row("price, PUB and SUB through a zmqkit Forwarder", f"{speeds['zmqkit']:,.0f} /s", f"{ratio:.2f} x plain=True")
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(places.folder())
        streamers = {
            "switch": stack.enter_context(device(Streamer, plain=False)),
            "custody": stack.enter_context(device(Streamer, journal=f"{folder}/jobs.db")),
        }
        pushers = {}
        for name, (ends, _) in streamers.items():
            pipe, _ = stack.enter_context(process(puller, ends[1]))
            heard(pipe)
            pushers[name] = stack.enter_context(zmqkit.Pusher(connect=ends[0]))
        custody = streamers["custody"][1]
        speeds = alternate(
            rounds,
            {
                "switch": lambda: pushed(pushers["switch"], messages),
                "custody": lambda: settled_behind(pushers["custody"], custody, messages),
            },
        )
        ratio = speeds["custody"] / speeds["switch"]
        row("price, custody: until settled behind it", f"{speeds['custody']:,.0f} /s", f"{ratio:.2f} x switch")


# ---- restarts ----------------------------------------------------------------------


def killed(running: DeviceProcess) -> None:
    """End the device's process with SIGKILL."""
    assert running.pid is not None
    os.kill(running.pid, signal.SIGKILL)
    running.wait(10)
    running.close()


def restart(rounds: int) -> None:
    """From SIGKILL until the successor, which is started at once, has carried something."""
    for plainly in (True, False):
        with contextlib.ExitStack() as stack:
            ends, running = stack.enter_context(device(Queue, plain=plainly))
            if plainly:
                pipe, _ = stack.enter_context(process(worker))
                pipe.send(ends[1])
                heard(pipe)
                client: Any = stack.enter_context(made(zmq.DEALER))
                client.connect(ends[0])
            else:
                pipe, _ = stack.enter_context(process(server, ends[1]))
                heard(pipe)
                client = stack.enter_context(zmqkit.Client(ends[0], timeout=60))
            go_through(client)
            opened, carried = [], []
            for _ in range(rounds):
                began = time.perf_counter()
                killed(running)
                _, running = stack.enter_context(device(Queue, *ends, plain=plainly))
                opened.append(time.perf_counter() - began)
                go_through(client)
                carried.append(time.perf_counter() - began)
        name = f"restart of a {'plain' if plainly else 'zmqkit'} Queue"
        row(f"{name}: bound again", f"{statistics.median(opened):.2f} s")
        row(f"{name}: the first call is answered", f"{statistics.median(carried):.2f} s")


def go_through(client: Any) -> None:
    """One call; a plain one is repeated, for whatever a plain queue had is lost with it."""
    if isinstance(client, zmqkit.Client):
        client.call("echo", BODY)
        return
    client.send_multipart([b"", b"x"])
    while not client.poll(100):
        client.send_multipart([b"", b"x"])
    while client.poll(100):
        client.recv_multipart()


# ---- memory ------------------------------------------------------------------------


def rss(pid: int | None) -> float:
    """A process's memory, in MB."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


def memory(messages: int) -> None:
    """A flood of bodies of 1 kB at who reads nothing."""
    for kind, source, sink in ((Streamer, zmq.PUSH, zmq.PULL), (Forwarder, zmq.PUB, zmq.SUB)):
        for plainly in (True, False) if kind is Forwarder else (True,):
            limits = zmqkit.Limits(queued_messages=1000)
            with device(kind, plain=plainly, limits=limits) as (ends, running):
                before = rss(running.pid)
                with process(stopped, sink, ends[1]) as (pipe, _), made(source) as socket:
                    heard(pipe)
                    socket.connect(ends[0])
                    socket.setsockopt(zmq.SNDTIMEO, 500)
                    sent = highest = 0.0
                    with contextlib.suppress(zmq.Again):
                        while sent < messages:
                            socket.send(b"x" * 1000)
                            sent += 1
                            if sent % 1000 == 0:
                                time.sleep(0.01)  # so that it is the device that holds back, or drops
                                highest = max(highest, rss(running.pid))
                    highest = max(highest, rss(running.pid))
            name = f"memory, {'plain' if plainly else 'zmqkit'} {kind.__name__}, {sent:,.0f} messages taken"
            row(name, f"{before:.0f} to {highest:.0f} MB")
    with device(Streamer, plain=False) as (ends, running), zmqkit.Pusher(connect=ends[0]) as push:
        before = rss(running.pid)
        push.send_many("x" * 1000 for _ in range(min(messages, 50_000)))
        highest = rss(running.pid)
        with contextlib.suppress(zmqkit.Unsettled):  # that is what the row is about
            push.close(0)
    row("memory, zmqkit Streamer, nobody behind it", f"{before:.0f} to {highest:.0f} MB")


def main() -> None:
    """All rows, or those whose name holds a word."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=500_000)
    parser.add_argument("--calls", type=int, default=30_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="")
    asked = parser.parse_args()
    if not 1000 <= asked.messages < HIGH_WATER_MARK:
        parser.error(f"--messages takes a number from 1,000 to {HIGH_WATER_MARK - 1:,}: more are dropped by publishers")
    parts: dict[str, Callable[[], None]] = {
        "plain": lambda: plain(asked.messages, asked.calls, asked.rounds),
        "sessions": lambda: sessions(asked.messages, asked.calls, asked.rounds),
        "price": lambda: price(asked.messages, asked.rounds),
        "restart": lambda: restart(asked.rounds),
        "memory": lambda: memory(asked.messages),
    }
    with places.run_folder():
        for name, part in parts.items():
            if asked.only in name:
                part()


if __name__ == "__main__":
    main()
