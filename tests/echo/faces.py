"""The echo pattern's faces, derived from zmqkit.peer: what a face needs, and no more."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from typing_extensions import Unpack

from tests.echo.core import AskerCore, EchoerCore
from zmqkit.errors import WaitTimeout
from zmqkit.peer import Peer, aio
from zmqkit.peer.base import Common, PeerBase
from zmqkit.protocol.pattern import PatternCore
from zmqkit.transport.tickets import WaitExpired


class Base(PeerBase):
    _core_class: ClassVar[type[PatternCore]]
    _credit: ClassVar[dict[str, int]] = {"credit_messages": 100, "credit_bytes": 1 << 20}

    def __init__(self, *addresses: str, **common: Unpack[Common]) -> None:
        super().__init__(addresses, common)

    def _build(self) -> tuple[PatternCore, Any]:
        return self._core_class(self._local(**self._credit), self._random()), None


class _AskerBase(Base):
    _role = "ask"
    _accepts = frozenset({"echo"})
    _binds = False
    _core_class = AskerCore
    _core: AskerCore


class _EchoerBase(Base):
    _role = "echo"
    _accepts = frozenset({"ask"})
    _binds = True
    _core_class = EchoerCore
    _core: EchoerCore


class Asker(_AskerBase, Peer):
    """Asks, for threads."""

    def ask(self, body: bytes, *, timeout: float | None = None) -> bytes:
        """What comes back. Raises `Unanswered`, `WaitTimeout`."""
        try:
            answer: bytes = self._wait(self._ask(self._core_opened().ask, body), timeout)
        except WaitExpired:
            raise WaitTimeout(f"no answer within {timeout} s") from None
        return answer

    def _core_opened(self) -> AskerCore:
        self._start()
        return self._core


class Echoer(_EchoerBase, Peer):
    """Answers, for threads."""


class AsyncAsker(_AskerBase, aio.Peer):
    """Asks, for asyncio and trio."""

    async def ask(self, body: bytes, *, timeout: float | None = None) -> bytes:
        """What comes back. Raises `Unanswered`, `WaitTimeout`."""
        await self._start_async()
        try:
            answer: bytes = await self._wait(self._ask(self._core.ask, body), timeout)
        except WaitExpired:
            raise WaitTimeout(f"no answer within {timeout} s") from None
        return answer


class AsyncEchoer(_EchoerBase, aio.Peer):
    """Answers, for asyncio and trio."""

    async def __aenter__(self) -> Self:
        return await self.open()
