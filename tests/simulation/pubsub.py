"""Publishers and subscribers, with everything that users may do to them, over networks, processes and disks that fail.

What is held against them is in `tests.simulation.published` and `readers`, and here: what history holds is never called
lost, credit, bounds, and that all ends. After the faults each publisher publishes once more to every topic; then every
subscriber has all that it is owed, or was told by name what it cannot have.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from functools import partial
from typing import Any, ClassVar

from tests.simulation.published import Book, Line, Message, Opening
from tests.simulation.readers import Reader
from tests.simulation.users import Told, local_of
from zmqkit import events
from zmqkit.options import Durability, Heartbeat, Limits, OnGap, OnSlow, Retention
from zmqkit.patterns.pubsub.publisher import PublisherCore, PublisherSettings
from zmqkit.patterns.pubsub.rows import CURSORS, LOGS, MESSAGES, Found, Pack, Row, begin_epoch
from zmqkit.patterns.pubsub.settings import stream_name
from zmqkit.patterns.pubsub.streams import Stream
from zmqkit.patterns.pubsub.subscriber import SubscriberCore, SubscriberSettings
from zmqkit.protocol.wire import unpack
from zmqkit.testing.data import Forwarder
from zmqkit.testing.faults import (
    CLOCK_FAULTS,
    CRASH_FAULTS,
    DISK_FAULTS,
    IDENTITY_FAULTS,
    JOURNAL_FAULTS,
    NETWORK_FAULTS,
    READ_FAULTS,
    STALL_FAULTS,
    TORN_FAULTS,
    Faults,
)
from zmqkit.testing.network import other
from zmqkit.testing.peers import SimPeer
from zmqkit.testing.scenario import Scenario
from zmqkit.testing.world import World

BOUND_S = 1.0
HEARTBEAT = Heartbeat(BOUND_S / 3, 3)
"""As many intervals as by default; most of what happens in a quiet world is beats."""

WALL_S = 1_700_000_000.0
"""What the calendar says when a world begins."""

TOPICS = ("a", "a.b", "a.b.c", "b", "b.x", "c.x", "c.x.y")
PATTERNS = ("#", "a", "a.#", "a.*", "*.x", "b.#", "c.x", "c.*.y", "a.b.c", "b")
SLACK_BYTES = 20_000
SLACK_MESSAGES = 200
"""What may come in one group, or before a beat shows that it was not seen."""

IDLE_S = 8.0
"""So long nothing but beats happens after the faults of some worlds: what only time sets off happens there."""

MOST = 160
"""So many messages a world at most, before the faults end."""


class PubsubScenario(Scenario):
    """One to three publishers, two to four subscribers; either side binds."""

    faults = Faults(
        break_s=1.0, partition_s=2.0, freeze_s=2.5, stop_s=4.0, crash_s=1.5, disk_s=2.5, read_s=8.0, torn_s=6.0,
        leap_s=6.0, suspend_s=4.0, restore_s=6.0, takeover_s=6.0,
    )  # fmt: skip
    faults_s = 3.0
    settle_s = 60.0
    step_s = 0.06
    bound_s = BOUND_S
    journals: ClassVar[tuple[bool | Durability, ...]] = (False, False, "power", "process", "process")
    """Of which a publisher has one."""
    undone: ClassVar[tuple[int, ...]] = (5, 5, 5, 60)
    """How many commits a power cut undoes, at most."""
    forwarders: ClassVar[float] = 0.35
    """The share of worlds in which something loses frames of the data plane."""
    expects: ClassVar[tuple[str, ...]] = (
        *NETWORK_FAULTS, *STALL_FAULTS, *CRASH_FAULTS, *JOURNAL_FAULTS, *DISK_FAULTS, *READ_FAULTS, *TORN_FAULTS,
        *CLOCK_FAULTS, *IDENTITY_FAULTS, "start failed: JournalError", "closed", "commits lost",
        "data connection", "data connection expelled", "data delayed", "dropped by a forwarder",
        "run dropped by a forwarder",
        "sessions_opened", "sessions_lost", "sessions_resumed", "links_lost", "frames_stray", "messages_repeated",
        "messages_missed", "resumes_asked", "messages_resent", "peers_busy", "overslept",
        "lost: silent", "lost: process gone", "lost: goodbye: closed", "lost: forgotten by the other side",
        "lost: replaced", "lost: goodbye: too slow",
        "published", "fed", "beats", "fences", "checks", "checks_failed", "comparisons", "comparisons_wrong",
        "gaps_found", "gaps filled", "holes_told", "losses_told", "deleted", "last_values_forgotten", "frames_unknown",
        "messages_recovered", "messages_repeated_here", "messages_conflated", "subscribers_slow", "times_behind",
        "commits_failed", "publishes_refused", "cursors_refused",
        "delivered, live", "delivered, replayed", "raised: MessagesLost", "messages told to be lost",
        "cursor confirmed", "commit refused: CursorNotMoved", "topics changed", "stored messages torn off",
        "EpochChanged", "FellBehind", "GapFound", "RecoveryUnreachable", "JournalTrouble", "JournalRecovered",
        "refused: JournalFull", "refused: JournalError", "unknown: CommitIndeterminate",
    )  # fmt: skip

    # ---- who is there --------------------------------------------------------------

    def build(self, world: World) -> None:
        rng = self.random
        self.world = world
        self.book = Book(world.counts)
        self.openings: dict[SimPeer, Opening] = {}
        self.stamps: dict[SimPeer, int] = {}
        self.histories: dict[SimPeer, tuple[int, int, Retention, bool]] = {}
        self.readers: dict[SimPeer, Reader] = {}
        self.by_instance: dict[bytes, Reader] = {}
        self.shaken: set[SimPeer] = set()
        """Whose power failed since their disk was looked at."""
        self.serial = 0
        self.sent = 0
        """How much was sent in the world when credit was last looked at."""
        self.finals: list[Message] | None = None
        self.quiet = rng.random() < 0.4
        world.undone = world.stream("undone").choice(self.undone)
        self.idles = world.stream("idle").random() < 0.1
        self.subscribers_bind = rng.random() < 0.25
        together = rng.random() < 0.4
        pubs = [f"pub{n}" for n in range(rng.choice((1, 1, 2, 2, 3)))]
        subs = [f"sub{n}" for n in range(rng.choice((2, 2, 3, 4)))]
        bound = subs if self.subscribers_bind else pubs
        addresses = [f"tcp://{name}:1" for name in bound]
        if rng.random() < self.forwarders:
            for address in addresses:
                world.network.data.forwarders[address] = Forwarder(
                    rng.choice((0.0, 0.02, 0.1)), rng.choice((0.0, 0.02)), rng.choice((3, 30))
                )
        lossy = bool(world.network.data.forwarders)
        self.publishers: list[SimPeer] = []
        self.subscribers: list[SimPeer] = []
        for name in (*bound, *(each for each in (*pubs, *subs) if each not in bound)):
            binds, publishes = name in bound, name in pubs
            journal = rng.choice(self.journals) if publishes else False
            peer = world.peer(
                name, self._make_publisher if publishes else self._make_subscriber, start=False,
                host="shared" if together and name.endswith("0") else None, data="XPUB" if publishes else "XSUB",
                bind=[f"tcp://{name}:2"] if binds else (), data_bind=[f"tcp://{name}:1"] if binds else (),
                data_connect=() if binds else addresses, journal=journal, logs=LOGS,
            )  # fmt: skip
            peer.on_items, peer.on_event, peer.on_down = self._on_items, self._on_event, self._on_down
            peer.on_turn = self._on_turn
            if publishes:
                self.publishers.append(peer)
                few = rng.random() < 0.3
                retention = rng.choice((Retention(), Retention(count=12), Retention(size_bytes=600)))
                self.histories[peer] = (
                    rng.choice((0, 3, 12)) if few else 1000,
                    400 if few and rng.random() < 0.3 else 1 << 20,
                    retention if few else Retention(),
                    rng.random() < 0.3,
                )
            else:
                self.subscribers.append(peer)
                self.readers[peer] = self._make_reader(peer, lossy)
        self.followers = [reader for reader in self.readers.values() if reader.follows]
        for peer in (*self.publishers, *self.subscribers):
            if world.text is not None:
                world.note(peer, f"is {self.readers[peer].about if peer in self.readers else self.histories[peer]}")
            peer.start()

    def _make_reader(self, peer: SimPeer, lossy: bool) -> Reader:
        rng = self.random
        which = rng.random()
        start: Any = None
        cursor, inbox = None, False
        if which < 0.2:
            cursor = f"cursor of {peer.name}"
        elif which < 0.45:
            inbox = True
        else:
            start = rng.choice(
                (None, "latest", "latest", "earliest", "earliest", int((WALL_S + rng.uniform(0.0, 3.0)) * 1e6))
            )
        gaps: tuple[OnGap, ...] = ("recover", "recover", "recover", "recover", "raise", "report")
        slows: tuple[OnSlow, ...] = ("recover", "recover", "recover", "conflate", "disconnect")
        on_gap, on_slow = rng.choice(gaps), rng.choice(slows)
        return Reader(
            peer, self.book, self.world.counts, rng.sample(PATTERNS, rng.choice((1, 1, 2, 3))), start, cursor, inbox,
            on_gap, on_slow, rng.random() < 0.7, lossy, self._holds, self._stands, self._plenty, self._values,
        )  # fmt: skip

    def _make_publisher(self, peer: SimPeer) -> PublisherCore:
        """As the face builds it; but the offsets of one that is restored from a snapshot go on."""
        rng, journal = peer.random, peer.journal
        count, size, retention, last_value = self.histories[peer]
        local = local_of(
            peer, "publish", "subscribe", HEARTBEAT, credit_messages=100, credit_bytes=1 << 20, busy_bound=5.0
        )
        found = Found()
        line, epoch = local.instance.hex(), rng.randbytes(16).hex()
        first = began = 1
        if journal is not None:
            line, epoch = journal.uuid, journal.epoch
            first, found = begin_epoch(journal)
            began = first
        elif (before := self.book.by_epoch.get((line, epoch))) is not None:
            began, first = before.first, before.next
        settings = PublisherSettings(
            publisher=line, epoch=epoch, stream=stream_name(rng.randbytes(8), epoch), history=count,
            durable=journal is not None, retention=retention, last_value=last_value,
            wall=WALL_S + self.world.clock.now - peer.now(), limits=Limits(queued_bytes=size),
        )  # fmt: skip
        local = dataclasses.replace(local, about=settings.about(began))
        core = PublisherCore(local, settings, rng, first, found)
        opening = self.book.opened(peer.name, line, epoch, peer.incarnation, first, durable=journal is not None)
        self.openings[peer] = opening
        if peer.disk is not None:
            self._look(peer)
        told = dict.fromkeys(peer.data_binds, ":2")
        core.recovery_at(told, peer.now())
        return core

    def _make_subscriber(self, peer: SimPeer) -> SubscriberCore:
        """As the face builds it."""
        rng, reader = peer.random, self.readers[peer]
        known = reader.begin()
        few = rng.random() < 0.4
        settings = SubscriberSettings(
            topics=tuple(reader.patterns), start=reader.start, durable=reader.durable, cursor=reader.cursor is not None,
            positions={each.publisher: (each.epoch, each.offset) for each in known}, on_gap=reader.on_gap,
            on_slow=reader.on_slow, limits=Limits(queued_messages=rng.choice((4, 12)) if few else 1000),
            wall=WALL_S + self.world.clock.now - peer.now(), unreachable=rng.choice((None, None, 4.0)),
        )  # fmt: skip
        about: dict[str, Any] = {"durable": reader.durable, "cursor": reader.cursor or ""}
        local = local_of(
            peer, "subscribe", "publish", HEARTBEAT, credit_messages=rng.choice((3, 20, 1000)), credit_bytes=1 << 20,
            busy_bound=5.0, about=about,
        )  # fmt: skip
        core = SubscriberCore(local, rng, settings)
        if peer.data_binds:
            core.tell_recovery(dict.fromkeys(peer.data_binds, ":2"), peer.now())
        reader.limits = settings.limits
        return core

    def _look(self, peer: SimPeer) -> None:
        assert peer.disk is not None
        line = self.openings[peer].line
        undone = peer in self.shaken
        self.shaken.discard(peer)
        self.book.look(line, peer.disk, undone=undone)

    # ---- what users do ---------------------------------------------------------------

    def step(self, world: World) -> None:
        rng = self.random
        peer = rng.choice(self.publishers)
        if peer.alive and not peer.closing and self.serial < MOST:
            for _ in range(rng.choice((1, 1, 2))):
                self._publish(peer, [rng.choice(TOPICS) for _ in range(rng.choice((1, 1, 2, 6)))])
        peer = rng.choice(self.subscribers)
        if peer.alive and not peer.closing:
            self.readers[peer].take(rng.choice((1, 3, 20)))
        if rng.random() < 0.04:
            reader = self.readers[rng.choice(self.subscribers)]
            if reader.peer.alive and not reader.peer.closing and not reader.durable:
                world.counts["topics changed"] += 1
                reader.change(rng.choice(PATTERNS))
        if rng.random() < 0.01:
            self._close(rng.choice((*self.publishers, *self.subscribers)))

    def _publish(self, peer: SimPeer, topics: list[str]) -> list[Message]:
        opening = self.openings[peer]
        first = opening.next
        if peer not in self.stamps or not peer.has_commands:  # what goes to the core together bears one time
            self.stamps[peer] = int((WALL_S + self.world.clock.now) * 1e6)
        sent_at = self.stamps[peer]
        found = []
        for topic in topics:
            self.serial += 1
            body = b"%s/%d" % (peer.name.encode(), self.serial) + b"." * self.random.choice((0, 0, 9, 90))
            found.append(self.book.posted(opening, topic, body, sent_at))
        table = list(dict.fromkeys(topics))
        indexes = [table.index(topic) for topic in topics] if len(table) > 1 else None
        blob = b"".join(each.body for each in found)
        pack = Pack("raw", sent_at, table, indexes, [len(each.body) for each in found], blob)
        ticket = Told(("publish", first), partial(self._published, found))
        peer.post("publish", [pack], first, ticket)
        return found

    def _published(self, messages: list[Message], result: object) -> None:
        self.book.told(messages, result)
        if isinstance(result, Exception):
            self.world.counts[f"{messages[0].state}: {type(result).__name__}"] += 1

    def _close(self, peer: SimPeer) -> None:
        if peer.alive and not peer.closing:
            self.world.counts["closed"] += 1
            peer.close()
            self.world.after(self.random.uniform(0.1, 1.5), self._back, peer)

    def _back(self, peer: SimPeer) -> None:
        if peer.alive and peer.closing:
            self.world.after(0.3, self._back, peer)
        elif not peer.alive:
            peer.start()

    # ---- what was seen -----------------------------------------------------------------

    def _on_items(self, peer: SimPeer, items: list[Any]) -> None:
        reader = self.readers[peer]
        # Events of a turn come after its items; who is told of holes by events looks at both.
        for event in peer.core.out.events if peer.core is not None else ():
            if isinstance(event, events.RecoveryUnreachable):
                reader.unreachable.add(event.publisher)
        if (reader.eager or self.world.healed) and reader.on_gap != "report":
            reader.take(1000)

    def _on_event(self, peer: SimPeer, event: object) -> None:
        if isinstance(event, events.PeerLost):
            self.world.counts[f"lost: {event.reason}"] += 1
            assert "credit" not in event.reason, f"{peer.name} lost a session: {event.reason}"
        elif isinstance(event, events.BadFrame):
            raise AssertionError(f"{peer.name} got a bad frame: {event.reason}")
        elif peer in self.readers:
            self.readers[peer].on_event(event)

    def _on_turn(self, peer: SimPeer) -> None:
        core = peer.core
        if isinstance(core, PublisherCore):
            self._check_publisher(peer, core)
            line = self.openings[peer].line
            if all(line.id in reader.known for reader in self.followers):
                return  # who does not follow is told where it begins
            for member in core.audience.members.values():
                reader = self.by_instance.get(member.instance)
                if reader is not None and line.id not in reader.known and member.settled and member.joined:
                    stream = _stream(reader.peer, line)  # one that was restored has the name of its earlier life
                    if stream is not None and stream.position is not None:
                        reader.joined(line)
        elif isinstance(core, SubscriberCore):
            self._check_subscriber(peer, core)
            reader = self.by_instance[core.local.instance] = self.readers[peer]
            reader.met = set(core.streams)
            for stream in core.streams.values():
                if reader.follows and not stream.anew:
                    continue  # who came in the place of another is read from the earliest, whatever the start
                if stream.publisher not in reader.known and stream.position is not None:
                    anew = stream.session is not None and stream.session.peer.about.get("last") == 0
                    reader.begun(
                        self.book.lines[stream.publisher], stream.position_epoch, stream.position, stream.met, anew=anew
                    )
            if reader.eager and reader.on_gap == "report":
                reader.take(1000)
            if reader.ended:
                self._close(peer)

    def _on_down(self, peer: SimPeer, how: str) -> None:
        if peer in self.readers:
            self.by_instance = {key: each for key, each in self.by_instance.items() if each.peer is not peer}
            return
        opening = self.openings[peer]
        self.book.went_down(opening, durable=peer.disk is not None)
        if peer.disk is None:
            for reader in self.readers.values():
                reader.forgotten_by(opening.line)
        if how == "power cut" and peer.disk is not None:
            self.shaken.add(peer)
            for reader in self.readers.values():
                reader.shaken = True

    # ---- what must hold ----------------------------------------------------------------

    def _holds(self, message: Message) -> bool:
        """Whether the history of a living publisher has it, by what it was told to keep."""
        for peer, opening in self.openings.items():
            if opening.line is message.opening.line and peer.alive:
                if peer.disk is not None:
                    retention = self.histories[peer][2]
                    if retention != Retention():
                        # What is to be deleted may still be there. By size whole runs go.
                        newer = sum(each.due for each in message.opening.line.messages[message.place + 1 :])
                        return retention.count is not None and newer < retention.count // 2
                    table = peer.disk.table(MESSAGES)
                    at = bisect_right(table.keys, message.offset) - 1
                    if at < 0:
                        return False
                    row = Row.unpack(table.keys[at], table.rows[table.keys[at]].value)
                    return row.key <= message.offset <= row.last
                later = [
                    each for each in opening.line.messages if each.opening is opening and each.offset > message.offset
                ]
                count, size, _, _ = self.histories[peer]
                # By size whole runs of messages go, and who knows which were one.
                return message.opening is opening and len(later) < count and size >= 1 << 20
        return False

    def _stands(self, message: Message) -> bool:
        """Whether a cursor on the disk of its publisher stands at a message, or beyond."""
        line = message.opening.line
        for peer, opening in self.openings.items():
            if opening.line is line and peer.disk is not None:
                if peer in self.shaken and peer.disk.present < peer.disk.mark:
                    return True  # it did when that was said; commits were lost while the answer was on its way
                cursors = [unpack(row.value) for row in peer.disk.rows(CURSORS)]
                return any(line.after(epoch, offset) > message.place for _, _, epoch, offset in cursors)
        return True

    def _plenty(self, line: Line) -> bool:
        """Whether a living publisher holds all of it."""
        return any(
            opening.line is line and peer.alive and self.histories[peer][:3] == (1000, 1 << 20, Retention())
            for peer, opening in self.openings.items()
        )

    def _values(self, line: Line) -> bool:
        """Whether a living publisher keeps the last values of all its topics."""
        return self._plenty(line) and any(
            opening.line is line and peer.alive and self.histories[peer][3] for peer, opening in self.openings.items()
        )

    def _check_credit(self, peer: SimPeer, core: PublisherCore | SubscriberCore) -> bool:
        """Nobody makes another one hold more than that one's credit. Returns whether the turn sent anything."""
        sent = self.world.sent
        if sent == self.sent:
            return False
        self.sent = sent
        for session in core.sessions:
            used, most = session.used_messages, session.peer_messages
            assert used <= most, f"{peer.name} used {used} of a credit of {most}"
        return True

    def _check_publisher(self, peer: SimPeer, core: PublisherCore) -> None:
        """... nor on the data plane, where its limits say how much may be on the way."""
        if not self._check_credit(peer, core):
            return
        now = self.world.clock.now
        most = core.settings.limits.queued_bytes + SLACK_BYTES
        for endpoint in peer.data.values():
            for connection in endpoint.connections if endpoint.tells_tokens else ():
                way = connection.into(other(endpoint.side))
                if way.queue and way.queue[0][0] < now - 1.0:
                    waiting = sum(len(frames[0]) for at, frames in way.queue if at < now - 1.0)
                    assert waiting <= most, f"{waiting} bytes wait for {way.receiver.name} of {peer.name}"

    def _check_subscriber(self, peer: SimPeer, core: SubscriberCore) -> None:
        """It holds no more itself than its limits say."""
        self._check_credit(peer, core)
        limit = self.readers[peer].limits.queued_messages
        ahead = core.local.credit_messages * len(self.publishers)
        waiting = core.room.messages
        assert waiting <= limit + SLACK_MESSAGES + ahead, f"{waiting} messages wait for the user of {peer.name}"
        held = core.held_messages
        assert held <= limit + SLACK_MESSAGES, f"{peer.name} holds {held} messages back"

    # ---- after the faults ----------------------------------------------------------------

    def healed(self, world: World) -> None:
        world.network.data.forwarders.clear()
        self.settled_at = world.clock.now + (IDLE_S if self.idles else 0.0)
        for peer in (*self.publishers, *self.subscribers):
            if not peer.alive:
                peer.start()
            elif isinstance(peer.core, PublisherCore) and peer.core._broken is not None:
                self._close(peer)

    def converged(self, world: World) -> bool:
        everybody = (*self.publishers, *self.subscribers)
        if any(not peer.alive or peer.closing for peer in everybody):
            return False
        for reader in self.readers.values():
            reader.take(1000)
        if self.finals is None:
            if world.clock.now < self.settled_at:
                return False
            if not all(self._heard(peer) for peer in self.publishers):
                return False
            self.finals = []
            self.present = {peer: peer.incarnation for peer in self.subscribers}
            if not self.quiet:
                for peer in self.publishers:
                    self.finals += self._publish(peer, list(TOPICS))
            return False
        if any(each.state == "posted" for line in self.book.lines.values() for each in line.messages):
            return False
        if any(each.state == "refused" for each in self.finals):
            self.finals = None  # a journal that was full looks only now and then whether it has room again
            return False
        if not all(reader.owed() is None for reader in self.readers.values()):
            return False
        return not any(
            reader.lacks(message)
            for peer, reader in self.readers.items()
            for message in self.finals
            if reader.durable or self.present[peer] == peer.incarnation
        )

    def _heard(self, peer: SimPeer) -> bool:
        """All subscribers get what this publisher publishes from now on."""
        core = peer.core
        assert isinstance(core, PublisherCore)
        there = {
            member.instance: member
            for member in core.audience.members.values()
            if member.settled and (member.joined or member.follows)
        }
        for sub in self.subscribers:
            assert isinstance(sub.core, SubscriberCore)
            stream, member = _stream(sub, self.openings[peer].line), there.get(sub.core.local.instance)
            if member is None or stream is None or stream.position is None or stream.session is None:
                return False
            wanted = set(self.readers[sub].patterns)
            if stream.pending is not None or set(stream.filter) != wanted or set(member.filter) != wanted:
                return False  # topics were changed, and these are not in force yet
        return True

    def finish(self, world: World) -> None:
        for peer in self.publishers:
            if peer.disk is not None:
                self._look(peer)
        for message in self.finals or ():
            assert message.state == "stored", f"{message} was published after the faults"

    def explain(self, world: World) -> str:
        lines = []
        for peer in world.peers.values():
            state = "closing" if peer.closing else "alive" if peer.alive else "down"
            lines.append(f"{peer.name}: {state}")
            if isinstance(peer.core, PublisherCore):
                members = peer.core.audience.members.values()
                shown = [each.view(peer.core.history.last) for each in members]
                lines.append(f"  {self.openings[peer]}, heard {self._heard(peer)}, {shown}")
            elif isinstance(peer.core, SubscriberCore):
                reader = self.readers[peer]
                lacks = next((each for each in self.finals or () if reader.lacks(each)), None)
                lines.append(f"  {reader.patterns}, owed {reader.owed()}, lacks {lacks}, {len(peer.mailbox)} wait")
        return "\n".join(lines)


def _stream(peer: SimPeer, line: Line) -> Stream | None:
    """How a subscriber sees a publisher."""
    return peer.core.streams.get(line.id) if isinstance(peer.core, SubscriberCore) else None
