"""Clients and servers, with everything that users may do to them, over networks, processes and disks that fail.

What is held against them is in `tests.simulation.calls` and `callers`, and here: credit, and that all ends. After the
faults, every call that was made has its end, and new calls succeed.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from tests.simulation.callers import Caller, idempotent
from tests.simulation.calls import STREAM, UPLOAD, Deed, Judge
from tests.simulation.handlers import Handlers, Sink
from tests.simulation.paths import Direct
from tests.simulation.users import local_of
from zmqkit.events import BadFrame, CallRetried, PeerLost
from zmqkit.options import Limits, Window
from zmqkit.patterns.reqrep import balance
from zmqkit.patterns.reqrep.calls import Answer, Call, Execution, Kind, MethodInfo
from zmqkit.patterns.reqrep.client import ClientCore
from zmqkit.patterns.reqrep.rows import CALLS, REQUESTS, read_request
from zmqkit.patterns.reqrep.server import ServerCore
from zmqkit.protocol.core import Read, Row, Write
from zmqkit.testing.faults import (
    CLOCK_FAULTS,
    CRASH_FAULTS,
    DISK_FAULTS,
    IDENTITY_FAULTS,
    JOURNAL_FAULTS,
    NETWORK_FAULTS,
    STALL_FAULTS,
    TORN_FAULTS,
    Faults,
)
from zmqkit.testing.peers import SimPeer
from zmqkit.testing.scenario import Scenario
from zmqkit.testing.world import World

BOUND_S = 1.0
NUMBERS_AN_OPENING = 1 << 20
"""As the client's face sets them apart, but fewer."""

METHODS = {
    "add": MethodInfo(),
    "look": MethodInfo(idempotent=True),
    "slow": MethodInfo(),
    "slowlook": MethodInfo(idempotent=True),
    "one": MethodInfo(concurrency=1),
    "large": MethodInfo(),
    STREAM: MethodInfo(),
    UPLOAD: MethodInfo(),
}


