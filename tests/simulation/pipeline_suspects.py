"""Jobs that kill whoever starts them, among jobs that do not; nothing else goes wrong.

- each of them ends as a dead letter, after no more deaths than it takes to find it out;
- no other job is ever blamed for a death.
"""

from __future__ import annotations

import math
from typing import ClassVar

from tests.simulation.history import LONELY
from tests.simulation.pipeline import MAX_FAILURES, PipelineScenario
from zmqkit.events import JobFailed
from zmqkit.patterns.pipeline.suspects import ENOUGH, HELD
from zmqkit.testing.faults import Faults
from zmqkit.testing.peers import SimPeer
from zmqkit.testing.world import World

NEVER = math.inf
MOST_DEATHS = ENOUGH // HELD + MAX_FAILURES + 2
"""Even where it was never known to be started; and it may have waited a while before it was lent at all."""


class SuspectsScenario(PipelineScenario):
    """One pusher, which stays, and one to three pullers."""

    faults = Faults(
        loss=0.0, duplicate=0.0, reorder=0.0, spike=0.0, break_s=NEVER, partition_s=NEVER, freeze_s=NEVER, stop_s=NEVER,
        crash_s=NEVER, slow_commits=0.0,
    )  # fmt: skip
    most_pushers: ClassVar[int] = 1
    closes: ClassVar[float] = 0.0
    settle_s = 90.0
    expects: ClassVar[tuple[str, ...]] = (
        "poison started", "suspected", "lent_alone", "died holding one job", "died of poison among others", "dead",
        "acked", "overdue", "recalled",
    )  # fmt: skip

    def build(self, world: World) -> None:
        self.deaths: dict[bytes, int] = {}
        self.dying: set[tuple[SimPeer, int]] = set()
        super().build(world)

    def poison(self, name: bytes) -> bool:
        """The first of each pusher's messages may be handled by anybody; of the others some kill."""
        number = int(name.rstrip(b".").partition(b"/")[2])
        return number % 41 == 7

    def _dies(self, peer: SimPeer) -> bool:
        life = (peer, peer.incarnation)
        if life in self.dying:
            return True
        fatal = [job for job in self.users[peer].jobs if job.started and self.poison(job.message.name)]
        if not fatal:
            return False
        self.dying.add(life)
        self.world.counts["poison started"] += 1
        if len(self.users[peer].jobs) > 1:
            self.world.counts["died of poison among others"] += 1
        for job in fatal:
            name = job.message.name
            self.deaths[name] = self.deaths.get(name, 0) + 1
            assert self.deaths[name] <= MOST_DEATHS, f"{name!r} has killed {self.deaths[name]} pullers"
        self.world.after(0.0, self._kill, peer, peer.incarnation)
        return True

    def _kill(self, peer: SimPeer, incarnation: int) -> None:
        if peer.alive and peer.incarnation == incarnation:
            peer.crash()
            self.world.after(0.3, self._back, peer)

    def _on_event(self, peer: SimPeer, event: object) -> None:
        if isinstance(event, JobFailed) and event.reason.startswith(LONELY):
            name = self.history.by_id[event.id].name
            assert self.poison(name), f"{name!r} is blamed for what another did"
        super()._on_event(peer, event)

    def finish(self, world: World) -> None:
        super().finish(world)
        for message in self.history.messages.values():
            if message.state == "confirmed" and self.poison(message.name):
                assert not message.acked, f"{message.name!r} kills, and was acked"
