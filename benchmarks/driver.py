"""What the driver costs: handing a call over, waking the I/O thread, waiting for a result, messages end to end.

Run it with ``python benchmarks/driver.py [--quick]``. The cores here do nothing but pass on, so that what is measured
is the driver. Beside it stand raw pyzmq sockets doing the same, in the same run; figures are medians of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import gc
import multiprocessing
import os
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import anyio
import msgpack
import zmq

from zmqkit.protocol.core import Frames, Link, Outputs, Read, Row
from zmqkit.transport.iothread import SLEEPING, IoThread
from zmqkit.transport.mailbox import Mailbox
from zmqkit.transport.shared import SharedPump
from zmqkit.transport.tickets import Ticket, wait, wait_async
from zmqkit.transport.wakeup import Kind, Waker

AnyDriver = IoThread | SharedPump

SMALL = b"x" * 100
BATCH = b"x" * 25_600
"""256 messages of 100 bytes, as one frame."""
HEAD = b"h" * 20
PATIENCE_S = 60.0
KINDS: tuple[Kind, ...] = ("eventfd", "pipe")


class Passing:
    """A core that passes on: messages become items, or go back where they came from."""

    def __init__(self, *, echo: bool = False) -> None:
        self.out = Outputs()
        self.counters: dict[str, int | float] = {}
        self.finished = False
        self.link: Link | None = None
        self.up = threading.Event()
        self._echo = echo

    def link_up(self, link: Link, now: float) -> None:
        self.link = link
        self.up.set()

    def link_down(self, link: Link, now: float) -> None: ...

    def receive_message(self, link: Link, frames: Frames, now: float) -> None:
        if self._echo:
            self.out.sends.append((link, frames))
        else:
            self.out.items.append(frames)

    def links_disturbed(self, group: Hashable, now: float) -> None: ...

    def stored(self, up_to: int, now: float) -> None: ...

    def store_failed(self, up_to: int, error: Exception, now: float) -> None: ...

    def loaded(self, read: Read, rows: Sequence[Row], now: float) -> None: ...

    def process_gone(self, key: Hashable, now: float) -> None: ...

    def handle_timer(self, now: float) -> None: ...

    def next_deadline(self) -> float | None:
        return None

    def end_turn(self, now: float) -> None: ...

    def close(self, now: float) -> None:
        self.finished = True

    def nothing(self, now: float) -> None:
        """The cheapest verb."""

    def say(self, frames: Frames, now: float) -> None:
        self.out.sends.append((self.link, frames))

    def answer(self, ticket: Ticket, now: float) -> None:
        self.out.replies.append((ticket, None))

    def stamp(self, ticket: Ticket, now: float) -> None:
        self.out.replies.append((ticket, time.perf_counter()))


def open_driver(core: Passing, **options: Any) -> IoThread:
    io = IoThread(core, name="bench", **options)
    io.start()
    return io


def median(work: Callable[[], float], rounds: int) -> float:
    return statistics.median(work() for _ in range(rounds))


def per_call(work: Callable[[], object], calls: int) -> float:
    """Microseconds a call."""
    begun = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - begun) / calls * 1e6


def print_row(name: str, value: float, unit: str, note: str = "") -> None:
    print(f"  {name:<58}{value:>12,.2f} {unit:<6}{note}", flush=True)


# ---- handing over ------------------------------------------------------------------


def handing_over(rounds: int, calls: int) -> None:
    print("Handing over")
    core = Passing()
    io = open_driver(core)
    try:
        for name, call in (("post", io.post), ("submit", io.submit)):

            def one(call: Callable[..., None] = call) -> float:
                # Bursts, as a producer's loop has them; the thread's share of the interpreter is in the figure.
                return per_call(lambda: call(core.nothing), calls)

            print_row(f"{name}(), the thread busy with them", median(one, rounds), "us")
        # The caller's cost alone: the thread is stopped in the middle of a call.
        entered, release = threading.Event(), threading.Event()

        def hold(now: float) -> None:
            entered.set()
            release.wait(PATIENCE_S)

        for name, call in (("post", io.post), ("submit", io.submit)):

            def held(call: Callable[..., None] = call) -> float:
                entered.clear()
                release.clear()
                io.submit(hold)
                entered.wait(PATIENCE_S)
                cost = per_call(lambda: call(core.nothing), calls)
                release.set()
                return cost

            print_row(f"{name}(), the thread awake: the caller's cost alone", median(held, rounds), "us")
        print_row("ticket()", median(lambda: per_call(io.ticket, calls), rounds), "us")
    finally:
        io.close(5)
    empty = median(lambda: per_call(lambda: None, calls), rounds)
    print_row("an empty call, in each of the above", empty, "us")


def waking(rounds: int, calls: int) -> None:
    print("Waking")
    for kind in KINDS:
        waker = Waker(kind)
        print_row(f"{kind}: the wake alone", median(functools.partial(per_call, waker.wake, 1000), rounds), "us")
    for kind in KINDS:
        core = Passing()
        io = open_driver(core, waker=kind)
        try:
            latencies: list[float] = []
            trips: list[float] = []
            for _ in range(calls):
                while io._depth != SLEEPING:
                    time.sleep(0.001)
                ticket = io.ticket()
                begun = time.perf_counter()
                io.submit(core.stamp, ticket)
                ran = wait(ticket, PATIENCE_S)
                ended = time.perf_counter()
                latencies.append((ran - begun) * 1e6)
                trips.append((ended - begun) * 1e6)
            note = f"p90 {statistics.quantiles(latencies, n=10)[-1]:,.0f}"
            print_row(f"{kind}: submit() to a sleeping thread until it runs", statistics.median(latencies), "us", note)
            note = f"p90 {statistics.quantiles(trips, n=10)[-1]:,.0f}"
            print_row(f"{kind}: and until the caller has its result", statistics.median(trips), "us", note)
        finally:
            io.close(5)


def results(rounds: int, calls: int) -> None:
    print("Waiting for results")
    core = Passing()
    io = open_driver(core)

    def one() -> None:
        ticket = io.ticket()
        io.submit(core.answer, ticket)
        wait(ticket, PATIENCE_S)

    async def many(tasks: int) -> float:
        async def task() -> None:
            for _ in range(calls // tasks):
                ticket = io.ticket()
                io.submit(core.answer, ticket)
                await wait_async(ticket)

        begun = time.perf_counter()
        await asyncio.gather(*(task() for _ in range(tasks)))
        return calls / (time.perf_counter() - begun)

    try:
        print_row("submit and wait, one thread", median(lambda: per_call(one, calls), rounds), "us")
        for tasks in (1, 100):
            rate = median(lambda n=tasks: asyncio.run(many(n)), rounds)  # type: ignore[misc]
            print_row(f"submit and await, asyncio, {tasks} tasks", rate, "/s")
    finally:
        io.close(5)


def taking(rounds: int, calls: int) -> None:
    print("Taking")
    mailbox: Mailbox[int] = Mailbox()

    def one() -> float:
        mailbox.put_many(list(range(calls)))
        return per_call(mailbox.take, calls)

    def many() -> float:
        mailbox.put_many(list(range(calls)))
        return per_call(lambda: mailbox.take_many(100), calls // 100) / 100

    print_row("take()", median(one, rounds), "us")
    print_row("take_many(100), an item", median(many, rounds), "us")


# ---- messages ----------------------------------------------------------------------


def round_trips(rounds: int, calls: int) -> None:
    print("Round trips of one message of 100 bytes, tcp, between two processes")
    raws, ours = [], []
    for _ in range(rounds):  # alternated, as the machine drifts
        raws.append(in_two_processes(raw_echo, raw_round_trips, calls))
        ours.append(in_two_processes(driver_echo, driver_round_trips, calls))
    raw, own = statistics.median(raws), statistics.median(ours)
    print_row("raw pyzmq, DEALER and ROUTER", raw, "us")
    print_row("through two drivers", own, "us", f"{own / raw:.2f} x raw")


def bare_calls(rounds: int, calls: int) -> None:
    """A call as a client makes it, with nothing above the driver, beside a hand-written client."""
    print("Bare calls of 100 bytes, tcp, between two processes")
    rows: dict[str, tuple[Callable[[Any], None], Callable[[str, int], float]]] = {
        "raw pyzmq, REQ and REP with msgpack": (reply_raw, request_raw),
        "I/O threads on both sides": (reply_iothread, functools.partial(request, IoThread)),
        "shared pumps on both sides": (reply_shared, functools.partial(request, SharedPump)),
        "shared pumps, asyncio": (reply_shared, functools.partial(request_in_loop, "asyncio", 1)),
        "shared pumps, trio": (reply_shared, functools.partial(request_in_loop, "trio", 1)),
        "shared pumps, asyncio, 100 in flight": (reply_shared, functools.partial(request_in_loop, "asyncio", 100)),
        "shared pumps, trio, 100 in flight": (reply_shared, functools.partial(request_in_loop, "trio", 100)),
        "I/O threads, asyncio, 100 in flight": (
            reply_iothread, functools.partial(request_in_loop, "asyncio", 100, kind=IoThread),
        ),
    }  # fmt: skip
    costs: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(rounds):  # alternated, as the machine drifts
        for name, (serve, call) in rows.items():
            costs[name].append(in_two_processes(serve, call, calls))
    raw = statistics.median(next(iter(costs.values())))
    for name, each in costs.items():
        cost = statistics.median(each)
        print_row(name, cost, "us", f"{cost / raw:.2f} x raw; least {min(each):,.0f}")


class Asking(Passing):
    """A core that matches answers to questions by their order."""

    def __init__(self) -> None:
        super().__init__()
        self._asked: deque[Ticket] = deque()

    def ask(self, frames: Frames, ticket: Ticket, now: float) -> None:
        self._asked.append(ticket)
        self.out.sends.append((self.link, frames))

    def receive_message(self, link: Link, frames: Frames, now: float) -> None:
        self.out.replies.append((self._asked.popleft(), frames))


def reply(parent: Any, kind: type[AnyDriver]) -> None:
    io = kind(Passing(echo=True), name="bench", binds=["tcp://127.0.0.1:0"])
    io.start()
    threading.Thread(target=io.wait_items, daemon=True).start()
    parent.send(io.addresses[0])
    parent.recv()
    io.close(5)


def reply_iothread(parent: Any) -> None:
    reply(parent, IoThread)


def reply_shared(parent: Any) -> None:
    reply(parent, SharedPump)


def request(kind: type[AnyDriver], address: str, calls: int) -> float:
    core = Asking()
    io = kind(core, name="bench", connects=[address])
    io.start()
    try:
        core.up.wait(PATIENCE_S)

        def one() -> None:
            ticket = io.ticket()
            io.ask(ticket, PATIENCE_S, core.ask, [HEAD, SMALL], ticket)

        one()
        return per_call(one, calls)
    finally:
        io.close(5)


def request_in_loop(backend: str, tasks: int, address: str, calls: int, kind: type[AnyDriver] = SharedPump) -> float:
    """Microseconds a call, of all tasks together."""
    core = Asking()
    io = kind(core, name="bench", connects=[address])
    io.start()

    async def one() -> None:
        ticket = io.ticket()
        io.submit(core.ask, [HEAD, SMALL], ticket)
        await io.wait_async(ticket, PATIENCE_S)

    async def many() -> None:
        for _ in range(calls // tasks):
            await one()

    async def main() -> float:
        await one()
        begun = time.perf_counter()
        async with anyio.create_task_group() as group:
            for _ in range(tasks):
                group.start_soon(many)
        return (time.perf_counter() - begun) / calls * 1e6

    try:
        core.up.wait(PATIENCE_S)
        return anyio.run(main, backend=backend)
    finally:
        io.close(5)


def reply_raw(parent: Any) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.REP)
    parent.send(f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}")

    def serve() -> None:
        while True:
            socket.send(msgpack.packb(msgpack.unpackb(socket.recv())))

    threading.Thread(target=serve, daemon=True).start()
    parent.recv()
    os._exit(0)  # it serves for ever


def request_raw(address: str, calls: int) -> float:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    body = {"method": "echo", "args": [SMALL]}
    with context.socket(zmq.REQ) as socket:
        socket.connect(address)

        def one() -> None:
            socket.send(msgpack.packb(body))
            msgpack.unpackb(socket.recv())

        one()
        cost = per_call(one, calls)
    context.term()
    return cost


def in_two_processes(serve: Callable[[Any], None], call: Callable[[str, int], float], calls: int) -> float:
    """``serve`` runs in the child: it sends its address, and ends when told to."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=serve, args=(there,), daemon=True)
    process.start()
    try:
        return call(here.recv(), calls)
    finally:
        here.send("end")
        process.join(PATIENCE_S)


