"""What is done to the processes, drawn from a seed before anything runs. Knows no process."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Iterator, Mapping
from typing import Literal

Role = str
Disk = Literal["", "copy", "back", "on"]

CREW: dict[Role, int] = {"pusher": 3, "sender": 2, "worker": 4, "sink": 3}
"""How many processes of each role a run has. A sender is a pusher that sends from an outbox."""
SMALL_CREW: dict[Role, int] = {"pusher": 2, "sender": 1, "worker": 3, "sink": 2}
"""Of a short run."""

EARLY = 0.2
"""The share of kills that do not wait until their victim is at work: it dies while it starts, or recovers."""
STOPS_EVERY = 4
"""So many kills come with each stop."""
AWAY_S = ((0.4, 0.58), (1.0, 2.0), (1.0, 2.0))
"""How long a stopped process may be away: now and then so shortly that its connections break and its sessions do not;
else longer than the heartbeat bound of 0.6 s, so that it wakes up to leases that are others' by then."""
COPY_EVERY = 4
"""With every so many kills of a process with a journal, a copy of that is taken..."""
RESTORE_AFTER = 2
"""...and put in its place so many kills later."""


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
        disk: what is done to a journal before its owner's next life: "copy" takes a copy. "back" and "on" put that in
            its place; the owner is to put back what was there, or to go on with the copy.
    """

    pause_s: float
    role: Role
    index: int
    kind: Literal["kill", "stop", "drain"]
    early: bool
    away_s: float
    same_address: bool
    disk: Disk = ""

    def __str__(self) -> str:
        what = {"kill": "SIGKILL", "stop": "SIGSTOP", "drain": "drain"}[self.kind]
        disk = {"": "", "copy": ", journal copied", "back": ", journal restored, to be put back"}
        disk["on"] = ", journal restored, to go on with it"
        early = " early" if self.early else ""
        return f"{what} {self.role}-{self.index}{early} for {self.away_s:.2f} s{disk[self.disk]}"


def steps(seed: int, crew: Mapping[Role, int] = CREW) -> Iterator[Step]:
    """Kills and stops without end, each evenly over the roles, in an order that the seed decides."""
    rng = random.Random(seed)
    roles = list(crew)
    kills: dict[tuple[Role, int], int] = {}
    turn: dict[Role, int] = dict.fromkeys(roles, rng.randrange(1 << 16))
    stopped = itertools.cycle(rng.sample(roles, len(roles)))
    while True:
        some: list[tuple[Literal["kill", "stop"], Role]] = [("kill", role) for role in roles]
        some += [("stop", next(stopped)) for _ in range(max(1, len(roles) // STOPS_EVERY))]
        rng.shuffle(some)
        for kind, role in some:
            # Killed in turn, so that a copy that was taken is also put in place soon; stopped at random.
            turn[role] += kind == "kill"
            index = turn[role] % crew[role] if kind == "kill" else rng.randrange(crew[role])
            count = kills[role, index] = kills.get((role, index), 0) + (kind == "kill")
            disk = _disk(role, index, count) if kind == "kill" else ""
            yield Step(
                pause_s=rng.uniform(0.0, 0.4),
                role=role,
                index=index,
                kind=kind,
                early=kind == "kill" and not disk and rng.random() < EARLY,
                away_s=rng.uniform(0.0, 0.4) if kind == "kill" else rng.uniform(*rng.choice(AWAY_S)),
                same_address=rng.random() < 0.5,
                disk=disk,
            )


def _disk(role: Role, index: int, count: int) -> Disk:
    """What is done to a journal at that kill of its owner."""
    turn, at = divmod(count - 1, COPY_EVERY)
    if role not in ("pusher", "sender") or at not in (0, RESTORE_AFTER):
        return ""
    if at == 0:
        return "copy"
    # What went from an outbox into a lost journal nobody could send again: that one is put back.
    return "back" if role == "sender" or (turn + index) % 2 else "on"


def plan(kills: int, seed: int, crew: Mapping[Role, int] = CREW) -> list[Step]:
    """The first steps of that seed, up to so many kills."""
    found: list[Step] = []
    for step in steps(seed, crew):
        if kills <= 0:
            break
        found.append(step)
        kills -= step.kind == "kill"
    return found
