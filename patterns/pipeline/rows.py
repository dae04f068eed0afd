"""Messages as the journal and the pusher's memory hold them: a row is a run of messages (docs/protocol.md, section 8).

Pure. One row of the log ``messages`` holds a batch; what happened to single messages of it stands in the log
``marks`` under the same key. When all are settled both rows go.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Final, NamedTuple, Self

from zmqkit.errors import DecodeError, JournalDamaged
from zmqkit.patterns.pipeline.wire import Deliver
from zmqkit.protocol import core, wire

MESSAGES: Final = "messages"
MARKS: Final = "marks"
DEAD: Final = "dead"

FORMAT: Final = 1

NO_KEYS: Final[Mapping[int, str]] = {}
NO_INBOXES: Final[Mapping[int, int]] = {}

ROW_MESSAGES: Final = 256
"""Single sends that meet in one turn share a row up to so many messages..."""
ROW_BYTES: Final = 256 * 1024
"""...or so many bytes."""


class Plan(NamedTuple):
    """What is asked for messages besides their turn (docs/protocol.md, 7.7)."""

    keys: Mapping[int, str] = {}
    """By index: messages of one key keep their order."""
    priority: int = 0
    delay: float = 0.0
    """Seconds, from when they are handed over."""
    ttl: float = 0.0
    """Seconds, likewise; 0: for ever."""
    once: bool = False
    """Of those with an id none is stored that was seen within the window."""


@dataclasses.dataclass(frozen=True, slots=True)
class Pack:
    """Bodies as the caller's thread encoded them, on their way to the core."""

    codec: str
    sent_at: int
    lengths: list[int]
    blob: bytes
    ids: Mapping[int, str] = dataclasses.field(default_factory=dict)
    headers: Mapping[int, dict[str, str]] = dataclasses.field(default_factory=dict)
    dated: bool = False
    """`sent_at` is somebody else's: it shares a row only with what was sent at that very time."""
    plan: Plan | None = None
    """None: nothing but their turn."""
    inbox: int = 0
    """The number of the only inbox that they may go to, for they may have had their effect there; 0: anywhere."""

    def __len__(self) -> int:
        return len(self.lengths)


