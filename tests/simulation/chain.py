"""A source, one or two stages of stateless workers that die freely, and a sink that remembers the ids it has counted.

Each item is counted exactly once; who acks an input at its source has seen all its outputs counted. The workers'
custody of their inputs is the real one; what stands around it are two cores, one for each thread of a process.
"""

from __future__ import annotations

import zlib
from functools import partial
from typing import Any, ClassVar

from tests.simulation.history import waits
from tests.simulation.users import LARGEST_ROW, Told, local_of
from zmqkit.events import BadFrame
from zmqkit.options import Backoff
from zmqkit.patterns.pipeline import wire
from zmqkit.patterns.pipeline.custody import Custody
from zmqkit.patterns.pipeline.hands import PusherSettings
from zmqkit.patterns.pipeline.puller import Parcel, PullerCore
from zmqkit.patterns.pipeline.pusher import PusherCore
from zmqkit.patterns.pipeline.rows import DEAD, MARKS, MESSAGES, DeadRow, Pack
from zmqkit.patterns.pipeline.walltime import STATE
from zmqkit.protocol.core import Read
from zmqkit.testing.faults import CRASH_FAULTS, DISK_FAULTS, STALL_FAULTS, Faults
from zmqkit.testing.peers import SimPeer
from zmqkit.testing.scenario import Scenario
from zmqkit.testing.world import World

ITEMS = 60
LOGS = (MESSAGES, MARKS, DEAD, STATE)


class HandledJob:
    """A job as `Custody` knows it, over a simulated puller."""

    def __init__(self, peer: SimPeer, parcel: Parcel, index: int, body: bytes) -> None:
        delivery = parcel.delivery
        self.id = delivery.ids.get(index) or f"{delivery.origin}-{delivery.sequence + index}"
        self.body = body
        self.outcome: str | None = None
        self._peer, self._incarnation, self._parcel, self._index = peer, peer.incarnation, parcel, index

    def _ack(self) -> None:
        self.outcome = "acked"
        if self._peer.incarnation == self._incarnation:
            self._parcel.acked.append(self._index)
            self._peer.post("collect", self._parcel)

    def _settle(self, outcome: str, kind: int, delay: float | None, reason: str, traceback: str = "") -> None:
        self.outcome = outcome
        if self._peer.incarnation == self._incarnation:
            self._peer.post("settle", self._parcel, self._index, kind, delay, reason, traceback)


def outputs_of(body: bytes) -> list[bytes]:
    """What the handler makes of an item: always the same."""
    return [body + b">%d" % at for at in range((1, 1, 2, 3, 0)[zlib.crc32(body) % 5])]


