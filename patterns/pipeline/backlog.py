"""What waits at a pusher: a bounded window of rows in memory, the rest on disk (docs/architecture.md, "Backlog").

Pure. Rows come in stored, in the order of their sequence; runs of messages go out in that order, those to be tried
again first. Memory stays flat: while rows on disk are not loaded, new ones are not kept in memory either.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from zmqkit.patterns.pipeline.doubt import Doubt
from zmqkit.patterns.pipeline.lanes import READ_ALL, Lanes
from zmqkit.patterns.pipeline.rows import MARKS, MESSAGES, Row
from zmqkit.patterns.pipeline.runs import Run, runs
from zmqkit.protocol import core

WINDOW_MESSAGES: Final = 20_000
WINDOW_BYTES: Final = 16 * 1024 * 1024
"""How much is kept in memory when more waits on disk. A row may pass the limits."""

READ_BYTES: Final = 2 * 1024 * 1024
"""How much is loaded at a time."""


class Backlog:
    """Rows that are not settled.

    Args:
        durable: False keeps everything in memory, for there is nowhere else.
        wall: wall time minus the driver's clock, in seconds.

    Attributes:
        window_messages, window_bytes: how much is kept in memory when more waits on disk.
        read_bytes: how much is loaded at a time.
        doubt: messages that go only to one inbox; none of them is among those here.
        lanes: the rows that are not plain. All else here is about plain ones, unless it says otherwise.
    """

    def __init__(self, *, durable: bool, wall: float = 0.0) -> None:
        self.doubt = Doubt(durable=durable)
        self.lanes = Lanes(durable=durable, wall=wall, found=self.doubt.found)
        self.window_messages = WINDOW_MESSAGES
        self.window_bytes = WINDOW_BYTES
        self.read_bytes = READ_BYTES
        self._durable = durable
        self._rows: dict[int, Row] = {}
        self._keys: list[int] = []
        self._messages = 0
        self._bytes = 0
        self._fresh: deque[tuple[Row, int]] = deque()
        self._again: list[tuple[int, int, Row, int, bool]] = []
        self._delayed: list[tuple[float, int, Row, int, bool]] = []
        self._order = 0
        # What is on disk only: keys from _unloaded on, when _behind messages are above 0.
        self._behind = 0
        self._unloaded = 0
        self._newest = 0
        self._mixed = False
        """The last rows that were found may be none of ours."""
        self._reading: core.Read | None = None
        self._unmarked: list[Row] = []
        self.hold: Callable[[Row, int], int] | None = None
        """Told of each row that was read, and bits of what of it is left; returns those that are ready now."""
        self.ready = 0
        """Messages in memory that may be delivered now."""

    def found(self, first: int, newest: int, waiting: int) -> None:
        """The journal was opened with so many messages, in rows from key `first` to `newest`."""
        self._behind, self._unloaded, self._newest = waiting, first, newest

    def apart(self, messages: int) -> None:
        """So many of the messages that were found are in `lanes`."""
        self._behind = max(0, self._behind - messages)
        self._mixed = bool(messages)

    # ---- in and out --------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Messages of all kinds that may be delivered; those that wait for their delay, or behind others of their key,
        are not counted."""
        return self.ready + self._behind + self.lanes.ready

    @property
    def delayed(self) -> int:
        """Messages, of all kinds, that failed and wait for their next try."""
        return len(self._delayed)

    def stored(self, row: Row) -> None:
        """A new row is in the journal."""
        if row.special:
            self.lanes.stored(row)
            return
        self._newest = row.key
        if self._behind or (self._durable and self._full):
            if not self._behind:
                self._unloaded = row.key
            self._behind += row.count
            return
        self._keep(row)
        if row.bound:
            self.again(row, row.all)
            return
        self._fresh.append((row, 0))
        self.ready += row.count

    def take(self, most: int, most_bytes: int) -> Run | None:
        """Take the next run of at most so many messages of any kind; at least one message, whatever its size.

        None: nothing is ready, or what goes first is still being loaded.
        """
        if self.lanes.ready and self.lanes.goes_before(self._next_plain(), bool(self._behind)):
            return self._take_free(most, most_bytes)
        while self._again:
            _, _, row, index, alone = self._again[0]
            if row.done >> index & 1:
                heapq.heappop(self._again)
                continue
            return self._take_again(row, index, most, most_bytes, alone)
        while self._fresh:
            row, index = self._fresh[0]
            count = min(most, row.count - index)
            if most_bytes < len(row.blob):
                offsets = row.offsets()
                count = max(1, min(count, bisect_right(offsets, offsets[index] + most_bytes) - 1 - index))
            if index + count == row.count:
                self._fresh.popleft()
            else:
                self._fresh[0] = (row, index + count)
            self.ready -= count
            return Run(row, index, count, False)
        return None

    def _take_free(self, most: int, most_bytes: int) -> Run | None:
        """The next run of `lanes` without those that are bound to an inbox, which wait for it from now on."""
        while (run := self.lanes.take(most, most_bytes)) is not None and run.bits & run.row.bound:
            self.again(run.row, run.bits, alone=run.alone)
        return run

    def _next_plain(self) -> int | None:
        """The sequence of the next one in memory; those to be tried again go before all."""
        if self._again:
            return 0
        return self._fresh[0][0].key + self._fresh[0][1] if self._fresh else None

    def _take_again(self, row: Row, index: int, most: int, most_bytes: int, alone: bool) -> Run:
        """Neighbours that wait to be tried again go together, unless they must be alone."""
        count, size = 0, 0
        while count < most and self._again:
            _, _, other, at, other_alone = self._again[0]
            if other is not row or at != index + count or other_alone != alone or row.done >> at & 1:
                break
            size += row.lengths[at]
            if count and size > most_bytes:
                break
            heapq.heappop(self._again)
            count += 1
            if alone:
                break
        self.ready -= count
        return Run(row, index, count, alone)

    def again(self, row: Row, bits: int, *, alone: bool = False) -> None:
        """These messages of a row, of any kind, may be delivered again, before all fresh ones of their lane.

        Those that are bound to an inbox wait for it.
        """
        if row.bound & bits:
            bits = self.doubt.again(row, bits, alone=alone)
            if not bits:
                return
        if row.special:
            self.lanes.again(row, bits, alone=alone)
            return
        for index, count in runs(bits):
            for at in range(index, index + count):
                self._order += 1
                heapq.heappush(self._again, (row.key + at, self._order, row, at, alone))
        self.ready += bits.bit_count()

    def later(self, row: Row, index: int, due: float, *, alone: bool = False) -> None:
        """This message, of any kind, may be delivered again from `due` on."""
        self._order += 1
        heapq.heappush(self._delayed, (due, self._order, row, index, alone))

    def next_due(self) -> float | None:
        """When a delay runs out next."""
        first = self._delayed[0][0] if self._delayed else None
        other = self.lanes.next_time()
        return first if other is None else other if first is None else min(first, other)

    def fall_due(self, now: float) -> None:
        """Move what is due to what may be delivered."""
        while self._delayed and self._delayed[0][0] <= now:
            _, _, row, index, alone = heapq.heappop(self._delayed)
            self.again(row, 1 << index, alone=alone)
        self.lanes.fall_due(now)

    def forget(self, row: Row) -> None:
        """All of a row is settled, and the journal knows it."""
        if self._rows.pop(row.key, None) is None:
            return
        del self._keys[bisect_left(self._keys, row.key)]
        self._messages -= row.count
        self._bytes -= len(row.blob)

    def row_of(self, sequence: int) -> Row | None:
        """The plain row in memory that holds a message which is not settled, None if there is none in memory."""
        at = bisect_right(self._keys, sequence) - 1
        if at < 0:
            return None
        row = self._rows[self._keys[at]]
        return row if sequence <= row.last else None

    def on_disk(self, sequence: int) -> bool:
        """The message waits in a row that is not in memory."""
        return bool(self._behind) and sequence >= self._unloaded

    def lowest(self) -> int | None:
        """The lowest sequence of any row that is left, in memory or on disk; None if none is."""
        plain = self._keys[0] if self._keys else self._unloaded if self._behind else None
        other = self.lanes.lowest()
        return plain if other is None else other if plain is None else min(plain, other)

    def rows_up_to(self, last: int) -> Iterator[Row]:
        """Rows in memory that begin at or before this sequence, in order."""
        for key in self._keys:
            if key > last:
                return
            yield self._rows[key]

    # ---- disk --------------------------------------------------------------------

    @property
    def _full(self) -> bool:
        doubt = self.doubt  # what waits there must not keep the rest on the disk
        return (
            self._messages - doubt.plain >= self.window_messages or self._bytes - doubt.plain_bytes >= self.window_bytes
        )

    def wanted(self) -> core.Read | None:
        """What to load from the journal now, if anything. Asked for once. (`Lanes.wanted` besides.)"""
        if self._reading is not None or not self._behind or self._full or self.ready > self.window_messages // 2:
            return None
        self._reading = core.Read(MESSAGES, self._unloaded, self._newest, self.read_bytes)
        return self._reading

    def loaded(self, read: core.Read, rows: Sequence[core.Row]) -> core.Read | None:
        """Take in rows from the journal; returns what else must be read before they count."""
        if read.size_bytes == READ_ALL and read.log == MESSAGES:
            self.lanes.loaded(read, rows)
            return None
        if read.log == MESSAGES:
            self._unmarked = [Row.unpack(each.key, each.value) for each in rows]
            if not self._unmarked:
                self._reading = None
                self._unloaded = read.last + 1
                if self._unloaded > self._newest:
                    self._behind = 0
                return None
            first, last = self._unmarked[0].key, self._unmarked[-1].key
            self._reading = core.Read(MARKS, first, last, READ_ALL)
            return self._reading
        marks = {each.key: each.value for each in rows}
        self._reading = None
        taken, self._unmarked = self._unmarked, []
        for row in taken:
            if row.special:
                continue
            if row.key in marks:
                row.unpack_marks(marks[row.key])
            self.doubt.found(row)
            self._keep(row)
            left = row.count - row.done.bit_count()
            self._behind -= left
            bits = row.all & ~row.done
            if self.hold is not None:
                bits = self.hold(row, bits)
            if row.bound or bits != row.all:
                self.again(row, bits)
            else:
                self._fresh.append((row, 0))
                self.ready += row.count
        self._unloaded = taken[-1].last + 1
        if self._unloaded > self._newest:
            self._behind = 0
        else:
            self._behind = max(self._behind, 0 if self._mixed else 1)
        return None

    def _keep(self, row: Row) -> None:
        self._rows[row.key] = row
        self._keys.append(row.key)
        self._messages += row.count
        self._bytes += len(row.blob)
