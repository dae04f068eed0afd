"""The main job: a durable pipeline of processes that counts every file, while one of them is killed.

::

    Pusher (journal, synced) --files--> workers, each a process of its own --counts--> Puller: the totals
       "<run>-files"                      find both by name, keep nothing               "<run>-counts"

Nothing of zmqkit is used but its public face.
"""

from __future__ import annotations

import dataclasses
import secrets
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import zmqkit
from zmqkit.demo.counting import Source, Totals
from zmqkit.demo.crew import Crew, Member, State

JOIN_S = 30.0
"""How long the workers may take to find the pusher by name."""

STALL_S = 60.0
"""How long the run may go on without any file settling. It is far more than noticing a dead worker takes."""

TICK_S = 0.1
"""How often the main thread looks round and the display changes."""

CHUNK = 64
"""How many files are handed over at a time."""


class Stalled(Exception):
    """The run does not get on."""


@dataclasses.dataclass(frozen=True, slots=True)
class Share:
    """What one worker did of the whole."""

    name: str
    pid: int
    state: State
    files: int


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
    rejected: list[str]
    """The reasons that stand in the dead letters, sorted."""
    acked: int
    dead: int
    redelivered: int
    duplicates: int
    """Results that came to the sink more than once and were counted once."""
    shares: tuple[Share, ...]
    joined_seconds: float
    """From starting the workers until all had found the pusher by name."""
    seconds: float
    """From handing over the first file until all had settled."""


class Sink:
    """The end of the pipeline. It keeps the ids that it has seen, so that each result counts once."""

    def __init__(self, name: str) -> None:
        self.puller: zmqkit.Puller[dict[str, Any]] = zmqkit.Puller(
            bind="tcp://127.0.0.1:*", announce=name, name="demo-sink"
        )
        self.totals = Totals()
        self.duplicates = 0
        self.failure: BaseException | None = None
        self._shares: Counter[str] = Counter()
        self._seen: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="demo-sink", daemon=True)

    def shares(self) -> dict[str, int]:
        """How many files each worker counted."""
        return self._shares.copy()

    def _run(self) -> None:
        try:
            for job in self.puller:
                with job:
                    self._take(job)
        except BaseException as error:
            self.failure = error

    def _take(self, job: zmqkit.Job[dict[str, Any]]) -> None:
        # A worker's result has an id that follows from its input's: what is made twice bears one id.
        if job.id in self._seen:
            self.duplicates += 1
            return
        self._seen.add(job.id)
        self.totals.add(job.body["count"])
        self._shares[job.body["worker"]] += 1

    def __enter__(self) -> Sink:
        self.puller.open()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.puller.stop()
        self._thread.join()
        self.puller.close()


