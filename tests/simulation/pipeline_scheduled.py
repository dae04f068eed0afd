"""Pipelines with keys, priorities, delays, times to live and ids, all together, over everything that fails.

All that is held against plain pipelines, but the order of fresh messages; and besides:

- messages of one key, and pusher, are first delivered in the order in which they were sent, and never while an earlier
  one is not settled;
- of what is confirmed, and waits for nothing, the highest lane goes first;
- a delay is never cut short; whoever waits for all is told who is not due;
- an expired message had a time to live that was over, is counted once, and never delivered afterwards;
- an id that was confirmed within the window is not stored again, be the first one settled or the pusher restarted.
"""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import Any, ClassVar

from tests.simulation.history import Message, Opening, waits
from tests.simulation.pipeline import PipelineScenario
from tests.simulation.users import CountingPusher, Told, User
from zmqkit.events import ClockJumped, JobDead, JobExpired
from zmqkit.patterns.pipeline.dedupe import IDS
from zmqkit.patterns.pipeline.hands import Counts
from zmqkit.patterns.pipeline.lanes import LANES
from zmqkit.patterns.pipeline.puller import Parcel
from zmqkit.patterns.pipeline.pusher import PusherCore
from zmqkit.patterns.pipeline.rows import MARKS, NO_KEYS, Pack, Plan
from zmqkit.patterns.pipeline.walltime import STATE
from zmqkit.protocol.core import Read
from zmqkit.testing.journal import SimulatedJournal
from zmqkit.testing.peers import SimPeer

WALL = 1e9
SLACK_S = 0.005
KEYS = ("a", "b", "c")
ALL = 1 << 60


@dataclasses.dataclass(slots=True)
class Wish:
    """What a message was sent with.

    Attributes:
        due, ends: by its pusher's clock; None: at once, and never.
        id: its own.
        seen_at: the next lease number when it was confirmed, in the opening that accepted it.
        expired_in, expired_at: the opening in which it was said to have expired, and the next lease number then.
        dead: so it was said.
    """

    key: str | None
    priority: int
    due: float | None = None
    ends: float | None = None
    id: str | None = None
    seen_at: int = 0
    due_by: float = 0.0
    """It was accepted so early that its delay is over by then."""
    delay: float = 0.0
    ttl: float = 0.0
    expired_in: Opening | None = None
    expired_at: int = 0
    dead: bool = False


