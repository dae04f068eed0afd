"""One run: begin, do harm by the plan, let all settle, and have the reader judge."""

from __future__ import annotations

import dataclasses
import json
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.chaos.fleet import ROOT, Fleet
from tests.chaos.plan import CREW, Role, plan
from tests.chaos.reader import Verdict, judge

BEGIN_S = 30.0
"""How long all processes may take to start; it takes about two seconds."""
SETTLE_S = 60.0
"""How long everything may take to settle once nobody is harmed any more; it takes a few seconds."""


@dataclasses.dataclass
class Outcome:
    """What a run came to.

    Attributes:
        seed: from which it was drawn.
        verdict: the reader's.
        complaints: what else was not as it should be: journals with something left, errors in logs and counters.
        kills, kills_at_work, stops, restarts: by role.
        slowest: seconds that any life took at most until it was at work, by role.
        seconds: the whole run.
        settling_seconds: from the last harm until all had settled.
    """

    seed: int
    verdict: Verdict
    complaints: list[str]
    kills: Counter[Role]
    kills_at_work: Counter[Role]
    stops: Counter[Role]
    restarts: Counter[Role]
    slowest: dict[Role, float]
    seconds: float
    settling_seconds: float

    @property
    def failures(self) -> list[str]:
        """All that is wrong; empty when all is well."""
        return self.verdict.violations + self.complaints

    @property
    def redelivered(self) -> int:
        """Messages that were lent anew, as far as those who lent them lived to tell."""
        return self.verdict.stats["pusher.redelivered"] + self.verdict.stats["worker.sink_redelivered"]

    @property
    def stale(self) -> int:
        """Settles that came too late and changed nothing, at either end."""
        names = ("pusher.settles_stale", "worker.source_settles_stale", "worker.sink_settles_stale")
        return sum(self.verdict.stats[name] for name in (*names, "sink.settles_stale"))

    def table(self) -> str:
        """For people."""
        lines = [
            f"{'role':<10}{'processes':>10}{'kills':>8}{'at work':>9}{'stops':>7}{'restarts':>10}{'slowest, s':>12}"
        ]
        for role, count in CREW.items():
            kills, at_work = self.kills[role], self.kills_at_work[role]
            row = f"{role:<10}{count:>10}{kills:>8}{at_work:>9}{self.stops[role]:>7}{self.restarts[role]:>10}"
            lines.append(f"{row}{self.slowest[role]:>12.1f}")
        total = [each.total() for each in (self.kills, self.kills_at_work, self.stops, self.restarts)]
        lines.append("{:<10}{:>10}{:>8}{:>9}{:>7}{:>10}".format("all", sum(CREW.values()), *total))
        verdict = self.verdict
        stats = verdict.stats
        lines += ["", *_columns([
            ("items confirmed", verdict.confirmed),
            ("items unknown", verdict.unconfirmed),
            ("items refused", verdict.refused),
            ("watched settling", verdict.watched),
            ("results counted", verdict.counted),
            ("dead letters", verdict.dead),
            ("redelivered", self.redelivered),
            ("duplicates filtered", verdict.duplicates),
            ("stale settles", self.stale),
            ("acks told too late", verdict.late),
            ("sessions lost", sum(each for name, each in stats.items() if name.endswith("sessions_lost"))),
            ("sessions resumed", sum(each for name, each in stats.items() if name.endswith("sessions_resumed"))),
            ("seconds", round(self.seconds, 1)),
            ("of them settling", round(self.settling_seconds, 1)),
        ])]  # fmt: skip
        return "\n".join(lines)


def _columns(pairs: list[tuple[str, int | float]]) -> list[str]:
    return [f"{name:<22}{value:>10,}" for name, value in pairs]


def run(kills: int, seed: int, folder: Path, *, plant: str = "", say: Callable[[str], object] = str) -> Outcome:
    """Do so many kills, and judge.

    Args:
        kills: in all, evenly over the roles.
        seed: decides who is killed or stopped when, and what is sent; when exactly that meets what, the machine does.
        folder: an empty one, for what the processes write.
        plant: a bug to plant, that the reader must find: "boastful-pusher", "hasty-worker" or "forgetful-sink".
        say: told what is done.

    Raises:
        Stuck, Died: it did not come to its end.
    """
    began = time.monotonic()
    with Fleet(folder, f"chaos-{secrets.token_hex(4)}", seed, plant) as fleet:
        fleet.wait(lambda: all(each.told("busy") for each in fleet.members), BEGIN_S, "all processes to be at work")
        for step in plan(kills, seed):
            say(f"{time.monotonic() - began:7.2f}  {step}")
            fleet.do(step)
        harmless = time.monotonic()
        fleet.settle_down(BEGIN_S)
        fleet.finish("pusher", SETTLE_S)
        settled = time.monotonic()
        fleet.finish("worker", SETTLE_S)
        fleet.finish("sink", SETTLE_S)
        complaints = fleet.complaints()
    verdict = judge(folder)
    return Outcome(
        seed=seed,
        verdict=verdict,
        complaints=[
            *complaints,
            *[f"{count} x {name}" for name, count in verdict.stats.items() if name.endswith("io_core_errors")],
            *left_in_journals(folder, verdict.dead),
        ],
        kills=fleet.kills,
        kills_at_work=fleet.kills_at_work,
        stops=fleet.stops,
        restarts=fleet.restarts,
        slowest=fleet.slowest,
        seconds=time.monotonic() - began,
        settling_seconds=settled - harmless,
    )


def left_in_journals(folder: Path, dead: int) -> list[str]:
    """What ``zmqkit journal ls`` has to say, against what the reader found in the same files."""
    done = subprocess.run(
        [sys.executable, "-m", "zmqkit.cli", "journal", "ls", "--json", str(folder)],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    if done.returncode:
        return [f"zmqkit journal ls ended with {done.returncode}: {done.stderr}"]
    found = json.loads(done.stdout)
    complaints = [f"zmqkit journal ls: {each}" for each in found if each["state"] != "closed" or each["waiting"]]
    if len(found) != CREW["pusher"] or sum(each["dead"] for each in found) != dead:
        complaints.append(f"zmqkit journal ls shows other journals and dead letters than there are: {found}")
    return complaints