class ChainScenario(Scenario):
    """Everybody may crash but the sink's memory."""

    faults = Faults(break_s=2.0, partition_s=4.0, freeze_s=5.0, stop_s=5.0, crash_s=0.8, disk_s=5.0)
    faults_s = 8.0
    settle_s = 60.0
    step_s = 0.1
    bound_s = 1.0
    expects: ClassVar[tuple[str, ...]] = (
        *STALL_FAULTS, *CRASH_FAULTS, *DISK_FAULTS, "break", "lost", "duplicated", "reordered",
        "counted", "counted before", "worker died with inputs",
        "output refused", "dead for its output", "sessions_resumed", "redelivered", "jobs_lost", "settles_stale",
        "marks loaded", "went_on",
    )  # fmt: skip

    # ---- who is there --------------------------------------------------------------

    def build(self, world: World) -> None:
        rng = self.random
        self.world = world
        self.next: dict[SimPeer, int] = {}
        self.outs: dict[SimPeer, SimPeer] = {}
        self.open: dict[SimPeer, set[Custody]] = {}
        self.items: dict[bytes, dict[str, Any]] = {}
        self.counted: dict[str, bytes] = {}
        self.bodies: dict[bytes, str] = {}
        self.stages = rng.choice((1, 1, 2))
        workers = rng.choice((1, 2))
        together = rng.random() < 0.3
        self.source = world.peer("source", self._make_pusher, bind=["tcp://source:1"], journal=True, logs=LOGS)
        self.sink = world.peer("sink", self._make_puller, bind=["tcp://sink:1"], host="shared" if together else None)
        inputs = ["tcp://source:1"]
        for stage in range(self.stages):
            last = stage == self.stages - 1
            targets = ["tcp://sink:1"] if last else [f"tcp://mid{n}:1" for n in range(workers)]
            for n in range(workers):
                host = "shared" if together else f"host {stage} {n}"
                out = world.peer(
                    f"out{stage}{n}", self._make_pusher, host=host, connect=targets, start=False,
                    journal=rng.random() < 0.3, logs=LOGS,
                )  # fmt: skip
                into = world.peer(
                    f"in{stage}{n}", self._make_puller, host=host, start=False,
                    bind=[f"tcp://mid{n}:1"] if stage else (), connect=() if stage else inputs,
                )  # fmt: skip
                self.outs[into] = out
                into.on_items, into.on_down, out.on_down = self._work, self._worker_down, self._sink_down
                into.start()
        self.sink.on_items = self._count
        for peer in world.peers.values():
            peer.on_event = self._on_event

    def _make_pusher(self, peer: SimPeer) -> PusherCore:
        journal = peer.journal
        epoch = bytes.fromhex(journal.epoch) if journal is not None else peer.random.randbytes(16)
        uuid = journal.uuid if journal is not None else peer.random.randbytes(16).hex()
        settings = PusherSettings(
            origin=f"{uuid[:16]}-{epoch.hex()[:8]}", epoch=epoch, durable=journal is not None,
            max_failures=1000, backoff=Backoff(0.05, 2.0, 0.5),
        )  # fmt: skip
        about = {"epoch": epoch} if journal is None else {"epoch": epoch, "journal": bytes.fromhex(uuid)}
        made = PusherCore(local_of(peer, "push", "pull", about=about), settings, peer.random)
        self.next[peer] = 1
        if journal is not None:
            messages, marks = journal.totals(MESSAGES), journal.totals(MARKS)
            if marks.rows:
                self.world.counts["marks loaded"] += 1
            made.found(messages.first_key, messages.last_key, messages.weight - marks.weight)
            made.restore((), (), (), journal.read(Read(STATE, 1, 1 << 60, 1 << 60)))
            self.next[peer] = journal.highest(MESSAGES) + LARGEST_ROW
        made.opened_at(self.next[peer])
        return made

    def _make_puller(self, peer: SimPeer) -> PullerCore:
        out = self.outs.get(peer)
        if out is not None:
            self.open[peer] = set()
            if not out.alive:
                out.start()  # one process has both threads
        return PullerCore(
            local_of(peer, "pull", "push", credit_messages=peer.random.choice((1, 8)), credit_bytes=1 << 20),
            peer.random,
        )

    # ---- the source ------------------------------------------------------------------

    def step(self, world: World) -> None:
        source = self.source
        if source.alive and len(self.items) < ITEMS:
            names = [b"item%d" % (len(self.items) + at) for at in range(self.random.choice((1, 3)))]
            if self.random.random() < 0.05:
                names[0] = b"bad" + names[0]
            first, self.next[source] = self.next[source], self.next[source] + len(names)
            for at, name in enumerate(names):
                self.items[name] = {"state": "posted", "sequence": first + at, "incarnation": source.incarnation}
            pack = Pack("raw", 1, [len(each) for each in names], b"".join(names))
            watcher = Told(("send", names), partial(self._sent, names))
            source.post("append", pack, first, watcher, True, None)

    def _sent(self, names: list[bytes], result: object) -> None:
        state = "confirmed" if result is None else "refused"
        if type(result).__name__ == "CommitIndeterminate":
            state = "unknown"
        for name in names:
            self.items[name]["state"] = state

    # ---- the workers -----------------------------------------------------------------

    def _work(self, peer: SimPeer, parcels: list[Parcel]) -> None:
        """What a worker's thread does with each job; its outputs go to the other thread's core."""
        out = self.outs[peer]
        for parcel in parcels:
            list(parcel.claims)
            offset = 0
            for index, length in enumerate(parcel.delivery.lengths):
                job = HandledJob(peer, parcel, index, parcel.delivery.blob[offset : offset + length])
                offset += length
                custody = Custody(job, self.open[peer].discard)  # type: ignore[arg-type]
                self.open[peer].add(custody)
                outputs = outputs_of(job.body)
                if outputs:
                    ids = {at: f"{job.id}/{at}" for at in range(len(outputs))}
                    pack = Pack("raw", 1, [len(each) for each in outputs], b"".join(outputs), ids)
                    custody.expect(len(pack))
                    first, self.next[out] = self.next[out], self.next[out] + len(pack)
                    out.post("append", pack, first, None, True, _Watching(self, custody, outputs))
                custody.sent()

    def _worker_down(self, peer: SimPeer, how: str) -> None:
        if self.open[peer]:
            self.open[peer] = set()
            self.world.counts["worker died with inputs"] += 1
        self.outs[peer].crash("power cut" if how == "power cut" else "killed")

    def _sink_down(self, peer: SimPeer, how: str) -> None:
        for into, out in self.outs.items():
            if out is peer:
                into.crash("power cut" if how == "power cut" else "killed")

    # ---- the sink --------------------------------------------------------------------

    def _count(self, peer: SimPeer, parcels: list[Parcel]) -> None:
        for parcel in parcels:
            list(parcel.claims)
            offset = 0
            for index, length in enumerate(parcel.delivery.lengths):
                body = parcel.delivery.blob[offset : offset + length]
                offset += length
                id = HandledJob(peer, parcel, index, body).id
                if id in self.counted:
                    self.world.counts["counted before"] += 1
                    assert self.counted[id] == body, f"id {id} was {self.counted[id]!r}, and is {body!r}"
                elif not body.startswith(b"bad"):
                    assert body not in self.bodies, f"{body!r} comes as {id}; it was counted as {self.bodies[body]}"
                    name = body.split(b">")[0]
                    assert self.items[name]["state"] != "refused", f"{body!r} is of an item that was refused"
                    self.counted[id], self.bodies[body] = body, id
                    self.world.counts["counted"] += 1
                if body.startswith(b"bad"):
                    peer.post("settle", parcel, index, wire.REJECT, None, "it is bad", "")
                else:
                    parcel.acked.append(index)
                    peer.post("collect", parcel)

    def _leaves(self, body: bytes) -> list[bytes]:
        """What of an item must arrive at the sink."""
        found = [body]
        for _ in range(self.stages):
            found = [output for each in found for output in outputs_of(each)]
        return found

    # ---- what must hold ----------------------------------------------------------------

    def _on_event(self, peer: SimPeer, event: object) -> None:
        if isinstance(event, BadFrame):
            raise AssertionError(f"{peer.name} got a bad frame: {event.reason}")

    def check(self, world: World) -> None:
        """What has left the source's journal was counted."""
        disk = self.source.disk
        assert disk is not None
        dead = {row.key for row in disk.rows(DEAD)}
        for name, item in self.items.items():
            if item["state"] == "confirmed" and not waits(disk, item["sequence"]) and item["sequence"] not in dead:
                for leaf in self._leaves(name):
                    assert leaf in self.bodies, f"{name!r} is settled at its source, and {leaf!r} was not counted"
                item["state"] = "done"

    def converged(self, world: World) -> bool:
        made = self.source.core
        whole = all(peer.alive for peer in world.peers.values())
        return whole and isinstance(made, PusherCore) and not made.unsettled and not any(self.open.values())

    def finish(self, world: World) -> None:
        disk = self.source.disk
        assert disk is not None
        assert not disk.rows(MESSAGES), "the source left rows in its journal"
        letters = {letter.body: letter for letter in (DeadRow.unpack(row.value) for row in disk.rows(DEAD))}
        for name, item in self.items.items():
            if name in letters:
                assert name.startswith(b"bad"), f"{name!r} is dead: {letters[name].reason}"
                assert "an output of this job is dead" in letters[name].reason, letters[name].reason
                assert "it is bad" in letters[name].reason, letters[name].reason
                world.counts["dead for its output"] += 1
            elif item["state"] in ("confirmed", "done"):
                assert not (name.startswith(b"bad") and self._leaves(name)), f"{name!r} was not rejected at its source"
                for leaf in self._leaves(name):
                    assert leaf in self.bodies, f"{leaf!r} was never counted"

    def explain(self, world: World) -> str:
        made = self.source.core
        left = made.unsettled if isinstance(made, PusherCore) else "?"
        lines = [f"the source has {left} unsettled"]
        for into, out in self.outs.items():
            sink = out.core.unsettled if isinstance(out.core, PusherCore) else "down"
            lines.append(f"{into.name}: {len(self.open[into])} in custody; its sink: {sink} unsettled")
        return "\n".join(lines)


class _Watching:
    """Between the sink's core and the custody: an output that is said to be acked was counted."""

    def __init__(self, scenario: ChainScenario, custody: Custody, outputs: list[bytes]) -> None:
        self.scenario = scenario
        self.custody = custody
        self.about = outputs
        self.told = 0

    def resolve(self, result: object) -> None:
        self.told += 1
        assert self.told <= len(self.about), f"told {self.told} times of {len(self.about)} outputs"
        if isinstance(result, Exception):
            self.scenario.world.counts["output refused"] += 1
        self.custody.resolve(result)
