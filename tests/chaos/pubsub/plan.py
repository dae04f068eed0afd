"""Who takes part, what is published and subscribed, and what is done to whom: drawn from a seed. Knows no process."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

from tests.chaos.plan import Step

PUBLISHERS = {"journalled": 2, "memory": 2}
SUBSCRIBERS = {"inbox": 2, "cursor": 1, "live": 3}
CREW = {**PUBLISHERS, **SUBSCRIBERS}
"""How many processes of each role there are. Each publisher sends to all subscribers."""
SMALL_CREW = {"journalled": 1, "memory": 1, "inbox": 1, "cursor": 1, "live": 2}
"""The same of a short run."""

FORWARDER = "forwarder"
"""The role of the processes between all publishers and all subscribers, where there are any. The first one is called by
subscribers, each of the others by the one before it, and the last one calls publishers."""
FORWARDER_S = (0.5, 3.0)
"""So often one of them is killed: seconds between two kills, the least and the most."""

HISTORY = {"memory-0": 60, "memory-1": 2_000}
"""So many messages a publisher without a journal keeps: the first one too few for a long absence."""

TOPICS = ("a", "a.x", "b", "b.x", "b.y", "c.x.y", "d.long.way.down")
PATTERNS: dict[str, tuple[str, ...]] = {
    "inbox-0": ("#",),
    "inbox-1": ("a", "b.*"),
    "cursor-0": ("b.#", "c.*.y"),
    "live-0": ("#",),
    "live-1": ("a.#", "b.y", "d.long.#"),
    "live-2": ("*.x", "c.x.y", "once.#"),
}
"""What each subscriber wants, in all its lives. Topics that occur once only begin with ``once.``."""

ALONE_S = (2.0, 4.0)
"""The same where nothing else is harmed."""

INTERVAL_S = 0.2
BOUND_S = 0.6
"""The heartbeat interval and bound of all of them."""

EARLY = 0.2
"""The share of kills that do not wait until their victim is at work."""
STOPPED_S = ((0.1, 0.5), (1.0, 2.5))
"""So long a process is stopped: too short to be taken for dead, or long enough."""
BROKEN_S = ((0.0, 0.0), (0.1, 0.5), (0.8, 2.5))
"""So long a link is stalled, or cannot be made anew once it was cut."""

REST = "rest"
"""The file that says that enough was published."""

LinkHarm = Literal["cut", "stall", "deafen", "silence"]
Plane = Literal["data", "recovery", "both"]


@dataclasses.dataclass(frozen=True, slots=True)
class LinkStep:
    """One thing that is done to the way between two processes.

    Attributes:
        pause_s: seconds to wait before it.
        publisher, subscriber: between whom, by name.
        plane: what is broken between them.
        kind: "cut" breaks connections, with all that is on its way; "stall" carries nothing for a while; "deafen" the
            same, but only of what goes to the subscriber; "silence" only of what comes from it.
        away_s: seconds until it is whole again.
    """

    pause_s: float
    publisher: str
    subscriber: str
    plane: Plane
    kind: LinkHarm
    away_s: float

    def __str__(self) -> str:
        return f"{self.kind} {self.plane} of {self.publisher} - {self.subscriber} for {self.away_s:.2f} s"


def members(roles: dict[str, int]) -> list[str]:
    """The names of all processes of these roles."""
    return [f"{role}-{index}" for role, count in roles.items() for index in range(count)]


def plan(seed: int, pause_s: tuple[float, float], *, forwarders: int = 0) -> Iterator[Step | LinkStep]:
    """Rounds without end: each kills every process once, stops some, and breaks twice as many links, in any order.

    Args:
        seed: what the plan follows from.
        pause_s: how long to wait before each step: the least and the most.
        forwarders: so many are between; one is killed after every few steps, or stopped now and then.
    """
    rng = random.Random(seed)
    everybody = members(CREW)
    while True:
        steps: list[Step | LinkStep] = [_step(rng, name, "kill", pause_s) for name in everybody]
        steps += [_step(rng, name, "stop", pause_s) for name in rng.sample(everybody, len(everybody) // 2)]
        steps += [_link_step(rng, pause_s, CREW, forwarders) for _ in range(2 * len(everybody))]
        steps += [_step(rng, name, "stop", pause_s) for name in members({FORWARDER: forwarders})]
        rng.shuffle(steps)
        yield from _with_kills_of_forwarders(rng, forwarders, steps, pause_s) if forwarders else steps


def short_plan(seed: int, pause_s: tuple[float, float], *, forwarders: int = 0) -> list[Step | LinkStep]:
    """A little of everything: of each role of the small crew one is killed."""
    rng = random.Random(seed)
    ones = [f"{role}-{rng.randrange(count)}" for role, count in SMALL_CREW.items()]
    steps: list[Step | LinkStep] = [_step(rng, name, "kill", pause_s) for name in ones]
    steps += [_step(rng, name, "stop", pause_s) for name in rng.sample(ones, 2)]
    steps += [_link_step(rng, pause_s, SMALL_CREW, forwarders) for _ in range(6)]
    rng.shuffle(steps)
    for at in (9, 6, 3) if forwarders else ():
        steps.insert(at, _step(rng, f"{FORWARDER}-{at // 3 % forwarders}", "kill", pause_s))
    return steps


def forwarder_kills(seed: int, forwarders: int) -> Iterator[Step]:
    """Kills of forwarders, and of nobody else, every few seconds and without end."""
    rng = random.Random(seed)
    while True:
        yield _step(rng, f"{FORWARDER}-{rng.randrange(forwarders)}", "kill", ALONE_S)


def _with_kills_of_forwarders(
    rng: random.Random, forwarders: int, steps: list[Step | LinkStep], pause_s: tuple[float, float]
) -> Iterator[Step | LinkStep]:
    left = rng.uniform(*FORWARDER_S)
    for step in steps:
        left -= step.pause_s
        if left <= 0:
            left = rng.uniform(*FORWARDER_S)
            yield _step(rng, f"{FORWARDER}-{rng.randrange(forwarders)}", "kill", pause_s)
        yield step


def _step(rng: random.Random, name: str, kind: Literal["kill", "stop"], pause_s: tuple[float, float]) -> Step:
    role, _, index = name.rpartition("-")
    killed = kind == "kill"
    return Step(
        pause_s=rng.uniform(*pause_s),
        role=role,
        index=int(index),
        kind=kind,
        early=killed and rng.random() < EARLY,
        away_s=rng.uniform(0.0, 1.5) if killed else rng.uniform(*rng.choice(STOPPED_S)),
        same_address=True,
    )


def _link_step(rng: random.Random, pause_s: tuple[float, float], crew: dict[str, int], forwarders: int) -> LinkStep:
    kinds: tuple[LinkHarm, ...] = ("cut", "cut", "cut", "stall", "deafen", "silence")
    planes: tuple[Plane, ...] = ("data", "data", "recovery", "both")
    pause = rng.uniform(*pause_s)
    publisher = rng.choice([each for each in members(crew) if each in members(PUBLISHERS)])
    subscriber = rng.choice([each for each in members(crew) if each in members(SUBSCRIBERS)])
    if forwarders:  # on one side of them, or between two
        way = [publisher, *reversed(members({FORWARDER: forwarders})), subscriber]
        publisher, subscriber = rng.choice(list(pairwise(way)))
    return LinkStep(
        pause_s=pause,
        publisher=publisher,
        subscriber=subscriber,
        plane=rng.choice(planes),
        kind=rng.choice(kinds),
        away_s=rng.uniform(*rng.choice(BROKEN_S)),
    )
