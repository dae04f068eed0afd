"""A pusher's dead letters: who asks for them, and how they are sent again or dropped.

Pure. With a journal they stand in its log ``dead``; without one the last of them are kept in memory. To deal with some,
read a page, claim what is wanted of it, and then send it again or drop it: nobody else can do so meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from zmqkit.patterns.pipeline.rows import DEAD, told_by
from zmqkit.protocol import core
from zmqkit.protocol.core import Outputs

MEMORY_LETTERS: Final = 10_000
"""Without a journal, the last so many dead letters are kept..."""
MEMORY_REASONS: Final = 100_000
"""...and the reasons of the first so many, for receipts that ask later."""

PAGE_BYTES: Final = 1 << 20
MOST: Final = (1 << 63) - 1


class Page(NamedTuple):
    """Some letters, in the order in which their messages were sent."""

    version: int
    """Of the letters, when it was read; see `Letters.claim`."""
    rows: list[tuple[int, bytes]]
    """Key, and what `DeadRow` packed."""


class _Dropping(NamedTuple):
    number: int
    keys: Sequence[int]
    ticket: Any


class Letters:
    """The dead letters of one pusher.

    Args:
        out: of its core.
        durable: there is a journal.

    Attributes:
        count: how many there are.
        dropped: how many were not kept, for want of a journal.
        version: rises when letters go.
    """

    def __init__(self, out: Outputs, durable: bool) -> None:
        self._out = out
        self._durable = durable
        self.count = 0
        self.dropped = 0
        self._kept: dict[int, bytes] = {}
        self._reasons: dict[int, str] = {}
        self._asked: dict[int, list[Any]] = {}
        self._paging: dict[int, list[Any]] = {}
        self._claimed: dict[int, Any] = {}
        """In whose hands each letter is: the ticket of the claim; None: a puller's."""
        self._dropping: deque[_Dropping] = deque()
        self.version = 0

    def bury(self, key: int, letter: bytes, reason: str) -> None:
        """One more, which the journal has by now."""
        self.count += 1
        if self._durable:
            return
        self._kept[key] = letter
        if len(self._kept) > MEMORY_LETTERS:
            del self._kept[next(iter(self._kept))]
            self.count -= 1
            self.dropped += 1
        if len(self._reasons) < MEMORY_REASONS:
            self._reasons[key] = reason

    # ---- who asks ------------------------------------------------------------------

    def ask(self, key: int, watcher: Any) -> None:
        """`watcher` gets (outcome, reason) of a settled message."""
        if self._durable:
            self._asked.setdefault(key, []).append(watcher)
            self._out.reads.append(core.Read(DEAD, key, key, 1))
        else:
            reason = self._reasons.get(key)
            self._out.replies.append((watcher, ("acked", "") if reason is None else ("dead", reason)))

    def forget(self, watcher: Any, answer: Any) -> bool:
        """Whether this one asks; then `answer` is told together with it."""
        for watchers in self._asked.values():
            if watcher in watchers:
                watchers.append(answer)
                return True
        return False

    def page(self, after: int, ticket: Any, now: float) -> None:
        """`ticket` gets a `Page` of the letters behind a key, as many as are read at a time; empty: there are none."""
        if self._durable:
            self._paging.setdefault(after, []).append(ticket)
            self._out.reads.append(core.Read(DEAD, after + 1, MOST, PAGE_BYTES))
        else:
            rows = sorted((key, value) for key, value in self._kept.items() if key > after)
            self._out.replies.append((ticket, Page(self.version, rows)))

    def loaded(self, read: core.Read, rows: Sequence[core.Row]) -> None:
        """The journal's answer."""
        if read.last == MOST:
            page = Page(self.version, [(row.key, row.value) for row in rows])
            self._out.replies.extend((ticket, page) for ticket in self._paging.pop(read.first - 1, ()))
        else:
            told = told_by(rows)
            self._out.replies.extend((watcher, told) for watcher in self._asked.pop(read.first, ()))

    def stop(self, error: Exception) -> None:
        """The journal can be read no more: say so to all who wait for what it would tell."""
        for asked in (self._asked, self._paging):
            self._out.replies.extend((each, error) for several in asked.values() for each in several)
            asked.clear()
        self._out.replies.extend((each.ticket, error) for each in self._dropping)
        self._dropping.clear()

    # ---- who deals with them -------------------------------------------------------

    def claim(self, version: int, keys: Iterable[int], ticket: Any, now: float) -> None:
        """Take letters of a page into one's hands; `ticket` gets the keys of those that nobody else has.

        It gets None if letters went since the page was read: read it again.
        """
        if version != self.version:
            self._out.replies.append((ticket, None))
            return
        free = [key for key in keys if key not in self._claimed]
        self._claimed.update(dict.fromkeys(free, ticket))
        self._out.replies.append((ticket, free))

    def forgo(self, ticket: Any, handed: Iterable[int], now: float) -> None:
        """Who claimed letters by this ticket was interrupted: they stay, but those of which something becomes."""
        kept = set(handed)
        self.release([key for key, by in self._claimed.items() if by is ticket and key not in kept])

    def take(self, key: int) -> bool:
        """Claim one letter. False: somebody else has it."""
        if key in self._claimed:
            return False
        self._claimed[key] = None
        return True

    def kept(self, first: int, last: int) -> list[core.Row]:
        """Without a journal: the letters of these keys."""
        return [core.Row(key, 1, value) for key, value in sorted(self._kept.items()) if first <= key <= last]

    def release(self, keys: Iterable[int], now: float = 0.0) -> None:
        """They were claimed, and stay."""
        for key in keys:
            self._claimed.pop(key, None)

    def remove(self, keys: Sequence[int]) -> None:
        """Claimed letters go with what is written now; `went` when it is stored, else `release`."""
        self.version += 1
        for key in keys:
            if self._durable:
                self._out.write(DEAD, key, 0, None)
            else:
                self._kept.pop(key, None)

    def went(self, keys: Sequence[int]) -> None:
        """What was removed is gone."""
        self.count -= len(keys)
        self.version += 1
        self.release(keys)

    def drop(self, keys: Sequence[int], ticket: Any, now: float) -> None:
        """Remove claimed letters; `ticket` gets how many, once that is stored, or an exception."""
        self.remove(keys)
        if self._durable:
            self._dropping.append(_Dropping(self._out.written, keys, ticket))
        else:
            self.went(keys)
            self._out.replies.append((ticket, len(keys)))

    def stored(self, up_to: int) -> None:
        """Writes up to this number are in the journal."""
        while self._dropping and self._dropping[0].number <= up_to:
            _, keys, ticket = self._dropping.popleft()
            self.went(keys)
            self._out.replies.append((ticket, len(keys)))

    def store_failed(self, up_to: int, error: Exception) -> None:
        """Writes up to this number are not."""
        while self._dropping and self._dropping[0].number <= up_to:
            _, keys, ticket = self._dropping.popleft()
            self.release(keys)
            self._out.replies.append((ticket, error))
