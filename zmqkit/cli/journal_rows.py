"""What the rows of each kind of journal mean, for a check of all of them. Prints nothing.

The checksum has said that a row is what was written; here is looked whether it makes sense: it can be decoded, it
stands for as many messages as its weight says, and it fits the rows beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zmqkit.errors import DecodeError
from zmqkit.journal.salvage import Get
from zmqkit.patterns.pipeline import dedupe, doubt, entries, lanes, walltime
from zmqkit.patterns.pipeline import rows as pipeline
from zmqkit.patterns.pubsub import rows as pubsub
from zmqkit.patterns.reqrep import rows as reqrep
from zmqkit.protocol import wire
from zmqkit.protocol.core import Row

MOST_REFUSED = 100_000


class Judge:
    """Says what is wrong with rows, asked log by log in the order of keys. Of unknown kinds and logs it knows nothing.

    Args:
        kind: of the journal; None: that cannot be read.
    """

    def __init__(self, kind: str | None) -> None:
        self._last = 0
        """The last number that the row before stands for, in the log that was asked about last."""
        self._log = ""
        self._refused: set[int] = set()
        """Keys of rows of ``messages`` that are out of turn, the first `MOST_REFUSED` of them."""
        self._readers: dict[str, Callable[[Row, Get], str | None]] = {}
        if kind == "pipeline":
            self._readers = {
                pipeline.MESSAGES: self._messages,
                pipeline.MARKS: self._marks,
                pipeline.DEAD: self._dead,
                lanes.LANES: self._lanes,
                dedupe.IDS: lambda row, _: _weighs(row, 0, dedupe.unpack_id(row.value)),
                walltime.STATE: _list_of(int),
                doubt.INBOXES: lambda row, _: _weighs(row, 0, doubt.unpack_inbox(row.value)),
            }
        elif kind == "publisher":
            self._readers = {
                pubsub.MESSAGES: self._published,
                pubsub.EPOCHS: _list_of(str),
                pubsub.CURSORS: _list_of(str, str, int),
                pubsub.STATE: _list_of(int),
            }
        elif kind == "server":
            self._readers = {reqrep.CALLS: lambda row, _: _weighs(row, 1, reqrep.read_call(row) and 1)}
        elif kind == "client":
            self._readers = {reqrep.REQUESTS: lambda row, _: _weighs(row, 1, reqrep.read_request(row) and 1)}

    def __call__(self, log: str, row: Row, get: Get) -> str | None:
        """See `zmqkit.journal.salvage.Judge`."""
        if log != self._log:
            self._log, self._last = log, 0
        reader = self._readers.get(log)
        if reader is None:
            return None
        try:
            wrong = reader(row, get)
        # The row is what was written: what fails in reading it is of another version, or of another program.
        except (DecodeError, ValueError, TypeError, KeyError, AttributeError) as error:
            wrong = f"it cannot be decoded: {error}"
        return wrong

    def _messages(self, row: Row, get: Get) -> str | None:
        return self._run(row, pipeline.Row.unpack(row.key, row.value).count)

    def _published(self, row: Row, get: Get) -> str | None:
        return self._run(row, pubsub.Row.unpack(row.key, row.value).count)

    def _run(self, row: Row, count: int) -> str | None:
        """A row of neighbouring numbers, that begin after those of the row before."""
        if count != row.weight or not count:
            return f"it holds {count} messages, and is said to hold {row.weight}"
        if row.key <= self._last:
            if len(self._refused) < MOST_REFUSED:
                self._refused.add(row.key)
            return f"it begins at number {row.key}, and the row before it ends at {self._last}"
        self._last = row.key + count - 1
        return None

    def _marks(self, row: Row, get: Get) -> str | None:
        messages = None if row.key in self._refused else get(pipeline.MESSAGES, row.key)
        if messages is None:
            return "it marks messages of a row that is not there"
        found = pipeline.Row.unpack(messages.key, messages.value)
        if found.count != messages.weight:
            return "it marks messages of a row that makes no sense"
        found.unpack_marks(row.value)
        if any(type(index) is not int or not 0 <= index < found.count for index in found.failures):
            return "it marks messages that its row does not hold"
        return _weighs(row, found.done.bit_count(), 1)

    def _lanes(self, row: Row, get: Get) -> str | None:
        messages = get(pipeline.MESSAGES, row.key)
        if messages is None:
            return "it is about a row that is not there"
        found = pipeline.Row.unpack(messages.key, messages.value)
        if found.count != row.weight:
            return f"its row holds {found.count} messages, and it is said to be about {row.weight}"
        entry = entries.unpack_entry(row.key, row.weight, row.value)
        hashes = [entries.hash_of(found.keys[at]) if at in found.keys else b"" for at in range(found.count)]
        of_keys = not found.keys if not entry.hashes else list(entry.hashes) == hashes
        if (entry.lane, entry.due, entry.expires) != (found.lane, found.due, found.expires) or not of_keys:
            return "it says otherwise than its row"
        return None

    def _dead(self, row: Row, get: Get) -> str | None:
        pipeline.DeadRow.unpack(row.value)
        return _weighs(row, 1, 1)


def _weighs(row: Row, weight: int, _read: object) -> str | None:
    return None if row.weight == weight else f"it stands for {weight} messages, and is said to stand for {row.weight}"


def _list_of(*kinds: type) -> Callable[[Row, Get], str | None]:
    """A reader of rows of the format and so many values, of these types."""

    def read(row: Row, _: Get) -> str | None:
        found: Any = wire.unpack(row.value)
        if type(found) is not list or len(found) <= len(kinds) or found[0] != pubsub.FORMAT:
            return "it is of a format that this version does not read"
        if any(type(value) is not kind for value, kind in zip(found[1:], kinds, strict=False)):
            return "its values are of other types than they should be"
        return _weighs(row, 0, 1)

    return read
