"""Rows of the journals of request-reply (docs/protocol.md, sections 8.4 and 8.5).

Pure. The log ``calls`` is the server's: a row is a call that was started, or its reply under the same key, or the
evicted floor of a client. The log ``requests`` is the client's: a row is a durable call whose outcome is not known yet,
under its number.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from zmqkit.errors import DecodeError, JournalDamaged
from zmqkit.patterns.reqrep.calls import Answer, Call
from zmqkit.protocol import core, wire

CALLS: Final = "calls"
REQUESTS: Final = "requests"

FORMAT: Final = 1

STARTED, DONE, FLOOR = "started", "done", "floor"


class CallRow(NamedTuple):
    """What a row of ``calls`` says.

    Attributes:
        key: of the row.
        kind: STARTED, DONE or FLOOR.
        client: the client's key.
        number: of the call; of a FLOOR: the evicted floor.
        id: the caller's own request id; empty: none.
        method: its name.
        answer: of DONE.
    """

    key: int
    kind: str
    client: bytes
    number: int
    id: str = ""
    method: str = ""
    answer: Answer | None = None

    def pack(self) -> bytes:
        """The row's value: a head of msgpack, its length before it, and the reply's body."""
        head: list[object] = [FORMAT, self.kind, self.client, self.number, self.id, self.method]
        body = b""
        if self.answer is not None:
            kind, body, codec, code, message = self.answer[:5]
            head += [int(kind), codec, code, message]
        packed = wire.pack(head)
        return b"".join((len(packed).to_bytes(4, "big"), packed, body))


def read_call(row: core.Row) -> CallRow:
    """A row of ``calls``, back from the journal. Raises `DecodeError`."""
    size = int.from_bytes(row.value[:4], "big")
    head = wire.unpack(row.value[4 : 4 + size])
    if type(head) is not list or len(head) < 6 or head[0] != FORMAT:
        raise DecodeError(f"row {row.key} of the calls is of a format that this version does not read")
    _, kind, client, number, id, method = head[:6]
    if type(client) is not bytes or kind not in (STARTED, DONE, FLOOR):
        raise DecodeError(f"row {row.key} of the calls is none")
    answer = None
    if kind == DONE:
        if len(head) < 10:
            raise DecodeError(f"row {row.key} of the calls is a reply with parts missing")
        answer = Answer(
            wire.number(head[6], "kind"), row.value[4 + size :], wire.text(head[7], "codec"),
            wire.text(head[8], "code"), wire.text(head[9], "message", 1 << 20),
        )  # fmt: skip
    return CallRow(
        row.key, kind, client, wire.number(number, "number"), wire.text(id, "id"), wire.text(method, "method"), answer
    )


def unreadable(error: DecodeError) -> JournalDamaged:
    """What to tell the user of a row that cannot be read."""
    return JournalDamaged(
        f"a row of the journal cannot be read: {error}. Another version of zmqkit wrote it, or another program: open "
        "it with that version, put back a good copy, or move all files of its name aside to begin with an empty one"
    )


class Mark(NamedTuple):
    """Where a durable call was handed last.

    Attributes:
        window: the window's id; empty: nowhere yet.
        durable: that window is in a journal.
        idempotent: the method is idempotent, as that server says.
        exposed: it may have been executed in some other window before.
    """

    window: bytes = b""
    durable: bool = False
    idempotent: bool = False
    exposed: bool = False


NOWHERE: Final = Mark()


def pack_request(call: Call, mark: Mark) -> bytes:
    """The value of a row of ``requests``."""
    headers = dict(call.headers) if call.headers else None
    head = [FORMAT, call.method, call.codec, call.request_id, call.retries, headers, *mark]
    packed = wire.pack(head)
    return b"".join((len(packed).to_bytes(4, "big"), packed, call.body))


def read_request(row: core.Row) -> Call:
    """A row of ``requests``, back from the journal, for `ClientCore.resume`. Raises `DecodeError`.

    The call has no ticket and no `renumber`; its `core` is the `Mark`.
    """
    size = int.from_bytes(row.value[:4], "big")
    head = wire.unpack(row.value[4 : 4 + size])
    if type(head) is not list or len(head) < 10 or head[0] != FORMAT:
        raise DecodeError(f"row {row.key} of the requests is of a format that this version does not read")
    _, method, codec, request_id, retries, headers, window, durable, idempotent, exposed = head[:10]
    if type(window) is not bytes or type(headers) not in (dict, type(None)) or type(retries) not in (int, type(None)):
        raise DecodeError(f"row {row.key} of the requests is none")
    call = Call(
        row.key, wire.text(method, "method"), row.value[4 + size :], codec=wire.text(codec, "codec"), retries=retries,
        request_id=wire.text(request_id, "id"), headers=headers, durable=True,
    )  # fmt: skip
    call.core = Mark(window, durable is True, idempotent is True, exposed is True)
    call.attempt = 1 if window else 0
    return call
