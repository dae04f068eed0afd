"""Answers and what callers make of them: a value, or an exception that says what happened, and what to do.

Pure. Knows codecs and errors; the bytes of an ERROR are made and read here.
"""

from __future__ import annotations

import concurrent.futures
from typing import Any, Final

from zmqkit import codec as codecs
from zmqkit.errors import (
    BadArguments,
    DecodeError,
    EncodeError,
    JournalFull,
    NoReplyInTime,
    NotSent,
    NotSentInTime,
    OutcomeUnknown,
    Overloaded,
    Rejected,
    RemoteError,
    StreamBroken,
    UnknownMethod,
)
from zmqkit.options import Limits
from zmqkit.patterns.reqrep import calls
from zmqkit.patterns.reqrep.calls import Answer, Call
from zmqkit.patterns.reqrep.wire import MAX_MESSAGE
from zmqkit.protocol.wire import pack

MAX_TRACEBACK: Final = 16_000
"""Of a traceback the last so many characters travel."""

MAX_ERROR: Final = 60_000
"""An ERROR without data is no larger: it fits into the least frame that a peer may take, whatever `Limits` say."""

CODE_METHOD: Final = "method"
CODE_ARGUMENTS: Final = "arguments"
CODE_OVERLOADED: Final = "overloaded"
CODE_LATE: Final = "late"
CODE_CANCELLED: Final = "cancelled"
CODE_DRAINING: Final = "draining"
CODE_TIMEOUT: Final = "timeout"
CODE_ID: Final = "id"
"""Codes of REFUSED and UNKNOWN that this file gives a meaning."""


# ---- at the caller ---------------------------------------------------------------


def value_of(answer: Answer, call: Call, client: bytes, limits: Limits) -> Any:
    """The result of a call, or raise what it came to.

    Args:
        answer: what ended it.
        call: which.
        client: the client's key; part of ids.
        limits: of what is decoded.
    """
    if answer.kind == calls.RESULT:
        try:
            return codecs.decode(answer.body, answer.codec, limits=limits)
        except DecodeError as error:
            raise unread(call, "its result", error) from error
    raise error_of(answer, call, client, limits)


def unread(call: Call, what: str, error: DecodeError) -> RemoteError:
    """What to raise for a value that came, and cannot be decoded at this side."""
    return RemoteError(f"{call.method}() was executed, but {what} cannot be read here: {error}", type="DecodeError")


def error_of(answer: Answer, call: Call, client: bytes, limits: Limits) -> Exception:
    """The exception that this answer is."""
    kind = answer.kind
    method = f"{call.method}()"
    if kind == calls.ERROR:
        return _remote_error(answer, method, limits)
    if kind == calls.REFUSED:
        return _rejection(answer, method)
    if kind == calls.CANCELLED:
        return concurrent.futures.CancelledError(f"{method} was cancelled")
    if kind == calls.STORE_FAILED:
        return _not_stored(answer, method)
    at = f" at {answer.server}" if answer.server else ""
    said = _said(answer)
    if kind == calls.NOT_SENT:
        return NotSent(f"{method} was not sent{said}: nothing was executed, it may be called again")
    if kind == calls.NOT_SENT_IN_TIME:
        return NotSentInTime(
            f"{method} could not be sent before its time was out{said}: nothing was executed. "
            f"Is a server running, at the address that this client has? timeout= says how long to wait"
        )
    if kind == calls.UNKNOWN and answer.code == CODE_TIMEOUT:
        kind = calls.NO_REPLY_IN_TIME  # the server noticed first
    name = request_id(call, client)
    advice = f"Ask what became of it before it is made again; its request id is {name}"
    if call.items is not None and kind != calls.NO_REPLY_IN_TIME:
        return StreamBroken(
            f"the stream of {method}{at} broke after {call.received} items{said}. {advice}",
            request_id=name,
            received=call.received,
        )
    if kind == calls.NO_REPLY_IN_TIME:
        came = f" {call.received} items had come." if call.items is not None else ""
        return NoReplyInTime(
            f"{method} was sent, and no answer came{at} before its time was out{said}.{came} It may have been "
            f"executed, or not. {advice}. timeout= says how long to wait",
            request_id=name,
        )
    if kind == calls.UNKNOWN:
        return OutcomeUnknown(f"{method} may have been executed{at}, or not{said}. {advice}", request_id=name)
    if kind == calls.CLOSED:
        return OutcomeUnknown(
            f"{method} has no answer yet, and this client was closed. It stays in the journal: "
            f"a client that opens it goes on, and results() gives the answer",
            request_id=name,
        )
    return OutcomeUnknown(
        f"the server was lost{at} before it answered {method}{said}. It may have been executed, or not. {advice}. "
        f"What does no harm when done twice, declare idempotent=True: it is then sent again",
        request_id=name,
    )


