"""A subscriber's core and publishers' cores, both planes between them, under virtual time. No socket, no thread.

What is on its way lies in queues, by connection, where a test may hold it, lose it (`drop`), or break it off.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from tests.protocol.pair import local
from zmqkit import codec
from zmqkit.errors import MessagesLost
from zmqkit.events import Event
from zmqkit.options import Limits
from zmqkit.patterns.pubsub import wire
from zmqkit.patterns.pubsub.parcels import Gone, Parcel
from zmqkit.patterns.pubsub.publisher import PublisherCore, PublisherSettings
from zmqkit.patterns.pubsub.rows import MESSAGES, Pack, first_offset, look_into
from zmqkit.patterns.pubsub.subscriber import SubscriberCore, SubscriberSettings
from zmqkit.protocol.core import Frames, Read, Row
from zmqkit.testing.contract import check_deadline, check_rest, check_send

Rows = dict[str, dict[int, tuple[int, bytes]]]


class Took(NamedTuple):
    """What a user took: a message, or (topic "") an error."""

    publisher: str
    epoch: str
    offset: int
    topic: str
    body: bytes
    replayed: bool
    error: Exception | None = None


class Shelf:
    """A journal that is a dictionary, as far as opening one reads it."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def totals(self, log: str) -> Any:
        found = self.rows.get(log, {})
        keys = sorted(found)

        class Totals(NamedTuple):
            rows: int
            weight: int
            first_key: int
            last_key: int

        return Totals(len(found), sum(w for w, _ in found.values()), keys[0] if keys else 0, keys[-1] if keys else 0)

    def highest(self, log: str) -> int:
        return max(self.rows.get(log, {}), default=0)

    def read(self, read: Read) -> list[Row]:
        found, size = [], 0
        for key in sorted(self.rows.get(read.log, {})):
            if read.first <= key <= read.last and size < read.size_bytes:
                weight, value = self.rows[read.log][key]
                found.append(Row(key, weight, value))
                size += len(value)
        return found


class Site:
    """A publisher and the two connections to it.

    Attributes:
        core: None while its process is dead.
        published: (publisher, offset) -> topic and body, of all lives.
    """

    def __init__(self, name: str, port: int, rows: Rows | None, **settings: Any) -> None:
        self.name = name
        self.data = f"tcp://127.0.0.1:{port}"
        self.recovery = f"tcp://127.0.0.1:{port + 1}"
        self.rows = rows
        self.settings = settings
        self.core: PublisherCore | None = None
        self.next = 1
        self.lives = 0
        self.data_up = self.recovery_up = False
        self.wanted = 0
        """How often the subscriber dialled the recovery channel."""
        self.blocked = False
        """Nobody reaches the recovery channel."""
        self.prefixes: set[bytes] = set()
        self.connection = 0
        self.ways: dict[str, deque[Frames]] = {way: deque() for way in ("data", "subs", "up", "down")}


