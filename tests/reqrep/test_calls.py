"""Calls over all three faces: every verb, and every way in which a call can end."""

from __future__ import annotations

import concurrent.futures
import threading
from datetime import UTC, datetime
from typing import Any, Protocol

import pytest

import zmqkit
from tests.reqrep.faces import PATIENCE_S, Face, Gate, bare, raised
from zmqkit import (
    BadArguments,
    EncodeError,
    NoReplyInTime,
    NotSent,
    NotSentInTime,
    OutcomeUnknown,
    Overloaded,
    RemoteError,
    Request,
    UnknownMethod,
)


def add(a: int, b: int = 1) -> int:
    """The sum."""
    return a + b


async def test_values_arrive_as_they_were_sent(face: Face) -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    values = [None, True, 1 << 60, 1.5, "ä", b"\x00", [1, [2]], {"a": {"b": 1}}, {1: 2}, moment]
    server = face.Server()
    server.method(name="echo")(lambda *args, **kwargs: [list(args), kwargs])
    async with server, face.Client(server) as client:
        assert await client.call("echo", *values, x=values) == [values, {"x": values}]
        large = b"x" * 1_000_000
        assert await client.call("echo", large) == [[large], {}]


async def test_functions_and_coroutines_are_called_alike(face: Face) -> None:
    server = face.Server()
    server.method(add)

    @server.method
    async def later(a: int, b: int = 1) -> int:
        return a + b

    async with server, face.Client(server) as client:
        for name in ("add", "later"):
            assert await client.call(name, 2, b=3) == 5
            assert await client.call(name, 2) == 3
            assert await face.value(client.submit(name, 5, 5)) == 10


async def test_submitted_calls_run_side_by_side(face: Face) -> None:
    gate = Gate(face)
    server = face.Server(threads=4)
    server.method(name="wait")(gate.wait)
    async with server, face.Client(server) as client:
        replies = [client.submit("wait", n) for n in range(4)]
        assert sorted([await gate.entered.next() for _ in replies]) == [0, 1, 2, 3]
        gate.open()
        assert [await face.value(each) for each in replies] == [0, 1, 2, 3]
        assert len({each.id for each in replies}) == 4


async def test_an_exception_arrives_as_a_remote_error(face: Face) -> None:
    server = face.Server(name="calc")

    @server.method
    def fail() -> None:
        raise ValueError("no such thing")

    @server.method
    async def refuse() -> None:
        raise zmqkit.ServiceError("out-of-stock", "none left", {"id": 3})

    async with server, face.Client(server) as client:
        error = await raised(RemoteError, client.call, "fail")
        assert str(error) == "fail() was executed at calc and raised ValueError: no such thing"
        assert (error.type, error.code, error.data) == ("ValueError", None, None)
        assert error.remote_traceback.startswith("Traceback")
        assert 'raise ValueError("no such thing")' in error.remote_traceback
        assert "hosting.py" not in error.remote_traceback
        error = await raised(RemoteError, client.call, "refuse")
        assert (error.type, error.code, error.data) == ("ServiceError", "out-of-stock", {"id": 3})
        assert "none left" in str(error)


@pytest.mark.parametrize("tells", [True, False])
async def test_tracebacks_travel_only_where_they_may(face: Face, tells: bool) -> None:
    server = face.Server(tracebacks=tells)
    server.method(name="fail")(lambda: 1 / 0)
    async with server, face.Client(server) as client:
        error = await raised(RemoteError, client.call, "fail")
        assert (error.remote_traceback is not None) is tells


