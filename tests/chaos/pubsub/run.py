"""One run: publishers and subscribers begin, harm is done by the plan, all comes to rest, and the reader judges."""

from __future__ import annotations

import dataclasses
import secrets
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tests.chaos.fleet import Fleet
from tests.chaos.history import History
from tests.chaos.plan import Step
from tests.chaos.pubsub.links import HOST, Links, host_of
from tests.chaos.pubsub.plan import (
    CREW,
    FORWARDER,
    PUBLISHERS,
    REST,
    SMALL_CREW,
    SUBSCRIBERS,
    LinkStep,
    forwarder_kills,
    members,
    plan,
    short_plan,
)
from tests.chaos.pubsub.reader import Verdict, judge

BEGIN_S = 40.0
"""How long all processes may take to start; it takes a few seconds."""
END_S = 60.0
"""How long processes may take to end."""
WELL_S = 1.0
"""So long all publish and take while nothing is done to them any more."""
REST_S = 300.0
"""How long what is on its way may take once nothing is published any more: inboxes may be far behind..."""
STILL_S = 30.0
"""...and for how long nothing may move meanwhile."""
QUIET_S = 1.0
"""When nothing came for so long, the reader is asked whether that was all..."""
AGAIN_S = 2.0
"""...and if not, again after as long as it takes subscribers to compare what they have."""
TURN_S = 10.0
"""Where forwarders are between, all are left alone for so long, and then only forwarders are killed, in turns..."""
TURN_EVERY_S = 60.0
"""...as often as this fits into the seconds of the run."""
LEAST_SHARE = 0.5
"""So much of what comes while all are left alone must come while only forwarders are killed."""


@dataclasses.dataclass
class Outcome:
    """What a run came to.

    Attributes:
        verdict: the reader's.
        complaints: what else was not as it should be: errors in logs and counters.
        kills, stops: by role.
        links: what was done to links, by kind.
        seconds: the whole run.
        resting_seconds: from when publishing ended until nothing more came.
        undisturbed, disturbed: what subscribers wrote down in a second, in bytes, while all were left alone, and while
            only forwarders were killed; 0 where there was no time for that.
    """

    verdict: Verdict
    complaints: list[str]
    kills: Counter[str]
    stops: Counter[str]
    links: Counter[str]
    seconds: float
    resting_seconds: float
    undisturbed: float = 0.0
    disturbed: float = 0.0

    @property
    def failures(self) -> list[str]:
        """All that is wrong; empty when all is well."""
        return self.verdict.violations + self.complaints

    @property
    def share(self) -> float:
        """Of what came while all were left alone that which came while forwarders were killed."""
        return self.disturbed / self.undisturbed if self.undisturbed else 0.0

    def count(self, name: str) -> int:
        """A counter of all subscribers together."""
        return sum(self.verdict.stats[f"{role}.{name}"] for role in SUBSCRIBERS)

    def table(self) -> str:
        """For people."""
        verdict = self.verdict
        roles = [role for role in (*CREW, FORWARDER) if role in CREW or self.kills[role]]
        rows: list[tuple[str, int | float]] = [(f"kills of {role}", self.kills[role]) for role in roles]
        rows += [("stops", self.stops.total())]
        rows += [(f"links: {kind}", count) for kind, count in sorted(self.links.items())]
        rows += [
            ("messages published", verdict.published),
            ("being published at a kill", verdict.unconfirmed),
            *[(f"came to {role}", verdict.received[role]) for role in SUBSCRIBERS],
            ("applied in inboxes", verdict.applied),
            ("came from a history", verdict.replayed),
            ("came to a cursor again", verdict.twice),
            ("judged: there, or told of", verdict.owed),
            ("losses told", verdict.losses),
            ("messages in them", verdict.lost),
            ("tails told to be unknown", verdict.tails),
            ("gaps found", self.count("gaps_found")),
            ("messages recovered", self.count("messages_recovered")),
            ("comparisons", self.count("comparisons")),
            ("of them wrong", self.count("comparisons_wrong")),
            ("gaps doubtful", self.count("gaps_doubtful")),
            ("fences", self.count("fences")),
            ("fell behind", self.count("times_behind")),
            ("sessions lost", self.count("sessions_lost")),
            ("sessions resumed", self.count("sessions_resumed")),
            ("seconds", round(self.seconds, 1)),
            ("of them coming to rest", round(self.resting_seconds, 1)),
        ]
        if self.undisturbed:
            rows += [
                ("bytes noted/s, alone", round(self.undisturbed)),
                ("the same, forwarders killed", round(self.disturbed)),
                ("ratio", round(self.share, 2)),
            ]
        return "\n".join(f"{name:<28}{value:>10,}" for name, value in rows)


