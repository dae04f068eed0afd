"""A small client of request-reply with pyzmq and msgpack alone, written from docs/protocol.md, sections 12 and 13.

Nothing of zmqkit is imported here. `RawClient` calls in a session (`peer` is its session layer), `PlainClient` without
one.
"""

from __future__ import annotations

import json
import time
from types import TracebackType
from typing import Any, Self

import zmq

from tests.conformance.peer import RawPeer, pack, unpack

CALL, CANCEL, GRANT, ITEM, END, ABORT, RESULT, ERROR, REFUSED, UNKNOWN, METHODS, DRAINING = range(1, 13)  # 12.1
LARGE = 16 * 1024

PATIENCE_MS = 20_000


class RawClient(RawPeer):
    """12, from the client's side: one server.

    Attributes:
        answers: number -> how each call ended, in the order of coming: (op, what it said).
        items: number -> items of its stream, in order.
        upload_limits: number -> how many items may be uploaded.
        methods: the names of idempotent methods; None before METHODS came.
        draining: the server takes no more calls.
    """

    role = "client"

    def __init__(self, address: str, *, key: bytes = b"", credit: tuple[int, int] = (0, 0)) -> None:
        self.key = key
        self.number = 0
        self.floor = 1
        self.answers: dict[int, list[tuple[int, Any]]] = {}
        self.items: dict[int, list[Any]] = {}
        self.upload_limits: dict[int, int] = {}
        self.methods: list[str] | None = None
        self.draining = False
        super().__init__(connect=address, credit=credit)

    def _open(self) -> zmq.Socket[bytes]:
        self.about = {"client": self.key or self.instance}
        return super()._open()

    # ---- out -------------------------------------------------------------------------

    def say(self, *records: tuple[list[Any], bytes | None], epoch: bytes | None = None) -> None:
        """12.1: one message; each record's body is put into its place."""
        large = []
        for record, body in records:
            record[2] = body
            if body is not None and len(body) >= LARGE:
                record[2] = -1
                large.append(body)
        epoch = self.other["about"]["epoch"] if epoch is None else epoch
        head = pack([epoch, self.floor, [record for record, _ in records]])
        self.send([head, *large], sum(record[0] == CALL for record, _ in records))

    def record(
        self, method: str, args: list[Any], kwargs: dict[str, Any] | None = None, *, number: int = 0,
        remaining: float | None = None, codec: str = "msgpack", **more: Any,
    ) -> tuple[list[Any], bytes]:  # fmt: skip
        """12.2: a CALL, with a fresh number if none is given."""
        if not number:
            self.number += 1
            number = self.number
        if codec != "msgpack":
            more["codec"] = codec
        arguments = [args, kwargs or {}]
        body = json.dumps(arguments).encode() if codec == "json" else pack(arguments)
        return [CALL, number, None, method, remaining, time.monotonic(), more or None], body

    def call(self, method: str, *args: Any, **more: Any) -> int:
        """One CALL in a message of its own; its number."""
        self.until(lambda: self.welcomed)
        record, body = self.record(method, list(args), **more)
        self.say((record, body))
        number: int = record[1]
        return number

    def answer(self, number: int) -> tuple[int, Any]:
        """How a call ended; waits for that."""
        self.until(lambda: number in self.answers)
        return self.answers[number][-1]

    def cancel(self, number: int) -> None:
        self.say(([CANCEL, number, None], None))

    def grant(self, number: int, limit: int) -> None:
        self.say(([GRANT, number, None, limit], None))

    def upload(self, number: int, first: int, *items: Any) -> None:
        """12.7; the caller minds the limit."""
        self.say(*(([ITEM, number, None, first + at, None], pack(item)) for at, item in enumerate(items)))

    def end_upload(self, number: int, count: int) -> None:
        self.say(([END, number, None, count], None))

    def abort_upload(self, number: int, reason: str) -> None:
        self.say(([ABORT, number, None, reason], None))

    # ---- in --------------------------------------------------------------------------

    def take(self, body: list[bytes], messages: int) -> None:
        epoch, floor, records = unpack(body[0])[:3]
        assert (epoch, floor, messages) == (b"", 0, 0)
        large = body[1:]
        for record in records:
            self.take_record(record, large.pop(0) if record[2] == -1 else record[2] or b"")
        assert not large

    def take_record(self, record: list[Any], body: bytes) -> None:
        op, number = record[:2]
        if op == METHODS:
            assert not self.answers, "METHODS comes first"
            self.methods = unpack(body)
        elif op == DRAINING:
            self.draining = True
        elif op == GRANT:
            self.upload_limits[number] = max(record[3], self.upload_limits.get(number, 0))
        elif op == ITEM:
            assert number not in self.answers
            items = self.items.setdefault(number, [])
            assert record[3] == len(items)
            items.append(_decode(body, record[4]))
        else:
            self.answers.setdefault(number, []).append((op, _ending(record, body)))


def _ending(record: list[Any], body: bytes) -> Any:
    op = record[0]
    if op == RESULT:
        return _decode(body, record[3])
    if op == ERROR:
        return unpack(body)
    if op == END:
        return record[3]
    assert op in (REFUSED, UNKNOWN)
    return record[3]


def _decode(body: bytes, codec: str | None) -> Any:
    return json.loads(body) if codec == "json" else unpack(body)


class PlainClient:
    """13: a REQ or a DEALER, in JSON or in msgpack.

    Args:
        address: of the server.
        kind: zmq.REQ or zmq.DEALER.
        encoding: "json" or "msgpack".
        delimited: a DEALER's requests have an empty frame before them, as REQ's do.
    """

    def __init__(self, address: str, kind: int, encoding: str, delimited: bool = False) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(kind)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(address)
        self.encoding = encoding
        self.before = [b""] if delimited else []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, t: type[BaseException] | None, v: BaseException | None, tb: TracebackType | None) -> None:
        self.socket.close(0)
        self.context.term()

    def send(self, request: object) -> None:
        self.send_raw(json.dumps(request).encode() if self.encoding == "json" else pack(request))

    def send_raw(self, request: bytes) -> None:
        self.socket.send_multipart([*self.before, request])

    def receive(self) -> dict[str, Any]:
        assert self.socket.poll(PATIENCE_MS), "no reply came"
        frames = self.socket.recv_multipart()
        assert frames[:-1] == self.before
        reply: dict[str, Any] = json.loads(frames[-1]) if self.encoding == "json" else unpack(frames[-1])
        assert reply["jsonrpc"] == "2.0"
        assert ("result" in reply) != ("error" in reply)
        return reply

    def call(self, method: str, params: object = None, id: object = 1, **more: Any) -> dict[str, Any]:
        """One request and its reply."""
        request = {"method": method, "id": id, **more}
        if params is not None:
            request["params"] = params
        self.send(request)
        return self.receive()