async def test_what_is_refused_was_not_executed(face: Face) -> None:
    server = face.Server(name="calc")
    ran: list[Any] = []

    @server.method
    def work(a: int, *, b: int = 0) -> None:
        ran.append(a)

    @server.method
    def rows(n: int) -> Any:
        yield from range(n)

    async with server, face.Client(server) as client:
        error = await raised(UnknownMethod, client.call, "wrok", 1)
        assert "there is no method 'wrok' by calc: nothing was executed" in str(error)
        for args, kwargs, message in (
            ((), {}, "work() missing 1 required positional argument: 'a'"),
            ((1, 2), {}, "work() takes 1 positional argument but 2 were given"),
            ((1,), {"c": 2}, "work() got an unexpected keyword argument 'c'"),
        ):
            error = await raised(BadArguments, client.call, "work", *args, **kwargs)
            assert str(error) == message
            assert error.code == "arguments"
        error = await raised(BadArguments, client.call, "rows", 3)
        assert "client.stream('rows', ...)" in str(error)
        assert not ran


async def test_what_cannot_travel_is_told_at_the_line_that_sent_it(face: Face) -> None:
    async with face.Server() as server, face.Client(server) as client:
        error = await raised(EncodeError, client.call, "x", 1, {"when": object()})
        assert str(error).startswith('argument 2 of x() cannot travel: body["when"]')
        error = await raised(EncodeError, client.call, "x", where=object())
        assert str(error).startswith("argument 'where' of x() cannot travel")
        assert client.stats()["calls_sent"] == 0


async def test_results_and_errors_that_cannot_travel_say_so(face: Face) -> None:
    server = face.Server()
    server.method(name="thing")(object)

    @server.method
    def fail() -> None:
        raise zmqkit.ServiceError("odd", "here", object())

    @server.method
    def surrogate() -> None:
        raise ValueError("\udc80")

    @server.method
    def textless() -> None:
        class Odd(Exception):
            def __str__(self) -> str:
                raise RuntimeError

        raise Odd

    @server.method
    def leave() -> None:
        raise SystemExit(3)

    async with server, face.Client(server) as client:
        error = await raised(RemoteError, client.call, "thing")
        assert error.type == "EncodeError"
        assert "thing() was executed, but the result cannot travel: body is of type object" in str(error)
        error = await raised(RemoteError, client.call, "fail")
        assert (error.code, error.data) == ("odd", None)
        assert "its data cannot travel" in str(error)
        assert "\\udc80" in str(await raised(RemoteError, client.call, "surrogate"))
        assert (await raised(RemoteError, client.call, "textless")).type == "Odd"
        assert (await raised(RemoteError, client.call, "leave")).type == "SystemExit"
        assert await client.methods()  # it goes on


async def test_a_result_that_is_too_large_says_so(face: Face) -> None:
    server = face.Server(limits=zmqkit.Limits(frame_bytes=65536 + 10_000))
    server.method(name="fill")(lambda size: b"x" * size)
    async with server, face.Client(server) as client:
        assert len(await client.call("fill", 9_000)) == 9_000
        error = await raised(RemoteError, client.call, "fill", 20_000)
        assert error.type == "EncodeError"


async def test_without_a_server_a_call_is_not_sent_in_time(face: Face) -> None:
    server = face.Server()
    async with server:
        address = server.addresses[0]
    async with face.Client(address, timeout=0.05) as client:
        error = await raised(NotSentInTime, client.call, "add", 1)
        assert isinstance(error, TimeoutError)
        assert "nothing was executed" in str(error)
        assert isinstance(await raised(NotSentInTime, lambda: face.value(client.submit("add", 1))), NotSent)


async def test_a_call_without_an_answer_ends_at_its_time(face: Face) -> None:
    gate = Gate(face)
    server = face.Server()
    server.method(name="wait")(gate.wait)
    async with server, face.Client(server) as client:
        reply = client.options(timeout=0.2).submit("wait")
        await gate.entered.next()
        with pytest.raises(NoReplyInTime) as caught:
            await face.value(reply)
        assert isinstance(caught.value, TimeoutError)
        assert isinstance(caught.value, OutcomeUnknown)
        assert caught.value.request_id == reply.id
        gate.open()
        await gate.left.next()


