"""The servers that are killed, and the callers that must be told the truth: ``python -m tests.chaos.calls.roles``.

A call has a *name* of its own, which it brings as its first argument. A server writes down that it begins to execute
it, before it does anything, and how that ended, before it answers; a caller writes down that it begins a call, and
what it was told in the end. Neither reads what the other wrote: `tests.chaos.calls.reader` does.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import zmqkit
import zmqkit.aio
from tests.chaos.calls.plan import BOUND_S, INTERVAL_S, SERVERS, SHARED, THREADS
from tests.chaos.devices import plan as devices
from tests.chaos.history import History
from tests.chaos.process import Process, main

HEARTBEAT = zmqkit.Heartbeat(interval=INTERVAL_S, liveness=round(BOUND_S / INTERVAL_S))
PATIENT = zmqkit.Heartbeat(interval=devices.INTERVAL_S, liveness=round(devices.BOUND_S / devices.INTERVAL_S))
"""With devices in the path."""
TIMEOUT_S = 10.0
HASTY_S = 0.1
"""What those wait that cannot wait for what they call."""
THINK_S = 0.04
"""A caller pauses so long at most between two calls."""
BIND_S = 20.0
"""So long a server tries to bind the address that it had: now and then somebody else is given it meanwhile."""
HANDLERS = 32
FEW = 2
"""So many calls of `few` a server takes at once."""


# ---- servers -----------------------------------------------------------------------


class Serve(Process):
    """A server; the one of index 0 has a journal."""

    def __call__(self) -> None:
        """Serve until told to finish, and then drain."""
        self.executions = History(self.folder / f"{self.name}.{self.life}.executions")
        self.count = itertools.count(1)
        deadline = time.monotonic() + BIND_S
        while True:
            server = self._make()
            try:
                server.open()
                break
            except zmqkit.AddressInUse:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        self.on_finish = server.stop
        self.follow_the_leash(server)
        self.tell(f"open {' '.join(server.addresses)}")
        server.run()
        self.tell("done")

    def _make(self) -> zmqkit.Server:
        journalled = self.name == "server-0"
        dials = self.address.startswith(">")  # a device
        server = zmqkit.Server(
            bind=() if dials else self.address,
            connect=self.address[1:] if dials else (),
            threads=HANDLERS,
            journal=self.folder / "server-0.journal" if journalled else None,
            heartbeat=PATIENT if self.devices else HEARTBEAT,
            name=f"{self.name}.{self.life}",
        )
        careless = self.plant == "careless-server"
        for often in (self.read, self.read_soon):
            server.method(idempotent=True)(often)
        for once in (self.add, self.add_soon):
            server.method(idempotent=careless)(once)
        server.method(concurrency=FEW)(self.few)
        for each in (self.fail, self.rows, self.total):
            server.method()(each)
        return server

    def _begin(self, name: str, request: zmqkit.Request) -> list[Any]:
        number = next(self.count)
        if self.plant != "secretive-server" or number % 50:
            self.executions.mention(f"begin {number} {request.method} {name} {request.id} {time.monotonic()}")
        return [self.name, self.life, number, name]

    def _end(self, token: list[Any], how: str = "result") -> None:
        self.executions.mention(f"end {token[2]} {how} {time.monotonic()}")
        self.busy()

    def _work(self, name: str, seconds: float, request: zmqkit.Request) -> list[Any]:
        token = self._begin(name, request)
        time.sleep(seconds)
        self._end(token)
        return token

    async def _work_soon(self, name: str, seconds: float, request: zmqkit.Request) -> list[Any]:
        token = self._begin(name, request)
        await asyncio.sleep(seconds)
        self._end(token)
        return token

    def read(self, name: str, seconds: float, request: zmqkit.Request) -> list[Any]:
        """Idempotent, in a thread."""
        return self._work(name, seconds, request)

    async def read_soon(self, name: str, seconds: float, request: zmqkit.Request) -> list[Any]:
        """Idempotent, on the loop."""
        return await self._work_soon(name, seconds, request)

    def add(self, name: str, seconds: float, request: zmqkit.Request) -> list[Any]:
        """Not idempotent, in a thread."""
        return self._work(name, seconds, request)

    async def add_soon(self, name: str, seconds: float, request: zmqkit.Request) -> list[Any]:
        """Not idempotent, on the loop."""
        return await self._work_soon(name, seconds, request)

    def few(self, name: str, seconds: float, request: zmqkit.Request) -> list[Any]:
        """Not idempotent, and refused where too many are at it."""
        return self._work(name, seconds, request)

    def fail(self, name: str, seconds: float, request: zmqkit.Request) -> None:
        """Raises, having been executed."""
        token = self._begin(name, request)
        time.sleep(seconds)
        self._end(token, "raised")
        raise zmqkit.ServiceError("planned", "as it must", token)

    def rows(self, name: str, count: int, seconds: float, request: zmqkit.Request) -> Iterator[list[Any]]:
        """A stream."""
        token = self._begin(name, request)
        for index in range(count):
            time.sleep(seconds / count)
            if index == count - 1:
                self._end(token)
            yield [*token, index]

    def total(self, name: str, items: Iterator[int], request: zmqkit.Request) -> list[Any]:
        """An upload."""
        token = self._begin(name, request)
        found = sum(items)
        self._end(token)
        return [*token, found]


# ---- callers -----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Wish:
    """One call.

    Attributes:
        name: of it alone.
        method: what is called.
        way: "call", "submit", "stream", "upload" or "cancel".
        key: the request id of the caller's own; empty: none.
        seconds: how long the handler works.
        count: items of a stream, or an upload.
        timeout: seconds.
    """

    name: str
    method: str
    way: str
    key: str
    seconds: float
    count: int
    timeout: float

    @property
    def began(self) -> str:
        """For the history."""
        often = "often" if self.method.startswith("read") else "once"
        return (
            f"began {self.name} {self.method} {often} {self.key or '-'} {self.seconds:.3f} {self.timeout} "
            f"{time.monotonic()}"
        )


def draw(rng: random.Random, name: str) -> Wish:
    """What is called next."""
    often = rng.random() < 0.5
    soon = "_soon" if rng.random() < 0.4 else ""
    method, way, seconds, count, timeout = ("read" if often else "add") + soon, "call", 0.0, 0, TIMEOUT_S
    kind = rng.random()
    if kind < 0.45:
        way = rng.choice(["call", "submit"])
    elif kind < 0.80:
        way, seconds = rng.choice(["call", "submit"]), rng.uniform(0.05, 0.3)
    elif kind < 0.88:
        method, way, seconds, count = "rows", "stream", rng.uniform(0.0, 0.2), rng.choice([1, 10, 150])
    elif kind < 0.92:
        method, way, count = "total", "upload", rng.choice([0, 10, 150])
    elif kind < 0.95:
        method = "fail"
    elif kind < 0.985:
        method, seconds = "few", rng.uniform(0.0, 0.1)
    elif kind < 0.997:
        way, seconds = "cancel", rng.uniform(0.0, 0.1)
    else:
        seconds, timeout = rng.uniform(0.05, 0.3), HASTY_S
    key = f"key-{name}" if way == "call" and rng.random() < 0.3 else ""
    return Wish(name, method, way, key, seconds, count, timeout)


class Call(Process):
    """Calls, from many threads or tasks: the last process on an event loop, every other one with several clients."""

    def __call__(self) -> None:
        """Call until told to finish."""
        self._seed = self.rng.random()
        self._plainly = self.plant != "rounding-caller"
        if self.name == f"caller-{SERVERS}":
            asyncio.run(self._on_loop())
        else:
            self._in_threads(SHARED if self.name == "caller-1" else 1)
        self.tell("done")

    def _options(self, at: int) -> zmqkit.Common:
        return {"heartbeat": PATIENT if self.devices else HEARTBEAT, "name": f"{self.name}.{at}"}

    def _in_threads(self, clients: int) -> None:
        addresses = self.address.split(",")
        with contextlib.ExitStack() as stack:
            opened = [
                stack.enter_context(zmqkit.Client(*addresses, timeout=TIMEOUT_S, **self._options(at)))
                for at in range(clients)
            ]
            self.follow_the_leash(opened[0])
            self.tell("open")
            with concurrent.futures.ThreadPoolExecutor(THREADS) as threads:
                done = [threads.submit(self._call_on, opened[at % clients], at) for at in range(THREADS)]
                for each in done:
                    each.result()

    async def _on_loop(self) -> None:
        async with zmqkit.aio.Client(*self.address.split(","), timeout=TIMEOUT_S, **self._options(0)) as client:
            self.follow_the_leash(client)
            self.tell("open")
            async with asyncio.TaskGroup() as tasks:
                for at in range(THREADS):
                    tasks.create_task(self._call_on_async(client, at))

    # ---- one call after another ------------------------------------------------------

    def _wishes(self, at: int) -> Iterator[tuple[Wish, random.Random]]:
        rng = random.Random(f"{self._seed} {at}")
        for number in itertools.count(1):
            if self.finish.is_set():
                return
            yield draw(rng, f"{self.name}.{at}.{number}"), rng

    def _call_on(self, client: zmqkit.Client, at: int) -> None:
        for wish, rng in self._wishes(at):
            told = self._told(wish, lambda wish=wish: perform(client, wish))  # type: ignore[misc]
            if told.startswith("unknown") and wish.key:
                # With the same request id: where it is known, it must not run again.
                again = dataclasses.replace(wish, name=f"{wish.name}+")
                self._told(again, lambda again=again: perform(client, again))  # type: ignore[misc]
            self.finish.wait(rng.random() * THINK_S)

    async def _call_on_async(self, client: zmqkit.aio.Client, at: int) -> None:
        for wish, rng in self._wishes(at):
            self.history.mention(wish.began)
            try:
                found = await perform_async(client, wish)
            except BaseException as error:
                found = outcome(error)
            self._note(wish, found)
            await asyncio.sleep(rng.random() * THINK_S)

    def _told(self, wish: Wish, perform: Callable[[], str]) -> str:
        self.history.mention(wish.began)
        try:
            found = perform()
        except BaseException as error:
            found = outcome(error)
        self._note(wish, found)
        return found

    def _note(self, wish: Wish, found: str) -> None:
        if found.startswith("unknown") and not self._plainly:
            found = found.replace("unknown", "rejected", 1)
        self.history.mention(f"ended {wish.name} {time.monotonic()} {found}")
        self.busy()


def perform(client: zmqkit.Client, wish: Wish) -> str:
    """Make a call, and say what came of it. Raises what it raises."""
    client = client.options(timeout=wish.timeout)
    if wish.key:
        client = client.options(request_id=wish.key)
    if wish.way == "stream":
        items: list[Any] = []
        try:
            items.extend(client.stream(wish.method, wish.name, wish.count, wish.seconds))
        except zmqkit.StreamBroken as error:
            return broken(items, error)
        return streamed(items, wish)
    if wish.way == "upload":
        return uploaded(client.call(wish.method, wish.name, iter(range(wish.count))), wish)
    if wish.way == "call":
        return result(client.call(wish.method, wish.name, *arguments(wish)))
    reply = client.submit(wish.method, wish.name, *arguments(wish))
    if wish.way == "cancel":
        threading.Event().wait(wish.seconds / 2)
        reply.cancel()
    return result(reply.result())


async def perform_async(client: zmqkit.aio.Client, wish: Wish) -> str:
    """The same on an event loop."""
    client = client.options(timeout=wish.timeout)
    if wish.key:
        client = client.options(request_id=wish.key)
    if wish.way == "stream":
        items: list[Any] = []
        try:
            async for each in client.stream(wish.method, wish.name, wish.count, wish.seconds):
                items.append(each)  # noqa: PERF401 - those that came before it broke are wanted, too
        except zmqkit.StreamBroken as error:
            return broken(items, error)
        return streamed(items, wish)
    if wish.way == "upload":
        return uploaded(await client.call(wish.method, wish.name, iter(range(wish.count))), wish)
    if wish.way == "call":
        return result(await client.call(wish.method, wish.name, *arguments(wish)))
    reply = client.submit(wish.method, wish.name, *arguments(wish))
    if wish.way == "cancel":
        await asyncio.sleep(wish.seconds / 2)
        reply.cancel()
    return result(await reply)


def arguments(wish: Wish) -> list[Any]:
    """What the method takes beside the name."""
    return [wish.seconds]


def result(value: Any) -> str:
    """What the history says of it."""
    server, life, number, name = value
    return f"result {server} {life} {number} {name}"


def uploaded(value: Any, wish: Wish) -> str:
    """The same, of an upload."""
    *token, found = value
    if found != sum(range(wish.count)):
        return f"wrong the upload of {wish.count} items came to {found}"
    return result(token)


def streamed(items: list[Any], wish: Wish) -> str:
    """The same, of a stream that came to its end."""
    if [each[4] for each in items] != list(range(wish.count)) or len({tuple(each[:4]) for each in items}) != 1:
        return f"wrong the stream of {wish.count} items brought {items}"
    return result(items[0][:4])


def broken(items: list[Any], error: zmqkit.StreamBroken) -> str:
    """The same, of a stream that broke."""
    if [each[4] for each in items] != list(range(error.received)):
        return f"wrong a stream broke after {error.received} items, and brought {items}"
    return outcome(error)


def outcome(error: BaseException) -> str:
    """What the history says of a call that brought no result."""
    words = str(error).replace("\n", " ")
    if isinstance(error, zmqkit.RemoteError) and error.code == "planned":
        server, life, number, name = error.data
        return f"raised {server} {life} {number} {name}"
    if isinstance(error, concurrent.futures.CancelledError | asyncio.CancelledError):
        return "cancelled"
    if isinstance(error, zmqkit.NotSent):
        return f"not-sent {type(error).__name__} {words}"
    if isinstance(error, zmqkit.Rejected):
        return f"rejected {error.code} {words}"
    if isinstance(error, zmqkit.NoReplyInTime):
        return f"late {words}"
    if isinstance(error, zmqkit.OutcomeUnknown):
        return f"unknown {words}"
    return f"wrong {type(error).__name__}: {words}"


if __name__ == "__main__":
    main({"server": Serve, "caller": Call})
