"""The publisher's side of the recovery channel: fences, feeds, cursors, checks (docs/protocol.md, 14.3 to 14.7).

Pure. It reads the history that ``publisher.py`` fills; what it sends to a subscriber goes through his session, but for
fences, which go over the data plane. What a stranger can grow is bounded in ``audience.py``.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, Final

from zmqkit.errors import DecodeError
from zmqkit.events import SubscriberSlow, SubscriptionsRefused
from zmqkit.patterns.pubsub import talk, wire
from zmqkit.patterns.pubsub.audience import (
    MAX_FEEDS,
    MAX_SUBSCRIBED_BYTES,
    MAX_SUBSCRIPTIONS,
    MAX_TOPICS,
    MAX_TOPICS_BYTES,
    Audience,
    Awaited,
    Connection,
    Member,
)
from zmqkit.patterns.pubsub.coverage import Coverage
from zmqkit.patterns.pubsub.cursors import Cursors
from zmqkit.patterns.pubsub.feeds import Feed, Feeder, Lane
from zmqkit.patterns.pubsub.history import History
from zmqkit.patterns.pubsub.links import is_data
from zmqkit.patterns.pubsub.offsets import MAX_VALUES, LastValues
from zmqkit.patterns.pubsub.plain_audience import Listeners
from zmqkit.patterns.pubsub.reach import recovery_address
from zmqkit.patterns.pubsub.rows import Found
from zmqkit.patterns.pubsub.settings import PublisherSettings
from zmqkit.protocol.core import Frames, Link
from zmqkit.protocol.local import Local
from zmqkit.protocol.pattern import PatternCore
from zmqkit.protocol.session import Session
from zmqkit.protocol.timers import Timers

CHECK_PAUSE: Final = 0.05
"""Seconds between two CHECKs of a session that are worth the work."""

MAX_DIALS: Final = 256
"""So many subscribers are connected to at most, by what they said over connections that we made."""

VALUES_PAUSE: Final = 0.001
"""Seconds between two parts of a large snapshot."""


class Recovery(PatternCore):
    """A core that serves subscribers from a history.

    Attributes:
        sent_up_to: the last offset that the data plane was given.
    """

    def __init__(self, local: Local, settings: PublisherSettings, rng: random.Random, found: Found) -> None:
        super().__init__(local, rng)
        self.settings = settings
        limits = settings.limits
        self.history = History(
            settings.history, limits.queued_bytes, settings.retention if settings.durable else None, found
        )
        self.values = LastValues(MAX_VALUES, limits.queued_bytes) if settings.last_value else None
        self.cursors = Cursors(self.history, found.cursors)
        self.audience = Audience(limits.queued_bytes)
        self.coverage = Coverage()
        self.listeners = Listeners()
        self.feeder = Feeder(self.history, self.out, self.values)
        self.sent_up_to = 0
        self._timers = Timers()
        self._feeds: dict[Feed, Member] = {}
        self._values_known = True
        self._links: dict[Link, None] = {}
        self._open: dict[Link, None] = {}
        """Those over which data may go: one that we connected after its first fence, for over the connection before it
        some of the stream may have been missed, and whoever binds does not see that it is another one."""
        self._told: dict[str, str] | None = None
        self._early: list[tuple[Link, bytes]] = []
        self._dialled: dict[str, Link] = {}
        self._awaiting: list[Awaited] = []
        self._draining: list[Any] = []
        self._changed = False
        for name in (
            "published", "fed", "beats", "fences", "holes_told", "subscribers_slow", "subscriptions_refused",
            "cursors_refused", "feeds_refused", "checks", "checks_failed", "last_values_forgotten", "commits_failed",
            "publishes_refused", "deleted",
        ):  # fmt: skip
            self.counters.setdefault(name, 0)

    # ---- verbs of the user ---------------------------------------------------------

    def recovery_at(self, told: Mapping[str, str], now: float) -> None:
        """Say where the recovery channel is: bound data address to what fences tell there (see `wire.Fence`).

        Fences wait for this. At data addresses that are not named, which are connected, the publisher connects to its
        subscribers' recovery channels.
        """
        self._told = dict(told)
        early, self._early = self._early, []
        for link, prefix in early:
            self._fence(link, prefix)

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

    # ---- the data plane ------------------------------------------------------------

    def connected(self) -> set[str]:
        """Addresses of data endpoints that are up."""
        return {str(link[1]) for link in self._links}  # type: ignore[index]

    def link_up(self, link: Link, now: float) -> None:
        """See `Core`."""
        if is_data(link):
            self._links[link] = None
            if self.settings.plain or self._told is None or link[1] in self._told:  # type: ignore[index]
                self._open[link] = None
        else:
            super().link_up(link, now)

    def link_down(self, link: Link, now: float) -> None:
        """See `Core`."""
        if is_data(link):
            self._links.pop(link, None)
            self._open.pop(link, None)
            self.audience.lost_link(link)
            self.coverage.lost(link)
            self.listeners.lost_link(link)
        else:
            super().link_down(link, now)

    def link_forgotten(self, link: Link, now: float) -> None:
        """See `PatternCore`."""
        if not is_data(link):
            super().link_forgotten(link, now)
            return
        self.link_down(link, now)
        for address in [address for address, by in self._dialled.items() if by == link]:
            del self._dialled[address]
            self.sessions.hang_up(address)

    def links_disturbed(self, group: Any, now: float) -> None:
        """See `Core`. Whoever lost a connection of the data plane comes back over a new one, and says so."""
        if not is_data(group):
            super().links_disturbed(group, now)

    def receive_message(self, link: Link, frames: Frames, now: float) -> None:
        """See `Core`."""
        if not is_data(link):
            super().receive_message(link, frames, now)
            return
        try:
            self._subscription(link, wire.read_subscription(frames[0]), frames[1] if len(frames) > 1 else b"", now)
        except DecodeError as error:
            self.sessions.bad_frame(None, str(error))

    def _subscription(self, link: Link, change: wire.Subscription, token: bytes, now: float) -> None:
        prefix = change.prefix
        if self.settings.plain:
            self._plain_subscription(link, change, token, now)
            return
        if not change.on:
            self.coverage.remove(link, prefix)
            self.audience.taken_back(link, token, prefix)
            if prefix[:1] == b"p":
                self.audience.unsubscribed(prefix, gone=not token)
            return
        self.coverage.add(link, prefix)
        connection = self.audience.subscribed(link, token, now, prefix)
        if self._is_flooded(connection):
            return
        if prefix[:1] != b"p":
            return
        private = wire.read_private(prefix)
        self.audience.is_private(prefix, private.instance, connection)
        self._timers.sooner("strangers", now + 2 * self.local.heartbeat.bound)
        if self._told is None:
            if len(self._early) < MAX_TOPICS:
                self._early.append((link, prefix))
        else:
            self._fence(link, prefix)

    def _plain_subscription(self, link: Link, change: wire.Subscription, token: bytes, now: float) -> None:
        self._changed = True
        if not change.on:
            self.listeners.unsubscribed(link, change.prefix, token)
            self.audience.taken_back(link, token, change.prefix)
            return
        self.listeners.subscribed(link, change.prefix, token)
        self._is_flooded(self.audience.subscribed(link, token, now, change.prefix))

    def _is_flooded(self, connection: Connection) -> bool:
        """Whether more is subscribed over a connection than may be: then it is closed."""
        if not connection.too_much or not connection.token:
            return False
        names = sorted({each.session.peer.name for each in self.audience.behind(connection)})
        told = (
            f"more than {MAX_SUBSCRIPTIONS} subscriptions, or {MAX_SUBSCRIBED_BYTES} bytes of them, over a connection"
        )
        self._tell_refused(", ".join(names)[:200], told)
        self._cut(connection)
        return True

    def _fence(self, link: Link, prefix: bytes) -> None:
        assert self._told is not None
        assert isinstance(link, tuple)
        recovery = self._told.get(link[1])
        private = wire.read_private(prefix)
        if recovery is None:
            self._dial(link, private.hint)
        settings = self.settings
        fence = wire.Fence(
            prefix[1:-1].decode(), settings.stream, settings.publisher, settings.epoch, self.local.instance.hex(),
            self.sent_up_to, recovery or "",
        )  # fmt: skip
        self.out.sends.append((link, [fence.pack()]))
        if link in self._links:
            self._open[link] = None
        self.counters["fences"] += 1

    def _dial(self, link: Link, hint: str) -> None:
        """Connect to the recovery channel of a subscriber that binds, at the host of its data address."""
        assert isinstance(link, tuple)
        address = recovery_address(str(link[1]), hint)
        if address is None:
            self.sessions.bad_frame(None, f"a subscriber says that its recovery is at {hint!r}: no address there")
        if not address or address in self._dialled or len(self._dialled) >= MAX_DIALS:
            return
        self._dialled[address] = link
        self.sessions.dial(address)

    def _cut(self, connection: Connection) -> None:
        """Close a connection of the data plane. Who was behind it is told so."""
        assert isinstance(connection.link, tuple)
        self.out.disconnects.append((*connection.link, connection.token))
        self.audience.forget(connection)

    def _check_lags(self, now: float) -> None:
        """Part with those who do not keep up: a connection is whole, or gone."""
        for connection in self.audience.stuck():
            members = list(self.audience.behind(connection))
            for member in members:
                self._part(member, now)
            self._tell_slow(members[0].session.peer.name if len(members) == 1 else "", connection.seen.offset)
            self._cut(connection)
        for member in self.audience.slow_members():
            self._tell_slow(member.session.peer.name, member.seen.offset)
            self._part(member, now)
            for each in self.audience.own(member):
                self._cut(each)

    def _tell_slow(self, name: str, seen: int) -> None:
        self.counters["subscribers_slow"] += 1
        self.out.events.append(SubscriberSlow(self.local.name, name, max(0, self.sent_up_to - seen)))

    def _tell_refused(self, name: str, reason: str) -> None:
        self.counters["subscriptions_refused"] += 1
        self.out.events.append(SubscriptionsRefused(self.local.name, name, reason))

    def _part(self, member: Member, now: float) -> None:
        if member.joined:
            member.joined = False
            self._changed = True
            self._tell(member, talk.Leave("too slow: more was sent than may wait"), now)

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

    def _tell(self, member: Member, message: Any, now: float) -> None:
        self.sessions.send(member.session, message.pack(), 0, now)

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
        if ask.kind == "resume" and member.wanted:
            feed.held = True
        else:
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
        sessions, own = self.sessions.next_deadline(), self._timers.next()
        if sessions is None or own is None:
            return own if sessions is None else sessions
        return min(sessions, own)

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
