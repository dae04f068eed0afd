"""Cancellation, Ctrl-C and closing at any moment: nobody is left waiting, nothing is lost in silence, all goes on."""

from __future__ import annotations

import concurrent.futures
import itertools
import threading
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

import zmqkit
from tests.pipeline.processes import program
from tests.pipeline.test_cancelling import Storm
from tests.reqrep.faces import PATIENCE_S, Face, Gate, raised
from zmqkit import Closed, NotSent, OutcomeUnknown, Request

CALLS = 300


def pending(client: Any) -> int:
    """Who waits at a client for an answer."""
    return len(client._driver._desk.waiting)


async def test_a_cancel_storm_over_calls_leaves_nothing_behind(async_face: Face) -> None:
    face, storm = async_face, Storm(0.002)
    server = face.Server()
    server.method(name="echo")(lambda n: n)

    @server.method
    async def later(n: int) -> int:
        await anyio.sleep(0.0005)
        return n

    async with server, face.Client(server) as client:
        right = 0
        for n in itertools.count():
            done, value = await storm.over(lambda n=n: client.call("later" if n % 2 else "echo", n))  # type: ignore[misc]
            if done:
                assert value == n, "an answer of another call"
                right += 1
            if right >= CALLS and storm.cancelled >= 60:
                break
        assert await client.call("echo", "end") == "end"
        assert pending(client) == 0
        stats = client.stats()
        assert stats["calls_answered"] + stats["calls_cancelled"] >= right + storm.cancelled


async def test_a_cancel_storm_over_a_stream_loses_no_item(async_face: Face) -> None:
    face, storm = async_face, Storm(0.001)
    server = face.Server()

    @server.method
    async def count() -> Any:
        for n in range(CALLS):
            if n % 5 == 0:
                await anyio.sleep(0.001)
            yield n

    async with server, face.Client(server) as client:
        stream = client.stream("count")
        got: list[int] = []
        while len(got) < CALLS:
            done, item = await storm.over(stream.__anext__)
            if done:
                got.append(item)
        assert got == list(range(CALLS))
        await raised(StopAsyncIteration, stream.__anext__)


async def test_a_cancelled_call_cancels_its_coroutine(async_face: Face) -> None:
    face, gate = async_face, Gate(async_face)
    server = face.Server()
    server.method(name="wait")(gate.pause)
    async with server, face.Client(server) as client:
        async with face.together() as start:
            scope = anyio.CancelScope()

            async def call() -> None:
                with scope:
                    await client.call("wait")

            start(call)
            await gate.entered.next()
            scope.cancel()
        assert await gate.left.next() == "cancelled"
        assert (await client.methods())[0]["name"] == "wait"


async def test_a_cancelled_reply_tells_its_handler(face: Face) -> None:
    told, go = Gate(face), threading.Event()
    server = face.Server()

    @server.method
    def work(request: Request) -> None:
        told.entered.put("in")
        assert go.wait(PATIENCE_S)
        try:
            while True:
                request.raise_if_cancelled()
        except concurrent.futures.CancelledError:
            told.left.put("cancelled")
            raise

    async with server, face.Client(server) as client:
        reply = client.submit("work")
        await told.entered.next()
        assert reply.cancel()
        go.set()
        assert await told.left.next() == "cancelled"
        with pytest.raises(concurrent.futures.CancelledError):
            await face.value(reply)
        assert not reply.cancel()
        assert len(await client.methods()) == 1


async def test_an_await_that_is_cancelled_leaves_the_reply(async_face: Face) -> None:
    face, gate = async_face, Gate(async_face)
    server = face.Server()
    server.method(name="wait")(gate.wait)
    async with server, face.Client(server) as client:
        reply = client.submit("wait", 5)
        await gate.entered.next()
        with anyio.move_on_after(0.01):
            await reply
        gate.open()
        assert await reply == 5
        assert await reply == 5


async def test_closing_a_client_ends_its_calls(face: Face) -> None:
    gate = Gate(face)
    server = face.Server()
    server.method(name="wait")(gate.wait)

    @server.method
    def rows() -> Iterator[int]:
        yield 1
        gate.wait()

    async with server:
        async with face.Client(server) as client:
            reply = client.submit("wait")
            stream = client.stream("rows")
            assert await stream.__aiter__().__anext__() == 1
            await gate.entered.next()
            await gate.entered.next()
        with pytest.raises(OutcomeUnknown, match="closed"):
            await face.value(reply)
        with pytest.raises(OutcomeUnknown, match="closed"):
            await stream.__aiter__().__anext__()
        await raised(Closed, client.call, "wait")
        gate.open()

        async with face.Client("tcp://127.0.0.1:9") as lonely:
            reply = lonely.submit("wait")
        with pytest.raises(NotSent, match="closed"):
            await face.value(reply)


def test_calls_that_are_waited_for_in_threads_end_when_the_client_is_closed() -> None:
    server = zmqkit.Server("tcp://127.0.0.1:*")
    entered, go = threading.Semaphore(0), threading.Event()

    @server.method
    def wait() -> None:
        entered.release()
        go.wait(PATIENCE_S)

    raised_there: list[BaseException] = []
    with server:
        client = zmqkit.Client(server.addresses[0]).open()

        def call() -> None:
            try:
                client.call("wait")
            except BaseException as error:
                raised_there.append(error)

        threads = [threading.Thread(target=call) for _ in range(3)]
        for each in threads:
            each.start()
        for _ in threads:
            assert entered.acquire(timeout=PATIENCE_S)
        client.close()
        for each in threads:
            each.join(PATIENCE_S)
        go.set()
    assert [type(each) for each in raised_there] == [OutcomeUnknown] * 3


@pytest.mark.slow
def test_an_interrupted_call_leaves_the_client_as_good_as_new() -> None:
    with program("interrupted_calls", module="tests.reqrep.programs") as running:
        said = running.heard()
        assert running.end() == 0, running.errors
    assert said["interrupts"] >= 200, said
    assert said["wrong"] == 0
    assert said["right"] > 0
    assert said["waiting"] == 0