class ScheduledScenario(PipelineScenario):
    """One pusher or two, as in `PipelineScenario`."""

    logs: ClassVar[tuple[str, ...]] = ("messages", "marks", "dead", LANES, IDS, STATE)
    expects: ClassVar[tuple[str, ...]] = (
        "sent", "acked", "dead", "expired", "duplicates", "JobExpired", "redelivered", "restart with rows",
        "delivered with a key", "delivered after a delay", "delivered by priority", "told who is not due",
        "watched: expired", "watched: acked", "duplicate of an earlier opening", "a key waits behind a delay",
        "lanes restored", "lanes loaded", "sent together", "presented", "taken", "went on in hand",
    )  # fmt: skip

    def build(self, world: Any) -> None:
        self.wishes: dict[bytes, Wish] = {}
        self.ids: dict[tuple[str, str], Message] = {}
        self.by_key: dict[tuple[str, str], list[Message]] = {}
        self.by_sequence: dict[tuple[str, int], Message] = {}
        self.lent: dict[bytes, list[tuple[int, int]]] = {}
        """By epoch: (lease, priority) of messages without a key that arrived."""
        super().build(world)

    def restore(self, made: CountingPusher, journal: SimulatedJournal) -> None:
        for peer in self.pushers:
            self._age(peer)
        lanes = made.backlog.lanes
        lanes.window_messages, lanes.window_bytes = 16, 1200
        rows = [journal.read(Read(log, 1, ALL, ALL)) for log in (LANES, MARKS, IDS, STATE)]
        made.restore(*rows)
        if rows[0]:
            self.world.counts["lanes restored"] += 1

    def _make_pusher(self, peer: SimPeer) -> PusherCore:
        made = super()._make_pusher(peer)
        assert isinstance(made, CountingPusher)
        made.on_append = partial(self._began, peer)
        return made

    def _began(self, peer: SimPeer, first: int, count: int, now: float) -> None:
        """Delays and times to live begin."""
        for sequence in range(first, first + count):
            message = self.by_sequence.get((peer.name, sequence))
            if message is not None:
                wish = self.wishes[message.name]
                wish.due = now + wish.delay if wish.delay else None
                wish.ends = now + wish.ttl if wish.ttl else None

    # ---- sending -------------------------------------------------------------------

    def _send(self, peer: SimPeer) -> None:
        rng = self.random
        opening = self.openings[peer]
        for _ in range(rng.choice((1, 1, 4))):
            if rng.random() < 0.15:
                self._send_plain(peer)
                continue
            if rng.random() < 0.2:
                self._send_together(peer)
                continue
            count = 1 if rng.random() < 0.6 else rng.randint(2, 8)
            if count == 1 and rng.random() < 0.3 and self._send_again(peer):
                self.posted += 1
                continue
            first, pack, messages = self._wished(peer, opening, count)
            watcher = None
            if count == 1 and rng.random() < 0.4:
                watcher = Told(("watch", messages[0].name), partial(self._watched, peer, messages[0]))
            ticket = Told(("send", messages[0].name), partial(self._sent_planned, peer, messages))
            peer.post("append", pack, first, ticket, rng.random() < 0.8, watcher)

    def _send_together(self, peer: SimPeer) -> None:
        """Several packs of which each wants something else."""
        rng = self.random
        parts = [self._wished(peer, self.openings[peer], rng.randint(1, 4)) for _ in range(rng.randint(2, 4))]
        messages = [each for _, _, those in parts for each in those]
        ticket = Told(("send", messages[0].name), partial(self._sent_planned, peer, messages))
        peer.post("append_all", [pack for _, pack, _ in parts], parts[0][0], ticket)
        self.world.counts["sent together"] += 1

    def _wished(self, peer: SimPeer, opening: Opening, count: int) -> tuple[int, Pack, list[Message]]:
        """So many messages that want something: the sequence of the first, the pack, and what is known of them."""
        rng = self.random
        priority = rng.choice((0, 0, 0, 5, -3))
        delay = rng.choice((0.0, 0.0, 0.0, 0.2, 2.0))
        ttl = rng.choice((0.0, 0.0, 0.0, 0.5, 4.0))
        names, keys, ids = [], {}, {}
        for at in range(count):
            self.serial += 1
            names.append(b"%s/%d" % (peer.name.encode(), self.serial) + b"." * rng.choice((0, 9, 90)))
            if rng.random() < 0.5:
                keys[at] = rng.choice(KEYS)
            if rng.random() < 0.2:
                ids[at] = f"id {self.serial}"
        self.posted += count
        plan = Plan(keys or NO_KEYS, priority, delay, ttl, bool(ids))
        pack = Pack("raw", 1, [len(each) for each in names], b"".join(names), ids, {}, False, plan)
        first, opening.next = opening.next, opening.next + count
        messages = []
        for at, name in enumerate(names):
            message = self.history.posted(name, opening, first + at)
            messages.append(message)
            now = peer.now()
            wish = Wish(keys.get(at), priority, now + delay if delay else None, now + ttl if ttl else None)
            wish.id, wish.delay, wish.due_by = ids.get(at), delay, math.inf if delay else 0.0
            wish.ttl = ttl
            self.wishes[name] = wish
            self.by_sequence[peer.name, first + at] = message
            if wish.id is not None:
                self.ids[peer.name, wish.id] = message
                message.own_id = wish.id
                self.history.by_id[wish.id] = message
            if wish.key is not None:
                self.by_key.setdefault((peer.name, wish.key), []).append(message)
        return first, pack, messages

    def _send_plain(self, peer: SimPeer) -> None:
        super()._send(peer)
        opening = self.openings[peer]
        for message in self.history.by_pusher[peer.name]:
            if message.opening is opening and message.name not in self.wishes:
                self.wishes[message.name] = Wish(None, 0)
                self.by_sequence[peer.name, message.sequence] = message

    def _send_again(self, peer: SimPeer) -> bool:
        """Send once more under an id that was confirmed."""
        opening = self.openings[peer]
        known = [
            each for (name, _), each in self.ids.items()
            if name == peer.name and each.state == "confirmed" and not each.shaky and not each.gone
        ]  # fmt: skip
        if not known:
            return False
        first_one = self.random.choice(known)
        id = self.wishes[first_one.name].id
        assert id is not None
        body = b"again"
        sequence, opening.next = opening.next, opening.next + 1
        pack = Pack("raw", 1, [len(body)], body, {0: id}, {}, False, Plan(once=True))

        def told(result: object) -> None:
            if isinstance(result, Exception):
                return
            assert result == first_one.sequence, f"{id} was sent as {first_one.sequence}; again it is {result}"
            if first_one.opening is not opening:
                self.world.counts["duplicate of an earlier opening"] += 1

        peer.post("append", pack, sequence, Told(("again", id), told), True, None)
        return True

    def _sent_planned(self, peer: SimPeer, messages: list[Message], result: object) -> None:
        self._sent(peer, messages, None if isinstance(result, int) else result)
        made = peer.core
        if result is None and isinstance(made, PusherCore):
            for message in messages:
                wish = self.wishes[message.name]
                wish.seen_at = made._lease
        for message in messages:
            wish = self.wishes[message.name]
            if wish.due is not None:
                wish.due_by = peer.now() + wish.delay

    # ---- what is delivered -------------------------------------------------------------

    def _on_items(self, peer: SimPeer, items: list[Parcel]) -> None:
        for parcel in items:
            delivery, epoch = parcel.delivery, parcel.session.peer.about["epoch"]
            opening = self.history.openings[epoch]
            offset = 0
            pusher = next(each for each in self.pushers if each.name == opening.name)
            for index, length in enumerate(delivery.lengths):
                name = delivery.blob[offset : offset + length]
                offset += length
                assert name != b"again", "what was sent before is delivered"
                self._check_delivery(pusher, opening, name, delivery.lease + index, delivery.keys.get(index))
                fresh = index not in delivery.deliveries and index not in delivery.failures
                self._check_lane(opening, self.history.messages[name], delivery.lease + index, fresh)
        super()._on_items(peer, items)

    def _check_delivery(self, pusher: SimPeer, opening: Any, name: bytes, lease: int, key: str | None) -> None:
        message, wish = self.history.messages[name], self.wishes[name]
        assert key == wish.key, f"{name!r} was sent with the key {wish.key}, and comes with {key}"
        self.world.counts["delivered with a key"] += key is not None
        if wish.due is not None:
            now = max(pusher.now(), pusher.turn_at)
            assert now >= wish.due - SLACK_S, f"{name!r} comes {wish.due - now:.3f} s too early"
            self.world.counts["delivered after a delay"] += 1
        assert wish.expired_in is not opening or lease < wish.expired_at, f"{name!r} has expired, and is delivered"
        if wish.key is not None:
            self._check_key(pusher, opening, message, wish.key)

    def _check_key(self, pusher: SimPeer, opening: Opening, message: Message, key: str) -> None:
        for other in self.by_key[pusher.name, key]:
            if other is message:
                return
            wish = self.wishes[other.name]
            over = other.acked or other.told or other.rejects or wish.dead or wish.expired_in is not None
            late = wish.ends is not None and max(pusher.now(), pusher.turn_at) >= wish.ends - SLACK_S
            if other.state == "confirmed" and not (over or late or other.shaky or other.gone or opening.ended):
                raise AssertionError(f"{message.name!r} comes, and {other.name!r}, sent before, is not settled")

    def _check_lane(self, opening: Opening, message: Message, lease: int, fresh: bool) -> None:
        wish = self.wishes[message.name]
        if wish.key is not None:
            return
        lent = self.lent.setdefault(opening.epoch, [])
        known = wish.seen_at if message.opening is opening else 1
        fresh = fresh and message.sequence > max(self.given.get(opening.epoch, (0, 0)))  # or it may be held back
        if fresh and known and wish.due is None and not opening.ended and message.state == "confirmed":
            for other, priority in lent:
                assert not known <= other < lease or priority >= wish.priority, (
                    f"{message.name!r} of priority {wish.priority} is lent after one of {priority}, which came later"
                )
            self.world.counts["delivered by priority"] += any(priority < wish.priority for _, priority in lent)
        lent.append((lease, wish.priority))

    def _check_order(self, user: User, parcel: Parcel, epoch: bytes) -> None:
        """Lanes have an order of their own."""

    # ---- what is told --------------------------------------------------------------------

    def _on_event(self, peer: SimPeer, event: object) -> None:
        if isinstance(event, ClockJumped):
            raise AssertionError(f"{peer.name}: {event}")
        if isinstance(event, JobExpired):
            message = self.history.by_id[event.id]
            wish = self.wishes[message.name]
            assert wish.ends is not None, f"{message.name!r} has expired, and may live for ever"
            assert peer.turn_at >= wish.ends - SLACK_S, (
                f"{message.name!r} has expired {wish.ends - peer.turn_at:.3f} s too early"
            )
            assert wish.expired_in is not self.openings[peer], f"{message.name!r} expired twice"
            assert isinstance(peer.core, PusherCore)
            wish.expired_in, wish.expired_at = self.openings[peer], peer.core._lease
        elif isinstance(event, JobDead):
            self.wishes[self.history.by_id[event.id].name].dead = True
        super()._on_event(peer, event)

    def _watched(self, peer: SimPeer, message: Message, result: Any) -> None:
        if isinstance(result, tuple) and result[0] == "expired":
            self.world.counts["watched: expired"] += 1
            assert self.wishes[message.name].ends is not None, f"{message.name!r} may live for ever, and is expired"
            assert peer.disk is None or not waits(peer.disk, message.sequence), (
                f"{message.name!r} is expired, and waits"
            )
            assert isinstance(peer.core, PusherCore)
            if not message.told:
                message.told, message.told_in, message.told_at = "expired", self.openings[peer], peer.core._lease
            return
        wish = self.wishes[message.name]
        if message.opening is not self.openings[peer] and wish.ends is not None and wish.id is None:
            return  # no receipt outlives its opening, and what expired before is known of ids only
        super()._watched(peer, message, result)

    def _waited(self, peer: SimPeer, point: str, span: list[Message], result: Any) -> None:
        if isinstance(result, Counts):
            now = peer.now()
            named = set(result.not_due)
            self.world.counts["told who is not due"] += bool(named)
            left, held = [], set()
            for message in sorted(span, key=lambda each: each.sequence):
                wish = self.wishes[message.name]
                shown = wish.id or message.id
                if shown in named:
                    assert wish.due is not None, f"{shown} has no delay, and is said not to be due"
                    named.discard(shown)
                elif not (wish.key is not None and self._behind_delay(peer, message, now)) and (wish.due_by < now):
                    if point == "settled" or wish.ends is None:
                        left.append(message)
                else:
                    held.add(message.name)
            assert not named or len(result.not_due) >= 1000 or not span, f"{named} are of others"
            self.world.counts["a key waits behind a delay"] += bool(held)
            if point != "journalled":
                span = left
        super()._waited(peer, point, span, result)

    def _behind_delay(self, peer: SimPeer, message: Message, now: float) -> bool:
        key = self.wishes[message.name].key or ""
        return any(
            self.wishes[other.name].due_by >= now
            for other in self.by_key[peer.name, key]
            if other.sequence < message.sequence
        )

    def _age(self, peer: SimPeer) -> None:
        """Who is over time may have expired, though nobody was told before a crash."""
        over = max(peer.now(), peer.turn_at) + SLACK_S
        for message in self.history.by_pusher.get(peer.name, ()):
            if not message.acked:
                wish = self.wishes.get(message.name)
                if wish is not None and wish.ends is not None and over >= wish.ends:
                    message.acked = True

    def check(self, world: Any) -> None:
        for peer in self.pushers:
            self._age(peer)
        super().check(world)

    def finish(self, world: Any) -> None:
        super().finish(world)
        for peer in self.pushers:
            if peer.disk is not None:
                assert not peer.disk.rows(LANES), f"{peer.name} left rows of lanes in its journal"

    def converged(self, world: Any) -> bool:
        for peer in self.pushers:
            asked = self.final.get(peer)
            if asked is not None and isinstance(asked[1].result, Counts) and asked[1].result.not_due:
                del self.final[peer]  # it told who is not due: ask again
        return super().converged(world)
