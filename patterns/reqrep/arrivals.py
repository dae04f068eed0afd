"""Items of a stream as they come, between the core and whoever takes them. Knows tickets; does not wait itself.

The core calls `resolve` with each `Item` and at last with an `Answer`. Who takes looks with `next`, and waits for the
ticket that `wait_for` gives. It grants more when half of the window was taken, so that a stream never stands still
between two round trips.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from zmqkit.patterns.reqrep.calls import Answer, Item
from zmqkit.transport.tickets import Ticket

WINDOW: Final = 64
"""So many items may be on the way and not taken."""


class Arrivals:
    """What came of one stream.

    Args:
        make_ticket: gives a ticket of the driver's, which is told when the driver ends.
        grant: tells the sender how many items may come; called with an absolute number.

    Attributes:
        taken: how many items were taken.
        answer: what ended the stream; None while it goes on. There may be items before it.
    """

    __slots__ = ("_granted", "_items", "_lock", "_make_ticket", "_ticket", "answer", "grant", "taken")

    def __init__(
        self, make_ticket: Callable[[], Ticket], grant: Callable[[int], None] | None = None, granted: int = WINDOW
    ) -> None:
        self._make_ticket = make_ticket
        self.grant = grant
        self._items: deque[Item] = deque()
        self._ticket: Ticket | None = None
        self._lock = threading.Lock()
        self._granted = granted
        self.taken = 0
        self.answer: Answer | None = None

    def begin(self, grant: Callable[[int], None]) -> None:
        """Let the first ones come, where nothing was granted yet."""
        self.grant = grant
        self._granted = self.taken + WINDOW
        grant(self._granted)

    def resolve(self, result: Item | Answer | BaseException) -> bool:
        """One more item, or the end. Called by the driver."""
        if isinstance(result, Item):
            self._items.append(result)
        elif isinstance(result, Answer) and self.answer is None:
            self.answer = result
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            ticket.resolve(result if isinstance(result, BaseException) else None)
        return True

    def next(self) -> Item | None:
        """Take the next item that is here; None if none is."""
        items = self._items
        try:
            item = items.popleft()
        except IndexError:
            return None
        self.taken = taken = self.taken + 1
        if self.grant is not None and self._granted - taken <= WINDOW // 2 and self.answer is None:
            self._granted = taken + WINDOW
            self.grant(self._granted)
        return item

    def wait_for(self) -> Ticket | None:
        """What to wait for before looking again; None: look now."""
        with self._lock:
            ticket = self._ticket
            if ticket is None:
                ticket = self._make_ticket()
                self._ticket = ticket
        if self._items or self.answer is not None:
            return None
        return ticket

    def drop(self) -> None:
        """Forget what is here: nobody takes it."""
        self._items.clear()