def raw_echo(parent: Any) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    parent.send(f"tcp://127.0.0.1:{router.bind_to_random_port('tcp://127.0.0.1')}")

    def serve() -> None:
        while True:
            router.send_multipart(router.recv_multipart())

    threading.Thread(target=serve, daemon=True).start()
    parent.recv()
    os._exit(0)  # it serves for ever


def raw_round_trips(address: str, calls: int) -> float:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context.socket(zmq.DEALER) as dealer:
        dealer.connect(address)

        def one() -> None:
            dealer.send_multipart([HEAD, SMALL])
            dealer.recv_multipart()

        one()
        cost = per_call(one, calls)
    context.term()
    return cost


def driver_echo(parent: Any) -> None:
    io = open_driver(Passing(echo=True), binds=["tcp://127.0.0.1:0"])
    parent.send(io.addresses[0])
    parent.recv()
    io.close(5)


def driver_round_trips(address: str, calls: int) -> float:
    core = Passing()
    io = open_driver(core, connects=[address])
    try:
        core.up.wait(PATIENCE_S)

        def one() -> None:
            io.submit(core.say, [HEAD, SMALL])
            while io.mailbox.take() is None:
                io.mailbox.wait_nonempty(PATIENCE_S)

        one()
        return per_call(one, calls)
    finally:
        io.close(5)


