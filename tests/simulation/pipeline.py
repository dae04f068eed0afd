"""Pushers and pullers, with everything that a user may do to them, over networks, processes and disks that fail.

What is held against them is in `tests.simulation.history`, and here: what may be asked of a pusher at any time (`wait`,
`watch_for`, `withdraw`), credit, the order of fresh messages, and that the counts add up. After the faults all settles.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from tests.simulation.history import OVERDUE, History, Message, Opening, waits
from tests.simulation.in_hand import InHand
from tests.simulation.paths import Direct
from tests.simulation.users import (
    LARGEST_ROW,
    CountingPuller,
    CountingPusher,
    Job,
    Told,
    User,
    extend,
    forget,
    local_of,
    parts_of,
)
from zmqkit.events import BadFrame, JobFailed, PeerLost
from zmqkit.options import Backoff, Limits
from zmqkit.patterns.pipeline import wire
from zmqkit.patterns.pipeline.hands import Counts, PusherSettings
from zmqkit.patterns.pipeline.puller import Parcel, PullerCore
from zmqkit.patterns.pipeline.pusher import PusherCore
from zmqkit.patterns.pipeline.returning import GIVEN, unpack_given
from zmqkit.patterns.pipeline.rows import MARKS, MESSAGES, Pack
from zmqkit.patterns.pipeline.walltime import STATE
from zmqkit.protocol.core import Read
from zmqkit.testing.faults import CRASH_FAULTS, DISK_FAULTS, JOURNAL_FAULTS, NETWORK_FAULTS, STALL_FAULTS, Faults
from zmqkit.testing.journal import SimulatedJournal
from zmqkit.testing.peers import SimPeer
from zmqkit.testing.scenario import Scenario
from zmqkit.testing.world import World

BOUND_S = 1.0
MAX_FAILURES = 3


class PipelineScenario(InHand, Direct, Scenario):
    """One or two pushers, one to three pullers; either side binds."""

    faults = Faults(break_s=1.5, partition_s=3.0, freeze_s=4.0, stop_s=4.0, crash_s=1.5, disk_s=3.0)
    faults_s = 6.0
    settle_s = 40.0
    step_s = 0.05
    bound_s = BOUND_S
    most_pushers: ClassVar[int] = 2
    closes: ClassVar[float] = 0.006
    """How often somebody is closed, a step."""
    keeps: ClassVar[float] = 0.04
    """How often a user begins jobs and takes a while."""
    logs: ClassVar[tuple[str, ...]] = ("messages", "marks", "dead", STATE)
    expects: ClassVar[tuple[str, ...]] = (
        *NETWORK_FAULTS, *STALL_FAULTS, *CRASH_FAULTS, *JOURNAL_FAULTS, *DISK_FAULTS, "closed", "commits lost",
        "sessions_opened", "sessions_lost", "sessions_resumed", "links_lost", "frames_stray",
        "messages_repeated", "messages_missed", "resumes_asked", "messages_resent", "peers_busy", "overslept",
        "lost: silent", "lost: process gone", "lost: goodbye: closed", "lost: forgotten by the other side",
        "sent", "acked", "nacked", "rejected", "released", "failed", "dead", "delivered", "redelivered", "jobs_lost",
        "sends_refused", "commits_failed", "settles_stale", "StaleSettle", "JobDead", "JobRedelivered",
        "JournalTrouble", "JournalRecovered", "refused: Full", "refused: JournalFull", "refused: JournalError",
        "unknown: CommitIndeterminate", "withdrawn", "too late to withdraw",
        "store_failed: JournalFull", "store_failed: JournalError", "store_failed: CommitIndeterminate",
        "settles written again", "marks loaded", "rows of an earlier opening loaded", "rows loaded as room came",
        "HELD agrees", "HELD lacks some", "delivered alone", "died holding one job",
        "asked: stored", "asked: LeaseLost",
        "watched: acked", "watched: dead", "waited: journalled", "waited: received", "waited: settled",
        "overdue, and told", "held too long", "extended", "recalls", "recalled", "a part is offered again",
        "taken back unstarted",
        "presented", "taken", "went_on", "went on in hand", "acked while its pusher was away", "lent at once",
        "forged: of another", "forged: of another epoch", "restart with rows", "restart, all settled",
    )  # fmt: skip

    # ---- who is there --------------------------------------------------------------

    def build(self, world: World) -> None:
        rng = self.random
        self.world = world
        self.history = History(MAX_FAILURES)
        self.openings = {}
        self.users = {}
        self.given: dict[bytes, tuple[int, int]] = {}
        """By epoch: how far was lent before it, as the journal said."""
        self.max_leases: dict[SimPeer, float] = {}
        self.forgotten: set[Parcel] = set()
        self.eager = False
        self.serial = 0
        self.posted = 0
        self.delays: dict[str, float] = {}
        self.final: dict[SimPeer, tuple[Opening, Told]] = {}
        self.next_audit = 0.0
        self.binding = rng.choice(("pushers", "pullers"))
        self.small = rng.random() < 0.5
        together = rng.random() < 0.4
        pushers, pullers = min(self.most_pushers, rng.choice((1, 1, 2))), rng.choice((1, 2, 2, 3))
        kinds: list[Any] = [rng.choice(("power", "power", "process", False)) for _ in range(pushers)]
        names = [f"push{n}" for n in range(pushers)], [f"pull{n}" for n in range(pullers)]
        bound = names[self.binding == "pullers"]
        self.arrange(world, bound, ("pull", "push") if self.binding == "pushers" else ("push", "pull"))
        self.pushers = []
        self.pullers = []
        for name in (*bound, *(set_ for set_ in (*names[0], *names[1]) if set_ not in bound)):
            pusher = name.startswith("push")
            peer = world.peer(
                name,
                self._make_pusher if pusher else self._make_puller,
                host="shared" if together and name.endswith("0") else None,
                journal=kinds[int(name[4:])] if pusher else False,
                logs=self.logs,
                **self.place(name) if name in bound else {"connect": self.reach(bound)},
            )
            (self.pushers if pusher else self.pullers).append(peer)
            peer.on_items, peer.on_event, peer.on_down = self._on_items, self._on_event, self._on_down

    def _make_pusher(self, peer: SimPeer) -> PusherCore:
        """As the face builds it, but for smaller numbers."""
        journal = peer.journal
        uuid, epoch = (
            (peer.random.randbytes(16).hex(), peer.random.randbytes(16))
            if journal is None
            else (journal.uuid, bytes.fromhex(journal.epoch))
        )
        origin = f"{uuid[:16]}-{epoch.hex()[:8]}"
        settings = PusherSettings(
            origin=origin, epoch=epoch, durable=journal is not None, wall=1e9, max_failures=MAX_FAILURES,
            backoff=Backoff(0.05, 2.0, 0.5), max_waiting=40 if self.small else None,
            limits=Limits(queued_messages=60, queued_bytes=4000),
        )  # fmt: skip
        about = {"epoch": epoch} if journal is None else {"epoch": epoch, "journal": bytes.fromhex(uuid)}
        made = CountingPusher(local_of(peer, "push", "pull", about=about), settings, peer.random)
        made.disk = peer.disk
        made.backlog.window_messages, made.backlog.window_bytes, made.backlog.read_bytes = 24, 1500, 400
        first, found = 1, 0
        if journal is not None:
            messages, marks = journal.totals(MESSAGES), journal.totals(MARKS)
            found = messages.weight - marks.weight
            made.found(messages.first_key, messages.last_key, found)
            first = journal.highest(MESSAGES) + LARGEST_ROW
            self.restore(made, journal)
            for row in journal.read(Read(STATE, GIVEN, GIVEN, 1 << 60)):
                made.given = self.given[epoch] = unpack_given(row.value)[:2]
        made.first = first
        made.opened_at(first)
        opening = Opening(peer.name, peer.incarnation, epoch, origin, first, first, found)
        self.openings[peer] = opening
        self.history.opened(opening)
        if peer.disk is not None:
            if peer.incarnation > 1:
                self.world.counts["restart with rows" if found else "restart, all settled"] += 1
            self.history.audit(self.openings[peer], peer.disk)
        return made

    def restore(self, made: CountingPusher, journal: SimulatedJournal) -> None:
        """What a pusher takes in besides."""
        made.restore((), (), (), journal.read(Read(STATE, 1, 1 << 60, 1 << 60)))

    def _make_puller(self, peer: SimPeer) -> PullerCore:
        self.users[peer] = User()
        prefetch = peer.random.choice((1, 4, 16))
        size = peer.random.choice((300, 1 << 20))
        self.max_leases[peer] = max_lease = peer.random.choice((0.8, 20.0, 20.0))
        made = CountingPuller(
            local_of(peer, "pull", "push", credit_messages=prefetch, credit_bytes=size, busy_bound=20.0), peer.random,
            max_lease=max_lease, adaptive=peer.random.random() < 0.4,
        )  # fmt: skip
        made.on_go_on = partial(self._went_on, peer)
        return made

    # ---- what the pushers' users do ----------------------------------------------------

    def step(self, world: World) -> None:
        rng = self.random
        pusher = rng.choice(self.pushers)
        if pusher.alive and not pusher.closing:
            which = rng.random()
            if which < 0.5 and self.posted < 250:
                self._send(pusher)
            elif which < 0.56:
                self._wait(pusher)
            elif which < 0.66:
                self._watch_for(pusher)
        puller = rng.choice(self.pullers)
        if puller.alive and not puller.closing:
            if rng.random() < 0.7:
                self._handle(puller)
            elif rng.random() < 0.15:
                self._forge(puller)
            elif rng.random() < 0.06:
                self._forget(puller)
        if rng.random() < self.closes:
            peer = rng.choice((*self.pushers, *self.pullers))
            if peer.alive and not peer.closing:
                world.counts["closed"] += 1
                peer.close()
                world.after(rng.uniform(0.1, 3.0), self._back, peer)

    def _back(self, peer: SimPeer) -> None:
        if not peer.alive:
            peer.start()
        elif peer.closing:
            self.world.after(0.5, self._back, peer)

    def _send(self, peer: SimPeer) -> None:
        rng = self.random
        opening = self.openings[peer]
        for _ in range(rng.choice((1, 1, 4))):
            names = []
            for _ in range(1 if rng.random() < 0.6 else rng.randint(2, 12)):
                self.serial += 1
                names.append(b"%s/%d" % (peer.name.encode(), self.serial) + b"." * rng.choice((0, 0, 9, 90)))
            self.posted += len(names)
            pack = Pack("raw", 1, [len(each) for each in names], b"".join(names))
            first, opening.next = opening.next, opening.next + len(names)
            messages = [self.history.posted(name, opening, first + at) for at, name in enumerate(names)]
            ticket = Told(("send", messages[0].name), partial(self._sent, peer, messages))
            watcher = None
            if len(names) == 1 and rng.random() < 0.4:
                watcher = Told(("watch", names[0]), partial(self._watched, peer, messages[0]))
            peer.post("append", pack, first, ticket, rng.random() < 0.7, watcher)
            if rng.random() < 0.15:
                answer = Told(("withdraw", names[0]), partial(self._withdrawn, messages))
                peer.world.after(rng.choice((0.0, 0.02, 0.5)), self._withdraw, peer, opening, ticket, answer)

    def _withdraw(self, peer: SimPeer, opening: Opening, ticket: Told, answer: Told) -> None:
        if self.openings[peer] is opening and not ticket.done:
            peer.post("withdraw", ticket, answer)

    def _sent(self, peer: SimPeer, messages: list[Message], result: object) -> None:
        for message in messages:
            self.history.confirmed(message, result, peer.disk)
        if isinstance(result, Exception):
            self.world.counts[f"{messages[0].state}: {type(result).__name__}"] += 1

    def _withdrawn(self, messages: list[Message], result: object) -> None:
        self.world.counts["withdrawn" if result else "too late to withdraw"] += 1
        if result:
            for message in messages:
                assert message.state == "posted", f"{message.name!r} was withdrawn after it was {message.state}"
                message.state = "refused"

    def _wait(self, peer: SimPeer) -> None:
        opening = self.openings[peer]
        sent = [each for each in self.history.by_pusher[peer.name] if each.opening is opening]
        if sent:
            point = self.random.choice(("journalled", "received", "settled"))
            first, last = sorted(self.random.choice(sent).sequence for _ in range(2))
            span = [each for each in sent if first <= each.sequence <= last]
            ticket = Told(("wait", point, first, last), partial(self._waited, peer, point, span))
            peer.post("wait", point, first, last, ticket)

    def _waited(self, peer: SimPeer, point: str, span: list[Message], result: object) -> None:
        if isinstance(result, Exception):
            return
        self.world.counts[f"waited: {point}"] += 1
        for message in span:
            assert message.state != "posted", f"{message.name!r} is {point}, and its ticket says nothing"
            if message.state == "confirmed" and point == "received":
                assert message.arrived, f"{message.name!r} is received, and no puller has it"
            if message.state == "confirmed" and point == "settled" and peer.disk is not None:
                assert not waits(peer.disk, message.sequence), f"{message.name!r} is settled, and waits in the journal"

    def _watch_for(self, peer: SimPeer) -> None:
        known = [each for each in self.history.by_pusher[peer.name][-60:] if each.state == "confirmed"]
        known = [each for each in known if not each.shaky and not each.gone]
        if known:
            message = self.random.choice(known)
            told = Told(("watch_for", message.name), partial(self._watched, peer, message))
            peer.post("watch_for", message.sequence, told)

    def _watched(self, peer: SimPeer, message: Message, result: Any) -> None:
        if isinstance(result, Exception):
            return
        self._look_for_all_lost()
        outcome, reason = result
        self.world.counts[f"watched: {outcome}"] += 1
        assert isinstance(peer.core, PusherCore)
        opening = self.openings[peer]
        self.history.settled(message, outcome, reason, opening, peer.core._lease, peer.disk)

    # ---- what the pullers' users do ----------------------------------------------------

    def _on_items(self, peer: SimPeer, items: list[Parcel]) -> None:
        user = self.users[peer]
        self._look_for_all_lost()
        for parcel in items:
            if parcel in user.parcels:
                self.world.counts["a part is offered again"] += 1
                continue
            epoch = parcel.session.peer.about["epoch"]
            messages = user.parcels[parcel] = self.history.arrived(parcel, epoch, self.world.clock.now)
            self._check_order(user, parcel, epoch)
            lease = parcel.delivery.lease
            user.leases.setdefault(parcel.session.id, set()).update(range(lease, lease + len(parcel)))
            if parcel.delivery.alone:
                self.world.counts["delivered alone"] += 1
            claimed: set[int] = set()
            for index, message in enumerate(messages):
                self._check_held(message, epoch, lease + index)
                message.held[epoch, lease + index] = parcel.session.id
                user.jobs.append(Job(parcel, index, message, claimed))
        if self.eager:
            self._ack_all(peer)

    def _check_order(self, user: User, parcel: Parcel, epoch: bytes) -> None:
        """Fresh messages come in the order in which they were sent."""
        delivery, session = parcel.delivery, parcel.session.id
        first = self.history.openings[epoch].first
        for index in range(len(parcel)):
            sequence = delivery.sequence + index
            if sequence < first or index in delivery.deliveries or index in delivery.failures:
                continue
            newest = user.newest.get(session, 0)
            assert sequence > newest, f"message {sequence} comes after {newest}, and neither was delivered before"
            user.newest[session] = sequence

    def _handle(self, peer: SimPeer) -> None:
        rng, now = self.random, self.world.clock.now
        user = self.users[peer]
        for job in [job for job in user.jobs if job.parcel.lost and rng.random() < 0.5]:
            self.lost_in_hand(peer, job)
            job.let_go()
            user.jobs.remove(job)
        self._look_for_lost(peer)
        ready = [job for job in user.jobs if job.kept_until <= now]
        if not ready:
            if rng.random() < 0.3:
                peer.post("hungry")
            return
        which = rng.random()
        count = 1 if which < 0.3 else rng.randint(1, 12)
        jobs = ready[:count] if rng.random() < 0.8 else rng.sample(ready, min(count, len(ready)))
        kind = rng.random()
        jobs = [job for job in jobs if job.parcel.lost or job.start(now, self.max_leases[peer])]
        if self._dies(peer):
            return
        if kind >= 1.0 - self.keeps:
            for job in jobs:
                job.kept_until = now + rng.uniform(0.0, 8.0)
                if rng.random() < 0.5 and not job.parcel.lost:
                    self.world.counts["extended"] += 1
                    seconds = rng.choice((None, 1.5, 10.0))
                    peer.post(extend, job, seconds, self.max_leases[peer])
                self.kept_in_hand(peer, job)
            return
        for job in jobs:
            job.let_go()
            user.jobs.remove(job)
        if kind < 0.65:
            self._ack(peer, self.effects(peer, jobs))
        elif kind < 0.72:
            for job in self.effects(peer, jobs):
                job.message.acked = True
                peer.post("ack_asking", job.parcel, job.index, Told(("ack", job.message.name), self._asked(job)))
        elif kind < 0.80 and len(jobs) > 1:
            for job in jobs:
                peer.post("settle", job.parcel, job.index, wire.ISOLATE, None, "", "")
        elif kind < 0.88:
            for job in jobs:
                self.serial += 1
                reason = f"nack {self.serial}"
                delay = rng.choice((None, 0.0, 0.1, 1.0))
                job.message.nacks.add(reason)
                if delay is not None:
                    self.delays[reason] = delay
                peer.post("settle", job.parcel, job.index, wire.NACK, delay, reason, "traceback")
        elif kind < 0.91:
            for job in jobs:
                self.serial += 1
                reason = f"reject {self.serial}"
                job.message.rejects.add(reason)
                peer.post("settle", job.parcel, job.index, wire.REJECT, None, reason, "")
        else:
            for job in jobs:
                peer.post("settle", job.parcel, job.index, wire.RELEASE, None, "", "")

    def effects(self, peer: SimPeer, jobs: list[Job]) -> list[Job]:
        """What these jobs are for is done now; returns those that are to be acked."""
        return jobs

    def kept_in_hand(self, peer: SimPeer, job: Job) -> None:
        """The user has begun a job, and takes a while."""

    def _dies(self, peer: SimPeer) -> bool:
        """Whether its process dies of what its user has just started."""
        return False

    def _ack(self, peer: SimPeer, jobs: list[Job]) -> None:
        for job in jobs:
            job.message.acked = True
            job.parcel.acked.append(job.index)
            if not job.parcel.told:
                job.parcel.told = True
                peer.post("collect", job.parcel)

    def _ack_all(self, peer: SimPeer) -> None:
        self._look_for_lost(peer)
        user = self.users[peer]
        now, most = self.world.clock.now, self.max_leases[peer]
        jobs = [job for job in user.jobs if job.parcel.lost or job.start(now, most)]
        if self._dies(peer):
            return
        for job in jobs:
            job.let_go()
            user.jobs.remove(job)
        self._ack(peer, self.effects(peer, jobs))
        peer.post("hungry")

    def _asked(self, job: Job) -> Callable[[Any], None]:
        pusher = next(each for each in self.pushers if each.name == job.message.opening.name)

        def asked(result: Any) -> None:
            self.world.counts["asked: stored" if result is None else f"asked: {type(result).__name__}"] += 1
            message = job.message
            if job.parcel in self.forgotten:
                return  # with an ack that was on its way
            if result is None and pusher.disk is not None and not message.shaky:
                assert not waits(pusher.disk, message.sequence), f"the ack of {message.name!r} is confirmed, not stored"
                opening = self.openings[pusher]
                if not message.told and not opening.ended and isinstance(pusher.core, PusherCore):
                    message.told, message.told_in, message.told_at = "acked", opening, pusher.core._lease

        return asked

    def _forge(self, peer: SimPeer) -> None:
        """Settle what is not one's own: as a puller does that was stopped, lost its jobs, and does not know."""
        rng = self.random
        made = peer.core
        assert isinstance(made, PullerCore)
        sources = list(made._sources.values())
        if not sources:
            return
        source = rng.choice(sources)
        opening = self.history.openings[source.epoch]
        mine = {parcel.delivery.lease + at for parcel in source.parcels.values() for at in range(len(parcel))}
        ever = self.users[peer].leases.get(source.session.id, set())
        others = [lease for lease in opening.leases if lease not in ever]
        epoch, leases = source.epoch, others
        which = "of another"
        if rng.random() < 0.5:
            which, epoch, leases = "of another epoch", rng.randbytes(16), sorted(mine)
            for job in self.users[peer].jobs:
                if job.parcel.session is source.session:
                    job.kept_until = self.world.clock.now + 1.0
        if not leases:
            return
        self.world.counts[f"forged: {which}"] += 1
        lease = rng.choice(leases)
        frames = wire.Settle(epoch, [lease, lease], [], 0).pack()
        if rng.random() < 0.3:
            frames = wire.Settle(epoch, [], [wire.Unsettled(lease, wire.REJECT, None, "forged", "")], 0).pack()
        peer.post(lambda core, now: core.sessions.send(source.session, frames, 0, now))

    def _forget(self, peer: SimPeer) -> None:
        """Lose a parcel without a word: a bug of a puller that HELD makes good."""
        user = self.users[peer]
        if user.jobs:
            parcel = self.random.choice(user.jobs).parcel
            for job in user.jobs:
                if job.parcel is parcel:
                    job.let_go()
            user.jobs = [job for job in user.jobs if job.parcel is not parcel]
            self.forgotten.add(parcel)
            peer.post(forget, parcel)

    # ---- what was seen -----------------------------------------------------------------

    def _on_event(self, peer: SimPeer, event: object) -> None:
        if isinstance(event, PeerLost):
            self.world.counts[f"lost: {event.reason}"] += 1
            assert "credit" not in event.reason, f"{peer.name} lost a session: {event.reason}"
        elif isinstance(event, BadFrame):
            raise AssertionError(f"{peer.name} got a bad frame: {event.reason}")
        elif isinstance(event, JobFailed):
            self._look_for_all_lost()
            message = self.history.failed(event.id, event.reason, event.failures, self.openings[peer])
            if event.reason.startswith(OVERDUE):
                self.world.counts["overdue, and told"] += 1
            elif event.reason not in message.nacks:
                self.world.counts["died holding one job"] += 1
            assert isinstance(peer.core, PusherCore)
            message.again_in, message.again_at = self.openings[peer], peer.core._lease
            message.again_from = self.world.clock.now + self.delays.get(event.reason, 0.0)

    def _on_down(self, peer: SimPeer, how: str) -> None:
        if peer in self.users:
            self._look_for_lost(peer)
            for job in self.users[peer].jobs:
                job.let_go()
            self.users[peer] = User()
            return
        disk = peer.disk
        undone = how == "power cut" and disk is not None and disk.durability != "power"
        self.history.went_down(self.openings[peer], durable=disk is not None, undone=undone)

    # ---- what must hold ----------------------------------------------------------------

    def check(self, world: World) -> None:
        for peer in self.pullers:
            self._look_for_lost(peer)
        for peer in self.pushers:
            made = peer.core
            if isinstance(made, PusherCore):
                parts = parts_of(made)
                assert made.unsettled == sum(parts.values()), f"{peer.name}: {made.unsettled} unsettled, but {parts}"
                bound = 60 if peer.disk is None else made.settings.max_waiting
                assert bound is None or made.unsettled <= bound, f"{peer.name}: {made.unsettled} wait"
        for peer in self.pullers:
            made = peer.core
            if isinstance(made, PullerCore):
                for source in made._sources.values():
                    held = sum(each.open.bit_count() for each in source.parcels.values() if not each.went_on)
                    most = source.session.limit_messages - source.released_messages
                    if not made._adaptive:
                        assert most == made.local.credit_messages, f"{peer.name} allows {most} jobs"
                    assert held <= most, f"{peer.name} holds {held} jobs of one pusher; {most} are allowed"
        if world.clock.now >= self.next_audit:
            self.next_audit = world.clock.now + 0.5
            for peer in self.pushers:
                if peer.disk is not None:
                    self.history.audit(self.openings[peer], peer.disk)

    # ---- after the faults ----------------------------------------------------------------

    def healed(self, world: World) -> None:
        self.eager = True
        for peer in (*self.pushers, *self.pullers):
            if not peer.alive:
                peer.start()

    def converged(self, world: World) -> bool:
        for peer in self.pullers:
            if peer.alive and not peer.closing:
                self._ack_all(peer)
        done = True
        for peer in self.pushers:
            made, opening = peer.core, self.openings[peer]
            if not isinstance(made, PusherCore) or peer.closing:
                done = False
                continue
            if peer not in self.final or self.final[peer][0] is not opening:
                told = Told(("wait", "settled"), lambda result: None)
                self.final[peer] = (opening, told)
                peer.post("wait", "settled", 0, opening.next - 1, told)
            done = done and self.final[peer][1].done and not made.unsettled
        for peer in self.pullers:
            made = peer.core
            done = done and isinstance(made, PullerCore) and not peer.closing and not made.held
        return done

    def finish(self, world: World) -> None:
        for peer in self.pushers:
            made, opening = peer.core, self.openings[peer]
            assert isinstance(made, PusherCore)
            assert isinstance(result := self.final[peer][1].result, Counts), f"{peer.name}: wait() says {result!r}"
            assert result[:3] == (made.acked, made.dead, made.expired), f"{peer.name}: wait() says {result}"
            ours = [each for each in self.history.by_pusher[peer.name] if each.opening is opening]
            confirmed = sum(each.state == "confirmed" for each in ours)
            assert made.acked + made.dead + made.expired == opening.found + confirmed, (
                f"{peer.name}: {made.acked} acked and {made.dead} dead of {opening.found} found and {confirmed} sent"
            )
            assert made.backlog.waiting == made.backlog.delayed == 0, f"{peer.name} has something waiting"
            if peer.disk is not None:
                self.history.audit(self.openings[peer], peer.disk)
                assert not peer.disk.rows(MESSAGES), f"{peer.name} left rows in its journal"
                assert not peer.disk.rows(MARKS), f"{peer.name} left marks in its journal"
            for message in self.history.by_pusher[peer.name]:
                assert message.state != "posted", f"the ticket of {message.name!r} was never resolved"

    def explain(self, world: World) -> str:
        lines = []
        for peer in (*self.pushers, *self.pullers):
            made = peer.core
            if isinstance(made, PusherCore):
                final = peer in self.final and self.final[peer][1].done
                lines.append(f"{peer.name}: {made.unsettled} unsettled: {parts_of(made)}; final wait done: {final}")
            elif isinstance(made, PullerCore):
                lines.append(f"{peer.name}: holds {made.held}")
        return "\n".join(lines)
