"""The server that the clients of the conformance tests call; as zmqkit's users write one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import zmqkit
from zmqkit import Heartbeat
from zmqkit.patterns.reqrep.serving import Server

PATIENT = Heartbeat(interval=0.1, liveness=300)


class Served:
    """A server, and what its handlers saw.

    Attributes:
        address: where it is bound.
        added: the arguments of each `add`, in order.
        gate: `held` waits for it; `release` opens it.
        begun: released by each `held` that has begun.
        closed: released by each stream of `count` that was closed before its end.
    """

    def __init__(self, **more: Any) -> None:
        self.server = server = Server("tcp://127.0.0.1:*", heartbeat=PATIENT, **more)
        self.added: list[tuple[Any, ...]] = []
        self.gate = threading.Event()
        self.begun = threading.Semaphore(0)
        self.closed = threading.Semaphore(0)

        @server.method(idempotent=True)
        def echo(value: Any) -> Any:
            return value

        @server.method(name="math.add")
        def named(a: Any, b: Any) -> Any:
            return a + b

        @server.method
        def add(a: Any, b: Any) -> Any:
            self.added.append((a, b))
            return a + b

        @server.method
        def fail(message: str) -> None:
            raise ValueError(message)

        @server.method
        def decline(code: str) -> None:
            raise zmqkit.ServiceError(code, "not today", data={"n": 1})

        @server.method
        def held(value: Any) -> Any:
            self.begun.release()
            assert self.gate.wait(20)
            return value

        @server.method
        def release() -> None:
            self.gate.set()

        @server.method(concurrency=1)
        def one(value: Any) -> Any:
            return held(value)

        @server.method
        def count(to: int) -> Iterator[int]:
            try:
                yield from range(to)
            except GeneratorExit:
                self.closed.release()
                raise

        @server.method
        def count_and_fail(to: int) -> Iterator[int]:
            yield from range(to)
            raise KeyError("the end")

        @server.method
        def zeros(length: int) -> bytes:
            return bytes(length)

        @server.method
        def total(rows: Iterator[int], start: int = 0) -> int:
            return sum(rows, start)

    @property
    def address(self) -> str:
        return self.server.addresses[0]

    def __enter__(self) -> Served:
        self.server.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        self.server.close()