async def test_too_many_at_once_are_refused(face: Face) -> None:
    gate = Gate(face)
    server = face.Server()
    server.method(name="wait", concurrency=1)(gate.wait)
    async with server, face.Client(server) as client:
        first = client.submit("wait", 1)
        await gate.entered.next()
        error = await raised(Overloaded, client.call, "wait", 2)
        assert error.code == "overloaded"
        gate.open()
        assert await face.value(first) == 1


async def test_a_method_that_takes_longer_than_it_may_is_told_to_its_caller(face: Face) -> None:
    gate = Gate(face)
    server = face.Server()
    server.method(name="plain", timeout=0.1)(gate.wait)
    server.method(name="coroutine", timeout=0.1)(gate.pause)
    async with server, face.Client(server) as client:
        for name in ("plain", "coroutine"):
            error = await raised(NoReplyInTime, client.call, name)
            assert f"{name}() took longer than the 0.1 s that the server gives it" in str(error)
        assert await gate.left.next() == "cancelled"
        gate.open()
        assert await gate.left.next() == "through"


async def test_the_same_request_id_gets_the_same_answer(face: Face) -> None:
    ran: list[int] = []
    server = face.Server()

    @server.method
    def count() -> int:
        ran.append(1)
        return len(ran)

    async with server, face.Client(server) as client, face.Client(server) as other:
        assert await client.options(request_id="one").call("count") == 1
        assert await client.options(request_id="one").call("count") == 1
        assert await other.options(request_id="one").call("count") == 1
        assert await client.options(request_id="two").call("count") == 2


async def test_a_handler_gets_the_request_where_it_asks_for_it(face: Face) -> None:
    server = face.Server()

    @server.method
    def first(request: Request, a: int, b: int = 2) -> list[Any]:
        return [request.id, request.method, request.attempt, dict(request.headers), request.identity, a, b]

    @server.method
    async def keyword(a: int, *, request: Request) -> list[Any]:
        left = request.remaining()
        assert left is not None
        return [a, 0 < left <= PATIENCE_S, request.cancelled, Request.current() is request]

    @server.method
    def none() -> bool:
        request = Request.current()
        return request is not None and request.method == "none"

    async with server, face.Client(server) as client:
        marked = client.options(request_id="mine", headers={"trace": "1"})
        assert await marked.call("first", 1) == ["mine", "first", 1, {"trace": "1"}, None, 1, 2]
        assert await marked.options(request_id="another").call("first", a=3, b=4) == [
            "another", "first", 1, {"trace": "1"}, None, 3, 4,
        ]  # fmt: skip
        reply = client.submit("first", 1)
        assert (await face.value(reply))[0] == reply.id
        assert await client.call("keyword", 5) == [5, True, False, True]
        assert await client.call("none") is True
        assert Request.current() is None
        error = await raised(BadArguments, client.call, "first")
        assert str(error) == "first() missing 1 required positional argument: 'a'"


async def test_nested_calls_have_no_more_time_than_the_caller_left(face: Face) -> None:
    inner, outer = face.Server(), face.Server()

    @inner.method
    def left(request: Request) -> float | None:
        return request.remaining()

    async with inner, face.Client(inner, timeout=None) as within:
        if face.name == "sync":

            @outer.method
            def ask() -> Any:
                return within.real.call("left")
        else:

            @outer.method
            async def ask() -> Any:
                return await within.call("left")

        async with outer, face.Client(outer) as client:
            assert 0 < await client.options(timeout=5.0).call("ask") <= 5.0
            assert await client.options(timeout=None).call("ask") is None


async def test_options_leave_the_client_as_it_is_and_share_its_connection(face: Face) -> None:
    server = face.Server()
    server.method(add)
    async with server, face.Client(server) as client:
        other = client.options(timeout=1.5, retries=0)
        assert type(bare(other)) is type(bare(client)) is face.module.Client
        assert await other.call("add", 1) == await client.call("add", 1) == 2
        assert len(server._core.sessions) == 1
        await other.close()
        assert client.closed
        await raised(zmqkit.Closed, client.call, "add", 1)


