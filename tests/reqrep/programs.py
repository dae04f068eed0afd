"""Programs that the tests of request-reply run beside themselves: ``python -m tests.reqrep.programs NAME ARGS``."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import anyio

import zmqkit
from tests.transport.interrupting import Interrupts
from zmqkit import aio

PATIENCE_S = 20.0
INTERRUPTS = 300


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def square(n: int) -> int:
    """For processes: found by its name."""
    return n * n


def whoami() -> int:
    return os.getpid()


def fail(what: str) -> None:
    raise LookupError(what)


def thing() -> object:
    return object()


def die() -> None:
    os._exit(3)


def serve(address: str = "tcp://127.0.0.1:*", journal: str = "") -> None:
    """A server until it is told to stop; says its address, and who called `wait`."""
    server = zmqkit.Server(address, journal=journal or None, name=f"server-{os.getpid()}")
    go = threading.Event()

    @server.method
    def wait(seconds: float = PATIENCE_S) -> str:
        say(entered=True)
        go.wait(seconds)
        return "through"

    @server.method(idempotent=True)
    def pid() -> int:
        return os.getpid()

    @server.method(idempotent=True)
    def patient() -> int:
        say(entered=True)
        go.wait(PATIENCE_S)
        return os.getpid()

    @server.method
    def rows() -> Iterator[int]:
        yield from range(3)
        go.wait(PATIENCE_S)

    @server.method
    def leave() -> None:
        go.set()

    with server:
        say(address=server.addresses[0])
        server.run()
    say(ended=True)


def serve_async() -> None:
    """The same with coroutines."""

    async def main() -> None:
        server = aio.Server("tcp://127.0.0.1:*")

        @server.method
        async def wait(seconds: float) -> str:
            say(entered=True)
            await anyio.sleep(seconds)
            return "through"

        await server.open()
        say(address=server.addresses[0])
        await server.run()
        say(ended=True)

    anyio.run(main)


def interrupted_calls() -> None:
    """Calls, interrupted at any moment: no answer is another call's, and the client goes on."""
    interrupts = Interrupts(0.002)
    right = wrong = calls = 0
    server = zmqkit.Server("tcp://127.0.0.1:*", threads=2)
    server.method(name="echo")(lambda n: n)
    with server, zmqkit.Client(server.addresses[0], timeout=PATIENCE_S) as client:

        def step() -> None:
            nonlocal right, wrong, calls
            calls += 1
            answer = client.call("echo", calls)
            if answer == calls:
                right += 1
            else:
                wrong += 1

        until = time.monotonic() + PATIENCE_S
        interrupts.until(lambda: interrupts.count >= INTERRUPTS or time.monotonic() > until, step, lambda: None)
        wrong += client.call("echo", "end") != "end"
        driver: Any = client._driver
        waiting = len(driver._desk.waiting)
    say(interrupts=interrupts.count, right=right, wrong=wrong, waiting=waiting)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
