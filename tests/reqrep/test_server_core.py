"""The server's core under virtual time: calls that come once, twice, late, too many; clients that go and come back."""

from __future__ import annotations

from tests.reqrep.serving import Serving


def test_a_call_is_executed_and_answered() -> None:
    serving = Serving()
    serving.call(1, "add", b"1+1")
    (execution,) = serving.items()
    assert (execution.method, execution.body, execution.number, execution.deadline) == ("add", b"1+1", 1, None)
    assert serving.take() == []
    serving.finish(execution, b"2")
    assert serving.take() == [("RESULT", 1, None, b"2")]


def test_a_call_that_is_repeated_is_answered_again_and_not_executed() -> None:
    serving = Serving()
    serving.call(1)
    (execution,) = serving.items()
    serving.call(1)
    assert serving.items() == []
    serving.finish(execution)
    assert serving.take() == [("RESULT", 1, None, b"result")]
    serving.call(1)
    assert serving.items() == []
    assert serving.take() == [("RESULT", 1, None, b"result")]
