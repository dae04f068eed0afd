"""The publisher's side of the recovery channel: feeds, cursors, checks (docs/protocol.md, 14.4 to 14.7).

Pure. It reads the history that ``publisher.py`` fills; what it sends to a subscriber goes through his session. What a
stranger can grow is bounded in ``audience.py``.
"""

from __future__ import annotations

import random
from typing import Any, Final

from zmqkit.errors import DecodeError
from zmqkit.patterns.pubsub import talk
from zmqkit.patterns.pubsub.audience import (
    MAX_FEEDS,
    MAX_TOPICS,
    MAX_TOPICS_BYTES,
    Awaited,
    Member,
)
from zmqkit.patterns.pubsub.cursors import Cursors
from zmqkit.patterns.pubsub.feeds import Feed, Feeder, Lane
from zmqkit.patterns.pubsub.history import History
from zmqkit.patterns.pubsub.offsets import MAX_VALUES, LastValues
from zmqkit.patterns.pubsub.plane import Plane
from zmqkit.patterns.pubsub.rows import Found
from zmqkit.patterns.pubsub.settings import PublisherSettings
from zmqkit.protocol.core import Frames
from zmqkit.protocol.local import Local
from zmqkit.protocol.session import Session

CHECK_PAUSE: Final = 0.05
"""Seconds between two CHECKs of a session that are worth the work."""

VALUES_PAUSE: Final = 0.001
"""Seconds between two parts of a large snapshot."""


