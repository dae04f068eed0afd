"""A server's core and clients that are played by hand: what they send are records, what they get is kept."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from tests.protocol.cores import CorePair, Host
from zmqkit.options import Limits, Window
from zmqkit.patterns.reqrep import calls, wire
from zmqkit.patterns.reqrep.calls import Answer, Execution, MethodInfo
from zmqkit.patterns.reqrep.server import ServerCore
from zmqkit.protocol.core import Frames, Row
from zmqkit.protocol.local import Local
from zmqkit.protocol.pattern import PatternCore
from zmqkit.protocol.session import Session

EPOCH = b"e" * 16

METHODS = {"add": MethodInfo(), "look": MethodInfo(idempotent=True), "one": MethodInfo(concurrency=1)}


class Upload:
    """What takes the items of an upload: it is told many times."""

    def __init__(self) -> None:
        self.got: list[Any] = []


class Told(dict[Any, Any]):
    """What tickets got; uploads keep theirs."""

    def __contains__(self, ticket: object) -> bool:
        return not isinstance(ticket, Upload) and super().__contains__(ticket)

    def __setitem__(self, ticket: Any, result: Any) -> None:
        if isinstance(ticket, Upload):
            ticket.got.append(result)
        else:
            super().__setitem__(ticket, result)


class Hand(PatternCore):
    """A client that keeps what it gets: (op, number, the other fields, body)."""

    def __init__(self, said: Local, rng: random.Random) -> None:
        super().__init__(said, rng)
        self.got: list[tuple[Any, ...]] = []

    def received(self, session: Session, frames: Frames, messages: int, now: float) -> None:
        _, _, records = wire.read(frames, wire.FROM_SERVER)
        for record in records:
            self.got.append((wire.NAMES[record[0]], record[1], *record[3:], record[2]))


class Serving:
    """A server and one client; more of them are made with `client`."""

    def __init__(
        self, *, methods: Mapping[str, MethodInfo] = METHODS, capacity: int = 2, window: Window | None = None,
        limits: Limits | None = None, credit: int = 10_000, credit_bytes: int = 1 << 20, key: bytes = b"k" * 16,
        **more: Any,
    ) -> None:  # fmt: skip
        self.window = window or Window()
        self.limits = limits or Limits()

        def make(said: Local, rng: random.Random) -> ServerCore:
            return ServerCore(
                said, rng, methods=methods, capacity=capacity, window=self.window, limits=self.limits, **more
            )

        self.server = Host(
            "server", make, role="server", accepts=frozenset({"client"}), credit_messages=credit,
            credit_bytes=credit_bytes, about={"epoch": EPOCH, "window": EPOCH, "journal": bool(more.get("durable"))},
        )  # fmt: skip
        self.hand = Host(
            "client", Hand, role="client", accepts=frozenset({"server"}), credit_messages=0, credit_bytes=0,
            about={"client": key},
        )  # fmt: skip
        self.server.replies = Told()
        self.pair = CorePair(self.hand, self.server)
        self.floor = 1
        self.take()

    def restart(self, **more: Any) -> Serving:
        """Another server that finds what this one's journal holds, with a client of the same key."""
        rows = [Row(key, weight, value) for key, (weight, value) in sorted(self.server.rows.get("calls", {}).items())]
        again = Serving(window=self.window, limits=self.limits, durable=True, rows=rows, **more)
        again.server.rows = {log: dict(rows) for log, rows in self.server.rows.items()}
        return again

    def client(self, key: bytes = b"k" * 16, name: str = "another") -> None:
        """The client is lost, and another one comes."""
        self.pair.disconnect()
        self.pair.advance(20.0)
        self.hand = Host(
            name, Hand, role="client", accepts=frozenset({"server"}), credit_messages=0, credit_bytes=0,
            about={"client": key},
        )  # fmt: skip
        self.pair.c = self.hand
        self.pair.connect()
        self.pair.flow()
        self.floor = 1
        self.take()

    @property
    def core(self) -> ServerCore:
        core: ServerCore = self.server.core
        return core

    def call(self, number: int, method: str = "add", body: bytes = b"args", **more: Any) -> None:
        """One CALL, in a message of its own."""
        self.send([self.record(number, method, **more)], [body])

    def record(
        self, number: int, method: str = "add", *, remaining: float | None = None, stamp: float | None = None,
        **more: Any,
    ) -> wire.Record:  # fmt: skip
        return [wire.CALL, number, None, method, remaining, self.pair.now if stamp is None else stamp, more or None]

    def send(
        self, records: list[wire.Record], bodies: list[bytes | None] | None = None, *, epoch: bytes = EPOCH,
        messages: int | None = None, flow: bool = True,
    ) -> None:  # fmt: skip
        packer = wire.Packer()
        for record, body in zip(records, bodies or [None] * len(records), strict=True):
            packer.add(record, body)
        count = packer.calls if messages is None else messages
        (session,) = self.hand.core.sessions
        self.hand.core.sessions.send(session, packer.pack(epoch, self.floor), count, self.pair.now)
        if flow:
            self.pair.flow()

    def take(self) -> list[tuple[Any, ...]]:
        """What the client got since last asked, without METHODS."""
        got, self.hand.core.got = self.hand.core.got, []
        return [each for each in got if each[0] != "METHODS"]

    def items(self) -> list[Execution]:
        """What was handed to the handlers since last asked."""
        items, self.server.items = self.server.items, []
        return items

    def item(self) -> Execution:
        """The one that was handed out."""
        (execution,) = self.items()
        return execution

    def do(self, verb: str, *args: Any) -> None:
        """A verb of the handlers, and what follows from it."""
        getattr(self.core, verb)(*args, self.pair.now)
        self.pair.flow()

    def plain(self, link: str, *frames: bytes) -> list[list[bytes]]:
        """A message of a plain client; what is sent back at once."""
        self.core.receive_message(link, list(frames), self.pair.now)
        return self.plain_sent()

    def plain_sent(self) -> list[list[bytes]]:
        """What was sent to plain clients."""
        out = self.core.out
        self.core.end_turn(self.pair.now)
        mine = [list(frames) for link, frames in out.sends if isinstance(link, str)]
        out.sends = [each for each in out.sends if not isinstance(each[0], str)]
        self.pair.flow()
        return mine

    def finish(self, execution: Execution, body: bytes = b"result", kind: int = calls.RESULT, **more: Any) -> None:
        self.core.finish(execution, Answer(kind, body, **more), self.pair.now)
        self.pair.flow()

    def count(self, name: str) -> int:
        return int(self.core.counters[name])


def refused(code: str, serving: Serving) -> list[int]:
    """The numbers that were refused so; nothing else came."""
    got = serving.take()
    assert [each[0] for each in got] == ["REFUSED"] * len(got), got
    assert {each[2] for each in got} <= {code}, got
    return [each[1] for each in got]
