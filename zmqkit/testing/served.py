"""Tests of services without sockets: a server and a client in one process."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import TracebackType
from typing import Any, overload

from zmqkit.errors import UsageError
from zmqkit.patterns.reqrep import Client, Server
from zmqkit.patterns.reqrep import aio as async_face
from zmqkit.patterns.reqrep.serving_aio import Server as AsyncServer
from zmqkit.testing.memory import Memory, MemoryDriver

NOWHERE = "inproc://zmqkit.testing"


@overload
def serve(server: Server, /) -> AbstractContextManager[Client]: ...
@overload
def serve(server: AsyncServer, /) -> AbstractAsyncContextManager[async_face.Client]: ...
def serve(server: Any, /) -> Any:
    """A client of this server, joined to it in memory; nothing is bound, announced or sent.

    All else is as in reality: handlers run in threads, processes or tasks, arguments and results travel through the
    codec, exceptions arrive as `RemoteError`, deadlines, cancellation, streams and limits are what they are. At the end
    of the block both are closed.

    ::

        with zmqkit.testing.serve(server) as client:
            assert client.call("add", 2, 3) == 5

        async with zmqkit.testing.serve(aio_server) as client: ...

    Args:
        server: a `Server`, or a `zmqkit.aio.Server`, that was not opened.

    Raises:
        UsageError: it was opened, or cannot be as it is; see `Server.open`.
        Closed: it was closed before.
    """
    server._check_open()
    if server._driver is not None:
        raise UsageError(f"{server.name} is open, and has sockets: serve takes a server that was not opened")
    return _AsyncServed(server) if isinstance(server, AsyncServer) else _Served(server)


class _Pair:
    def __init__(self, server: Any, client: Any) -> None:
        self.server = server
        self.client = client
        self._memory: Memory | None = None

    def open(self) -> None:
        server_core, server_journal = self.server._build()
        client_core, _ = self.client._build()
        self._memory = memory = Memory()
        bound = MemoryDriver(memory, server_core, server_journal, self.server.name)
        dialling = MemoryDriver(memory, client_core, None, self.client.name)
        for peer, driver in ((self.server, bound), (self.client, dialling)):
            peer._core = driver.core
            for entry in peer._subscriptions:
                entry.end = driver.on(entry.event, entry.callback)
            peer._driver = driver
        memory.join(dialling, bound)
        self.server._begin_work()

    def close(self) -> None:
        if self._memory is not None:
            self._memory.close()


class _Served:
    def __init__(self, server: Server) -> None:
        self._pair = _Pair(server, Client(NOWHERE, name=f"client of {server.name}"))

    def __enter__(self) -> Client:
        self._pair.open()
        client: Client = self._pair.client
        return client

    def __exit__(self, t: type[BaseException] | None, v: BaseException | None, tb: TracebackType | None) -> None:
        try:
            self._pair.client.close()
            self._pair.server.close()
        finally:
            self._pair.close()


class _AsyncServed:
    def __init__(self, server: AsyncServer) -> None:
        self._pair = _Pair(server, async_face.Client(NOWHERE, name=f"client of {server.name}"))

    async def __aenter__(self) -> async_face.Client:
        self._pair.open()
        client: async_face.Client = self._pair.client
        return client

    async def __aexit__(self, t: type[BaseException] | None, v: BaseException | None, tb: TracebackType | None) -> None:
        try:
            await self._pair.client.close()
            await self._pair.server.close()
        finally:
            self._pair.close()