def run(
    seed: int,
    folder: Path,
    *,
    seconds: float | None = None,
    pause_s: tuple[float, float] = (0.05, 0.6),
    plant: str = "",
    forwarders: int = 0,
    say: Callable[[str], object] = str,
) -> Outcome:
    """Do harm for a while, and judge.

    Args:
        seed: decides what is done to whom, and what is published; when exactly that meets what, the machine does.
        folder: an empty one, for what the processes write.
        seconds: how long harm is done. None: a short plan, a little of everything, with fewer processes.
        pause_s: between two steps, the least and the most.
        plant: a bug to plant, that the reader must find.
        forwarders: put so many in a row between all publishers and all subscribers, and kill one every few seconds.
        say: told what is done.

    Raises:
        Stuck, Died: it did not come to its end.
    """
    began = time.monotonic()
    note = History(folder / "controller.history").mention
    harmed: Counter[str] = Counter()
    crew = SMALL_CREW if seconds is None else CREW
    publishers = [each for each in members(crew) if each in members(PUBLISHERS)]
    subscribers = [each for each in members(crew) if each in members(SUBSCRIBERS)]
    row = members({FORWARDER: forwarders})
    links = Links()
    for name in publishers:
        links.add(name, row[-1:] or subscribers)
    for before, name in zip([subscribers, *([each] for each in row)], row, strict=False):
        links.add(name, before)
    crew = {**crew, **({FORWARDER: forwarders} if forwarders else {})}
    name = f"chaos-{secrets.token_hex(4)}"
    program = "tests.chaos.pubsub.roles"
    with links, Fleet(folder, name, seed, plant, crew=crew, program=program, first=(), note=note) as fleet:
        for member in fleet.members:
            if member.name in publishers:
                member.address = _addresses(links, member.name)
            elif member.role == FORWARDER:
                called = row[member.index + 1 :][:1] or publishers
                there = [f"tcp://{host_of(0)}:{links.ports[each, 'data']}" for each in called]
                member.address = ",".join([f"tcp://{HOST}:{links.ports[member.name, 'data']}", *there])
            else:
                at = host_of(subscribers.index(member.name))
                called = row[:1] or publishers
                member.address = ",".join(f"tcp://{at}:{links.ports[each, 'data']}" for each in called)
            fleet.start(member, member.address)
        fleet.wait(lambda: all(each.told("busy") for each in fleet.members), BEGIN_S, "all processes to be at work")
        alone = killed = 0.0
        if forwarders and seconds is not None:
            alone, killed = _turns(fleet, folder, forwarder_kills(seed, forwarders), int(seconds // TURN_EVERY_S), say)
        drawn = short_plan if seconds is None else plan
        steps: Iterable[Step | LinkStep] = drawn(seed, pause_s, forwarders=forwarders)
        harm_began = time.monotonic()
        for step in steps:
            if seconds is not None and time.monotonic() - harm_began >= seconds:
                break
            say(f"{time.monotonic() - began:7.2f}  {step}")
            if isinstance(step, LinkStep):
                fleet.pause(step.pause_s)
                harmed[step.kind] += 1
                note(f"{step.kind} {step.plane} {step.publisher} {step.subscriber} {step.away_s} {time.monotonic()}")
                links.harm(step.publisher, step.subscriber, step.plane, step.kind, step.away_s)
            else:
                fleet.do(step)
        fleet.settle_down(BEGIN_S)
        links.heal()
        fleet.wait(lambda: all(each.told("busy") for each in fleet.members), BEGIN_S, "all to be at work again")
        fleet.pause(WELL_S)
        (folder / REST).touch()
        ours = [each for each in fleet.members if each.name in publishers]
        fleet.wait(lambda: all(each.told("rests") for each in ours), BEGIN_S, "all publishers to rest")
        resting = time.monotonic()
        _rest(fleet, folder, say)
        rested = time.monotonic()
        for role in (*SUBSCRIBERS, *PUBLISHERS, *([FORWARDER] if forwarders else [])):
            fleet.finish(role, END_S)
        complaints = fleet.complaints()
    verdict = judge(folder)
    complaints += [f"{count} x {name}" for name, count in verdict.stats.items() if name.endswith("io_core_errors")]
    took = time.monotonic() - began
    return Outcome(verdict, complaints, fleet.kills, fleet.stops, harmed, took, rested - resting, alone, killed)


def _turns(
    fleet: Fleet, folder: Path, kills: Iterator[Step], turns: int, say: Callable[[str], object]
) -> tuple[float, float]:
    """Leave all alone, kill forwarders, and again. Returns how much came in a second, of each."""
    came, took = [0.0, 0.0], [0.0, 0.0]
    for _ in range(turns):
        for harmed in (False, True):
            before, began = _size(folder), time.monotonic()
            while (left := began + TURN_S - time.monotonic()) > 0:
                step = next(kills) if harmed else None
                if step is None or step.pause_s > left:
                    fleet.pause(left)
                else:
                    say(f"only {step}")
                    fleet.do(step)
            came[harmed] += _size(folder) - before
            took[harmed] += time.monotonic() - began
        fleet.settle_down(BEGIN_S)
    return (came[0] / took[0], came[1] / took[1]) if turns else (0.0, 0.0)


def _addresses(links: Links, publisher: str) -> str:
    return ",".join(f"tcp://{HOST}:{links.ports[publisher, plane]}" for plane in ("data", "recovery"))


def _rest(fleet: Fleet, folder: Path, say: Callable[[str], object]) -> None:
    """Wait until nothing comes any more; longer, in bounds, if something is still missing then."""
    began = moved = time.monotonic()
    size = 0
    while (now := time.monotonic()) < min(moved + STILL_S, began + REST_S):
        if size != (size := _size(folder)):
            moved = now
            fleet.pause(QUIET_S)
        elif missing := _judge_now(folder):
            say(f"{now - began:.1f} s at rest, but: {missing[0]}")
            fleet.pause(AGAIN_S)
        else:
            return


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.received"))


def _judge_now(folder: Path) -> list[str]:
    """What is wrong just now. Journals are locked while they are open, so they are copied; nobody writes to them."""
    with tempfile.TemporaryDirectory(prefix="zmqkit-chaos-") as name:
        copy = Path(name)
        for path in folder.iterdir():
            if ".journal" in path.name and not path.name.endswith("-shm"):
                shutil.copy(path, copy)
            elif path.suffix in (".history", ".received", ".sqlite"):
                (copy / path.name).symlink_to(path)
        return judge(copy).violations
