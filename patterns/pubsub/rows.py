"""Messages as a publisher's history holds them: a row is a run of neighbouring offsets (docs/protocol.md, 14.6).

Pure. The logs of a publisher's journal: ``messages`` (key: the row's first offset; weight: how many), ``epochs`` (key:
an epoch's first offset), ``cursors`` (key: a running number) and ``state`` (key 1: up to which offset all is gone).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Final, NamedTuple, Self

from zmqkit.errors import DecodeError, JournalDamaged
from zmqkit.patterns.pubsub import wire as data
from zmqkit.patterns.pubsub.wire import Headers
from zmqkit.protocol import core, wire

MESSAGES: Final = "messages"
EPOCHS: Final = "epochs"
CURSORS: Final = "cursors"
STATE: Final = "state"

LOGS: Final = (MESSAGES, EPOCHS, CURSORS, STATE)
"""What a publisher's journal is opened with."""

FORMAT: Final = 1

ROW_MESSAGES: Final = 512
"""A row, and a `Pack`, holds so many messages at most..."""
ROW_BYTES: Final = 256 * 1024
"""...or so many bytes of bodies; one body may be larger."""

_EVERYTHING: Final = (1 << 63) - 1


class Pack(NamedTuple):
    """Messages as the caller's thread encoded them, on their way to the core: at most `ROW_MESSAGES`, `ROW_BYTES`.

    Attributes:
        codec: of the bodies.
        sent_at: microseconds since 1970.
        topics: that occur, each once, checked, in the order in which they first do.
        indexes: which of `topics` each message has; None: all have the one.
        lengths: of the bodies.
        blob: the bodies end to end.
        headers: by a message's index; most have none.
    """

    codec: str
    sent_at: int
    topics: list[str]
    indexes: Sequence[int] | None
    lengths: list[int]
    blob: bytes
    headers: Headers = {}  # noqa: RUF012


class Row:
    """A run of neighbouring messages. Attributes as those of `Pack`, and:

    Attributes:
        key: the first message's offset.
        last: the last message's offset.
        count: how many messages.
        before: how many bytes all rows of the journal had, ever, before this one.
    """

    __slots__ = (
        "_ends",
        "before",
        "blob",
        "codec",
        "count",
        "headers",
        "indexes",
        "key",
        "last",
        "lengths",
        "sent_at",
        "topics",
    )

    def __init__(
        self, key: int, codec: str, sent_at: int, topics: list[str], indexes: Sequence[int] | None, lengths: list[int],
        blob: bytes, headers: Headers, before: int = 0,
    ) -> None:  # fmt: skip
        self.key = key
        self.codec = codec
        self.sent_at = sent_at
        self.topics = topics
        self.indexes = indexes
        self.lengths = lengths
        self.blob = blob
        self.headers = headers
        self.count = len(lengths)
        self.last = key + self.count - 1
        self.before = before
        self._ends: list[int] | None = None

    def ends(self) -> list[int]:
        """Where each body begins in the blob, and where the last one ends."""
        if self._ends is None:
            self._ends = list(accumulate(self.lengths, initial=0))
        return self._ends

    def body(self, index: int) -> bytes:
        """One message's encoded body."""
        ends = self.ends()
        return self.blob[ends[index] : ends[index + 1]]

    def newest(self, before: int | None = None) -> dict[str, int]:
        """The offset of each topic's last message here, of those with an offset below `before` only."""
        count = self.count if before is None else min(self.count, before - self.key)
        if count <= 0:
            return {}
        if self.indexes is None:
            return {self.topics[0]: self.key + count - 1}
        offsets = range(self.key, self.key + count)
        if self.count == len(self.topics):
            return dict(zip(self.topics, offsets, strict=False))  # in their order, for topics come as they occur
        found = dict(zip(self.indexes, offsets))  # noqa: B905 - shorter on purpose
        return {self.topics[index]: offset for index, offset in found.items()}

    def pack(self) -> bytes:
        """The value of a row of ``messages``."""
        more = {"headers": dict(self.headers)} if self.headers else {}
        indexes = None if self.indexes is None else list(self.indexes)
        head = wire.pack([FORMAT, self.before, self.sent_at, self.codec, self.topics, indexes, self.lengths, more])
        return b"".join((len(head).to_bytes(4, "big"), head, self.blob))

    @classmethod
    def unpack(cls, key: int, value: bytes) -> Self:
        """Back from the journal. Raises `DecodeError`."""
        size = int.from_bytes(value[:4], "big")
        head = wire.unpack(value[4 : 4 + size])
        if type(head) is not list or len(head) < 8 or head[0] != FORMAT:
            raise DecodeError(f"row {key} of the journal is of a format that this version does not read")
        _, before, sent_at, codec, topics, indexes, lengths, more = head[:8]
        blob = value[4 + size :]
        data.check_bodies(lengths, blob)
        if type(topics) is not list or not topics or not all(type(each) is str for each in topics):
            raise DecodeError(f"row {key} of the journal has no topics")
        if indexes is not None and (
            type(indexes) is not list or len(indexes) != len(lengths) or set(map(type, indexes)) != {int}
            or min(indexes) < 0 or max(indexes) >= len(topics)
        ):  # fmt: skip
            raise DecodeError(f"row {key} of the journal holds messages of no topic")
        return cls(key, wire.text(codec, "codec"), data.read_time(sent_at), topics, indexes, lengths, blob,
                   data.read_headers(more, len(lengths)), wire.number(before, "bytes"))  # fmt: skip


