"""A pusher and a puller with an inbox, on real files, in one thread: the real faces and cores on a `Bench`.

Time is virtual but for its beginning, so delays cost nothing. Knows no story.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from functools import partial
from pathlib import Path
from typing import Any, Final

from zmqkit import Backoff, Heartbeat, Puller, Pusher
from zmqkit.errors import CommitIndeterminate, JournalError
from zmqkit.options import Window
from zmqkit.patterns.pipeline import Job, wire
from zmqkit.protocol.core import Core
from zmqkit.protocol.session import Session
from zmqkit.testing.bench import Bench, BenchDriver

NOWHERE: Final = "inproc://zmqkit.crashpoints"
HEARTBEAT: Final = Heartbeat(interval=10.0)
BOUND: Final = HEARTBEAT.interval * HEARTBEAT.liveness
"""Seconds after which whoever is silent is given up, and what he held goes to others."""
WINDOW: Final = Window(seconds=1e6, count=4)
"""Of ids: by count so small that it moves, and never over by time."""
MAX_FAILURES: Final = 2


class Stage:
    """One life of the two processes.

    Args:
        folder: where the files are: ``jobs.db`` and what belongs to it, and ``app.db`` with the user's tables.
        offset: how far virtual time is ahead of the system's, in seconds.
        durability: of the journal.
    """

    def __init__(self, folder: Path, *, offset: float = 0.0, durability: Any = "power") -> None:
        self.folder = folder
        self.database = folder / "app.db"
        self.bench = Bench()
        self.bench.now = time.monotonic() + offset
        self.push = Pusher(
            NOWHERE, journal=folder / "jobs.db", durability=durability, heartbeat=HEARTBEAT, dedupe=WINDOW,
            max_failures=MAX_FAILURES, backoff=Backoff(0.5, 1.0, 0.5), name="push",
        )  # fmt: skip
        core, self.journal = self.push._build()
        self._bound = self._open(self.push, core, self.journal)
        first = self.push._sequence
        core.opened_at(first)
        self.bench.next_due = core.backlog.next_due
        self.pull: Puller[str] | None = None
        if os.path.exists(f"{self.push._journal_path}-outboxes"):
            self.push._outbox_relay()

    @property
    def offset(self) -> float:
        """How far virtual time is ahead of the system's."""
        return self.bench.now - time.monotonic()

    def _open(self, peer: Any, core: Core, journal: Any = None) -> BenchDriver:
        driver = BenchDriver(self.bench, core, journal)
        peer._core, peer._driver = core, driver
        return driver

    def begin_pulling(self) -> Puller[str]:
        """Open a puller; the one before is closed."""
        self.stop_pulling()
        with contextlib.closing(sqlite3.connect(self.database, isolation_level=None)) as connection:
            connection.execute("create table if not exists effects (n integer primary key autoincrement, name, id)")
        pull = Puller[str](NOWHERE, inbox=self.database, heartbeat=HEARTBEAT, name="pull")
        driver = self._open(pull, pull._build()[0])
        self.pull = pull
        self.bench.join(driver, self._bound)
        return pull

    def stop_pulling(self) -> None:
        """The puller says goodbye, and lets go of its file."""
        pull, self.pull = self.pull, None
        if pull is not None:
            driver: Any = pull._driver
            driver.post(pull._core.close)
            pull._close_inbox()
            self.bench.drivers.remove(driver)

    def take(self) -> Job[str] | None:
        """The next job that is here."""
        assert self.pull is not None
        job: Job[str] | None = self.pull._take()
        return job

    def relay(self) -> None:
        """Move to the journal what was committed in an outbox."""
        relay = self.push._relay
        if relay is not None:
            for file in list(relay._files.values()):
                relay._move(file)

    def pass_time(self, seconds: float) -> None:
        """Let time go on, from one thing that is due to the next, and by the heart's beat."""
        until = self.bench.now + seconds
        while self.bench.now < until:
            due = self.bench.next_due()
            step = min(until, self.bench.now + HEARTBEAT.interval / 4)
            self.bench.now = min(step, due) if due is not None and due > self.bench.now else step
            self.bench.pump()

    def forge(self, epoch: bytes) -> None:
        """Let the puller settle what another epoch lent, or none: leases that mean nothing here."""
        pull = self.pull
        assert pull is not None
        driver: Any = pull._driver
        core: Any = pull._core
        settles = [
            wire.Settle(epoch, [1, 1000], [], 0),
            wire.Settle(epoch, [], [wire.Unsettled(1, wire.REJECT, None, "forged", "")], 0),
        ]
        for source in list(core._sources.values()):
            for settle in settles:
                driver.post(partial(_say, core, source.session, settle))

    def close(self) -> None:
        """Let go of all files in good order."""
        try:
            self.stop_pulling()
        finally:
            relay = self.push._relay
            if relay is not None:
                relay.end()
                for file in relay._files.values():
                    file.close()
            self.journal.close()

    def drop(self) -> None:
        """Let go of all files, whatever state they and the disk are in."""
        with contextlib.suppress(JournalError, CommitIndeterminate, sqlite3.Error):
            self.close()


def _say(core: Any, session: Session, settle: wire.Settle, now: float) -> None:
    core.sessions.send(session, settle.pack(), 0, now)
