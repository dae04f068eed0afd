"""`zmqkit.testing.serve`: services tested without sockets, over all three faces."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

import zmqkit
from zmqkit import aio
from zmqkit.testing import serve


def make(kind: type[Any]) -> Any:
    go = threading.Event()
    server = kind("tcp://127.0.0.1:1", name="calc", announce="never-announced")

    @server.method
    def add(a: int, b: int) -> int:
        return a + b

    @server.method
    async def later(a: int) -> int:
        return a

    @server.method
    def rows(n: int) -> Iterator[int]:
        yield from range(n)

    @server.method
    def total(items: Iterator[int]) -> int:
        return sum(items)

    @server.method
    def fail() -> None:
        raise zmqkit.ServiceError("no", "never", [1])

    @server.method
    def slow() -> None:
        go.wait(20)

    @server.method
    def end() -> None:
        go.set()

    return server


def test_a_server_is_called_without_sockets() -> None:
    server = make(zmqkit.Server)
    with serve(server) as client:
        assert client.call("add", 2, b=3) == 5
        assert client.call("later", 1) == 1
        assert list(client.stream("rows", 300)) == list(range(300))
        assert client.call("total", iter(range(300))) == sum(range(300))
        assert [client.submit("add", n, n).result() for n in range(5)] == [0, 2, 4, 6, 8]
        assert client.call("add", (1,), [2]) == [1, 2], "a tuple arrives as a list"
        with pytest.raises(zmqkit.RemoteError) as caught:
            client.call("fail")
        assert caught.value.code == "no"
        with pytest.raises(zmqkit.BadArguments, match=r"add\(\) missing"):
            client.call("add", 1)
        assert not server.addresses
    assert server.closed
    assert client.closed


def test_time_runs_as_it_does() -> None:
    with serve(make(zmqkit.Server)) as client:
        with pytest.raises(zmqkit.NoReplyInTime):
            client.options(timeout=0.1).call("slow")
        client.call("end")


def test_a_server_that_was_opened_is_refused() -> None:
    server = zmqkit.Server("tcp://127.0.0.1:*")
    with server, pytest.raises(zmqkit.UsageError):
        serve(server)
    with pytest.raises(zmqkit.Closed):
        serve(server)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_async_server_is_called_without_sockets(backend: str) -> None:
    import anyio

    async def main() -> None:
        async with serve(make(aio.Server)) as client:
            with anyio.fail_after(20):
                assert await client.call("add", 2, b=3) == 5
                assert await client.call("later", 1) == 1
                assert [each async for each in client.stream("rows", 300)] == list(range(300))
                with pytest.raises(zmqkit.NoReplyInTime):
                    await client.options(timeout=0.1).call("slow")
                await client.call("end")

    anyio.run(main, backend=backend)