async def test_methods_tell_what_there_is(face: Face) -> None:
    server = face.Server()
    server.method(add)

    @server.method(name="list.rows", idempotent=True, concurrency=3, timeout=2.0)
    def rows(request: Request, n: int) -> Any:
        yield n

    async with server, face.Client(server) as client:
        assert await client.methods() == [
            {"name": "add", "signature": "add(a: 'int', b: 'int' = 1) -> 'int'", "doc": "The sum.", "kind": "call",
             "idempotent": False, "concurrency": None, "timeout": None},
            {"name": "list.rows", "signature": "list.rows(n: 'int') -> 'Any'", "doc": "", "kind": "stream",
             "idempotent": True, "concurrency": 3, "timeout": 2.0},
        ]  # fmt: skip


class Calc:
    """A service."""

    def __init__(self) -> None:
        self.total = 0

    @zmqkit.method
    def grow(self, by: int) -> int:
        """Grow."""
        self.total += by
        return self.total

    @zmqkit.method(name="rows", idempotent=True)
    def many(self, n: int) -> Any:
        yield from range(n)

    @zmqkit.method
    @staticmethod
    def twice(n: int) -> int:
        return 2 * n

    def secret(self) -> None:
        raise AssertionError


class CalcProtocol(Protocol):
    def grow(self, by: int) -> Any: ...

    def twice(self, n: int) -> Any: ...


async def test_an_object_is_served_by_its_marks_and_nothing_else_of_it(face: Face) -> None:
    server = face.Server()
    server.include(Calc())
    server.include(Calc(), prefix="other.")
    async with server, face.Client(server) as client:
        assert await client.call("grow", 2) == 2
        assert await client.call("grow", by=3) == 5
        assert await client.call("other.grow", 1) == 1
        assert await client.call("twice", 4) == 8
        assert [each async for each in client.stream("rows", 3)] == [0, 1, 2]
        for name in ("secret", "many", "total", "__init__"):
            await raised(UnknownMethod, client.call, name)


async def test_proxies_call_and_stream(face: Face) -> None:
    server = face.Server()
    server.include(Calc())
    server.include(Calc(), prefix="other.")
    async with server, face.Client(server) as client:
        real = client.real if face.name == "sync" else client
        proxy = real.proxy()
        assert await face.get(proxy.grow(2)) == 2
        assert await face.get(proxy.other.grow(by=1)) == 1
        assert await face.value(proxy.twice.submit(2)) == 4
        typed = real.proxy(CalcProtocol)
        assert await face.get(typed.grow(1)) == 3
        with pytest.raises(AttributeError, match="CalcProtocol has no method 'secret'; it has grow, twice"):
            typed.secret()


async def test_many_threads_and_tasks_share_a_client(face: Face) -> None:
    server = face.Server()
    server.method(add)
    right: list[bool] = []
    async with server, face.Client(server) as client:

        async def ask(start: int) -> None:
            right.extend([await client.call("add", n, n) == 2 * n for n in range(start, start + 100)])

        async with face.together() as begin:
            for start in range(0, 1000, 100):
                begin(ask, start)
        assert right == [True] * 1000
        assert client.stats()["calls_answered"] == 1000


def test_a_reply_is_a_future_like_any_other() -> None:
    server = zmqkit.Server("tcp://127.0.0.1:*")
    server.method(add)
    server.method(name="fail")(lambda: 1 / 0)
    called = threading.Event()
    with server, zmqkit.Client(server.addresses[0]) as client:
        replies = [client.submit("add", n) for n in range(5)] + [client.submit("fail")]
        replies[0].add_done_callback(lambda reply: called.set())
        done, waiting = concurrent.futures.wait(replies, PATIENCE_S)
        assert (len(done), len(waiting)) == (6, 0)
        assert called.wait(PATIENCE_S)
        assert sorted(each.result() for each in concurrent.futures.as_completed(replies[:5])) == [1, 2, 3, 4, 5]
        assert isinstance(replies[5].exception(), RemoteError)
        with pytest.raises(RemoteError):
            replies[5].result()
        assert not replies[0].cancel()
