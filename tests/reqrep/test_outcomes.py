"""Answers and the exceptions that they are; bytes from a server that lies are no danger."""

from __future__ import annotations

import concurrent.futures
import pickle

import pytest

import zmqkit
from zmqkit import codec
from zmqkit.patterns.reqrep import calls
from zmqkit.patterns.reqrep.calls import Answer, Call, Kind
from zmqkit.patterns.reqrep.outcomes import clean, error_of, failure

LIMITS = zmqkit.Limits()
KEY = b"k" * 16

TABLE: list[tuple[Answer, type[Exception], list[str]]] = [
    (Answer(calls.NOT_SENT, message="why"), zmqkit.NotSent, ["(why)", "nothing was executed", "may be called again"]),
    (Answer(calls.NOT_SENT_IN_TIME), zmqkit.NotSentInTime, ["nothing was executed", "Is a server running"]),
    (Answer(calls.NO_REPLY_IN_TIME), zmqkit.NoReplyInTime, ["may have been executed, or not", "timeout="]),
    (Answer(calls.UNKNOWN, code="started"), zmqkit.OutcomeUnknown, ["(started)", "or not"]),
    (Answer(calls.UNKNOWN, code="timeout"), zmqkit.NoReplyInTime, ["or not"]),
    (Answer(calls.LOST, code="goodbye", server="a"), zmqkit.OutcomeUnknown, ["lost at a", "idempotent=True"]),
    (Answer(calls.CLOSED), zmqkit.OutcomeUnknown, ["stays in the journal", "results()"]),
    (Answer(calls.REFUSED, code="method"), zmqkit.UnknownMethod, ["nothing was executed"]),
    (Answer(calls.REFUSED, code="arguments", message="m"), zmqkit.BadArguments, ["m"]),
    (Answer(calls.REFUSED, code="overloaded"), zmqkit.Overloaded, ["too much to do", "call again later"]),
    (Answer(calls.REFUSED, code="late"), zmqkit.NotSentInTime, ["nothing was executed"]),
    (Answer(calls.REFUSED, code="authorised"), zmqkit.Rejected, ["(authorised)", "nothing was executed"]),
    (Answer(calls.REFUSED, code="cancelled"), concurrent.futures.CancelledError, ["nothing was executed"]),
    (Answer(calls.CANCELLED), concurrent.futures.CancelledError, ["cancelled"]),
    (Answer(calls.STORE_FAILED, error=zmqkit.JournalFull("full")), zmqkit.JournalFull, ["full"]),
    (Answer(calls.STORE_FAILED, error=OSError("disk")), zmqkit.NotSent, ["the journal did not store it: disk"]),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "kind", "words"), TABLE)
def test_each_answer_says_what_happened_and_what_to_do(answer: Answer, kind: type[Exception], words: list[str]) -> None:
    error = error_of(answer, Call(7, "work", b""), KEY, LIMITS)
    assert type(error) is kind
    for each in words:
        assert each in str(error)
    if isinstance(error, zmqkit.OutcomeUnknown):
        assert error.request_id == f"{KEY.hex()}-7"
        assert error.request_id in str(error) or answer.kind == calls.CLOSED


def test_every_kind_of_answer_is_tried() -> None:
    assert {int(answer.kind) for answer, _, _ in TABLE} == set(map(int, Kind)) - {calls.RESULT, calls.DONE, calls.ERROR}


def test_a_broken_stream_says_how_many_items_had_come() -> None:
    call = Call(1, "rows", b"", items=64, request_id="mine")
    call.received = 5
    error = error_of(Answer(calls.LOST, code="silent"), call, KEY, LIMITS)
    assert isinstance(error, zmqkit.StreamBroken)
    assert (error.received, error.request_id) == (5, "mine")
    error = error_of(Answer(calls.NO_REPLY_IN_TIME), call, KEY, LIMITS)
    assert type(error) is zmqkit.NoReplyInTime
    assert "5 items had come" in str(error)


def test_a_failure_arrives_as_it_was() -> None:
    answer = failure("ValueError", "no", code="c", data=[1], traceback="trace", limits=LIMITS)
    error = error_of(answer, Call(1, "f", b""), KEY, LIMITS)
    assert isinstance(error, zmqkit.RemoteError)
    assert (error.type, error.code, error.data, error.remote_traceback) == ("ValueError", "c", [1], "trace")


@pytest.mark.parametrize("told", [b"", b"\xc1", [1], {"type": 5, "message": [1], "code": 1, "traceback": 2}, None])
def test_what_a_server_says_badly_is_an_error_all_the_same(told: object) -> None:
    body = told if isinstance(told, bytes) else codec.encode(told, limits=LIMITS)
    error = error_of(Answer(calls.ERROR, body), Call(1, "f", b""), KEY, LIMITS)
    assert isinstance(error, zmqkit.RemoteError)
    assert error.code is None
    assert error.remote_traceback is None


def test_what_is_too_long_or_no_text_is_cut_to_what_travels() -> None:
    assert clean("x" * 10, 5) == "xx..."
    assert clean("\ud800", 50) == "\\ud800"
    answer = failure("E", "m" * 10_000, data=object(), traceback="t" * 100_000, limits=LIMITS)
    assert len(answer.body) < 25_000


@pytest.mark.parametrize(
    "error",
    [
        zmqkit.RemoteError("m", type="T", code="c", data={"a": 1}, remote_traceback="t"),
        zmqkit.OutcomeUnknown("m", request_id="r"),
        zmqkit.NoReplyInTime("m", request_id="r"),
        zmqkit.StreamBroken("m", request_id="r", received=3),
        zmqkit.ServiceError("code", "m", [1]),
        zmqkit.BadArguments("m", code="arguments"),
        zmqkit.NotSentInTime("m"),
    ],
)
def test_errors_of_calls_can_be_pickled(error: Exception) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_which_error_is_which() -> None:
    assert issubclass(zmqkit.NotSentInTime, (zmqkit.NotSent, TimeoutError))
    assert issubclass(zmqkit.NoReplyInTime, (zmqkit.OutcomeUnknown, TimeoutError))
    assert all(issubclass(each, zmqkit.Rejected) for each in (zmqkit.UnknownMethod, zmqkit.BadArguments))
    assert issubclass(zmqkit.Overloaded, zmqkit.Rejected)
    roots = (zmqkit.NotSent, zmqkit.Rejected, zmqkit.RemoteError, zmqkit.OutcomeUnknown)
    assert all(issubclass(each, zmqkit.CallError) for each in roots)
    assert str(zmqkit.ServiceError("code")) == "code"
