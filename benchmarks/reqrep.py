"""Calls beside raw ZeroMQ and other RPC libraries: two processes, loopback TCP, bodies of 100 bytes.

Run it with ``python -m benchmarks.reqrep [--calls N] [--rounds N] [--only WORD]``. Rows:

- *round trip*: one call at a time, in microseconds; raw is REQ/REP with msgpack at both ends.
- *threads*: calls a second with 1, 4 and 16 threads on one client; raw has a REQ socket a thread.
- *async*: 100 calls in flight on asyncio; raw is a hand-written client on zmq.asyncio (DEALER, a future a call).
- *bodies*: 1 MB and 64 MB of bytes there and back; raw likewise, with msgpack.
- *idle clients*: 1,000 of them, each in session with one server: memory a client, and what they cost while idle.

Rounds alternate, medians are quoted. What counts are the ratios: absolute figures drift with the machine. Libraries
that are not installed (``pip install zmqkit[bench]``) are named.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import resource
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import msgpack
import zmq
import zmq.asyncio

import zmqkit
import zmqkit.aio
from benchmarks.rpc_peers import OTHERS, RAW, ZMQKIT, Call, Peer, serve_raw_router, serving

BODY = {"n": 12345, "text": "x" * 70, "ok": True, "price": 1.5}
IN_FLIGHT = 100


def row(name: str, value: str, ratio: str = "") -> None:
    """One line of the table."""
    print(f"{name:<44}{value:>18}{ratio:>16}", flush=True)


# ---- one at a time -----------------------------------------------------------------


def time_calls(call: Call, count: int, body: Any = BODY) -> float:
    """The median of single calls, in seconds."""
    for _ in range(max(count // 10, 1)):
        call(body)
    took = []
    clock = time.perf_counter
    for _ in range(count):
        began = clock()
        call(body)
        took.append(clock() - began)
    return statistics.median(took)


def alternate(peers: list[Peer], rounds: int, measure: Callable[[Call], float]) -> dict[str, float]:
    """Medians of rounds in which each peer has its turn."""
    times: dict[str, list[float]] = {peer.name: [] for peer in peers}
    with contextlib.ExitStack() as stack:
        addresses = {peer.name: stack.enter_context(serving(peer.serve)) for peer in peers}
        for _ in range(rounds):
            for peer in peers:
                with peer.connect(addresses[peer.name]) as call:
                    times[peer.name].append(measure(call))
    return {name: statistics.median(each) for name, each in times.items()}


def round_trip(calls: int, rounds: int) -> None:
    """All libraries, one call at a time."""
    there = [RAW, ZMQKIT, *(peer for peer in OTHERS if not peer.missing)]
    times = alternate(there, rounds, lambda call: time_calls(call, calls))
    for name, seconds in times.items():
        row(f"round trip, {name}", f"{seconds * 1e6:.0f} us", f"{seconds / times[RAW.name]:.2f} x raw")
    for peer in OTHERS:
        if peer.missing:
            row(f"round trip, {peer.name}", "missing", peer.missing)


def bodies(rounds: int) -> None:
    """Large bodies there and back."""
    for size, count in ((1_000_000, 50), (64_000_000, 3)):
        body = os.urandom(1000) * (size // 1000)
        times = alternate([RAW, ZMQKIT], rounds, lambda call, body=body, count=count: time_calls(call, count, body))  # type: ignore[misc]
        ratio = times[ZMQKIT.name] / times[RAW.name]
        row(
            f"body of {size // 1_000_000} MB, there and back",
            f"{times[ZMQKIT.name] * 1e3:.1f} ms",
            f"{ratio:.2f} x raw",
        )


# ---- many at a time -----------------------------------------------------------------


def in_threads(threads: int, seconds: float, make: Callable[[], contextlib.AbstractContextManager[Call]]) -> float:
    """Calls a second of so many threads, each with what `make` gives it."""
    counts = [0] * threads
    go, stop = threading.Barrier(threads + 1), threading.Event()

    def work(index: int) -> None:
        with make() as call:
            call(BODY)
            go.wait(60)
            while not stop.is_set():
                call(BODY)
                counts[index] += 1

    workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    go.wait(60)
    began = time.perf_counter()
    time.sleep(seconds)
    stop.set()
    took = time.perf_counter() - began
    for worker in workers:
        worker.join(60)
    return sum(counts) / took


def threads(rounds: int) -> None:
    """One client for all threads, beside a socket a thread."""
    for count in (1, 4, 16):
        ours, raw = [], []
        with serving(ZMQKIT.serve) as address, serving(RAW.serve) as raw_address:
            for _ in range(rounds):
                raw.append(in_threads(count, 1.0, lambda: RAW.connect(raw_address)))
                with zmqkit.Client(address, timeout=60) as client:
                    ours.append(
                        in_threads(count, 1.0, lambda: contextlib.nullcontext(lambda body: client.call("echo", body)))
                    )
        here, there = statistics.median(ours), statistics.median(raw)
        row(f"{count} threads", f"{here:,.0f} calls/s", f"{here / there:.2f} x raw")


async def pump(call: Callable[[Any], Any], count: int) -> float:
    """Calls a second with so many in flight."""
    left = itertools.repeat(None, count)

    async def work() -> None:
        for _ in left:
            await call(BODY)

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
    return count / (time.perf_counter() - began)


async def raw_async(address: str, count: int) -> float:
    """A client as one writes it by hand: a DEALER, a task that reads, a future a call."""
    context = zmq.asyncio.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.connect(address)
    waiting: dict[bytes, asyncio.Future[Any]] = {}
    numbers = itertools.count()
    loop = asyncio.get_running_loop()

    async def read() -> None:
        while True:
            number, body = await dealer.recv_multipart()
            waiting.pop(number).set_result(msgpack.unpackb(body))

    async def call(body: Any) -> Any:
        number = b"%d" % next(numbers)
        future = waiting[number] = loop.create_future()
        await dealer.send_multipart([number, msgpack.packb(body)])
        return await future

    reader = asyncio.create_task(read())
    await call(BODY)
    speed = await pump(call, count)
    reader.cancel()
    context.destroy(linger=0)
    return speed


async def our_async(address: str, count: int) -> float:
    """`zmqkit.aio.Client`."""
    async with zmqkit.aio.Client(address, timeout=60) as client:
        await client.call("echo", BODY)
        return await pump(lambda body: client.call("echo", body), count)


def in_flight(calls: int, rounds: int) -> None:
    """100 calls in flight on asyncio."""
    ours, raw = [], []
    with serving(ZMQKIT.serve) as address, serving(serve_raw_router) as raw_address:
        for _ in range(rounds):
            raw.append(asyncio.run(raw_async(raw_address, calls)))
            ours.append(asyncio.run(our_async(address, calls)))
    here, there = statistics.median(ours), statistics.median(raw)
    row("async, 100 in flight, zmq.asyncio by hand", f"{there:,.0f} calls/s")
    row("async, 100 in flight, zmqkit", f"{here:,.0f} calls/s", f"{here / there:.2f} x raw")


# ---- idle --------------------------------------------------------------------------


def rss() -> float:
    """This process's memory, in MB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


