"""Who listens to a publisher: sessions, connections of the data plane, and how far behind each is (14.3, 14.7).

Pure. A subscriber is counted by its session. What was sent over the data plane and not seen is measured against beats:
each connection is bounded by that, and so is each session behind one that others share.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from zmqkit.errors import DecodeError
from zmqkit.patterns.pubsub import talk
from zmqkit.patterns.pubsub.feeds import Feed, Lane
from zmqkit.patterns.pubsub.topics import Filter
from zmqkit.protocol.core import Link
from zmqkit.protocol.session import Session

MAX_TOPICS: Final = 200_000
"""So many patterns a session may have."""

MAX_FEEDS: Final = 8
"""So many feeds a session may have at a time."""

MAX_TOPICS_BYTES: Final = 16 * 1024 * 1024
"""So many bytes of patterns a session may have..."""

MAX_WORDS: Final = 1_000_000
"""...and so many words in those with wildcards."""

MAX_SUBSCRIPTIONS: Final = 250_000
"""So many subscriptions may stand over one connection..."""

MAX_SUBSCRIBED_BYTES: Final = 16 * 1024 * 1024
"""...and so many bytes of them: in libzmq's tree each byte may cost 40."""

MAX_CONNECTIONS: Final = 20_000
"""So many connections, and private topics, are known; the oldest are forgotten first."""

MAX_FRAMES: Final = 100_000
"""So many frames may be on their way to one subscriber and not seen; below the high-water mark of the socket."""

MARK_BYTES: Final = 64 * 1024
MARK_FRAMES: Final = 256
MAX_MARKS: Final = 8_192

SHOWN_TOPICS: Final = 10


class Subscriber(NamedTuple):
    """A subscriber, as its publisher sees it.

    Attributes:
        name: of the peer object.
        instance: its id, 32 hex digits.
        topics: how many patterns it subscribes.
        first_topics: some of them.
        mode: "live": on the data plane; "feed": it follows the history at its own pace; "joining": neither yet.
        behind: how many offsets behind the newest one, as far as is known.
        cursor: that it holds; "" none.
    """

    name: str
    instance: str
    topics: int
    first_topics: tuple[str, ...]
    mode: str
    behind: int
    cursor: str


class Sent(NamedTuple):
    """What was sent over the data plane when a beat was."""

    beat: int = 0
    offset: int = 0
    size_bytes: int = 0
    frames: int = 0


