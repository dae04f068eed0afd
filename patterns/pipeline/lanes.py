"""What waits for more than its turn: rows with a priority, a key, a delay or a time to live (docs/protocol.md, 7.7).

Pure. An `Entry` for each such row stays in memory, its bodies only while there is room. A row belongs to one lane, and
the highest lane goes first. Of the messages of one key the first that is not settled goes alone: the next one is ready
when the journal has what became of it.

Each message of a row that is stored and not settled is in one of these states, bits of its `Entry`::

    held --due, and first of its key--> ready --lent--> out --put back--> ready
                                                         '--settled, stored--> kept
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from zmqkit.errors import DecodeError
from zmqkit.patterns.pipeline.entries import Entry, unpack_entry
from zmqkit.patterns.pipeline.rows import MESSAGES, Row
from zmqkit.patterns.pipeline.runs import Run, runs
from zmqkit.protocol import core, wire

LANES: Final = "lanes"
LOOK_AHEAD: Final = 64
"""So many of the next rows of the highest lane are loaded at a time."""

READ_ALL: Final = 1 << 62
"""The size of our reads; no others have it."""

Place = tuple[int, int]
"""A message: the key of its row, and its index there."""


class Lanes:
    """The rows that are not plain and not settled.

    Args:
        durable: bodies need not stay in memory.
        wall: wall time minus the driver's clock, in seconds.
        found: called with each row that was read with its marks.

    Attributes:
        window_messages, window_bytes: how much is kept in memory, if there is a choice.
        ready: messages that may be delivered now, in memory or not.
        waiting: messages that are ready, or will be: all but those that are lent, or wait for another try.
        suspended: nothing expires.
        held_up_to: messages up to this sequence may be somebody's who comes back: they are not ready, but in `back` of
            their entry, until `let_go`.
    """

    def __init__(self, *, durable: bool, wall: float, found: Callable[[Row], None]) -> None:
        self._found = found
        self.window_messages = 20_000
        self.window_bytes = 16 * 1024 * 1024
        self.ready = 0
        self.waiting = 0
        self.suspended = False
        self.held_up_to = 0
        self.entries: dict[int, Entry] = {}
        self._durable = durable
        self._wall = wall
        self._queues: dict[bytes, tuple[int, deque[Place]]] = {}
        self._hints: dict[int, list[Place]] = {}
        """By lane: a heap of (sequence, key of the row) from where on a row may have something ready."""
        self._order: list[int] = []
        """A heap of lanes, negated."""
        self._due: list[tuple[float, int]] = []
        self._ends: list[tuple[float, int]] = []
        self._late: list[tuple[Entry, int]] = []
        self._loaded: dict[int, Entry] = {}
        self._messages = self._bytes = 0
        self._reading: set[int] = set()
        self._seeking: deque[int] = deque()
        """Rows that are to be loaded because they expired: their ids are told."""
        self._witness = 0
        self._largest = 1

    # ---- in ------------------------------------------------------------------------

    def lane_of(self, hash: bytes, priority: int) -> int:
        """The lane for a new message of a key: that of the others of it which are not settled, else its own."""
        queue = self._queues.get(hash)
        return priority if queue is None else queue[0]

    def accept(self, row: Row, hashes: Sequence[bytes]) -> Entry:
        """A row is about to be stored. Rows come in the order of their sequences; `hashes` as those of an `Entry`."""
        names: list[Any] = [row.origin, dict(row.ids)] if row.due else []
        entry = Entry(row.key, row.count, row.lane, row.due, row.expires, hashes, names)
        entry.row = row
        self._enter(entry)
        return entry

    def _enter(self, entry: Entry) -> None:
        self.entries[entry.key] = entry
        self._largest = max(self._largest, entry.count)
        for index, hash in enumerate(entry.hashes):
            if hash and not entry.kept >> index & 1:
                queue = self._queues.get(hash)
                if queue is None:
                    queue = self._queues[hash] = (entry.lane, deque())
                queue[1].append((entry.key, index))

    def refused(self, row: Row) -> None:
        """It was not stored."""
        entry = self.entries.pop(row.key)
        entry.kept = entry.all
        for hash in set(entry.hashes):
            if hash:
                self._advance(hash)
        self._rest()

    def _rest(self) -> None:
        """With no row left no time is of interest."""
        if not self.entries:
            self._due.clear()
            self._ends.clear()

    def stored(self, row: Row) -> None:
        """A row that was accepted is in the journal."""
        entry = self.entries[row.key]
        if self._durable and (entry.due or self._full):
            entry.row = None
        else:
            self._keep(entry)
        self._begin(entry)

    def restore(self, rows: Iterable[core.Row], weights: dict[int, bytes]) -> int:
        """Take in what the journal holds; `weights`: the rows of the log ``marks``. Returns how many messages wait.

        Raises:
            DecodeError: it is of another version.
        """
        found = []
        for each in rows:
            entry = unpack_entry(each.key, each.weight, each.value)
            entry.marks = weights.get(each.key)
            if entry.marks is not None:
                bits = wire.unpack(entry.marks)
                if type(bits) is not list or not bits or type(bits[0]) is not bytes:
                    raise DecodeError(f"the marks of row {each.key} of the journal are none")
                entry.kept = int.from_bytes(bits[0], "little") & entry.all
            self._enter(entry)
            found.append(entry)
        for entry in found:
            self._begin(entry)
        return self.waiting

    def _begin(self, entry: Entry) -> None:
        """From now on its messages wait for their turn."""
        entry.stored = True
        entry.held = entry.all & ~entry.kept
        self.waiting += entry.held.bit_count()
        if entry.due:
            heapq.heappush(self._due, (entry.due / 1e6 - self._wall, entry.key))
        else:
            self._release_all(entry)
        if entry.expires:
            heapq.heappush(self._ends, (entry.expires / 1e6 - self._wall, entry.key))

    # ---- who is ready --------------------------------------------------------------

    def _release_all(self, entry: Entry) -> None:
        """It is due: those without a key, and those that are first of theirs, are ready."""
        bits = entry.held
        if entry.hashes:
            for index, hash in enumerate(entry.hashes):
                if hash and bits >> index & 1 and self._first(hash) != (entry.key, index):
                    bits &= ~(1 << index)
        self._release(entry, bits)

    def _first(self, hash: bytes) -> Place:
        return self._queues[hash][1][0]

    def _release(self, entry: Entry, bits: int) -> None:
        bits &= entry.held
        entry.held &= ~bits
        if entry.key <= self.held_up_to:
            back = bits & ((1 << self.held_up_to - entry.key + 1) - 1)
            entry.back |= back
            bits &= ~back
        self._offer(entry, bits)

    def _offer(self, entry: Entry, bits: int) -> None:
        if not bits:
            return
        entry.ready |= bits
        self.ready += bits.bit_count()
        hints = self._hints.get(entry.lane)
        if hints is None:
            hints = self._hints[entry.lane] = []
            heapq.heappush(self._order, -entry.lane)
        heapq.heappush(hints, (entry.key + _lowest(bits), entry.key))

    def _advance(self, hash: bytes, freed: dict[int, int] | None = None) -> None:
        """Leave behind what is settled of a key; the next one may be ready.

        Args:
            freed: takes what is ready, by row, instead of the queue.
        """
        queue = self._queues[hash][1]
        entries = self.entries
        while queue:
            key, index = queue[0]
            entry = entries.get(key)
            if entry is None or entry.kept >> index & 1:
                queue.popleft()
                continue
            if entry.stored and not entry.due and not entry.late:
                if freed is None:
                    self._release(entry, 1 << index)
                else:
                    freed[key] = freed.get(key, 0) | 1 << index
            return
        del self._queues[hash]

    # ---- out and back --------------------------------------------------------------

    def _top(self) -> Place | None:
        """Where the highest lane goes on."""
        while self._order:
            hints = self._hints[-self._order[0]]
            while hints:
                sequence, key = hints[0]
                entry = self.entries.get(key)
                ready = entry.ready >> (sequence - key) if entry is not None else 0
                if not ready:
                    heapq.heappop(hints)
                elif ready & 1:
                    return hints[0]
                else:
                    heapq.heapreplace(hints, (sequence + _lowest(ready), key))
            del self._hints[-heapq.heappop(self._order)]
        return None

    def goes_before(self, plain: int | None, behind: bool) -> bool:
        """Whether a message of ours goes before the plain ones.

        Args:
            plain: the sequence of the next one in memory; None if there is none.
            behind: there are more on disk.
        """
        top = self._top()
        if top is None:
            return False
        lane = -self._order[0]
        if lane:
            return lane > 0 or (plain is None and not behind)
        return plain is None or top[0] < plain

    def take(self, most: int, most_bytes: int) -> Run | None:
        """Take the next run; None while its bodies are not in memory."""
        top = self._top()
        if top is None:
            return None
        sequence, key = top
        entry, index = self.entries[key], sequence - key
        row = entry.row
        if row is None:
            return None
        alone = bool(entry.alone >> index & 1)
        count, size = 1, row.lengths[index]
        if not alone:
            able = (entry.ready & ~entry.alone) >> index
            while count < most and able >> count & 1:
                size += row.lengths[index + count]
                if size > most_bytes:
                    break
                count += 1
        entry.ready &= ~(((1 << count) - 1) << index)
        self.ready -= count
        self.waiting -= count
        return Run(row, index, count, alone)

    def again(self, row: Row, bits: int, *, alone: bool) -> None:
        """These may be delivered again; or they expire now."""
        entry = self.entries[row.key]
        self.waiting += bits.bit_count()
        if alone:
            entry.alone |= bits
        else:
            entry.alone &= ~bits
        if entry.late:
            entry.held |= bits
            self._late.append((entry, bits))
        else:
            self._offer(entry, bits)

    def seek(self, entry: Entry) -> None:
        """Have the bodies of a row read."""
        self._seeking.append(entry.key)

    def take_back(self, key: int, bits: int) -> None:
        """These were held back, and are leased now."""
        self.entries[key].back &= ~bits
        self.waiting -= bits.bit_count()

    def let_go(self) -> None:
        """Nothing is held back any more."""
        self.held_up_to = 0
        for entry in self.entries.values():
            bits, entry.back = entry.back, 0
            if not bits:
                continue
            if not entry.late:
                self._offer(entry, bits)
                continue
            entry.held |= bits
            if entry.row is None:
                self._seeking.append(entry.key)
            else:
                self._late.append((entry, bits))

    def settled(self, row: Row, done: int) -> None:
        """The journal has it that these messages of a row are settled."""
        entry = self.entries[row.key]
        ended = done & ~entry.kept
        entry.kept = done
        if entry.hashes:
            freed: dict[int, int] = {}
            for index, count in runs(ended):
                for hash in entry.hashes[index : index + count]:
                    if hash and hash in self._queues:
                        self._advance(hash, freed)
            for key, bits in freed.items():
                self._release(self.entries[key], bits)
        if done == entry.all:
            del self.entries[row.key]
            self._unload(entry)
            self._rest()

    # ---- time ----------------------------------------------------------------------

    def next_time(self) -> float | None:
        """When a delay or a time to live runs out next."""
        times = [heap[0][0] for heap in (self._due, [] if self.suspended else self._ends) if heap]
        return min(times, default=None)

    def fall_due(self, now: float) -> None:
        """Delays that are over."""
        while self._due and self._due[0][0] <= now:
            entry = self.entries.get(heapq.heappop(self._due)[1])
            if entry is not None and entry.due:
                entry.due = 0
                entry.names = []
                self._release_all(entry)

    def expired(self, now: float) -> list[tuple[Row, int]]:
        """Messages whose time to live is over, each told once; those on disk later, when their rows are loaded."""
        found: list[tuple[Row, int]] = []
        if self.suspended:
            return found
        while self._ends and self._ends[0][0] <= now:
            entry = self.entries.get(heapq.heappop(self._ends)[1])
            if entry is None:
                continue
            entry.late = True
            entry.due, entry.names = 0, []
            bits = entry.ready | entry.held
            self.ready -= entry.ready.bit_count()
            entry.ready, entry.held = 0, bits
            if not bits:
                continue
            if entry.row is None:
                self._seeking.append(entry.key)
            else:
                self._late.append((entry, bits))
        late, self._late = self._late, []
        for entry, bits in late:
            bits &= entry.held
            entry.held &= ~bits
            self.waiting -= bits.bit_count()
            if bits and entry.row is not None:
                found.append((entry.row, bits))
        return found

    # ---- disk ----------------------------------------------------------------------

    @property
    def _full(self) -> bool:
        return self._messages >= self.window_messages or self._bytes >= self.window_bytes

    def wanted(self) -> list[core.Read]:
        """What to load from the journal now. Asked for once."""
        if self._reading or not (self.ready or self._seeking):
            return []
        keys = [self._seeking.popleft() for _ in range(min(LOOK_AHEAD, len(self._seeking)))]
        top = self._top()
        if top is not None:
            ahead = heapq.nsmallest(LOOK_AHEAD, self._hints[-self._order[0]])
            missing = [key for _, key in ahead if key in self.entries and self.entries[key].row is None]
            if self.entries[top[1]].row is None:
                self._make_room({key for _, key in ahead})
                keys += [top[1]] if self._full else missing
            elif not self._full:
                keys += missing
        wanted = sorted({key for key in keys if key in self.entries and self.entries[key].row is None})
        self._reading.update(wanted)
        return [core.Read(MESSAGES, first, last, READ_ALL) for first, last in self._spans(wanted)]

    def _spans(self, keys: list[int]) -> Iterator[tuple[int, int]]:
        """Rows that are neighbours are read together."""
        first = last = after = -1
        for key in keys:
            if key != after:
                if first >= 0:
                    yield first, last
                first = key
            last, after = key, self.entries[key].last + 1
        if first >= 0:
            yield first, last

    def loaded(self, read: core.Read, rows: Sequence[core.Row]) -> None:
        """Take in rows from the journal. Raises `DecodeError`."""
        for each in rows:
            entry = self.entries.get(each.key)
            self._reading.discard(each.key)
            if entry is None or entry.row is not None:
                continue
            row = Row.unpack(each.key, each.value)
            if row.count != entry.count:
                raise DecodeError(f"row {each.key} of lanes is about another row")
            if entry.saved is not None:
                row.done, row.kept, row.got, row.failures, row.deliveries, row.marked, row.inboxes, row.bound = (
                    entry.saved
                )
            elif entry.marks is not None:
                row.unpack_marks(entry.marks)
                self._found(row)
            entry.row, entry.saved, entry.marks = row, None, None
            self._keep(entry)
            if entry.late:
                self._late.append((entry, entry.held))
        gone = [key for key in self._reading if read.first <= key <= read.last and key in self.entries]
        if gone:
            raise DecodeError(f"rows {gone[:5]} of lanes are about rows that are not there")
        self._reading.difference_update([key for key in self._reading if read.first <= key <= read.last])

    def _make_room(self, needed: set[int]) -> None:
        """Let go of bodies of which none is lent, those that were loaded first before the others."""
        if not self._durable:
            return
        for _ in range(len(self._loaded)):
            if not self._full:
                return
            key = next(iter(self._loaded))
            entry = self._loaded[key]
            row = entry.row
            if row is None or key in needed or entry.out or entry.late:
                self._loaded[key] = self._loaded.pop(key)
                continue
            if row.marked or row.deliveries or row.got or row.inboxes:
                entry.saved = (
                    row.done, row.kept, row.got, row.failures, row.deliveries, row.marked, row.inboxes, row.bound
                )  # fmt: skip
            self._unload(entry)

    def _keep(self, entry: Entry) -> None:
        assert entry.row is not None
        self._loaded[entry.key] = entry
        self._messages += entry.count
        self._bytes += len(entry.row.blob)

    def _unload(self, entry: Entry) -> None:
        if self._loaded.pop(entry.key, None) is not None and entry.row is not None:
            self._messages -= entry.count
            self._bytes -= len(entry.row.blob)
        entry.row = None

    # ---- who asks ------------------------------------------------------------------

    def find(self, sequence: int) -> Entry | None:
        """The entry of a message's row, if it is ours and not all settled."""
        for key in range(sequence, max(0, sequence - self._largest), -1):
            entry = self.entries.get(key)
            if entry is not None:
                return entry if sequence <= entry.last else None
        return None

    def is_left(self, sequence: int) -> bool:
        """The message is not settled, as far as the journal knows."""
        entry = self.find(sequence)
        return entry is not None and not entry.kept >> (sequence - entry.key) & 1

    def blocks(self, first: int, last: int, *, received: bool) -> bool:
        """Whether one of these messages is due, and has not settled (or been received)."""
        if first <= self._witness <= last:
            entry = self.find(self._witness)
            if entry is not None and self._blocking(entry, first, last, received):
                return True
        for entry in self.entries.values():
            if entry.key > last:
                return False
            if entry.last >= first and self._blocking(entry, first, last, received):
                self._witness = max(entry.key, first)
                return True
        return False

    def _blocking(self, entry: Entry, first: int, last: int, received: bool) -> bool:
        left = _within(entry, first, last) & ~entry.kept
        if received:
            left &= ~(entry.row.got if entry.row is not None else entry.saved[2] if entry.saved is not None else 0)
        return bool(left) and left != left & self._not_due(entry)

    def _not_due(self, entry: Entry) -> int:
        """Bits of those that wait for a delay: their own, or of one of their key that goes before them."""
        if entry.due:
            return entry.held
        bits = 0
        if entry.hashes and not entry.late:
            for index, count in runs(entry.held):
                for at in range(index, index + count):
                    hash = entry.hashes[at]
                    if hash and self.entries[self._first(hash)[0]].due:
                        bits |= 1 << at
        return bits

    def not_due(self, first: int, last: int, most: int) -> tuple[str, ...]:
        """Ids of messages that wait for a delay of their own; the first so many."""
        found: list[str] = []
        for entry in self.entries.values():
            if entry.key > last or len(found) >= most:
                break
            if entry.last >= first and entry.due and entry.stored:
                origin, ids = entry.names
                for index, count in runs(_within(entry, first, last) & entry.held):
                    found += [ids.get(at) or f"{origin}-{entry.key + at}" for at in range(index, index + count)]
        return tuple(found[:most])

    def lowest(self) -> int | None:
        """The lowest sequence of any row that is left."""
        return next(iter(self.entries), None)


def _lowest(bits: int) -> int:
    return (bits & -bits).bit_length() - 1


def _within(entry: Entry, first: int, last: int) -> int:
    low, high = max(0, first - entry.key), min(entry.last, last) - entry.key
    return ((1 << (high - low + 1)) - 1) << low
