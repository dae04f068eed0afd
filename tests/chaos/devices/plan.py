"""Devices in the path: how they stand in a row, and what is done to them, drawn from a seed. Knows no process."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from tests.chaos.plan import Step

INTERVAL_S = 0.5
BOUND_S = 10.0
"""The heartbeat interval and bound of all who have devices between them: a device is back long before, also on a busy
machine. So no session may be lost, and nothing that follows from that is excused."""
EARLY = 0.15
"""The share of kills that do not wait until all sessions go through their victim: often it dies while it starts."""
BACK_S = (0.0, 0.0, 0.0, 0.4)
"""So long nothing is at a killed device's addresses: as a rule its successor is started at once."""
STOPPED_S = (0.3, 2.0)
"""So long a device is stopped: nothing moves, and nobody is to be taken for dead."""


@dataclasses.dataclass(frozen=True, slots=True)
class Spec:
    """A device, as it is told where to stand.

    Attributes:
        front, back: addresses of its sides, with marks: ``@`` is bound, ``>`` is connected to.
        sessions: so many go through it when all is well.
    """

    front: tuple[str, ...]
    back: tuple[str, ...]
    sessions: int

    def __str__(self) -> str:
        return f"{','.join(self.front)}|{','.join(self.back)}|{self.sessions}"

    @classmethod
    def read(cls, text: str) -> Spec:
        """The reverse of ``str``."""
        front, back, sessions = text.split("|")
        return cls(tuple(front.split(",")), tuple(back.split(",")), int(sessions))


def row(
    count: int, sessions: int, port: Callable[[], str], *, near: Sequence[str] = (), far: Sequence[str] = ()
) -> list[Spec]:
    """Devices in a row, the first one nearest to the frontend's peers.

    Peers that are not dialled dial in: at what the first device binds in front, or what the last one binds behind.

    Args:
        count: how many.
        sessions: so many go through each when all is well.
        port: gives an address that is free to be bound.
        near, far: addresses of the peers in front, or behind, if devices dial them; one of these at most.
    """
    if near:
        turned = row(count, sessions, port, far=near)
        return [Spec(spec.back, spec.front, sessions) for spec in reversed(turned)]
    fronts = [f"@{port()}" for _ in range(count)]
    backs: list[tuple[str, ...]] = [(f">{front[1:]}",) for front in fronts[1:]]
    backs.append(tuple(f">{each}" for each in far) or (f"@{port()}",))
    return [Spec((front,), back, sessions) for front, back in zip(fronts, backs, strict=True)]


def plan(seed: int, role: str, count: int, pause_s: tuple[float, float]) -> Iterator[Step]:
    """Rounds without end: each kills every device once, and stops one, in an order that the seed decides.

    Args:
        seed: what the plan follows from.
        role, count: of the devices.
        pause_s: how long to wait before each step: the least and the most.
    """
    rng = random.Random(f"{seed} devices")
    first = True
    while True:
        kinds: list[tuple[Literal["kill", "stop"], int]] = [("kill", index) for index in range(count)]
        rng.shuffle(kinds)
        kinds.insert(rng.randint(1, count), ("stop", rng.randrange(count)))
        for kind, index in kinds:
            killed = kind == "kill"
            yield Step(
                pause_s=rng.uniform(*pause_s),
                role=role,
                index=index,
                kind=kind,
                early=killed and not first and rng.random() < EARLY,
                away_s=rng.choice(BACK_S) if killed else rng.uniform(*STOPPED_S),
                same_address=True,
            )
            first = False
