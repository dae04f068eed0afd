"""The pullers that came for dead letters, and what they hold (docs/protocol.md, section 7.9).

Pure. A letter is lent as a message is, by a lease of the same numbers; while it is lent nobody else can deal with it.
An ack drops it for good, once the journal has that. Whatever else becomes of it, it stays a dead letter, and this
puller does not get it again in this session.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from zmqkit.errors import DecodeError
from zmqkit.patterns.pipeline import wire
from zmqkit.patterns.pipeline.letters import MOST, PAGE_BYTES
from zmqkit.patterns.pipeline.rows import DEAD, DeadRow
from zmqkit.protocol import core as contract
from zmqkit.protocol.session import Session

ABOUT: Final = "dead"
"""In HELLO: a pusher that lends dead letters, a puller that wants nothing else."""

REASON: Final = "zmqkit-reason"
TRACEBACK: Final = "zmqkit-traceback"
DIED_AT: Final = "zmqkit-died-at"
"""Headers by which a puller is told why and when (microseconds since 1970) the message died."""

READ_BYTES_A_MESSAGE: Final = 1024
"""Where there is room for few letters, not many more of them are read."""
MOST_OWED: Final = 100_000


class _Taker:
    """One puller that came for dead letters."""

    __slots__ = ("after", "at_end", "held", "owed", "session")

    def __init__(self, session: Session) -> None:
        self.session = session
        self.after = 0
        """Up to this key it has had its turn with all letters, but for those `owed`."""
        self.at_end = False
        self.owed: list[int] = []
        """Keys of letters that came, or came back, behind its back: a heap."""
        self.held: dict[int, int] = {}
        """By lease: the key of the letter. Leases rise."""


class _Drop(NamedTuple):
    number: int
    session: Session
    keys: list[int]
    answer: wire.Settled | None


class LetterTakers:
    """All of them, at one pusher.

    Args:
        pusher: its core.

    Attributes:
        sessions: those that are open.
        undropped: what was acked, and is to be written, again perhaps.
    """

    def __init__(self, pusher: Any) -> None:
        self._pusher = pusher
        self._letters = pusher.letters
        self.sessions: dict[bytes, _Taker] = {}
        self._reading: tuple[contract.Read, bytes, int] | None = None
        """What is being read, for which session, and the letters' version when it was asked for."""
        self._dropping: deque[_Drop] = deque()
        self.undropped: list[_Drop] = []

    # ---- sessions ------------------------------------------------------------------

    def opened(self, session: Session, now: float) -> bool:
        """A puller came. False: for messages, as most do."""
        if session.peer.about.get(ABOUT) is not True:
            return False
        self.sessions[session.id] = _Taker(session)
        return True

    def lost(self, session: Session, now: float) -> bool:
        """A puller is gone. False: it was none of these."""
        taker = self.sessions.pop(session.id, None)
        if taker is None:
            return False
        self._come_back(taker.held.values())
        return True

    def received(self, session: Session, message: object, now: float) -> None:
        """A puller settles letters, or says what it holds. Raises `DecodeError`."""
        taker = self.sessions[session.id]
        if isinstance(message, wire.Settle):
            self._settle(taker, message, now)
        elif isinstance(message, wire.Held):
            self._reconcile(taker, message)
        elif isinstance(message, wire.Deliver):
            raise DecodeError("a puller must not deliver")
        self._pusher.sessions.owe(session, bool(taker.held), now)

    # ---- settling ------------------------------------------------------------------

    def _settle(self, taker: _Taker, message: wire.Settle, now: float) -> None:
        current = message.epoch == self._pusher.settings.epoch
        stale: wire.Ranges = []
        acked: list[int] = []
        leases = list(taker.held)
        for first, last in wire.merged(message.acks):
            ended: wire.Ranges = []
            if current:
                for lease in leases[bisect_left(leases, first) : bisect_right(leases, last)]:
                    acked.append(taker.held.pop(lease))
                    ended += (lease, lease)
            stale += wire.gaps(first, last, ended)
        for other in message.others:
            key = taker.held.pop(other.lease, None) if current else None
            if key is None:
                stale += (other.lease, other.lease)
            else:
                self._letters.release([key])
        if stale:
            self._pusher.counters["settles_stale"] += len(stale) // 2
            stale = [number for pair in wire.merged(stale) for number in pair][: 2 * wire.MAX_RANGES]
        answer = wire.Settled(message.ask, stale) if message.ask or stale else None
        if acked or answer is not None:
            self.undropped.append(_Drop(0, taker.session, acked, answer))

    def _reconcile(self, taker: _Taker, message: wire.Held) -> None:
        """What it should hold and does not list comes back."""
        if message.epoch != self._pusher.settings.epoch:
            return
        listed = wire.merged(message.leases)
        firsts = [first for first, _ in listed]
        back = []
        for lease in list(taker.held):
            at = bisect_right(firsts, lease) - 1
            if lease <= message.up_to and (at < 0 or listed[at][1] < lease):
                back.append(taker.held.pop(lease))
        self._come_back(back)

    def _come_back(self, keys: Iterable[int]) -> None:
        """Letters that nobody settled: whoever is past them gets them, too."""
        keys = list(keys)
        self._letters.release(keys)
        for key in keys:
            self.buried(key)

    def buried(self, key: int) -> None:
        """A letter is there to be lent."""
        for taker in self.sessions.values():
            if key > taker.after:
                taker.at_end = False
            elif len(taker.owed) < MOST_OWED:
                heapq.heappush(taker.owed, key)

    # ---- storing -------------------------------------------------------------------

    def write(self, now: float) -> None:
        """Write what was acked, in this turn or before."""
        owed, self.undropped = self.undropped, []
        for drop in owed:
            if drop.keys:
                self._letters.remove(drop.keys)
            if self._pusher.settings.durable and (drop.keys or self._dropping):
                self._dropping.append(drop._replace(number=self._pusher.out.written))
            else:
                self._dropped(drop, now)

    def stored(self, up_to: int, now: float) -> None:
        """Writes up to this number are in the journal."""
        while self._dropping and self._dropping[0].number <= up_to:
            self._dropped(self._dropping.popleft(), now)

    def store_failed(self, up_to: int) -> None:
        """They are not, or may not be: they are written again."""
        while self._dropping and self._dropping[0].number <= up_to:
            self.undropped.append(self._dropping.popleft())

    def _dropped(self, drop: _Drop, now: float) -> None:
        if drop.keys:
            self._letters.went(drop.keys)
        if drop.answer is not None and drop.session.id in self.sessions:
            self._pusher.sessions.send(drop.session, drop.answer.pack(), 0, now)

    # ---- lending -------------------------------------------------------------------

    def end_turn(self, now: float) -> None:
        """Lend what is there to those with room."""
        for taker in self.sessions.values():
            while self._reading is None and self._has_room(taker):
                read = self._wanted(taker)
                if read is None:
                    break
                self._reading = (read, taker.session.id, self._letters.version)
                if self._pusher.settings.durable:
                    self._pusher.out.reads.append(read)
                else:
                    self.loaded(read, self._letters.kept(read.first, read.last), now)

    @staticmethod
    def _has_room(taker: _Taker) -> bool:
        session = taker.session
        return session.room_messages > 0 and session.link is not None and not session.busy

    def _wanted(self, taker: _Taker) -> contract.Read | None:
        if taker.owed:
            return contract.Read(DEAD, taker.owed[0], taker.owed[0], 2)
        if taker.at_end:
            return None
        size = min(PAGE_BYTES, taker.session.room_messages * READ_BYTES_A_MESSAGE)
        return contract.Read(DEAD, taker.after + 1, MOST - 1, size)

    def loaded(self, read: contract.Read, rows: Sequence[contract.Row], now: float) -> bool:
        """The journal's answer. False: somebody else asked."""
        if self._reading is None or self._reading[0] != read:
            return False
        _, name, version = self._reading
        self._reading = None
        taker = self.sessions.get(name)
        if taker is None or version != self._letters.version:
            return True  # it is asked for again
        if read.first == read.last:
            if taker.owed and taker.owed[0] == read.first:
                heapq.heappop(taker.owed)
            for row in rows:
                self._lend(taker, row, now)
            return True
        for row in rows:
            if not self._has_room(taker):
                return True
            taker.after = row.key
            self._lend(taker, row, now)
        taker.at_end = not rows
        return True

    def _lend(self, taker: _Taker, row: contract.Row, now: float) -> None:
        if not self._letters.take(row.key):
            return
        try:
            letter = DeadRow.unpack(row.value)
        except DecodeError:  # of another version: it stays where it is, and `dead_letters` says so
            self._letters.release([row.key])
            return
        pusher = self._pusher
        lease = pusher.next_lease()
        pusher.sessions.send(taker.session, _deliver(letter, lease, row.key, pusher.settings.origin).pack(), 1, now)
        pusher.sessions.owe(taker.session, True, now)
        taker.held[lease] = row.key


def _deliver(letter: DeadRow, lease: int, key: int, origin: str) -> wire.Deliver:
    headers = {**letter.headers, REASON: letter.reason, DIED_AT: str(letter.at)}
    if letter.traceback:
        headers[TRACEBACK] = letter.traceback
    return wire.Deliver(
        lease=lease,
        sequence=key,
        origin=origin,
        sent_at=letter.sent_at,
        codec=letter.codec,
        lengths=[len(letter.body)],
        blob=letter.body,
        ids={0: letter.id},
        headers={0: headers},
        failures={0: letter.failures} if letter.failures else {},
        keys={} if letter.key is None else {0: letter.key},
        priority=letter.priority,
    )
