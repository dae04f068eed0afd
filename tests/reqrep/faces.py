"""Scenarios of request-reply over three faces. See `tests.pipeline.faces` for how one scenario runs over all."""

from __future__ import annotations

import inspect
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import zmqkit
from tests.pipeline import faces
from tests.pipeline.faces import FACES, LOCAL, PATIENCE_S, Letterbox, bare, dress
from zmqkit import aio

faces.TWINS.update({getattr(zmqkit, name): getattr(aio, name) for name in ("Client", "Server", "Stream")})


class Face(faces.Face):
    """What a scenario gets: the classes of one face, and what else differs between them."""

    def Server(self, *args: Any, **kwargs: Any) -> Any:
        return self._made("Server", args or (LOCAL,), kwargs)

    def Client(self, *servers: Any, **kwargs: Any) -> Any:
        """A client of these servers, which are open."""
        addresses = [each if isinstance(each, str) else each.addresses[0] for each in servers]
        kwargs.setdefault("timeout", PATIENCE_S)
        return self._made("Client", addresses, kwargs)

    async def value(self, reply: Any) -> Any:
        """What came of a submitted call."""
        return reply.result(PATIENCE_S) if self.name == "sync" else await reply

    async def get(self, value: Any) -> Any:
        """A value, or an awaitable of one."""
        return await value if inspect.isawaitable(value) else value

    def items(self, values: Iterable[Any]) -> Any:
        """An iterator of this face, to be uploaded."""
        return iter(values) if self.name == "sync" else _slowly(values)


async def _slowly(values: Iterable[Any]) -> AsyncIterator[Any]:
    for each in values:
        await anyio.lowlevel.checkpoint()
        yield each


class Gate:
    """Handlers wait at it, in whatever they run; a scenario opens it.

    Attributes:
        entered: who came, in order.
    """

    def __init__(self, face: faces.Face) -> None:
        self._open = threading.Event()
        self.entered: Letterbox[Any] = Letterbox(face)
        self.left: Letterbox[str] = Letterbox(face)

    def wait(self, what: Any = "in") -> Any:
        """For functions."""
        self.entered.put(what)
        assert self._open.wait(PATIENCE_S)
        self.left.put("through")
        return what

    async def pause(self, what: Any = "in") -> Any:
        """For coroutines; says how it was left."""
        self.entered.put(what)
        try:
            with anyio.fail_after(PATIENCE_S):
                # A handler's loop may be another than the scenario's, so no event of either will do.
                while not self._open.is_set():  # noqa: ASYNC110
                    await anyio.sleep(0.001)
        except anyio.get_cancelled_exc_class():
            self.left.put("cancelled")
            raise
        self.left.put("through")
        return what

    def open(self) -> None:
        self._open.set()


async def taken(stream: Any) -> list[Any]:
    """All items."""
    return [each async for each in stream]


async def raised(kind: type[BaseException], verb: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The exception of this kind that the verb must raise."""
    with pytest.raises(kind) as caught:
        await verb(*args, **kwargs)
    assert type(caught.value) is kind, repr(caught.value)
    return caught.value


__all__ = ["FACES", "LOCAL", "PATIENCE_S", "Face", "Gate", "Letterbox", "bare", "dress", "raised", "taken"]
