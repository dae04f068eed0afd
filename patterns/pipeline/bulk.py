"""What one `send_many` has under way, as the sync and the async face share it: all of it but the waiting.

Knows the pusher without the waiting; no event loop.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from zmqkit.errors import PartlySent, WaitTimeout
from zmqkit.patterns.pipeline.outgoing import Outgoing
from zmqkit.patterns.pipeline.packing import CHUNK_BYTES, CHUNK_MESSAGES, CHUNK_PACKS
from zmqkit.patterns.pipeline.rows import Pack
from zmqkit.patterns.pipeline.sending import PusherBase, counted
from zmqkit.peer.base import deadline_of, left_of
from zmqkit.transport.tickets import Ticket, WaitExpired

WINDOW: Final = 16
"""So many chunks may be on their way to the journal."""

FEW: Final = 8
"""With fewer messages of a kind than that, longer chunks would be as many packs."""


class Bulk:
    """Bodies that go to the journal chunk by chunk.

    Attributes:
        confirmed: so many of the first messages are stored.
    """

    __slots__ = ("_deadline", "_on_the_way", "_pusher", "_size", "_source", "confirmed")

    def __init__(self, pusher: PusherBase, bodies: Iterable[object | Outgoing[Any]], timeout: float | None) -> None:
        if isinstance(bodies, str | bytes | bytearray | memoryview | Mapping):
            raise TypeError(
                f"send_many() takes a list of bodies, or another iterable of them, got {bodies!r:.100}, which is one: "
                "send() it, or put it into a list"
            )
        self.confirmed = 0
        self._pusher = pusher
        self._deadline = deadline_of(timeout)
        self._on_the_way: deque[tuple[Ticket, int]] = deque()
        self._source = iter(bodies)
        self._size = WINDOW

    def hand_over(self) -> bool:
        """Encode the next chunk and hand it to the core. False: there was none."""
        chunk = list(itertools.islice(self._source, self._size))
        if not chunk:
            return False
        pusher = self._pusher
        packs = pusher._pack_many(chunk)
        self._size = chunk_size(self._size, packs, pusher._bounded)
        if len({each.plan and each.plan[1:4] for each in packs}) > 1:
            # They may be in another order than the bodies: only all of them are the first ones.
            ticket = pusher._open_driver.ticket()
            pusher._append_all(packs, ticket)
            self._on_the_way.append((ticket, len(chunk)))
            return True
        for pack in packs:
            ticket = pusher._open_driver.ticket()
            pusher._append(pack, ticket, wait=True, lazy=True)
            self._on_the_way.append((ticket, len(pack)))
        return True

    def awaited(self, most: int = WINDOW) -> Iterator[Ticket]:
        """What to wait for, one after another, until no more than so many chunks are on the way.

        Asking for the next one says that this one is stored.
        """
        on_the_way = self._on_the_way
        while len(on_the_way) > most:
            yield on_the_way[0][0]
            self.confirmed += on_the_way.popleft()[1]

    @property
    def left(self) -> float | None:
        """Seconds that are left for all of it."""
        return left_of(self._deadline)

    def give_up(self) -> list[Ticket]:
        """Out of time: what is to be taken back, the last first, so that no gap is left."""
        self._deadline = 0.0
        return [ticket for ticket, _ in reversed(self._on_the_way)]

    def withdraw_soon(self) -> None:
        """Take back what is not accepted yet, without waiting for the answers."""
        for ticket in self.give_up():
            self._pusher._withdraw_soon(ticket)

    def partly(self, cause: Exception) -> PartlySent:
        """The error of a send that stopped midway."""
        return PartlySent(
            f"{counted(self.confirmed)} sent, then: {type(cause).__name__}: {cause}", confirmed=self.confirmed
        )


def cause_of(error: Exception) -> Exception:
    """What the user is told of an error that stopped it."""
    return WaitTimeout("out of time") if isinstance(error, WaitExpired) else error


def chunk_size(before: int, packs: Sequence[Pack], bounded: bool = False) -> int:
    """How many bodies to encode next, so that a chunk has about its bytes.

    Where bodies of a few kinds alternate, more of them make full packs; not where room is `bounded`, for all of them
    need it at once.
    """
    size = sum(len(pack.blob) for pack in packs)
    count = sum(len(pack) for pack in packs)
    most = CHUNK_MESSAGES
    if not bounded and count >= FEW * len(packs):
        most *= min(len(packs), CHUNK_PACKS)
    return max(1, min(most, before * 4, count * CHUNK_BYTES // max(size, 1)))
