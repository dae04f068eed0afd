"""What a server remembers of the calls of all its clients: the reply window (docs/protocol.md, section 12).

Pure. An entry stands from when a call is accepted until its client has closed it, or until the window's bounds push it
out. Whoever repeats a call is answered from its entry and never makes it run again. What was pushed out while its
client might still ask raises that client's evicted floor: an unknown number up to there is answered "expired".
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from zmqkit.options import Window
from zmqkit.patterns.reqrep import calls, wire
from zmqkit.patterns.reqrep.calls import Answer

if TYPE_CHECKING:
    from zmqkit.patterns.reqrep.callers import Caller
    from zmqkit.patterns.reqrep.streams import Flow

QUEUED, STORING, RUNNING, DONE, STARTED, GONE = range(6)
"""States of an entry. STORING: its start is being journalled. STARTED: before a crash, and the end is not known.
GONE: it is in no window any more."""

MAX_CLIENTS: Final = 10_000
"""So many clients without a session keep their entries; the one that is away longest loses them first."""

MAX_FLOORS: Final = 100_000
"""Of so many clients that are away only the evicted floor is kept."""

GONE_A_SWEEP: Final = 64
"""So many entries that are gone may fill the lists before they are swept out."""

OVERHEAD: Final = 64
"""Bytes that an entry counts beside its body."""

DROPPED: Final = Answer(
    calls.UNKNOWN, code="dropped", message="it was executed, but its reply was not kept: too large, or a stream"
)
"""What a tombstone answers."""


class Entry:
    """One call.

    Attributes:
        client: whose it is; None: of a plain client, in no window.
        number: of the call, for that client.
        id: the caller's own request id; empty: none.
        method: its name.
        state: see above.
        caller: where the answer goes; None: nobody waits there.
        others: who else asked for it by its request id: (caller, number).
        unwanted: who sent it has cancelled it.
        execution: while it is not done.
        payer: whose credit the arguments count against, and how many bytes that is (`paid`).
        answer: when it is done.
        size: what it counts in the window, in bytes.
        done_at: when it was done, or found in the journal.
        key: of its row in the journal; 0: it has none.
        emitted: items of its stream that went out.
        flow: of its streams; None: it has none.
    """

    __slots__ = (
        "answer", "caller", "client", "done_at", "emitted", "execution", "flow", "id", "key", "method", "number",
        "others", "paid", "payer", "size", "state", "unwanted",
    )  # fmt: skip

    def __init__(self, client: Client | None, number: int, id: str, method: str, state: int) -> None:
        self.client = client
        self.number = number
        self.id = id
        self.method = method
        self.state = state
        self.caller: Caller | None = None
        self.others: list[tuple[Caller, int]] | None = None
        self.unwanted = False
        self.execution: calls.Execution | None = None
        self.payer: Caller | None = None
        self.paid = 0
        self.answer = DROPPED
        self.size = 0
        self.done_at = 0.0
        self.key = 0
        self.emitted = 0
        self.flow: Flow | None = None


class Client:
    """What is known of one client, by its key.

    Attributes:
        entries: by number.
        evicted: an unknown number up to this one is expired.
        callers: how many sessions it has now.
        gone: it will never come back.
        key: 16 bytes.
        row: of its evicted floor in the journal; 0: it has none.
        doubtful: its floor may be forgotten: what it repeats may have been executed.
    """

    __slots__ = ("callers", "doubtful", "entries", "evicted", "gone", "key", "row")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.entries: dict[int, Entry] = {}
        self.evicted = 0
        self.callers = 0
        self.gone = False
        self.row = 0
        self.doubtful = False


class Ledger(Protocol):
    """Where the window says what shall be kept on the disk; asked only of what has a row, or shall have one."""

    def forget(self, entry: Entry, *, soon: bool) -> None:
        """The entry's row is of no more use; `soon`: it says that a call was started, and it was not."""

    def bury(self, entry: Entry) -> None:
        """The entry's reply is dropped."""

    def floor(self, client: Client) -> None:
        """The client's evicted floor rose above something that had a row."""

    def forget_floor(self, row: int) -> None:
        """A client's floor is of no more use."""