class Run:
    """One run of the pipeline.

    Args:
        sources: the files.
        workers: how many processes count them.
        kill: kill one of them midway, and start another.
        on_progress: told how far it is, about every `TICK_S` seconds.
        on_note: told in words what happened.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        workers: int,
        kill: bool,
        on_progress: Callable[[Progress], object],
        on_note: Callable[[str], object],
    ) -> None:
        self.sources = sources
        self.workers = workers
        self.kill = kill
        self.on_progress = on_progress
        self.on_note = on_note
        self.began = 0.0

    def __call__(self) -> Mined:
        """Do the whole run. Raises `Stalled` or `WorkerDied` if it cannot come to its end."""
        run = f"demo-{secrets.token_hex(4)}"
        with (
            # Ended early, the pusher warns of what is left in its journal; but that goes with the folder.
            warnings.catch_warnings(action="ignore", category=RuntimeWarning),
            tempfile.TemporaryDirectory(prefix="zmqkit-demo-", ignore_cleanup_errors=True) as folder,
            Sink(f"{run}-counts") as self.sink,
            zmqkit.Pusher(
                "tcp://127.0.0.1:*",
                journal=Path(folder, "files.db"),
                durability="power",
                announce=f"{run}-files",
                name="demo-files",
                linger=0.0,  # left early, it has nobody to serve: the workers go first
            ) as self.pusher,
            Crew(f"zeroconf://{run}-files", f"zeroconf://{run}-counts", Path(folder)) as self.crew,
        ):
            rejected: list[str] = []
            self.pusher.on(zmqkit.events.JobDead, lambda event: rejected.append(event.reason))
            self.pusher.on(zmqkit.events.JobRedelivered, self._note_redelivered)
            joined_seconds = self._gather()
            self.began = time.monotonic()
            self._send()
            settled = self._wait()
            seconds = time.monotonic() - self.began
            last = self._progress()
            self.on_progress(last)
            # All have settled, so the workers owe nobody anything, and the sink has counted what it acked.
            self._wait_for_workers()
            self.crew.stop()
            shares = self._progress().shares
        return Mined(
            totals=self.sink.totals,
            rejected=sorted(rejected),
            acked=settled.acked,
            dead=settled.dead,
            redelivered=last.redelivered,
            duplicates=self.sink.duplicates,
            shares=shares,
            joined_seconds=joined_seconds,
            seconds=seconds,
        )

    def _gather(self) -> float:
        """Start the workers and wait until all have found the pusher; returns how many seconds it took."""
        self.began = time.monotonic()
        # Some worker gets its even share of all the files or more. Halfway there is a job that surely comes.
        hold_at = -(-len(self.sources) // (2 * self.workers)) if self.kill else 0
        for _ in range(self.workers):
            self.crew.hire(hold_at=hold_at)
        self._wait_for_workers()
        seconds = time.monotonic() - self.began
        for member in self.crew.members:
            self.on_note(f"{member.name} (process {member.pid}) joined")
        return seconds

    def _wait_for_workers(self) -> None:
        """Wait until all who should be working are in session with the pusher, those that came later too."""
        since = time.monotonic()
        while True:
            try:
                return self.pusher.wait_for_peers(self.workers, timeout=TICK_S)
            except zmqkit.WaitTimeout:
                self._tick()
            if time.monotonic() - since > JOIN_S:
                raise Stalled(f"not all {self.workers} workers found the pusher within {JOIN_S:.0f} s")

    def _send(self) -> None:
        for at in range(0, len(self.sources), CHUNK):
            self.pusher.send_many(self._bodies(self.sources[at : at + CHUNK]))
            self._tick()

    @staticmethod
    def _bodies(sources: Sequence[Source]) -> Iterator[dict[str, object]]:
        for source in sources:
            yield {"file": source.label, "source": source.read()}

    def _wait(self) -> zmqkit.Settled:
        """Wait until every file has settled."""
        settled, since = -1, time.monotonic()
        while True:
            try:
                return self.pusher.flush(timeout=TICK_S)
            except zmqkit.WaitTimeout:
                progress = self._tick()
            if progress.settled != settled:
                settled, since = progress.settled, time.monotonic()
            elif time.monotonic() - since > STALL_S:
                waiting = progress.sent - progress.settled
                raise Stalled(f"{waiting} files wait, and none has settled for {STALL_S:.0f} s")

    def _tick(self) -> Progress:
        """Look round: is all well, is somebody to be killed, how far are we."""
        if self.sink.failure is not None:
            raise self.sink.failure
        for member in self.crew.lost():
            self.on_note(f"{member.name} (process {member.pid}) was killed by somebody else")
            self._replace(member)
        if self.kill and (victim := self.crew.holding()):
            self.kill = False
            self.on_note(f"{victim.name} (process {victim.pid}) has jobs in hand and gets SIGKILL")
            self.crew.kill(victim)
            self._replace(victim)
            self.crew.release()
        progress = self._progress()
        self.on_progress(progress)
        return progress

    def _replace(self, member: Member) -> None:
        successor = self.crew.hire(hold_at=1 if self.kill else 0)
        self.on_note(f"{successor.name} (process {successor.pid}) takes the place of {member.name}")

    def _progress(self) -> Progress:
        stats = self.pusher.stats()
        settled = int(stats["acked"] + stats["dead"])
        redelivered = int(stats["redelivered"])
        files = self.sink.shares()
        return Progress(
            total=len(self.sources),
            sent=int(stats["sent"]),
            in_flight=max(0, int(stats["delivered"]) - redelivered - settled),
            settled=settled,
            redelivered=redelivered,
            shares=tuple(Share(each.name, each.pid, each.state, files.get(each.name, 0)) for each in self.crew.members),
            seconds=time.monotonic() - self.began,
        )

    def _note_redelivered(self, event: zmqkit.events.JobRedelivered) -> None:
        self.on_note(f"{event.count} jobs that a lost worker held are on their way to others")
