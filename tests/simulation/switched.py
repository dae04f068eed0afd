"""The scenarios of request-reply and pipelines, with one or two learning switches in between that fail as peers do.

The same is held against the peers as without. Besides, sessions must go on through switches that were killed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from tests.simulation.paths import Direct, Place
from tests.simulation.pipeline import PipelineScenario
from tests.simulation.reqrep import ReqrepScenario
from zmqkit.devices.acceptors import SPARE
from zmqkit.devices.switch import SwitchCore
from zmqkit.events import BadFrame, PeerRefused
from zmqkit.protocol.pattern import PatternCore
from zmqkit.testing.faults import CRASH_FAULTS, NETWORK_FAULTS, STALL_FAULTS
from zmqkit.testing.peers import SimPeer
from zmqkit.testing.scenario import Scenario
from zmqkit.testing.world import World

FRONT = "tcp://switch{}:1"
BACK = "tcp://switch{}:2"


EXCUSED = (
    # The network lost LISTEN, which no real one does. It is said again.
    "HELLO from a side that we dialled",
    # Who stood still finds a HELLO that was said to another since then, and begins a session of the same id; so does
    # one whom a peer asks that was restored, since the device leads to others this time. It is asked in vain.
    "HELLO claims to have heard",
)
"""Why frames are bad that honest peers say through a device."""


class Switched(Direct):
    """One switch, or two in a row. Acceptors are dialled by the last one, or dial it."""

    def arrange(self, world: World, names: Sequence[str], roles: tuple[str, str]) -> None:
        rng = world.stream("switches")
        self.chance = rng
        self.roles = roles
        self.behind = tuple(names)
        self.switches: list[SimPeer] = []
        self.count = rng.choice((1, 1, 2))
        self.listening = rng.random() < 0.4
        self.fixed = [f"tcp://{name}:1" for name in names]
        self.seen: dict[SimPeer, tuple[int, int]] = {}
        for number in range(self.count):
            last = number == self.count - 1
            peer = world.peer(
                f"switch{number}", self._make_switch,
                bind=[FRONT.format(number), *([BACK.format(number)] if last and self.listening else [])],
                connect=self._dialled(number), start=False,
            )  # fmt: skip
            self.switches.append(peer)
            peer.may_move = False
            peer.on_turn, peer.on_event = self._on_switch_turn, self._on_switch_event
            peer.start()

    def place(self, name: str) -> Place:
        return {"connect": [BACK.format(self.count - 1)]} if self.listening else super().place(name)

    def reach(self, names: Sequence[str]) -> list[str]:
        return [FRONT.format(0)]

    def _dialled(self, number: int) -> list[str]:
        if number < self.count - 1:
            return [FRONT.format(number + 1)]
        return [] if self.listening else self.fixed

    def _make_switch(self, peer: SimPeer) -> SwitchCore:
        number = int(peer.name.removeprefix("switch"))
        core = SwitchCore(
            name=peer.name, sides=("frontend", "backend"), roles=({self.roles[0]}, {self.roles[1]}),
            dialled=self._dialled(number), open_ended=self.listening and number == self.count - 1, rng=peer.random,
        )  # fmt: skip
        core.bound_at([FRONT.format(number)], [BACK.format(number)], peer.now())
        return core

    def _on_switch_turn(self, peer: SimPeer) -> None:
        core = peer.core
        assert isinstance(core, SwitchCore)
        counters = core.counters
        resumed = int(counters["sessions_resumed"])
        life, before = self.seen.get(peer, (0, 0))
        if life == peer.incarnation and resumed > before and life > 1:
            peer.world.counts["resumed through a restarted device"] += resumed - before
        self.seen[peer] = peer.incarnation, resumed
        check_switch(core)

    def step(self, world: World) -> None:
        super().step(world)  # type: ignore[misc]  # of the scenario
        if self.chance.random() < 0.01:
            peer = self.chance.choice(self.switches)
            if peer.post("pause", None):
                world.counts["pauses"] += 1
                world.after(self.chance.uniform(0.0, 2.0), peer.post, "resume", None)

    # ---- when the faults are over ----------------------------------------------------

    def healed(self, world: World) -> None:
        super().healed(world)  # type: ignore[misc]  # of the scenario
        for peer in self.switches:
            peer.post("resume", None)

    def converged(self, world: World) -> bool:
        settled: bool = super().converged(world)  # type: ignore[misc]  # of the scenario
        return settled and not self._untidy() and not self._unreached(world)

    def explain(self, world: World) -> str:
        lines = [super().explain(world), self._untidy(), self._unreached(world)]  # type: ignore[misc]
        return "\n".join(filter(None, lines))

    def _unreached(self, world: World) -> str:
        """Everybody in front has a session with everybody behind, as if there were no device."""
        behind = {name: world.peers[name].core for name in self.behind}
        for name, peer in world.peers.items():
            core = peer.core
            if name not in behind and isinstance(core, PatternCore):
                met = {session.peer.instance for session in core.sessions}
                for other, there in behind.items():
                    if not isinstance(there, PatternCore) or there.local.instance not in met:
                        return f"{name} has no session with {other}"
        return ""

    def _untidy(self) -> str:
        """A switch knows no connection that is gone, and has none that it does not know."""
        for peer in self.switches:
            core = peer.core
            if not isinstance(core, SwitchCore):
                return f"{peer.name} is down"
            lines = core.acceptors.lines
            known = {*core.initiators.by_link, *(link for link, line in lines.items() if not line.number)}
            gone = known - set(peer.routes)
            if gone:
                return f"{peer.name} knows {gone}, which is gone"
            wanted = {
                *peer.connects,
                *(link[1] for link, line in lines.items() if isinstance(link, tuple) if line.number),
            }
            if wanted != set(peer.dials):
                return f"{peer.name} dials {set(peer.dials)}, and makes use of {wanted}"
        return ""

    # ---- what was seen ---------------------------------------------------------------

    def _on_event(self, peer: SimPeer, event: object) -> None:
        if isinstance(event, BadFrame) and event.reason.startswith(EXCUSED):
            peer.world.counts["frames excused"] += 1
        else:
            super()._on_event(peer, event)  # type: ignore[misc]  # of the scenario

    def _on_switch_event(self, peer: SimPeer, event: object) -> None:
        if isinstance(event, BadFrame | PeerRefused):
            raise AssertionError(f"{peer.name}: {event}")


def check_switch(core: SwitchCore) -> None:
    """What a switch has in its books is consistent, and bounded."""
    initiators, acceptors = core.initiators, core.acceptors
    lines = {line.link for acceptor in acceptors for line in acceptor.lines.values()}
    assert lines >= set(acceptors.lines), "a line of no acceptor"
    used = [link for initiator in initiators for link in ([initiator.line.link] if initiator.line else [])]
    used += [line.link for initiator in initiators for line in initiator.asked.values()]
    assert len(used) == len(set(used)), "two initiators use one line"
    assert set(initiators.waiting) <= set(initiators.by_link), "a HELLO of a connection that is gone"
    for initiator in initiators:
        assert initiator.hello is None or initiator.link in initiators.waiting, "a HELLO that nobody will look at"
        for line in (*([initiator.line] if initiator.line else []), *initiator.asked.values()):
            assert line.user is initiator, "a line is used by another than it thinks"
            assert line.link in acceptors.lines, "a line is used that was given up"
    for acceptor in acceptors:
        for line in acceptor.lines.values():
            user = line.user
            assert user is None or user.line is line or user.asked.get(acceptor) is line, (
                "a line has a user who is gone"
            )
            assert not acceptor.address or len(acceptor.idle) <= SPARE, "more idle lines than are wanted"
            assert (user is None) == (line.link in acceptor.idle), "an idle line has a user, or one in use has none"


SWITCH_EXPECTS = (
    *NETWORK_FAULTS, *STALL_FAULTS, *CRASH_FAULTS, "resumed through a restarted device", "routes_lost",
    "frames_dropped", "sessions_resumed", "pauses", "messages_resent", "peers_busy",
)  # fmt: skip


class SwitchedReqrep(Switched, ReqrepScenario):
    """Clients and servers."""

    expects: ClassVar[tuple[str, ...]] = SWITCH_EXPECTS
    # Through a device nobody can come in a server's place: what it was lost by is told.
    excused: ClassVar[tuple[str, ...]] = (
        *ReqrepScenario.excused, "silent", "process gone", "forgotten by the other side",
    )  # fmt: skip


class SwitchedPipeline(Switched, PipelineScenario):
    """Pushers and pullers."""

    expects: ClassVar[tuple[str, ...]] = SWITCH_EXPECTS


_: tuple[type[Scenario], ...] = (SwitchedReqrep, SwitchedPipeline)