def interrupted(error: BaseException, call: Call, client: bytes) -> OutcomeUnknown:
    """What to raise when waiting failed, and not the call; `error` says how."""
    return OutcomeUnknown(
        f"{call.method}() was handed over, and this client ended before an answer came ({error}). "
        f"It may have been executed, or not",
        request_id=request_id(call, client),
    )


def request_id(call: Call, client: bytes) -> str:
    """The name of a call, for people: what `Request.id` is at the server."""
    return call.request_id or id_of(client, call.number)


def id_of(client: bytes, number: int) -> str:
    """The name of a call without an id of the caller's own."""
    return f"{client.hex()}-{number}"


def _said(answer: Answer) -> str:
    words = answer.message or answer.code
    return f" ({words})" if words else ""


def _rejection(answer: Answer, method: str) -> Exception:
    code, words = answer.code, answer.message
    at = f" by {answer.server}" if answer.server else ""
    if code == CODE_CANCELLED:
        return concurrent.futures.CancelledError(f"{method} was cancelled before it began: nothing was executed")
    if code == CODE_LATE:
        return NotSentInTime(f"{method} reached the server when its time was out: nothing was executed")
    if code == CODE_METHOD:
        return UnknownMethod(
            f"{words or f'there is no method {method}'}{at}: nothing was executed. methods() lists what there is",
            code=code,
        )
    if code == CODE_ARGUMENTS:
        return BadArguments(words or f"{method} does not take these arguments", code=code)
    if code == CODE_OVERLOADED:
        return Overloaded(
            f"{method} was refused{at}{_said(answer)}: there is too much to do. "
            f"Nothing was executed; call again later, or run more servers",
            code=code,
        )
    return Rejected(f"{method} was refused{at}{_said(answer)}: nothing was executed", code=code)


def _not_stored(answer: Answer, method: str) -> Exception:
    error = answer.error
    reason = error if isinstance(error, Exception) else NotSent("the journal did not store it")
    if isinstance(reason, JournalFull):
        return reason
    found = NotSent(f"{method} was not sent, for the journal did not store it: {reason}")
    found.__cause__ = reason
    return found


def _remote_error(answer: Answer, method: str, limits: Limits) -> RemoteError:
    try:
        told = codecs.decode(answer.body, "msgpack", limits=limits)
    except DecodeError:
        told = None
    if not isinstance(told, dict):
        told = {"type": "Exception", "message": "the server's account of it cannot be read"}
    kind, words = str(told.get("type") or "Exception"), str(told.get("message") or "")
    code, traceback = told.get("code"), told.get("traceback")
    at = f" at {answer.server}" if answer.server else ""
    shown = f"{kind}: {words}" if words else kind
    return RemoteError(
        f"{method} was executed{at} and raised {shown}",
        type=kind,
        code=code if isinstance(code, str) else None,
        data=told.get("data"),
        remote_traceback=traceback if isinstance(traceback, str) else None,
    )


# ---- at the server ---------------------------------------------------------------


def failure(
    kind: str, message: str, *, code: str | None = None, data: object = None, traceback: str | None = None,
    limits: Limits,
) -> Answer:  # fmt: skip
    """An ERROR: the method was executed, and raised. What cannot travel of it is left out, and that is said."""
    told: dict[str, object] = {"type": clean(kind, 200), "message": clean(str(message), MAX_MESSAGE)}
    if code is not None:
        told["code"] = clean(str(code), 200)
    traced = told if traceback is None else {**told, "traceback": clean(traceback[-MAX_TRACEBACK:], MAX_TRACEBACK)}
    if data is not None:
        try:
            return Answer(calls.ERROR, codecs.encode({**traced, "data": data}, limits=limits))
        except EncodeError as error:
            words = clean(f"{message} (its data cannot travel: {error})", MAX_MESSAGE)
            told["message"] = traced["message"] = words
    body = pack(traced)
    return Answer(calls.ERROR, body if len(body) <= MAX_ERROR else pack(told))


def refused(code: str, message: str) -> Answer:
    """A REFUSED: nothing was executed."""
    return Answer(calls.REFUSED, code=code, message=clean(message, MAX_MESSAGE))


def unknown(code: str, message: str) -> Answer:
    """An UNKNOWN: perhaps it was executed."""
    return Answer(calls.UNKNOWN, code=code, message=clean(message, MAX_MESSAGE))


def clean(text: str, most: int) -> str:
    """Text that a frame can carry: no halves of surrogate pairs, at most so many characters."""
    if len(text) > most:
        text = text[: most - 3] + "..."
    if not can_travel(text):
        text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= most else text[: most - 3] + "..."


def can_travel(text: str) -> bool:
    """Whether a frame can carry it: it holds no halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
