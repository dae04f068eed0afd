"""Sessions between live and dying instances, over connections that break, drop, stall and come back.

Held at all times: in a session, what one side heard is what the other sent, in order, none missing, none twice; an id
opens once; who lost a session had a reason that is true. In time: a dead instance is noticed, a silent one is called
busy. After the faults: one session a pair, and all is said.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from tests.simulation.echo import EchoCore
from zmqkit.events import PeerLost
from zmqkit.options import Heartbeat
from zmqkit.protocol.liveness import IDLE_FACTOR
from zmqkit.protocol.local import Local
from zmqkit.testing.faults import NETWORK_FAULTS, STALL_FAULTS, Faults
from zmqkit.testing.network import Way
from zmqkit.testing.peers import SimPeer
from zmqkit.testing.scenario import Scenario
from zmqkit.testing.world import World

BOUND_S = 1.0
WATCH_S = 0.05
"""How often the judge looks who can hear whom."""

LATE_S = 1.0
"""What noticing may take beyond the bounds: turns, latencies, a lost frame or two."""


@dataclasses.dataclass(slots=True)
class Side:
    """One instance's view of one session."""

    peer: SimPeer
    other: bytes
    sent: list[bytes] = dataclasses.field(default_factory=list)
    got: int = 0
    credit: int = 0


@dataclasses.dataclass(slots=True)
class Instance:
    """One incarnation of a peer."""

    peer: SimPeer
    died_at: float | None = None


@dataclasses.dataclass(slots=True)
class Trouble:
    """When a leaf and a hub could not hear each other. One spell of it lasts until all is well for a bound.

    Attributes:
        since: when the spell began.
        last: when it was last so.
        broken: when their connection itself was last away; a loop that stands still does not break it.
        over: which connection was there when it was last looked.
    """

    since: float = 0.0
    last: float = 0.0
    broken: float = 0.0
    over: int = 0


