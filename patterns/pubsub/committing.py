"""The subscriber's core, second part: its cursor at publishers (docs/protocol.md, 14.5).

Pure. Moves it, and tells who waits for that; gives up sessions in which another subscriber's hold on it came first.
"""

from __future__ import annotations

import random
from typing import Any, Final

from zmqkit.errors import CursorInUse, CursorNotMoved
from zmqkit.patterns.pubsub import talk
from zmqkit.patterns.pubsub.delivering import Delivering
from zmqkit.patterns.pubsub.settings import SubscriberSettings
from zmqkit.patterns.pubsub.streams import Stream
from zmqkit.protocol.local import Local
from zmqkit.protocol.session import Session

CURSOR_SECONDS: Final = 2.0
"""A cursor in use is asked for again for a heartbeat bound, and so many seconds more."""


class Committing(Delivering):
    """The cursor of a subscriber's core."""

    def __init__(self, local: Local, rng: random.Random, settings: SubscriberSettings) -> None:
        super().__init__(local, rng, settings)
        self._commits: dict[tuple[str, int], tuple[Any, str, int]] = {}
        """By publisher and number: who asked, and the epoch and offset that are committed."""

    def _say(self, stream: Stream, message: Any, now: float) -> None:
        if stream.session is not None:
            self.sessions.send(stream.session, message.pack(), 0, now)

    # ---- a verb of the user ----------------------------------------------------------

    def commit(self, publisher: str, epoch: str, offset: int, ticket: Any, now: float) -> None:
        """Move the cursor at a publisher. `ticket` gets None once that is stored there, or the error.

        Without a session it waits for one. With ticket None nobody is told.
        """
        stream = self.streams.get(publisher)
        if stream is None:
            if ticket is not None:
                why = f"publisher {publisher[:8]} is gone, and its cursor with it: nothing to commit there"
                self.out.replies.append((ticket, CursorNotMoved(why)))
            return
        number = 0
        if ticket is not None:
            number = stream.number_next()
            self._commits[publisher, number] = (ticket, epoch, offset)
        self._say(stream, talk.Commit(epoch, offset, number), now)

    def commit_again(self, stream: Stream, now: float) -> None:
        """There is another session: ask in it for what was not confirmed."""
        for (publisher, number), (_, epoch, offset) in self._commits.items():
            if publisher == stream.publisher:
                self._say(stream, talk.Commit(epoch, offset, number), now)

    def committed(self, stream: Stream, message: talk.Committed) -> None:
        """The publisher answers."""
        asked = self._commits.pop((stream.publisher, message.ask), None)
        if asked is not None:
            trouble = CursorNotMoved(f"the cursor was not moved: {message.trouble}") if message.trouble else None
            self.out.replies.append((asked[0], trouble))

    def drop_commits(self, publisher: str | None, reason: str) -> None:
        """Nobody will answer these; None: none of all."""
        for key in [key for key in self._commits if publisher is None or key[0] == publisher]:
            ticket, _, _ = self._commits.pop(key)
            self.out.replies.append((ticket, CursorNotMoved(f"the cursor was not moved: {reason}")))

    # ---- others who hold it ----------------------------------------------------------

    def cursor_in_use(self, session: Session, stream: Stream | None, text: str, now: float) -> None:
        """Its holder may be dead, and the publisher not know yet: ask again, in a new session.

        Args:
            session: which is of no use without the cursor.
            stream: whose it is; None: no fence has said yet.
            text: why, as the publisher says.
            now: the time.
        """
        if stream is not None:
            bound = max(self.local.heartbeat.bound, session.peer.bound)
            if stream.cursor_since is None:
                stream.cursor_since, stream.cursor_told = now, False
            if not stream.cursor_told and now >= stream.cursor_since + bound + CURSOR_SECONDS:
                stream.cursor_told = True
                name = str(self.local.about.get("cursor", ""))
                message = f"another subscriber holds the cursor {name!r} at publisher {stream.publisher[:8]}: {text}"
                self.raise_at_place(CursorInUse(message))
        self.sessions.goodbye(session, "the cursor is in use", now)
