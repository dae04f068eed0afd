"""Streams both ways, over all three faces: order, credit, early ends, and what breaks them."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import zmqkit
from tests.reqrep.faces import PATIENCE_S, Face, Gate, Letterbox, raised, taken
from zmqkit import BadArguments, NoReplyInTime, RemoteError, StreamBroken, UnknownMethod, UsageError
from zmqkit.patterns.reqrep.arrivals import WINDOW


def rows(n: int) -> Iterator[int]:
    yield from range(n)


async def later(n: int) -> AsyncIterator[int]:
    for each in range(n):
        yield each


async def test_what_a_generator_yields_comes_in_order(face: Face) -> None:
    server = face.Server()
    server.method(rows)
    server.method(later)
    async with server, face.Client(server) as client:
        for name in ("rows", "later"):
            assert await taken(client.stream(name, 1000)) == list(range(1000))
            assert await taken(client.stream(name, 0)) == []


async def test_several_streams_and_calls_go_side_by_side(face: Face) -> None:
    server = face.Server()
    server.method(rows)
    server.method(name="ping")(lambda: "pong")
    async with server, face.Client(server) as client:
        streams = [client.stream("rows", 200) for _ in range(4)]
        for n in range(200):
            assert [await each.__aiter__().__anext__() for each in streams] == [n] * 4
            if n % 50 == 0:
                assert await client.call("ping") == "pong"


async def test_a_generator_is_never_more_than_a_window_ahead(face: Face) -> None:
    made: Letterbox[int] = Letterbox(face)
    server = face.Server()

    @server.method
    def endless() -> Iterator[int]:
        for n in itertools.count(1):
            made.put(n)
            yield n

    async with server, face.Client(server) as client, client.stream("endless") as stream:
        while await made.next() < WINDOW + 1:
            pass
        await client.methods()  # a round trip: all that was sent is here
        assert len(made.all) == WINDOW + 1, "one is made, and waits for credit"
        items = stream.__aiter__()
        assert [await items.__anext__() for _ in range(WINDOW)] == list(range(1, WINDOW + 1))
        while await made.next() < 2 * WINDOW:
            pass


@pytest.mark.parametrize("way", ["close", "with", "break"])
async def test_a_stream_that_is_left_ends_its_generator(face: Face, way: str) -> None:
    ended: Letterbox[str] = Letterbox(face)
    server = face.Server()

    @server.method
    def plain() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            ended.put("plain")

    @server.method
    async def coroutine() -> AsyncIterator[int]:
        try:
            for n in itertools.count():
                yield n
        finally:
            ended.put("coroutine")

    async with server, face.Client(server) as client:
        for name in ("plain", "coroutine"):
            if way == "with":
                async with client.stream(name) as stream:
                    assert await stream.__aiter__().__anext__() == 0
            elif way == "close":
                stream = client.stream(name)
                assert await stream.__aiter__().__anext__() == 0
                await stream.close()
                assert await taken(stream) == []
            else:
                async for each in client.stream(name):
                    if each == 3:
                        break
            assert await ended.next() == name


async def test_what_a_generator_raises_comes_after_its_items(face: Face) -> None:
    server = face.Server()

    @server.method
    def three() -> Iterator[int]:
        yield from range(3)
        raise LookupError("no more")

    @server.method
    async def thing() -> AsyncIterator[Any]:
        yield 1
        yield object()

    async with server, face.Client(server) as client:
        items = client.stream("three").__aiter__()
        assert [await items.__anext__() for _ in range(3)] == [0, 1, 2]
        error = await raised(RemoteError, items.__anext__)
        assert error.type == "LookupError"
        await raised(StopAsyncIteration, items.__anext__)
        error = await raised(RemoteError, lambda: taken(client.stream("thing")))
        assert "an item cannot travel" in str(error)


async def test_a_stream_of_what_yields_nothing_says_which_verb_to_use(face: Face) -> None:
    server = face.Server()
    server.method(name="one")(lambda: 1)
    async with server, face.Client(server) as client:
        error = await raised(BadArguments, lambda: taken(client.stream("one")))
        assert "client.call('one', ...)" in str(error)
        await raised(UnknownMethod, lambda: taken(client.stream("none")))


async def test_a_stream_has_the_time_of_a_call(face: Face) -> None:
    gate = Gate(face)
    server = face.Server()

    @server.method
    def slow() -> Iterator[int]:
        yield 1
        gate.wait()

    async with server, face.Client(server) as client:
        stream = client.options(timeout=0.2).stream("slow")
        items = stream.__aiter__()
        assert await items.__anext__() == 1
        error = await raised(NoReplyInTime, items.__anext__)
        assert "1 items had come" in str(error)
        gate.open()


async def test_a_stream_whose_server_is_gone_says_how_many_had_come(face: Face) -> None:
    gate = Gate(face)
    server = face.Server()

    @server.method
    def slow() -> Iterator[int]:
        yield from range(3)
        gate.wait()

    async with face.Client(await opened(server)) as client:
        stream = client.stream("slow")
        items = stream.__aiter__()
        assert [await items.__anext__() for _ in range(3)] == [0, 1, 2]
        await server.close(0)
        error = await raised(StreamBroken, items.__anext__)
        assert error.received == 3
        assert "broke after 3 items" in str(error)
        gate.open()


async def opened(server: Any) -> Any:
    await server.open()
    return server


# ---- uploads ---------------------------------------------------------------------


async def test_an_iterator_is_uploaded_and_arrives_as_one(face: Face) -> None:
    server = face.Server()

    @server.method
    def total(start: int, items: Iterator[int]) -> int:
        return start + sum(items)

    @server.method
    async def later(start: int, items: AsyncIterator[int]) -> int:
        return start + sum([each async for each in items])

    async with server, face.Client(server) as client:
        for name in ("total", "later"):
            assert await client.call(name, 1, face.items(range(1000))) == 1 + sum(range(1000))
            assert await client.call(name, 1, items=iter([1, 2])) == 4
            assert await client.call(name, 1, face.items([])) == 1
            assert await face.value(client.submit(name, 1, face.items(range(300)))) == 1 + sum(range(300))
        assert await client.call("total", 1, [1, 2, 3]) == 7, "a list is a plain value"


async def test_a_stream_may_upload_and_come_back_at_once(face: Face) -> None:
    server = face.Server()

    @server.method
    def double(items: Iterator[int]) -> Iterator[int]:
        for each in items:
            yield 2 * each

    @server.method
    async def later(items: AsyncIterator[int]) -> AsyncIterator[int]:
        async for each in items:
            yield 2 * each

    async with server, face.Client(server) as client:
        for name in ("double", "later"):
            assert await taken(client.stream(name, face.items(range(500)))) == list(range(0, 1000, 2))


async def test_an_upload_stops_when_its_call_is_answered(face: Face) -> None:
    ended = threading.Event()
    server = face.Server()

    @server.method
    def first(items: Iterator[int]) -> int:
        return next(items)

    def endless() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            ended.set()

    async with server, face.Client(server) as client:
        assert await client.call("first", endless()) == 0
        assert ended.is_set()


async def test_an_iterator_that_raises_ends_the_call_with_its_own_error(face: Face) -> None:
    broke: Letterbox[str] = Letterbox(face)
    server = face.Server()

    @server.method
    def total(items: Iterator[int]) -> int:
        try:
            return sum(items)
        except StreamBroken as error:
            broke.put(str(error))
            raise

    def bad() -> Iterator[int]:
        yield 1
        raise LookupError("mine")

    async with server, face.Client(server) as client:
        with pytest.raises(LookupError, match="mine"):
            await client.call("total", bad())
        assert "the upload to total() broke" in await broke.next()
        with pytest.raises(LookupError, match="mine"):
            await face.value(client.submit("total", bad()))


async def test_one_argument_can_be_uploaded(face: Face) -> None:
    async with face.Server() as server, face.Client(server) as client:
        with pytest.raises(UsageError, match="2 iterators"):
            await client.call("x", iter([1]), iter([2]))


def test_threads_cannot_upload_what_only_a_loop_can_ask() -> None:
    async def items() -> AsyncIterator[int]:
        yield 1

    source = items()
    with (
        zmqkit.Client("tcp://127.0.0.1:1", timeout=PATIENCE_S) as client,
        pytest.raises(UsageError, match=r"zmqkit\.aio"),
    ):
        client.call("x", source)
    asyncio.run(source.aclose())  # type: ignore[attr-defined]
