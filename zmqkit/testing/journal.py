"""A journal whose disk survives crashes, and whose commits fail where a test wants them to.

It has the interface of `zmqkit.journal.store.Journal`. `Disk` is what lies on the platter; a `SimulatedJournal` is
one opening of it, as one process makes. Knows nothing of worlds or networks: usable alone.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from typing import Literal

from zmqkit.errors import CommitIndeterminate, JournalBusy, JournalDamaged, JournalError, JournalFull
from zmqkit.journal.store import HIGHEST_KEY, Totals
from zmqkit.options import Durability
from zmqkit.protocol.core import Read, Row, Write

CommitFate = Literal[
    "crash before", "crash in", "crash in, stored", "crash after", "unknown", "unknown, stored", "error"
]  # fmt: skip
"""How one commit ends, if not well.

``crash before``: the process dies before anything reached the disk. ``crash in``: it dies while committing; the
transaction is rolled back at the next open, or (``crash in, stored``) is whole. ``crash after``: the commit is
durable, but the process dies before anybody was told. ``unknown``: the disk failed in a way that leaves open whether
the commit is there (`CommitIndeterminate`); it is not, or it is. ``error``: not stored, the journal stays usable.
"""


class SimulatedCrash(BaseException):
    """The process dies here. Not an Exception, so that nothing under test catches it."""


class _Table:
    """The rows of one log: by key, and the keys in order."""

    __slots__ = ("highest", "keys", "rows", "weight")

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.keys: list[int] = []
        self.weight = 0
        self.highest = 0

    def put(self, key: int, weight: int, value: bytes | None) -> None:
        old = self.rows.pop(key, None)
        self.highest = max(self.highest, key)
        if old is not None:
            self.weight -= old.weight
        if value is None:
            if old is not None:
                del self.keys[bisect_left(self.keys, key)]
            return
        if old is None:
            if not self.keys or key > self.keys[-1]:
                self.keys.append(key)
            else:
                insort(self.keys, key)
        self.rows[key] = Row(key, weight, value)
        self.weight += weight


class Disk:
    """What survives the process: the committed rows of one journal file.

    Args:
        name: where its uuid is drawn from; the same name gives the same uuid.
        durability: ``power``: a commit survives everything. Else `cut_power` may lose the last commits.
        logs: the names of its logs.

    Attributes:
        commits: how many were ever made.
        opens: how often it was opened.
        full: while True, commits that store anything are refused with `JournalFull`. Deletes go on.
        fates: for the number of a commit (``commits + 1`` is the next), how it ends.
        bad_reads: so many of the next reads fail, with `JournalError`.
        may_lie: it may be `lying` one day, so it remembers what it would take to lose.
        lying: it says "synced" of what is not: the next `cut_power` takes commits whatever the durability.
        present: how many commits its content has.
        mark: the watermark: the number of the last commit that was confirmed. It lies in another file.
        losses: how often it was opened with less in it than was confirmed, and the durability allows that.
    """

    def __init__(
        self, name: str, *, durability: Durability = "power", logs: Sequence[str] = ("messages", "marks", "dead")
    ) -> None:
        self.name = name
        self.uuid = ""
        self.durability: Durability = durability
        self.commits = 0
        self.bad_reads = 0
        self.may_lie = self.lying = False
        self.present = self.mark = self.losses = self.copies = 0
        self.opens = 0
        self.full = False
        self.fates: dict[int, CommitFate] = {}
        self.owner: SimulatedJournal | None = None
        self._tables = {log: _Table() for log in logs}
        self._undo: list[list[tuple[str, int, Row | None, int]]] = []
        self._begin()

    def _begin(self) -> None:
        name = self.name if not self.copies else f"{self.name}, copy {self.copies}"
        self.uuid = hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
        for log in self._tables:
            self._tables[log] = _Table()
        self._undo.clear()
        self.fates.clear()
        self.full = self.lying = False
        self.bad_reads = self.present = self.mark = 0

    def replace(self) -> None:
        """The operator moves the file aside: an empty one takes its place, another journal by its uuid."""
        if self.owner is not None:
            raise JournalBusy(f"{self.name} is open: close it, or crash it, first")
        self.copies += 1
        self._begin()

    def table(self, log: str) -> _Table:
        """The rows of one log. ValueError if it has no such log."""
        try:
            return self._tables[log]
        except KeyError:
            raise ValueError(f"no log is named {log!r}; this journal has {', '.join(self._tables)}") from None

    def rows(self, log: str) -> list[Row]:
        """All committed rows of one log, in the order of their keys: what an auditor reads."""
        table = self.table(log)
        return [table.rows[key] for key in table.keys]

    def apply(self, writes: Sequence[Write]) -> None:
        """Commit: all of it or nothing."""
        self.commits += 1
        self.present += 1
        if self.durability != "power" or self.may_lie:
            before = [(log, key, self.table(log).rows.get(key), self.table(log).highest) for log, key, _, _ in writes]
            self._undo.append(before)
            del self._undo[:-64]
        for log, key, weight, value in writes:
            self.table(log).put(key, weight, value)

    def forget_undone(self) -> None:
        """What was committed is safe."""
        self._undo.clear()

    def cut_power(self, lost: int) -> int:
        """Lose up to so many of the last commits; returns how many were lost: none if they were truly synced."""
        lost = min(lost, len(self._undo)) if self.durability != "power" or self.lying else 0
        self.lying = False
        self.present -= lost
        for _ in range(lost):
            for log, key, row, highest in reversed(self._undo.pop()):
                table = self.table(log)
                table.put(*(row or (key, 0, None)))
                table.highest = highest
        self._undo.clear()
        return lost


class SimulatedJournal:
    """One opening of a `Disk`: the journal of one incarnation of a peer.

    Args:
        disk: what it opens. JournalBusy while another opening has neither been closed nor crashed; JournalDamaged
            if a commit is missing that was confirmed, unless the durability allows for it.

    Attributes:
        path: the disk's name; there is no file.
        uuid: of the disk, 32 hexadecimal digits.
        epoch: of this opening, 32 hexadecimal digits.
        durability: what a commit survives.
    """

    def __init__(self, disk: Disk) -> None:
        if disk.owner is not None:
            raise JournalBusy(f"{disk.name} is open already: close it, or crash it, first")
        if disk.present < disk.mark:
            lost = disk.mark - disk.present
            if disk.durability == "power":
                raise JournalDamaged(f"{disk.name} has lost its last {lost} commits of {disk.mark}")
            disk.losses += 1
        disk.mark = disk.present
        disk.owner = self
        disk.opens += 1
        self.disk = disk
        self.path: str | None = disk.name
        self.uuid = disk.uuid
        self.epoch = hashlib.blake2b(f"{disk.name}/{disk.opens}".encode(), digest_size=16).hexdigest()
        self.durability: Durability = disk.durability
        self._dead: str | None = None

    @property
    def usable(self) -> bool:
        """False once it is closed, or a commit's outcome is unknown."""
        return self._dead is None

    @property
    def open(self) -> bool:
        """True until it is closed."""
        return self.disk.owner is self

    def totals(self, log: str) -> Totals:
        """How many rows the log has, and what they weigh."""
        self._check()
        table = self.disk.table(log)
        keys = table.keys
        return Totals(len(keys), table.weight, keys[0] if keys else 0, keys[-1] if keys else 0)

    def highest(self, log: str) -> int:
        """The highest key ever used in the log, 0 if none."""
        self._check()
        return self.disk.table(log).highest

    def commit(self, writes: Sequence[Write]) -> None:
        """Store all writes or none. Raises what the disk's state and `Disk.fates` say."""
        self._check()
        disk = self.disk
        for log, key, weight, _ in writes:
            disk.table(log)
            if not (1 <= key <= HIGHEST_KEY and 0 <= weight <= HIGHEST_KEY):
                raise ValueError(f"keys go from 1 and weights from 0 to 2**63 - 1, got {key!r} and {weight!r}")
        fate = disk.fates.pop(disk.commits + 1, None) if disk.fates else None
        if fate == "crash before":
            raise SimulatedCrash(fate)
        if disk.full and any(write.value is not None for write in writes):
            raise JournalFull(f"{disk.name}: the simulated disk is full")
        if fate is None:
            disk.apply(writes)
            disk.mark = disk.present
            return
        if fate in ("crash in, stored", "crash after", "unknown, stored"):
            disk.apply(writes)
            if fate == "crash after":
                disk.mark = disk.present
        if fate.startswith("crash"):
            raise SimulatedCrash(fate)
        if fate == "error":
            raise JournalError(f"{disk.name}: a simulated input/output error; nothing was stored")
        self._dead = "a commit's outcome is unknown"
        raise CommitIndeterminate(f"{disk.name}: a simulated failure of the disk during a commit")

    def sync(self) -> None:
        """No power cut undoes what was committed until now; but a disk that lies does not know better."""
        self._check()
        if not self.disk.may_lie:
            self.disk.forget_undone()

    def read(self, request: Read) -> list[Row]:
        """Rows of a span in the order of their keys, the first one however large."""
        self._check()
        if self.disk.bad_reads:
            self.disk.bad_reads -= 1
            raise JournalError(f"{self.disk.name}: a simulated input/output error in reading")
        table = self.disk.table(request.log)
        keys, rows = table.keys, table.rows
        found: list[Row] = []
        size = 0
        for index in range(bisect_left(keys, request.first), bisect_right(keys, request.last)):
            row = rows[keys[index]]
            found.append(row)
            size += len(row.value) or 1
            if size >= request.size_bytes:
                break
        return found

    def close(self) -> None:
        """Let go of the disk. Idempotent."""
        if self.disk.owner is self:
            self.disk.owner = None
        self._dead = self._dead or "it is closed"

    def _check(self) -> None:
        if self._dead is not None:
            raise JournalError(f"{self.disk.name} cannot be used: {self._dead}")
