"""Pipelines whose pullers have inboxes: the same one, different ones, or none, over everything that fails.

An inbox is what survives of a puller: ids with their effects, and a counter of its commits; both of a commit are there,
or neither. All that is held against plain pipelines, but the order of fresh messages; and besides:

- the effects of a message are in one inbox at most, once; and whoever has another inbox, or none, never sees a job
  whose effects are there already, unless an operator has released that inbox;
- nothing is delivered to an inbox that is known to have had more commits;
- every message is in one place: waiting, leased, in doubt, or settled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from tests.simulation.history import Message
from tests.simulation.pipeline import PipelineScenario
from tests.simulation.users import CountingPuller, CountingPusher, Job, Told, User
from zmqkit.patterns.pipeline import wire
from zmqkit.patterns.pipeline.dedupe import IDS
from zmqkit.patterns.pipeline.doubt import INBOXES
from zmqkit.patterns.pipeline.lanes import LANES
from zmqkit.patterns.pipeline.puller import Look, Parcel, PullerCore
from zmqkit.patterns.pipeline.pusher import PusherCore
from zmqkit.patterns.pipeline.rows import MARKS, NO_KEYS, Pack, Plan
from zmqkit.patterns.pipeline.walltime import STATE
from zmqkit.protocol.core import Read
from zmqkit.testing.journal import SimulatedJournal
from zmqkit.testing.peers import SimPeer
from zmqkit.testing.world import World

ALL = 1 << 60


@dataclasses.dataclass(slots=True, eq=False)
class SimInbox:
    """A user's database.

    Attributes:
        done: ids whose effects and records are there.
        commits: its counter.
        copy: of both, to be put back one day.
        told: by pusher, how many commits it has stored that it knows.
        freed: ids of messages that an operator has released, whatever this inbox says.
    """

    id: bytes
    done: set[str] = dataclasses.field(default_factory=set)
    commits: int = 0
    copy: tuple[frozenset[str], int] = (frozenset(), 0)
    told: dict[str, int] = dataclasses.field(default_factory=dict)
    freed: set[str] = dataclasses.field(default_factory=set)


class InboxScenario(PipelineScenario):
    """One pusher or two, as in `PipelineScenario`."""

    closes: ClassVar[float] = 0.015
    logs: ClassVar[tuple[str, ...]] = ("messages", "marks", "dead", LANES, IDS, STATE, INBOXES)
    expects: ClassVar[tuple[str, ...]] = (
        "sent", "acked", "dead", "redelivered", "restart with rows", "JobDead", "InDoubt", "inboxes_behind",
        "committed", "died after its commit", "commit in doubt, there", "commit in doubt, not there",
        "committed after its session was lost", "known before it was handled", "known in its transaction",
        "restored", "looked, and all is there", "looked, and something is lost", "released by an operator",
        "bound while a pusher lives", "bound after a restart", "restart with one inbox", "restart with several",
        "marked", "committed as its puller closed", "presented", "taken", "went on in hand",
    )  # fmt: skip

    patterns: ClassVar[tuple[str, ...]] = ("I", "I", "II-", "IJ", "IJ", "I-", "IJ-")
    """Who has which inbox, one after the other; none: "-"."""

    def build(self, world: World) -> None:
        rng = self.random
        self.boxes = [SimInbox(b"I" * 16), SimInbox(b"J" * 16)]
        pattern = rng.choice(self.patterns)
        self.kinds = {
            f"pull{n}": None if pattern[n % len(pattern)] == "-" else self.boxes["IJ".index(pattern[n % len(pattern)])]
            for n in range(3)
        }
        super().build(world)
        late = rng.random() < 0.5
        for peer in self.pullers:
            if late and self.kinds[peer.name] is not self.kinds["pull0"]:
                world.after(0.0, self._come_late, peer, rng.uniform(1.0, 5.0))

    def _come_late(self, peer: SimPeer, after_s: float) -> None:
        if peer.alive:
            peer.crash()
        self.world.after(after_s, self._back, peer)

    def restore(self, made: CountingPusher, journal: SimulatedJournal) -> None:
        rows = [journal.read(Read(log, 1, ALL, ALL)) for log in (LANES, MARKS, IDS, STATE, INBOXES)]
        made.restore(*rows)
        if made.unsettled and made.doubt.inboxes:
            self.world.counts["restart with several" if made.doubt._mixed else "restart with one inbox"] += 1

    def _make_puller(self, peer: SimPeer) -> PullerCore:
        self.users[peer] = User()
        box = self.kinds[peer.name]
        made = super()._make_puller(peer)
        if box is None:
            return made
        local = dataclasses.replace(made.local, about={"inbox": box.id, "commits": box.commits})
        bound = CountingPuller(local, peer.random)
        bound.on_go_on = partial(self._went_on, peer)
        return bound

    # ---- sending -------------------------------------------------------------------

    def _send(self, peer: SimPeer) -> None:
        if self.random.random() < 0.7:
            super()._send(peer)
            return
        rng, opening = self.random, self.openings[peer]
        names = []
        for _ in range(rng.randint(1, 5)):
            self.serial += 1
            names.append(b"%s/%d" % (peer.name.encode(), self.serial) + b"." * rng.choice((0, 9, 90)))
        self.posted += len(names)
        keys = {at: rng.choice("ab") for at in range(len(names))} if rng.random() < 0.4 else NO_KEYS
        plan = Plan(keys, rng.choice((0, 3)))
        pack = Pack("raw", 1, [len(each) for each in names], b"".join(names), {}, {}, False, plan)
        first, opening.next = opening.next, opening.next + len(names)
        messages = [self.history.posted(name, opening, first + at) for at, name in enumerate(names)]
        peer.post("append", pack, first, Told(("send", names[0]), partial(self._sent, peer, messages)), True, None)

    # ---- what comes ----------------------------------------------------------------

    def _on_items(self, peer: SimPeer, items: list[Any]) -> None:
        box = self.kinds[peer.name]
        parcels = []
        for item in items:
            if type(item) is Look:
                assert box is not None, f"{peer.name} has no inbox, and is to look into it"
                self._look(peer, box, item)
            else:
                parcels.append(item)
                if item not in self.users[peer].parcels:  # else the rest of it is offered once more
                    self._check_parcel(peer, box, item)
        super()._on_items(peer, parcels)
        if box is not None:
            self._pass_over(peer, box)

    def _check_parcel(self, peer: SimPeer, box: SimInbox | None, parcel: Parcel) -> None:
        delivery = parcel.delivery
        name = self.history.openings[parcel.session.peer.about["epoch"]].name
        if box is not None:
            known = box.told.get(name, 0)
            assert box.commits >= known, f"{peer.name} gets jobs with {box.commits} commits, and {known} are known"
        offset = 0
        for length in delivery.lengths:
            message = self.history.messages[delivery.blob[offset : offset + length]]
            offset += length
            if box is not None or not self._is_over(name, parcel):
                self._check_alone(peer, box, message, "is delivered to")

    def _is_over(self, name: str, parcel: Parcel) -> bool:
        """Its pusher gave the session up: without an inbox its jobs go elsewhere, however late they come here."""
        made = next(each.core for each in self.pushers if each.name == name)
        return not isinstance(made, PusherCore) or parcel.session.id not in {each.id for each in made.sessions}

    def _check_alone(self, peer: SimPeer, box: SimInbox | None, message: Message, what: str) -> None:
        for other in self.boxes:
            if other is not box and message.id in other.done and not (message.shaky or message.gone):
                assert message.id in other.freed, (
                    f"{message.name!r} {what} {peer.name}, and its effects are in another inbox"
                )

    def _look(self, peer: SimPeer, box: SimInbox, look: Look) -> None:
        if box.commits >= look.known:
            self.world.counts["looked, and all is there"] += 1
            peer.post("inbox_at", box.commits)
            return
        self.world.counts["looked, and something is lost"] += 1
        self.world.after(self.random.uniform(0.2, 3.0), self._release, box)

    def _release(self, box: SimInbox) -> None:
        """The operator goes on with an older copy, or without this inbox."""
        for peer in self.pushers:
            if peer.alive and not peer.closing:
                self._free(peer, box, None)
                peer.post("release", box.id, Told(("release", box.id), partial(self._free, peer, box)))

    def _free(self, peer: SimPeer, box: SimInbox, result: object) -> None:
        self.world.counts["released by an operator"] += result is not None
        box.freed.update(message.id for message in self.history.by_pusher[peer.name])
        box.told.pop(peer.name, None)

    def _pass_over(self, peer: SimPeer, box: SimInbox) -> None:
        """What is known is acked, and not handled."""
        user = self.users[peer]
        known = [job for job in user.jobs if job.message.id in box.done and self._begin(peer, job)]
        for job in known:
            job.let_go()
            user.jobs.remove(job)
            job.parcel.commits = box.commits
        self.world.counts["known before it was handled"] += len(known)
        self._ack(peer, known)

    def _check_order(self, user: User, parcel: Parcel, epoch: bytes) -> None:
        """What waits for an inbox comes later."""

    # ---- what is done --------------------------------------------------------------

    def _begin(self, peer: SimPeer, job: Job) -> bool:
        """Take a job, and those before it. False: it was given back before anybody took it."""
        job.start(self.world.clock.now, self.max_leases[peer])
        if not job.started:
            self.world.counts["begun by nobody, and given back"] += 1
        return job.started

    def effects(self, peer: SimPeer, jobs: list[Job]) -> list[Job]:
        box, rng = self.kinds[peer.name], self.random
        if box is None:
            return jobs
        done: list[Job] = []
        for job in jobs:
            if not self._begin(peer, job):
                continue
            message = job.message
            if message.id in box.done:
                self.world.counts["known in its transaction"] += 1
            else:
                fate = 1.0 if self.eager else rng.random()
                if fate < 0.03:
                    self._commit(peer, box, message)
                    self.world.counts["died after its commit"] += 1
                    self._ack(peer, done)
                    self.world.after(0.0, self._die, peer, peer.incarnation)
                    return []
                if fate < 0.07:
                    self._doubt(peer, box, job)
                    continue
                self._commit(peer, box, message)
                self.world.counts["committed"] += 1
            job.parcel.commits = box.commits
            done.append(job)
        return done

    def _doubt(self, peer: SimPeer, box: SimInbox, job: Job) -> None:
        """The disk fails in the commit; the handler fails by that."""
        self.serial += 1
        reason = f"nack {self.serial}"
        job.message.nacks.add(reason)
        if self.random.random() < 0.5:
            self._commit(peer, box, job.message)
            self.world.counts["commit in doubt, there"] += 1
        else:
            self.world.counts["commit in doubt, not there"] += 1
        job.parcel.doubted = {*(job.parcel.doubted or ()), job.index}
        peer.post("settle", job.parcel, job.index, wire.NACK, None, reason, "")

    def _commit(self, peer: SimPeer, box: SimInbox, message: Message) -> None:
        assert message.id not in box.done, f"{message.name!r} has its effects in one inbox twice"
        self._check_alone(peer, box, message, "has its effects by")
        box.done.add(message.id)
        box.commits += 1

    def _die(self, peer: SimPeer, incarnation: int) -> None:
        if peer.alive and peer.incarnation == incarnation:
            peer.crash()
            self.world.after(self.random.uniform(0.1, 2.0), self._back, peer)

    def lost_in_hand(self, peer: SimPeer, job: Job) -> None:
        box = self.kinds[peer.name]
        if box is not None and self.random.random() < 0.5 and self._begin(peer, job) and job.message.id not in box.done:
            self.world.counts["committed after its session was lost"] += 1
            self._commit(peer, box, job.message)

    def kept_in_hand(self, peer: SimPeer, job: Job) -> None:
        self._begin(peer, job)

    def _on_down(self, peer: SimPeer, how: str) -> None:
        box = self.kinds.get(peer.name)
        if box is not None and how == "closed":
            for job in self.users[peer].jobs:
                if job.started and job.message.id not in box.done and self.random.random() < 0.7:
                    self.world.counts["committed as its puller closed"] += 1
                    self._commit(peer, box, job.message)
        super()._on_down(peer, how)

    def _asked(self, job: Job) -> Callable[[Any], None]:
        then = super()._asked(job)
        pusher = next(each for each in self.pushers if each.name == job.message.opening.name)
        box = next((each for each in self.boxes if job.message.id in each.done), None)
        commits = job.parcel.commits

        def asked(result: Any) -> None:
            then(result)
            if result is None and box is not None and pusher.disk is not None and pusher.disk.durability == "power":
                box.told[pusher.name] = max(box.told.get(pusher.name, 0), commits)

        return asked

    # ---- what befalls inboxes --------------------------------------------------------

    def step(self, world: World) -> None:
        super().step(world)
        rng = self.random
        which = rng.random()
        box = rng.choice(self.boxes)
        if which < 0.02:
            box.copy = frozenset(box.done), box.commits
        elif which < 0.026 and box.commits > box.copy[1]:
            for peer in self.pullers:
                if self.kinds[peer.name] is box and peer.alive:
                    peer.crash()
                    world.after(rng.uniform(0.1, 1.0), self._back, peer)
            world.counts["restored"] += 1
            box.done, box.commits = set(box.copy[0]), box.copy[1]
        elif which < 0.028:
            self._release(box)

    def check(self, world: World) -> None:
        super().check(world)
        for peer in self.pushers:
            made = peer.core
            if isinstance(made, PusherCore):
                doubt = made.doubt
                if doubt.in_doubt:
                    name = "bound after a restart" if doubt._found[0] else "bound while a pusher lives"
                    world.counts[name] += 1
                world.counts["marked"] += any(each.marking for each in doubt.inboxes.values())
                waiting = sum(each.waiting for each in doubt.inboxes.values())
                assert doubt.waiting == waiting, f"{peer.name}: {doubt.waiting} wait for inboxes, and {waiting} do"
                assert doubt.in_doubt <= doubt.waiting

    def finish(self, world: World) -> None:
        super().finish(world)
        for peer in self.pushers:
            made = peer.core
            assert isinstance(made, PusherCore)
            assert not made.doubt.waiting, f"{peer.name} has something in doubt"
