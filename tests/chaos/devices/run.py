"""Runs with devices in the path: all are left alone for a while, then devices are killed and stopped for as long.

Nobody else is harmed, so nothing is excused that follows from the death of a peer. What was done in both halves is
compared; the readers of the patterns judge both together.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from random import Random

from tests.chaos import reader as jobs_reader
from tests.chaos.calls import plan as calls
from tests.chaos.calls import reader as calls_reader
from tests.chaos.devices.outcome import Length, Outcome
from tests.chaos.devices.plan import plan, row
from tests.chaos.devices.reader import absences, is_device, outages, restarts
from tests.chaos.fleet import Fleet
from tests.chaos.history import History
from tests.chaos.peers import make_databases
from tests.chaos.plan import Step
from tests.chaos.process import STATS_EVERY_S
from tests.chaos.reader import last_stats, lives
from tests.chaos.run import left_in_journals

HOSTS = ("127.0.0.3", "127.0.0.1")
"""Where all bind: where there is more than one address of this host, away from the ports that connections are given."""
JOBS = {"pusher": 3, "worker": 4, "sink": 2}
"""How many processes of each role there are with streamers between them."""
BEGIN_S = 40.0
"""How long all processes may take to start; it takes a few seconds."""
TURNS = 4
"""So often all are left alone and then harmed, in a long run: a machine is not equally busy all the time."""
END_S = 60.0
"""How long everything may take to come to its end once nobody is harmed any more; it takes a few seconds."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Halves:
    """What was measured while a fleet was left alone, and while it was not. As in `Outcome`."""

    undisturbed: float
    disturbed: float
    lost: int


class Ports:
    """Addresses of this host that were free a moment ago, none twice."""

    def __init__(self) -> None:
        self._host = next(host for host in HOSTS if _is_here(host))
        self._given: set[int] = set()

    def __call__(self) -> str:
        """Another one."""
        while True:
            with socket.create_server((self._host, 0)) as found:
                port: int = found.getsockname()[1]
            if port not in self._given:
                self._given.add(port)
                return f"tcp://{self._host}:{port}"


def _is_here(host: str) -> bool:
    with contextlib.suppress(OSError):
        socket.create_server((host, 0)).close()
        return True
    return False


def run_jobs(
    seed: int,
    folder: Path,
    devices: int,
    length: Length,
    *,
    plant: str = "",
    say: Callable[[str], object] = str,
) -> Outcome:
    """Pushers, workers and sinks, with streamers in both ways between them.

    Args:
        seed: decides who dials whom, what is done to which device, and what is sent; when exactly that meets what, the
            machine does.
        folder: an empty one, for what the processes write.
        devices: so many in a row in each of the two ways.
        length: of the run.
        plant: a bug to plant, that the reader must find.
        say: told what is done.

    Raises:
        Stuck, Died: it did not come to its end.
    """
    began = time.monotonic()
    rng, port = Random(seed), Ports()
    crew = {**JOBS, "streamer": 2 * devices}
    make_databases(folder, seed, 0)
    pushers, sinks = [port() for _ in range(crew["pusher"])], [port() for _ in range(crew["sink"])]
    pushers_dial, sinks_dial = rng.random() < 0.5, rng.random() < 0.5
    say(f"pushers {'dial' if pushers_dial else 'are dialled'}, sinks {'dial' if sinks_dial else 'are dialled'}")
    items = row(devices, crew["pusher"] * crew["worker"], port, near=() if pushers_dial else pushers)
    results = row(devices, crew["worker"] * crew["sink"], port, far=() if sinks_dial else sinks)
    addresses = {
        "pusher": [_dial(items[0].front)] * crew["pusher"] if pushers_dial else pushers,
        "worker": [f"{_dial(items[-1].back)},{_dial(results[0].front)}"] * crew["worker"],
        "sink": [_dial(results[-1].back)] * crew["sink"] if sinks_dial else sinks,
        "streamer": [str(spec) for spec in (*items, *results)],
    }

    def results_there() -> int:
        return _count(folder, "sink-*.history", b"counted ")

    fleet = _fleet(folder, seed, plant, crew, "tests.chaos.roles", devices)
    with fleet:
        _begin(fleet, addresses)
        halves = _harm(fleet, plan(seed, "streamer", 2 * devices, length.pause_s), length, results_there, say)
        for role in ("pusher", "worker", "sink", "streamer"):
            fleet.finish(role, END_S)
        complaints = fleet.complaints()
    verdict = jobs_reader.judge(folder)
    complaints += left_in_journals(folder, verdict.dead, crew["pusher"])
    counted = {
        "items confirmed": verdict.confirmed,
        "items unknown": verdict.unconfirmed,
        "results counted": verdict.counted,
        "dead letters": verdict.dead,
    }
    again = {
        "duplicates filtered": verdict.duplicates,
        "stale settles": sum(count for name, count in verdict.stats.items() if name.endswith("settles_stale")),
        "acks told too late": verdict.late,
    }
    return _outcome(fleet, "streamer", halves, verdict, complaints, counted, again, "results", began)


