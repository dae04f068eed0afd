"""The main job: a durable pipeline of processes that counts every file, while one of each role is killed.

::

    sender: a Pusher (journal, synced) --files--> workers --counts--> sink: a Puller (inbox: the totals)
            "<run>-files"              find both by name, keep nothing    "<run>-counts"

Each is a process of its own; this one starts them, kills one of each in turn, and reads the sink's file at the end.
Nothing of zmqkit is used but its public face.
"""

from __future__ import annotations

import dataclasses
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from zmqkit.demo import sink
from zmqkit.demo.counting import Source, Totals
from zmqkit.demo.crew import Crew, Member, Role, State

JOIN_S = 30.0
"""How long the workers may take to find the sender by name."""

STALL_S = 60.0
"""How long the run may go on without any file settling. It is far more than noticing a dead process takes."""

TICK_S = 0.1
"""How often the main thread looks round and the display changes."""

VICTIMS: tuple[Role, ...] = ("worker", "sender", "sink")
"""Who is killed, one of each, in turn."""


class Stalled(Exception):
    """The run does not get on."""


@dataclasses.dataclass(frozen=True, slots=True)
class Share:
    """One process, and what it did of the whole."""

    name: str
    pid: int
    state: State
    files: int
    """How many files it counted, if it is a worker."""
    role: Role = "worker"


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """How far the run is."""

    total: int
    sent: int
    """Stored in the journal, and synced."""
    in_flight: int
    """Lent to workers and not settled."""
    settled: int
    redelivered: int
    shares: tuple[Share, ...]
    seconds: float
    """Since the first file was handed over."""


@dataclasses.dataclass(frozen=True, slots=True)
class Mined:
    """What came out of the pipeline."""

    totals: Totals
    """Of what stands in the sink's file."""
    records: int
    """Of how many results that file says that they were counted."""
    rejected: list[str]
    """The reasons that stand in the dead letters, sorted."""
    dead: int
    redelivered: int
    duplicates: int
    """Results that came to the sink more than once and were counted once, as far as a sink lived to tell."""
    shares: tuple[Share, ...]
    joined_seconds: float
    """From starting the workers until all had found the sender by name."""
    seconds: float
    """From handing over the first file until all had settled."""

    def killed(self, role: Role) -> int:
        """How many of a role were killed."""
        return sum(share.role == role and share.state == "killed" for share in self.shares)


