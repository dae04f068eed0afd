"""What faces and cores of request-reply hand each other: calls and their answers, executions and their methods.

Pure values and plain records. Who may write which field is said at each class: a call and an execution are shared
between one user's thread and the core, so each field has one writer.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from zmqkit.protocol.session import Session


class Kind(enum.IntEnum):
    """How a call ended. The comment says which exception the face makes of it."""

    RESULT = 1  # the value
    DONE = 2  # a stream came to its end
    ERROR = 3  # RemoteError: the handler raised
    REFUSED = 4  # Rejected, by its code: nothing was executed
    UNKNOWN = 5  # OutcomeUnknown: the server says that it may have been executed
    LOST = 6  # OutcomeUnknown (streams: StreamBroken): the server is lost
    NOT_SENT = 7  # NotSent: it never left
    NOT_SENT_IN_TIME = 8  # NotSentInTime
    NO_REPLY_IN_TIME = 9  # NoReplyInTime
    CANCELLED = 10  # the caller cancelled it
    CLOSED = 11  # durable: it stays in the journal
    STORE_FAILED = 12  # durable: `error` says why; nothing was sent


# Plain ints for the hot path.
RESULT: Final = int(Kind.RESULT)
DONE: Final = int(Kind.DONE)
ERROR: Final = int(Kind.ERROR)
REFUSED: Final = int(Kind.REFUSED)
UNKNOWN: Final = int(Kind.UNKNOWN)
LOST: Final = int(Kind.LOST)
NOT_SENT: Final = int(Kind.NOT_SENT)
NOT_SENT_IN_TIME: Final = int(Kind.NOT_SENT_IN_TIME)
NO_REPLY_IN_TIME: Final = int(Kind.NO_REPLY_IN_TIME)
CANCELLED: Final = int(Kind.CANCELLED)
CLOSED: Final = int(Kind.CLOSED)
STORE_FAILED: Final = int(Kind.STORE_FAILED)


class Answer(NamedTuple):
    """What ended a call, at the client; at the server, what a handler made of it (RESULT to UNKNOWN)."""

    kind: int
    body: bytes = b""
    codec: str = "msgpack"
    code: str = ""
    """Of REFUSED and UNKNOWN; LOST: the session's reason."""
    message: str = ""
    server: str = ""
    """The name of the server that it is about, for people; empty: none."""
    error: BaseException | None = None


class Item(NamedTuple):
    """One item of a stream."""

    body: bytes
    codec: str


class ServerState(enum.Enum):
    """What a client thinks of one server (docs/protocol.md, section 12)."""

    UP = "up"
    SUSPECT = "suspect"
    OUT = "out"
    PROBING = "probing"


class Call:
    """One call. The face writes the first group of fields before it hands it over; the core writes the rest.

    Attributes:
        number: unique for the client's key.
        method: its name.
        body: the arguments, encoded; let go of (core) when it is answered.
        codec: of the body.
        deadline: on the driver's clock; None: never.
        retries: how often it may be sent again; None: as often as time allows.
        request_id: the caller's own id; empty: none.
        headers: travel with it; None: none.
        items: a stream is wanted, and so many items may come at first; None: one reply.
        uploads: which argument is a stream (one position or name at most).
        durable: it is journalled until its outcome is known.
        ticket: gets its `Answer` (a stream: each `Item` before it); something with ``resolve``.
        renumber: gives a fresh number.

        attempt: how often it was handed to a server.
        received: items of a stream that came.
        upload_limit: how many items may be uploaded; only rises.
        done: it was answered.
        core: what the core keeps with it.
    """

    __slots__ = (
        "attempt", "body", "codec", "core", "deadline", "done", "durable", "headers", "items", "method", "number",
        "received", "renumber", "request_id", "retries", "ticket", "upload_limit", "uploads",
    )  # fmt: skip

    def __init__(
        self,
        number: int,
        method: str,
        body: bytes,
        *,
        codec: str = "msgpack",
        deadline: float | None = None,
        retries: int | None = None,
        request_id: str = "",
        headers: Mapping[str, str] | None = None,
        items: int | None = None,
        uploads: tuple[int | str, ...] = (),
        durable: bool = False,
        ticket: Any = None,
        renumber: Callable[[], int] | None = None,
    ) -> None:
        self.number = number
        self.method = method
        self.body = body
        self.codec = codec
        self.deadline = deadline
        self.retries = retries
        self.request_id = request_id
        self.headers = headers
        self.items = items
        self.uploads = uploads
        self.durable = durable
        self.ticket = ticket
        self.renumber = renumber
        self.attempt = 0
        self.received = 0
        self.upload_limit = 0
        self.done = False
        self.core: Any = None


