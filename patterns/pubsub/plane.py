"""The publisher's end of the data plane: who subscribes over which connection, fences, who does not keep up.

Pure (docs/protocol.md, 14.1 to 14.3 and 14.7). It sends no data itself. What a stranger can grow is bounded in
``audience.py``.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, Final

from zmqkit.errors import DecodeError
from zmqkit.events import SubscriberSlow, SubscriptionsRefused
from zmqkit.patterns.pubsub import talk, wire
from zmqkit.patterns.pubsub.audience import (
    MAX_SUBSCRIBED_BYTES,
    MAX_SUBSCRIPTIONS,
    MAX_TOPICS,
    Audience,
    Connection,
    Member,
)
from zmqkit.patterns.pubsub.coverage import Coverage
from zmqkit.patterns.pubsub.links import is_data
from zmqkit.patterns.pubsub.plain_audience import Listeners
from zmqkit.patterns.pubsub.reach import recovery_address
from zmqkit.patterns.pubsub.settings import PublisherSettings
from zmqkit.protocol.core import Frames, Link
from zmqkit.protocol.local import Local
from zmqkit.protocol.pattern import PatternCore
from zmqkit.protocol.timers import Timers

MAX_DIALS: Final = 256
"""So many subscribers are connected to at most, by what they said over connections that we made."""


class Plane(PatternCore):
    """A core that knows who listens.

    Attributes:
        sent_up_to: the last offset that the data plane was given.
    """

    def __init__(self, local: Local, settings: PublisherSettings, rng: random.Random) -> None:
        super().__init__(local, rng)
        self.settings = settings
        self.audience = Audience(settings.limits.queued_bytes)
        self.coverage = Coverage()
        self.listeners = Listeners()
        self.sent_up_to = 0
        self._timers = Timers()
        self._links: dict[Link, None] = {}
        self._open: dict[Link, None] = {}
        """Those over which data may go: one that we connected after its first fence, for over the connection before it
        some of the stream may have been missed, and whoever binds does not see that it is another one."""
        self._told: dict[str, str] | None = None
        self._early: list[tuple[Link, bytes]] = []
        self._dialled: dict[str, Link] = {}
        self._changed = False

    def recovery_at(self, told: Mapping[str, str], now: float) -> None:
        """Say where the recovery channel is: bound data address to what fences tell there (see `wire.Fence`).

        Fences wait for this. At data addresses that are not named, which are connected, the publisher connects to its
        subscribers' recovery channels.
        """
        self._told = dict(told)
        early, self._early = self._early, []
        for link, prefix in early:
            self._fence(link, prefix)

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

    def _tell(self, member: Member, message: Any, now: float) -> None:
        self.sessions.send(member.session, message.pack(), 0, now)
