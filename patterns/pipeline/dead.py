"""Dead letters as users see them: everything of it that does not wait.

Knows the pusher's face, codecs and how a letter is packed; no event loop.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from zmqkit import codec as codecs
from zmqkit.errors import DecodeError, UsageError
from zmqkit.options import Limits
from zmqkit.patterns.pipeline.letters import Page
from zmqkit.patterns.pipeline.rows import DeadRow, unreadable
from zmqkit.transport.tickets import Ticket


@dataclasses.dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that can never succeed, or failed too often.

    Attributes:
        id: of the message; it keeps it when it is sent again.
        body: what was sent; its bytes, if its codec is not known here, or cannot read them.
        headers: what the sender attached.
        reason: why, in a line.
        traceback: of the handler, where it raised.
        failures: how often a handler had failed on it.
        at: when it was found dead, UTC.
        sent_at: when it was sent, UTC.
        key, priority: as it was sent with them; it keeps them when it is sent again.
    """

    id: str
    body: Any
    headers: Mapping[str, str]
    reason: str
    traceback: str | None
    failures: int
    at: datetime
    sent_at: datetime
    key: str | None = None
    priority: int = 0


def letter_of(found: DeadRow, limits: Limits) -> DeadLetter:
    """What a row of the log ``dead`` holds."""
    try:
        body = codecs.decode(found.body, found.codec, limits=limits)
    except (DecodeError, UsageError):
        body = found.body
    return DeadLetter(
        id=found.id,
        body=body,
        headers=found.headers,
        reason=found.reason,
        traceback=found.traceback or None,
        failures=found.failures,
        at=datetime.fromtimestamp(found.at / 1e6, UTC),
        sent_at=datetime.fromtimestamp(found.sent_at / 1e6, UTC),
        key=found.key,
        priority=found.priority,
    )


class DeadLettersBase:
    """A pusher's dead letters, those of its journal included, in the order in which they were sent.

    Without a journal the last 10,000 are kept.
    """

    __slots__ = ("_pusher",)

    def __init__(self, pusher: Any) -> None:
        self._pusher = pusher

    def __len__(self) -> int:
        self._pusher._start()
        count: int = self._pusher._core.letters.count
        return count

    def __bool__(self) -> bool:
        return len(self) > 0

    def __repr__(self) -> str:
        return f"<dead letters of {self._pusher.name}>"

    def _ask_page(self, after: int) -> Ticket:
        pusher = self._pusher
        ticket: Ticket = pusher._ask(pusher._core.letters.page, after)
        return ticket

    def _letters(self, page: Page) -> Iterator[DeadLetter]:
        limits = self._pusher._limits
        return (letter_of(unpacked(value), limits) for _, value in page.rows)


class Sorting:
    """One `retry` or `drop`: which letters it is of, and what is left to do. The face asks and waits.

    Args:
        letters: whose.
        ids: of the messages; none: all that are there now.
        again: send them again, rather than drop them.

    Attributes:
        after: where the next page begins.
        done: how many were dealt with.
    """

    def __init__(self, letters: DeadLettersBase, ids: Sequence[str], *, again: bool) -> None:
        for each in ids:
            if not isinstance(each, str):
                raise TypeError(f"ids of dead letters are text, got {each!r:.100}")
        self._pusher = letters._pusher
        self._pusher._check_wait()
        self._pusher._start()
        self._all = not ids
        self._left = set(ids)
        self._last = self._pusher._newest
        """What dies again while this goes on is not its business."""
        self._again = again
        self._chosen: dict[int, DeadRow] = {}
        self._handed: list[int] = []
        """What was claimed, and is to be sent again or dropped by now."""
        self.after = 0
        self.done = 0

    def ask(self, page: Page) -> Ticket | None:
        """Ask for what is wanted of a page; None if that is nothing."""
        self._chosen = {}
        self._handed = []
        for key, value in page.rows:
            letter = unpacked(value)
            if key <= self._last and (self._all or letter.id in self._left):
                self._chosen[key] = letter
        if not self._chosen:
            self._past(page)
            return None
        pusher = self._pusher
        ticket: Ticket = pusher._ask(pusher._core.letters.claim, page.version, list(self._chosen))
        return ticket

    def go_on(self, page: Page, claimed: list[int] | None) -> list[Ticket]:
        """Deal with what was claimed. Returns what to wait for; nothing, if the page must be read again."""
        if claimed is None:
            return []
        self._past(page)
        self._left.difference_update(self._chosen[key].id for key in claimed)
        pusher = self._pusher
        if not self._again:
            self._handed = claimed
            return [pusher._ask(pusher._core.letters.drop, claimed)] if claimed else []
        self._handed = []
        tickets = []
        for key in claimed:
            self._handed.append(key)
            tickets.append(pusher._redrive(self._chosen[key], key))
        return tickets

    def abandon(self, asked: Ticket) -> None:
        """Interrupted after `ask`, and not yet through with `go_on`: what is not dealt with is in nobody's hands."""
        self._pusher._tell_soon(self._pusher._core.letters.forgo, asked, self._handed)

    def stored(self, result: int | None) -> None:
        """One of those was stored."""
        self.done += 1 if result is None else result

    def over(self, page: Page) -> bool:
        """Whether nothing is left to look for in this page and behind it."""
        return not page.rows or self.after >= self._last or not (self._all or self._left)

    def _past(self, page: Page) -> None:
        self.after = page.rows[-1][0]


def unpacked(value: bytes) -> DeadRow:
    """A letter of the journal. Raises `JournalDamaged`."""
    try:
        return DeadRow.unpack(value)
    except DecodeError as error:
        raise unreadable(error) from error
