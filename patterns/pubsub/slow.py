"""What waits for a subscriber's user, and what becomes of more than there is room for.

Pure. The room is one for all publishers: it is the user who is slow.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from zmqkit.options import Limits
from zmqkit.patterns.pubsub.parcels import OVERHEAD_BYTES, Parcel
from zmqkit.patterns.pubsub.wire import Data


class Room:
    """How much waits in the mailbox.

    Args:
        limits: how much may.
    """

    __slots__ = ("_limits", "messages", "size")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.messages = 0
        self.size = 0

    @property
    def full(self) -> bool:
        """More waits than may."""
        return self.messages > self._limits.queued_messages or self.size > self._limits.queued_bytes

    @property
    def half_empty(self) -> bool:
        """There is room again, and not only for a moment."""
        return 2 * self.messages <= self._limits.queued_messages and 2 * self.size <= self._limits.queued_bytes

    def put(self, parcel: Parcel) -> None:
        """A parcel waits."""
        self.messages += parcel.messages
        self.size += parcel.size

    def take(self, parcel: Parcel) -> None:
        """It was taken."""
        self.messages -= parcel.messages
        self.size -= parcel.size


class Newest(NamedTuple):
    """The last message of a frame."""

    publisher: str
    epoch: str
    data: Data


class Conflated:
    """The newest message of each topic, while the user is slow: ``on_slow="conflate"``.

    Args:
        limits: so many topics and bytes at most; those that were idle longest give way.

    Attributes:
        dropped: messages that newer ones, or others, have replaced.
    """

    __slots__ = ("_limits", "_newest", "_size", "dropped")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._newest: dict[tuple[str, str], Newest] = {}
        self._size = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._newest)

    def put(self, publisher: str, epoch: str, data: Data) -> None:
        """A frame came: of it only the last message counts, and of its topic only that."""
        count = len(data.lengths)
        self.dropped += count - 1
        if count > 1:
            headers = {0: data.headers[count - 1]} if count - 1 in data.headers else {}
            last, length = data.offsets[-1], data.lengths[-1]
            blob = data.blob[len(data.blob) - length :]
            data = data._replace(
                offsets=range(last, last + 1), previous=0, lengths=[length], blob=blob, headers=headers
            )
        key = (publisher, data.topic)
        newest = self._newest
        old = newest.pop(key, None)
        if old is not None:
            self._forget(old)
        newest[key] = Newest(publisher, epoch, data)
        self._size += len(data.blob) + OVERHEAD_BYTES
        while len(newest) > self._limits.queued_messages or (
            self._size > self._limits.queued_bytes and len(newest) > 1
        ):
            self._forget(newest.pop(next(iter(newest))))

    def _forget(self, old: Newest) -> None:
        self.dropped += 1
        self._size -= len(old.data.blob) + OVERHEAD_BYTES

    def take(self) -> Iterator[Newest]:
        """All of them, in the order in which they came; forgets them."""
        newest, self._newest = self._newest, {}
        self._size = 0
        return iter(newest.values())