class Plane:
    """One subscriber, and publishers by name.

    Attributes:
        drop: asked for each frame of the data plane whether something between loses it.
        took: what the user took, in order; `taking` False: he takes nothing.
        published: (publisher, offset) -> (topic, body).
    """

    def __init__(self, *names: str, limits: Limits | None = None, credit: int = 1000, **settings: Any) -> None:
        self.now = 100.0
        self.dice = random.Random("plane")
        self.drop: Callable[[bytes], bool] = lambda frame: False
        self.took: list[Took] = []
        self.events: list[Event] = []
        self.replies: dict[Any, Any] = {}
        self.published: dict[tuple[str, int], tuple[str, bytes]] = {}
        self.taking = True
        self.waiting: deque[Parcel | Gone] = deque()
        self.sites: dict[str, Site] = {}
        self.kept = settings
        self.limits = limits or Limits()
        self.credit = credit
        self.lives = 0
        self.start_subscriber()
        for at, name in enumerate(names):
            self.add(name, 7000 + 10 * at)

    # ---- processes -----------------------------------------------------------------

    def start_subscriber(self, **more: Any) -> None:
        self.lives += 1
        settings = SubscriberSettings(limits=self.limits, **{**self.kept, **more})
        about = {"cursor": "mine" if settings.cursor else "", "durable": settings.durable}
        said = local(
            f"sub{self.lives}", role="subscribe", accepts=frozenset({"publish"}), about=about,
            credit_messages=self.credit, credit_bytes=1 << 22,
        )  # fmt: skip
        self.core = SubscriberCore(said, random.Random(f"sub{self.lives}"), settings)

    def restart_subscriber(self, **more: Any) -> None:
        """Its process is killed, and another one begins."""
        for site in self.sites.values():
            self._break(site, "data")
            self._break(site, "recovery")
            site.wanted = 0
        self.waiting.clear()
        self.start_subscriber(**more)
        for site in self.sites.values():
            self.connect(site)

    def add(self, name: str, port: int = 7000, *, journal: bool = False, **settings: Any) -> Site:
        site = self.sites[name] = Site(name, port, {} if journal else None, **settings)
        self.start(site)
        self.connect(site)
        self.flow()
        return site

    def start(self, site: Site) -> None:
        """A life of a publisher."""
        site.lives += 1
        instance = f"{site.name}{site.lives}"
        named = instance.encode().ljust(16, b"-")[:16] if site.rows is None else site.name.encode().ljust(16, b"=")
        ident = named.hex()
        epoch = f"{instance}-e".encode().hex().ljust(32, "0")[:32]
        made = PublisherSettings(
            publisher=ident, epoch=epoch, stream=instance.encode().ljust(8, b"-")[:8],
            durable=site.rows is not None, **site.settings,
        )  # fmt: skip
        shelf = Shelf(site.rows or {})
        site.next = first_offset(shelf)
        said = local(instance, role="publish", accepts=frozenset({"subscribe"}), about=made.about(site.next))
        site.core = PublisherCore(said, made, random.Random(instance), site.next, look_into(shelf))
        site.core.recovery_at({site.data: f":{site.recovery.rpartition(':')[2]}"}, self.now)
        site.core.link_up(("d", site.data), self.now)

    def kill(self, site: Site) -> None:
        """The process is gone, with what it had not stored or sent."""
        site.core = None
        self._break(site, "data")
        self._break(site, "recovery")

    def restart(self, site: Site) -> None:
        self.kill(site)
        self.start(site)
        self.connect(site)

    # ---- connections ---------------------------------------------------------------

    def connect(self, site: Site) -> None:
        """Make what connections there should be."""
        if site.core is None:
            return
        if not site.data_up:
            site.data_up = True
            self.core.link_up(("d", site.data), self.now)
            self.turn()
        self._dial(site)
        self.turn()

    def _dial(self, site: Site) -> None:
        if site.core is not None and site.wanted > 0 and not site.recovery_up and not site.blocked:
            site.recovery_up = True
            site.connection += 1
            self.core.link_up(("c", site.recovery), self.now)
            self.turn()

    def cut(self, site: Site, which: str) -> None:
        """A connection breaks: "data" or "recovery". It comes back by `connect`."""
        self._break(site, which)
        self.turn()

    def _break(self, site: Site, which: str) -> None:
        if which == "data" and site.data_up:
            site.data_up = False
            for way in ("data", "subs"):
                site.ways[way].clear()
            gone, site.prefixes = site.prefixes, set()
            self.core.link_down(("d", site.data), self.now)
            if site.core is not None:
                for prefix in gone:
                    site.core.receive_message(("d", site.data), [wire.subscription(prefix, False), b""], self.now)
        elif which == "recovery" and site.recovery_up:
            site.recovery_up = False
            for way in ("up", "down"):
                site.ways[way].clear()
            self.core.link_down(("c", site.recovery), self.now)
            if site.core is not None:
                site.core.link_down(("b", site.recovery, site.connection), self.now)

    # ---- the turn ------------------------------------------------------------------

    def turn(self) -> None:
        moved = True
        while moved:
            moved = False
            self.core.end_turn(self.now)
            moved |= self._drain_subscriber()
            for site in self.sites.values():
                if site.core is not None:
                    site.core.end_turn(self.now)
                    moved |= self._drain_publisher(site)

    def _site(self, address: str) -> Site:
        return next(each for each in self.sites.values() if address in (each.data, each.recovery))

    def _drain_subscriber(self) -> bool:
        out, moved = self.core.out, False
        check_rest(self.core)
        sends, out.sends = out.sends, []
        for link, frames in sends:
            check_send(link, frames)
            site = self._site(link[1])  # type: ignore[index]
            if link[0] == "d" and site.data_up:  # type: ignore[index]
                site.ways["subs"].append(frames)
            elif link[0] == "c" and site.recovery_up:  # type: ignore[index]
                site.ways["up"].append(frames)
        items, out.items = out.items, []
        self.waiting.extend(items)
        self.replies.update(out.replies)
        self.events += out.events
        out.replies, out.events, out.probes = [], [], []
        dials, out.dials = out.dials, []
        for address, wanted in dials:
            site = self._site(address)
            site.wanted += 1 if wanted else -1
            assert site.wanted >= 0
            if not site.wanted and site.recovery_up:
                self._break(site, "recovery")
                self.core.link_forgotten(("c", address), self.now)
            self._dial(site)
            moved = True
        disconnects, out.disconnects = out.disconnects, []
        for link in disconnects:
            site = self._site(link[1])  # type: ignore[index]
            self._break(site, "data" if link[0] == "d" else "recovery")  # type: ignore[index]
            self.connect(site)
            moved = True
        if self.taking and self.waiting:
            self.take()
            moved = True
        return moved

    def _drain_publisher(self, site: Site) -> bool:
        core, moved = site.core, False
        assert core is not None
        out = core.out
        check_rest(core)
        if out.writes:
            assert site.rows is not None
            writes, out.writes = out.writes, []
            for write in writes:
                log = site.rows.setdefault(write.log, {})
                if write.value is None:
                    log.pop(write.key, None)
                else:
                    log[write.key] = (write.weight, write.value)
            core.stored(out.written, self.now)
            moved = True
        sends, out.sends = out.sends, []
        for link, frames in sends:
            check_send(link, frames)
            if link[0] == "d":  # type: ignore[index]
                if site.data_up and any(frames[0].startswith(prefix) for prefix in site.prefixes):
                    site.ways["data"].append(frames)
            elif link == ("b", site.recovery, site.connection) and site.recovery_up:
                site.ways["down"].append(frames)
        reads, out.reads = out.reads, []
        for read in reads:
            core.loaded(read, Shelf(site.rows or {}).read(read), self.now)
            moved = True
        self.replies.update(out.replies)
        cuts, out.disconnects = out.disconnects, []
        for link in cuts:
            if link[0] == "d":  # type: ignore[index]
                self._break(site, "data")
                self.connect(site)
        out.replies, out.events, out.items, out.probes = [], [], [], []
        return moved

    def step(self, site: Site, way: str) -> bool:
        """One message arrives. False: there was none."""
        queue = site.ways[way]
        if not queue:
            return False
        frames = queue.popleft()
        if way == "data":
            if not self.drop(frames[0]):
                self.core.receive_message(("d", site.data), frames, self.now)
        elif way == "down":
            self.core.receive_message(("c", site.recovery), frames, self.now)
        elif site.core is not None:
            if way == "up":
                site.core.receive_message(("b", site.recovery, site.connection), frames, self.now)
            else:
                found = wire.read_subscription(frames[0])
                known = found.prefix in site.prefixes
                (site.prefixes.add if found.on else site.prefixes.discard)(found.prefix)
                if found.on or known:
                    site.core.receive_message(("d", site.data), [frames[0], b"token"], self.now)
        self.turn()
        return True

    def flow(self) -> None:
        """All that is on its way arrives, in a fair order."""
        self.turn()
        moved = True
        while moved:
            moved = False
            for site in list(self.sites.values()):
                for way in site.ways:
                    moved |= self.step(site, way)

    def advance(self, seconds: float) -> None:
        """Let time pass, with timers and messages as they come."""
        end = self.now + seconds
        while True:
            self.flow()
            cores: list[Any] = [self.core, *(site.core for site in self.sites.values() if site.core is not None)]
            for core in cores:
                check_deadline(core, self.now)
            dues = [due for core in cores if (due := core.next_deadline()) is not None]
            if not dues or min(dues) > end:
                self.now = end
                return
            self.now = max(self.now, min(dues))
            for core in cores:
                due = core.next_deadline()
                if due is not None and due <= self.now:
                    core.handle_timer(self.now)
            self.turn()

    # ---- the users -----------------------------------------------------------------

    def post(self, site: Site, *topics: str, size: int = 0) -> list[int]:
        """A publisher publishes messages in one turn, without anything arriving yet. Returns their offsets."""
        assert site.core is not None
        first, names = site.next, list(dict.fromkeys(topics))
        bodies = [b"%s-%d" % (site.name.encode(), first + at) + b"." * size for at in range(len(topics))]
        indexes = [names.index(topic) for topic in topics] if len(names) > 1 else None
        pack = Pack("raw", int(self.now * 1e6), names, indexes, [len(body) for body in bodies], b"".join(bodies))
        ident = site.core.settings.publisher
        for at, topic in enumerate(topics):
            self.published[ident, first + at] = topic, bodies[at]
        site.core.publish([pack], first, None, self.now)
        site.next += len(topics)
        return list(range(first, site.next))

    def publish(self, site: Site, *topics: str, size: int = 0) -> list[int]:
        """The same, and all arrives."""
        offsets = self.post(site, *topics, size=size)
        self.flow()
        return offsets

    def take(self, count: int = 1 << 30) -> None:
        """The user takes so many parcels."""
        while self.waiting and count:
            count -= 1
            parcel = self.waiting.popleft()
            if isinstance(parcel, Gone):
                error: Any = parcel.error
                publisher, first = getattr(error, "publisher", ""), getattr(error, "first", 0)
                self.took.append(Took(publisher, "", first, "", b"", False, error))
                continue
            bodies = codec.decode_many(parcel.lengths, parcel.blob, parcel.codec, limits=self.limits)
            for index in parcel.claims:
                took = Took(
                    parcel.publisher, parcel.epoch, parcel.offsets[index], parcel.topic_of(index), bodies[index],
                    parcel.replayed,
                )  # fmt: skip
                assert self.published[took.publisher, took.offset] == (took.topic, took.body)
                self.took.append(took)
            self.core.consumed(parcel, self.now)

    @property
    def offsets(self) -> list[int]:
        """Of the messages that were taken."""
        return [each.offset for each in self.took if each.error is None]

    @property
    def lost(self) -> list[MessagesLost]:
        return [each.error for each in self.took if isinstance(each.error, MessagesLost)]

    def happened(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def state(self, site: Site) -> str:
        """Of the stream of a publisher's present life."""
        assert site.core is not None
        return self.core.streams[site.core.settings.publisher].state

    def missing(self, ident: str, wanted: Iterable[int]) -> list[int]:
        """Offsets of a publisher that were neither taken nor told to be lost."""
        got = {each.offset for each in self.took if each.error is None and each.publisher == ident}
        told = [each for each in self.lost if each.publisher == ident]
        return [at for at in wanted if at not in got and not any(each.first <= at <= each.last for each in told)]


__all__ = ["MESSAGES", "Plane", "Site", "Took"]
