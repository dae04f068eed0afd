"""Frames of request-reply, inside a session's messages (docs/protocol.md, section 12).

Pure. A message carries many records, so that what is ready together shares a frame::

    [head, large, large ...]      head = msgpack [epoch, floor, [record, ...]]

A record is a list ``[op, number, body, ...]``. `body` is None where there is none, or the bytes themselves, or -1 for a
large one: it is the next frame after the head. A client's head names the server epoch that its calls are for, and its
floor; a server's head has b"" and 0 there. Fields that are not known are skipped.

What a stranger sends is returned checked, or raises `DecodeError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from zmqkit.errors import DecodeError
from zmqkit.protocol import wire
from zmqkit.protocol.core import Frames
from zmqkit.protocol.wire import MAX_NUMBER

CALL, CANCEL, GRANT, ITEM, END, ABORT, RESULT, ERROR, REFUSED, UNKNOWN, METHODS, DRAINING = range(1, 13)
NAMES: Final = (
    "", "CALL", "CANCEL", "GRANT", "ITEM", "END", "ABORT", "RESULT", "ERROR", "REFUSED", "UNKNOWN", "METHODS",
    "DRAINING",
)  # fmt: skip

FROM_CLIENT: Final = frozenset({CALL, CANCEL, GRANT, ITEM, END, ABORT})
FROM_SERVER: Final = frozenset({RESULT, ERROR, REFUSED, UNKNOWN, METHODS, DRAINING, ITEM, END, GRANT})

FIELDS: Final = (0, 7, 3, 4, 5, 4, 4, 4, 3, 5, 5, 3, 3)
"""How many fields a record of each op has at least::

    [CALL, number, body, method, remaining, stamp, more]   remaining: seconds or None; stamp: the sender's clock
    [CANCEL, number, None]
    [GRANT, number, None, limit]                           absolute: so many items may come
    [ITEM, number, body, index, codec]                     from 0; codec None: msgpack
    [END, number, None, count]                             of a stream, or of an upload
    [ABORT, number, None, reason]                          of an upload, by who makes it
    [RESULT, number, body, codec]
    [ERROR, number, body]                                  a msgpack map; see `failure`
    [REFUSED, number, None, code, message]                 nothing was executed
    [UNKNOWN, number, None, code, message]                 perhaps it was
    [METHODS, 0, body]                                     a msgpack list: the names of idempotent methods
    [DRAINING, 0, None]
"""

LARGE: Final = 16 * 1024
"""Bodies of so many bytes travel as frames of their own: they are not copied into the head."""

MAX_RECORDS: Final = 256
"""A message is sent when it holds so many records..."""
MAX_BLOB: Final = 1 << 20
"""...or so many bytes of small bodies."""
MOST_RECORDS: Final = 1 << 16
"""More records than this in one message are not ours."""

MAX_METHOD: Final = 200
MAX_ID: Final = 1_000
MAX_CODE: Final = 200
MAX_MESSAGE: Final = 4_000
MAX_CODEC: Final = 64

Record = list[Any]


class Packer:
    """Gathers the records of one message. Bodies keep their order; `pack` empties it.

    Attributes:
        records: what was added.
        calls: how many CALL records are in; what the message counts against the credit.
        size: bytes of the bodies that ride in their records.
    """

    __slots__ = ("_large", "calls", "records", "size")

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.calls = 0
        self.size = 0
        self._large: list[bytes] = []

    def add(self, record: Record, body: bytes | None = None) -> bool:
        """Add a record, and its body if it has one (puts it into its place). True: send it, it is full."""
        if body is not None:
            size = len(body)
            if size < LARGE:
                record[2] = body
                self.size += size
            else:
                record[2] = -1
                self._large.append(body)
        self.records.append(record)
        if record[0] == CALL:
            self.calls += 1
        return len(self.records) >= MAX_RECORDS or self.size >= MAX_BLOB or len(self._large) >= 64

    def pack(self, epoch: bytes = b"", floor: int = 0) -> Frames:
        """The frames of all that was added; afterwards it is empty."""
        frames = (wire.pack([epoch, floor, self.records]), *self._large)
        self.records = []
        self.calls = self.size = 0
        if self._large:
            self._large = []
        return frames


def read(frames: Frames, ops: frozenset[int]) -> tuple[bytes, int, list[Record]]:
    """Decode one message that may hold records of these ops: epoch, floor, records. Raises `DecodeError`.

    Afterwards each record holds its body, b"" where there is none. Checked of each: op, number, body, the number of its
    fields, and that no frame is left. The other fields are checked by `call`, `refusal` and their like, record by
    record, so that a bad one spoils only itself.
    """
    head = wire.unpack(frames[0]) if frames else None
    if type(head) is not list or len(head) < 3 or type(head[2]) is not list:
        raise DecodeError("a message of request-reply without a head")
    epoch, floor, records = head[:3]
    if type(epoch) is not bytes or len(epoch) > 16:
        raise DecodeError("a message of request-reply without an epoch")
    if type(floor) is not int or not 0 <= floor < MAX_NUMBER:
        raise DecodeError(f"floor must be a whole number, got {wire.shown(floor)}")
    if len(records) > MOST_RECORDS:
        raise DecodeError(f"a message of {len(records)} records")
    large = 1
    for record in records:
        try:
            op, number, body, *more = record
        except (TypeError, ValueError):
            raise DecodeError("a record without its fields") from None
        if type(record) is not list or type(op) is not int or op not in ops or len(more) + 3 < FIELDS[op]:
            raise DecodeError(f"a record of kind {wire.shown(op)}, or without its fields")
        if type(number) is not int or not 0 <= number < MAX_NUMBER:
            raise DecodeError(f"{NAMES[op]} of a number {wire.shown(number)}")
        if type(body) is bytes:
            continue
        if body is None:
            record[2] = b""
        elif type(body) is not int or body != -1:
            raise DecodeError(f"{NAMES[op]} with a body that is {wire.shown(body)}")
        elif large == len(frames):
            raise DecodeError(f"{NAMES[op]} whose body is missing")
        else:
            record[2] = frames[large]
            large += 1
    if large != len(frames):
        raise DecodeError("bodies that are not those of the records")
    return epoch, floor, records


NO_HEADERS: Final[dict[str, str]] = {}
"""Of all calls without; nobody writes into headers."""


class CallFields(NamedTuple):
    """What a CALL record says, checked."""

    method: str
    remaining: float | None
    stamp: float
    id: str
    """The caller's own request id; empty without one."""
    attempt: int
    headers: dict[str, str]
    codec: str
    items: int | None
    """A stream is wanted, and so many items may come at first; None: one reply is wanted."""
    uploads: tuple[int | str, ...]
    """Which arguments are streams: positions, or names of keyword arguments. At most one."""