class Run:
    """One run of the pipeline.

    Args:
        folder: whose files are counted.
        sources: the files.
        workers: how many processes count them.
        kill: kill a process of each role midway, and start another.
        on_progress: told how far it is, about every `TICK_S` seconds.
        on_note: told in words what happened.
    """

    def __init__(
        self,
        folder: Path,
        sources: Sequence[Source],
        workers: int,
        kill: bool,
        on_progress: Callable[[Progress], object],
        on_note: Callable[[str], object],
    ) -> None:
        self.folder = folder
        self.sources = sources
        self.workers = workers
        self.on_progress = on_progress
        self.on_note = on_note
        self.began = 0.0
        self._to_kill = list(VICTIMS) if kill else []
        self._addresses: dict[Role, str] = {}
        self._options: dict[Role, dict[str, object]] = {}

    def __call__(self) -> Mined:
        """Do the whole run. Raises `Stalled` or `ProcessDied` if it cannot come to its end."""
        with (
            tempfile.TemporaryDirectory(prefix="zmqkit-demo-", ignore_cleanup_errors=True) as folder,
            Crew(Path(folder)) as self.crew,
        ):
            totals = Path(folder, "totals.db")
            sink.make(totals)
            joined_seconds = self._gather(Path(folder, "files.db"), totals)
            self.began = time.monotonic()
            self._wait()
            seconds = time.monotonic() - self.began
            last = self._progress()
            self.on_progress(last)
            rejected = list(self.crew.now("sender").told["rejected"])
            # All have settled, so the workers owe nobody anything, and what the sink acked is committed.
            for role in ("worker", "sink", "sender"):
                self.crew.stop(role)
            sums = Totals()
            for count in sink.read(totals):
                sums.add(count)
            return Mined(
                totals=sums,
                records=sink.records(totals),
                rejected=rejected,
                dead=self._of_sender("dead"),
                redelivered=last.redelivered,
                duplicates=sum(member.told.get("duplicates", 0) for member in self.crew.all_of("sink")),
                shares=self._progress().shares,
                joined_seconds=joined_seconds,
                seconds=seconds,
            )

    def _gather(self, journal: Path, totals: Path) -> float:
        """Start all, and wait until the workers have found the sender; returns how many seconds it took."""
        run = f"demo-{secrets.token_hex(4)}"
        files, counts = f"{run}-files", f"{run}-counts"
        self._options = {
            "sender": {"files": self.folder, "journal": journal, "announce": files, "workers": self.workers},
            "worker": {"source": f"zeroconf://{files}", "sink": f"zeroconf://{counts}"},
            "sink": {"totals": totals, "announce": counts},
        }
        since = time.monotonic()
        half = -(-len(self.sources) // 2) if self._to_kill else 0
        self.crew.hire("sender", **self._options["sender"], hold_at=half)
        self.crew.hire("sink", **self._options["sink"], hold_at=half)
        # Some worker gets its even share of all the files or more. Halfway there is a job that surely comes: and before
        # any worker has come so far, less than half of all is counted.
        for _ in range(self.workers):
            self.crew.hire("worker", **self._options["worker"], hold_at=-(-half // self.workers))
        while not self.crew.now("sender").told.get("joined"):
            self._tick()
            if time.monotonic() - since > JOIN_S:
                raise Stalled(f"not all {self.workers} workers found the sender within {JOIN_S:.0f} s")
        for member in self.crew.members:
            self.on_note(f"{member.name} (process {member.pid}) joined")
        return time.monotonic() - since

    def _wait(self) -> None:
        """Wait until every file has settled."""
        settled, since = -1, time.monotonic()
        while not self.crew.now("sender").told.get("settled"):
            progress = self._tick()
            if progress.settled != settled:
                settled, since = progress.settled, time.monotonic()
            elif time.monotonic() - since > STALL_S:
                waiting = progress.total - progress.settled
                raise Stalled(f"{waiting} files wait, and none has settled for {STALL_S:.0f} s")

    def _tick(self) -> Progress:
        """Look round: is all well, is somebody to be killed, how far are we."""
        for member, told in self.crew.hear(TICK_S):
            if "open" in told:
                self._addresses[member.role] = told["open"]
            if "again" in told:
                self.on_note(f"{told['again']} jobs that a lost worker held are on their way to others")
        for member in self.crew.lost():
            self.on_note(f"{member.name} (process {member.pid}) was killed by somebody else")
            self._replace(member)
        self._kill()
        progress = self._progress()
        self.on_progress(progress)
        return progress

    def _kill(self) -> None:
        """Kill who has work in hand, if it is the turn of its role: when the one before is replaced and made good."""
        sender = self.crew.now("sender")
        if not self._to_kill or "open" not in sender.told:
            return
        role = self._to_kill[0]
        if role == "sender" and not sender.told.get("redelivered"):
            return
        victim = next((each for each in self.crew.working() if each.role == role and each.holding), None)
        if victim is not None:
            self._to_kill.pop(0)
            what = {"sender": "files to send", "worker": "jobs in hand", "sink": "counts that are not committed"}[role]
            self.on_note(f"{victim.name} (process {victim.pid}) has {what} and gets SIGKILL")
            self.crew.kill(victim)
            self._replace(victim)
            self.crew.release(role)

    def _replace(self, member: Member) -> None:
        role = member.role
        options = dict(self._options[role])
        if role in self._addresses:
            options["address"] = self._addresses[role]
        # One that somebody else killed was perhaps the one to be killed by us: then its successor is.
        successor = self.crew.hire(role, **options, hold_at=int(role in self._to_kill))
        self.on_note(f"{successor.name} (process {successor.pid}) takes the place of {member.name}")

    def _progress(self) -> Progress:
        settled = sum(self._files().values()) + self._of_sender("dead")
        files = self._files()
        shares = [Share(each.name, each.pid, each.state, files[each.name], each.role) for each in self.crew.members]
        told = self.crew.now("sender").told
        lent = told.get("delivered", 0) - told.get("redelivered", 0) - told.get("acked", 0) - told.get("dead", 0)
        return Progress(
            total=len(self.sources),
            sent=self._of_sender("sent"),
            in_flight=max(0, lent),
            settled=min(settled, len(self.sources)),
            redelivered=sum(member.told.get("redelivered", 0) for member in self.crew.all_of("sender")),
            shares=tuple(shares),
            seconds=time.monotonic() - self.began if self.began else 0.0,
        )

    def _files(self) -> Counter[str]:
        """How many files each worker counted, as the sink told last."""
        told = [member.told["counted"] for member in self.crew.all_of("sink") if "counted" in member.told]
        return Counter(told[-1] if told else {})

    def _of_sender(self, what: str) -> int:
        """What a sender told of the whole: the newest, which begins anew, or the one before."""
        return max((int(member.told.get(what, 0)) for member in self.crew.all_of("sender")), default=0)