class MethodInfo(NamedTuple):
    """What the server's core must know of a method."""

    idempotent: bool = False
    concurrency: int | None = None
    """More of them at once are refused; None: no limit of its own."""


class Execution:
    """One request that is, or is about to be, executed. Made by the core; a handler's thread or task reads it.

    Attributes:
        client: the client's key; b"" of a plain client.
        number: of the call.
        id: the caller's own request id; empty: none.
        method: its name.
        body: the arguments, encoded; let go of by who decodes them.
        codec: of the body.
        deadline: on the driver's clock; None: never.
        attempt: 1 is the first sending.
        headers: of the request.
        items: a stream is wanted; None: one reply.
        limit: so many items of the stream may be emitted; only rises (core).
        uploads: which argument is a stream.
        upload: where its items come: ``resolve`` was called with each `Item`, and at the end with an `Answer`
            (DONE; UNKNOWN: it broke). None without one.
        only_look_up: do not execute: see whether the inbox knows the reply, else answer UNKNOWN "started".
        plain: what the core keeps of a plain client; None of a zmqkit client.
        peer_host: the host id of the client; "" of a plain one.
        cancelled: nobody waits for it any more (core).
        on_cancel: a ticket that gets None when it is cancelled; set through the core's verb `watch`.
        core: what the core keeps with it.
    """

    __slots__ = (
        "attempt", "body", "cancelled", "client", "codec", "core", "deadline", "headers", "id", "items", "limit",
        "method", "number", "on_cancel", "only_look_up", "peer_host", "plain", "session", "upload", "uploads",
    )  # fmt: skip

    def __init__(self, client: bytes, number: int, method: str, body: bytes) -> None:
        self.client = client
        self.number = number
        self.method = method
        self.body = body
        self.id = ""
        self.codec = "msgpack"
        self.deadline: float | None = None
        self.attempt = 1
        self.headers: Mapping[str, str] = {}
        self.items: int | None = None
        self.limit = 0
        self.uploads: tuple[int | str, ...] = ()
        self.upload: Any = None
        self.only_look_up = False
        self.plain: Any = None
        self.peer_host = ""
        self.cancelled = False
        self.on_cancel: Any = None
        self.session: Session | None = None
        self.core: Any = None


DRIFT: Final = 0.001
"""Seconds a second that two clocks may drift apart: twice what NTP may slew one."""


class Eaten:
    """How much time a message lost on its way, without clocks that agree.

    The difference between the receiver's and the sender's clock is the clocks' own plus the way. The least that was
    seen is taken for what it must be; what is above it was eaten by queues, stops and resending. Clocks drift apart,
    and sessions live for months: so what was the least rises slowly, faster than clocks may drift. Clocks leap, too,
    and stand still while their host sleeps: so what was the least counts for a minute at most, if there is newer.
    """

    SPAN_S: Final = 30.0

    __slots__ = ("_at", "_least", "_newer", "_since")

    def __init__(self) -> None:
        self._least: float | None = None
        self._newer = 0.0
        """The least since `_since`; it takes the place of `_least` after a span."""
        self._at = self._since = 0.0

    def of(self, stamp: float, now: float) -> float:
        """Seconds that a message lost which was stamped `stamp` there and arrived `now` here."""
        difference = now - stamp
        least = self._least
        if least is None:
            least = self._newer = difference
            self._since = now
        else:
            rise = (now - self._at) * DRIFT
            least += rise
            newer = self._newer + rise
            if now - self._since >= self.SPAN_S:
                least, newer = newer, difference
                self._since = now
            self._newer = newer if newer < difference else difference
            if difference < least:
                least = difference
        self._least, self._at = least, now
        return difference - least
