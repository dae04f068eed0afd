"""A journal that forgets: the interface of `Journal` over dicts. Knows no files.

For durability `memory`, for simulations and for tests. It holds whatever is put into it: the one who puts sets
the bounds.
"""

from __future__ import annotations

import threading
import uuid
from bisect import bisect_left
from collections.abc import Sequence

from zmqkit.errors import JournalError
from zmqkit.journal.store import HIGHEST_KEY, Totals
from zmqkit.options import Durability
from zmqkit.protocol.core import Read, Row, Write


class _Log:
    """Rows by key, and their keys in order. Deleted keys stay in ``keys`` until they are the greater part."""

    __slots__ = ("head", "highest", "keys", "rows", "weight")

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.keys: list[int] = []
        self.head = 0
        """Before this index all keys are deleted: a queue is emptied from its front."""
        self.weight = 0
        self.highest = 0

    def put(self, row: Row) -> None:
        old = self.rows.get(row.key)
        if old is not None:
            self.weight -= old.weight
        elif not self.keys or row.key > self.keys[-1]:
            self.keys.append(row.key)
        else:
            index = bisect_left(self.keys, row.key)
            if self.keys[index] != row.key:
                self.keys.insert(index, row.key)
            self.head = min(self.head, index)
        self.rows[row.key] = row
        self.weight += row.weight

    def delete(self, key: int) -> None:
        old = self.rows.pop(key, None)
        if old is None:
            return
        self.weight -= old.weight
        if len(self.keys) > 2 * len(self.rows) + 64:
            self.keys = sorted(self.rows)
            self.head = 0

    def totals(self) -> Totals:
        if not self.rows:
            return Totals(0, 0, 0, 0)
        while self.keys[self.head] not in self.rows:
            self.head += 1
        while self.keys[-1] not in self.rows:
            self.keys.pop()
        return Totals(len(self.rows), self.weight, self.keys[self.head], self.keys[-1])

    def read(self, request: Read) -> list[Row]:
        found: list[Row] = []
        size_bytes = 0
        for index in range(max(self.head, bisect_left(self.keys, request.first)), len(self.keys)):
            key = self.keys[index]
            if key > request.last:
                break
            row = self.rows.get(key)
            if row is None:
                continue
            found.append(row)
            size_bytes += len(row.value) or 1
            if size_bytes >= request.size_bytes:
                break
        return found


class MemoryJournal:
    """A `Journal` in memory: as fast as a dict and as lasting as the process.

    Args:
        logs: the names of its logs.
    """

    path: str | None = None
    durability: Durability = "memory"

    def __init__(self, *, logs: Sequence[str] = ("messages", "marks", "dead")) -> None:
        self.uuid = uuid.uuid4().hex
        self.epoch = uuid.uuid4().hex
        self._logs = {name: _Log() for name in logs}
        self._lock = threading.Lock()
        self._closed = False

    def _log(self, name: str) -> _Log:
        if self._closed:
            raise JournalError("the journal was closed")
        try:
            return self._logs[name]
        except KeyError:
            raise ValueError(f"no log is named {name!r}; this journal has {', '.join(self._logs)}") from None

    def totals(self, log: str) -> Totals:
        """See `Journal.totals`."""
        with self._lock:
            return self._log(log).totals()

    def highest(self, log: str) -> int:
        """See `Journal.highest`."""
        with self._lock:
            return self._log(log).highest

    def commit(self, writes: Sequence[Write]) -> None:
        """See `Journal.commit`. Never full."""
        with self._lock:
            for name, key, weight, _ in writes:
                self._log(name)
                if not 1 <= key <= HIGHEST_KEY:
                    raise ValueError(f"keys are whole numbers from 1 to 2**63 - 1, got {key!r}")
                if not 0 <= weight <= HIGHEST_KEY:
                    raise ValueError(f"weights are whole numbers from 0 to 2**63 - 1, got {weight!r}")
            for name, key, weight, value in writes:
                log = self._logs[name]
                log.highest = max(log.highest, key)
                if value is None:
                    log.delete(key)
                else:
                    log.put(Row(key, weight, value))

    def sync(self) -> None:
        """See `Journal.sync`. There is no disk."""

    def read(self, request: Read) -> list[Row]:
        """See `Journal.read`."""
        with self._lock:
            return self._log(request.log).read(request)

    def close(self) -> None:
        """Forget everything. Closing twice is harmless."""
        with self._lock:
            self._closed = True
            self._logs = {}