def idle_clients(count: int) -> None:
    """Many clients of one server, all in this process, that do nothing."""
    with serving(ZMQKIT.serve) as address, contextlib.ExitStack() as stack:
        first = stack.enter_context(zmqkit.Client(address, timeout=60))
        first.call("echo", BODY)
        before = rss()
        clients = [stack.enter_context(zmqkit.Client(address, timeout=60)) for _ in range(count - 1)]
        for client in clients:
            client.call("echo", BODY)
        grown = rss() - before
        row(f"{count} idle clients: memory a client", f"{grown / (count - 1) * 1000:.0f} kB")
        busy, began = time.process_time(), time.perf_counter()
        time.sleep(10)
        share = (time.process_time() - busy) / (time.perf_counter() - began)
        row(f"{count} idle clients: of a core, a client", f"{share / count * 100:.4f} %")
        row(
            f"a call among {count} idle clients",
            f"{time_calls(lambda body: first.call('echo', body), 500) * 1e6:.0f} us",
        )


def main() -> None:
    """All rows, or those whose name holds a word."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--only", default="")
    asked = parser.parse_args()
    parts: dict[str, Callable[[], None]] = {
        "round trip": lambda: round_trip(asked.calls, asked.rounds),
        "threads": lambda: threads(asked.rounds),
        "async": lambda: in_flight(asked.calls * 10, asked.rounds),
        "bodies": lambda: bodies(asked.rounds),
        "idle": lambda: idle_clients(asked.clients),
    }
    for name, part in parts.items():
        if asked.only in name:
            part()


if __name__ == "__main__":
    main()