class ReqrepScenario(Direct, Scenario):
    """Two or three servers, of which some have journals; two or three clients, of which some have."""

    faults = Faults(
        break_s=1.0, partition_s=2.0, freeze_s=2.5, stop_s=4.0, crash_s=1.2, disk_s=2.0, read_s=8.0, torn_s=8.0,
        leap_s=6.0, suspend_s=4.0, restore_s=6.0, takeover_s=6.0,
    )  # fmt: skip
    faults_s = 2.0
    settle_s = 40.0
    step_s = 0.06
    bound_s = BOUND_S
    expects: ClassVar[tuple[str, ...]] = (
        *NETWORK_FAULTS, *STALL_FAULTS, *CRASH_FAULTS, *JOURNAL_FAULTS, *DISK_FAULTS, *TORN_FAULTS, *CLOCK_FAULTS,
        *IDENTITY_FAULTS, "start failed: JournalError", "closed", "drained", "commits lost",
        "sessions_opened", "sessions_lost", "sessions_resumed", "links_lost", "frames_stray",
        "messages_repeated", "messages_missed", "resumes_asked", "messages_resent", "peers_busy", "overslept",
        "lost: silent", "lost: process gone", "lost: goodbye: closed", "lost: forgotten by the other side",
        "lost: replaced",
        "calls_sent", "calls_answered", "calls_retried", "calls_unknown", "calls_late", "calls_refused", "replies_late",
        "calls_kept", "commits_failed", "servers_out", "servers_probed", "ServerOut", "ServerBack", "CallRetried",
        "JournalTrouble", "JournalRecovered", "calls_executed", "calls_repeated", "calls_cancelled", "calls_dropped",
        "replies_evicted", "replies_dropped", "items_sent", "items_received",
        "calls_refused_draining", "calls_refused_late", "calls_refused_overloaded", "calls_refused_journal",
        "calls_refused_cancelled", "calls_refused_method",
        "retried: its server came back", "retried: overloaded", "retried: silent", "retried: expired",
        "retried: process gone",
        "told: RESULT", "told: ERROR", "told: DONE", "told: REFUSED overloaded", "told: REFUSED method",
        "told: REFUSED arguments", "told: REFUSED journal", "told: UNKNOWN expired", "told: UNKNOWN started",
        "told: UNKNOWN overloaded", "told: LOST", "told: NOT_SENT", "told: NOT_SENT_IN_TIME", "told: NO_REPLY_IN_TIME",
        "told: CANCELLED", "told: CLOSED", "told: STORE_FAILED",
        "abandoned", "outcomes of durable calls told later", "durable calls resumed", "durable calls told, and resumed",
        "renumbered", "idempotent executed again", "request ids asked", "looked up, and found",
        "looked up, and not found", "handlers cancelled", "streams waited for credit", "items received",
        "items uploaded", "uploads ended", "uploads broken: aborted", "uploads broken: cancelled",
        "patient calls ended", "waiting for a journal that is gone",
    )  # fmt: skip

    excused: ClassVar[tuple[str, ...]] = ("full", "another server came in its place", "its server did not come back")
    """What may end a call that has time: the last two where the server had not told which methods are idempotent."""

    # ---- who is there --------------------------------------------------------------

    def build(self, world: World) -> None:
        rng = self.random
        self.world = world
        self.sent = 0
        """How much was sent in the world when credit was last looked at."""
        self.judge = Judge(world.counts)
        self.callers: dict[SimPeer, Caller] = {}
        self.handlers: dict[SimPeer, Handlers] = {}
        self.lives: dict[SimPeer, set[int]] = {}
        self.final: dict[SimPeer, list[Deed]] = {}
        self.losses: dict[SimPeer, int] = {}
        together = rng.random() < 0.4
        self.busy = rng.random() < 0.3
        names = [f"server{n}" for n in range(rng.choice((2, 2, 3)))]
        self.arrange(world, names, ("client", "server"))
        self.servers = [
            world.peer(
                name, self._make_server, **self.place(name), logs=(CALLS,), start=False,
                host="shared" if together and name.endswith("0") else None,
                journal=rng.choice((False, False, "power", "power", "process")),
            )
            for name in names
        ]  # fmt: skip
        self.clients = [
            world.peer(
                f"client{n}", self._make_client, connect=self.reach(names), logs=(REQUESTS,),
                start=False, host="shared" if together and n == 0 else None, journal=rng.random() < 0.5,
            )
            for n in range(rng.choice((1, 2, 2, 3)))
        ]  # fmt: skip
        for peer in (*self.servers, *self.clients):
            peer.on_items, peer.on_event, peer.on_down = self._on_items, self._on_event, self._on_down
            peer.start()
        for peer in self.clients:
            peer.on_turn = self._on_turn

    def _make_server(self, peer: SimPeer) -> ServerCore:
        """As the face builds it."""
        rng, journal = peer.random, peer.journal
        epoch = window = rng.randbytes(16)
        rows: list[Row] = []
        if journal is not None:
            epoch, window = bytes.fromhex(journal.epoch), bytes.fromhex(journal.uuid)
            rows = journal.read(Read(CALLS, 1, 1 << 62, 1 << 30))
        elif peer.life != peer.incarnation:
            self.judge.shake(peer)
        if peer.disk is not None and peer.disk.losses > self.losses.get(peer, 0):
            self.losses[peer] = peer.disk.losses
            self.judge.shake(peer)
        capacity = rng.choice((1, 2, 8))
        limits = Limits(queued_messages=rng.choice((2, 20, 100)), queued_bytes=1 << 20)
        core = ServerCore(
            local_of(
                peer, "server", "client", credit_messages=rng.choice((2, 20, 1000)), credit_bytes=1 << 20,
                busy_bound=5.0, about={"epoch": epoch, "window": window, "journal": journal is not None},
            ),
            rng, methods=METHODS, capacity=capacity, limits=limits, durable=journal is not None, rows=rows,
            window=rng.choice((Window(), Window(seconds=0.5), Window(count=3), Window(size_bytes=20_000))),
            make_upload=Sink, looks_up=rng.random() < 0.5,
        )  # fmt: skip
        self.handlers[peer] = Handlers(peer, self.judge, self.random, window, capacity)
        return core

    def _make_client(self, peer: SimPeer) -> ClientCore:
        """As the face builds it; but the numbers of a client that is restored from a snapshot go on."""
        journal = peer.journal
        known = self.callers.get(peer)
        local = local_of(peer, "client", "server", busy_bound=5.0)
        key, first = local.instance, 1
        rows: list[Row] = []
        if journal is not None:
            key = bytes.fromhex(journal.uuid)
            first = journal.highest(REQUESTS) + 1
            mark = first + NUMBERS_AN_OPENING
            journal.commit([Write(REQUESTS, mark, 0, b""), Write(REQUESTS, mark, 0, None)])
            rows = journal.read(Read(REQUESTS, 1, 1 << 62, 1 << 30))
        elif peer.life != peer.incarnation and known is not None:
            first = 1 + max((number for each, number in self.judge.by_number if each == key), default=0)
        local = dataclasses.replace(local, about={"client": key})
        core = ClientCore(
            local, peer.random, durable=journal is not None,
            limits=Limits(queued_messages=peer.random.choice((6, 100)), queued_bytes=1 << 20),
        )  # fmt: skip
        caller = self.callers[peer] = Caller(peer, self.judge, self.random, key, first)
        calls = [read_request(row) for row in rows]
        caller.resume(calls)
        kept = {call.number for call in calls}
        for deed in self.judge.deeds:
            if deed.client is peer and deed.open and not deed.numbers & (kept if deed.key == key else set()):
                deed.gone = True
                if deed.key == key and deed.durable:
                    deed.nothing = "its journal does not have it"
                    self.judge.check_nothing(deed)
        core.resume(calls, peer.now())
        return core

    # ---- what users do ---------------------------------------------------------------

    def step(self, world: World) -> None:
        rng = self.random
        client = rng.choice(self.clients)
        if client.alive and not client.closing:
            caller = self.callers[client]
            which = rng.random()
            if which < 0.75:
                for _ in range(rng.choice((1, 1, 2, 12 if self.busy else 4))):
                    caller.call()
            elif which < 0.85:
                caller.cancel()
            elif which < 0.9:
                caller.abandon()
        if rng.random() < 0.03:
            server = rng.choice(self.servers)
            if server.alive and not server.closing:
                world.counts["drained"] += 1
                server.post("drain")
                world.after(rng.uniform(0.0, 1.0), self._close, server, server.incarnation)
        elif rng.random() < 0.01:
            self._close(client, client.incarnation)

    def _close(self, peer: SimPeer, incarnation: int) -> None:
        if peer.alive and not peer.closing and peer.incarnation == incarnation:
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
        for item in items:
            if isinstance(item, Execution):
                self.handlers[peer].take(item)
            else:
                call, answer = item
                assert isinstance(call, Call)
                assert isinstance(answer, Answer)
                self.world.counts["outcomes of durable calls told later"] += 1
                self.callers[peer].ended(self.judge.by_call[call], answer)

    def _on_event(self, peer: SimPeer, event: object) -> None:
        if isinstance(event, CallRetried):
            self.world.counts[f"retried: {event.reason}"] += 1
        elif isinstance(event, PeerLost):
            self.world.counts[f"lost: {event.reason}"] += 1
            assert "credit" not in event.reason, f"{peer.name} lost a session: {event.reason}"
        elif isinstance(event, BadFrame):
            raise AssertionError(f"{peer.name} got a bad frame: {event.reason}")

    def _on_turn(self, peer: SimPeer) -> None:
        core = peer.core
        if isinstance(core, ClientCore) and not peer.closing:
            self.callers[peer].check_deadlines(peer.turn_at)
            if self.world.sent == self.sent:
                return
            self.sent = self.world.sent
            for session in core.sessions:
                used, most = session.used_messages, session.peer_messages
                assert used <= most, f"{peer.name} used {used} of a credit of {most}"

    def _on_down(self, peer: SimPeer, how: str) -> None:
        if peer in self.clients:
            for deed in self.judge.deeds:
                if deed.client is peer and deed.open and not deed.durable:
                    deed.gone = True

    # ---- after the faults ----------------------------------------------------------------

    def healed(self, world: World) -> None:
        self.patient = [
            (deed, deed.incarnation)
            for deed in self.judge.deeds
            if deed.open and idempotent(deed) and deed.call.deadline is None and deed.call.retries is None
        ]
        for peer in (*self.servers, *self.clients):
            if not peer.alive:
                peer.start()
            elif broken(peer) or (isinstance(peer.core, ServerCore) and peer.core.draining):
                self._close(peer, peer.incarnation)

    def converged(self, world: World) -> bool:
        if any(not peer.alive or peer.closing for peer in (*self.servers, *self.clients)):
            return False
        if any(deed.open and not self._orphaned(deed) for deed in self.judge.deeds):
            return False
        if not self.final:
            if not self._settled():
                return False
            for peer in self.clients:
                caller = self.callers[peer]
                self.final[peer] = [
                    caller.call(method=method, healed=True) for method in ("add", "look", "slow", STREAM, UPLOAD)
                ]
            return False
        return True

    def _settled(self) -> bool:
        """Everybody has noticed what has happened, and that it is over."""
        there = set()
        for peer in self.servers:
            assert isinstance(peer.core, ServerCore)
            if peer.core._ledger.full:
                return False  # it has not looked yet whether its disk has room again
            there |= {(peer, session.id) for session in peer.core.sessions}
        for peer in self.clients:
            assert isinstance(peer.core, ClientCore)
            mine = {session.id for session in peer.core.sessions}
            if len(mine) < len(self.servers) or mine - {name for _, name in there}:
                return False
        return True

    def _orphaned(self, deed: Deed) -> bool:
        """It waits for a window that will never come back: its journal was replaced."""
        where = deed.call.core
        if not isinstance(where, balance.Window) or deed.call.deadline is not None:
            return False
        living = {self.handlers[peer].window for peer in self.servers}
        return where.durable and where.id not in living

    def finish(self, world: World) -> None:
        for deeds in self.final.values():
            for deed in deeds:
                assert deed.answer is not None
                fine = deed.answer.kind in (Kind.RESULT, Kind.DONE)
                assert fine, f"{deed.name!r} ({deed.method}) was made after the faults, and ended {deed.answer}"
        for deed, incarnation in self.patient:
            answer = deed.answer
            if deed.cancelled or answer is None or incarnation != deed.client.incarnation or answer.code == "closed":
                continue
            # It has all the time there is: only what servers and handlers say ends it otherwise; and a server that was
            # lost before it could say which methods are idempotent.
            world.counts["patient calls ended"] += 1
            fine = answer.kind in (Kind.RESULT, Kind.ERROR, Kind.REFUSED, Kind.UNKNOWN, Kind.STORE_FAILED)
            assert fine or answer.code in self.excused, (
                f"{deed.name!r} ({deed.method}) had time, may be sent anywhere, and ended {answer}"
            )
        world.counts["waiting for a journal that is gone"] += sum(deed.open for deed in self.judge.deeds)

    def explain(self, world: World) -> str:
        lines = [
            f"{peer.name}: {'closing' if peer.closing else 'alive' if peer.alive else 'down'}"
            for peer in world.peers.values()
        ]
        lines += [
            f"{deed.name!r} ({deed.method}) of {deed.client.name} is open: {deed.call.core!r}"
            for deed in self.judge.deeds
            if deed.open
        ]
        return "\n".join(lines)


def broken(peer: SimPeer) -> bool:
    """Its journal failed, and the core says that it is to be closed and opened again."""
    core = peer.core
    if isinstance(core, ServerCore):
        return core._ledger.broken is not None
    return isinstance(core, ClientCore) and core._broken is not None