class Row:
    """A run of neighbouring messages and what became of each. Bits count from the first message.

    Attributes:
        key: the first message's sequence; the key of the row in the journal.
        count: how many messages.
        done: bits of the messages that are settled.
        kept: those of `done` that the journal has.
        got: bits of the messages that some puller has received.
        failures: by index; kept in the journal.
        deliveries: by index, how often it was delivered before; in memory only.
        marked: the log ``marks`` has a row of ours.
        keys: by index.
        lane, due, expires: of all its messages; times in microseconds since 1970, 0 for none.
        special: it is not plain: one of these four is there.
        inboxes: by number, bits of the messages that may have been lent to an inbox; under 0 of those that are known to
            be free. No message is under two.
        bound: bits of the messages that go only to their inbox of `inboxes`.
    """

    __slots__ = (
        "_offsets", "blob", "bound", "codec", "count", "deliveries", "done", "due", "expires", "failures", "got",
        "headers", "ids", "inboxes", "kept", "key", "keys", "lane", "lengths", "marked", "origin", "sent_at", "special",
    )  # fmt: skip

    def __init__(
        self, key: int, origin: str, sent_at: int, codec: str, lengths: list[int], blob: bytes,
        ids: Mapping[int, str], headers: Mapping[int, dict[str, str]],
        keys: Mapping[int, str] = NO_KEYS, lane: int = 0, due: int = 0, expires: int = 0,
    ) -> None:  # fmt: skip
        self.key = key
        self.origin = origin
        self.sent_at = sent_at
        self.codec = codec
        self.lengths = lengths
        self.blob = blob
        self.ids = ids
        self.headers = headers
        self.count = len(lengths)
        self.done = self.kept = self.got = self.bound = 0
        self.inboxes: Mapping[int, int] = NO_INBOXES
        self.failures: dict[int, int] = {}
        self.deliveries: dict[int, int] = {}
        self.marked = False
        self.keys = keys
        self.lane = lane
        self.due = due
        self.expires = expires
        self.special = bool(keys or lane or due or expires)
        self._offsets: list[int] | None = None

    @property
    def all(self) -> int:
        """Bits of all messages."""
        return (1 << self.count) - 1

    @property
    def last(self) -> int:
        """The last message's sequence."""
        return self.key + self.count - 1

    def offsets(self) -> list[int]:
        """Where each body begins, and where the last one ends."""
        if self._offsets is None:
            self._offsets = list(accumulate(self.lengths, initial=0))
        return self._offsets

    def body(self, index: int) -> bytes:
        """One message's encoded body."""
        offsets = self.offsets()
        return self.blob[offsets[index] : offsets[index + 1]]

    def id(self, index: int) -> str:
        """One message's id: its own, else derived from its identity."""
        return self.ids.get(index) or f"{self.origin}-{self.key + index}"

    def deliver(self, lease: int, index: int, count: int, *, alone: bool) -> Deliver:
        """A run of this row's messages, for the wire."""
        whole = count == self.count
        offsets = self.offsets() if not whole else []
        return Deliver(
            lease,
            self.key + index,
            self.origin,
            self.sent_at,
            self.codec,
            self.lengths if whole else self.lengths[index : index + count],
            self.blob if whole else self.blob[offsets[index] : offsets[index + count]],
            _cut(self.ids, index, count),
            _cut(self.headers, index, count),
            _cut(self.failures, index, count),
            _cut(self.deliveries, index, count),
            alone,
            _cut(self.keys, index, count),
            self.lane,
        )

    def letter(self, index: int, reason: str, traceback: str, at: int) -> DeadRow:
        """One message as a dead letter; `at` in microseconds since 1970."""
        return DeadRow(
            id=self.id(index),
            codec=self.codec,
            body=self.body(index),
            headers=self.headers.get(index, {}),
            reason=reason,
            traceback=traceback,
            failures=self.failures.get(index, 0),
            sent_at=self.sent_at,
            at=at,
            key=self.keys.get(index),
            priority=self.lane,
            inbox=self.inbox_of(index),
        )

    def inbox_of(self, index: int) -> int:
        """The number of the inbox that a message is bound to; 0: to none."""
        if not self.bound >> index & 1:
            return 0
        return next((number for number, bits in self.inboxes.items() if bits >> index & 1), 0)

    def lend_to(self, number: int, bits: int) -> None:
        """These messages are lent, or free, under this number from now on, and under no other; a mapping of its own."""
        found = {other: left for other, marked in self.inboxes.items() if (left := marked & ~bits)}
        if bits:
            found[number] = bits | found.get(number, 0)
        self.inboxes = found

    # ---- the journal's bytes -----------------------------------------------------

    def pack(self) -> bytes:
        """The value of a row of ``messages``."""
        more: dict[str, Any] = {}
        if self.ids:
            more["ids"] = dict(self.ids)
        if self.headers:
            more["headers"] = dict(self.headers)
        if self.special:
            found = {"keys": dict(self.keys), "lane": self.lane, "due": self.due, "expires": self.expires}
            more.update({name: value for name, value in found.items() if value})
        head = wire.pack([FORMAT, self.origin, self.sent_at, self.codec, self.lengths, more])
        return b"".join((len(head).to_bytes(4, "big"), head, self.blob))

    @classmethod
    def unpack(cls, key: int, value: bytes) -> Self:
        """Back from the journal. Raises `DecodeError`."""
        size = int.from_bytes(value[:4], "big")
        head = wire.unpack(value[4 : 4 + size])
        if type(head) is not list or len(head) < 6 or head[0] != FORMAT:
            raise DecodeError(f"row {key} of the journal is of a format that this version does not read")
        _, origin, sent_at, codec, lengths, more = head[:6]
        blob = value[4 + size :]
        if (
            type(lengths) is not list or not all(type(each) is int and each >= 0 for each in lengths)
            or sum(lengths) != len(blob) or type(more) is not dict
        ):  # fmt: skip
            raise DecodeError(f"row {key} of the journal holds other bodies than it says")
        keys, times = more.get("keys", NO_KEYS), [more.get(name, 0) for name in ("lane", "due", "expires")]
        if type(keys) is not dict or not all(type(each) is int for each in times):
            raise DecodeError(f"row {key} of the journal is to be delivered at times that make no sense")
        return cls(
            key, origin, sent_at, codec, lengths, blob, more.get("ids", {}), more.get("headers", {}), keys, *times
        )

    def pack_marks(self) -> tuple[int, bytes]:
        """The weight and value of a row of ``marks``: how many are settled, which, and the others' failures."""
        size = (self.count + 7) // 8
        found: list[Any] = [self.done.to_bytes(size, "little"), self.failures]
        if self.inboxes:
            left = {number: bits & ~self.done for number, bits in self.inboxes.items()}
            found.append({number: bits.to_bytes(size, "little") for number, bits in left.items() if bits})
        return self.done.bit_count(), wire.pack(found)

    def unpack_marks(self, value: bytes) -> None:
        """Take in what the journal knows of single messages. Raises `DecodeError`."""
        marks = wire.unpack(value)
        if type(marks) is not list or len(marks) < 2 or type(marks[0]) is not bytes or type(marks[1]) is not dict:
            raise DecodeError(f"the marks of row {self.key} of the journal are none")
        self.done = self.kept = int.from_bytes(marks[0], "little") & self.all
        self.failures = marks[1]
        self.marked = True
        if len(marks) > 2:
            if type(marks[2]) is not dict or not all(
                type(number) is int and type(bits) is bytes for number, bits in marks[2].items()
            ):
                raise DecodeError(f"the marks of row {self.key} of the journal name inboxes that are none")
            self.inboxes = {number: int.from_bytes(bits, "little") & self.all for number, bits in marks[2].items()}


