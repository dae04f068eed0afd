"""What the server writes into its journal, and what becomes of it when the journal fails.

Pure. A call that is not idempotent is started only when its row is stored. Replies and deletions are written in the
same commits; a deletion alone waits for company. Without a journal no entry has a key, and nothing is written.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from zmqkit.errors import JournalError, JournalFull
from zmqkit.patterns.reqrep.rows import CALLS, DONE, FLOOR, STARTED, CallRow
from zmqkit.patterns.reqrep.window import Client, Entry
from zmqkit.protocol.core import Outputs

RETRY_STORE: Final = 1.0
"""Seconds until a full journal is tried again."""

MAX_DELETIONS: Final = 1000
"""So many deletions wait for a commit that is made anyway."""


class Flight(NamedTuple):
    number: int
    rows: dict[int, bytes | None]
    starts: list[Entry]


class Ledger:
    """The journal's rows, as they shall be.

    Args:
        out: where writes go.
        durable: there is a journal.

    Attributes:
        durable: rows are written.
        full: it has no room, and what it said; None: it has.
        broken: it is of no more use, and why.
    """

    def __init__(self, out: Outputs, *, durable: bool) -> None:
        self.durable = durable
        self.full: Exception | None = None
        self.broken: Exception | None = None
        self._out = out
        self._next = 1
        self._owed: dict[int, bytes | None] = {}
        self._starts: list[Entry] = []
        self._floors: set[int] = set()
        self._urgent = False
        self._flying: deque[Flight] = deque()
        self._retry_at: float | None = None

    @property
    def failed(self) -> Exception | None:
        """Why nothing can be started now."""
        return self.broken or self.full

    def found(self, key: int) -> None:
        """A row that there is."""
        self._next = max(self._next, key + 1)

    # ---- what shall be stored ----------------------------------------------------

    def start(self, entry: Entry) -> None:
        """It is to be started: `stored` returns it when that is on the disk."""
        assert entry.client is not None
        entry.key = self._next
        self._next += 1
        self._owe(entry.key, CallRow(entry.key, STARTED, entry.client.key, entry.number, entry.id, entry.method).pack())
        self._starts.append(entry)

    def starting(self) -> list[Entry]:
        """All whose start is on its way to the disk."""
        return [entry for flight in self._flying for entry in flight.starts] + self._starts

    def done(self, entry: Entry) -> None:
        """Its answer, or that there is none any more."""
        assert entry.client is not None
        client, answer = entry.client.key, entry.answer
        self._owe(entry.key, CallRow(entry.key, DONE, client, entry.number, entry.id, entry.method, answer).pack())

    bury = done

    def forget(self, entry: Entry, *, soon: bool) -> None:
        """Its row is of no more use. That waits for company, unless the row says what is not so."""
        self._owe(entry.key, None, urgent=soon)
        entry.key = 0

    def floor(self, client: Client) -> None:
        """A client's evicted floor."""
        if not client.row:
            client.row = self._next
            self._next += 1
        self._floors.add(client.row)
        self._owe(client.row, CallRow(client.row, FLOOR, client.key, client.evicted).pack(), urgent=False)

    def forget_floor(self, row: int) -> None:
        """A client's floor is of no more use."""
        self._floors.discard(row)
        self._owe(row, None, urgent=False)

    def hurry(self) -> None:
        """What waits for company waits no more."""
        self._urgent = bool(self._owed)

    def _owe(self, key: int, value: bytes | None, *, urgent: bool = True) -> None:
        if self.broken is None:
            self._owed[key] = value
            self._urgent |= urgent

    # ---- the journal -------------------------------------------------------------

    def flush(self, now: float) -> None:
        """Put out what is to be written now."""
        if not self._owed:
            if self._retry_at is not None and now >= self._retry_at:
                self._retry_at = self.full = None  # the next call shows
            return
        if self.full is not None:
            if self._retry_at is None or now < self._retry_at:
                return
            # Deletions make room, and need none; floors must not come after them.
            rows = {key: value for key, value in self._owed.items() if value is None or key in self._floors}
            self._retry_at = None
            self._write(rows or dict(self._owed))
        elif self._urgent or len(self._owed) > MAX_DELETIONS:
            self._write(dict(self._owed))

    def _write(self, rows: dict[int, bytes | None]) -> None:
        for key, value in rows.items():
            self._out.write(CALLS, key, 0 if value is None else 1, value)
            del self._owed[key]
        starts, self._starts = self._starts, []
        self._urgent = False
        self._flying.append(Flight(self._out.written, rows, starts))

    def stored(self, up_to: int) -> list[Entry]:
        """The journal has it: the entries that may be started."""
        started: list[Entry] = []
        while self._flying and self._flying[0].number <= up_to:
            started += self._flying.popleft().starts
        if self.full is not None and not self._flying:
            self.full = self._retry_at = None
            self._urgent = bool(self._owed)
        return started

    def store_failed(self, up_to: int, error: Exception, now: float) -> list[Entry]:
        """It was not stored, or may not be: the entries that cannot be started."""
        refused: list[Entry] = []
        owed: dict[int, bytes | None] = {}
        while self._flying and self._flying[0].number <= up_to:
            flight = self._flying.popleft()
            refused += flight.starts
            owed |= flight.rows
        if isinstance(error, JournalFull):
            self._owed = {**owed, **self._owed}
            self.full = error
            self._retry_at = now + RETRY_STORE
        else:
            self.broken = JournalError(f"the journal failed before ({error}): close this server and open it again")
            self._owed.clear()
            self._retry_at = None
        refused += self._starts
        self._starts.clear()
        return refused

    def next_deadline(self) -> float | None:
        """When a full journal is tried again."""
        return self._retry_at
