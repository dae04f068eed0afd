"""What is done to servers while they are called, drawn from a seed before anything runs. Knows no process."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Literal

from tests.chaos.plan import Step

SERVERS = 3
"""The first one has a journal."""
CALLERS = 4
"""Processes; each has `THREADS` threads (or tasks) that call."""
THREADS = 16
CREW = {"server": SERVERS, "caller": CALLERS}
SHARED = 4
"""So many clients have the threads of the second caller; those of any other have one."""

INTERVAL_S = 0.5
BOUND_S = 1.5
"""The heartbeat interval and bound of all of them."""

SHORT_S = (0.1, 0.8)
"""So long a server is stopped that must not be taken for dead: less than the bound by an interval, at least."""
LONG_S = (2.2, 4.0)
"""And so long one that must be, and comes back."""
EARLY = 0.2
"""The share of kills that do not wait until their victim is at work: it dies while it starts, or recovers."""

Harm = Literal["kill", "short stop", "long stop", "stop alone", "drain"]

ROUND: tuple[Harm, ...] = ("kill", "kill", "kill", "short stop", "short stop", "long stop", "stop alone", "drain")
"""What is done in a round, in an order that the seed decides. "stop alone": for long, while all others are well."""


def plan(seed: int, pause_s: tuple[float, float]) -> Iterator[tuple[Harm, Step]]:
    """Rounds without end. In each, every server is killed once.

    Args:
        seed: what the plan follows from.
        pause_s: how long to wait before each step: the least and the most.
    """
    rng = random.Random(seed)
    while True:
        harms = list(ROUND)
        rng.shuffle(harms)
        victims = rng.sample(range(SERVERS), SERVERS)
        for harm in harms:
            index = victims.pop() if harm == "kill" else rng.randrange(SERVERS)
            yield harm, _step(rng, harm, index, rng.uniform(*pause_s))


def _step(rng: random.Random, harm: Harm, index: int, pause_s: float) -> Step:
    kind: Literal["kill", "stop", "drain"]
    if harm == "kill":
        kind, away_s = "kill", rng.uniform(0.0, 2 * BOUND_S)
    elif harm == "drain":
        kind, away_s = "drain", rng.uniform(0.0, 0.4)
    else:
        kind, away_s = "stop", rng.uniform(*(SHORT_S if harm == "short stop" else LONG_S))
    return Step(
        pause_s=pause_s,
        role="server",
        index=index,
        kind=kind,
        early=kind == "kill" and rng.random() < EARLY,
        away_s=away_s,
        same_address=True,
    )
