"""What waits for a subscriber's user: runs of messages, and losses at their places.

Pure. Made by the core, taken by the user's threads: `claims` gives out each index once. What the frames of a group have
together is put together when it is first looked at: in the user's thread, not in the core's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, repeat
from typing import Any, ClassVar

from zmqkit.errors import ZmqkitError
from zmqkit.patterns.pubsub.talk import Block
from zmqkit.patterns.pubsub.wire import Data, Mixed
from zmqkit.protocol.session import Session

Headers = Mapping[int, Mapping[str, str]]

OVERHEAD_BYTES = 100
"""What a message takes besides its body, about."""


class Parcel:
    """A run of messages of one publisher, in the order of their offsets.

    Attributes:
        publisher: its id, 32 hex digits.
        epoch: 32 hex digits.
        offsets: of all messages here, rising.
        topics: that occur.
        indexes: which of `topics` each message has; None: all have the one.
        sent_at: microseconds since 1970; see `sent_at_of`.
        later: how many microseconds after that each message was sent; None: all at that time.
        codec: of the bodies.
        lengths: of the bodies.
        blob: the bodies end to end.
        headers: by index; most have none.
        replayed: it came from the publisher's history and not as it was published.
        claims: gives out the indexes, each once. Where some were delivered before, not all of them.
        bodies: decoded, by the face, when the first of them is taken.
        spoiled: some body needs to be looked at: for the face.
        told: the face has told the core that it was taken.
        messages, size: what it takes of the room that there is for what waits.
        session: whose credit it took, and returns; None if it came over the data plane.
        credit_messages, credit_bytes: how much.
    """

    __slots__ = (
        "_parts", "blob", "bodies", "claims", "codec", "credit_bytes", "credit_messages", "epoch", "headers",
        "indexes", "later", "lengths", "messages", "offsets", "publisher", "replayed", "sent_at", "session", "size",
        "spoiled", "told", "topics",
    )  # fmt: skip

    def __init__(
        self,
        publisher: str,
        epoch: str,
        found: Data | Mixed | Block | list[Data],
        *,
        chosen: list[int] | None = None,
        replayed: bool = False,
        session: Session | None = None,
        credit_bytes: int = 0,
    ) -> None:
        self.publisher = publisher
        self.epoch = epoch
        self.bodies: list[Any] | None = None
        self.spoiled = False
        self.told = False
        self.replayed = replayed
        self.session = session
        self.later: Sequence[int] | None = None
        if isinstance(found, list):
            self._parts = found
            self.messages = sum([len(each.lengths) for each in found])
            self.size = sum([len(each.blob) for each in found])
            count = self.messages
        else:
            self.offsets: Sequence[int] = found.offsets
            self.sent_at = found.sent_at
            self.codec = found.codec
            self.lengths = found.lengths
            self.blob = found.blob
            self.headers: Headers = found.headers
            if type(found) is Data:
                self.topics = [found.topic]
                self.indexes: Sequence[int] | None = None
            else:
                assert not isinstance(found, Data)
                self.topics, self.indexes = found.topics, found.indexes
                if isinstance(found, Block):
                    self.later = found.later
            count = len(found.lengths)
            self.messages = count if chosen is None else len(chosen)
            self.size = len(found.blob)
        self.size += self.messages * OVERHEAD_BYTES
        self.claims: Iterator[int] = iter(range(count) if chosen is None else chosen)
        self.credit_messages = count if session is not None else 0
        self.credit_bytes = credit_bytes

    def __getattr__(self, name: str) -> Any:
        if name in _TOGETHER:
            self._put_together()
            return object.__getattribute__(self, name)
        raise AttributeError(name)

    def _put_together(self) -> None:
        """Lay the frames of a group into one row. Two threads that do so at once find the same."""
        parts = self._parts
        topics: dict[str, int] = {}
        of: dict[int, int] = {}
        bodies: dict[int, bytes] = {}
        headers: dict[int, Mapping[str, str]] = {}
        for part in parts:
            of.update(zip(part.offsets, repeat(topics.setdefault(part.topic, len(topics))), strict=False))
            ends = list(accumulate(part.lengths))
            bodies.update(zip(part.offsets, map(part.blob.__getitem__, map(slice, [0, *ends], ends)), strict=True))
            for index, more in part.headers.items():
                headers[part.offsets[index]] = more
        first, last = min(of), max(of)
        if last - first < 4 * len(of):
            offsets: Sequence[int] = list(filter(of.__contains__, range(first, last + 1)))
        else:
            offsets = sorted(of)
        pieces = list(map(bodies.__getitem__, offsets))
        self.headers = {at: headers[each] for at, each in enumerate(offsets) if each in headers} if headers else {}
        self.topics, self.indexes = list(topics), list(map(of.__getitem__, offsets))
        self.codec, self.sent_at = parts[0].codec, parts[0].sent_at
        self.lengths, self.blob = list(map(len, pieces)), b"".join(pieces)
        self.offsets = offsets

    @property
    def parcel(self) -> Parcel:
        """Itself; what the face takes messages from has one."""
        return self

    def __len__(self) -> int:
        return len(self.lengths)

    def topic_of(self, index: int) -> str:
        """The topic of a message."""
        indexes = self.indexes
        return self.topics[0 if indexes is None else indexes[index]]

    def sent_at_of(self, index: int) -> int:
        """When a message was published, in microseconds since 1970."""
        later = self.later
        return self.sent_at if later is None else self.sent_at + later[index]


_TOGETHER = frozenset({"blob", "codec", "headers", "indexes", "lengths", "offsets", "sent_at", "topics"})


class Gone:
    """An error to raise at its place among the parcels: `MessagesLost`, or `CursorInUse`.

    Attributes:
        error: what to raise, once. What follows it in the mailbox comes after it.
        final: nothing follows.
        claims: gives out the one index there is.
    """

    __slots__ = ("claims", "error", "final")

    bodies: ClassVar[tuple[()]] = ()

    def __init__(self, error: ZmqkitError, *, final: bool = False) -> None:
        self.error = error
        self.final = final
        self.claims: Iterator[int] = iter(range(1))

    @property
    def parcel(self) -> Gone:
        """Itself; see `Parcel.parcel`."""
        return self