def run_calls(
    seed: int,
    folder: Path,
    devices: int,
    length: Length,
    *,
    plant: str = "",
    say: Callable[[str], object] = str,
) -> Outcome:
    """Callers and servers, with queues between them. As `run_jobs`; it is measured, too, how soon calls go on."""
    began = time.monotonic()
    rng, port = Random(seed), Ports()
    crew = {**calls.CREW, "queue": devices}
    servers = [port() for _ in range(crew["server"])]
    servers_dial = rng.random() < 0.5
    say(f"servers {'dial' if servers_dial else 'are dialled'}")
    clients = crew["caller"] - 1 + calls.SHARED
    queues = row(devices, clients * crew["server"], port, far=() if servers_dial else servers)
    addresses = {
        "server": [_dial(queues[-1].back)] * crew["server"] if servers_dial else servers,
        "caller": [_dial(queues[0].front)[1:]] * crew["caller"],
        "queue": [str(spec) for spec in queues],
    }

    def calls_answered() -> int:
        return _count(folder, "caller-*.history", b" result ")

    fleet = _fleet(folder, seed, plant, crew, "tests.chaos.calls.roles", devices)
    with fleet:
        _begin(fleet, addresses)
        halves = _harm(fleet, plan(seed, "queue", devices, length.pause_s), length, calls_answered, say)
        for role in ("caller", "server", "queue"):
            fleet.finish(role, END_S)
        complaints = fleet.complaints()
    verdict = calls_reader.judge(folder)
    counted = {
        "calls": verdict.outcomes.total(),
        "executions": verdict.executions,
        **{f"ended: {kind}": count for kind, count in verdict.outcomes.most_common()},
        "outages to be excused": verdict.harms,
    }
    again = {
        "calls retried": verdict.stats["caller.calls_retried"],
        "calls repeated": verdict.stats["server.calls_repeated"],
    }
    return _outcome(fleet, "queue", halves, verdict, complaints, counted, again, "calls", began)


# ---- what both have in common ----------------------------------------------------------


def _dial(bound: Sequence[str]) -> str:
    """How peers reach what a device binds."""
    (address,) = bound
    return f">{address.removeprefix('@')}"


def _fleet(folder: Path, seed: int, plant: str, crew: Mapping[str, int], program: str, devices: int) -> Fleet:
    return Fleet(
        folder,
        f"chaos-{secrets.token_hex(4)}",
        seed,
        plant,
        crew=crew,
        program=program,
        programs=dict.fromkeys(("queue", "streamer"), "tests.chaos.devices.roles"),
        first=(),
        devices=devices,
        note=History(folder / "controller.history").mention,
    )


def _begin(fleet: Fleet, addresses: Mapping[str, Sequence[str]]) -> None:
    for member in fleet.members:
        member.address = addresses[member.role][member.index]
        fleet.start(member, member.address)
    fleet.wait(lambda: all(each.told("busy") for each in fleet.members), BEGIN_S, "all processes to be at work")


def _harm(
    fleet: Fleet, steps: Iterable[Step], length: Length, work: Callable[[], int], say: Callable[[str], object]
) -> _Halves:
    """Leave all alone for a while, then kill devices for as long, in turns, and measure what is done."""
    turns = 1 if length.steps else TURNS
    done = {"alone": [0.0, 0], "harmed": [0.0, 0]}
    began = time.monotonic()
    for turn in range(2 * turns):
        since, before = time.monotonic(), work()
        if turn % 2 == 0:
            fleet.pause(length.seconds / turns)
        for step in itertools.islice(steps, length.steps) if turn % 2 else ():
            say(f"{time.monotonic() - began:7.2f}  {step}")
            fleet.do(step)
            if not length.steps and time.monotonic() - since >= length.seconds / turns:
                break
        # What was done last is to be over before all are left alone.
        fleet.wait(fleet.all_well, BEGIN_S, "all sessions to go through all devices")
        found = done["harmed" if turn % 2 else "alone"]
        found[0] += time.monotonic() - since
        found[1] += work() - before
    fleet.pause(2 * STATS_EVERY_S)  # until they have written down how they are; afterwards they say goodbye
    peers = [path for path in fleet.folder.glob("*.history") if not is_device(path.name.split(".")[0])]
    lost = sum(count for path in peers for name, count in last_stats(path).items() if name.endswith("sessions_lost"))
    alone, harmed = [much / seconds for seconds, much in done.values()]
    return _Halves(alone, harmed, lost)


def _count(folder: Path, files: str, what: bytes) -> int:
    return sum(path.read_bytes().count(what) for path in folder.glob(files))


def _outcome(
    fleet: Fleet,
    role: str,
    halves: _Halves,
    verdict: jobs_reader.Verdict | calls_reader.Verdict,
    complaints: list[str],
    counted: Mapping[str, int],
    again: Mapping[str, int],
    work: str,
    began: float,
) -> Outcome:
    stats = verdict.stats
    found = absences(fleet.folder / "controller.history")
    later = [path for path in lives(fleet.folder, role) if path.name.split(".")[1] != "1"]
    return Outcome(
        violations=verdict.violations,
        complaints=[
            *complaints,
            *[f"{count} x {name}" for name, count in stats.items() if name.endswith("core_errors")],
        ],
        counted=counted,
        again=again,
        work=work,
        kills=fleet.kills[role],
        stops=fleet.stops[role],
        undisturbed=halves.undisturbed,
        disturbed=halves.disturbed,
        resumed=sum(
            count
            for name, count in stats.items()
            if name.endswith("sessions_resumed") and not name.startswith(f"{role}.")
        ),
        passed_on=sum(last_stats(path).get("sessions_resumed", 0) for path in later),
        lost=halves.lost,
        away=[until - since for since, until in outages(found)],
        restarts=restarts(found, verdict.answered) if isinstance(verdict, calls_reader.Verdict) else [],
        seconds=time.monotonic() - began,
    )
