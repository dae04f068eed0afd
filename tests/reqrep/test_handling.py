"""What a caller is told of a handler that raised."""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from types import SimpleNamespace
from typing import Any

import pytest

from zmqkit import Limits, NoReplyInTime, RemoteError
from zmqkit.patterns.reqrep.calls import Call
from zmqkit.patterns.reqrep.handling import Handling, Ready
from zmqkit.patterns.reqrep.methods import Methods
from zmqkit.patterns.reqrep.outcomes import error_of

ENDINGS = (concurrent.futures.CancelledError, asyncio.CancelledError)


def told(error: BaseException, *, left: float) -> BaseException:
    """The error at a caller whose handler raised this, so many seconds before its time was over."""
    until = time.monotonic() + left
    execution: Any = SimpleNamespace(cancelled=False, deadline=until, peer_host="")
    method: Any = SimpleNamespace(name="work", mark=SimpleNamespace(timeout=None))
    request: Any = None
    handling = Handling(Methods(), "msgpack", Limits(), lambda _: False, lambda *_: None)
    answer = handling.failed(Ready(execution, method, request, [], {}, until, None), error)
    return error_of(answer, Call(1, "work", b""), b"c" * 16, Limits())


@pytest.mark.parametrize("error", ENDINGS)
def test_a_handler_that_stops_because_its_time_is_over_is_told_as_out_of_time(error: type[BaseException]) -> None:
    assert type(told(error(), left=-1)) is NoReplyInTime


@pytest.mark.parametrize("error", ENDINGS)
def test_a_handler_that_stops_before_its_time_is_told_as_its_own_error(error: type[BaseException]) -> None:
    found = told(error("why"), left=60)
    assert isinstance(found, RemoteError)
    assert found.type == "CancelledError"