def row_of(pack: Pack, key: int, before: int) -> Row:
    """The row of one pack."""
    return Row(key, pack.codec, pack.sent_at, pack.topics, pack.indexes, pack.lengths, pack.blob, pack.headers, before)


def merge(packs: Sequence[Pack], key: int, before: int) -> Row:
    """The row of neighbouring packs of one codec, which were published in one turn."""
    if len(packs) == 1:
        return row_of(packs[0], key, before)
    table: dict[str, int] = {}
    indexes: list[int] = []
    lengths: list[int] = []
    headers: dict[int, Any] = {}
    for pack in packs:
        if pack.headers:
            headers.update((len(lengths) + index, each) for index, each in pack.headers.items())
        lengths += pack.lengths
        if pack.indexes is None:
            index = table.setdefault(pack.topics[0], len(table))
            if len(pack.lengths) == 1:
                indexes.append(index)
            else:
                indexes += [index] * len(pack.lengths)
        else:
            places = [table.setdefault(topic, len(table)) for topic in pack.topics]
            indexes += [places[index] for index in pack.indexes]
    blob = b"".join([pack.blob for pack in packs])
    only = indexes if len(table) > 1 else None
    return Row(key, packs[0].codec, packs[0].sent_at, list(table), only, lengths, blob, headers, before)


# ---- what an opening finds -------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """What a journal held when it was opened.

    Attributes:
        messages: how many.
        first: key of the oldest row; 0: there is none.
        last: offset of the newest message; 0: there is none.
        written: bytes of all rows that there ever were.
        gone: up to this offset all is deleted.
        epochs: first offset and name of each, in order.
        cursors: key, name, epoch and offset of each.
    """

    messages: int = 0
    first: int = 0
    last: int = 0
    written: int = 0
    gone: int = 0
    epochs: tuple[tuple[int, str], ...] = ()
    cursors: tuple[tuple[int, str, str, int], ...] = ()


def look_into(journal: Any) -> Found:
    """What a journal holds, before a core is made for it. Raises `JournalDamaged`, and what its `read` raises.

    Args:
        journal: open, with the logs `LOGS`; see `zmqkit.journal.store.Journal`.
    """
    totals = journal.totals(MESSAGES)
    try:
        last, written = 0, 0
        if totals.rows:
            (newest,) = journal.read(core.Read(MESSAGES, totals.last_key, totals.last_key, 1))
            row = Row.unpack(newest.key, newest.value)
            last, written = row.last, row.before + len(row.blob)
        epochs, cursors, state = (journal.read(core.Read(log, 1, _EVERYTHING, 1 << 62)) for log in LOGS[1:])
        gone = _read_list(state[0].value, 2)[1] if state else 0
        return Found(
            totals.weight,
            totals.first_key,
            last,
            written,
            wire.number(gone, "offset"),
            tuple((row.key, data.read_id(_read_list(row.value, 2)[1], "epoch")) for row in epochs),
            tuple((row.key, *_read_cursor(row.value)) for row in cursors),
        )
    except DecodeError as error:
        raise unreadable(error) from error


def first_offset(journal: Any) -> int:
    """The first offset of a new opening: above all that was ever given out, and of no other epoch."""
    # A row's key is its first message's offset; the others within it may be higher than any key.
    rows = journal.highest(MESSAGES)
    first: int = max(rows + ROW_MESSAGES if rows else 1, journal.highest(EPOCHS) + 1)
    return first


def begin_epoch(journal: Any) -> tuple[int, Found]:
    """The first offset of a new opening, and what the journal held before it; its epoch is stored, and synced at any
    durability: a power cut may take messages, but never that there was an epoch, and where it began.

    Raises what `look_into` and the journal's `commit` and `sync` raise.
    """
    first, found = first_offset(journal), look_into(journal)
    journal.commit([core.Write(EPOCHS, first, 0, pack_epoch(journal.epoch))])
    journal.sync()
    return first, found


def pack_epoch(epoch: str) -> bytes:
    """The value of a row of ``epochs``."""
    return wire.pack([FORMAT, epoch])


def pack_cursor(name: str, epoch: str, offset: int) -> bytes:
    """The value of a row of ``cursors``."""
    return wire.pack([FORMAT, name, epoch, offset])


def pack_state(gone: int) -> bytes:
    """The value of the row of ``state``."""
    return wire.pack([FORMAT, gone])


def _read_list(value: bytes, fields: int) -> list[Any]:
    found = wire.unpack(value)
    if type(found) is not list or len(found) < fields or found[0] != FORMAT:
        raise DecodeError("a row of the journal is of a format that this version does not read")
    return found


def _read_cursor(value: bytes) -> tuple[str, str, int]:
    _, name, epoch, offset = _read_list(value, 4)[:4]
    return wire.text(name, "cursor"), data.read_id(epoch, "epoch"), wire.number(offset, "offset")


def unreadable(error: DecodeError) -> JournalDamaged:
    """What to tell the user of a row that cannot be read."""
    return JournalDamaged(
        f"a row of the journal cannot be read: {error}. Another version of zmqkit wrote it, or another program: open "
        "it with that version, put back a good copy, or move all files of its name aside to begin with an empty one"
    )