def throughput(rounds: int, messages: int) -> None:
    print("One way, two frames a message, tcp, both ends in this process")
    for name, body, count in (("100 bytes", SMALL, messages), ("25,600 bytes", BATCH, messages // 5)):
        raws, ours = [], []
        for _ in range(rounds):  # alternated, as the machine drifts
            raws.append(raw_throughput(body, count))
            ours.append(driver_throughput(body, count))
        raw, own = statistics.median(raws), statistics.median(ours)
        print_row(f"{name}: raw pyzmq, a thread each", raw, "/s")
        print_row(f"{name}: through two drivers", own, "/s", f"{own / raw:.2f} x raw")


def raw_throughput(body: bytes, messages: int) -> float:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context.socket(zmq.ROUTER) as router, context.socket(zmq.DEALER) as dealer:
        for socket in (router, dealer):
            socket.set_hwm(0)
        port = router.bind_to_random_port("tcp://127.0.0.1")
        dealer.connect(f"tcp://127.0.0.1:{port}")

        def send() -> None:
            for _ in range(messages):
                dealer.send_multipart([HEAD, body])

        sender = threading.Thread(target=send)
        begun = time.perf_counter()
        sender.start()
        for _ in range(messages):
            router.recv_multipart()
        rate = messages / (time.perf_counter() - begun)
        sender.join()
    context.term()
    return rate


def driver_throughput(body: bytes, messages: int) -> float:
    core = Passing()
    bound = open_driver(Passing(), binds=["tcp://127.0.0.1:0"])
    dialled = open_driver(core, connects=bound.addresses)
    try:
        core.up.wait(PATIENCE_S)
        frames = [HEAD, body]

        def send() -> None:
            for _ in range(messages):
                dialled.post(core.say, frames)

        sender = threading.Thread(target=send)
        begun = time.perf_counter()
        sender.start()
        got, mailbox = 0, bound.mailbox
        while got < messages:
            taken = len(mailbox.take_many(1000))
            got += taken
            if not taken:
                mailbox.wait_nonempty(PATIENCE_S)
        rate = messages / (time.perf_counter() - begun)
        sender.join()
        return rate
    finally:
        dialled.close(5)
        bound.close(5)


def idle() -> None:
    print("Idle")
    gc.collect()  # what the others left is not its cost
    for kind in (IoThread, SharedPump):
        io = kind(Passing(), name="bench", binds=["tcp://127.0.0.1:0"])
        io.start()
        try:
            time.sleep(0.2)  # until its thread sleeps
            begun = time.process_time()
            time.sleep(2)
            print_row(f"processor time of an idle {kind.__name__}", (time.process_time() - begun) / 2 * 100, "%")
        finally:
            io.close(5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the work: shows that it runs")
    quick = parser.parse_args().quick
    rounds, scale = (1, 10) if quick else (5, 1)
    print(f"Python {sys.version.split()[0]}, pyzmq {zmq.pyzmq_version()}, libzmq {zmq.zmq_version()}")
    handing_over(rounds, 100_000 // scale)
    waking(rounds, 200 // scale)
    results(rounds, 10_000 // scale)
    taking(rounds, 200_000 // scale)
    round_trips(rounds, 5_000 // scale)
    bare_calls(rounds, 5_000 // scale)
    throughput(rounds, 200_000 // scale)
    idle()


if __name__ == "__main__":
    main()
