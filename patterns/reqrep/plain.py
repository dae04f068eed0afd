"""Plain REQ and DEALER clients: JSON-RPC 2.0, in JSON or in msgpack (docs/protocol.md, section 13).

Pure translation: bytes to what the core knows, and answers back to bytes. (JSON-RPC 2.0 Specification,
https://www.jsonrpc.org/specification; "jsonrpc" may be missing, batches are refused, and a request without an id is
answered too, for a REQ would wait for ever.)
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

from zmqkit import codec as codecs
from zmqkit.errors import DecodeError, EncodeError
from zmqkit.options import Limits
from zmqkit.patterns.reqrep import calls, wire
from zmqkit.patterns.reqrep.calls import Answer
from zmqkit.protocol.core import Frames, Link

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
NO_METHOD: Final = -32601
BAD_PARAMS: Final = -32602
INTERNAL: Final = -32603
FAILED: Final = -32000
"""The handler raised; ``data`` says type, code and data."""
OVERLOADED: Final = -32001
LATE: Final = -32002
REFUSED: Final = -32003
"""Refused for another reason, which ``data`` names."""

CODES: Final = {
    "method": NO_METHOD, "arguments": BAD_PARAMS, "overloaded": OVERLOADED, "draining": OVERLOADED, "late": LATE,
}  # fmt: skip

_JSON_FIRST = b"{[ \t\r\n"
_MSGPACK_FIRST = bytes([*range(0x80, 0xA0), 0xDC, 0xDD, 0xDE, 0xDF])
_ALONE = frozenset(_JSON_FIRST + bytes([*range(0x80, 0x90), 0xDE, 0xDF]))
"""How a lone frame begins that is no header of ours: as JSON, or as a msgpack map."""

HEADERS: Final = frozenset(bytes([each]) for each in (*range(0x90, 0xA0), 0xDC, 0xDD))
"""How the first frame of a session's message begins: as a msgpack array."""

MAX_HOPS: Final = 8
"""Between a plain client and its server there may be so many devices, each of which puts a routing id in front..."""
MAX_ROUTING_ID: Final = 255
"""...of so many bytes."""

MAX_ID: Final = 1_000


class Plain(NamedTuple):
    """Where an answer goes, and how it is written."""

    link: Link
    envelope: tuple[bytes, ...]
    """What stands before it: routing ids of clients of devices between, and REQ's empty delimiter."""
    encoding: str
    id: str | int | float | None


class PlainCall(NamedTuple):
    """A request, as the core takes it."""

    method: str
    body: bytes
    timeout: float | None