def call(record: Record) -> CallFields:
    """The fields of a CALL. Raises `DecodeError`."""
    method = record[3]
    if type(method) is not str or not 0 < len(method) <= MAX_METHOD:
        raise DecodeError(f"method must be text of 1 to {MAX_METHOD} characters, got {wire.shown(method)}")
    remaining, stamp, more = record[4], record[5], record[6]
    if (
        more is None
        and type(stamp) is float
        and -1e15 < stamp < 1e15
        and (remaining is None or (type(remaining) is float and -1e9 < remaining < 1e9))
    ):
        # The same as below, for nearly all calls; and past the constructor, which is a Python function.
        return tuple.__new__(CallFields, (method, remaining, stamp, "", 1, NO_HEADERS, "msgpack", None, ()))
    if remaining is not None:
        if type(remaining) not in (int, float) or not -1e9 < remaining < 1e9:
            raise DecodeError(f"a remaining time of {wire.shown(remaining)}")
        remaining = float(remaining)
    if type(stamp) not in (int, float) or not -1e15 < stamp < 1e15:
        raise DecodeError(f"a stamp of {wire.shown(stamp)}")
    if more is None:
        return CallFields(method, remaining, float(stamp), "", 1, NO_HEADERS, "msgpack", None, ())
    if type(more) is not dict:
        raise DecodeError("CALL without its map")
    headers = more.get("headers", {})
    if type(headers) is not dict or not all(type(k) is str and type(v) is str for k, v in headers.items()):
        raise DecodeError("headers must be a map from text to text")
    uploads = more.get("uploads", [])
    if type(uploads) is not list or len(uploads) > 1 or not all(type(each) in (int, str) for each in uploads):
        raise DecodeError("uploads must name one argument at most")
    items = more.get("items")
    return CallFields(
        method,
        remaining,
        float(stamp),
        wire.text(more.get("id", ""), "id", MAX_ID),
        wire.number(more.get("attempt", 1), "attempt"),
        headers,
        wire.text(more.get("codec", "msgpack"), "codec", MAX_CODEC),
        None if items is None else wire.number(items, "items"),
        tuple(uploads),
    )


def codec(value: object) -> str:
    """The codec that a RESULT or an ITEM names. Raises `DecodeError`."""
    return "msgpack" if value is None else wire.text(value, "codec", MAX_CODEC)


def refusal(record: Record) -> tuple[str, str]:
    """Code and message of REFUSED or UNKNOWN. Raises `DecodeError`."""
    return wire.text(record[3], "code", MAX_CODE), wire.text(record[4], "message", MAX_MESSAGE)


def names(bodies: bytes) -> frozenset[str]:
    """The methods that METHODS lists. Raises `DecodeError`."""
    listed: Sequence[object] = wire.unpack(bodies)
    if type(listed) is not list or len(listed) > 100_000:
        raise DecodeError("METHODS without a list")
    return frozenset(wire.text(each, "method", MAX_METHOD) for each in listed)