class Recovery(Plane):
    """A core that serves subscribers from a history."""

    def __init__(self, local: Local, settings: PublisherSettings, rng: random.Random, found: Found) -> None:
        super().__init__(local, settings, rng)
        limits = settings.limits
        self.history = History(
            settings.history, limits.queued_bytes, settings.retention if settings.durable else None, found
        )
        self.values = LastValues(MAX_VALUES, limits.queued_bytes) if settings.last_value else None
        self.cursors = Cursors(self.history, found.cursors)
        self.feeder = Feeder(self.history, self.out, self.values)
        self._feeds: dict[Feed, Member] = {}
        self._values_known = True
        self._awaiting: list[Awaited] = []
        self._draining: list[Any] = []
        for name in (
            "published", "fed", "beats", "fences", "holes_told", "subscribers_slow", "subscriptions_refused",
            "cursors_refused", "feeds_refused", "checks", "checks_failed", "last_values_forgotten", "commits_failed",
            "publishes_refused", "deleted",
        ):  # fmt: skip
            self.counters.setdefault(name, 0)

    # ---- verbs of the user ---------------------------------------------------------

    def wait_for_subscribers(self, count: int, topic: str | None, ticket: Any, now: float) -> None:
        """`ticket` gets None once so many subscribers get what is published to the topic, or to any (None)."""
        self._awaiting.append(Awaited(count, topic, ticket))
        self._changed = True

    def wait_drained(self, ticket: Any, now: float) -> None:
        """`ticket` gets None once subscribers got all that was published: on feeds, and on the data plane."""
        self._draining.append(ticket)

    def forget_subscribers(self, ticket: Any, answer: Any, now: float) -> None:
        """Nobody waits on this ticket of the two verbs above any more; `answer` gets None after it."""
        self._awaiting = [each for each in self._awaiting if each.ticket is not ticket]
        self._draining = [each for each in self._draining if each is not ticket]
        self.out.replies.append((answer, None))

    def subscribers(self, ticket: Any, now: float) -> None:
        """`ticket` gets a list of `audience.Subscriber`."""
        last = self.history.last
        self.out.replies.append((ticket, [each.view(last) for each in self.audience.members.values()]))

    # ---- sessions ------------------------------------------------------------------

    def opened(self, session: Session, now: float) -> None:
        """A subscriber came."""
        member = Member(session, Lane(session, self._send_fed), self.audience.now())
        self.audience.open(member)
        self._changed = True
        name = session.peer.about.get("cursor")
        if isinstance(name, str) and name:
            self._claim(member, name, now)

    def lost(self, session: Session, reason: str, now: float) -> None:
        """A subscriber is gone, and with it what it asked for."""
        member, unused = self.audience.leave(session)
        self._changed = True
        for connection in unused:
            self._cut(connection)
        if member is None:
            return
        for feed in member.feeds.values():
            self._feeds.pop(feed, None)
        if member.cursor:
            self.cursors.release(member.cursor, session)
            for each in self.audience.members.values():
                if each.wanted == member.cursor:
                    self._claim(each, each.wanted, now)
                    break

    def heard(self, session: Session, now: float) -> None:
        """A subscriber received more, or gave credit."""
        member = self.audience.members.get(session.id)
        if member is not None:
            member.lane.heard()
            for feed in list(member.feeds.values()):
                self._pump(feed, member, now)

    def received(self, session: Session, frames: Frames, messages: int, now: float) -> None:
        """A subscriber says, or asks for, something."""
        member = self.audience.members[session.id]
        message = talk.read_from_subscriber(frames)
        if isinstance(message, talk.Seen):
            self.audience.saw(member, message.beat)
            return
        if isinstance(message, talk.Commit):
            self._commit(member, message, now)
            return
        if isinstance(message, talk.Check):
            self._check(member, message, now)
            return
        self._changed = True
        if isinstance(message, talk.Topics):
            if not member.change(message):
                told = f"at most {MAX_TOPICS} patterns, of {MAX_TOPICS_BYTES} bytes, are allowed in a session"
                self._tell_refused(member.session.peer.name, told)
                self._refuse(member, "too many topics", told, 0, now)
        elif isinstance(message, talk.Joined):
            self.audience.joined(member, message)
        elif isinstance(message, talk.Left):
            member.joined = False
        elif isinstance(message, talk.Stop):
            self._end(member.feeds.get(message.feed), member)
        elif isinstance(message, talk.Feed):
            self._ask(member, message, now)
        else:
            self._ask_values(member, message, now)

    def _send_fed(self, session: Session, frames: Frames, messages: int, now: float) -> int:
        self.counters["fed"] += messages
        return self.sessions.send(session, frames, messages, now)

    def _refuse(self, member: Member, code: str, text: str, feed: int, now: float) -> None:
        if feed:
            self.counters["feeds_refused"] += 1
        self._tell(member, talk.Refused(code, text, feed), now)

    # ---- feeds ---------------------------------------------------------------------

    def _has_room(self, member: Member, number: int, now: float) -> bool:
        if number in member.feeds:
            raise DecodeError(f"a feed of the number {number}, which is taken")
        if len(member.feeds) < MAX_FEEDS:
            return True
        self._refuse(member, "too many feeds", f"at most {MAX_FEEDS} at a time are allowed", number, now)
        return False

    def _ask(self, member: Member, ask: talk.Feed, now: float) -> None:
        if not self._has_room(member, ask.feed, now):
            return
        epoch, position, publisher = "", 0, self.settings.publisher
        if ask.publisher and ask.publisher != publisher:
            told = f"the position is of publisher {ask.publisher}, and this is {publisher}"
            self._refuse(member, "publisher", told, ask.feed, now)
            return
        feed = Feed(ask.feed, self.history.gone, "", ask.until)
        # Who wants a cursor that another one holds gets nothing until it is known whose it is, also if it knows where
        # it was: it may have held it itself, and both would go on.
        feed.held = bool(member.wanted) and ask.kind != "time"
        feed.resumes = feed.held and ask.kind == "resume"
        if not feed.resumes:
            if ask.kind == "after":
                epoch, position = ask.epoch, ask.after
            elif ask.kind == "resume" and (stored := self.cursors.position(member.cursor)) is not None:
                epoch, position = stored.epoch, stored.offset
            self._place(feed, epoch, position)
        member.feeds[feed.number] = feed
        self._feeds[feed] = member
        if feed.held:
            return
        if ask.kind == "time":
            self.feeder.begin_at_time(feed, ask.after, member.lane, now)
        else:
            self.feeder.begin(feed, member.lane, now)
        self._pump(feed, member, now)

    def _place(self, feed: Feed, epoch: str, offset: int) -> None:
        """Put a feed behind an offset of an epoch; without one it begins with the earliest."""
        history = self.history
        known = history.epochs.clamp(epoch, offset) if epoch else None
        if known is not None:
            feed.epoch, feed.position = epoch, min(known, history.last)
        elif not epoch or offset <= history.gone:
            # An epoch is forgotten when all of it is gone: what has gone since is a hole. If one that is known has this
            # offset, too, a tail was torn off and the offset used again.
            feed.epoch, feed.position = "", min(offset, history.epochs.first - 1) if epoch else history.gone
        else:
            # An epoch of which nothing was ever stored, or all was torn off: go on with the one in its place.
            first = history.epochs.at(offset + 1)[1]
            feed.epoch, feed.position = "", max(history.gone, min(offset, first - 1))

    def _ask_values(self, member: Member, ask: talk.Values, now: float) -> None:
        if not self._has_room(member, ask.feed, now):
            return
        if self.values is None:
            self._refuse(
                member, "no values", "this publisher keeps no last values (last_value=True does)", ask.feed, now
            )
            return
        feed = Feed(ask.feed, 0, self.settings.epoch, min(ask.up_to, self.history.last))
        member.feeds[feed.number] = feed
        self._feeds[feed] = member
        feed.held = True
        feed.snapshot = True
        self._release_values(now)

    def _release_values(self, now: float) -> None:
        """Snapshots begin when all last values are known, of the journal's messages, too."""
        if not self._values_known:
            return
        for feed, member in list(self._feeds.items()):
            if feed.held and feed.snapshot:
                feed.held = False
                self.feeder.begin_values(feed, member.filter)
                self._pump(feed, member, now)

    def _pump(self, feed: Feed, member: Member, now: float) -> None:
        if feed.held:
            return
        ended = self.feeder.pump(feed, member.filter, member.lane, now)
        self.counters["holes_told"] = self.feeder.holes
        if ended:
            self._end(feed, member)
        elif feed.topics and member.lane.room > 0:
            self._timers.sooner("values", now + VALUES_PAUSE)

    def _pump_all(self, now: float) -> None:
        """There is something new."""
        if self._feeds:
            self._timers.sooner("positions", now + self.local.heartbeat.interval)
        for feed, member in list(self._feeds.items()):
            if feed.reading is None:
                self._pump(feed, member, now)

    def _end(self, feed: Feed | None, member: Member) -> None:
        if feed is not None:
            member.feeds.pop(feed.number, None)
            self._feeds.pop(feed, None)
            self._changed = True

    def _fed(self, feeds: list[Feed], now: float) -> None:
        """The journal answered."""
        for feed in feeds:
            member = self._feeds.get(feed)
            if member is not None:
                self._pump(feed, member, now)

    def _check(self, member: Member, ask: talk.Check, now: float) -> None:
        counted = None
        self.counters["checks"] += 1
        if member.settled and now >= member.next_check:
            member.next_check = now + CHECK_PAUSE
            counted = self.history.counted(member.filter, ask.after, ask.up_to)
        if counted is None:
            verdict = talk.UNKNOWN
        elif counted == (ask.messages, ask.total):
            verdict = talk.RIGHT
        else:
            verdict = talk.WRONG
            self.counters["checks_failed"] += 1
        self._tell(member, talk.Checked(ask.ask, verdict), now)

    # ---- cursors -------------------------------------------------------------------

    def _claim(self, member: Member, name: str, now: float) -> None:
        """Give a cursor to its new holder. One who holds it, and may be dead, has a heartbeat bound to show up."""
        holder = self.cursors.holder(name)
        if holder is not None and holder.peer.instance != member.instance and not holder.ended:
            member.wanted = name
            self.sessions.owe(holder, True, now)
            self._timers.set(("claim", member.session.id), now + max(holder.peer.bound, holder.peer.interval * 2))
            return
        trouble = self.cursors.hold(name, member.session)
        member.wanted = ""
        self._timers.cancel(("claim", member.session.id))
        if trouble:
            self.counters["cursors_refused"] += 1
            self._refuse(member, "no cursor", trouble, 0, now)
        else:
            member.cursor = name
        self._release_resumed(member, now)

    def _claim_ends(self, session_id: bytes, now: float) -> None:
        """Whoever holds the cursor is alive."""
        member = self.audience.members.get(session_id)
        if member is None or not member.wanted:
            return
        holder = self.cursors.holder(member.wanted)
        if holder is None:
            self._claim(member, member.wanted, now)
            return
        self.sessions.owe(holder, False, now)
        peer = holder.peer
        told = f"the cursor {member.wanted!r} is held by {peer.name or 'a peer'} (instance {peer.instance.hex()})"
        member.wanted = ""
        self.counters["cursors_refused"] += 1
        self._refuse(member, "cursor in use", told, 0, now)
        for feed in [feed for feed in member.feeds.values() if feed.held and not feed.snapshot]:
            self._end(feed, member)
            self._refuse(member, "cursor in use", told, feed.number, now)

    def _release_resumed(self, member: Member, now: float) -> None:
        for feed in list(member.feeds.values()):
            if feed.held and not feed.snapshot:
                feed.held = False
                if feed.resumes:
                    stored = self.cursors.position(member.cursor)
                    self._place(feed, stored.epoch if stored else "", stored.offset if stored else 0)
                self.feeder.begin(feed, member.lane, now)
                self._pump(feed, member, now)

    def _commit(self, member: Member, commit: talk.Commit, now: float) -> None:
        if not member.cursor:
            self._refuse(member, "no cursor", "this session holds no cursor", 0, now)
            return
        answer = self.cursors.commit(member.cursor, member.session, commit)
        if answer is not None and answer.ask:
            self._tell(member, answer, now)

    def _committed(self, asked: list[tuple[Session, int]], trouble: str, now: float) -> None:
        for session, ask in asked:
            if session.id in self.audience.members:
                self.sessions.send(session, talk.Committed(ask, trouble).pack(), 0, now)

    # ---- waiting -------------------------------------------------------------------

    def _check_waits(self, now: float) -> None:
        if self._awaiting and self._changed:
            wanted = self.listeners.wanted if self.settings.plain else self.audience.wanted
            left = []
            for each in self._awaiting:
                if wanted(each.topic) >= each.least:
                    self.out.replies.append((each.ticket, None))
                else:
                    left.append(each)
            self._awaiting = left
        self._changed = False
        if self._draining and self._drained:
            self.out.replies.extend((ticket, None) for ticket in self._draining)
            self._draining = []

    @property
    def _drained(self) -> bool:
        """Whether all who listen have got what was published."""
        last, beat = self.history.last, self.audience.marks.last.beat
        for member in self.audience.members.values():
            if member.session.unheard or (member.joined and member.seen.beat < beat):
                return False
            if any(feed.until is not None or feed.position < last for feed in member.feeds.values()):
                return False
        return True

    # ---- timers --------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """See `Core`."""
        sessions, own = self.sessions.timers.heap, self._timers.heap
        if sessions and own:
            return min(sessions[0][0], own[0][0])
        return sessions[0][0] if sessions else own[0][0] if own else None

    def handle_timer(self, now: float) -> None:
        """See `Core`."""
        while (key := self._timers.pop(now)) is not None:
            self._due(key, now)
        super().handle_timer(now)

    def _due(self, key: Any, now: float) -> None:
        if key == "values":
            for feed, member in list(self._feeds.items()):
                if feed.topics is not None:
                    self._pump(feed, member, now)
        elif key == "positions":
            for feed, member in self._feeds.items():
                if feed.until is None:
                    self.feeder.tell_position(feed, member.lane, now)
        elif key == "strangers":
            pause = 2 * self.local.heartbeat.bound
            for prefix in self.audience.strangers(now - pause):
                self.audience.unsubscribed(prefix)
            if self.audience.has_private:
                self._timers.set("strangers", now + pause)
        elif type(key) is tuple and key[0] == "claim":
            self._claim_ends(key[1], now)
