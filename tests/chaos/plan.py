"""What is done to the processes, drawn from a seed before anything runs. Knows no process."""

from __future__ import annotations

import dataclasses
import random
from typing import Literal

Role = str

CREW: dict[Role, int] = {"pusher": 3, "worker": 4, "sink": 2}
"""How many processes of each role a run has."""

EARLY = 0.2
"""The share of kills that do not wait until their victim is at work: it dies while it starts, or recovers."""
STOPS = 0.25
"""So many stops come with each kill."""
AWAY_S = ((0.4, 0.58), (1.0, 2.0), (1.0, 2.0))
"""How long a stopped process may be away: now and then so shortly that its connections break and its sessions do not;
else longer than the heartbeat bound of 0.6 s, so that it wakes up to leases that are others' by then."""


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One thing that is done.

    Attributes:
        pause_s: seconds to wait before it.
        role, index: to whom.
        kind: "kill" is SIGKILL, and another life after a while; "stop" is SIGSTOP, and SIGCONT after a while; "drain"
            is the word to end in good order, and another life after a while.
        early: do not wait until the process is at work.
        away_s: seconds until it lives again, or goes on.
        same_address: the next life binds the address of the one before; else any, and others find it by name.
    """

    pause_s: float
    role: Role
    index: int
    kind: Literal["kill", "stop", "drain"]
    early: bool
    away_s: float
    same_address: bool

    def __str__(self) -> str:
        what = {"kill": "SIGKILL", "stop": "SIGSTOP", "drain": "drain"}[self.kind]
        return f"{what} {self.role}-{self.index}{' early' if self.early else ''} for {self.away_s:.2f} s"


def plan(kills: int, seed: int) -> list[Step]:
    """So many kills, evenly over the roles, in an order that the seed decides."""
    rng = random.Random(seed)
    roles = list(CREW)
    kinds: list[tuple[Literal["kill", "stop"], Role]] = [("kill", roles[at % len(roles)]) for at in range(kills)]
    kinds += [("stop", roles[at % len(roles)]) for at in range(max(len(roles), round(kills * STOPS)))]
    rng.shuffle(kinds)
    return [
        Step(
            pause_s=rng.uniform(0.0, 0.4),
            role=role,
            index=rng.randrange(CREW[role]),
            kind=kind,
            early=kind == "kill" and rng.random() < EARLY,
            away_s=rng.uniform(0.0, 0.4) if kind == "kill" else rng.uniform(*rng.choice(AWAY_S)),
            same_address=rng.random() < 0.5,
        )
        for kind, role in kinds
    ]