def _cut(values: Mapping[int, Any], index: int, count: int) -> dict[int, Any]:
    if not values:
        return {}
    if count < len(values):
        return {i - index: values[i] for i in range(index, index + count) if i in values}
    return {i - index: value for i, value in values.items() if index <= i < index + count}


@dataclasses.dataclass(frozen=True, slots=True)
class DeadRow:
    """A dead letter, as the log ``dead`` keeps it under the message's sequence."""

    id: str
    codec: str
    body: bytes
    headers: Mapping[str, str]
    reason: str
    traceback: str
    failures: int
    sent_at: int
    at: int
    """Microseconds since 1970."""
    key: str | None = None
    priority: int = 0
    inbox: int = 0
    """Not 0: its effect may be there, in the inbox of this number."""

    def pack(self) -> bytes:
        """The row's value."""
        found = dataclasses.asdict(self)
        for name in _OF_SOME:
            if not found[name]:
                del found[name]
        return wire.pack([FORMAT, found])

    @classmethod
    def unpack(cls, value: bytes) -> Self:
        """Back from the journal. Raises `DecodeError`."""
        import msgpack

        try:
            found = msgpack.unpackb(value, raw=False, strict_map_key=False)
        except Exception as error:  # msgpack raises many kinds; on damaged bytes all mean the same
            raise DecodeError(f"not a dead letter: {error}") from None
        if type(found) is not list or len(found) < 2 or found[0] != FORMAT or type(found[1]) is not dict:
            raise DecodeError("a dead letter of a format that this version does not read")
        names = [field.name for field in dataclasses.fields(cls)]
        if not all(name in found[1] or name in _OF_SOME for name in names):
            raise DecodeError("a dead letter with parts missing")
        letter = cls(**{name: found[1][name] for name in names if name in found[1]})
        if type(letter.priority) is not int or not (letter.key is None or type(letter.key) is str):
            raise DecodeError("a dead letter with a key or a priority that makes no sense")
        return letter


_OF_SOME: Final = ("key", "priority", "inbox")
"""What is written of letters that have it."""


def told_by(rows: Sequence[core.Row]) -> tuple[str, str] | JournalDamaged:
    """What the log ``dead`` tells of one settled message: (outcome, reason)."""
    try:
        return ("dead", DeadRow.unpack(rows[0].value).reason) if rows else ("acked", "")
    except DecodeError as error:
        return unreadable(error)


def unreadable(error: DecodeError) -> JournalDamaged:
    """What to tell the user of a row that `unpack` does not take."""
    return JournalDamaged(
        f"a row of the journal cannot be read: {error}. Another version of zmqkit wrote it, or another program: open "
        "it with that version, put back a good copy, or move all files of its name aside to begin with an empty one"
    )