class ReplyWindow:
    """The entries of all clients, and their bounds.

    Args:
        bounds: see `zmqkit.Window`.
        ledger: what is to be written.
        counters: "replies_evicted", "replies_dropped" and "clients_forgotten" are counted here.

    Attributes:
        clients: by key.
        ids: entries by request id, whoever asked.
        count: entries that are done and kept.
        size: what they count, in bytes.
        sweep_at: from then on `sweep` has something to do.
        wake_at: see `next_sweep`; infinite if there is nothing.
    """

    def __init__(self, bounds: Window, ledger: Ledger, counters: dict[str, int | float]) -> None:
        self.bounds = bounds
        self.clients: dict[bytes, Client] = {}
        self.ids: dict[str, Entry] = {}
        self.count = 0
        self.size = 0
        self._ledger = ledger
        self._counters = counters
        self._order: deque[Entry] = deque()
        """Entries that are done, the oldest first; among them some that are gone."""
        self._large: deque[Entry] = deque()
        self._away: dict[bytes, Client] = {}
        self._floors: dict[bytes, tuple[int, int]] = {}
        """Clients of which nothing else is known: evicted floor and its row."""
        self._forgot = False
        self._unstamped: list[Entry] = []
        self._gone = 0
        """Entries that were dropped since the last sweep."""
        self.sweep_at = self.wake_at = math.inf
        for name in ("replies_evicted", "replies_dropped", "clients_forgotten"):
            counters.setdefault(name, 0)

    # ---- clients -----------------------------------------------------------------

    def client(self, key: bytes) -> Client:
        """The client of this key; a new one if it is not known."""
        client = self.clients.get(key)
        if client is None:
            client = self.clients[key] = Client(key)
            floor = self._floors.pop(key, None)
            if floor is not None:
                client.evicted, client.row = floor
            elif self._forgot:
                client.doubtful = True
        return client

    def came(self, client: Client) -> None:
        """It has one more session."""
        client.callers += 1
        client.gone = False
        self._away.pop(client.key, None)

    def went(self, client: Client, *, for_good: bool) -> None:
        """It has one session less; `for_good`: no instance will ever use its key again."""
        client.callers -= 1
        if client.callers:
            return
        client.gone = for_good
        if for_good:
            for entry in [each for each in client.entries.values() if each.state >= DONE and not each.id]:
                self.drop(entry)
        if not client.entries:
            self._collapse(client)
            return
        self._away[client.key] = client
        if len(self._away) > MAX_CLIENTS:
            self._forget_one()

    def _forget_one(self) -> None:
        """Whoever is away longest keeps no entries but of what is running, which comes to an end."""
        client = next(iter(self._away.values()))
        del self._away[client.key]
        self._counters["clients_forgotten"] += 1
        for entry in list(client.entries.values()):
            self.evict(entry)

    def _collapse(self, client: Client) -> None:
        """A client without session and entries: only its floor is kept, if it has one."""
        if self.clients.get(client.key) is not client:
            return
        del self.clients[client.key]
        self._away.pop(client.key, None)
        if client.gone or not client.evicted:
            if client.row:
                self._ledger.forget_floor(client.row)
            return
        self.remember_floor(client.key, client.evicted, client.row)

    def remember_floor(self, key: bytes, evicted: int, row: int) -> None:
        """The evicted floor of a client of which nothing else is known."""
        floors = self._floors
        floors[key] = (evicted, row)
        if len(floors) > MAX_FLOORS:
            _, row = floors.pop(next(iter(floors)))
            self._forgot = True
            if row:
                self._ledger.forget_floor(row)

    # ---- entries -----------------------------------------------------------------

    def restore(self, entry: Entry) -> None:
        """An entry that the journal knows; its time runs from the first `sweep`."""
        assert entry.client is not None
        entry.client.entries[entry.number] = entry
        if entry.id:
            self.ids[entry.id] = entry
        self._away[entry.client.key] = entry.client
        self._unstamped.append(entry)
        self.sweep_at = 0.0

    def keep(self, entry: Entry, now: float) -> None:
        """An entry is done: keep it as long as the bounds allow."""
        entry.done_at = now
        size = entry.size = len(entry.answer.body) + OVERHEAD
        self.count += 1
        self.size += size
        if not self._order:
            self.sweep_at = now + self.bounds.seconds
            self.wake_at = now + self.bounds.seconds * 1.05
        self._order.append(entry)
        if size >= wire.LARGE:
            self._large.append(entry)
        if self.count > self.bounds.count or self.size > self.bounds.size_bytes:
            self._shrink()

    def unkeep(self, entry: Entry) -> None:
        """It is not done after all, or no more: it does not count. (It stays in the lists until they are swept.)"""
        if entry.size:
            self.count -= 1
            self.size -= entry.size
            entry.size = 0

    def drop(self, entry: Entry) -> None:
        """It was never started, or can never be asked for again."""
        client = entry.client
        if entry.state == GONE or client is None:
            entry.state = GONE
            return
        if entry.size:
            self.count -= 1
            self.size -= entry.size
            entry.size = 0
            self._gone += 1
            if self._gone >= GONE_A_SWEEP:
                self.sweep_at = 0.0
        done = entry.state == DONE
        entry.state = GONE
        entry.answer = DROPPED
        del client.entries[entry.number]
        if entry.id and self.ids.get(entry.id) is entry:
            del self.ids[entry.id]
        if entry.key:
            self._ledger.forget(entry, soon=not done)
        if not client.entries and not client.callers:
            self._collapse(client)

    def evict(self, entry: Entry) -> None:
        """It is pushed out, and may be asked for again."""
        client = entry.client
        if not entry.size or client is None:
            return
        self._counters["replies_evicted"] += 1
        if not client.gone and entry.number > client.evicted:
            client.evicted = entry.number
            if entry.key:
                self._ledger.floor(client)
        self.drop(entry)

    def _bury(self, entry: Entry) -> None:
        self._counters["replies_dropped"] += 1
        self.size -= entry.size - OVERHEAD
        entry.size = OVERHEAD
        entry.answer = DROPPED
        if entry.key:
            self._ledger.bury(entry)

    def _shrink(self) -> None:
        bounds = self.bounds
        while self.size > bounds.size_bytes and self._large:
            entry = self._large.popleft()
            if entry.size >= wire.LARGE:
                self._bury(entry)
        order = self._order
        while order and (self.count > bounds.count or self.size > bounds.size_bytes):
            self.evict(order.popleft())

    def sweep(self, now: float) -> None:
        """Evict what is too old, and throw away what only fills the lists."""
        if self._unstamped:
            found, self._unstamped = self._unstamped, []
            for entry in found:
                if entry.state >= DONE and entry.state != GONE:
                    self.keep(entry, now)
        order = self._order
        seconds = self.bounds.seconds
        while order:
            first = order[0]
            if first.size:
                if first.done_at + seconds > now:
                    break
                self.evict(first)
            order.popleft()
        self._gone = 0
        self.sweep_at = order[0].done_at + seconds if order else math.inf
        self.wake_at = order[0].done_at + seconds * 1.05 if order else math.inf
        if len(order) > 2 * self.count + 1000:
            self._order = deque(entry for entry in order if entry.size)
        if len(self._large) > 1000 and len(self._large) > 2 * self.count:
            self._large = deque(entry for entry in self._large if entry.size >= wire.LARGE)

    def next_sweep(self) -> float | None:
        """When to sweep though nothing else happens; None: there is nothing. Late, so that many go at once."""
        return None if self.wake_at == math.inf else self.wake_at