class SessionScenario(Scenario):
    """One or two hubs that bind, leaves that dial each of them; all may die, some say goodbye."""

    faults = Faults(break_s=1.0, partition_s=2.0, freeze_s=2.5, stop_s=5.0, crash_s=4.0)
    faults_s = 8.0
    settle_s = 40.0
    step_s = 0.1
    bound_s = BOUND_S
    expects: ClassVar[tuple[str, ...]] = (
        *NETWORK_FAULTS, *STALL_FAULTS, "crash: at once", "power cut", "crash: amid sends", "restart",
        "stalled one way", "closed", "disconnected",
        "sessions_opened", "sessions_lost", "sessions_resumed", "links_lost", "frames_stray", "handshakes_refused",
        "messages_repeated", "messages_missed", "resumes_asked", "messages_resent", "peers_busy", "overslept",
        "process proven dead", "PeerResumed", "PeerRefused", "silence told in time",
        "lost: silent", "lost: process gone", "lost: goodbye: closed", "lost: forgotten by the other side",
        "lost: replaced", "lost: busy for too long",
    )  # fmt: skip

    # ---- who is there --------------------------------------------------------------

    def build(self, world: World) -> None:
        rng = self.random
        self.instances: dict[bytes, Instance] = {}
        self.sides: dict[tuple[bytes, bytes], Side] = {}
        """By session and instance; `open` are those that are not lost."""
        self.open: dict[tuple[bytes, bytes], Side] = {}
        self.names: dict[SimPeer, bytes] = {}
        self.trouble: dict[tuple[SimPeer, SimPeer], Trouble] = {}
        self.cut: dict[tuple[SimPeer, SimPeer], float] = {}
        self.asleep: dict[SimPeer, float] = {}
        self.stalled: dict[int, Way] = {}
        self.silent: dict[tuple[Way, SimPeer, bytes], float] = {}
        self.lively = rng.random() < 0.5
        together = rng.random() < 0.4
        count = rng.choice((1, 1, 2))
        self.hubs = [
            world.peer(f"hub{n}", self._make, host="shared" if together else None, bind=[f"tcp://hub{n}:1"])
            for n in range(count)
        ]
        addresses = [f"tcp://hub{n}:1" for n in range(count)]
        self.leaves = [
            world.peer(f"leaf{n}", self._make, host="shared" if together and n == 0 else None, connect=addresses)
            for n in range(rng.choice((1, 2)))
        ]
        self.peers = [*self.hubs, *self.leaves]
        self.trouble = {(leaf, hub): Trouble() for leaf in self.leaves for hub in self.hubs}
        if rng.random() < 0.1:
            world.peer("stranger", self._make, connect=addresses[:1])
        for peer in world.peers.values():
            peer.on_items, peer.on_event, peer.on_down = self._on_items, self._on_event, self._on_down
        self.world = world
        world.after(WATCH_S, self._watch)

    def _make(self, peer: SimPeer) -> EchoCore:
        hub = peer.name.startswith("hub")
        role = "hub" if hub else "leaf" if peer.name.startswith("leaf") else "stranger"
        instance = peer.random.randbytes(16)
        self.instances[instance] = Instance(peer)
        self.names[peer] = instance
        local = Local(
            role=role,
            accepts=frozenset({"hub"} if not hub else {"leaf"}),
            instance=instance,
            heartbeat=Heartbeat(0.25, 4) if hub else Heartbeat(0.2, 5),
            busy_bound=3.0,
            credit_messages=peer.random.choice((1, 5, 20)),
            credit_bytes=peer.random.choice((100, 2000)),
            name=peer.name,
            host=peer.host,
            pid=peer.pid,
            started=peer.started,
        )
        return EchoCore(local, peer.random)

    # ---- what they do ----------------------------------------------------------------

    def step(self, world: World) -> None:
        rng = self.random
        peer = rng.choice(self.peers)
        which = rng.random()
        if which < 0.45:
            peer.post("say", rng.choice((1, 2, 10, 40)))
        elif which < 0.55 or (which < 0.8 and self.lively):
            peer.post("ask")
        elif which < 0.9:
            peer.post("take", rng.choice((1, 3, 100)))
        elif which < 0.94:
            self._stall(world)
        elif which < 0.955:
            if peer.alive and not peer.closing:
                world.counts["closed"] += 1
                peer.close()
                world.after(rng.uniform(0.1, 3.0), self._back, peer)
        elif which < 0.97:
            leaf = rng.choice(self.leaves)
            address = f"tcp://{rng.choice(self.hubs).name}:1"
            if leaf.alive and address in leaf.dials:
                world.counts["disconnected"] += 1
                leaf.disconnect(address)
                world.after(rng.uniform(0.0, 3.0), leaf.connect, address)
        for each in self.peers:
            if rng.random() < 0.3:
                each.post("take", 100)

    def _stall(self, world: World) -> None:
        """Something in between lets the hop's heartbeats pass, and no message in one direction."""
        rng = self.random
        connections = [each for each in world.network.connections.values() if each.c_open and each.b_open]
        if not connections:
            return
        connection = rng.choice(connections)
        way = rng.choice((connection.up, connection.down))
        if way.part is not None or way.dead:
            return
        world.counts["stalled one way"] += 1
        world.note(None, f"{connection} stalls towards {way.receiver.name}")
        way.part = rng.choice((world.network.HOLD, world.network.DROP))
        way.settle()
        self.stalled[id(way)] = way
        world.after(rng.choice((0.3, 1.0, 2.5, 8.0)) * rng.uniform(0.7, 1.3), self._unstall, way)

    def _unstall(self, way: Way) -> None:
        if self.stalled.pop(id(way), None) is not None:
            self.silent = {key: since for key, since in self.silent.items() if key[0] is not way}
            way.part = None
            way.settle()
            way.receiver.wake_by(self.world.clock.now)

    def _back(self, peer: SimPeer) -> None:
        if not peer.alive:
            peer.start()
        elif peer.closing:
            self.world.after(0.5, self._back, peer)

    def healed(self, world: World) -> None:
        for way in list(self.stalled.values()):
            self._unstall(way)
        for peer in self.peers:
            if not peer.alive:
                peer.start()
        for leaf in self.leaves:
            for hub in self.hubs:
                leaf.connect(f"tcp://{hub.name}:1")

    # ---- what was seen ---------------------------------------------------------------

    def _on_items(self, peer: SimPeer, items: list[Any]) -> None:
        mine = self.names[peer]
        for kind, name, *more in items:
            key = (name, mine)
            if kind == "opened":
                assert peer.name != "stranger", "a side with a wrong role got a session"
                assert key not in self.sides, f"{peer.name} opened session {name.hex()} twice"
                self.sides[key] = self.open[key] = Side(peer, more[0])
                continue
            side = self.open.get(key)
            assert side is not None, f"{peer.name}: {kind} in session {name.hex()}, which it does not have (any more)"
            if kind == "sent":
                side.sent.append(more[0])
            elif kind == "got":
                other = self.sides.get((name, side.other))
                there = other.sent[side.got] if other is not None and side.got < len(other.sent) else None
                assert there == more[0], f"{peer.name} got {more[0]!r} as number {side.got + 1}; {there!r} was sent"
                side.got += 1
            else:
                del self.open[key]
                self._lost(peer, name, side.other, *more)

    def _lost(self, peer: SimPeer, name: bytes, other: bytes, reason: str, heard_by_peer: int) -> None:
        them = self.instances[other]
        side = self.sides.get((name, other))
        got = side.got if side is not None else 0
        assert heard_by_peer <= got, f"{peer.name} was told that {heard_by_peer} were heard; it were {got}"
        theirs = (name, other) in self.open
        if reason in ("forgotten by the other side", "replaced", "refused: closed") or reason.startswith("goodbye"):
            assert not theirs, f"{peer.name} lost a session ({reason}) that {them.peer.name} still has"
        elif reason == "process gone":
            assert them.died_at is not None, f"{peer.name} lost a session ({reason}), but {them.peer.name} lives"
        elif reason == "closed":
            assert peer.closing, f"{peer.name} said goodbye, and nobody asked it to"
        elif theirs:
            assert reason in ("silent", "busy for too long"), f"{peer.name} lost a session: {reason}"
            leaf, hub = (peer, them.peer) if peer in self.leaves else (them.peer, peer)
            trouble = self.trouble[leaf, hub]
            quiet = self.world.clock.now - trouble.last
            assert quiet <= BOUND_S + 3 * WATCH_S, (
                f"{peer.name} declared {them.peer.name} dead ({reason}); it lives, and could be heard for {quiet:.3f} s"
            )
            assert reason != "silent" or trouble.broken >= trouble.since - 3 * WATCH_S, (
                f"{peer.name} declared {them.peer.name} dead ({reason}); it is busy, and its connection stands"
            )
        else:
            assert reason in ("silent", "busy for too long"), f"{peer.name} lost a session: {reason}"

    def _on_event(self, peer: SimPeer, event: object) -> None:
        if isinstance(event, PeerLost):
            self.world.counts[f"lost: {event.reason}"] += 1

    def _on_down(self, peer: SimPeer, how: str) -> None:
        mine = self.names[peer]
        self.instances[mine].died_at = self.world.clock.now
        for key in [key for key in self.open if key[1] == mine]:
            del self.open[key]

    # ---- who can hear whom -------------------------------------------------------------

    def _watch(self) -> None:
        """Note who could not hear whom, and who stood still."""
        world, now = self.world, self.world.clock.now
        network = world.network
        stands = {
            (each.dial.peer, each.binder): each for each in network.connections.values() if each.c_open and each.b_open
        }
        frozen = {peer for peer in self.peers if peer.frozen}
        for peer in frozen:
            self.asleep[peer] = now
        for leaf in self.leaves:
            for hub in self.hubs:
                trouble = self.trouble[leaf, hub]
                connection = stands.get((leaf, hub))
                number = connection.number if connection is not None else 0
                cut = network.is_cut(leaf.host, hub.host)
                if cut:
                    self.cut[leaf, hub] = self.cut[hub, leaf] = now
                broken = connection is None or number != trouble.over or cut or leaf.stopped or hub.stopped
                trouble.over = number
                stalled = connection is not None and (connection.up.part or connection.down.part)
                if broken or stalled or leaf in frozen or hub in frozen:
                    if now - trouble.last > BOUND_S:
                        trouble.since = now
                    trouble.last = now
                if broken:
                    trouble.broken = now
        for way in self.stalled.values():
            self.cut[way.sender, way.receiver] = self.cut[way.receiver, way.sender] = now
            self._expect_busy(way, frozen)
        world.after(WATCH_S, self._watch)

    def _expect_busy(self, way: Way, frozen: set[SimPeer]) -> None:
        """Nothing comes through in one direction: both sides must say so in bounded time."""
        now, connection = self.world.clock.now, way.connection
        stands = way.part is not None and connection.c_open and connection.b_open
        for peer, link in ((connection.dial.peer, connection.dial.link), (connection.binder, connection.up.link)):
            if not isinstance(peer.core, EchoCore):
                continue
            for session in peer.core.sessions:
                key = (way, peer, session.id)
                if not stands or session.link != link or session.busy or peer in frozen:
                    if session.busy and key in self.silent:
                        self.world.counts["silence told in time"] += 1
                    self.silent.pop(key, None)
                    continue
                quiet = now - self.silent.setdefault(key, now)
                assert quiet <= IDLE_FACTOR * 0.25 + BOUND_S + 0.3, (
                    f"{peer.name} has had no answer over {connection} for {quiet:.3f} s, and does not call that busy"
                )

    # ---- what must hold ----------------------------------------------------------------

    def check(self, world: World) -> None:
        now = world.clock.now
        bound = 1.25 * world.network.hop_timeout_s + 2 * BOUND_S + LATE_S
        for side in self.open.values():
            them = self.instances[side.other]
            if them.died_at is not None and now > them.died_at + bound:
                since = max(them.died_at, self.asleep.get(side.peer, 0.0), self.cut.get((side.peer, them.peer), 0.0))
                assert now - since <= bound, (
                    f"{them.peer.name} died {now - them.died_at:.3f} s ago, and {side.peer.name} has not noticed"
                )
        for peer in self.peers:
            if peer.core is None:
                continue
            for session in peer.core.sessions:  # type: ignore[attr-defined]
                seen = self.open.get((session.id, self.names[peer]))
                if seen is None:
                    continue  # its news is still on the way out of the core
                assert session.peer_messages >= seen.credit, f"{peer.name}: a limit of messages was lowered"
                seen.credit = session.peer_messages
                assert session.used_messages <= session.peer_messages, f"{peer.name} used more than its credit"

    def converged(self, world: World) -> bool:
        idle = True
        for peer in self.peers:
            core = peer.core
            if not isinstance(core, EchoCore):
                return False
            if not core.eager:
                peer.post("take_all")
            idle = idle and core.idle and not peer.closing
        if not idle:
            return False
        pairs = {(self.instances[side.other].peer, side.peer) for side in self.open.values()}
        wanted = {(one, two) for leaf in self.leaves for hub in self.hubs for one, two in ((leaf, hub), (hub, leaf))}
        if pairs != wanted or len(self.open) != len(wanted):
            return False
        for (name, _), side in self.open.items():
            other = self.open.get((name, side.other))
            if other is None or other.got != len(side.sent):
                return False
        return True

    def explain(self, world: World) -> str:
        lines = [
            f"{peer.name}: {peer.core.state() if isinstance(peer.core, EchoCore) else 'down'}" for peer in self.peers
        ]
        lines += [f"{side.peer.name} in {key[0].hex()}: sent {len(side.sent)}, got {side.got}"
                  for key, side in self.open.items()]  # fmt: skip
        return "\n".join(lines)