class Marks:
    """What was sent until when: for what a subscriber has seen is told in numbers of beats."""

    def __init__(self) -> None:
        self._marks: list[Sent] = [Sent()]
        self._beats: list[int] = [0]
        self.last = Sent()

    def note(self, sent: Sent) -> None:
        """A beat was sent."""
        mark = self._marks[-1]
        if sent.size_bytes - mark.size_bytes >= MARK_BYTES or sent.frames - mark.frames >= MARK_FRAMES:
            self._marks.append(sent)
            self._beats.append(sent.beat)
            if len(self._marks) > MAX_MARKS:
                del self._marks[: MAX_MARKS // 2], self._beats[: MAX_MARKS // 2]
        self.last = sent

    def at(self, beat: int) -> Sent | None:
        """What was sent by then, or a little less; None: there was no such beat, or it is too long ago."""
        if beat >= self.last.beat:
            return self.last if beat == self.last.beat else None
        index = bisect_right(self._beats, beat) - 1
        return self._marks[index] if index >= 0 else None


class Connection:
    """One connection of a data endpoint, as far as its subscriptions tell.

    Attributes:
        link: the data endpoint.
        token: names the connection; b"" where it is not known which it is.
        privates: private topics that were subscribed over it, and whose.
        subscriptions: how many came, less those that were taken back, and in `size` their bytes.
        data: how many of them let data in. Without any, hardly anything is sent over it.
        seen: what somebody behind it is known to have got: through a forwarder many come over one.
        since: when it was first heard of.
    """

    __slots__ = ("data", "link", "privates", "seen", "since", "size", "subscriptions", "token")

    def __init__(self, link: Link, token: bytes, seen: Sent, since: float) -> None:
        self.link = link
        self.token = token
        self.privates: dict[bytes, bytes] = {}
        self.subscriptions = self.size = self.data = 0
        self.seen = seen
        self.since = since

    @property
    def too_much(self) -> bool:
        """More is subscribed over it than may be."""
        return self.subscriptions > MAX_SUBSCRIPTIONS or self.size > MAX_SUBSCRIBED_BYTES


class Member:
    """A subscriber's session.

    Attributes:
        session: of the recovery channel.
        lane: the way of its feeds.
        filter: its topics, as far as they are in force.
        settled: they were told completely.
        joined: it lives on the data plane.
        fence: number of the newest private topic for which it joined.
        feeds: by number.
        cursor: that it holds.
        wanted: a cursor that another one holds, who may be dead.
        seen: what it is known to have got over the data plane.
    """

    __slots__ = (
        "_changes", "_changing", "_size", "_words", "cursor", "feeds", "fence", "filter", "joined", "lane",
        "next_check", "seen", "session", "settled", "wanted",
    )  # fmt: skip

    def __init__(self, session: Session, lane: Lane, seen: Sent) -> None:
        self.session = session
        self.lane = lane
        self.filter = Filter()
        self.settled = False
        self.joined = False
        self.fence = 0
        self.feeds: dict[int, Feed] = {}
        self.cursor = ""
        self.wanted = ""
        self.seen = seen
        self.next_check = 0.0
        self._changes: list[talk.Topics] = []
        self._changing = 0
        self._size = self._words = 0

    @property
    def instance(self) -> bytes:
        """Of the subscriber."""
        return self.session.peer.instance

    @property
    def follows(self) -> bool:
        """It lives on a feed that has no end."""
        return any(feed.until is None for feed in self.feeds.values())

    def change(self, message: talk.Topics) -> bool:
        """Take in a change of topics; it counts when it is complete. False: these are too many."""
        self._changes.append(message)
        self._changing += 1 + len(message.add) + len(message.remove)
        if self._changing > 2 * MAX_TOPICS:
            self._changes.clear()
            self._changing = 0
            return False
        if not message.done:
            return True
        changes, self._changes, self._changing = self._changes, [], 0
        self.settled = True
        for each in changes:
            if each.reset:
                self.filter = Filter()
                self._size = self._words = 0
            for pattern in each.remove:
                if self.filter.remove(pattern):
                    self._weigh(pattern, -1)
            for pattern in each.add:
                if (
                    len(self.filter) >= MAX_TOPICS
                    or self._size + 4 * len(pattern) > MAX_TOPICS_BYTES
                    or self._words >= MAX_WORDS
                ):
                    return False
                if self.filter.add(pattern):
                    self._weigh(pattern, 1)
        return True

    def _weigh(self, pattern: str, sign: int) -> None:
        self._size += sign * len(pattern.encode())
        if "*" in pattern or "#" in pattern:
            self._words += sign * (1 + pattern.count("."))

    def view(self, last: int) -> Subscriber:
        """As the publisher's user sees it."""
        follows, peer = self.follows, self.session.peer
        first: list[str] = []
        for pattern in self.filter:
            first.append(pattern)
            if len(first) == SHOWN_TOPICS:
                break
        if follows and not self.joined:
            position = min(feed.position for feed in self.feeds.values() if feed.until is None)
            mode, behind = "feed", last - position
        elif self.joined:
            mode, behind = "live", last - self.seen.offset
        else:
            mode, behind = "joining", 0
        return Subscriber(
            peer.name, peer.instance.hex(), len(self.filter), tuple(sorted(first)), mode, max(0, behind), self.cursor
        )


class Awaited(NamedTuple):
    """A ticket that is resolved once so many subscribe to a topic (None: to any)."""

    least: int
    topic: str | None
    ticket: Any


class Audience:
    """All who listen.

    Args:
        most_bytes: so much may be sent over the data plane and not be seen, by each.
    """

    def __init__(self, most_bytes: int) -> None:
        self.marks = Marks()
        self.size_bytes = 0
        """Bytes sent over the data plane."""
        self.frames = 0
        self.members: dict[bytes, Member] = {}
        self._by_instance: dict[bytes, list[Member]] = {}
        self._connections: dict[tuple[Link, bytes], Connection] = {}
        self._by_private: dict[bytes, Connection] = {}
        self._places: dict[bytes, list[Connection]] = {}
        """By instance: the connections of its private topics, one for each."""
        self._most_bytes = most_bytes

    # ---- sessions ------------------------------------------------------------------

    def open(self, member: Member) -> None:
        """A session began."""
        self.members[member.session.id] = member
        self._by_instance.setdefault(member.instance, []).append(member)

    def leave(self, session: Session) -> tuple[Member | None, list[Connection]]:
        """A session is gone. Returns its member, and connections that only it used: they are of no more use."""
        member = self.members.pop(session.id, None)
        if member is None:
            return None, []
        others = self._by_instance[member.instance]
        others.remove(member)
        if others:
            return member, []
        del self._by_instance[member.instance]
        return member, [each for each in self._connections_of(member.instance) if self._only(each, member.instance)]

    def wanted(self, topic: str | None) -> int:
        """How many subscribers get what is published to a topic, or to any."""
        return sum(
            1
            for each in self.members.values()
            if each.settled
            and (each.joined or each.follows)
            and len(each.filter)
            and (topic is None or each.filter.matches(topic))
        )

    # ---- connections ---------------------------------------------------------------

    def now(self) -> Sent:
        """All that was sent so far."""
        return Sent(self.marks.last.beat, self.marks.last.offset, self.size_bytes, self.frames)

    def subscribed(self, link: Link, token: bytes, now: float, prefix: bytes = b"") -> Connection:
        """This was subscribed over a connection."""
        key = (link, token)
        found = self._connections.get(key)
        if found is None:
            if len(self._connections) >= MAX_CONNECTIONS:
                self.forget(next(iter(self._connections.values())))
            found = self._connections[key] = Connection(link, token, self.now(), now)
        found.subscriptions += 1
        found.size += len(prefix)
        if _lets_data_in(prefix):
            if not found.data:
                found.seen = self.now()  # nothing of what was sent before was for it
            found.data += 1
        return found

    def taken_back(self, link: Link, token: bytes, prefix: bytes) -> None:
        """A subscription is no more. libzmq tells that only if it was there."""
        found = self._connections.get((link, token))
        if found is not None and found.subscriptions:
            found.subscriptions -= 1
            found.size -= len(prefix)
            if found.data and _lets_data_in(prefix):
                found.data -= 1

    def is_private(self, prefix: bytes, instance: bytes, connection: Connection) -> None:
        """A private topic was subscribed over it."""
        self._take_out(prefix)
        if len(self._by_private) >= MAX_CONNECTIONS:
            self._take_out(next(iter(self._by_private)))
        connection.privates[prefix] = instance
        self._by_private[prefix] = connection
        self._places.setdefault(instance, []).append(connection)

    def unsubscribed(self, prefix: bytes, gone: bool = False) -> None:
        """Nobody subscribes this private topic any more. `gone`: because its connection ended."""
        connection = self._take_out(prefix)
        if connection is None or connection.privates or not connection.token:
            return
        if gone or not connection.data:
            self.forget(connection)

    def _take_out(self, prefix: bytes) -> Connection | None:
        connection = self._by_private.pop(prefix, None)
        if connection is not None:
            instance = connection.privates.pop(prefix)
            places = self._places[instance]
            places.remove(connection)
            if not places:
                del self._places[instance]
        return connection

    def forget(self, connection: Connection) -> None:
        """It is gone, or is about to be."""
        if self._connections.pop((connection.link, connection.token), None) is not None:
            for prefix in list(connection.privates):
                self._take_out(prefix)

    def lost_link(self, link: Link) -> None:
        """A data endpoint is gone, and all its connections."""
        for each in [each for each in self._connections.values() if each.link == link]:
            self.forget(each)

    def _connections_of(self, instance: bytes) -> list[Connection]:
        return list(dict.fromkeys(self._places.get(instance, ())))

    @staticmethod
    def _only(connection: Connection, instance: bytes) -> bool:
        """The connection is this subscriber's alone; through a forwarder many come over one."""
        return bool(connection.token) and set(connection.privates.values()) == {instance}

    # ---- flow ----------------------------------------------------------------------

    def beat(self, number: int, offset: int) -> None:
        """A beat is sent."""
        self.marks.note(Sent(number, offset, self.size_bytes, self.frames))

    def saw(self, member: Member, beat: int) -> None:
        """A subscriber saw a beat. Raises `DecodeError` if there was none of that number."""
        if beat > self.marks.last.beat:
            raise DecodeError(f"SEEN of beat {beat}, which was never sent")
        sent = self.marks.at(beat)
        if sent is None or sent.size_bytes < member.seen.size_bytes:
            return
        member.seen = sent
        for each in self._places.get(member.instance, ()):
            if each.seen.size_bytes <= sent.size_bytes:
                each.seen = sent

    def joined(self, member: Member, message: talk.Joined) -> None:
        """A subscriber lives on the data plane now."""
        if not member.joined:
            # Before, nothing of it had to be seen.
            member.seen = self.now()._replace(offset=max(member.seen.offset, message.offset))
        member.joined, member.fence = True, message.number

    def _late(self, seen: Sent) -> bool:
        return self.size_bytes - seen.size_bytes > self._most_bytes or self.frames - seen.frames > MAX_FRAMES

    def slow_members(self) -> list[Member]:
        """Those on the data plane who have not seen what was sent long ago."""
        return [each for each in self.members.values() if each.joined and self._late(each.seen)]

    def stuck(self) -> list[Connection]:
        """Connections over which nobody has seen what was sent long ago: of several behind one, none."""
        return [each for each in self._connections.values() if each.token and each.data and self._late(each.seen)]

    def behind(self, connection: Connection) -> Iterator[Member]:
        """The members who live on it."""
        for instance in set(connection.privates.values()):
            yield from self._by_instance.get(instance, ())

    def own(self, member: Member) -> Iterable[Connection]:
        """Connections that are only this member's."""
        return [each for each in self._connections_of(member.instance) if self._only(each, member.instance)]

    def strangers(self, before: float) -> list[bytes]:
        """Private topics of connections from before a time, whose subscriber has no session."""
        return [
            prefix
            for prefix, connection in self._by_private.items()
            if connection.since <= before and connection.privates[prefix] not in self._by_instance
        ]

    @property
    def has_private(self) -> bool:
        """Some private topic is subscribed."""
        return bool(self._by_private)


def _lets_data_in(prefix: bytes) -> bool:
    return prefix[:1] in (b"d", b"")