class BadPlain(Exception):
    """Not a request: what to answer."""

    def __init__(self, code: int, message: str, id: str | int | float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.id = id


def is_plain(frames: Frames) -> bool:
    """Whether a message that begins as none of a session is a plain client's: behind REQ's empty delimiter, or behind
    routing ids and that if it came through devices, or alone."""
    if len(frames) == 1:
        return not frames[0] or frames[0][0] in _ALONE
    return _hops(frames) >= 0


def origin(link: Link, frames: Frames) -> Plain:
    """Where the answer to a message goes, before it was read."""
    hops = _hops(frames)
    envelope = tuple(frames[: hops + 1])
    body = frames[hops + 1] if len(frames) > hops + 1 else b""
    return Plain(link, envelope, "msgpack" if body[:1] in _starts else "json", None)


def _hops(frames: Frames) -> int:
    """How many routing ids stand before the empty delimiter; -1: there is none."""
    for at, frame in enumerate(frames[: MAX_HOPS + 1]):
        if not frame:
            return at
        if len(frame) > MAX_ROUTING_ID:
            break
    return -1


_starts = frozenset(bytes([each]) for each in _MSGPACK_FIRST)


def read(plain: Plain, frames: Frames, limits: Limits) -> tuple[Plain, PlainCall]:
    """A request. Raises `BadPlain`."""
    bodies = frames[len(plain.envelope) :]
    if len(bodies) != 1:
        raise BadPlain(INVALID_REQUEST, f"a request is one frame, not {len(bodies)}")
    try:
        request = codecs.decode(bodies[0], plain.encoding, limits=limits)
    except DecodeError as error:
        raise BadPlain(PARSE_ERROR, str(error)[:500]) from None
    if type(request) is list:
        raise BadPlain(INVALID_REQUEST, "batches are not served: send one request at a time")
    if type(request) is not dict:
        raise BadPlain(INVALID_REQUEST, "a request is a map")
    id = request.get("id")
    if not (id is None or type(id) is int or _is_finite(id) or (type(id) is str and len(id) <= MAX_ID)):
        raise BadPlain(INVALID_REQUEST, f"id must be a number, or text of at most {MAX_ID} characters")
    plain = plain._replace(id=id)
    if request.get("jsonrpc", "2.0") != "2.0":
        raise BadPlain(INVALID_REQUEST, 'jsonrpc must be "2.0"', id)
    method = request.get("method")
    if type(method) is not str or not method or len(method) > wire.MAX_METHOD:
        raise BadPlain(INVALID_REQUEST, f"method must be text of at most {wire.MAX_METHOD} characters", id)
    timeout = request.get("timeout")
    if timeout is not None and not (type(timeout) in (int, float) and 0 < timeout < 1e9):
        raise BadPlain(INVALID_REQUEST, "timeout must be a positive number of seconds", id)
    params = request.get("params")
    if params is None:
        params = []
    if type(params) is list:
        arguments: list[Any] = [params, {}]
    elif type(params) is dict and all(type(name) is str for name in params):
        arguments = [[], params]
    else:
        raise BadPlain(BAD_PARAMS, "params must be a list, or a map from names", id)
    try:
        body = codecs.encode(arguments, limits=limits)
    except EncodeError as error:  # an integer of JSON may be larger than msgpack takes
        raise BadPlain(BAD_PARAMS, str(error)[:500], id) from None
    return plain, PlainCall(method, body, None if timeout is None else float(timeout))


def _is_finite(value: object) -> bool:
    return type(value) is float and math.isfinite(value)


# ---- answers ---------------------------------------------------------------------


def answer(plain: Plain, answer: Answer, limits: Limits) -> Frames:
    """What a plain client gets."""
    kind, body, codec, code, message = answer[:5]
    if kind == calls.RESULT:
        try:
            value = codecs.decode(body, codec, limits=limits)
            return _frames(plain, {"jsonrpc": "2.0", "result": value, "id": plain.id}, limits)
        except (DecodeError, EncodeError) as error:
            return failure(plain, INTERNAL, f"it was executed, but its result cannot travel: {str(error)[:500]}")
    if kind == calls.ERROR:
        try:
            told = codecs.decode(body, "msgpack", limits=limits)
        except DecodeError:
            told = None
        if type(told) is not dict:
            return failure(plain, FAILED, "it failed")
        data = {name: told.get(name) for name in ("type", "code", "data")}
        words = str(told.get("message") or told.get("type") or "it failed")
        try:
            return _frames(plain, _error(plain, FAILED, words, data), limits)
        except EncodeError:
            return failure(plain, FAILED, words, {**data, "data": None})
    if kind == calls.REFUSED:
        return failure(plain, CODES.get(code, REFUSED), message or code, {"code": code})
    if kind == calls.DONE:
        return failure(plain, INTERNAL, "it streams: that is for clients of zmqkit")
    return failure(plain, INTERNAL, message or "its outcome is not known", {"code": code})


def failure(plain: Plain, code: int, message: str, data: object = None) -> Frames:
    """An error's frames; what cannot travel of it is left out."""
    found = _error(plain, code, message[: wire.MAX_MESSAGE], data)
    try:
        return _frames(plain, found, Limits())
    except EncodeError:
        return _frames(plain, _error(plain, code, "(not to be shown)", None), Limits())


def _error(plain: Plain, code: int, message: str, data: object) -> dict[str, object]:
    error: dict[str, object] = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return {"jsonrpc": "2.0", "error": error, "id": plain.id}


def _frames(plain: Plain, value: object, limits: Limits) -> Frames:
    deeper = Limits(frame_bytes=limits.frame_bytes, nesting=min(500, limits.nesting + 2))
    body = codecs.encode(value, plain.encoding, limits=deeper)
    return [*plain.envelope, body]
