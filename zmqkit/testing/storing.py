"""How a simulated driver uses its journal: in its own turn, or in a thread of the journal's own.

Both are allowed by the contract, which has the core itself hold back what waits for `stored`. One `Storing` belongs to
one incarnation of a peer.
"""

from __future__ import annotations

import random
import zlib
from collections import deque
from typing import TYPE_CHECKING

from zmqkit.errors import JournalError
from zmqkit.protocol.core import Core, Read, Row, Write
from zmqkit.testing.journal import Disk, SimulatedCrash, SimulatedJournal

if TYPE_CHECKING:
    from zmqkit.testing.peers import SimPeer


class Storing:
    """Carries out writes and reads for one incarnation.

    Args:
        peer: whose core it is.
        disk: what to open; None: everything is stored at once, and nothing is kept.
        shape: decides how fast it is, and whether it has a thread of its own.

    Attributes:
        journal: the opened journal, None without one.
        threaded: it works in a thread of its own.
        work: what its thread has still to do.
    """

    __slots__ = ("_busy", "_commit_s", "_peer", "_shape", "_world", "journal", "threaded", "work")

    def __init__(self, peer: SimPeer, disk: Disk | None, shape: random.Random) -> None:
        self._peer = peer
        self._world = peer.world
        self._shape = shape
        self._commit_s = 0.0 if shape.random() < 0.2 else 0.002 * shape.random()
        self.threaded = disk is not None and shape.random() < peer.world.threaded_journals
        self._busy = False
        self.journal = None if disk is None else SimulatedJournal(disk)
        self.work: deque[tuple[list[Write], int] | Read] = deque()

    def store(self, core: Core, writes: list[Write], now: float) -> float:
        """Commit, now or later. Returns the time when the loop goes on: a commit in its own turn takes a while."""
        up_to = core.out.written
        world = self._world
        for write in writes:
            world.digest = zlib.crc32(write.value or b"-", zlib.crc32(b"%d" % write.key, world.digest))
        if world.text is not None:
            shown = [(w.log, w.key, w.weight, None if w.value is None else len(w.value)) for w in writes]
            world.note(self._peer, f"commit {shown} = {up_to}")
        if self.journal is None:
            core.stored(up_to, now)
        elif self.threaded:
            self.work.append((writes, up_to))
            self._go_on()
        else:
            now += self._commit_time()
            error = self._commit(self.journal, writes)
            if error is None:
                core.stored(up_to, now)
            else:
                core.store_failed(up_to, error, now)
        return now

    def load(self, core: Core, reads: list[Read], now: float) -> None:
        """Read, now or later, but never before what was written first is committed."""
        for read in reads:
            if self.journal is None:
                core.loaded(read, [], now)
            elif self.threaded:
                self.work.append(read)
                self._go_on()
            else:
                core.loaded(read, self._read(self.journal, read), now)

    def close(self) -> None:
        """The process ends."""
        self.work.clear()
        if self.journal is not None:
            self.journal.close()

    def _commit(self, journal: SimulatedJournal, writes: list[Write]) -> JournalError | None:
        counts = self._world.counts
        counts["commits"] += 1
        try:
            journal.commit(writes)
        except JournalError as error:
            counts[f"commit failed: {type(error).__name__}"] += 1
            self._world.note(self._peer, f"commit failed: {error!r}")
            return error
        return None

    def _read(self, journal: SimulatedJournal, read: Read) -> list[Row]:
        """A read that fails ends the driver: the contract has no answer for it."""
        try:
            return journal.read(read)
        except JournalError as error:
            self._world.counts["read failed"] += 1
            self._world.note(self._peer, f"read failed: {error!r}")
            raise SimulatedCrash("a read failed") from error

    def _commit_time(self) -> float:
        spent = self._commit_s
        if self._world.slow_commits and self._shape.random() < self._world.slow_commits:
            self._world.counts["slow commit"] += 1
            spent += 0.2 * self._shape.random()
        return spent

    def _go_on(self) -> None:
        """The journal's thread takes its next piece of work."""
        if self.work and not self._busy:
            self._busy = True
            wait = 0.2 * self._commit_s if isinstance(self.work[0], Read) else self._commit_time()
            self._world.after(wait, self._do)

    def _do(self) -> None:
        peer = self._peer
        if self.journal is None or not self.journal.open:
            return
        if peer.stopped:
            self._world.after(0.05, self._do)
            return
        self._busy = False
        piece = self.work.popleft()
        if isinstance(piece, Read):
            try:
                rows = self._read(self.journal, piece)
            except SimulatedCrash as crash:
                peer.crashed(crash)
                return
            peer.notify(0.0, "loaded", piece, rows)
            self._go_on()
            return
        writes, up_to = piece
        # Commits that wait together are made as one.
        while self.work and not isinstance(self.work[0], Read):
            more, up_to = self.work[0]
            writes = writes + more
            self.work.popleft()
        try:
            error = self._commit(self.journal, writes)
        except SimulatedCrash as crash:
            peer.crashed(crash)
            return
        if error is None:
            peer.notify(0.0, "stored", up_to)
        else:
            # What was put out before the core could know goes down with it.
            lost = [piece for piece in self.work if not isinstance(piece, Read)]
            # And a journal that is of no more use answers nothing.
            self.work = deque(piece for piece in self.work if isinstance(piece, Read) and self.journal.usable)
            peer.notify(0.0, "store_failed", max([up_to, *(number for _, number in lost)]), error)
        self._go_on()
