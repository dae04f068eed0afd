"""Feeds: a publisher reads its history to a subscriber, from a position, filtered, exact and in order (14.4).

Pure. A feed goes on while its session has credit, and while what is on the way in it stays within `FLIGHT_BYTES`; for
rows on disk it waits. What it sends is the filtered history, with each hole, and each turn of an epoch, at its place.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from zmqkit.patterns.pubsub import talk
from zmqkit.patterns.pubsub.history import History, picks
from zmqkit.patterns.pubsub.offsets import LastValues
from zmqkit.patterns.pubsub.rows import MESSAGES, Row
from zmqkit.patterns.pubsub.talk import BLOCK_BYTES, BLOCK_MESSAGES, Block
from zmqkit.patterns.pubsub.topics import Filter
from zmqkit.protocol import core
from zmqkit.protocol.core import Frames
from zmqkit.protocol.session import Session

FLIGHT_BYTES: Final = 8 * 1024 * 1024
"""So much may be on its way in one session and not heard, whatever credit there is; one block at least."""

VALUES_A_TURN: Final = 5_000
"""So many topics are looked at for a snapshot before others have their turn."""

WHOLE: Final = 32
"""A row of so many messages goes out as a block of its own; smaller ones are put together."""


class Lane:
    """The way of feeds to one session: its credit, and what is on its way.

    Args:
        session: in which they are sent.
        send: sends one message in it, counted against the credit as so many, and returns its number.
    """

    __slots__ = ("_flight", "_flight_bytes", "_send", "session")

    def __init__(self, session: Session, send: Callable[[Session, Frames, int, float], int]) -> None:
        self.session = session
        self._send = send
        self._flight: deque[tuple[int, int]] = deque()
        self._flight_bytes = 0

    @property
    def room(self) -> int:
        """How many messages may be sent now."""
        session = self.session
        if self._flight_bytes >= FLIGHT_BYTES or session.ended:
            return 0
        return session.room_messages

    def send(self, message: Any, messages: int, now: float) -> None:
        """Send one message of `talk`."""
        frames = message.pack()
        number = self._send(self.session, frames, messages, now)
        if messages:
            size = sum(map(len, frames))
            self._flight.append((number, size))
            self._flight_bytes += size

    def heard(self) -> None:
        """The other side heard more."""
        flight, heard = self._flight, self.session.heard_by_peer
        while flight and flight[0][0] <= heard:
            self._flight_bytes -= flight.popleft()[1]


class Feed:
    """One feed, and how far it has come.

    Attributes:
        number: that the subscriber gave it.
        position: all up to this offset is sent, or not of its topics.
        until: the last offset wanted; None: it goes on for ever.
        epoch: of the position, as the subscriber knows it.
        seen: rows up to this offset were read from the journal, and those above the position are in `rows`.
        told: it came to the newest message once.
        said: the subscriber knows that all up to this offset has come.
        topics: of a snapshot, those still to be looked at; None: it is none.
        held: it does not begin yet.
        resumes: ... and then where the cursor stands.
        snapshot: it is one of last values.
        time: it begins with the first message of this time or later, still to be searched on disk; None: it has begun.
    """

    __slots__ = (
        "epoch", "held", "high", "low", "number", "position", "reading", "resumes", "rows", "said", "seen", "snapshot",
        "time", "told", "topics", "until",
    )  # fmt: skip

    def __init__(self, number: int, position: int, epoch: str, until: int | None) -> None:
        self.number = number
        self.position = position
        self.epoch = epoch
        self.until = until
        self.told = self.held = self.resumes = self.snapshot = False
        self.rows: deque[Row] = deque()
        self.reading: core.Read | None = None
        self.seen = self.said = 0
        self.topics: deque[str] | None = None
        self.time: int | None = None
        self.low = self.high = 0


class Builder:
    """A block in the making, of parts of several rows."""

    __slots__ = (
        "_bytes",
        "_headers",
        "_indexes",
        "_later",
        "_lengths",
        "_most",
        "_offsets",
        "_pieces",
        "_row",
        "_table",
    )

    def __init__(self, most: int) -> None:
        self._most = most
        self._row: Row | None = None
        self._bytes = 0
        self._offsets: list[int] = []
        self._table: dict[str, int] = {}
        self._indexes: list[int] = []
        self._lengths: list[int] = []
        self._pieces: list[bytes] = []
        self._later: list[int] = []
        self._headers: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self._offsets)

    def takes(self, row: Row) -> bool:
        """Whether messages of this row may go with those that are here."""
        first = self._row
        return first is None or (first.codec == row.codec and row.sent_at >= first.sent_at and not self.full)

    @property
    def full(self) -> bool:
        """No more goes in."""
        return len(self._offsets) >= self._most or self._bytes >= BLOCK_BYTES

    def add(self, row: Row, chosen: Sequence[int]) -> int:
        """Take messages of a row, by index. Returns how many had room; at least one, if none was here."""
        if self._row is None:
            self._row = row
        if row.count == 1 and not row.headers and len(self._offsets) < self._most and len(chosen):
            return self._add_one(row, self._row)
        lengths, size, count = row.lengths, self._bytes, 0
        room = self._most - len(self._offsets)
        for index in chosen:
            if count == room or (size and size + lengths[index] > BLOCK_BYTES):
                break
            size += lengths[index]
            count += 1
        if not count:
            return 0
        taken = chosen[:count]
        at = len(self._offsets)
        first, last = taken[0], taken[-1]
        if last - first + 1 == count:
            ends = row.ends()
            self._offsets += range(row.key + first, row.key + last + 1)
            self._lengths += lengths[first : last + 1]
            self._pieces.append(row.blob[ends[first] : ends[last + 1]])
        else:
            ends, blob = row.ends(), row.blob
            self._offsets += [row.key + index for index in taken]
            self._lengths += [lengths[index] for index in taken]
            self._pieces += [blob[ends[index] : ends[index + 1]] for index in taken]
        table, indexes = self._table, row.indexes
        if indexes is None:
            self._indexes += [table.setdefault(row.topics[0], len(table))] * count
        else:
            topics = row.topics
            self._indexes += [table.setdefault(topics[indexes[index]], len(table)) for index in taken]
        if later := row.sent_at - self._row.sent_at:
            self._later += [0] * (at - len(self._later)) + [later] * count
        elif self._later:
            self._later += [0] * count
        if row.headers:
            self._headers.update((at + n, row.headers[index]) for n, index in enumerate(taken) if index in row.headers)
        self._bytes = size
        return count

    def _add_one(self, row: Row, first: Row) -> int:
        """`add` for a message that has a row to itself."""
        size = self._bytes + row.lengths[0]
        if self._bytes and size > BLOCK_BYTES:
            return 0
        self._bytes = size
        if (later := row.sent_at - first.sent_at) or self._later:
            self._later += [0] * (len(self._offsets) - len(self._later))
            self._later.append(later)
        self._offsets.append(row.key)
        self._lengths.append(row.lengths[0])
        self._pieces.append(row.blob)
        self._indexes.append(self._table.setdefault(row.topics[0], len(self._table)))
        return 1

    def block(self, feed: int, epoch: str) -> Block:
        """What came together."""
        row = self._row
        assert row is not None
        indexes = self._indexes if len(self._table) > 1 else None
        return Block(
            feed, epoch, self._offsets, list(self._table), indexes, row.sent_at, row.codec, self._lengths,
            b"".join(self._pieces), self._headers, self._later or None,
        )  # fmt: skip


class Feeder:
    """Moves feeds on. What it must read from the journal is put into `out.reads`.

    Attributes:
        broken: the journal can be read no more.
        holes: how many were told.
    """

    def __init__(self, history: History, out: core.Outputs, values: LastValues | None) -> None:
        self._history = history
        self._out = out
        self._values = values
        self._reads: dict[core.Read, list[Feed]] = {}
        self.broken = False
        self.holes = 0

    # ---- beginning -----------------------------------------------------------------

    def begin(self, feed: Feed, lane: Lane, now: float) -> None:
        """Say where a feed begins."""
        feed.epoch = feed.epoch or self._history.epochs.at(feed.position + 1)[0]
        lane.send(talk.Begun(feed.number, feed.epoch, feed.position), 0, now)

    def begin_at_time(self, feed: Feed, time: int, lane: Lane, now: float) -> None:
        """Begin with the first message of this time (microseconds since 1970) or later."""
        history = self._history
        feed.position = history.since(time)
        if history.durable and history.first_key and feed.position <= history.window > history.first_key - 1:
            feed.time, feed.low, feed.high = time, history.first_key, history.window + 1
            self._search(feed)
        else:
            self.begin(feed, lane, now)

    def _search(self, feed: Feed) -> None:
        """Look at a row halfway (binary search by keys)."""
        middle = (feed.low + feed.high) // 2
        self._read(feed, core.Read(MESSAGES, middle, max(middle, feed.high - 1), 1))

    def _found(self, feed: Feed, rows: Sequence[Row]) -> None:
        assert feed.time is not None
        middle = (feed.low + feed.high) // 2
        if not rows or rows[0].key >= feed.high or rows[0].sent_at >= feed.time:
            feed.high = middle
        else:
            feed.low = rows[0].last + 1

    def _read(self, feed: Feed, read: core.Read) -> None:
        feed.reading = read
        if self.broken:
            return  # for ever
        waiting = self._reads.setdefault(read, [])
        if not waiting:
            self._out.reads.append(read)
        waiting.append(feed)

    def loaded(self, read: core.Read, rows: Sequence[Row]) -> list[Feed]:
        """Rows came from the journal. Returns the feeds that waited for them."""
        feeds = self._reads.pop(read, [])
        for feed in feeds:
            feed.reading = None
            if feed.time is not None:
                self._found(feed, rows)
            elif rows:
                feed.rows.extend(rows)
                feed.seen = max(feed.seen, rows[-1].last)
            else:
                # Nothing is left there: offsets that were never used, or what was deleted meanwhile.
                feed.position = feed.seen = max(feed.position, read.last)
        return feeds

    # ---- going on ------------------------------------------------------------------

    def pump(self, feed: Feed, filter: Filter, lane: Lane, now: float) -> bool:
        """Send what may be sent. True: the feed is at its end."""
        if feed.topics is not None:
            return self._pump_values(feed, filter, lane, now)
        if feed.time is not None and feed.reading is None:
            if feed.low < feed.high:
                self._search(feed)
                return False
            feed.time = None
            feed.position = max(self._history.gone, feed.low - 1)
            self.begin(feed, lane, now)
        while feed.reading is None and feed.time is None:
            if feed.until is not None and feed.position >= feed.until:
                self._enter(feed, *self._history.epochs.at(feed.until + 1), lane, now)
                lane.send(talk.Done(feed.number, feed.epoch, feed.until), 0, now)
                return True
            if lane.room <= 0:
                return False
            row = self._next(feed, filter, lane, now)
            if row is None:
                if feed.reading is None and feed.until is None and not feed.told:
                    feed.told = True
                    self._say_position(feed, lane, now)
                if feed.reading is None and feed.until is not None:
                    feed.until = min(feed.until, max(feed.position, self._history.last))
                    continue
                return False
            self._put(feed, row, filter, lane, now)
        return False

    def tell_position(self, feed: Feed, lane: Lane, now: float) -> None:
        """Of a feed that has no end: all up to its position has come, also if nothing of that was of its topics."""
        if feed.told and feed.said < feed.position and not lane.session.ended:
            self._say_position(feed, lane, now)

    @staticmethod
    def _say_position(feed: Feed, lane: Lane, now: float) -> None:
        feed.said = feed.position
        lane.send(talk.Done(feed.number, feed.epoch, feed.position), 0, now)

    def _next(self, feed: Feed, filter: Filter, lane: Lane, now: float) -> Row | None:
        """The row with the feed's next message. None: it is at the newest one, or waits for the journal."""
        history = self._history
        while feed.rows and feed.rows[0].last <= feed.position:
            feed.rows.popleft()
        if feed.position < history.gone and not (feed.rows and feed.rows[0].key <= feed.position + 1):
            hit = history.hole(filter, feed.position)
            if hit is not None:
                self.holes += 1
                # Told first: who hears of a newer epoch after its hole would take its own position to be beyond it.
                ends = history.gone if feed.until is None else min(history.gone, feed.until)
                self._enter(feed, *history.epochs.at(ends), lane, now)
                lane.send(talk.Hole(feed.number, feed.epoch, feed.position + 1, history.gone, hit), 0, now)
            feed.position = feed.seen = history.gone
            while feed.rows and feed.rows[0].last <= feed.position:
                feed.rows.popleft()
        if feed.rows:
            return self._entered(feed, feed.rows[0], lane, now)
        if feed.position < history.window:
            read = history.wanted(feed.position, feed.seen)
            if read is not None:
                self._read(feed, read)
                return None
            feed.position = history.window
        row = history.following(feed.position)
        if row is None:
            feed.position = max(feed.position, history.last)
            self._enter(feed, *history.epochs.at(history.last + 1), lane, now)
            return None
        return self._entered(feed, row, lane, now)

    def _entered(self, feed: Feed, row: Row, lane: Lane, now: float) -> Row | None:
        """A row that may be of a newer epoch, or is not wanted any more."""
        if feed.until is not None and row.key > feed.until:
            feed.position = feed.until
            return None
        self._enter(feed, *self._history.epochs.of(row), lane, now)
        return row

    @staticmethod
    def _enter(feed: Feed, epoch: str, first: int, lane: Lane, now: float) -> None:
        if epoch != feed.epoch:
            feed.epoch = epoch
            lane.send(talk.Epoch(feed.number, epoch, first), 0, now)

    def _put(self, feed: Feed, row: Row, filter: Filter, lane: Lane, now: float) -> None:
        """Send one block, from this row on."""
        start = max(0, feed.position + 1 - row.key)
        room = min(lane.room, BLOCK_MESSAGES)
        chosen = picks(row, filter)
        if (
            chosen is None and not start and WHOLE <= row.count <= room
            and (feed.until is None or feed.until >= row.last) and len(row.blob) <= BLOCK_BYTES
        ):  # fmt: skip
            block = Block(
                feed.number, feed.epoch, range(row.key, row.last + 1), row.topics, row.indexes, row.sent_at, row.codec,
                row.lengths, row.blob, row.headers,
            )  # fmt: skip
            feed.position = feed.seen = feed.said = row.last
            lane.send(block, row.count, now)
            return
        builder = Builder(room)
        while True:
            end = row.count if feed.until is None else min(row.count, feed.until + 1 - row.key)
            if chosen is None:
                chosen = range(start, end)
            elif chosen:
                chosen = chosen[bisect_left(chosen, start) : bisect_left(chosen, end)]
            taken = builder.add(row, chosen) if chosen else 0
            if taken < len(chosen):
                feed.position = row.key + chosen[taken] - 1
                break
            feed.position = row.key + end - 1
            feed.seen = max(feed.seen, feed.position)
            following = self._beside(feed)
            if following is None or not builder.takes(following):
                break
            row, start = following, max(0, feed.position + 1 - following.key)
            chosen = picks(row, filter)
        if builder:
            block = builder.block(feed.number, feed.epoch)
            feed.said = block.offsets[-1]
            lane.send(block, len(builder), now)

    def _beside(self, feed: Feed) -> Row | None:
        """The next row, if it is at hand and of the same epoch."""
        if feed.until is not None and feed.position >= feed.until:
            return None
        if feed.rows:
            feed.rows.popleft()
        if feed.rows:
            row: Row | None = feed.rows[0]
        else:
            row = self._history.following(feed.position) if feed.position >= self._history.window else None
        if row is None or (not self._history.epochs.lone and self._history.epochs.of(row)[0] != feed.epoch):
            return None
        return row

    # ---- snapshots -----------------------------------------------------------------

    def begin_values(self, feed: Feed, filter: Filter) -> None:
        """Take down which topics there are."""
        values, literals = self._values, filter.literals
        assert values is not None
        if literals is not None and len(literals) < len(values):
            found = [(value.offset, topic) for topic in literals if (value := values.get(topic)) is not None]
            feed.topics = deque(topic for _, topic in sorted(found))
        else:
            feed.topics = deque(values.topics())

    def _pump_values(self, feed: Feed, filter: Filter, lane: Lane, now: float) -> bool:
        assert feed.topics is not None
        assert self._values is not None
        assert feed.until is not None
        looked = 0
        while feed.topics and looked < VALUES_A_TURN:
            room = min(lane.room, BLOCK_MESSAGES)
            if room <= 0:
                return False
            builder, epoch = Builder(room), feed.epoch
            while feed.topics and looked < VALUES_A_TURN:
                topic = feed.topics[0]
                value = self._values.get(topic) if filter.matches(topic) else None
                looked += 1
                # What is newer than the snapshot comes by itself.
                if value is not None and value.offset <= feed.until:
                    if builder and value.epoch != epoch:
                        break
                    epoch = value.epoch
                    headers = {} if value.headers is None else {0: value.headers}
                    row = Row(value.offset, value.codec, value.sent_at, [topic], None, [len(value.body)], value.body,
                              headers)  # fmt: skip
                    if not builder.takes(row) or not builder.add(row, (0,)):
                        break
                feed.topics.popleft()
            if builder:
                lane.send(builder.block(feed.number, epoch), len(builder), now)
        if feed.topics:
            return False
        lane.send(talk.Done(feed.number, feed.epoch, feed.until), 0, now)
        return True
