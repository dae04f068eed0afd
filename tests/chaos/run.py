"""One run: begin, do harm by the plan, let all settle, and have the reader judge."""

from __future__ import annotations

import dataclasses
import json
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.chaos.copies import Copies
from tests.chaos.fleet import ROOT, Fleet
from tests.chaos.peers import make_databases
from tests.chaos.plan import CREW, Role, steps
from tests.chaos.reader import SENDING, Verdict, judge

BEGIN_S = 30.0
"""How long all processes may take to start; it takes about two seconds."""
SETTLE_S = 120.0
"""How long everything may take to settle once nobody is harmed any more; it takes a few seconds."""


@dataclasses.dataclass
class Outcome:
    """What a run came to.

    Attributes:
        seed: from which it was drawn.
        crew: how many processes of each role there were.
        verdict: the reader's.
        complaints: what else was not as it should be: journals with something left, errors in logs and counters.
        kills, kills_at_work, stops, restores, restarts: by role. A restore puts back an older copy of a journal.
        slowest: seconds that any life took at most until it was at work, by role.
        seconds: the whole run.
        settling_seconds: from the last harm until all had settled.
    """

    seed: int
    crew: Mapping[Role, int]
    verdict: Verdict
    complaints: list[str]
    kills: Counter[Role]
    kills_at_work: Counter[Role]
    stops: Counter[Role]
    restores: Counter[Role]
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
        names = ("pusher.redelivered", "sender.redelivered", "worker.sink_redelivered")
        return sum(self.verdict.stats[name] for name in names)

    @property
    def stale(self) -> int:
        """Settles that came too late and changed nothing, at either end."""
        return sum(count for name, count in self.verdict.stats.items() if name.endswith("settles_stale"))

    def table(self) -> str:
        """For people."""
        lines = [
            f"{'role':<10}{'processes':>10}{'SIGKILLs':>10}{'at work':>9}{'SIGSTOPs':>10}{'restores':>10}"
            f"{'restarts':>10}{'slowest, s':>12}"
        ]
        counts = (self.kills, self.kills_at_work, self.stops, self.restores, self.restarts)
        row = "{:<10}{:>10}{:>10}{:>9}{:>10}{:>10}{:>10}"
        for role, count in self.crew.items():
            lines.append(row.format(role, count, *[each[role] for each in counts]) + f"{self.slowest[role]:>12.1f}")
        lines.append(row.format("all", sum(self.crew.values()), *[each.total() for each in counts]))
        verdict = self.verdict
        kinds, stats = verdict.kinds, verdict.stats
        lines += ["", *_columns([
            ("items confirmed", verdict.confirmed),
            ("  by an outbox", verdict.ordered),
            ("  lost", kinds["lost"]),
            ("results counted", verdict.counted),
            ("  doubled", kinds["doubled"]),
            ("  invented", kinds["invented"]),
            ("  without a record", kinds["records"]),
            ("items in doubt, named", verdict.unconfirmed + verdict.abandoned),
            ("  killed in a send", verdict.unconfirmed),
            ("  lost with a journal", verdict.abandoned),
            ("  of them counted", verdict.came),
            ("items refused", verdict.refused),
            ("items sent again by id", verdict.again),
            ("rollbacks: put back", verdict.restored["back"]),
            ("rollbacks: gone on", verdict.restored["on"]),
            ("in order behind a key", verdict.keyed),
            ("watched settling", verdict.watched),
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
    return [f"{name:<24}{value:>10,}" for name, value in pairs]


def run(
    kills: int,
    seed: int,
    folder: Path,
    *,
    seconds: float = 0.0,
    crew: Mapping[Role, int] = CREW,
    plant: str = "",
    say: Callable[[str], object] = str,
) -> Outcome:
    """Do so many kills, and judge.

    Args:
        kills: in all, evenly over the roles; more if there is time.
        seed: decides who is killed or stopped when, and what is sent; when exactly that meets what, the machine does.
        folder: an empty one, for what the processes write.
        seconds: harm is done for so long at least.
        crew: how many processes of each role there are.
        plant: a bug to plant, that the reader must find; see `tests.chaos.__main__`.
        say: told what is done.

    Raises:
        Stuck, Died: it did not come to its end.
    """
    began = time.monotonic()
    copies = Copies(folder)
    make_databases(folder, seed, crew["sender"])
    with Fleet(folder, f"chaos-{secrets.token_hex(4)}", seed, plant, crew=crew, dead=copies) as fleet:
        fleet.wait(lambda: all(each.told("busy") for each in fleet.members), BEGIN_S, "all processes to be at work")
        harmed = time.monotonic()
        for step in steps(seed, crew):
            if fleet.kills.total() >= kills and time.monotonic() - harmed >= seconds:
                break
            say(f"{time.monotonic() - began:7.2f}  {step}")
            fleet.do(step)
        harmless = time.monotonic()
        fleet.settle_down(BEGIN_S)
        for role in SENDING:
            fleet.finish(role, SETTLE_S)
        settled = time.monotonic()
        for role in ("worker", "sink"):
            fleet.finish(role, SETTLE_S)
        complaints = fleet.complaints()
    verdict = judge(folder)
    return Outcome(
        seed=seed,
        crew=crew,
        verdict=verdict,
        complaints=[
            *complaints,
            *[f"{count} x {name}" for name, count in verdict.stats.items() if name.endswith("io_core_errors")],
            *left_in_journals(folder, verdict.dead, sum(crew[role] for role in SENDING)),
        ],
        kills=fleet.kills,
        kills_at_work=fleet.kills_at_work,
        stops=fleet.stops,
        restores=copies.restored,
        restarts=fleet.restarts,
        slowest=fleet.slowest,
        seconds=time.monotonic() - began,
        settling_seconds=settled - harmless,
    )


def left_in_journals(folder: Path, dead: int, journals: int) -> list[str]:
    """What ``zmqkit journal ls`` has to say of so many journals, against what the reader found in the same files."""
    paths = sorted(str(path) for path in folder.glob("*.journal"))
    done = subprocess.run(
        [sys.executable, "-m", "zmqkit.cli", "journal", "ls", "--json", *paths],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    if done.returncode:
        return [f"zmqkit journal ls ended with {done.returncode}: {done.stderr}"]
    found = json.loads(done.stdout)
    complaints = [f"zmqkit journal ls: {each}" for each in found if each["state"] != "closed" or each["waiting"]]
    if len(found) != journals or sum(each["dead"] for each in found) != dead:
        complaints.append(f"zmqkit journal ls shows other journals and dead letters than there are: {found}")
    return complaints
