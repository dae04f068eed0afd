"""A journal that another process has open, asked at its pusher's control socket. For tools, and for threads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Final

from zmqkit.errors import JournalError, WaitTimeout
from zmqkit.journal.store import Totals
from zmqkit.options import Limits
from zmqkit.patterns.pipeline.steering import MOST_IDS, ROLE, Answer, SteeringCore
from zmqkit.peer.base import Common
from zmqkit.peer.sync import Peer
from zmqkit.protocol.core import Read, Row

PATIENCE_S: Final = 5.0
"""How long a pusher may take to say that it is there."""

MOST_BYTES: Final = 1 << 18
"""Of ids in one question."""

LARGEST_ANSWER: Final = 1 << 40
"""Bytes: a row is as large as the largest message that its pusher takes."""


class LiveJournal(Peer):
    """What a pipeline's journal holds, and what may be done about it, while its program runs.

    Args:
        address: of the control socket.
        path: of the journal, for messages.
    """

    _role: ClassVar[str] = ROLE
    _accepts: ClassVar[frozenset[str]] = frozenset({"push"})
    _binds: ClassVar[bool] = False

    def __init__(self, address: str, path: str) -> None:
        super().__init__([address], Common(name="zmqkit journal", limits=Limits(frame_bytes=LARGEST_ANSWER)))
        self.path = path

    def _build(self) -> tuple[SteeringCore, Any]:
        return SteeringCore(self._local(), self._random()), None

    def has(self, log: str) -> bool:
        """Whether there is a log of that name: who opened the journal for writing made them all."""
        return True

    def totals(self, log: str) -> Totals:
        """Of one log. Raises `JournalError`."""
        return Totals(*self._asked("totals", log=log).value)

    def read(self, request: Read) -> Sequence[Row]:
        """Rows of a log, in the order of their keys: some at least, if there are any, and no more than were asked for.

        Raises:
            JournalError: the program has gone, or could not read them.
        """
        log, first, last, left = request
        found: list[Row] = []
        while first <= last and left > 0:
            rows = self._asked("read", log=log, first=first, last=last, size_bytes=min(left, 1 << 40)).rows
            found += rows
            left -= sum(len(row.value) for row in rows)
            if not rows or request.size_bytes < 1 << 40:
                break
            first = rows[-1].key + 1
        return found

    def retry(self, *ids: str) -> int:
        """Send dead letters again, all if none is named. Returns how many. Raises `JournalError`."""
        return self._each("retry", ids)

    def drop(self, *ids: str) -> int:
        """Throw dead letters away, all if none is named. Returns how many. Raises `JournalError`."""
        return self._each("drop", ids)

    def release(self, inbox: bytes) -> int:
        """Let what is in doubt at an inbox go to anybody. Returns how many jobs. Raises `JournalError`."""
        return int(self._asked("release", inbox=inbox).value)

    def _each(self, verb: str, ids: Sequence[str]) -> int:
        return sum(int(self._asked(verb, ids=part).value) for part in parts_of(ids))

    def _asked(self, verb: str, **arguments: Any) -> Answer:
        answer: Answer = self._wait(self._ask(self._core.ask, verb, arguments), None)  # type: ignore[attr-defined]
        if answer.error:
            raise JournalError(f"{self.path} is open elsewhere, and there: {answer.error}")
        return answer


def parts_of(ids: Sequence[str]) -> list[list[str]]:
    """These, in as many parts as there must be questions. No ids, which mean all letters, are one empty part."""
    if not ids:
        return [[]]
    parts: list[list[str]] = []
    size = 0
    for each in ids:
        try:
            length = len(each.encode())
        except UnicodeEncodeError:
            continue  # no message has such an id
        if not parts or len(parts[-1]) >= MOST_IDS or size + length > MOST_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(each)
        size += length
    return parts


def reach(address: str, path: str) -> LiveJournal | None:
    """The journal behind a control socket, open; None if nobody answers there in time."""
    journal = LiveJournal(address, path)
    journal.open()
    try:
        journal.wait_for_peers(1, timeout=PATIENCE_S)
    except WaitTimeout:
        journal.close(0)
        return None
    except BaseException:
        journal.close(0)
        raise
    return journal
